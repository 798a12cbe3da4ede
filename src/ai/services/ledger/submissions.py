"""Entries on their way to the books, and who waits for them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from time import monotonic
from typing import Any, Final
from uuid import UUID

from src.ai.exceptions import LedgerUnavailable
from src.ai.services.ledger.entries import Entry, Outcome, Reserve

logger = logging.getLogger(__name__)

MOST_ENTRIES: Final = 1000  # in one transaction
LINGER: Final = 0.005  # seconds that entries nobody waits for are kept for company, so that they cost no commit
RETRY_AFTER: Final = 1.0  # seconds that whoever was refused is asked to wait

Answer = list[Outcome] | Exception


class Submission:
    """Entries to be written, and who waits for them: a thread, an event loop or, without a future, nobody."""

    __slots__ = ("again", "entries", "future", "is_told", "loop", "since")

    def __init__(
        self, entries: Sequence[Entry], future: Any = None, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self.entries = entries
        self.future = future
        self.loop = loop
        self.since = monotonic()
        self.again = False  # whether it may have been written before
        self.is_told = False  # that it takes too long

    @property
    def may_be_dropped(self) -> bool:
        """A reservation is worth nothing to a caller who has gone; a settlement is written however long it takes."""
        return any(isinstance(entry, Reserve) and not entry.forced for entry in self.entries)

    def resolve(self, answer: Answer) -> None:
        """Answer whoever waits, on their loop or in whichever thread."""
        if self.future is None:
            if isinstance(answer, Exception):
                logger.error("Calls are not on the books yet", extra={"reason": type(answer).__name__})
        elif self.future.done():
            return
        elif isinstance(answer, Exception):
            self.future.set_exception(answer)
        else:
            self.future.set_result(answer)


class Queue:
    """Submissions in the order in which they came. Locks nothing."""

    def __init__(self) -> None:
        self.is_awaited = False  # whether somebody waits for one of them
        self._waiting: deque[Submission] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, submission: Submission) -> None:
        """At the end."""
        self._waiting.append(submission)
        self.is_awaited = self.is_awaited or submission.future is not None

    def take(self, batch: list[Submission] | None = None) -> list[Submission]:
        """`batch`, and what is there, as far as it fits into one transaction."""
        batch = batch or []
        waiting = self._waiting
        ids: set[UUID] = {entry.id for submission in batch for entry in submission.entries}
        while waiting and len(ids) < MOST_ENTRIES:
            its_ids = [entry.id for entry in waiting[0].entries]
            if not ids.isdisjoint(its_ids):  # a call's settlement goes into a later transaction than its reservation
                break
            ids.update(its_ids)
            batch.append(waiting.popleft())
        self.is_awaited = bool(waiting)
        return batch

    def take_all(self) -> list[Submission]:
        """All that is there."""
        found, self.is_awaited = list(self._waiting), False
        self._waiting.clear()
        return found


def entries_of(batch: Iterable[Submission]) -> list[Entry]:
    """What is to be written."""
    return [entry for submission in batch for entry in submission.entries]


def answered(batch: Iterable[Submission], outcomes: Iterable[Outcome]) -> list[tuple[Submission, Answer]]:
    """Each submission with its share of the outcomes."""
    left = iter(outcomes)
    return [(submission, list(islice(left, len(submission.entries)))) for submission in batch]


def tell(answers: Sequence[tuple[Submission, Answer]]) -> None:
    """Answer those who wait. All of one loop are told in one go: what they then submit arrives together again."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Submission, Answer]]] = {}
    for submission, answer in answers:
        if submission.loop is None:
            submission.resolve(answer)
        else:
            by_loop.setdefault(submission.loop, []).append((submission, answer))
    for loop, its_answers in by_loop.items():
        with suppress(RuntimeError):  # the loop has been closed: nobody waits there any more
            loop.call_soon_threadsafe(tell_here, its_answers)


def tell_here(answers: Sequence[tuple[Submission, Answer]]) -> None:
    """Answer those who wait on the running loop."""
    for submission, answer in answers:
        submission.resolve(answer)


def in_time(batch: Sequence[Submission], error: Exception, seconds: float) -> list[Submission]:
    """Those to be tried again. Whoever has waited too long is told; what is settled is not forgotten for that."""
    latest, waiting = monotonic() - seconds, []
    for submission in batch:
        if submission.since <= latest and not submission.is_told:
            if submission.may_be_dropped:
                refusal = LedgerUnavailable(retry_after=RETRY_AFTER)
                refusal.__cause__ = error
                tell([(submission, refusal)])
                continue
            tell([(submission, TimeoutError())])
            submission.is_told = True
        waiting.append(submission)
    return waiting
