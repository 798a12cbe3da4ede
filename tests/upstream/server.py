"""A vendor on loopback: a real HTTP/1.1 server on a thread of its own, which answers as it is told and remembers all.

    upstream.reply(200, {"choices": […]})             the next request gets this
    upstream.on("POST", "/v1/chat/completions", Reply(…))   every request to this path gets this
    upstream.last.json, .headers["authorization"]     what arrived

A `Reply` is a list of steps, so that a test can hold an answer anywhere: bytes are sent as they are, a `Gate` waits
until the test opens it, `HANG` waits until the client goes away, `RESET` breaks the connection, `endless(…)` never
stops, and `DONE` ends an answer that a test has spelled out itself, and keeps its connection.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Self

WAIT = 10.0  # seconds after which a test that waits for the upstream has failed


class Step(Enum):
    HANG = "hang"
    RESET = "reset"
    CLOSE = "close"
    DONE = "done"


HANG, RESET, CLOSE, DONE = Step.HANG, Step.RESET, Step.CLOSE, Step.DONE


class Gate:
    """A place in an answer where the upstream waits for the test."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._open = threading.Event()

    def wait_until_reached(self) -> None:
        assert self._reached.wait(WAIT), "the upstream never came to the gate"

    @property
    def is_reached(self) -> bool:
        return self._reached.is_set()

    def open(self) -> None:
        self._open.set()

    async def pass_through(self) -> None:
        self._reached.set()
        await asyncio.to_thread(self._open.wait, WAIT)


@dataclass(frozen=True)
class Endless:
    part: bytes


def endless(part: bytes) -> Endless:
    """Send `part` again and again until the client goes away."""
    return Endless(part)


Content = bytes | Gate | Step | Endless


@dataclass(frozen=True)
class Reply:
    """An answer: `before` its head, then the head, then the body's parts, chunked unless `length` is given."""

    status: int = 200
    parts: Sequence[Content] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    before: Sequence[Content] = ()
    length: int | None = None

    def replace_headers(self, **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Reply(self.status, self.parts, {**self.headers, **named}, self.before, self.length)


def whole(status: int, body: Any = b"", headers: Mapping[str, str] | None = None, content_type: str = "") -> Reply:
    """An answer with a `Content-Length`. A dict or a list is sent as JSON, a text in UTF-8."""
    if isinstance(body, dict | list):
        body, content_type = json.dumps(body).encode(), content_type or "application/json"
    elif isinstance(body, str):
        body = body.encode()
    named = {"content-type": content_type or "application/octet-stream", **(headers or {})}
    return Reply(status, [body], named, length=len(body))


def events(*parts: Content | dict[str, Any] | str, done: bool = True) -> Reply:
    """A stream of server-sent events: a dict is one, a text is sent as it is."""
    frames: list[Content] = []
    for part in parts:
        if isinstance(part, dict):
            frames.append(b"data: " + json.dumps(part, ensure_ascii=False).encode() + b"\n\n")
        else:
            frames.append(part.encode() if isinstance(part, str) else part)
    if done:
        frames.append(b"data: [DONE]\n\n")
    return Reply(200, frames, {"content-type": "text/event-stream; charset=utf-8"})


@dataclass(frozen=True)
class Request:
    """What arrived, and on which connection (numbered from 1)."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answer = Reply | Callable[[Request], Reply]


class Upstream:
    """See the module's text. Use as a context manager, or by the fixture `upstream`."""

    def __init__(self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self._tls = tls
        self._host = host
        self.requests: list[Request] = []
        self.connections = 0
        self.open_connections = 0
        self._script: deque[Answer] = deque()
        self._routes: dict[tuple[str, str], Answer] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="upstream", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._on_loop(asyncio.start_server(self._serve, self._host, 0, backlog=512, ssl=self._tls))
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://[{self._host}]:{self.port}" if ":" in self._host else f"http://{self._host}:{self.port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._on_loop(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT)
        self._loop.close()

    # -- what a test says ------------------------------------------------------------------------------------------

    def reply(self, status: int, body: Any = b"", headers: Mapping[str, str] | None = None, **more: Any) -> None:
        """Answer the next request with this; several calls answer several requests, in order."""
        self.send(whole(status, body, headers, **more))

    def send(self, *answers: Answer) -> None:
        """Answer the next requests with these, in order."""
        with self._lock:
            self._script.extend(answers)

    def on(self, method: str, path: str, answer: Answer) -> None:
        """Answer every request to this path with this, where nothing is scripted."""
        self._routes[method, path] = answer

    # -- what a test asks ------------------------------------------------------------------------------------------

    @property
    def last(self) -> Request:
        return self.requests[-1]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until the upstream has come to a state: `upstream.wait_for(lambda: upstream.open_connections == 0)`."""
        with self._changed:
            assert self._changed.wait_for(condition, WAIT), "the upstream never came to this state"

    # -- the server ------------------------------------------------------------------------------------------------

    def _on_loop(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(WAIT)

    async def _stop(self) -> None:
        self._server.close()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_default_executor()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._changed:
            self.connections += 1
            self.open_connections += 1
            number = self.connections
        try:
            while request := await self._read(reader, number):
                answer = self._answer(request)
                if not await self._write(answer(request) if callable(answer) else answer, reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()  # the loop closes the socket later
            with self._changed:
                self.open_connections -= 1
                self._changed.notify_all()

    async def _read(self, reader: asyncio.StreamReader, connection: int) -> Request | None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.rstrip().split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        path, _, query = target.partition("?")
        request = Request(method, path, query, headers, body, connection)
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
        return request

    def _answer(self, request: Request) -> Answer:
        with self._lock:
            if self._script:
                return self._script.popleft()
        missing = whole(404, {"error": {"message": f"nothing is scripted for {request.method} {request.path}"}})
        return self._routes.get((request.method, request.path), missing)

    async def _write(self, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Send it; whether the connection stays."""
        for part in reply.before:
            if part is DONE:
                return True
            if not await self._send(part, reader, writer, chunked=False):
                return False
        framing = {"transfer-encoding": "chunked"} if reply.length is None else {"content-length": str(reply.length)}
        lines = [f"HTTP/1.1 {reply.status} Scripted"]
        lines += [f"{name}: {value}" for name, value in {**framing, **reply.headers}.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        for part in reply.parts:
            if not await self._send(part, reader, writer, chunked=reply.length is None):
                return False
        if reply.length is None:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _send(
        self, part: Content, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, chunked: bool
    ) -> bool:
        if isinstance(part, Gate):
            await part.pass_through()
        elif part is HANG:
            await reader.read()
            return False
        elif part is RESET:
            await writer.drain()
            connection: socket.socket = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        elif part is CLOSE:
            await writer.drain()
            writer.close()
            return False
        elif isinstance(part, Endless):
            while not writer.is_closing():
                writer.write(_chunk(part.part) if chunked else part.part)
                await writer.drain()
                await asyncio.sleep(0)  # where it need not wait, it would never hear that the client has gone
            return False
        elif isinstance(part, bytes) and part:
            writer.write(_chunk(part) if chunked else part)
            await writer.drain()
        return True


def _chunk(part: bytes) -> bytes:
    return f"{len(part):x}\r\n".encode() + part + b"\r\n"
