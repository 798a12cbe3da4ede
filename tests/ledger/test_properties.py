"""Whatever happens to calls, in whatever order: the books say what a few lines of arithmetic say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import pytest
from django.db import connection, transaction
from django.test import override_settings
from django.utils import timezone
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from src.ai.models import CostState, Period, UsageCarried, UsagePeriod, UsageRecord, UsageState
from src.ai.results import Usage
from src.ai.services.ledger import upkeep
from src.ai.services.ledger.books import SUMS, Books
from src.ai.services.ledger.entries import CallFacts, Entry, Limit, Outcome, Reserve, Settle
from src.ai.services.ledger.writer import writer
from src.core.ids import uuid7
from tests.ledger.processes import PROVE, WAIT

MONTH: Final = date(2026, 11, 1)
PROVIDER: Final = (1, "acme")
MICRO: Final = Decimal(1).scaleb(-6)  # US$
OLD: Final = timedelta(days=500)


@dataclass
class Call:
    """What the model knows of a call."""

    facts: CallFacts
    requests: int
    state: UsageState = UsageState.RESERVED
    charged: dict[str, Decimal] = field(default_factory=dict)
    expired: bool = False
    old: bool = False
    pruned: bool = False

    @property
    def sums(self) -> dict[str, Decimal]:
        if self.state == UsageState.RESERVED:
            return {"held_requests": Decimal(self.requests), "held_cost": self.facts.held_cost}
        return self.charged


@st.composite
def reservations(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "admin": draw(st.integers(1, 2)),
        "model": draw(st.integers(1, 2)),
        "shared": draw(st.booleans()),
        "token": draw(st.booleans()),
        "held": draw(st.integers(0, 5)) * MICRO,
        "priced": draw(st.booleans()),
        "requests": draw(st.sampled_from([1, 1, 1, 0])),
    }


@st.composite
def endings(draw: st.DrawFn) -> dict[str, Any]:
    counts = st.none() | st.integers(0, 1000)
    cost = draw(st.none() | st.integers(0, 6))
    return {
        "state": draw(st.sampled_from([UsageState.SETTLED, UsageState.SETTLED, UsageState.FAILED])),
        "cost": None if cost is None else cost * MICRO,
        "usage": Usage(
            input_tokens=draw(counts),
            output_tokens=draw(counts),
            images=draw(counts),
            audio_seconds=draw(st.none() | st.integers(0, 5000).map(lambda thousandths: thousandths / 1000)),
        ),
    }


class Ledger(RuleBasedStateMachine):
    """The books beside the model of them."""

    def __init__(self) -> None:
        super().__init__()
        for rows in (UsageCarried, UsagePeriod, UsageRecord):
            rows.objects.all().delete()
        self.calls: dict[UUID, Call] = {}
        self.near: set[str] = set()
        self.steps = 0

    @initialize(
        requests=st.none() | st.integers(0, 6),
        budget=st.none() | st.integers(0, 12),
        shared_budget=st.none() | st.integers(0, 20),
        token_budget=st.none() | st.integers(0, 10),
    )
    def limits_are_set(
        self, requests: int | None, budget: int | None, shared_budget: int | None, token_budget: int | None
    ) -> None:
        """For the first admin; the second has none. The shared key's budget is everyone's, a token's its admin's."""
        self.token = None if token_budget is None else token_budget * MICRO
        self.own = (requests, None if budget is None else budget * MICRO)
        self.shared = None if shared_budget is None else shared_budget * MICRO

    # -- the arithmetic --------------------------------------------------------------------------------------------

    def sums(self) -> dict[str, dict[str, Decimal]]:
        sums: dict[str, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
        for call in self.calls.values():
            for period in call.facts.periods:
                for name, amount in call.sums.items():
                    sums[period.key][name] += amount
        return sums

    def expect_reservation(self, entry: Reserve) -> tuple[Limit, bool] | None:
        """The limit that refuses it, if one does; else it is made."""
        sums = self.sums()
        for limit in entry.facts.limits:
            here = sums[limit.period.key]
            if (
                limit.requests is not None
                and here["requests"] + here["held_requests"] + entry.requests > limit.requests
            ):
                return limit, False
            free = entry.facts.price_input == entry.facts.price_output == 0
            spent = here["cost"] + here["held_cost"]
            if limit.budget is not None and (
                spent + entry.facts.held_cost > limit.budget or (spent >= limit.budget and not free)
            ):
                return limit, True
        self.calls[entry.id] = Call(entry.facts, entry.requests)
        return None

    def expect_settlement(self, entry: Settle) -> tuple[bool, list[str]]:
        """Whether it changes anything, and the periods of which 80 % are used up by it."""
        call = self.calls[entry.id]
        if call.pruned or call.state not in (UsageState.RESERVED, UsageState.UNKNOWN):
            return False, []
        usage = entry.usage
        call.state = entry.state
        call.charged = {
            "requests": Decimal(entry.requests),
            "cost": entry.cost or Decimal(0),
            "unpriced": Decimal(entry.cost is None),
            "input_tokens": Decimal(usage.input_tokens or 0),
            "output_tokens": Decimal(usage.output_tokens or 0),
            "images": Decimal(usage.images or 0),
            "audio_seconds": Decimal(str(usage.audio_seconds or 0)),
        }
        sums, near = self.sums(), []
        for limit in entry.facts.limits:
            here = sums[limit.period.key]
            by_requests = limit.requests is not None and here["requests"] >= Decimal("0.8") * limit.requests
            by_budget = limit.budget is not None and here["cost"] >= Decimal("0.8") * limit.budget
            if (by_requests or by_budget) and limit.period.key not in self.near:
                self.near.add(limit.period.key)
                near.append(limit.period.key)
        return True, near

    def check(self, entries: Sequence[Entry], outcomes: Sequence[Outcome]) -> None:
        """Settlements make room before reservations take it, within one submission."""
        told = dict(zip([entry.id for entry in entries], outcomes, strict=True))
        for entry in entries:
            if isinstance(entry, Settle):
                changed, near = self.expect_settlement(entry)
                assert told[entry.id].changed == changed
                assert [standing.limit.period.key for standing in told[entry.id].near] == near
        for entry in entries:
            if isinstance(entry, Reserve):
                refused = self.expect_reservation(entry)
                assert (told[entry.id].refused_by, told[entry.id].over_budget) == (refused or (None, False))

    # -- entries ---------------------------------------------------------------------------------------------------

    def reserve(self, asked: dict[str, Any]) -> Reserve:
        admin, model = asked["admin"], asked["model"]
        own = Period.of_admin(PROVIDER[0], admin, PROVIDER[1], f"admin-{admin}", month=MONTH)
        shared = Period.of_shared_key(*PROVIDER, month=MONTH)
        requests, budget = self.own if admin == 1 else (None, None)
        limits = [Limit(own, requests, budget)]
        limits += [Limit(shared, None, self.shared)] if asked["shared"] else []
        token = Period.of_token(f"token-{admin}", admin, f"admin-{admin}", month=MONTH)
        limits += [Limit(token, None, self.token)] if asked["token"] else []
        price = Decimal(1) if asked["priced"] else Decimal(0)
        facts = CallFacts(
            month=MONTH,
            admin_id=admin,
            admin_name=f"admin-{admin}",
            token=f"token-{admin}",
            budget_token=f"token-{admin}" if asked["token"] else "",
            key_source="shared" if asked["shared"] else "personal",
            provider_id=PROVIDER[0],
            provider_slug=PROVIDER[1],
            model_id=model,
            model_name=f"model-{model}",
            capability="chat",
            operation="chat",
            request_id="",
            streamed=False,
            price_input=price,
            price_output=price,
            held_cost=asked["held"] if asked["priced"] else Decimal(0),
            lease_seconds=60,
            periods=(
                own,
                Period.of_model(PROVIDER[0], model, PROVIDER[1], f"model-{model}", month=MONTH),
                Period.of_provider(*PROVIDER, month=MONTH),
                *([shared] if asked["shared"] else []),
                *([token] if asked["token"] else []),
            ),
            limits=tuple(limit for limit in limits if limit.requests is not None or limit.budget is not None),
        )
        return Reserve(id=uuid7(), facts=facts, created_at=datetime.now(UTC), requests=asked["requests"])

    def settle(self, pick: int, ending: dict[str, Any], calls: dict[UUID, Call] | None = None) -> Settle:
        id_, call = list((calls or self.calls).items())[pick % len(calls or self.calls)]
        cost_state = CostState.UNKNOWN if ending["cost"] is None else CostState.EXACT
        requests = call.requests if ending["state"] == UsageState.SETTLED else 0
        return Settle(
            id=id_,
            facts=call.facts,
            held_requests=call.requests,
            requests=requests,
            cost_state=cost_state,
            **ending,
        )

    # -- what happens ----------------------------------------------------------------------------------------------

    @rule(asked=st.lists(reservations(), min_size=1, max_size=4), at_once=st.booleans())
    def calls_begin(self, asked: list[dict[str, Any]], at_once: bool) -> None:
        """By one caller, or by as many who meet in one transaction or do not."""
        entries = [self.reserve(one) for one in asked]
        if at_once:
            self.check(entries, writer.submit(entries).result(WAIT))
            return
        written = [writer.submit([entry]) for entry in entries]
        for entry, future in zip(entries, written, strict=True):
            self.check([entry], future.result(WAIT))

    @precondition(lambda self: self.calls)
    @rule(pick=st.integers(0, 99), ending=endings(), twice=st.booleans())
    def a_call_ends(self, pick: int, ending: dict[str, Any], twice: bool) -> None:
        """Once or, where nobody knew whether that was written, twice; after a sweep, too."""
        entry = self.settle(pick, ending)
        written = [writer.submit([entry]) for _ in range(1 + twice)]
        for future in written:
            self.check([entry], future.result(WAIT))

    @precondition(lambda self: self.calls)
    @rule(pick=st.integers(0, 99), ending=endings(), asked=reservations())
    def a_call_is_tried_again(self, pick: int, ending: dict[str, Any], asked: dict[str, Any]) -> None:
        """The end of the first request and the reservation of the next are one transaction."""
        entries = [self.settle(pick, ending), self.reserve(asked)]
        self.check(entries, writer.submit(entries).result(WAIT))

    @precondition(lambda self: self.given_up())
    @rule(pick=st.integers(0, 99), ending=endings())
    def a_call_that_was_given_up_comes_back(self, pick: int, ending: dict[str, Any]) -> None:
        """What it tells is better than what was assumed."""
        entry = self.settle(pick, ending, self.given_up())
        self.check([entry], writer.submit([entry]).result(WAIT))

    def given_up(self) -> dict[UUID, Call]:
        return {id_: call for id_, call in self.calls.items() if call.state == UsageState.UNKNOWN}

    @precondition(lambda self: self.calls)
    @rule(pick=st.integers(0, 99))
    def a_process_dies(self, pick: int) -> None:
        """Nobody comes back from the call; its lease runs out."""
        id_, call = list(self.calls.items())[pick % len(self.calls)]
        call.expired = True
        UsageRecord.objects.filter(pk=id_).update(lease_expires_at=timezone.now() - timedelta(seconds=1))

    @rule(charge=st.booleans())
    def the_books_are_swept(self, charge: bool) -> None:
        given_up = [call for call in self.calls.values() if call.expired and call.state == UsageState.RESERVED]
        for call in given_up:
            priced = call.facts.price_input is not None
            call.state = UsageState.UNKNOWN
            call.charged = {
                "requests": Decimal(call.requests if charge else 0),
                "cost": call.facts.held_cost if charge and priced else Decimal(0),
                "unpriced": Decimal(not (charge and priced)),
            }
        with override_settings(AI_CHARGE_UNKNOWN_CALLS=charge):
            assert upkeep.sweep() == len(given_up)

    @precondition(lambda self: self.calls)
    @rule(picks=st.lists(st.integers(0, 99), max_size=8))
    def time_goes_by(self, picks: list[int]) -> None:
        for pick in picks:
            id_, call = list(self.calls.items())[pick % len(self.calls)]
            call.old = True
            UsageRecord.objects.filter(pk=id_).update(created_at=timezone.now() - OLD)

    @rule(batch=st.integers(1, 3))
    def old_records_are_pruned(self, batch: int) -> None:
        gone = [
            call for call in self.calls.values() if call.old and not call.pruned and call.state != UsageState.RESERVED
        ]
        for call in gone:
            call.pruned = True
        assert upkeep.prune(timedelta(days=400), batch=batch) == len(gone)

    @precondition(lambda self: self.calls)
    @rule(asked=reservations(), pick=st.integers(0, 99), ending=endings())
    def a_transaction_is_lost(self, asked: dict[str, Any], pick: int, ending: dict[str, Any]) -> None:
        with transaction.atomic():
            Books(connection).apply([self.settle(pick, ending), self.reserve(asked)])
            transaction.set_rollback(True)

    @precondition(lambda self: any(not call.pruned for call in self.calls.values()))
    @rule(pick=st.integers(0, 99))
    def a_reservation_is_written_again(self, pick: int) -> None:
        """As nobody saw how the first attempt ended."""
        kept = [(id_, call) for id_, call in self.calls.items() if not call.pruned]
        id_, call = kept[pick % len(kept)]
        entry = Reserve(id=id_, facts=call.facts, created_at=datetime.now(UTC), requests=call.requests)
        with transaction.atomic():
            (outcome,) = Books(connection).apply([entry], again=True)
        assert outcome.refused_by is None

    # -- what always holds -----------------------------------------------------------------------------------------

    @invariant()
    def every_period_is_what_the_model_says(self) -> None:
        expected = self.sums()
        periods = {period.key: period for period in UsagePeriod.objects.all()}
        assert expected.keys() <= periods.keys()
        for key, period in periods.items():
            assert {name: getattr(period, name) for name in SUMS} == {name: expected[key][name] for name in SUMS}
            assert (period.near_limit_at is not None) == (key in self.near)

    @invariant()
    def every_period_is_the_sum_of_its_records(self) -> None:
        """Asked after each step only by `make prove`, as it takes as long as all the rest."""
        self.steps += 1
        if PROVE or self.steps % 6 == 0:
            self.teardown()

    def teardown(self) -> None:
        assert list(upkeep.reconcile()) == []

    @invariant()
    def every_record_is_in_its_state(self) -> None:
        states = dict(UsageRecord.objects.values_list("id", "state"))
        assert states == {id_: call.state for id_, call in self.calls.items() if not call.pruned}


@pytest.mark.django_db(transaction=True)
def test_the_books_agree_with_the_model() -> None:
    run_state_machine_as_test(
        Ledger,
        settings=settings(
            max_examples=100 if PROVE else 20,
            stateful_step_count=50 if PROVE else 25,
            deadline=None,
            database=None,
            # Looking for the shortest way to a failure takes minutes: `make prove` does.
            phases=(Phase.generate, Phase.shrink) if PROVE else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )
