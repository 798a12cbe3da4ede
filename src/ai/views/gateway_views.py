"""The gateway's ordinary view: what answers under WSGI, and wherever `src.ai.asgi.Gateway` does not stand in front."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from time import monotonic
from typing import Final

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse, UnreadablePostError
from django.http.response import HttpResponseBase
from django.views.decorators.csrf import csrf_exempt

from src.ai.exceptions import BodyIncomplete, BodyTimeout, BodyTooLarge
from src.ai.services.gateway import api
from src.ai.services.gateway.options import options
from src.ai.services.gateway.wire import Headers, Request
from src.core.loop import Errands, io_loop
from src.core.request_id import current_request_id

PIECE: Final = 64 * 1024  # bytes of a body that are waited for at a time


@csrf_exempt
def gateway(request: HttpRequest, path: str | None = None) -> HttpResponseBase:
    """Answer a request to OpenAI's HTTP API."""
    return ThreadResponder(request, (path or "").strip("/")).response()


class ThreadResponder:
    """Answers from the thread of a view, which does what needs the database while the gateway runs on the I/O loop."""

    def __init__(self, request: HttpRequest, path: str) -> None:
        self.left = False
        self.has_begun = False
        self._is_broken_off = False
        self._errands = Errands()
        self._head: tuple[int, Headers] | None = None
        self._pieces: deque[bytes] = deque()
        self._is_whole = False
        self._when_left: Callable[[], object] = lambda: None
        asked = Request(
            method=request.method or "GET",
            path=path,
            headers=_headers(request),
            read_body=lambda: self._errands.ask(lambda: _read_body(request)),
            request_id=current_request_id(),
            is_secure=request.is_secure(),
            errands=self._errands,
        )
        self._done: Future[None] = io_loop.start(api.answer(asked, self))
        self._errands.end_with(self._done)

    def response(self) -> HttpResponseBase:
        """The answer, as soon as its head is known."""
        while self._head is None and self._errands.run_next():
            pass
        if self._head is None:
            self._done.result()  # raises what ended it
        status, headers = self._head or (500, [])
        if self._is_whole:
            self._settle()
            response: HttpResponseBase = HttpResponse(b"".join(self._pieces), status=status)
        else:
            response = StreamingHttpResponse(self, status=status)
        del response["Content-Type"]
        for name, value in headers:
            response[name.decode("latin-1")] = value.decode("latin-1")
        return response

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """The next piece."""
        while not self._pieces:
            if not self._errands.run_next():
                if self._is_broken_off:
                    raise BrokenPipeError("The answer was broken off")
                raise StopIteration
        return self._pieces.popleft()

    def close(self) -> None:
        """The end of the answer, or of the client's patience; the call is on the books after it."""
        if not self._done.done():
            self.left = True
            io_loop.call(self._when_left)
        self._settle()

    def _settle(self) -> None:
        while self._errands.run_next():
            pass

    # -- what the gateway calls, on its loop -----------------------------------------------------------------------

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        self.has_begun = self._is_whole = True
        await self._errands.ask(lambda: self._begin(status, headers, body))

    async def begin(self, status: int, headers: Headers, when_left: Callable[[], object]) -> None:
        self.has_begun = True
        self._when_left = when_left
        # Some servers would keep a connection on which less has come than was promised.
        open_ended = [(name, value) for name, value in headers if name != b"content-length"]
        await self._errands.ask(lambda: self._begin(status, open_ended))

    def watch(self, when_left: Callable[[], object]) -> None:
        """WSGI does not tell."""

    async def write(self, piece: bytes) -> None:
        await self._errands.ask(lambda: self._pieces.append(piece))

    async def end(self) -> None:
        """The end of the call is the end of the answer."""

    def break_off(self) -> None:
        self._is_broken_off = True

    def _begin(self, status: int, headers: Headers, body: bytes = b"") -> None:
        self._head = (status, headers)
        if body:
            self._pieces.append(body)


def _headers(request: HttpRequest) -> dict[bytes, bytes]:
    return {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in request.headers.items()}


def _read_body(request: HttpRequest) -> bytes:
    """The whole body. How long a client may be silent is for the WSGI server to say.

    Raises:
        BodyTooLarge, BodyTimeout, BodyIncomplete: it is too large, or too slow, or the client has left within it.
    """
    limit = options().body_limit
    announced = request.headers.get("Content-Length", "")
    length = int(announced[:20]) if announced.isdigit() else 0
    if length > limit:
        raise BodyTooLarge(limit=limit)
    seconds = options().body_timeout
    last = monotonic() + seconds
    parts: list[bytes] = []
    try:
        while part := request.read(PIECE):
            parts.append(part)
            if monotonic() > last:
                raise BodyTimeout(seconds=seconds)
    except UnreadablePostError as error:
        raise BodyIncomplete() from error
    body = b"".join(parts)
    if len(body) < length:
        raise BodyIncomplete()
    return body
