"""The database locks, restarts or turns read-only, Redis stops: calls wait or fail clearly, and the books stay true."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

import pytest
from asgiref.sync import SyncToAsync
from django.conf import settings as site
from django.contrib.auth.models import User
from django.db import connection, connections, transaction

from src.ai.exceptions import LedgerUnavailable, http_status
from src.ai.models import AIModel, UsagePeriod, UsageState
from src.ai.providers import retry
from src.ai.services.ledger.writer import writer
from src.ai.services.unified_service import UnifiedAIService
from tests import vendor_answers as answers
from tests.ledger import books, child
from tests.ledger.conftest import KEY
from tests.ledger.processes import PROVE, WAIT, Processes, this_database, until
from tests.ledger.services import Postgres, Redis
from tests.upstream.server import Gate, Reply, Upstream, whole

pytestmark = [pytest.mark.django_db(transaction=True)]

CALLERS: Final = 6
SHORT: Final = 0.3  # seconds


# -- somebody else keeps the books locked ------------------------------------------------------------------------------


@pytest.fixture
def chat(superuser: User, model: AIModel) -> Iterator[Callable[[], Future[str]]]:
    """Begins a call in a thread of its own."""

    def call() -> str:
        try:
            return UnifiedAIService.chat("Hi", superuser)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as callers:
        yield lambda: callers.submit(call)


def test_a_call_waits_for_a_lock(chat: Callable[[], Future[str]]) -> None:
    chat().result(WAIT)
    with books.locked():
        call = chat()
        until(lambda: not writer.drain(0))
        assert not call.done()
    assert call.result(WAIT) == "Hello!"
    books.assert_true()


def test_a_call_that_would_wait_too_long_is_not_made(
    chat: Callable[[], Future[str]], settings: Any, upstream: Upstream
) -> None:
    settings.AI_LEDGER_TIMEOUT = SHORT
    chat().result(WAIT)
    with books.locked():
        refusal = chat().exception(WAIT)
    assert isinstance(refusal, LedgerUnavailable)
    assert (http_status(refusal), refusal.retry_after) == (503, 1)
    assert len(upstream.requests) == 1
    assert chat().result(WAIT) == "Hello!"
    books.assert_true()
    assert books.period().requests == 2


def test_a_reply_that_was_paid_for_does_not_wait_for_the_books(
    chat: Callable[[], Future[str]], settings: Any, upstream: Upstream
) -> None:
    settings.AI_LEDGER_TIMEOUT = SHORT
    chat().result(WAIT)
    gate, good = Gate(), whole(200, answers.chat("Hello!"))
    upstream.send(Reply(200, good.parts, good.headers, [gate], good.length))
    call = chat()
    gate.wait_until_reached()
    with books.locked():
        gate.open()
        assert call.result(WAIT) == "Hello!"
        assert UsageState.RESERVED in books.states()
    books.assert_true()
    assert books.states() == [UsageState.SETTLED, UsageState.SETTLED]


def test_what_failed_before_is_written_even_if_there_is_no_second_try(
    chat: Callable[[], Future[str]], settings: Any, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.0)
    settings.AI_LEDGER_TIMEOUT = SHORT
    chat().result(WAIT)
    gate, busy = Gate(), whole(503, {"error": {"message": "try again"}})
    upstream.send(Reply(503, busy.parts, busy.headers, [gate], busy.length))
    call = chat()
    gate.wait_until_reached()
    with books.locked():
        gate.open()
        assert isinstance(call.exception(WAIT), LedgerUnavailable)
    books.assert_true()
    assert books.states() == [UsageState.SETTLED, UsageState.FAILED]
    assert len(upstream.requests) == 2


@pytest.mark.postgres
def test_a_deadlock_ends_and_the_call_goes_on(chat: Callable[[], Future[str]]) -> None:
    """Somebody takes the periods in the opposite order: the database ends one of the two transactions."""
    chat().result(WAIT)
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL deadlock_timeout = '20s'")  # so that it is the books' transaction that is ended
        UsagePeriod.objects.select_for_update().get(scope=UsagePeriod.Scope.SHARED_KEY)
        call = chat()
        until(waited_for)
        UsagePeriod.objects.select_for_update().get(scope=UsagePeriod.Scope.ADMIN)
        assert not call.done()
    assert call.result(WAIT) == "Hello!"
    books.assert_true()


def waited_for() -> bool:
    """Whether another connection waits for what this one has locked."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
        )
        return bool(cursor.fetchone()[0])


@pytest.mark.postgres
def test_a_database_that_is_read_only_for_a_while(
    chat: Callable[[], Future[str]], settings: Any, upstream: Upstream
) -> None:
    """As one is that is about to take over from another."""
    gate, good = Gate(), whole(200, answers.chat("Hello!"))
    upstream.send(Reply(200, good.parts, good.headers, [gate], good.length))
    call = chat()
    gate.wait_until_reached()
    with read_only():
        settings.AI_LEDGER_TIMEOUT = SHORT
        refusal = chat().exception(WAIT)
        assert isinstance(refusal, LedgerUnavailable)
        gate.open()
        assert call.result(WAIT) == "Hello!"
        assert books.states() == [UsageState.RESERVED]
    books.assert_true()
    assert (books.states(), len(upstream.requests)) == ([UsageState.SETTLED], 1)


@contextmanager
def read_only() -> Iterator[None]:
    """For every session that begins in it; the books' own is ended."""
    name = connection.ops.quote_name(connection.settings_dict["NAME"])
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        end_other_sessions()
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SET transaction_read_only = off")
            cursor.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        end_other_sessions()


def end_other_sessions() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    # Asynchronous tests before this one have left a connection there, which tests after it would find dead.
    SyncToAsync.single_thread_executor.submit(connections.close_all).result()


# -- services of our own, that are stopped under load ------------------------------------------------------------------


@pytest.mark.postgres
def test_the_database_restarts_under_load(upstream: Upstream) -> None:
    """Every answer that the vendor gave reaches its caller, and every call is on the books once."""
    upstream.on("POST", answers.CHAT, whole(200, answers.chat("Hello!")))

    def wait_for_more() -> None:
        enough = len(upstream.requests) + 10 * CALLERS
        until(lambda: len(upstream.requests) >= enough)

    with Postgres() as postgres, Processes(postgres.database(this_database()["OPTIONS"])) as processes:
        admin_pk = processes.ask(child.furnish, f"{upstream.url}/v1", KEY)
        stop = processes.load(admin_pk, CALLERS)
        wait_for_more()
        for mode in ("fast", "immediate") * (10 if PROVE else 1):
            postgres.restart(mode)
            wait_for_more()
        ended = Counter(outcome.get("code", "served") for outcome in stop())
        assert set(ended) <= {"served", LedgerUnavailable.code}
        assert ended["served"] == len(upstream.requests)
        written = processes.ask(child.states)
        assert written[UsageState.SETTLED] == ended["served"]
        assert set(written) <= {UsageState.SETTLED, UsageState.FAILED}  # given back, as its caller had been refused
        assert processes.wait_for_end(processes.manage("ai_reconcile")) == 0


@pytest.mark.redis
def test_redis_stops_under_load_and_calls_go_on(superuser: User, model: AIModel, upstream: Upstream) -> None:
    with Redis() as redis, Processes(this_database()) as processes:
        processes.changes["CACHES"] = {"default": {**site.CACHES["default"], "LOCATION": redis.url}}
        stop = processes.load(superuser.pk, CALLERS)
        for change in (redis.stop, redis.start):
            enough = len(upstream.requests) + 10 * CALLERS
            upstream.wait_for(lambda enough=enough: len(upstream.requests) >= enough)  # type: ignore[misc]
            change()
        enough = len(upstream.requests) + 10 * CALLERS
        upstream.wait_for(lambda: len(upstream.requests) >= enough)
        ended = Counter(outcome.get("code", "served") for outcome in stop())
    assert ended == {"served": len(upstream.requests)}
    books.assert_true()
    assert Counter(books.states()) == {UsageState.SETTLED: len(upstream.requests)}
