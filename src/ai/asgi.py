"""The gateway's own door: an ASGI application before Django's, which costs a request ten times as much."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import Any, Final

from src.ai.exceptions import BodyIncomplete, BodyTimeout, BodyTooLarge
from src.ai.services.gateway import api
from src.ai.services.gateway.options import options
from src.ai.services.gateway.wire import SENT, Headers, Request
from src.core.graceful import Application, Message, Receive, Scope, Send
from src.core.request_id import name_request

_PATH: Final = f"{api.PREFIX}/"


class Gateway:
    """Answers what is below `/v1/`; everything else is for `application`.

    A request that the server cancels at its end is cut here and settled; the application behind, which is told of the
    end of the process, waits for the books.
    """

    def __init__(self, application: Application) -> None:
        self.application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have it answered."""
        if scope["type"] != "http" or not (scope["path"].startswith(_PATH) or scope["path"] == api.PREFIX):
            await self.application(scope, receive, send)
            return
        headers = dict(scope["headers"])
        path, is_secure = scope["path"].removeprefix(api.PREFIX).strip("/"), scope.get("scheme") == "https"
        request = name_and_read(scope["method"], path, headers, receive, is_secure=is_secure)
        responder = ASGIResponder(receive, send, request.request_id, body_wanted=scope["method"] != "HEAD")
        try:
            await api.answer(request, responder)
        finally:
            responder.stop_watching()


def name_and_read(method: str, path: str, headers: dict[bytes, bytes], receive: Receive, *, is_secure: bool) -> Request:
    """What has come in, named in the context of the running task.

    Args:
        method: in capitals.
        path: what follows `/v1/`.
        headers: their names in lower case.
        receive: gives the body, by ASGI's messages.
        is_secure: whether it came over HTTPS, as far as the server knows.
    """
    return Request(
        method=method,
        path=path,
        headers=headers,
        read_body=lambda: _read_body(receive, headers),
        request_id=name_request(headers.get(b"x-request-id", b"").decode("latin-1")),
        is_secure=_is_secure(headers, is_secure),
    )


class ASGIResponder:
    """Answers over an ASGI connection."""

    def __init__(self, receive: Receive, send: Send, name: str, *, body_wanted: bool) -> None:
        self.left = False
        self.has_begun = False
        self._receive = receive
        self._send = send
        self._name = (b"x-request-id", name.encode("ascii"))
        self._body_wanted = body_wanted
        self._when_left: Callable[[], object] = lambda: None
        self._watching: asyncio.Task[None] | None = None

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        length = (b"content-length", str(len(body)).encode("ascii"))
        head = [*headers, self._name, length]
        self.has_begun = True
        await self._send({"type": "http.response.start", "status": status, "headers": head})
        await self._send({"type": "http.response.body", "body": body if self._body_wanted else b""})

    async def begin(self, status: int, headers: Headers, when_left: Callable[[], object]) -> None:
        self.has_begun = True
        self.watch(when_left)
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, self._name]})

    def watch(self, when_left: Callable[[], object]) -> None:
        self._when_left = when_left
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    def write(self, piece: bytes) -> Awaitable[None]:
        """Begun at once, as most servers put it into the socket without waiting."""
        steps = self._send({"type": "http.response.body", "body": piece, "more_body": True}).__await__()
        try:
            return _Rest(steps, next(steps))
        except StopIteration:
            return SENT

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})

    def break_off(self) -> None:
        """Nothing: a server closes the connection of an answer that was begun and has no end."""

    def stop_watching(self) -> None:
        watching, self._watching = self._watching, None  # else each would keep the other until garbage is collected
        if watching is not None:
            watching.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left = True
        self._when_left()


class _Rest:
    """What is left of a coroutine that was begun outside of `await`."""

    __slots__ = ("_steps", "_waits_for")

    def __init__(self, steps: Generator[Any, Any, None], waits_for: object) -> None:
        self._steps = steps
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        steps, waits_for = self._steps, self._waits_for
        try:
            while True:
                try:
                    told = yield waits_for
                except BaseException as error:
                    waits_for = steps.throw(error)
                else:
                    waits_for = steps.send(told)
        except StopIteration:
            return


async def _read_body(receive: Receive, headers: dict[bytes, bytes]) -> bytes:
    """The whole body.

    Raises:
        BodyTooLarge, BodyTimeout, BodyIncomplete: it is too large, or too slow, or the client has left within it.
    """
    limit = options().body_limit
    announced = headers.get(b"content-length", b"")
    if announced.isdigit() and int(announced[:20]) > limit:
        raise BodyTooLarge(limit=limit)
    message = _at_once(receive)
    body, more = (b"", True) if message is None else _part(message)
    parts, size = [body], len(body)
    if more:
        seconds = options().body_timeout
        try:
            async with asyncio.timeout(seconds):
                while more and size <= limit:
                    body, more = _part(await receive())
                    parts.append(body)
                    size += len(body)
        except TimeoutError as error:
            raise BodyTimeout(seconds=seconds) from error
    if size > limit:
        raise BodyTooLarge(limit=limit)
    return b"".join(parts)


def _part(message: Message) -> tuple[bytes, bool]:
    """A part of a body, and whether more will come."""
    if message["type"] == "http.disconnect":
        raise BodyIncomplete()
    return message.get("body", b""), message.get("more_body", False)


def _at_once(receive: Receive) -> Message | None:
    """What has come already: mostly all there is, and a time-out costs more than to read it. None says to wait."""
    waiting = receive().__await__()
    try:
        next(waiting)
    except StopIteration as done:
        message: Message = done.value
        return message
    waiting.close()
    return None


def _is_secure(headers: Mapping[bytes, bytes], is_secure: bool) -> bool:
    """As Django's `HttpRequest.is_secure` has it."""
    if (told := options().secure_header) is not None and told[0] in headers:
        return headers[told[0]].decode("latin-1").split(",", 1)[0].strip() == told[1]
    return is_secure
