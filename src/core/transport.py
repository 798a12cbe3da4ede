"""httpx's way to `src.core.exchange`: what the vendors' SDKs and our own typed calls go through."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from math import inf
from typing import Final

import httpx

from src.core.exchange import Answer, Exchanges, Origin, Reading
from src.core.limits import Timeouts
from src.core.net_guard import check_target

REQUESTS_LIMIT: Final = 1000  # at once; more wait for their turn
PIECE: Final = 64 * 1024  # bytes of a body that are decoded at once: compressed ones may be a thousand times as large
_STREAMED: Final = Reading((), decodes=True)
_FRAMING: Final = (b"content-length", b"transfer-encoding")
# A line of a head (RFC 9110, 5.5 and 5.6.2); what else is in it would be read as something that nobody wrote.
_LINE: Final = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+: [\t \x21-\x7e\x80-\xff]*")


class Transport(httpx.AsyncBaseTransport):
    """Sends each request over one of the loop's connections. Errors are httpx's.

    A `RemoteProtocolError` says that what came is no HTTP. Of an error's body comes the first part.
    """

    def __init__(self, exchanges: Exchanges) -> None:
        self._exchanges = exchanges
        self._turns = asyncio.Semaphore(REQUESTS_LIMIT)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url, waits = request.url, request.extensions.get("timeout", {})
        check_target(url.scheme, url.host)
        body = await request.aread()
        head = _head(request, len(body))
        limits = Timeouts(_seconds(waits.get("connect")), _seconds(waits.get("read")), inf)
        await self._wait_for_turn(waits.get("pool"))
        try:
            answer = await self._exchanges.ask(Origin.of(url), head, body, limits, _STREAMED)
        except BaseException:
            self._turns.release()
            raise
        # What is compressed may be any size, so that its reader has to see it grow.
        is_compressed = any(name.lower() == b"content-encoding" for name, _ in answer.headers)
        if not is_compressed and (content := answer.take_rest()) is not None:
            answer.close()
            self._turns.release()
            return httpx.Response(answer.status, headers=answer.headers, content=content)
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer, self._turns))

    async def _wait_for_turn(self, seconds: float | None) -> None:
        if not self._turns.locked():
            await self._turns.acquire()
            return
        try:
            async with asyncio.timeout(seconds):
                await self._turns.acquire()
        except TimeoutError as error:
            raise httpx.PoolTimeout(f"{REQUESTS_LIMIT} requests are under way") from error


class _Body(httpx.AsyncByteStream):
    """The body of an answer. Its request has a turn until it ends."""

    def __init__(self, answer: Answer, turns: asyncio.Semaphore) -> None:
        self._answer = answer
        self._turns: asyncio.Semaphore | None = turns

    async def __aiter__(self) -> AsyncIterator[bytes]:
        answer = self._answer
        try:
            piece = answer.content or await answer.next_piece()
            while piece:
                for start in range(0, len(piece), PIECE):
                    yield piece[start : start + PIECE]
                piece = await answer.next_piece()
        finally:
            self._end()

    async def aclose(self) -> None:
        self._end()

    def _end(self) -> None:
        turns, self._turns = self._turns, None
        if turns is not None:
            self._answer.close()
            turns.release()


def _head(request: httpx.Request, length: int) -> bytes:
    """All that comes before a body of so many bytes, which is sent in one piece however it was made.

    Raises:
        httpx.LocalProtocolError: a header would not arrive as it is, or would bring others along; or it is a HEAD,
            whose answer announces a body that never comes.
    """
    if request.method == "HEAD":
        raise httpx.LocalProtocolError("HEAD can't be asked here: use GET")
    lines = [b"%b %b HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
    has_body = bool(length)
    for name, value in request.headers.raw:
        if name.lower() in _FRAMING:
            has_body = True
            continue
        line = b"%b: %b" % (name, value)
        if not _LINE.fullmatch(line):
            # Its value may be a key.
            raise httpx.LocalProtocolError(f"the header {name.decode('latin-1')!r} holds what no header may hold")
        lines.append(line)
    if has_body:
        lines.append(b"Content-Length: %d" % length)
    return b"\r\n".join([*lines, b"", b""])


def _seconds(limit: float | None) -> float:
    return inf if limit is None else limit
