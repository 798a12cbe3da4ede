"""The end of a serving process: what it still answers is cut in order, and then what it has to finish is finished."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

from src.core.loop import io_loop

CUT_WAIT: Final = 5.0  # seconds that what is cut has to come to its end

T = TypeVar("T")
Scope = dict[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_outlasting: set[asyncio.Task[Any]] = set()


async def to_its_end(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of `coroutine`, which is not cancelled with whoever awaits it: that one then waits for its end.

    Raises:
        concurrent.futures.CancelledError: the process ends, and `coroutine` was cut.
    """
    task = asyncio.ensure_future(coroutine)
    _outlasting.add(task)
    task.add_done_callback(_outlasting.discard)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if task.cancelled():
            raise concurrent.futures.CancelledError from None
        await asyncio.wait((task,))
        raise


class Graceful:
    """An ASGI application around Django that speaks the lifespan protocol.

    A server that stops lets requests go on for as long as its own limit says, cancels the rest and tells of the end.
    Django would leave the views of cancelled requests running; here they are told that their client has left. Calls
    that threads wait for are cancelled at the end. `at_end` is called, in a thread, when nothing runs any more.
    """

    def __init__(self, application: Application, at_end: Callable[[], object]) -> None:
        self.application = application
        self.at_end = at_end
        self._running: dict[asyncio.Future[None], _Cut] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or live."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        cut = _Cut(receive)
        running = asyncio.ensure_future(self.application(scope, cut.receive, send))
        self._running[running] = cut
        running.add_done_callback(self._running.pop)
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            cut.now()
            raise

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for cut in self._running.values():
            cut.now()
        io_loop.cancel_all()
        for task in [task for task in _outlasting if task.get_loop() is asyncio.get_running_loop()]:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=CUT_WAIT)
        await asyncio.to_thread(self.at_end)
        await send({"type": "lifespan.shutdown.complete"})


class _Cut:
    """What a server passes on of one client, until it is cut: from then on the client is said to have left."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._is_cut = False
        self._waiting: asyncio.Timeout | None = None

    def now(self) -> None:
        if self._waiting is not None and not self._is_cut:
            self._waiting.reschedule(0)
        self._is_cut = True

    async def receive(self) -> Message:
        if not self._is_cut:
            try:
                async with asyncio.timeout(None) as self._waiting:
                    return await self._receive()
            except TimeoutError:
                if not self._is_cut:
                    raise
            finally:
                self._waiting = None
        return {"type": "http.disconnect"}
