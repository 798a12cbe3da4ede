"""The gateway's door in uvicorn: `uvicorn config.asgi:application --http config.asgi:Protocol`.

What is asked most, a POST to a path of `/v1` over HTTP/1.1, is answered without ASGI's messages in between, which are
half of what uvicorn costs a request, and kilobytes a stream. All else is left to uvicorn's own protocol, whose the
connection stays: parsing, keep-alive, pipelining, the server's end. Its attributes are those of uvicorn 0.54.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from src.ai.asgi import Gateway, name_and_read
from src.ai.services.gateway import api
from src.ai.services.gateway.routing import CAPABILITIES
from src.ai.services.gateway.wire import SENT, Headers, server_error
from src.core.graceful import Message

logger = logging.getLogger(__name__)

# The paths that are answered here, as they stand in a request's first line.
_PATHS: Final = {f"{api.PREFIX}/{endpoint}".encode("ascii"): endpoint for endpoint in CAPABILITIES}
_JOINED: Final = 65536  # bytes up to which a body is copied to be written in one piece with its head


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol that knows the gateway.

    It does where the application is a `Gateway`, within nothing but uvicorn's own middleware, and where the server logs
    no access, limits no concurrency, resets no context and has no root path; else it is uvicorn's own.
    """

    # Beside uvicorn's attributes: a dictionary of more than 30 is one of its own for each connection, of over a kB.
    __slots__ = ("_knows_gateway", "_proxies", "_turn")

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        application: Any = config.loaded_app
        self._proxies: Any = ()
        if isinstance(application, ProxyHeadersMiddleware):
            self._proxies, application = application.trusted_hosts, application.app
        logs = self.access_log and self.access_logger.isEnabledFor(logging.INFO)
        is_plain = not (logs or self.root_path or self.limit_concurrency or config.reset_contextvars)
        self._knows_gateway = is_plain and isinstance(application, Gateway)
        self._turn: Turn | None = None
        self.pipeline = _Pipeline()  # type: ignore[assignment]  # it does what uvicorn needs of a `deque`

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.flow = _Flow(transport)

    def on_message_begin(self) -> None:
        if not self._knows_gateway:
            super().on_message_begin()
            return
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_headers_complete(self) -> None:
        if not self._knows_gateway:
            super().on_headers_complete()
        elif self.url in _PATHS and self._is_usual():
            self._turn = turn = Turn(self)
            self.cycle = turn  # type: ignore[assignment]  # it does what the protocol needs of one
            task = self.loop.create_task(turn.run(_PATHS[self.url], dict(self.headers), self._is_secure()))
            self.headers = []
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)
        else:
            url, headers, expects = self.url, self.headers, self.expect_100_continue
            super().on_message_begin()
            self.url, self.expect_100_continue = url, expects
            self.headers += headers  # the scope has the same list
            super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        turn, self._turn, self.cycle = self._turn, None, None  # type: ignore[assignment]  # which lead back here
        if turn is not None:
            turn.lose_client()

    def end_turn(self) -> None:
        """What was asked has its answer."""
        self._turn = None
        self.on_response_complete()

    def _is_usual(self) -> bool:
        parser = self.parser
        return bool(
            parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and not parser.should_upgrade()
            and not self.expect_100_continue
            and (self.cycle is None or self.cycle.response_complete)
        )

    def _is_secure(self) -> bool:
        """As a trusted proxy says, which uvicorn's middleware would read."""
        told = b""
        if (self.client[0] if self.client else None) in self._proxies:
            for name, value in self.headers:
                if name == b"x-forwarded-proto":
                    told = value.strip()
        return told == b"https" if told in (b"http", b"https", b"ws", b"wss") else self.scheme == "https"


class _Pipeline(list[Any]):
    """Requests that wait for their turn. A `deque` is 600 bytes more, and mostly there are none."""

    __slots__ = ()

    def appendleft(self, item: Any) -> None:
        self.insert(0, item)


class _Flow(FlowControl):
    """Back-pressure. uvicorn's has an event from the beginning, which is 800 bytes."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.read_paused = self.write_paused = False

    async def drain(self) -> None:
        if self.write_paused:
            await self._is_writable_event.wait()

    def pause_writing(self) -> None:
        self._is_writable_event = asyncio.Event()
        self.write_paused = True

    def resume_writing(self) -> None:
        if self.write_paused:
            self.write_paused = False
            self._is_writable_event.set()


class Turn:
    """A request and its answer: to the protocol what its cycle of both is, to the gateway a `Responder`."""

    __slots__ = (
        "_name",
        "_protocol",
        "_rest",
        "_waiting",
        "_when_left",
        "body",
        "disconnected",
        "has_begun",
        "keep_alive",
        "left",
        "more_body",
        "response_complete",
    )

    def __init__(self, protocol: Protocol) -> None:
        # What the protocol reads and writes.
        self.body = bytearray()  # what has come of it and was not taken yet
        self.more_body = True
        self.keep_alive: bool = protocol.parser.should_keep_alive()
        self.response_complete = False
        self.disconnected = False
        # What the gateway does.
        self.left = False
        self.has_begun = False

        self._protocol = protocol
        self._name = (b"", b"")
        self._rest: int | None = None  # what is to come of a body whose length was said
        self._waiting: asyncio.Future[None] | None = None
        self._when_left: Callable[[], object] | None = None

    async def run(self, path: str, headers: dict[bytes, bytes], is_secure: bool) -> None:
        """Answer, and leave the connection as it has to be then."""
        try:
            request = name_and_read("POST", path, headers, self.receive, is_secure=is_secure)
            del headers
            self._name = (b"x-request-id", request.request_id.encode("ascii"))
            await api.answer(request, self)
        except asyncio.CancelledError:  # the server ends
            if not self.has_begun:
                self.keep_alive = False  # what comes behind it is not to be begun
                failure = server_error()
                await self.send(failure.status, failure.headers, failure.body)
            raise
        except Exception:
            logger.exception("An answer of the gateway could not be sent", extra={"path": path})
        finally:
            if not (self.response_complete or self.disconnected):
                self._protocol.transport.close()
            self._when_left = None  # it may lead back here, which garbage would keep

    # -- what the protocol calls -----------------------------------------------------------------------------------

    @property
    def message_event(self) -> Turn:
        return self

    def set(self) -> None:
        """Something has come, or nothing will any more."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def lose_client(self) -> None:
        self.disconnected = True
        self.set()
        if self._when_left is not None:
            self._tell_that_left()

    # -- what the gateway calls ------------------------------------------------------------------------------------

    async def receive(self) -> Message:
        """More of the body, as ASGI has it."""
        self._protocol.flow.resume_reading()  # also where all has come: else nobody would see the client leave
        if self.more_body and not (self.body or self.disconnected):
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        if self.disconnected:
            return {"type": "http.disconnect"}
        body, self.body = bytes(self.body), bytearray()
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        head = self._head(status, [*headers, (b"content-length", b"%d" % len(body))])
        self.has_begun = True
        await self._drain()
        if self.disconnected:
            return
        if len(body) <= _JOINED:
            self._protocol.transport.write(head + body)
        else:
            self._protocol.transport.write(head)
            self._protocol.transport.write(body)
        self._complete()

    async def begin(self, status: int, headers: Headers, when_left: Callable[[], object]) -> None:
        length = next((value for name, value in headers if name == b"content-length"), None)
        self._rest = None if length is None else int(length)
        framing = [(b"transfer-encoding", b"chunked")] if length is None else []
        head = self._head(status, headers + framing)
        self.has_begun = True
        await self._drain()
        self.watch(when_left)
        if not self.disconnected:
            self._protocol.transport.write(head)

    def watch(self, when_left: Callable[[], object]) -> None:
        self._when_left = when_left
        if self.disconnected:
            self._tell_that_left()

    def write(self, piece: bytes) -> Awaitable[None]:
        if self.disconnected or not piece:
            return SENT
        if self._rest is None:
            piece = b"%x\r\n%b\r\n" % (len(piece), piece)
        else:
            self._rest -= len(piece)
        self._protocol.transport.write(piece)
        return self._protocol.flow.drain() if self._protocol.flow.write_paused else SENT

    async def end(self) -> None:
        if self.disconnected or self._rest:
            return  # what was said to be longer is broken off
        if self._rest is None:
            self._protocol.transport.write(b"0\r\n\r\n")
        self._complete()

    def break_off(self) -> None:
        """Nothing: the connection of an answer that was begun and has no end is closed."""

    async def _drain(self) -> None:
        """Wait for a client who has not taken what was sent before."""
        if self._protocol.flow.write_paused:
            await self._protocol.flow.drain()

    def _tell_that_left(self) -> None:
        when_left, self._when_left = self._when_left, None
        self.left = True
        if when_left is not None:
            when_left()

    def _head(self, status: int, headers: Headers) -> bytes:
        named = [*self._protocol.server_state.default_headers, *headers, self._name]
        lines = [b": ".join(header) for header in named]
        if not self.keep_alive:
            lines.append(b"connection: close")
        head = b"%b%b\r\n\r\n" % (STATUS_LINE[status], b"\r\n".join(lines))
        if not head.count(b"\r") == head.count(b"\n") == len(lines) + 2:
            raise ValueError("A header of an answer holds the end of a line.")
        return head

    def _complete(self) -> None:
        self.response_complete = True
        if not self.keep_alive:
            self._protocol.transport.close()
        self._protocol.end_turn()
