"""Limits, and what is told of usage."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final
from uuid import uuid4

from django.contrib.auth.models import AbstractUser
from django.db import Error
from django.dispatch import Signal
from msgspec import structs

from src.ai.exceptions import ProviderAuthFailed, ProviderNoCredit
from src.ai.models import AdminProviderSettings, AIModel, AIProvider, Period, UsagePeriod, UsageText
from src.ai.services.access import KeySource
from src.ai.services.caller import current_caller
from src.ai.services.ledger.entries import CallFacts, Limit, Standing, to_units
from src.ai.services.ledger.estimates import FREE
from src.ai.services.ledger.meter import Settled
from src.ai.services.token_rules import TokenRules
from src.ai.signals import ai_call_settled, ai_key_failing, ai_limit_near
from src.core.months import Month, month_of

logger = logging.getLogger(__name__)

LEASE_MARGIN: Final = 60.0  # seconds beyond the longest time that a call may take
KEY_FAILURES: Final = frozenset({ProviderAuthFailed.code, ProviderNoCredit.code})


def limits_of_admin(provider: AIProvider, own: AdminProviderSettings | None) -> tuple[int | None, Decimal | None]:
    """An admin's limit on requests and their budget; without settings they have the provider's default limit."""
    return (provider.default_monthly_limit, None) if own is None else (own.monthly_limit, own.monthly_budget)


def call_facts(
    *, model: AIModel, admin: AbstractUser, own: AdminProviderSettings | None, source: KeySource, **call: Any
) -> CallFacts:
    """What the books are to know of a call of `current_caller()`; `call` as `CallKind.facts` has it."""
    caller = current_caller()
    kind = CallKind(model, admin, own, source, caller.rules)
    return kind.facts(token=caller.token, request_id=caller.request_id, **call)


class CallKind:
    """What is the same for all calls of one admin, by one token, to one model."""

    __slots__ = ("_lasting", "_of", "has_budget")

    def __init__(
        self,
        model: AIModel,
        admin: AbstractUser,
        own: AdminProviderSettings | None,
        source: KeySource,
        rules: TokenRules | None,
    ) -> None:
        provider = model.provider
        own_limits = limits_of_admin(provider, own)
        shared_budget = provider.shared_monthly_budget if source is KeySource.SHARED else None
        token_budget = None if rules is None else rules.monthly_budget
        self.has_budget = (own_limits[1], shared_budget, token_budget) != (None, None, None)
        self._of = (
            (provider.pk, provider.slug),
            (model.pk, model.model_id, model.pricing_input, model.pricing_output),
            (admin.pk, admin.get_username()[:150]),
            source,
            "" if rules is None else rules.token,
            own_limits,
            shared_budget,
            token_budget,
        )
        self._lasting: CallFacts | None = None

    def facts(
        self,
        *,
        token: str,
        request_id: str,
        capability: str,
        operation: str,
        streamed: bool,
        seconds: float,
        held_cost: Decimal | None,
    ) -> CallFacts:
        """What the books are to know of a call.

        Args:
            token: the first characters of the token that was sent.
            request_id: the name of the request; empty where it has none.
            seconds: the longest that it may take.
            held_cost: the most that it should cost in US$; `None` where a price is not known.
        """
        month = month_of().first
        if self._lasting is None or month != self._lasting.month:
            self._lasting = _lasting_facts(month, *self._of)
        return structs.replace(
            self._lasting,
            token=token,
            capability=capability,
            operation=operation,
            request_id=request_id or uuid4().hex,
            streamed=streamed,
            held_cost=FREE if held_cost is None else held_cost,
            lease_seconds=seconds + LEASE_MARGIN,
        )


# By what the rows say and not by the rows, so that nothing old can be found in it.
@lru_cache(maxsize=10_000)
def _lasting_facts(
    month: date,
    provider: tuple[int, str],
    model: tuple[int, str, Decimal | None, Decimal | None],
    admin: tuple[int, str],
    source: KeySource,
    token: str,
    own_limits: tuple[int | None, Decimal | None],
    shared_budget: Decimal | None,
    token_budget: Decimal | None,
) -> CallFacts:
    """What is the same for many calls, without what is each one's own: made once, as making it costs the most."""
    (provider_id, provider_slug), (admin_id, admin_name) = provider, admin
    model_id, model_name, price_input, price_output = model
    own = Period.of_admin(provider_id, admin_id, provider_slug, admin_name, month=month)
    periods = [
        own,
        Period.of_model(provider_id, model_id, provider_slug, model_name, month=month),
        Period.of_provider(provider_id, provider_slug, month=month),
    ]
    limits = [Limit(own, *own_limits)]  # the admin's own first
    if source is KeySource.SHARED:
        periods.append(Period.of_shared_key(provider_id, provider_slug, month=month))
        limits.append(Limit(periods[-1], None, shared_budget))
    if token_budget is not None:
        periods.append(Period.of_token(token, admin_id, admin_name, month=month))
        limits.append(Limit(periods[-1], None, token_budget))
    return CallFacts(
        month=month,
        admin_id=admin_id,
        admin_name=admin_name,
        budget_token="" if token_budget is None else token,
        key_source=source.value,
        provider_id=provider_id,
        provider_slug=provider_slug,
        model_id=model_id,
        model_name=model_name,
        price_input=price_input,
        price_output=price_output,
        periods=tuple(periods),
        limits=tuple(limit for limit in limits if limit.requests is not None or limit.budget is not None),
        needs_price=None in (price_input, price_output) and any(limit.budget is not None for limit in limits),
        token="",
        capability="",
        operation="",
        request_id="",
        streamed=False,
        held_cost=FREE,
        lease_seconds=0,
    )


# -- telling the application -------------------------------------------------------------------------------------------


def somebody_listens() -> bool:
    """Whether any receiver is told of calls."""
    return bool(ai_call_settled.receivers or ai_limit_near.receivers or ai_key_failing.receivers)


def announce(settled: Sequence[Settled]) -> None:
    """Send the signals of what was settled. Never raises."""
    for signal, facts in _signals(settled):
        signal.send_robust(sender=None, **facts)


async def aannounce(settled: Sequence[Settled]) -> None:
    """The asynchronous twin of `announce`."""
    for signal, facts in _signals(settled):
        await signal.asend_robust(sender=None, **facts)


def _signals(settled: Iterable[Settled]) -> Iterator[tuple[Signal, dict[str, Any]]]:
    for call in settled:
        if not call.outcome.changed:
            continue
        if ai_call_settled.receivers:
            yield ai_call_settled, {"call": call}
        if ai_limit_near.receivers:
            for standing in call.outcome.near:
                yield ai_limit_near, {"standing": standing, "call": call}
        if ai_key_failing.receivers and call.entry.error_code in KEY_FAILURES:
            facts = call.facts
            about = {"provider_slug": facts.provider_slug, "key_source": facts.key_source, "admin_id": facts.admin_id}
            yield ai_key_failing, {**about, "code": call.entry.error_code}


def keep_texts(settled: Sequence[Settled], prompt: str, reply: str) -> None:
    """Keep what was asked and answered beside the last record of a call, encrypted. Never raises."""
    if not settled:
        return
    try:
        UsageText.objects.create(public_id=settled[-1].entry.id, prompt=prompt, reply=reply)
    except Error:
        logger.exception("The texts of a call could not be kept")


# -- telling the admin -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Allowance:
    """What an admin has used at one provider this month and what is left; `None` where nothing limits it."""

    provider: dict[str, str]  # slug, name
    requests: int
    held_requests: int
    cost: Decimal
    held_cost: Decimal
    unpriced: int
    monthly_limit: int | None
    requests_left: int | None
    monthly_budget: Decimal | None
    budget_left: Decimal | None
    resets_at: datetime


def allowances(admin: AbstractUser) -> list[Allowance]:
    """The admin's month at each active provider, in three queries."""
    month = month_of()
    own = {row.provider_id: row for row in AdminProviderSettings.objects.filter(admin_id=admin.pk)}
    used = {
        row.provider_id: row
        for row in UsagePeriod.objects.filter(scope=UsagePeriod.Scope.ADMIN, admin=admin.pk, month=month.first)
    }
    return [
        _allowance(provider, admin, own.get(provider.pk), used.get(provider.pk) or UsagePeriod(), month)
        for provider in AIProvider.objects.filter(is_active=True)
    ]


def _allowance(
    provider: AIProvider, admin: AbstractUser, own: AdminProviderSettings | None, used: UsagePeriod, month: Month
) -> Allowance:
    period = Period.of_admin(provider.pk, admin.pk, provider.slug, admin.get_username(), month=month.first)
    limit = Limit(period, *limits_of_admin(provider, own))
    standing = Standing(
        limit, used.requests + used.held_requests, to_units(Decimal(used.cost) + Decimal(used.held_cost))
    )
    return Allowance(
        provider={"slug": provider.slug, "name": str(provider)},
        requests=used.requests,
        held_requests=used.held_requests,
        cost=Decimal(used.cost),
        held_cost=Decimal(used.held_cost),
        unpriced=used.unpriced,
        monthly_limit=limit.requests,
        requests_left=standing.requests_left,
        monthly_budget=limit.budget,
        budget_left=standing.budget_left,
        resets_at=month.end,
    )
