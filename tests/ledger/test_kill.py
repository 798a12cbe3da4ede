"""A serving process is killed, at random moments and at each step of a call: the books tell of every call it made.

A price for output alone makes what is held for a call the number of its `max_tokens`: the one fact that the vendor sees
and the books keep, so that each request which arrived can be found in them.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from threading import Event
from typing import Final

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction

from src.ai.models import AdminProviderSettings, AIModel, AIProvider, APIToken, UsagePeriod, UsageRecord, UsageState
from tests import vendor_answers as answers
from tests.ledger import books
from tests.ledger.child import STEPS
from tests.ledger.processes import PROVE, Client, Processes, listening, until
from tests.upstream.server import Gate, Reply, Upstream

pytestmark = [pytest.mark.postgres, pytest.mark.django_db(transaction=True)]

KILLS: Final = 300 if PROVE else 50
FREE, LIMITED, BUDGETED = "free", "limited", "budgeted"
CLIENTS: Final = {FREE: 4, LIMITED: 2, BUDGETED: 2}
LIMIT, BUDGET = 2 * KILLS, Decimal(5 * KILLS * KILLS) / 1_000_000
chance: Final = random.Random()  # noqa: S311 (protects nothing)


class Thought(Gate):
    """A vendor that thinks for a moment."""

    async def pass_through(self) -> None:
        await asyncio.sleep(chance.uniform(0, 0.02))


def answer(*before: Gate) -> Reply:
    return Reply(200, [json.dumps(answers.chat("Hello!")).encode()], {"content-type": "application/json"}, before)


def asked(upstream: Upstream, key: str = "") -> Counter[int]:
    """How often the vendor received each call, by its number; with this key."""
    return Counter(
        request.json.get("max_completion_tokens") or request.json["max_tokens"]
        for request in list(upstream.requests)
        if key in request.headers["authorization"]
    )


def noted() -> Counter[int]:
    """How many records there are of each call, by its number."""
    return Counter(int(held * 1_000_000) for held in UsageRecord.objects.values_list("held_cost", flat=True))


def sweep_by_several(processes: Processes) -> None:
    """The leases have run out, and three processes sweep at once."""
    books.expire_leases()
    sweeps = [processes.manage("ai_sweep") for _ in range(3)]
    assert [processes.wait_for_end(sweep) for sweep in sweeps] == [0, 0, 0]
    assert processes.wait_for_end(processes.manage("ai_reconcile")) == 0
    books.assert_true()


@pytest.fixture
def token(superuser: User) -> str:
    return str(APIToken.objects.create(user=superuser, name="kill")[1])


# -- at random ---------------------------------------------------------------------------------------------------------


def test_killed_at_random_under_load_no_call_is_lost_or_counted_twice(
    provider: AIProvider, model: AIModel, token: str, upstream: Upstream, processes: Processes
) -> None:
    upstream.on("POST", answers.CHAT, answer(Thought()))
    tokens = {FREE: token}
    for name, limits in ((LIMITED, {"monthly_limit": LIMIT}), (BUDGETED, {"monthly_budget": BUDGET})):
        admin = User.objects.create_user(name, is_staff=True)
        AdminProviderSettings.objects.create(admin=admin, provider=provider, personal_api_key=f"sk-{name}", **limits)
        tokens[name] = str(APIToken.objects.create(user=admin, name="kill")[1])
    numbers, over = itertools.count(1), Event()
    ended: Counter[str] = Counter()

    def load(client: Client) -> None:
        while not over.is_set():
            outcome = client.chat(next(numbers))
            ended[outcome] += 1
            if outcome not in ("served", "lost"):
                over.wait(0.1)  # nothing is to be had here any more

    with listening() as (listener, port), ThreadPoolExecutor(sum(CLIENTS.values())) as clients:
        loads = [
            clients.submit(load, Client(port, tokens[name])) for name, number in CLIENTS.items() for _ in range(number)
        ]
        try:
            for _ in range(KILLS):
                server = processes.serve(listener)
                enough = len(upstream.requests) + chance.randint(1, 12)
                upstream.wait_for(lambda enough=enough: len(upstream.requests) >= enough)
                over.wait(chance.uniform(0, 0.02))
                processes.kill(server)
        finally:
            over.set()
            listener.close()  # nobody will answer those who still wait
        assert [done.result() for done in loads] == [None] * len(loads)

    assert set(ended) == {"served", "lost", "monthly_limit_reached", "budget_exhausted"}
    sweep_by_several(processes)
    received, records = asked(upstream), noted()
    assert set(received.values()) == set(records.values()) == {1}
    assert received.keys() <= records.keys()
    assert UsageRecord.objects.filter(state=UsageState.SETTLED).count() >= ended["served"]
    limited, budgeted = (books.period(admin_name=name) for name in (LIMITED, BUDGETED))
    assert asked(upstream, "sk-limited").total() <= limited.requests <= LIMIT
    assert 0 < budgeted.cost <= BUDGET


# -- at each step ------------------------------------------------------------------------------------------------------


@contextmanager
def period_locked() -> Iterator[None]:
    """While somebody else holds the admin's period, so that nothing that counts there can be committed."""
    with transaction.atomic():
        UsagePeriod.objects.select_for_update().get(scope=UsagePeriod.Scope.ADMIN)
        yield


def one_waits_for_us() -> bool:
    """Whether the books of another process wait for what this connection has locked."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
        )
        return bool(cursor.fetchone()[0])


STATES: Final = {
    "before the reservation is submitted": [],
    "reserved, before the vendor is asked": [UsageState.UNKNOWN],
    "answered, before the settlement is submitted": [UsageState.UNKNOWN],
    "settled, before the answer is sent": [UsageState.SETTLED],
}
VENDOR_ASKED: Final = frozenset({"answered, before the settlement is submitted", "settled, before the answer is sent"})


@pytest.mark.parametrize("step", STEPS)
def test_killed_where_nobody_outside_can_see(
    step: str, model: AIModel, token: str, upstream: Upstream, processes: Processes
) -> None:
    with listening() as (listener, port):
        server = processes.serve(listener, step)
        assert Client(port, token).chat(1) == "lost"
        assert processes.wait_for_end(server) == -9
    assert asked(upstream) == ({1: 1} if step in VENDOR_ASKED else {})
    sweep_by_several(processes)
    assert books.states() == STATES[step]


def test_killed_while_the_vendor_works(model: AIModel, token: str, upstream: Upstream, processes: Processes) -> None:
    gate = Gate()
    upstream.send(answer(gate))
    with listening() as (listener, port), ThreadPoolExecutor(1) as clients:
        server = processes.serve(listener)
        call = clients.submit(Client(port, token).chat, 1)
        gate.wait_until_reached()
        assert books.states() == [UsageState.RESERVED]
        processes.kill(server)
        gate.open()
        assert call.result() == "lost"
    sweep_by_several(processes)
    assert (books.states(), books.period().requests) == ([UsageState.UNKNOWN], 1)


def test_killed_while_the_reservation_is_written(
    model: AIModel, token: str, upstream: Upstream, processes: Processes
) -> None:
    with listening() as (listener, port), ThreadPoolExecutor(1) as clients:
        server = processes.serve(listener)
        assert Client(port, token).chat(1) == "served"
        with period_locked():
            call = clients.submit(Client(port, token).chat, 2)
            until(one_waits_for_us)
            processes.kill(server)
            assert call.result() == "lost"
    sweep_by_several(processes)
    assert asked(upstream) == noted() == {1: 1}


def test_killed_while_the_settlement_is_written(
    model: AIModel, token: str, upstream: Upstream, processes: Processes
) -> None:
    gate = Gate()
    upstream.send(answer(gate))
    with listening() as (listener, port), ThreadPoolExecutor(1) as clients:
        server = processes.serve(listener)
        call = clients.submit(Client(port, token).chat, 1)
        gate.wait_until_reached()
        with period_locked():
            gate.open()
            until(one_waits_for_us)
            processes.kill(server)
            assert call.result() == "lost"
    sweep_by_several(processes)
    assert asked(upstream) == noted() == {1: 1}
    assert books.states() == [UsageState.UNKNOWN]
