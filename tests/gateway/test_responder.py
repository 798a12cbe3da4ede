"""A piece that a server does not take at once: what is left of writing it is the task's."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from src.ai.asgi import ASGIResponder
from src.ai.services.gateway.wire import SENT


class Server:
    """Takes what it is sent when there is room."""

    def __init__(self) -> None:
        self.has_room = asyncio.Event()
        self.taken: list[bytes] = []
        self.gave_up = 0

    async def send(self, message: Mapping[str, Any]) -> None:
        for _ in range(2):
            try:
                await self.has_room.wait()
            except asyncio.CancelledError:
                self.gave_up += 1
                raise
            if self.taken:
                await asyncio.sleep(0)
        self.taken.append(message["body"])

    async def receive(self) -> Mapping[str, Any]:
        raise NotImplementedError


async def test_what_is_taken_at_once_leaves_nothing_to_wait_for() -> None:
    server = Server()
    responder = ASGIResponder(server.receive, server.send, "x", body_wanted=True)
    server.has_room.set()
    assert responder.write(b"one") is SENT
    assert server.taken == [b"one"]
    await responder.write(b"two")  # in several steps
    assert server.taken == [b"one", b"two"]


async def test_what_is_not_is_waited_for_or_given_up() -> None:
    server = Server()
    responder = ASGIResponder(server.receive, server.send, "x", body_wanted=True)
    left = responder.write(b"one")
    assert left is not SENT

    async def wait() -> None:
        await left

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    server.has_room.set()
    await task
    assert server.taken == [b"one"]

    server.has_room.clear()
    left = responder.write(b"two")
    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (server.taken, server.gave_up) == ([b"one"], 1)


async def test_what_a_server_raises_is_raised() -> None:
    async def send(message: Mapping[str, Any]) -> None:
        await asyncio.sleep(0)
        raise OSError("closed")

    responder = ASGIResponder(Server().receive, send, "x", body_wanted=True)
    with pytest.raises(OSError, match="closed"):
        await responder.write(b"one")
