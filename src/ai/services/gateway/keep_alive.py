"""Comments on streams in which nothing comes, so that no proxy takes their lines for dead."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from contextvars import Context
from typing import Final

from src.ai.services.gateway.streams import StreamWatch
from src.ai.services.gateway.wire import KEEP_ALIVE, Responder
from src.core.exchange import Answer

KEEP_ALIVE_AFTER: float = 15.0  # seconds in which nothing came
LOOKS: Final = 15  # in that time


class Line:
    """The line of a stream that is being passed on."""

    __slots__ = ("_lines", "_responder", "_response", "_said_at", "_watch", "_writing")

    def __init__(self, responder: Responder, response: Answer, watch: StreamWatch) -> None:
        """To be made on the loop that passes it on."""
        self._responder = responder
        self._response = response
        self._watch = watch
        self._said_at = 0.0
        self._writing: asyncio.Task[None] | None = None
        self._lines = _lines()
        self._lines.add(self)

    def stop(self) -> None:
        self._lines.discard(self)
        if self._writing is not None:
            self._writing.cancel()

    def look(self, now: float, silence: float) -> None:
        """Write a comment if nothing has come for so many seconds, and what has come ends with an event."""
        if now - max(self._response.heard_at, self._said_at) >= silence and self._watch.is_whole:
            self._said_at = now
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        if not self._watch.is_whole:
            return  # something has come meanwhile
        with suppress(OSError):
            await self._responder.write(KEEP_ALIVE)


class _Lines:
    """Those of one loop. One timer is for all: one of its own would cost each stream half a kB."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._open: set[Line] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, line: Line) -> None:
        self._open.add(line)
        if self._timer is None:
            self._wait()

    def discard(self, line: Line) -> None:
        self._open.discard(line)

    def _wait(self) -> None:
        # In no stream's context, of which there may be many.
        self._timer = self._loop.call_later(KEEP_ALIVE_AFTER / LOOKS, self._look, context=Context())

    def _look(self) -> None:
        self._timer = None
        if self._open:
            self._wait()
            now, silence = self._loop.time(), KEEP_ALIVE_AFTER * (1 - 1 / LOOKS)  # the next look would be too late
            for line in list(self._open):
                line.look(now, silence)


_by_loop: Final[dict[asyncio.AbstractEventLoop, _Lines]] = {}


def _lines() -> _Lines:
    loop = asyncio.get_running_loop()
    if (lines := _by_loop.get(loop)) is None:
        for closed in [other for other in list(_by_loop) if other.is_closed()]:
            _by_loop.pop(closed, None)
        lines = _by_loop[loop] = _Lines(loop)
    return lines
