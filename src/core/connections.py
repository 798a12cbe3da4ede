"""HTTP/1.1 over sockets of our own: the transport of `src.core.http`.

httpx's own one ends a connection in several awaits, and a second cancellation on the way, as one time-out inside
another brings, leaves it open and counted for good (httpcore 1.0.9, `_async/http11.py`: `_response_closed`). Here
ending a connection waits for nothing, so that nothing can interrupt it. The protocol is h11's, TLS is anyio's.

Sockets and not asyncio's transports, which can be closed on a running loop only: a loop that ends, or a fork, would
leave descriptors behind (`asyncio.selector_events._SelectorTransport`, Python 3.11 to 3.14).
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import AsyncIterator
from ipaddress import ip_address
from time import monotonic
from typing import Any, Final, NamedTuple, cast

import anyio
import h11
import httpx
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from src.core.net_guard import check_address, check_target

REQUESTS_LIMIT: Final = 1000  # at once; more wait for their turn
IDLE_LIMIT: Final = 100  # connections
IDLE_SECONDS: Final = 30.0
HEAD_LIMIT: Final = 100 * 1024
ERROR_BODY_LIMIT: Final = 64 * 1024  # of an error's body: SDKs read it whole, however long it is
PIECE: Final = 64 * 1024


class AnswerBroken(httpx.ReadError):
    """The connection broke in the head of an answer: the vendor had the request, and may have done its work."""


class Origin(NamedTuple):
    """Whom a connection leads to."""

    scheme: str
    host: str
    port: int


class Transport(httpx.AsyncBaseTransport):
    """Sends a request over an idle connection to its origin, else over a new one.

    Connects to addresses that `src.core.net_guard` allows and to nothing else: a name is resolved once. Errors are
    httpx's; a `RemoteProtocolError` says that what came is no HTTP. Of an error's body comes the first part.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._turns = asyncio.Semaphore(REQUESTS_LIMIT)
        self._idle: list[_Connection] = []  # the one used last comes last
        self._sockets: set[socket.socket] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        check_target(request.url.scheme, request.url.host)
        waits = request.extensions.get("timeout", {})
        await self._wait_for_turn(waits.get("pool"))
        connection: _Connection | None = None
        try:
            url = request.url
            port = url.port or (443 if url.scheme == "https" else 80)
            origin = Origin(url.scheme, url.raw_host.decode("ascii"), port)
            connection = self._take_idle(origin) or await self._connect(origin, waits.get("connect"))
            await connection.send(request, waits.get("write"))
            head = await connection.head(waits.get("read"))
        except BaseException:
            self.give_back(connection)
            raise
        return httpx.Response(
            head.status_code,
            headers=head.headers.raw_items(),
            stream=_Body(self, connection, waits.get("read"), is_error=head.status_code >= 400),
            extensions={"http_version": b"HTTP/" + head.http_version, "reason_phrase": head.reason},
        )

    def give_back(self, connection: _Connection | None) -> None:
        """The end of a request: its turn is another's, and so is its connection, if it got to the end of an answer."""
        self._turns.release()
        if connection is None:
            return
        if not connection.renew():
            self._close(connection.socket)
            return
        self._idle.append(connection)
        while self._idle and (len(self._idle) > IDLE_LIMIT or self._idle[0].is_old()):
            self._close(self._idle.pop(0).socket)

    def drop(self) -> None:
        """Close every socket, also where the loop is closed or belongs to another process."""
        self._idle.clear()
        for item in list(self._sockets):
            self._close(item)

    async def aclose(self) -> None:
        self.drop()

    async def _wait_for_turn(self, seconds: float | None) -> None:
        if not self._turns.locked():
            await self._turns.acquire()
            return
        try:
            async with asyncio.timeout(seconds):
                await self._turns.acquire()
        except TimeoutError as error:
            raise httpx.PoolTimeout(f"{REQUESTS_LIMIT} requests are under way") from error

    def _take_idle(self, origin: Origin) -> _Connection | None:
        for connection in reversed(self._idle):
            if connection.origin == origin:
                self._idle.remove(connection)
                if connection.is_alive():
                    return connection
                self._close(connection.socket)
        return None

    def _close(self, item: socket.socket) -> None:
        self._sockets.discard(item)
        item.close()

    # -- connecting ------------------------------------------------------------------------------------------------

    async def _connect(self, origin: Origin, seconds: float | None) -> _Connection:
        deadline = None if seconds is None else monotonic() + seconds
        try:
            async with asyncio.timeout(seconds):
                found = await asyncio.get_running_loop().getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
                for *_, address in found:
                    check_address(origin.host, ip_address(str(address[0]).partition("%")[0]))
                return await self._first_to_answer(origin, found, deadline)
        except TimeoutError as error:
            raise httpx.ConnectTimeout(f"no connection to {origin.host} within {seconds} seconds") from error
        except (OSError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
            raise httpx.ConnectError(str(error) or "the TLS handshake was broken off") from error

    async def _first_to_answer(self, origin: Origin, found: list[Any], deadline: float | None) -> _Connection:
        """Tries each address in the order of the resolver; one that keeps silent has its share of the time."""
        for left in range(len(found), 0, -1):
            try:
                async with asyncio.timeout(None if deadline is None else (deadline - monotonic()) / left):
                    return await self._connect_to(origin, *found[-left])
            except OSError:
                if left == 1:
                    raise
        raise OSError("the name has no address")

    async def _connect_to(
        self, origin: Origin, family: int, kind: int, protocol: int, _name: str, address: Any
    ) -> _Connection:
        item = socket.socket(family, kind, protocol)
        self._sockets.add(item)
        try:
            item.setblocking(False)
            item.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(item, address)
            stream: ByteStream = _SocketStream(item)
            if origin.scheme == "https":
                stream = await TLSStream.wrap(
                    stream, ssl_context=self._context, hostname=origin.host, standard_compatible=False
                )
        except BaseException:
            self._close(item)
            raise
        return _Connection(origin, item, stream)


class _Connection:
    """One connection, of one user at a time."""

    def __init__(self, origin: Origin, item: socket.socket, stream: ByteStream) -> None:
        self.origin = origin
        self.socket = item
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT)
        self._ended = False  # the other side sends no more
        self._idle_since = 0.0

    async def send(self, request: httpx.Request, wait: float | None) -> None:
        """Send the request, in as few writes as may be."""
        try:
            head = h11.Request(method=request.method, target=request.url.raw_path, headers=request.headers.raw)
            waiting = self._http.send(head) or b""
            async for part in cast(httpx.AsyncByteStream, request.stream):
                if len(waiting) > PIECE:
                    await self._write(waiting, wait)
                    waiting = b""
                waiting += self._http.send(h11.Data(data=part)) or b""
            waiting += self._http.send(h11.EndOfMessage()) or b""
        except h11.LocalProtocolError as error:
            raise httpx.LocalProtocolError(str(error)) from error
        await self._write(waiting, wait)

    async def head(self, wait: float | None) -> h11.Response:
        """The head of the answer."""
        try:
            while not isinstance(event := await self.next_event(wait), h11.Response):
                pass
        except httpx.ReadError as error:
            if self._http.trailing_data[0]:
                raise AnswerBroken("the connection was closed in the middle of an answer's head") from error
            raise
        return event

    async def next_event(self, wait: float | None) -> Any:
        """The next piece of the answer, as h11 has it."""
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                self._http.receive_data(await self._read(wait))
        except h11.RemoteProtocolError as error:
            if self._ended:
                raise httpx.ReadError("the connection was closed before the answer was complete") from error
            raise httpx.RemoteProtocolError(f"it is no HTTP: {error}") from error
        return event

    def renew(self) -> bool:
        """Make it ready for another request, if that can be; whether it is."""
        if {self._http.our_state, self._http.their_state} != {h11.DONE} or self._http.trailing_data[0]:
            return False
        if self.socket.fileno() < 0:
            return False
        self._http.start_next_cycle()
        self._idle_since = monotonic()
        return True

    def is_old(self) -> bool:
        """Whether it has been idle for so long that its other end may be about to close it."""
        return monotonic() - self._idle_since > IDLE_SECONDS

    def is_alive(self) -> bool:
        """Whether this idle connection may be used: what it has to say can only be that its other end has closed it."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return not self.is_old() and not poll.poll(0)

    async def _write(self, data: bytes, wait: float | None) -> None:
        try:
            async with asyncio.timeout(wait):
                await self._stream.send(data)
        except TimeoutError as error:
            raise httpx.WriteTimeout(f"nothing could be sent for {wait} seconds") from error
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # a server may answer and close before it has read everything: the answer, or its lack, tells

    async def _read(self, wait: float | None) -> bytes:
        try:
            async with asyncio.timeout(wait):
                return await self._stream.receive(PIECE)
        except TimeoutError as error:
            raise httpx.ReadTimeout(f"nothing came for {wait} seconds") from error
        except anyio.EndOfStream:
            self._ended = True
            return b""
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise httpx.ReadError(str(error)) from error


class _Body(httpx.AsyncByteStream):
    def __init__(self, transport: Transport, connection: _Connection, wait: float | None, *, is_error: bool) -> None:
        self._transport = transport
        self._connection: _Connection | None = connection
        self._wait = wait
        self._is_error = is_error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        connection = self._connection
        size = 0
        try:
            while connection and isinstance(event := await connection.next_event(self._wait), h11.Data):
                yield bytes(event.data)
                size += len(event.data)
                if self._is_error and size >= ERROR_BODY_LIMIT:
                    break
        except httpx.TransportError:
            if not self._is_error:
                raise
            # The status says enough.
        finally:
            self._end()

    async def aclose(self) -> None:
        self._end()

    def _end(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._transport.give_back(connection)


class _SocketStream(ByteStream):
    """A socket as anyio's TLS expects it."""

    def __init__(self, item: socket.socket) -> None:
        self._socket = item

    async def receive(self, max_bytes: int = PIECE) -> bytes:
        try:
            data = self._socket.recv(max_bytes)
        except (BlockingIOError, InterruptedError):
            data = await asyncio.get_running_loop().sock_recv(self._socket, max_bytes)
        else:
            await asyncio.sleep(0)  # an endless answer would stop the loop, time-outs included
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, item)

    async def send_eof(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        self._socket.close()
