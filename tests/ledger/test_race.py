"""64 callers and room for 20: exactly 20 reach the vendor, and the others are told why not and until when."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from decimal import Decimal
from threading import Barrier
from typing import Any, Final

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from src.ai.models import AdminProviderSettings, AIModel, AIProvider, APIToken, UsagePeriod
from src.core.months import month_of
from tests import vendor_answers as answers
from tests.ledger import books
from tests.ledger.processes import PROVE, WAIT, Client, Processes, listening, until
from tests.upstream.server import Gate, Upstream, whole

pytestmark = [pytest.mark.postgres, pytest.mark.django_db(transaction=True)]

ROUNDS: Final = 1000 if PROVE else 100
IN_THREADS, ASYNCHRONOUS, OVER_HTTP = 24, 24, 16  # each in a process of their own
CALLERS, ROOM = IN_THREADS + ASYNCHRONOUS + OVER_HTTP, 20
TOKENS: Final = 4  # that the vendor counts for each reply: with this maximum a call costs just what was held for it
LIMITS: Final[dict[str, dict[str, Any]]] = {
    "monthly_limit_reached": {"monthly_limit": ROOM},
    "budget_exhausted": {"monthly_budget": Decimal(ROOM * TOKENS + TOKENS - 1) / 1_000_000},  # one more would pass it
}
# What a refused caller is told of what is left, and what one call takes of it.
LEFT: Final = {
    "monthly_limit_reached": ("X-AI-Limit-Remaining", Decimal(1)),
    "budget_exhausted": ("X-AI-Budget-Remaining", TOKENS / Decimal(1_000_000)),
}


def chat_over_http(client: Client, start: Barrier) -> dict[str, Any]:
    start.wait(WAIT)
    status, headers, answer = client.post(message="Hi", max_tokens=TOKENS)
    if status == 200:
        return {"text": answer["reply"]}
    assert status == 429
    return {"code": answer["errors"][0]["code"], "retry_after": int(headers["Retry-After"]), "headers": headers}


@pytest.mark.parametrize("code", LIMITS)
def test_exactly_as_many_as_have_room_reach_the_vendor(
    code: str, provider: AIProvider, model: AIModel, upstream: Upstream, processes: Processes
) -> None:
    admins = [User.objects.create_user(f"admin-{number}", is_staff=True) for number in range(ROUNDS)]
    for admin in admins:
        AdminProviderSettings.objects.create(admin=admin, provider=provider, **LIMITS[code])
    tokens = [str(APIToken.objects.create(user=admin, name="race")[1]) for admin in admins]
    groups = [processes.callers(IN_THREADS), processes.callers(ASYNCHRONOUS, asynchronous=True)]
    with listening() as (listener, port), ThreadPoolExecutor(OVER_HTTP) as clients:
        processes.serve(listener)
        for admin, token in zip(admins, tokens, strict=True):
            asked, start = len(upstream.requests), Barrier(OVER_HTTP)
            for group in groups:
                group.call(admin.pk, message="Hi", max_tokens=TOKENS)
            over_http = [clients.submit(chat_over_http, Client(port, token), start) for _ in range(OVER_HTTP)]
            outcomes = [outcome for group in groups for outcome in group.outcomes()]
            outcomes += [call.result() for call in over_http]

            codes = Counter(outcome.get("code", "served") for outcome in outcomes)
            assert codes == {"served": ROOM, code: CALLERS - ROOM}
            assert len(upstream.requests) - asked == ROOM
            left = (month_of().end - timezone.now()).total_seconds()
            told = [outcome["retry_after"] for outcome in outcomes if "code" in outcome]
            assert all(left <= seconds <= left + WAIT for seconds in told)
            name, one = LEFT[code]
            assert all(Decimal(outcome["headers"][name]) < one for outcome in outcomes if "headers" in outcome)
    books.assert_true()
    assert {books.period(admin=admin.pk).requests for admin in admins} == {ROOM}


def test_a_tokens_budget_is_held_to_by_all_processes(
    superuser: User, provider: AIProvider, model: AIModel, upstream: Upstream, processes: Processes
) -> None:
    """Each of its callers with another process than the one before; the admin's other token is not their concern."""
    budget = Decimal(ROOM * TOKENS + TOKENS - 1) / 1_000_000
    with listening() as (one, port), listening() as (other, other_port), ThreadPoolExecutor(CALLERS) as clients:
        processes.serve(one)
        processes.serve(other)
        for _ in range(ROUNDS // 10):
            asked, start = len(upstream.requests), Barrier(CALLERS)
            stored, token = APIToken.objects.create(user=superuser, name="race", monthly_budget=budget)
            places = [Client((port, other_port)[number % 2], str(token)) for number in range(CALLERS)]
            outcomes = list(clients.map(chat_over_http, places, [start] * CALLERS))
            codes = Counter(outcome.get("code", "served") for outcome in outcomes)
            assert codes == {"served": ROOM, "budget_exhausted": CALLERS - ROOM}
            assert len(upstream.requests) - asked == ROOM
            spent = books.period(UsagePeriod.Scope.TOKEN, token=stored.token_key)
            assert (spent.requests, spent.held_requests, spent.held_cost) == (ROOM, 0, 0)
            assert budget - TOKENS / Decimal(1_000_000) < spent.cost <= budget
    books.assert_true()


def test_who_is_refused_learns_so_while_the_others_are_served(
    superuser: User, provider: AIProvider, model: AIModel, upstream: Upstream, processes: Processes
) -> None:
    """Calls under way hold no database connection, of which a process has fewer than it can have calls."""
    AdminProviderSettings.objects.create(admin=superuser, provider=provider, monthly_limit=ROOM)
    token = str(APIToken.objects.create(user=superuser, name="race")[1])
    assert processes.database["OPTIONS"]["pool"]["max_size"] < ROOM
    gate, answer = Gate(), whole(200, answers.chat("Hello!"))
    upstream.on("POST", answers.CHAT, type(answer)(200, answer.parts, answer.headers, [gate], answer.length))
    with listening() as (listener, port), ThreadPoolExecutor(2 * ROOM) as clients:
        processes.serve(listener)
        calls = [clients.submit(Client(port, token).chat, TOKENS) for _ in range(2 * ROOM)]
        upstream.wait_for(lambda: len(upstream.requests) == ROOM)
        until(lambda: sum(call.done() for call in calls) == ROOM)
        gate.open()
        wait(calls)
    assert Counter(call.result() for call in calls) == {"served": ROOM, "monthly_limit_reached": ROOM}
