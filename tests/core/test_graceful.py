"""The end of a process, as an ASGI application sees it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from src.core.graceful import Graceful


class Server:
    """Requests that wait for their client to leave, under an application's life."""

    def __init__(self) -> None:
        self.application = Graceful(self.answer, lambda: self.said.append("at end"))
        self.said: list[str] = []
        self.begun = asyncio.Event()
        self.events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.life = asyncio.create_task(self.application({"type": "lifespan"}, self.events.get, self.hear))

    async def hear(self, message: Any) -> None:
        self.said.append(message["type"])

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun.set()
        message = await receive()
        await asyncio.sleep(0)
        self.said.append(message["type"])

    async def begin(self) -> asyncio.Task[None]:
        await self.events.put({"type": "lifespan.startup"})
        request = asyncio.create_task(self.application({"type": "http"}, asyncio.Event().wait, self.hear))  # type: ignore[arg-type]
        await self.begun.wait()
        return request

    async def end(self) -> None:
        await self.events.put({"type": "lifespan.shutdown"})
        await asyncio.wait_for(self.life, 10)


async def test_a_request_that_is_cancelled_learns_that_its_client_has_left() -> None:
    server = Server()
    request = await server.begin()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    for _ in range(5):
        await asyncio.sleep(0)
    assert server.said == ["lifespan.startup.complete", "http.disconnect"]
    await server.end()


async def test_at_the_end_requests_are_cut_and_then_the_rest_is_finished() -> None:
    server = Server()
    request = await server.begin()
    await server.end()
    assert server.said == ["lifespan.startup.complete", "http.disconnect", "at end", "lifespan.shutdown.complete"]
    await request
