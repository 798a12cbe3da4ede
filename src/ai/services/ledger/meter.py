"""One caller's account of the requests that its call sends to a vendor."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from time import monotonic
from typing import Any, Final, NamedTuple, NoReturn, cast

from django.conf import settings
from django.db import DatabaseError
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.text import format_lazy
from msgspec import structs

from src.ai.exceptions import (
    AIError,
    BudgetExhausted,
    LedgerUnavailable,
    MonthlyLimitReached,
    PriceUnknown,
    ProviderAuthFailed,
    ProviderBadRequest,
    ProviderError,
    ProviderModelNotFound,
    ProviderNoCredit,
    ProviderRateLimited,
)
from src.ai.messages.messages import BUDGET_OF
from src.ai.models import CostState, UsageState
from src.ai.providers.attempts import Attempt, Attempts
from src.ai.results import ResultInfo, Usage
from src.ai.services.ledger.entries import NO_USAGE, CallFacts, Outcome, Reserve, Settle, Standing
from src.ai.services.ledger.estimates import FREE, cost_of
from src.ai.services.ledger.writer import Desk
from src.ai.services.telemetry import log_calls
from src.core.ids import uuid7
from src.core.months import month_of

logger = logging.getLogger(__name__)

CANCELLED: Final = "cancelled"
CLIENT_LEFT: Final = "client_disconnected"
INTERRUPTIONS: Final = (asyncio.CancelledError, concurrent.futures.CancelledError, KeyboardInterrupt)
# What a vendor says before it does any work.
REFUSALS: Final = (
    ProviderAuthFailed,
    ProviderBadRequest,
    ProviderModelNotFound,
    ProviderNoCredit,
    ProviderRateLimited,
)


class _Attempt(Attempt):
    """One request, from its reservation on."""

    __slots__ = ("ended", "error", "first_chunk", "id", "info", "requests", "reserved_at", "started")

    def __init__(self, requests: int) -> None:
        """`requests` is what it holds of a limit: all requests of one call hold one together."""
        self.requests = requests
        self.id = uuid7()
        self.reserved_at = datetime.now(UTC)
        self.started = monotonic()
        self.ended: float | None = None
        self.first_chunk: float | None = None
        self.info: ResultInfo | None = None
        self.error: BaseException | None = None

    def succeeded(self, info: ResultInfo | None) -> None:
        self.info, self.ended = info, monotonic()

    def failed(self, error: BaseException) -> None:
        self.error, self.ended = error, monotonic()


class Settled(NamedTuple):
    """What was written of a request, and what the books said to it."""

    facts: CallFacts
    entry: Settle
    outcome: Outcome


class Meter(Attempts):
    """Reserves before each request of one call, and settles each once, whatever becomes of it.

    `open` comes before the provider is asked. In between the provider tells of its requests; where it tells of none,
    the call is taken for one. One of `success`, `failure` and `left` says how the call ended, and `write` (`awrite`,
    `write_soon`) puts that on the books.
    """

    def __init__(self, facts: CallFacts, desk: Desk, provider_name: str) -> None:
        self.facts = facts
        self.desk = desk
        self.standings: tuple[Standing, ...] = ()  # of the call's limits, as the books last told
        self._provider_name = provider_name
        self._attempts: list[_Attempt] = []
        self._unclaimed: _Attempt | None = None
        self._may_have_cost = False
        self._earlier: list[Settled] = []  # together with the reservation of a later attempt

    # -- before ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Reserve the call's first request.

        Raises:
            MonthlyLimitReached, BudgetExhausted, PriceUnknown: a limit has no room for it.
            LedgerUnavailable: it can't be put on the books.
        """
        attempt = self._unclaimed = self._first()
        try:
            outcomes = self.desk.write([self._reservation(attempt)])
        except BaseException as error:
            self._give_back(attempt)
            _raise_as_ours(error)
        self._accept(attempt, outcomes)

    async def aopen(self) -> None:
        """The asynchronous twin of `open`."""
        attempt = self._unclaimed = self._first()
        await self._areserve(attempt, [])

    # -- in between ------------------------------------------------------------------------------------------------

    async def begin(self) -> Attempt:
        attempt, self._unclaimed = self._unclaimed, None
        if attempt is not None:
            attempt.started = monotonic()  # it has been reserved since it was made
            return attempt
        failed = [other for other in self._attempts if other.error is not None]
        self._attempts = [other for other in self._attempts if other.error is None]
        attempt = self._next()
        await self._areserve(attempt, [self._failed(other, other.error) for other in failed if other.error])
        return attempt

    def first_chunk(self) -> None:
        """The first piece of a stream has come."""
        if self._attempts and self._attempts[-1].first_chunk is None:
            self._attempts[-1].first_chunk = monotonic()

    # -- after -----------------------------------------------------------------------------------------------------

    def success(self, info: ResultInfo) -> list[Settle]:
        """The call has a result with these facts. The first request that had one is the one that a limit counts."""
        attempts, self._attempts = self._attempts, []
        good = [attempt for attempt in attempts if attempt.error is None]
        entries = [self._failed(attempt, attempt.error) for attempt in attempts if attempt.error is not None]
        for number, attempt in enumerate(good):
            told = info if len(good) == 1 else attempt.info or ResultInfo()
            entries.append(self._settled(attempt, told, requests=int(number == 0)))
        return entries

    def failure(self, error: BaseException, guess: Usage | None = None) -> list[Settle]:
        """The call failed; `guess` is what was used before, where somebody has seen some of it.

        What vendors answered until then is charged to the budget, and not counted as requests. The error learns whether
        any of it may have to be paid for.
        """
        attempts, self._attempts = self._attempts, []
        entries = [self._failed(attempt, attempt.error or error, guess) for attempt in attempts]
        if isinstance(error, AIError):
            error.may_have_cost = self._may_have_cost
        return entries

    def unused(self) -> list[Settle]:
        """The caller has left before the vendor was asked."""
        attempts, self._attempts, self._unclaimed = self._attempts, [], None
        entries = [self._failed(attempt, GeneratorExit()) for attempt in attempts]
        for entry in entries:
            entry.cost, entry.cost_state = FREE, CostState.EXACT
        return entries

    def left(self, info: ResultInfo, guess: Usage | None) -> list[Settle]:
        """The reader of a stream has left: what was used is charged, `guess` where the vendor had not counted yet.

        Without a guess nothing had come.
        """
        attempts, self._attempts = self._attempts, []
        entries = [self._failed(attempt, attempt.error) for attempt in attempts if attempt.error is not None]
        for attempt in attempts:
            if attempt.error is None and guess is None:
                entries.append(self._failed(attempt, GeneratorExit()))
            elif attempt.error is None:
                told = structs.replace(info, usage=guess)
                entry = self._settled(attempt, told, requests=1, guessed=info.finish_reason is None)
                entry.error_code = CLIENT_LEFT
                entries.append(entry)
        return entries

    def write(self, entries: Sequence[Settle]) -> list[Settled]:
        """Put settlements on the books. Never raises: the vendor has been paid, so the caller gets what it bought.

        What can't be written within `AI_LEDGER_TIMEOUT` is written as soon as it can be.
        """
        try:
            outcomes = self.desk.write(entries) if entries else []
        except Exception:
            logger.exception("A call is not on the books yet", extra=self._log_facts())
            outcomes = []
        finally:
            log_calls(self.facts, entries)
        return self._told(entries, outcomes)

    async def awrite(self, entries: Sequence[Settle]) -> list[Settled]:
        """The asynchronous twin of `write`."""
        try:
            outcomes = await self.desk.awrite(entries) if entries else []
        except Exception:
            logger.exception("A call is not on the books yet", extra=self._log_facts())
            outcomes = []
        finally:
            log_calls(self.facts, entries)
        return self._told(entries, outcomes)

    def write_soon(self, entries: Sequence[Settle]) -> None:
        """Have settlements written without waiting: for a caller who has gone."""
        try:
            self.desk.write_soon(entries)
        except Exception:
            logger.exception("A call is not on the books yet", extra=self._log_facts())
        log_calls(self.facts, entries)

    # -- reservations ----------------------------------------------------------------------------------------------

    def _first(self) -> _Attempt:
        if self.facts.needs_price and not settings.AI_BUDGET_ALLOWS_UNKNOWN_PRICE:
            raise PriceUnknown(provider_name=self._provider_name, model=self.facts.model_name)
        return self._next()

    def _next(self) -> _Attempt:
        attempt = _Attempt(int(not any([other.requests for other in self._attempts])))
        self._attempts.append(attempt)
        return attempt

    def _reservation(self, attempt: _Attempt) -> Reserve:
        return Reserve(id=attempt.id, facts=self.facts, created_at=attempt.reserved_at, requests=attempt.requests)

    async def _areserve(self, attempt: _Attempt, settlements: Sequence[Settle]) -> None:
        if settlements:
            log_calls(self.facts, settlements)
        try:
            outcomes = await self.desk.awrite([*settlements, self._reservation(attempt)])
        except BaseException as error:
            self._give_back(attempt, settlements)
            _raise_as_ours(error)
        if settlements:
            self._earlier += self._settled_as(settlements, outcomes[:-1])
        self._accept(attempt, outcomes)

    def _accept(self, attempt: _Attempt, outcomes: Sequence[Outcome]) -> None:
        outcome = outcomes[-1]
        self.standings = tuple(outcome.standings)
        if outcome.refused_by is None:
            return
        self._attempts.remove(attempt)
        self._unclaimed = None
        limit, month = outcome.refused_by, month_of()
        facts: dict[str, Any] = {
            "provider_name": self._provider_name,
            "resets_at": date_format(timezone.localtime(month.end), "DATETIME_FORMAT"),
            "retry_after": (month.end - timezone.now()).total_seconds(),
            "standings": self.standings,
        }
        if not outcome.over_budget:
            raise MonthlyLimitReached(limit=limit.requests, **facts)
        whose_budget = cast(str, BUDGET_OF[limit.period.scope.value])
        whose = format_lazy(whose_budget, provider_name=self._provider_name, token=limit.period.token)
        raise BudgetExhausted(budget=_plain(limit.budget), whose=whose, **facts)

    def _give_back(self, attempt: _Attempt, settlements: Sequence[Settle] = ()) -> None:
        """Nothing may stay held by a reservation whose fate is not known, and what came with it has to be written."""
        self._attempts.remove(attempt)
        self._unclaimed = None
        self.write_soon([*settlements, self._failed(attempt, LedgerUnavailable())])

    # -- settlements -----------------------------------------------------------------------------------------------

    def _settled(self, attempt: _Attempt, info: ResultInfo, *, requests: int, guessed: bool = False) -> Settle:
        entry = self._settlement(attempt, UsageState.SETTLED, info, guessed=guessed)
        entry.requests = requests
        return entry

    def _failed(self, attempt: _Attempt, error: BaseException, guess: Usage | None = None) -> Settle:
        facts = error.facts if isinstance(error, AIError) else {}
        info = attempt.info or ResultInfo(usage=facts.get("usage"), cost=facts.get("cost"))
        guessed = guess is not None and info.usage is None and info.cost is None
        if guessed:
            info = ResultInfo(usage=guess)
        entry = self._settlement(attempt, UsageState.FAILED, info, guessed=guessed)
        entry.error_code = _code(error)
        if entry.cost is None and attempt.info is None and _is_free(error):
            entry.cost, entry.cost_state = FREE, CostState.EXACT
        self._may_have_cost = self._may_have_cost or entry.cost is None or entry.cost > 0
        return entry

    def _settlement(self, attempt: _Attempt, state: UsageState, info: ResultInfo, *, guessed: bool) -> Settle:
        cost, cost_state = cost_of(info, self.facts.price_input, self.facts.price_output, guessed=guessed)
        return Settle(
            id=attempt.id,
            facts=self.facts,
            held_requests=attempt.requests,
            state=state,
            usage=info.usage or NO_USAGE,
            cost=cost,
            cost_state=cost_state,
            latency_ms=_milliseconds(attempt.started, attempt.ended or monotonic()),
            first_chunk_ms=_milliseconds(attempt.started, attempt.first_chunk),
            finish_reason=info.finish_reason or "",
            response_id=info.response_id or "",
        )

    def _told(self, entries: Sequence[Settle], outcomes: Sequence[Outcome]) -> list[Settled]:
        """What has been settled of this call and not been told yet; without outcomes the last part is not known."""
        settled, self._earlier = self._earlier, []
        if not outcomes:
            return settled
        self.standings = tuple(outcomes[-1].standings)
        return settled + self._settled_as(entries, outcomes)

    def _settled_as(self, entries: Sequence[Settle], outcomes: Sequence[Outcome]) -> list[Settled]:
        return [Settled(self.facts, entry, outcome) for entry, outcome in zip(entries, outcomes, strict=True)]

    def _log_facts(self) -> dict[str, str]:
        return {"provider": self.facts.provider_slug, "model": self.facts.model_name}


def _raise_as_ours(error: BaseException) -> NoReturn:
    """Raise what keeps a reservation off the books, in our own words where it is the database."""
    if isinstance(error, DatabaseError | TimeoutError):
        raise LedgerUnavailable(retry_after=1) from error
    raise error


def _code(error: BaseException) -> str:
    if isinstance(error, AIError):
        return error.code
    if isinstance(error, GeneratorExit):
        return CLIENT_LEFT
    return CANCELLED if isinstance(error, INTERRUPTIONS) else "internal_error"


def _is_free(error: BaseException) -> bool:
    """Whether a request surely cost nothing: it was never sent or not taken up, or its vendor refused it."""
    if not isinstance(error, ProviderError) or isinstance(error, REFUSALS):
        return isinstance(error, AIError)
    return bool(error.facts.get("unanswered")) or error.facts.get("status_code", 0) >= 400


def _milliseconds(start: float, end: float | None) -> int | None:
    return None if end is None else round((end - start) * 1000)


def _plain(amount: Decimal | None) -> str:
    return f"{amount.normalize():f}" if amount is not None else "?"
