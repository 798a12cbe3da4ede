"""A loop that comes again and again writes the books over a session of its own; what becomes of that is mended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import uvloop
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import connection

from src.ai.models import AIModel, UsageState
from src.ai.services.ledger.entries import CallFacts, Reserve, Settle
from src.ai.services.ledger.line import REGULAR
from src.ai.services.ledger.upkeep import sweep
from src.ai.services.ledger.writer import writer
from src.ai.services.unified_service import UnifiedAIService
from src.core.ids import uuid7
from tests import vendor_answers as answers
from tests.ledger import books
from tests.ledger.processes import WAIT, until
from tests.upstream.server import Gate, Reply, Upstream, whole

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.postgres]


def query(sql: str, *values: object) -> list[tuple[object, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return list(cursor.fetchall())


aquery = sync_to_async(query)


def sessions(did: str = "PREPARE|EXECUTE") -> set[object]:
    """The sessions that have prepared the books' statements, or executed one."""
    return {
        pid
        for (pid,) in query(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND query ~ %s",
            f"({did}) ai_",
        )
    }


asessions = sync_to_async(sessions)


@contextmanager
def standing_still() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs for as long as it is made to, and is closed in order."""
    loop = asyncio.new_event_loop()
    try:
        yield loop
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def own_session(admin: User) -> object:
    """The session that the running loop gets by its calls."""
    await UnifiedAIService.achat("Hi", admin)  # by way of the thread's
    before = await asessions()
    for _ in range(REGULAR + 1):
        await UnifiedAIService.achat("Hi", admin)
    async with asyncio.timeout(WAIT):
        while not (found := await asessions("EXECUTE") - before):
            await UnifiedAIService.achat("Hi", admin)
    (session,) = found
    return session


async def submitted(entry: Reserve) -> None:
    """Ends when the batch is on its way, and with that the loop stands still."""
    writer.asubmit([entry])
    await asyncio.sleep(0)


def test_it_has_a_session_of_its_own_until_it_ends(superuser: User, model: AIModel) -> None:
    session = asyncio.run(own_session(superuser))
    until(lambda: session not in sessions())
    books.assert_true()


def test_a_loop_that_comes_once_has_none(superuser: User, model: AIModel) -> None:
    async def call() -> None:
        await UnifiedAIService.achat("Hi", superuser)

    asyncio.run(call())
    before = sessions()
    for _ in range(3):
        asyncio.run(call())
    assert sessions() == before
    books.assert_true()


def test_a_session_that_was_ended_is_replaced(superuser: User, model: AIModel, upstream: Upstream) -> None:
    async def calls() -> None:
        session = await own_session(superuser)
        await aquery("SELECT pg_terminate_backend(%s)", session)
        other = await own_session(superuser)
        assert other != session
        kept = await asessions()
        for _ in range(3 * REGULAR):
            await UnifiedAIService.achat("Hi", superuser)
        assert await asessions() == kept

    asyncio.run(calls())
    books.assert_true()
    assert len(books.records()) == len(upstream.requests)


def test_a_session_that_is_ended_while_it_writes_writes_nothing_twice(
    superuser: User, model: AIModel, upstream: Upstream
) -> None:
    async def calls() -> None:
        session = await own_session(superuser)
        asked = len(upstream.requests)
        hold = books.locked()
        await sync_to_async(hold.__enter__)()
        call = asyncio.create_task(UnifiedAIService.achat("Hi", superuser))
        waiting = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
        async with asyncio.timeout(WAIT):
            while not await aquery(waiting, session):
                await asyncio.sleep(0)
        await aquery("SELECT pg_terminate_backend(%s)", session)
        await sync_to_async(hold.__exit__)(None, None, None)
        assert await call == "Hello!"
        assert len(upstream.requests) == asked + 1

    asyncio.run(calls())
    books.assert_true()
    assert len(books.records()) == len(upstream.requests)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_what_is_sent_to_a_session_that_has_just_ended_is_written(
    run: Callable[[Coroutine[Any, Any, None]], None], superuser: User, facts: CallFacts
) -> None:
    """The answer to it is a reset, after which uvloop tells of nothing more that there is to be read."""
    entry = Reserve(id=uuid7(), facts=facts, created_at=datetime.now(UTC))

    def end(session: object) -> None:
        query("SELECT pg_terminate_backend(%s)", session)
        until(lambda: not query("SELECT 1 FROM pg_stat_activity WHERE pid = %s", session))
        connection.close()

    async def calls() -> None:
        ending = threading.Thread(target=end, args=(await own_session(superuser),))
        ending.start()
        ending.join()  # while the loop stands still
        waiting = writer.asubmit([entry])
        writer._lines[asyncio.get_running_loop()].flush()
        async with asyncio.timeout(WAIT):
            await waiting

    run(calls())
    assert entry.id in {record.pk for record in books.records()}


def test_what_a_loop_leaves_behind_when_it_ends_is_written(superuser: User, model: AIModel, upstream: Upstream) -> None:
    """A stream is settled without anybody waiting for it when its task is cancelled, and then the loop ends."""
    gate, good = Gate(), whole(200, answers.chat("Hello!"))

    async def calls() -> None:
        await own_session(superuser)
        upstream.on("POST", answers.CHAT, Reply(200, good.parts, good.headers, [gate], good.length))
        call = asyncio.create_task(UnifiedAIService.achat("Hi", superuser))
        await asyncio.to_thread(gate.wait_until_reached)
        call.cancel()
        await asyncio.sleep(0)

    asyncio.run(calls())
    gate.open()
    books.assert_true()
    assert books.states().count(UsageState.FAILED) == 1
    assert len(books.records()) == len(upstream.requests)


def test_what_waits_on_a_loop_that_stands_still_is_written(superuser: User, facts: CallFacts) -> None:
    entry = Reserve(id=uuid7(), facts=facts, created_at=datetime.now(UTC))

    async def begin_and_leave() -> None:
        await own_session(superuser)
        await writer.asubmit([entry])
        writer.leave([Settle(id=entry.id, facts=facts, state=UsageState.SETTLED, requests=1, cost=Decimal(0))])

    with standing_still() as loop:
        loop.run_until_complete(begin_and_leave())
        books.assert_true()


def test_a_loop_that_stands_still_in_a_transaction_keeps_nobody_waiting(superuser: User, facts: CallFacts) -> None:
    entry = Reserve(id=uuid7(), facts=facts, created_at=datetime.now(UTC))

    def is_locked() -> bool:
        return bool(query("SELECT 1 FROM pg_stat_activity WHERE state = 'idle in transaction' AND query ~ 'ai_lock'"))

    with standing_still() as loop:
        loop.run_until_complete(own_session(superuser))
        with books.locked():  # else the answer may come before the loop stands still
            loop.run_until_complete(submitted(entry))
        until(is_locked)
        assert UnifiedAIService.chat("Hi", superuser) == "Hello!"
        assert writer.drain(WAIT)
        assert UsageState.RESERVED in books.states()
    writer.submit([Settle(id=entry.id, facts=facts, state=UsageState.SETTLED)]).result(WAIT)
    books.assert_true()


def test_a_call_that_was_swept_and_comes_back_corrects_its_record(
    superuser: User, model: AIModel, upstream: Upstream
) -> None:
    gate, good = Gate(), whole(200, answers.chat("Hello!"))

    async def calls() -> str:
        await own_session(superuser)
        upstream.on("POST", answers.CHAT, Reply(200, good.parts, good.headers, [gate], good.length))
        call = asyncio.create_task(UnifiedAIService.achat("Hi", superuser))
        await asyncio.to_thread(gate.wait_until_reached)
        await sync_to_async(books.expire_leases)()
        await sync_to_async(sweep)()
        assert (await sync_to_async(books.states)()).count(UsageState.UNKNOWN) == 1
        gate.open()
        return str(await call)

    assert asyncio.run(calls()) == "Hello!"
    books.assert_true()
    assert set(books.states()) == {UsageState.SETTLED}
