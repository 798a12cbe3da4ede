"""An event loop's own session with the books, so that its calls wake no other thread.

For PostgreSQL alone, whose socket a loop can wait for, and for systems with epoll. It does what goes well: whatever
does not is handed over, with all that waits, to the process's writer, which knows what to do about it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from contextvars import Context
from time import monotonic
from typing import Any, Final

from psycopg import Error, OperationalError
from psycopg.abc import PQGen
from psycopg.pq import ConnStatus
from psycopg.pq.abc import PGconn
from psycopg.waiting import Ready, Wait

from src.ai.models.config_stamp import freshness
from src.ai.services.ledger.books import Books, Steps
from src.ai.services.ledger.submissions import LINGER, Queue, Submission, answered, entries_of, tell_here
from src.core import postgres

logger = logging.getLogger(__name__)

REGULAR: Final = 20  # submissions by which a loop shows that it is worth a session of its own
# After a batch of so many submissions as many more come while the next one is kept for so many seconds, and share its
# commit, which then costs each of them less time than it takes. Fewer are not worth it, and more have company enough.
CROWD: Final = range(6, 48)
COMPANY: Final = 0.003

_EVENTS: Final = {Wait.R: select.POLLIN, Wait.W: select.POLLOUT, Wait.RW: select.POLLIN | select.POLLOUT}  # epoll's too

# Takes over what was being written, what waits, and why.
HandOver = Callable[[Sequence[Submission], Sequence[Submission], Exception], None]


class Line:
    """Writes what is submitted on one loop in batches, each one durable transaction.

    To be used on that loop alone, but for `end`. Until it `is_open` it is only told of each submission by `count`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connect: Callable[[], Books],
        hand_over: HandOver,
        at_rest: Callable[[], object],
    ) -> None:
        """`connect` gives books that are prepared, in a thread. `at_rest` is called whenever all is written."""
        self.is_open = False
        self.is_idle = True  # nothing is being written, and nothing waits
        self.loop = loop
        self._connect = connect
        self._hand_over = hand_over
        self._at_rest = at_rest
        self._lock = threading.RLock()  # who ends a line whose loop stands still may see it move again
        self._process = os.getpid()
        self._counted = 0
        self._opening: asyncio.Task[None] | None = None
        self._keeper: AsyncIterator[None] | None = None
        self._loop_ends = False
        self._queue = Queue()
        self._books: Any = None
        self._session: Any = None
        # Stands between the loop and the session's socket: when that is reset, uvloop tells of it once and listens no
        # more, whatever is left to be read (libuv's `uv__poll_io`). And its number stays when libpq closes the socket.
        self._poll: Any = None
        self._wait = Wait.R  # what it waits for
        self._batch: list[Submission] = []  # that is being written
        self._began = 0.0
        self._steps: Steps | None = None  # of the batch
        self._talk: PQGen[list[postgres.Rows]] | None = None  # of one step
        self._is_called = False  # to begin a batch
        self._timer: asyncio.TimerHandle | None = None  # which will begin one

    def count(self) -> None:
        """Take note that the loop has submitted something to somebody else."""
        self._counted += 1
        if self._counted >= REGULAR and self._opening is None and not self._loop_ends:
            self._counted = 0
            self._opening = self.loop.create_task(self._open(), context=Context())

    def add(self, submission: Submission) -> None:
        """Have it written: at once, where somebody waits, else with others or in `LINGER` seconds."""
        with self._lock:
            if not self.is_open:  # it has been ended just now
                self._hand_over((), (submission,), RuntimeError("the line has ended"))
                return
            self._queue.add(submission)
            self.is_idle = False
            if self._batch or self._is_called:
                return
            if submission.future is not None:
                self._is_called = True
                self.loop.call_soon(self.flush)
            elif self._timer is None:
                self._timer = self.loop.call_later(LINGER, self.flush)

    def end(self, reason: Exception) -> None:
        """Hand everything over and close the session. Also where the loop runs no more."""
        if self._process != os.getpid():
            return  # the session is the parent's, and so is what waits
        with self._lock:
            self._close()
            batch, self._batch = self._batch, []
            waiting = self._queue.take_all()
            if batch or waiting:
                self._hand_over(batch, waiting, reason)
            self._rest()

    # -- its session -----------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        opening = None
        try:
            opening = self.loop.run_in_executor(None, self._connect)
            books = await asyncio.shield(opening)
            session = books.connection.connection.pgconn
            poll = _poll_of(session)
        except asyncio.CancelledError:
            if opening is not None:
                opening.add_done_callback(_close_unused)
            raise
        except Exception as error:  # the next that are counted will try again
            logger.info("A loop has no line to the ledger", extra={"reason": type(error).__name__})
        else:
            if self._keeper is None:
                self._keeper = self._end_with_loop()
                await anext(self._keeper)
            self._books, self._session, self._poll, self._wait = books, session, poll, Wait.R
            self.loop.add_reader(poll.fileno(), self._ready)
            self.is_open = True
        finally:
            self._opening = None

    async def _end_with_loop(self) -> AsyncIterator[None]:
        """An async generator that a loop's `shutdown_asyncgens()` closes, which every runner calls before it ends."""
        try:
            yield
        finally:
            self._loop_ends = True
            self.end(RuntimeError("the loop ends"))

    def _close(self) -> None:
        self.is_open = self._is_called = False
        if self._timer is not None:
            self._timer.cancel()
        if self._steps is not None:
            self._steps.close()
        self._timer = self._steps = self._talk = None
        session, self._session, self._books = self._session, None, None
        if session is None:
            return
        with suppress(RuntimeError):  # the loop may be closed
            self.loop.remove_reader(self._poll.fileno())
        self._poll.close()
        session.finish()

    # -- a batch ---------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what waits, unless a batch is being written: that is followed by the next."""
        with self._lock:
            if self._batch or not self.is_open:
                return
            self._is_called = False
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            batch = self._batch = self._queue.take()
            if not batch:
                self._rest()
                return
            self._began = monotonic()
            try:
                self._steps = self._books.steps(entries_of(batch))
                self._say(next(self._steps))
            except Exception as error:
                self._fail(error)

    def _say(self, statements: Sequence[postgres.SQL]) -> None:
        self._talk = postgres.talk(self._session, statements)
        self._go_on(None)

    def _go_on(self, ready: Ready | None) -> None:
        """As far as can be without waiting."""
        try:
            wait = self._talk.send(ready)  # type: ignore[union-attr, arg-type]  # there is one; it begins with None
        except StopIteration as said:
            self._talk = None
            try:
                statements = self._steps.send(said.value)  # type: ignore[union-attr]  # likewise
            except StopIteration as done:
                self._written(done.value)
                return
            self._say(statements)
        else:
            if wait != self._wait:
                self._poll.modify(self._session.socket, _EVENTS[wait])
                self._wait = wait

    def _ready(self) -> None:
        with self._lock:
            try:
                if self._talk is not None:
                    self._go_on(Ready.RW)  # reading what is not there does no harm
                elif self._session is not None:
                    self._session.consume_input()  # nobody has asked: mostly that the session was ended
                    if self._session.status != ConnStatus.OK:
                        raise OperationalError("the session was ended")
            except Exception as error:
                self._fail(error)

    def _written(self, outcomes: Any) -> None:
        batch, self._batch, self._steps = self._batch, [], None
        freshness.observe(self._books.stamp, self._began)  # so that a busy process need not ask for it
        tell_here(answered(batch, outcomes))
        if self._queue.is_awaited:
            self._is_called = True
            if len(batch) in CROWD:
                self._timer = self.loop.call_later(COMPANY, self.flush)
            else:  # once those who were told have gone on: what they submit comes along
                self.loop.call_soon(self.loop.call_soon, self.flush)
        elif self._queue:
            self._timer = self.loop.call_later(LINGER, self.flush)
        else:
            self._rest()

    def _rest(self) -> None:
        self.is_idle = not self._queue
        self._at_rest()

    def _fail(self, error: Exception) -> None:
        if isinstance(error, Error):
            logger.info("A loop's line to the ledger has broken", extra={"reason": type(error).__name__})
        self.end(error)


def _poll_of(session: PGconn) -> Any:
    """What tells that the session's socket can be read. Where there can be none, the session is closed."""
    try:
        poll = select.epoll()
        poll.register(session.socket, _EVENTS[Wait.R])
    except OSError:
        session.finish()
        raise
    return poll


def _close_unused(opening: asyncio.Future[Books]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().connection.connection.close()
