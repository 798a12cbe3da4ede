"""Group commit: entries that arrive while a transaction is being committed share the next one.

A thread of its own with a database connection of its own, outside the pool: a caller who holds connections can't keep
the books waiting for one, and what is written stays written when the caller's transaction is rolled back.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import select
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from copy import deepcopy
from functools import cache
from itertools import zip_longest
from time import monotonic, sleep
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import InterfaceError, OperationalError, connections, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import load_backend
from msgspec import structs

from src.ai.exceptions import LedgerUnavailable
from src.ai.models import UsageRecord
from src.ai.models.config_stamp import freshness
from src.ai.services.ledger.books import Books
from src.ai.services.ledger.entries import Entry, Outcome, Reserve, Settle
from src.ai.services.ledger.line import Line
from src.ai.services.ledger.submissions import LINGER, Queue, Submission, answered, entries_of, in_time, tell
from src.core.database import open_connections
from src.core.loop import Errands, io_loop, loop_is_running_here

logger = logging.getLogger(__name__)

FIRST_DELAY: Final = 0.05  # seconds before trying again, doubled each time
LONGEST_DELAY: Final = 1.0
LOCK_TIMEOUT: Final = 2.0  # seconds that a transaction waits for a lock before it is tried again
STANDSTILL: Final = 1.0  # seconds between two messages of a transaction, after which the database ends it
GONE_TIMEOUT: Final = 5.0  # seconds without a sign of the database's host
READ_ONLY: Final = "25006"  # PostgreSQL's code: a standby that is about to take over, or maintenance
_PLANS_WITHOUT_KEYS: Final = ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin")
EXIT_WAIT: Final = 5.0  # seconds that a process which ends waits for what is not written yet


class Writer:
    """Writes entries in batches, each batch one durable transaction. One a process; made again after a fork.

    A thread does it, but for loops that come again and again: these get a `Line` of their own where the database is
    PostgreSQL.
    """

    def __init__(self) -> None:
        self._reset()
        os.register_at_fork(after_in_child=self._reset)
        atexit.register(self.drain, EXIT_WAIT)

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._arrived = threading.Condition(self._lock)
        self._written = threading.Condition(self._lock)
        self._queue = Queue()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._asleep = False  # until something arrives, not just until somebody waits for it
        self._drainers = 0
        _inherited.append(getattr(self, "_lines", {}))
        self._lines: dict[asyncio.AbstractEventLoop, Line] = {}

    def submit(self, entries: Sequence[Entry]) -> Future[list[Outcome]]:
        """The outcomes of `entries`, once they are durable.

        Raises, from the future:
            LedgerUnavailable: a reservation could not be written in `AI_LEDGER_TIMEOUT` seconds.
            TimeoutError: a settlement could not; it is written as soon as it can be.
        """
        future: Future[list[Outcome]] = Future()
        self._enqueue([Submission(entries, future)])
        return future

    def asubmit(self, entries: Sequence[Entry]) -> asyncio.Future[list[Outcome]]:
        """The asynchronous twin of `submit`. What is submitted is written whether its caller stays or not."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Outcome]] = loop.create_future()
        submission = Submission(entries, future, loop)
        line = self._lines.get(loop)
        if line is not None and line.is_open:
            line.add(submission)
        else:
            self._enqueue([submission])
            if _loops_can_wait():
                (line or self._new_line(loop)).count()
        return future

    def leave(self, entries: Sequence[Entry]) -> None:
        """Have them written without waiting for it: with what others wait for, or in `LINGER` seconds."""
        loop = asyncio._get_running_loop()
        line = self._lines.get(loop) if loop is not None else None
        if line is not None and line.is_open:
            line.add(Submission(entries))
        else:
            self._enqueue([Submission(entries)])

    def _enqueue(self, submissions: Iterable[Submission]) -> None:
        with self._lock:
            for submission in submissions:
                self._queue.add(submission)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ai-ledger", daemon=True)
                self._thread.start()
            if self._queue.is_awaited or self._asleep:
                self._arrived.notify()

    def drain(self, seconds: float) -> bool:
        """Wait until everything is written; whether it is."""
        with self._lock:
            self._drainers += 1
        try:
            for line in list(self._lines.values()):  # without the lock, which a line takes while it holds its own
                _hurry(line)
            with self._lock:
                self._queue.is_awaited = True
                self._arrived.notify()
                return self._written.wait_for(self._has_written_all, seconds)
        finally:
            with self._lock:
                self._drainers -= 1

    def _has_written_all(self) -> bool:
        return not (self._queue or self._busy) and all(line.is_idle for line in list(self._lines.values()))

    # -- lines -----------------------------------------------------------------------------------------------------

    def _new_line(self, loop: asyncio.AbstractEventLoop) -> Line:
        for other in [other for other in list(self._lines) if other.is_closed()]:
            self._lines[other].end(RuntimeError("the loop was closed"))
            self._lines.pop(other, None)
        line = self._lines[loop] = Line(loop, _open_books, self._take_over, self._note_rest)
        return line

    def _take_over(self, batch: Sequence[Submission], waiting: Sequence[Submission], error: Exception) -> None:
        """Write what a line could not, in the order in which it came. Of `batch` nobody knows whether it is written."""
        for submission in batch:
            submission.again = True
        self._enqueue([*in_time(batch, error, settings.AI_LEDGER_TIMEOUT), *waiting])

    def _note_rest(self) -> None:
        if self._drainers:
            with self._lock:
                self._written.notify_all()

    # -- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._write_forever()
        except BaseException as error:  # whoever waits is told, and the next submission starts another thread
            with self._lock:
                self._thread, self._busy, self._asleep, abandoned = None, False, False, self._queue.take_all()
            tell([(submission, LedgerUnavailable(reason=str(error))) for submission in abandoned])
            raise

    def _write_forever(self) -> None:
        alias = router.db_for_write(UsageRecord)
        connections[alias] = connection = own_connection(alias)
        books = Books(connection)
        while True:
            self._rest()
            self._write(books, self._taken([]))

    def _rest(self) -> None:
        """Until there is something to be written now."""
        with self._lock:
            self._busy = False
            self._written.notify_all()
            # Nobody wakes the thread for what can linger: beside a steady stream of calls it is awake often enough.
            while not self._arrived.wait_for(lambda: self._queue.is_awaited and bool(self._queue), LINGER):
                if self._queue:
                    break
                self._asleep = True
                self._arrived.wait_for(lambda: bool(self._queue))
                self._asleep = False
            self._busy = True

    def _taken(self, batch: list[Submission]) -> list[Submission]:
        with self._lock:
            return self._queue.take(batch)

    def _write(self, books: Books, batch: list[Submission], *, alone: bool = False) -> None:
        """Until it is written, with what arrives meanwhile unless it is to be written `alone`."""
        delay, is_first = FIRST_DELAY, True
        while batch:
            began = monotonic()
            again = any(submission.again for submission in batch)
            try:
                outcomes = books.write(entries_of(batch), again=again)
            except Exception as error:
                books.connection.close()
                for submission in batch:
                    submission.again = True
                if not _may_pass(error):
                    self._write_apart(books, batch, error)
                    return
                if is_first:
                    logger.warning("The ledger can't be written; trying again", extra={"reason": type(error).__name__})
                batch = in_time(batch, error, settings.AI_LEDGER_TIMEOUT)
                if not alone:
                    batch = self._taken(batch)
                sleep(delay)
                delay, is_first = min(delay * 2, LONGEST_DELAY), False
            else:
                freshness.observe(books.stamp, began)  # so that a busy process need not ask for it
                tell(answered(batch, outcomes))
                return

    def _write_apart(self, books: Books, batch: list[Submission], error: Exception) -> None:
        """One by one, so that an entry that can't be written takes no other with it."""
        if len(batch) > 1:
            for submission in batch:
                # What has arrived since may be about the same calls, and has to come after.
                self._write(books, [submission], alone=True)
            return
        (submission,) = batch
        bare = [_bare(entry) for entry in submission.entries]
        if bare == list(submission.entries):
            tell([(submission, error)])
            return
        logger.error("What a vendor told can't be written", extra={"reason": type(error).__name__})
        submission.entries = bare
        self._write(books, batch, alone=True)


@cache
def _loops_can_wait() -> bool:
    """Whether a loop can wait for the database: for PostgreSQL's socket, through epoll."""
    return _backend(router.db_for_write(UsageRecord)).vendor == "postgresql" and hasattr(select, "epoll")


def _backend(alias: str) -> type[BaseDatabaseWrapper]:
    backend: type[BaseDatabaseWrapper] = load_backend(connections.settings[alias]["ENGINE"]).DatabaseWrapper
    return backend


def _hurry(line: Line) -> None:
    """Have a line write what waits for company; where its loop stands still, the thread does."""
    if line.loop.is_running() and line.loop is not asyncio._get_running_loop():
        with suppress(RuntimeError):  # it has been closed just now
            line.loop.call_soon_threadsafe(line.flush)
    elif not line.is_idle:
        line.end(RuntimeError("the loop stands still"))


def _open_books() -> Books:
    """Books on a connection of their own, for a line."""
    connection = own_connection(router.db_for_write(UsageRecord))
    books = Books(connection, asks=False)
    try:
        books.prepare()
    except BaseException:
        connection.close()
        raise
    return books


def _may_pass(error: Exception) -> bool:
    """Whether it is the database's trouble and not an entry's."""
    read_only = getattr(error.__cause__, "sqlstate", None) == READ_ONLY  # an `InternalError` to the driver
    return isinstance(error, OperationalError | InterfaceError) or read_only


def _bare(entry: Entry) -> Entry:
    """The entry without what a vendor told, if it has any of it: that a call was made must be on the books."""
    if not isinstance(entry, Settle):
        return entry
    bare = Settle(
        id=entry.id,
        facts=entry.facts,
        state=entry.state,
        held_requests=entry.held_requests,
        requests=entry.requests,
        settled_at=entry.settled_at,
        lapsed=entry.lapsed,
    )
    untold = structs.astuple(entry) == structs.astuple(bare)
    return entry if untold else bare


def own_connection(alias: str) -> BaseDatabaseWrapper:
    """A connection to the same database, for one thread, outside the pool, that waits for no lock for long."""
    backend, config = _backend(alias), deepcopy(connections.settings[alias])
    options: dict[str, Any] = config["OPTIONS"]
    if backend.vendor == "postgresql":
        options.pop("pool", None)
        # A server that has vanished is noticed: nothing else would end the wait for it.
        options.setdefault("connect_timeout", int(LOCK_TIMEOUT))
        options.setdefault("tcp_user_timeout", int(GONE_TIMEOUT * 1000))
        # The books' statements find every row by its key. Until a table that grows fast is analysed, the planner would
        # rather read all of it.
        own = {
            "lock_timeout": str(int(LOCK_TIMEOUT * 1000)),
            # A loop or a process that stands still between the messages of a batch keeps nobody else waiting.
            "idle_in_transaction_session_timeout": str(int(STANDSTILL * 1000)),
            "plan_cache_mode": "force_generic_plan",
            **dict.fromkeys(_PLANS_WITHOUT_KEYS, "off"),
        }
        options["options"] = " ".join([options.get("options", ""), *(f"-c {name}={own[name]}" for name in own)]).strip()
    else:
        options["timeout"] = LOCK_TIMEOUT
    config["CONN_MAX_AGE"] = None
    return backend(config, alias)


_inherited: Final[list[Mapping[asyncio.AbstractEventLoop, Line]]] = []  # kept: their sessions are the parent's
writer = Writer()


class Desk:
    """Where one caller has entries written.

    That is the process's writer, except in two transactions that only their own connection can write beside: a test
    case's, which is to be rolled back whole, and any on SQLite, which has one writer. What was written into a caller's
    transaction on SQLite is submitted once more, so that it is on the books whether or not the caller commits.
    """

    def __init__(self, errands: Errands | None = None, *, alone: bool = False) -> None:
        """`errands` are those that the caller's thread does already, where it does any. Who is `alone` is in no
        transaction.
        """
        found = () if alone else open_connections()
        connection = next((one for one in found if one.alias == router.db_for_write(UsageRecord)), None)
        self.errands: Errands | None = None  # for whoever waits in the connection's thread
        self._again = False
        if connection is not None and connection.in_atomic_block:
            in_test_case = connection.atomic_blocks[0]._from_testcase  # type: ignore[attr-defined]  # as `durable` asks
            if in_test_case or connection.vendor == "sqlite":
                self.errands = errands or Errands()
                self._again = not in_test_case
                self._connection = connection

    def write(self, entries: Sequence[Entry]) -> list[Outcome]:
        """The outcomes, once they are durable.

        Raises:
            LedgerUnavailable: a reservation could not be written in time.
            TimeoutError: a settlement has not been written yet.
        """
        if self.errands is None:
            return writer.submit(entries).result()
        return self._write_here(entries)

    async def awrite(self, entries: Sequence[Entry]) -> list[Outcome]:
        """The asynchronous twin of `write`, also for what runs on the I/O loop on behalf of a waiting thread."""
        if self.errands is None:
            return await writer.asubmit(entries)
        if io_loop.runs_here():
            return await self.errands.ask(lambda: self._write_here(entries))
        return await sync_to_async(self._write_here)(entries)  # in the thread in which the call was prepared

    def write_soon(self, entries: Sequence[Entry]) -> None:
        """Have them written without waiting for it."""
        # The caller's connection can be used in its own thread alone, and not on a loop there.
        here = self.errands is not None and self._connection._thread_ident == threading.get_ident()  # type: ignore[attr-defined]
        if self.errands is None or self._again:
            writer.leave(entries)
        elif here and not loop_is_running_here():
            self._write_here(entries)
        else:
            self.errands.leave(lambda: self._write_here(entries))

    def _write_here(self, entries: Sequence[Entry]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        try:
            with transaction.atomic(using=self._connection.alias):
                outcomes = Books(self._connection).apply(entries)
        finally:
            if self._again:
                self._submit_again(entries, outcomes)
        return outcomes

    def _submit_again(self, entries: Sequence[Entry], outcomes: Sequence[Outcome]) -> None:
        """Settlements, and the reservations that were accepted."""
        for entry, outcome in zip_longest(entries, outcomes):
            if not isinstance(entry, Reserve):
                writer.leave([entry])
            elif outcome is not None and outcome.refused_by is None:
                writer.leave([_forced(entry)])


def _forced(entry: Reserve) -> Reserve:
    return structs.replace(entry, forced=True)
