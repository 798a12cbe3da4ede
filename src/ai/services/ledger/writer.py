"""Group commit: entries that arrive while a transaction is being committed share the next one.

A thread of its own with a database connection of its own, outside the pool: a caller who holds connections can't keep
the books waiting for one, and what is written stays written when the caller's transaction is rolled back.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from itertools import zip_longest
from time import monotonic, sleep
from typing import Any, Final
from uuid import UUID

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import Error, InterfaceError, OperationalError, connections, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import load_backend

from src.ai.exceptions import LedgerUnavailable
from src.ai.models import UsageRecord
from src.ai.services.ledger.books import Books
from src.ai.services.ledger.entries import Entry, Outcome, Reserve, Settle
from src.core.loop import Errands, io_loop

logger = logging.getLogger(__name__)

MOST_ENTRIES: Final = 1000  # in one transaction
FIRST_DELAY: Final = 0.05  # seconds before trying again, doubled each time
LONGEST_DELAY: Final = 1.0
LOCK_TIMEOUT: Final = 2.0  # seconds that a transaction waits for a lock before it is tried again
READ_ONLY: Final = "25006"  # PostgreSQL's code: a standby that is about to take over, or maintenance
EXIT_WAIT: Final = 5.0  # seconds that a process which ends waits for what is not written yet


@dataclass(slots=True, eq=False)
class _Submission:
    entries: Sequence[Entry]
    future: Future[list[Outcome]] = field(default_factory=Future)
    # A reservation is worth nothing to a caller who has gone; a settlement is written however long it takes.
    deadline: float | None = None


class Writer:
    """Writes entries in batches, each batch one durable transaction. One a process; made again after a fork."""

    def __init__(self) -> None:
        self._reset()
        os.register_at_fork(after_in_child=self._reset)
        atexit.register(self.drain, EXIT_WAIT)

    def _reset(self) -> None:
        self._arrived = threading.Condition()
        self._waiting: deque[_Submission] = deque()
        self._thread: threading.Thread | None = None
        self._busy = False

    def submit(self, entries: Sequence[Entry]) -> Future[list[Outcome]]:
        """The outcomes of `entries`, once they are durable.

        Raises, from the future:
            LedgerUnavailable: a reservation could not be written in `AI_LEDGER_TIMEOUT` seconds.
        """
        submission = _Submission(entries)
        if any(isinstance(entry, Reserve) and not entry.forced for entry in entries):
            submission.deadline = monotonic() + settings.AI_LEDGER_TIMEOUT
        with self._arrived:
            self._waiting.append(submission)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ai-ledger", daemon=True)
                self._thread.start()
            self._arrived.notify()
        return submission.future

    def drain(self, seconds: float) -> bool:
        """Wait until everything is written; whether it is."""
        end = monotonic() + seconds
        with self._arrived:
            return self._arrived.wait_for(lambda: not (self._waiting or self._busy), end - monotonic())

    # -- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        alias = router.db_for_write(UsageRecord)
        connections[alias] = connection = own_connection(alias)
        books = Books(connection)
        while True:
            with self._arrived:
                self._busy = False
                self._arrived.notify_all()
                self._arrived.wait_for(lambda: bool(self._waiting))
                self._busy = True
            try:
                self._write(books, self._taken([]))
            except Exception:
                logger.exception("The ledger's writer failed")  # its callers have been told; the next batch may do

    def _taken(self, batch: list[_Submission]) -> list[_Submission]:
        """`batch`, and what has arrived since, as far as it fits into one transaction."""
        ids: set[UUID] = {entry.id for submission in batch for entry in submission.entries}
        with self._arrived:
            while self._waiting and len(ids) < MOST_ENTRIES:
                its_ids = {entry.id for entry in self._waiting[0].entries}
                if its_ids & ids:  # a call's settlement goes into a later transaction than its reservation
                    break
                ids |= its_ids
                batch.append(self._waiting.popleft())
        return batch

    def _write(self, books: Books, batch: list[_Submission], *, again: bool = False, alone: bool = False) -> None:
        """Until it is written, with what arrives meanwhile unless it is to be written `alone`."""
        delay = FIRST_DELAY
        while batch:
            try:
                outcomes = _apply(books, [entry for submission in batch for entry in submission.entries], again)
            except Exception as error:
                if not _may_pass(error):
                    self._write_apart(books, batch, error, again)
                    return
                logger.warning("The ledger can't be written; trying again", extra={"reason": type(error).__name__})
                books.connection.close()
                batch = _in_time(batch, error)
                if not alone:
                    batch = self._taken(batch)
                sleep(delay)
                delay, again = min(delay * 2, LONGEST_DELAY), True
            else:
                for submission in batch:
                    count = len(submission.entries)
                    own, outcomes = outcomes[:count], outcomes[count:]
                    submission.future.set_result(own)
                return

    def _write_apart(self, books: Books, batch: list[_Submission], error: Exception, again: bool) -> None:
        """One by one, so that an entry that can't be written takes no other with it."""
        if not isinstance(error, Error):
            books.connection.close()
        if len(batch) > 1:
            for submission in batch:
                # What has arrived since may be about the same calls, and has to come after.
                self._write(books, [submission], again=again, alone=True)
            return
        (submission,) = batch
        bare = [_bare(entry) for entry in submission.entries]
        if bare == list(submission.entries):
            submission.future.set_exception(error)
            return
        logger.error("What a vendor told can't be written", extra={"reason": type(error).__name__})
        submission.entries = bare
        self._write(books, batch, again=again, alone=True)


def _apply(books: Books, entries: Sequence[Entry], again: bool) -> list[Outcome]:
    with transaction.atomic(using=books.connection.alias):
        return books.apply(entries, again=again)


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
    untold = all(getattr(entry, name.name) == getattr(bare, name.name) for name in fields(entry))
    return entry if untold else bare


def _in_time(batch: Sequence[_Submission], error: Exception) -> list[_Submission]:
    """Those whose callers still wait; the others are told."""
    now, waiting = monotonic(), []
    for submission in batch:
        if submission.deadline is None or submission.deadline > now:
            waiting.append(submission)
            continue
        refusal = LedgerUnavailable(retry_after=LONGEST_DELAY)
        refusal.__cause__ = error
        submission.future.set_exception(refusal)
    return waiting


def own_connection(alias: str) -> BaseDatabaseWrapper:
    """A connection to the same database, for one thread, outside the pool, that waits for no lock for long."""
    config = deepcopy(connections.settings[alias])
    options: dict[str, Any] = config["OPTIONS"]
    if config["ENGINE"] == "django.db.backends.postgresql":
        options.pop("pool", None)
        options["options"] = f"{options.get('options', '')} -c lock_timeout={int(LOCK_TIMEOUT * 1000)}".strip()
    else:
        options["timeout"] = LOCK_TIMEOUT
    config["CONN_MAX_AGE"] = None
    connection: BaseDatabaseWrapper = load_backend(config["ENGINE"]).DatabaseWrapper(config, alias)
    return connection


writer = Writer()


class Desk:
    """Where one caller has entries written.

    That is the process's writer, except in two transactions that only their own connection can write beside: a test
    case's, which is to be rolled back whole, and any on SQLite, which has one writer. What was written into a caller's
    transaction on SQLite is submitted once more, so that it is on the books whether or not the caller commits.
    """

    def __init__(self) -> None:
        connection = connections[router.db_for_write(UsageRecord)]
        self.errands: Errands | None = None  # for whoever waits in the connection's thread
        self._again = False
        if connection.in_atomic_block:
            in_test_case = connection.atomic_blocks[0]._from_testcase  # type: ignore[attr-defined]  # as `durable` asks
            if in_test_case or connection.vendor == "sqlite":
                self.errands = Errands()
                self._again = not in_test_case
                self._connection = connection

    def write(self, entries: Sequence[Entry]) -> list[Outcome]:
        """The outcomes, once they are durable.

        Raises:
            LedgerUnavailable: a reservation could not be written in time.
            TimeoutError: a settlement has not been written yet.
        """
        if self.errands is None:
            return writer.submit(entries).result(_patience(entries))
        return self._write_here(entries)

    async def awrite(self, entries: Sequence[Entry]) -> list[Outcome]:
        """The asynchronous twin of `write`, also for what runs on the I/O loop on behalf of a waiting thread."""
        if self.errands is None:
            # Shielded: whether the entries are written is not for a caller who leaves to say.
            written = asyncio.shield(asyncio.wrap_future(writer.submit(entries)))
            return await asyncio.wait_for(written, _patience(entries))
        if io_loop.runs_here():
            return await self.errands.ask(lambda: self._write_here(entries))
        return await sync_to_async(self._write_here)(entries)  # in the thread in which the call was prepared

    def write_soon(self, entries: Sequence[Entry]) -> None:
        """Have them written without waiting for it."""
        if self.errands is None or self._again:
            writer.submit(entries)
        elif self._connection._thread_ident == threading.get_ident():  # type: ignore[attr-defined]
            self._write_here(entries)
        else:
            self.errands.leave(lambda: self._write_here(entries))

    def _write_here(self, entries: Sequence[Entry]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        try:
            outcomes = _apply(Books(self._connection), entries, again=False)
        finally:
            if self._again:
                self._submit_again(entries, outcomes)
        return outcomes

    def _submit_again(self, entries: Sequence[Entry], outcomes: Sequence[Outcome]) -> None:
        """Settlements, and the reservations that were accepted."""
        for entry, outcome in zip_longest(entries, outcomes):
            if not isinstance(entry, Reserve):
                writer.submit([entry])
            elif outcome is not None and outcome.refused_by is None:
                writer.submit([_forced(entry)])


def _patience(entries: Sequence[Entry]) -> float:
    """Seconds to wait for the writer; it refuses a reservation itself, a little earlier."""
    timeout: float = settings.AI_LEDGER_TIMEOUT
    return timeout + LOCK_TIMEOUT if any(isinstance(entry, Reserve) for entry in entries) else timeout


def _forced(entry: Reserve) -> Reserve:
    return replace(entry, forced=True)
