"""HTTP/1.1 by the bytes: a request's go out as they are, an answer's come in as they are.

What the gateway passes on goes this way without httpx and its objects, and a piece of a stream wakes no task.
`src.core.transport` is httpx's way. The parser is httptools' (llhttp), the transport asyncio's. Errors are httpx's.

Ending a connection waits for nothing, so that nothing can interrupt it: httpx's own transport does it in several
awaits, and a second cancellation on the way, as one time-out inside another brings, leaves it open and counted for good
(httpcore 1.0.9, `_async/http11.py`: `_response_closed`).
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from asyncio.tasks import _enter_task, _leave_task  # as the documentation has it, in "Extending"
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from ipaddress import ip_address
from math import inf
from sys import maxsize
from typing import Any, Final, NamedTuple, Self, cast

import httptools
import httpx

from src.core.limits import BodyTooLarge, Timeouts
from src.core.net_guard import UrlRefused, check_address, check_target
from src.core.sockets import has_something

IDLE_LIMIT: Final = 1000  # connections to one origin: streams come in crowds, and to connect costs as much as to ask
IDLE_SECONDS: Final = 30.0
FRESH: Final = 0.05  # seconds in which an idle connection is believed to be open still
HEAD_LIMIT: Final = 100 * 1024
ERROR_BODY_LIMIT: Final = 64 * 1024  # of an error's body: SDKs read it whole, however long it is
NAME_SECONDS: Final = 5.0  # that the addresses of a name are believed
UNREAD_LIMIT: Final = 256 * 1024  # bytes of a stream that wait to be read, before its sender is made to wait
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE: Final = re.compile(r"[\t -~]*")
SHARE: Final = 160e-6  # seconds between two pieces of a stream, for each that runs: an eighth of the loop is theirs
LONGEST_PAUSE: Final = 0.05  # seconds between two pieces that no reader minds
LARGE: Final = 16 * 1024  # bytes that are worth a piece of their own
RawHeaders = list[tuple[bytes, bytes]]
Take = Callable[[bytes], Awaitable[None] | None]


class AnswerBroken(httpx.ReadError):
    """The connection broke when an answer had begun: the vendor had the request, and may have done its work."""


class Origin(NamedTuple):
    """Whom a connection leads to."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: httpx.URL) -> Self:
        """The one that a URL leads to. Raises `UnicodeError` where its host is nobody's name."""
        host = url.raw_host.decode("ascii")
        return cls(url.scheme, host, url.port or (443 if url.scheme == "https" else 80))


ANY: Final = (b"",)  # content types, by their beginnings


class Reading(NamedTuple):
    """How an answer is read that is no error. Of an error's body comes the first part, always as a whole.

    `whole`: the content types, by their beginnings, that are read whole, and then may have `limit` bytes; any other
    comes as a stream. `decodes`: its reader undoes a compression.
    """

    whole: tuple[bytes, ...]
    limit: int = maxsize
    decodes: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a request goes, and the part of its head that is always the same."""

    origin: Origin
    head: bytes

    @classmethod
    def of(cls, url: str, headers: Mapping[str, str]) -> Self:
        """For POST requests to `url`, which `src.core.net_guard` has seen, with these headers.

        Raises:
            UrlRefused: the URL can't be read.
            ValueError: a header would not arrive as it is, or would bring others along.
        """
        try:
            parts = httpx.URL(url)
            origin = Origin.of(parts)
            origin.host.encode("idna")  # as every resolver does
        except (httpx.InvalidURL, UnicodeError) as error:
            raise UrlRefused(f"it can't be read: {error}") from error
        for name, value in headers.items():
            if not (_NAME.fullmatch(name) and _VALUE.fullmatch(value)):
                raise ValueError(f"the header {name!r} holds what no header may hold")  # its value may be a key
        lines = [b"POST %b HTTP/1.1" % parts.raw_path, b"Host: %b" % parts.netloc]
        lines += [f"{name}: {value}".encode("ascii") for name, value in headers.items()]
        return cls(origin, b"\r\n".join([*lines, b""]))

    def __repr__(self) -> str:
        return f"Endpoint({self.origin})"  # the head holds a key


class Answer:
    """A vendor's answer. Either `content` is all of it, or it is a stream: read `next_piece` until there is none.

    `close` ends a stream that is not read to its end, and its connection.
    """

    __slots__ = ("_connection", "content", "headers", "status")

    def __init__(self, status: int, headers: RawHeaders, content: bytes | None, connection: Connection) -> None:
        self.status = status
        self.headers = headers
        self.content = content
        self._connection: Connection | None = connection if content is None else None

    @property
    def is_stream(self) -> bool:
        return self.content is None

    def header(self, name: bytes) -> str:
        """One header, by its name in lower case; empty where there is none."""
        return next((value.decode("latin-1") for key, value in self.headers if key.lower() == name), "")

    @property
    def content_length(self) -> int | None:
        """What the sender says that it is long."""
        said = self.header(b"content-length")
        return int(said) if said.isdigit() else None

    def take_rest(self) -> bytes | None:
        """All that is left of it, if that has come by now: mostly all there is, of what is short."""
        return self._connection.take_rest() if self._connection else self.content

    async def next_piece(self) -> bytes:
        """What has come since the last; nothing at the end.

        Raises:
            httpx.TransportError, TimeoutError: it broke off, or took too long.
        """
        return await self._connection.next_piece() if self._connection else b""

    async def hand_to(self, take: Take) -> None:
        """Have `take` called with each piece, as if by the task that awaits this, until there is none.

        What it returns is awaited before the next one; where that is nothing, the task is not even woken. Of many
        streams on a loop each hands on its pieces more seldom, and several at a time.

        Raises:
            httpx.TransportError, TimeoutError: it broke off, or took too long; all that had come was taken before.
            Exception: whatever `take` raises.
        """
        if self._connection is not None:
            await self._connection.hand_to(take)

    @property
    def heard_at(self) -> float:
        """When something came last, by the loop's clock."""
        return self._connection.heard_at if self._connection else 0.0

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.let_go()


class Exchanges:
    """The connections of one loop. Those that are idle wait for the next request to their origin."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.handover = Handover()
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()
        self._idle: dict[Origin, list[Connection]] = {}  # the one used last comes last
        self._sockets: dict[socket.socket, Connection | None] = {}  # None while it connects
        self._addresses: dict[Origin, tuple[float, list[Any]]] = {}  # as the guard let them pass, and until when

    def post(
        self, endpoint: Endpoint, body: bytes, headers: bytes, limits: Timeouts, reading: Reading
    ) -> Awaitable[Answer]:
        """The answer to a request with `body`; `headers` are more lines of its head, each with its line end.

        Raises:
            httpx.TransportError, TimeoutError: there is no answer, or none in time.
            BodyTooLarge: it is larger than `reading` allows.
            UrlRefused: no request may go there.
        """
        head = b"%bContent-Length: %d\r\n%b\r\n" % (endpoint.head, len(body), headers)
        return self.ask(endpoint.origin, head, body, limits, reading)

    async def ask(self, origin: Origin, head: bytes, body: bytes, limits: Timeouts, reading: Reading) -> Answer:
        """`post` for any request: `head` is all that comes before the body."""
        deadline = self._loop.time() + limits.total
        connection = self._take_idle(origin) or await self._connect(origin, limits.connect)
        return await connection.ask(head, body, limits.first_byte, deadline, reading)

    def drop(self) -> None:
        """Close every connection; also where the loop is closed, or belongs to another process."""
        self._idle.clear()
        if self._process != os.getpid():
            # The parent waits on the same epoll: a transport that is closed here, or collected, would leave it deaf.
            for item in self._sockets:
                _close_descriptor(item)
            return
        if self._loop.is_closed():
            for item, connection in self._sockets.items():
                item.close()
                if connection is not None:
                    _bury(connection.transport)
            self._sockets.clear()
            return
        for connection in list(self._sockets.values()):
            if connection is not None:  # else whoever connects closes it
                connection.transport.abort()

    def renew(self, connection: Connection) -> None:
        """Keep a connection whose answer has come to its end."""
        idle = self._idle.setdefault(connection.origin, [])
        idle.append(connection)
        if len(idle) > IDLE_LIMIT:
            idle.pop(0).transport.abort()

    def forget(self, connection: Connection) -> None:
        """It is closed."""
        self._sockets.pop(connection.socket, None)
        idle = self._idle.get(connection.origin, [])
        with suppress(ValueError):
            idle.remove(connection)
        if not idle:
            self._idle.pop(connection.origin, None)

    def _take_idle(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.is_usable():
                return connection
            connection.transport.abort()
        return None

    # -- connecting ------------------------------------------------------------------------------------------------

    async def _connect(self, origin: Origin, seconds: float) -> Connection:
        check_target(origin.scheme, origin.host)
        deadline = self._loop.time() + seconds
        try:
            async with asyncio.timeout_at(deadline):
                return await self._first_to_answer(origin, await self._resolve(origin), deadline)
        except TimeoutError as error:
            raise httpx.ConnectTimeout(f"no connection to {origin.host} within {seconds} seconds") from error
        except OSError as error:
            raise httpx.ConnectError(str(error) or "the TLS handshake was broken off") from error

    async def _resolve(self, origin: Origin) -> list[Any]:
        until, found = self._addresses.get(origin, (0.0, []))
        if self._loop.time() < until:
            return found
        found = await self._loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        for *_, address in found:
            check_address(origin.host, ip_address(str(address[0]).partition("%")[0]))
        now = self._loop.time()
        self._addresses = {key: known for key, known in self._addresses.items() if known[0] > now}
        self._addresses[origin] = (now + NAME_SECONDS, found)
        return found

    async def _first_to_answer(self, origin: Origin, found: list[Any], deadline: float) -> Connection:
        """Tries each address in the order of the resolver; one that keeps silent has its share of the time."""
        if len(found) == 1:
            return await self._connect_to(origin, *found[0])
        for left in range(len(found), 0, -1):
            try:
                async with asyncio.timeout((deadline - self._loop.time()) / left):
                    return await self._connect_to(origin, *found[-left])
            except OSError:
                if left == 1:
                    raise
        raise OSError("the name has no address")

    async def _connect_to(
        self, origin: Origin, family: int, kind: int, protocol: int, _name: str, address: Any
    ) -> Connection:
        item = socket.socket(family, kind, protocol)
        self._sockets[item] = None
        is_transports = False
        try:
            item.setblocking(False)
            item.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.sock_connect(item, address)
            is_secure, is_transports = origin.scheme == "https", True
            _, connection = await self._loop.create_connection(
                lambda: Connection(self, origin, item, self._loop),
                sock=item,
                ssl=self._context if is_secure else None,
                server_hostname=origin.host if is_secure else None,
            )
        except BaseException:
            self._sockets.pop(item, None)
            if not is_transports:  # which closes it itself, in the loop's next turn: until then its number is not free
                item.close()
            raise
        if item in self._sockets:  # else it is closed by now
            self._sockets[item] = connection
        return connection


class Handover:
    """The streams of one loop that have something to hand on.

    They do so together, at the end of a turn: what is written in one go wakes a reader on the same machine once. And
    the more run, the more seldom each does: a piece costs the same whatever its size, and all that is being begun has
    to wait for it.
    """

    def __init__(self) -> None:
        self.streams = 0  # that run
        self._loop = asyncio.get_running_loop()
        self._ready: list[Connection] = []
        self._later: deque[tuple[float, Connection]] = deque()  # nearly in the order of their times

    def add(self, connection: Connection) -> None:
        """Have `hand_on` called when it is the connection's turn."""
        due = connection.handed_at + min(self.streams * SHARE, LONGEST_PAUSE)
        if connection.has_much or due <= connection.heard_at + 0.001:  # no timer is finer
            self._ready.append(connection)
            if len(self._ready) == 1:
                self._loop.call_soon(self._hand_on_ready)
            return
        self._later.append((due, connection))
        if len(self._later) == 1:
            self._loop.call_at(due, self._hand_on_later)

    def _hand_on_ready(self) -> None:
        ready, self._ready = self._ready, []
        for connection in ready:
            connection.hand_on()

    def _hand_on_later(self) -> None:
        later, now = self._later, self._loop.time() + 0.001
        while later and later[0][0] <= now:
            later.popleft()[1].hand_on()
        if later:
            self._loop.call_at(later[0][0], self._hand_on_later)


class _Taker:
    """Who takes the pieces of a stream. A call is a step of the task that waits for the end of the stream."""

    __slots__ = ("_context", "_take", "_task")

    def __init__(self, take: Take) -> None:
        self._take = take
        self._task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._context = copy_context()

    def __call__(self, piece: bytes) -> Awaitable[None] | None:
        loop = self._task.get_loop()
        _enter_task(loop, self._task)
        try:
            return self._context.run(self._take, piece)
        finally:
            _leave_task(loop, self._task)


class Connection(asyncio.Protocol):
    """One connection, of one request at a time."""

    __slots__ = (
        "_answer",
        "_aside",
        "_deadline",
        "_ends_with_connection",
        "_error",
        "_exchanges",
        "_has_begun",
        "_headers",
        "_idle_since",
        "_is_awaited",
        "_is_complete",
        "_is_lost",
        "_is_queued",
        "_is_reading",
        "_is_stream",
        "_keeps_alive",
        "_limit",
        "_loop",
        "_more",
        "_parser",
        "_pieces",
        "_reading",
        "_silence",
        "_size",
        "_status",
        "_taker",
        "_timer",
        "handed_at",
        "heard_at",
        "origin",
        "socket",
        "transport",
    )
    transport: asyncio.Transport

    def __init__(
        self, exchanges: Exchanges, origin: Origin, item: socket.socket, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.origin = origin
        self.socket = item
        self._exchanges = exchanges
        self._loop = loop
        self._idle_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.heard_at = 0.0  # when something came or went, by the loop's clock
        self._deadline = 0.0
        self._silence = 0.0  # seconds that it may last
        self._reading = Reading(())
        self._limit = maxsize  # bytes that an answer may have that is read whole
        self._answer: asyncio.Future[Answer] | None = None
        self._is_reading = True
        self._is_lost = False
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._status = 0
        self._has_begun = False  # something of it has come
        self._aside = 0  # bytes that came since the last of its body: head, trailers, extensions of chunks
        self._headers: RawHeaders = []
        self._pieces: list[bytes] = []
        self._size = 0  # bytes of `_pieces`
        self._more: asyncio.Future[Awaitable[None] | None] | None = None
        self._taker: _Taker | None = None  # while it waits
        self._is_queued = False  # to hand on what has come
        self._is_awaited = False  # by who reads the stream
        self.handed_at = -inf  # the first piece has nothing to wait for
        self._error: Exception | None = None
        self._is_stream = False
        self._is_complete = False
        self._ends_with_connection = False
        self._keeps_alive = False

    # -- for its user ----------------------------------------------------------------------------------------------

    async def ask(self, head: bytes, body: bytes, silence: float, deadline: float, reading: Reading) -> Answer:
        """Send a request; its answer. `silence` in seconds, `deadline` by the loop's clock."""
        if self._is_lost:
            raise httpx.ReadError("the connection was closed before anything was asked")
        self._reading, self._limit, self._silence, self._deadline = reading, reading.limit, silence, deadline
        self.heard_at = self._loop.time()
        self._answer = answer = cast("asyncio.Future[Answer]", self._loop.create_future())
        self._watch(min(self.heard_at + silence, deadline))
        if len(body) < LARGE:  # one piece is sent by a plain system call, several are not
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))
        try:
            return await answer
        except BaseException:
            if self._answer is answer:  # else it has come, and the connection may be another's
                self.transport.abort()
            raise

    async def next_piece(self) -> bytes:
        """See `Answer`."""
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._is_complete:
                return b""
            self._more, self._is_awaited = self._loop.create_future(), True
            try:
                await self._more
            finally:
                self._is_awaited = False
        return self._take_pieces()

    def take_rest(self) -> bytes | None:
        """See `Answer`."""
        return self._take_pieces() if self._is_complete and self._error is None else None

    def _take_pieces(self) -> bytes:
        pieces, self._pieces, self._size = self._pieces, [], 0
        if not self._is_reading:
            self._is_reading = True
            self.heard_at = self._loop.time()
            self._watch(min(self.heard_at + self._silence, self._deadline))
            self.transport.resume_reading()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def hand_to(self, take: Take) -> None:
        """See `Answer`."""
        taker, handover = _Taker(take), self._exchanges.handover
        handover.streams += 1
        self._is_awaited = True
        try:
            while True:
                left = None
                if self._pieces:
                    left = take(self._take_pieces())
                elif self._error is not None:
                    raise self._error
                elif self._is_complete:
                    return
                else:
                    self._more, self._taker = self._loop.create_future(), taker
                    left = await self._more
                    self._taker = None
                if left is not None:
                    await left
        finally:
            self._taker, self._is_awaited = None, False
            handover.streams -= 1

    @property
    def has_much(self) -> bool:
        """Whether nothing is gained by waiting for more."""
        return self._size >= LARGE

    def hand_on(self) -> None:
        """Give what has come to who takes it, if it is still waited for."""
        self._is_queued = False
        more, taker = self._more, self._taker
        if more is None or more.done() or taker is None or not self._pieces:
            return
        self.handed_at = self._loop.time()
        try:
            left = taker(self._take_pieces())
        except BaseException as error:
            self._taker = None
            more.set_exception(error)
            return
        if left is not None:
            self._taker = None
            more.set_result(left)

    def let_go(self) -> None:
        """The stream is read no further."""
        # Who still waits for a piece, as another closes the stream, must not be given the next answer's.
        if self._is_complete and self._error is None and not self._is_awaited:
            self._end()
        else:
            self.transport.abort()

    def is_usable(self) -> bool:
        """Whether it, being idle, may be asked. What it has to say can only be that its other end has closed it."""
        if self.transport.is_closing() or self.is_old():
            return False
        # The loop may have stood still since. Where it has not, it would know.
        return self._loop.time() - self._idle_since < FRESH or not has_something(self.socket)

    def is_old(self) -> bool:
        """Whether it has been idle for so long that its other end may be about to close it."""
        return self._loop.time() - self._idle_since > IDLE_SECONDS

    @property
    def _is_idle(self) -> bool:
        return self._answer is None

    # -- what the transport calls ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        if self._is_idle or self._is_complete:
            self.transport.abort()  # nobody has asked for more
            return
        self._has_begun = True
        self._aside += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(_no_http("it wants to speak another protocol"))
        except httptools.HttpParserError as error:
            # What a callback raised is the cause.
            cause = error.__context__
            self._fail(cause if isinstance(cause, BodyTooLarge | httpx.RemoteProtocolError) else _no_http(str(error)))
        else:
            if self._taker is not None and self._pieces and (self.has_much or not self._is_queued):
                self._is_queued = True
                self._exchanges.handover.add(self)
            if self._aside > HEAD_LIMIT:
                self._fail(_no_http(f"it has more than {HEAD_LIMIT:,} bytes beside its body"))

    def connection_lost(self, error: Exception | None) -> None:
        self._is_lost = True
        self._exchanges.forget(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._is_idle or self._is_complete or self._error is not None:
            return
        if error is None and self._ends_with_connection:
            self.on_message_complete()
            return
        reason = str(error or "the connection was closed before the answer was complete")
        self._fail(AnswerBroken(reason) if self._has_begun else httpx.ReadError(reason))

    # -- what the parser calls -------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._is_idle or self._is_complete:
            raise _no_http("there is more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._status:  # what comes later are trailers
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._headers = []
            return
        if self._aside > HEAD_LIMIT and sum(len(name) + len(value) for name, value in self._headers) > HEAD_LIMIT:
            raise _no_http(f"its head is larger than {HEAD_LIMIT:,} bytes")
        self._status = status
        self._ends_with_connection, is_chunked = True, False
        may_be_coded = self._reading.decodes or status >= 300
        content_type = b""
        for name, value in self._headers:
            lower = name.lower()
            if lower == b"content-type":
                content_type = value.lower()
            elif lower == b"content-length":
                self._ends_with_connection = False
            elif lower == b"transfer-encoding":
                if value.lower() != b"chunked" or is_chunked or self._parser.get_http_version() == "1.0":
                    raise _no_http("it comes in a coding that nobody asked for")
                self._ends_with_connection, is_chunked = False, True
            elif lower == b"content-encoding" and not may_be_coded and value.lower() not in (b"", b"identity"):
                raise _no_http("it is compressed, which nobody asked for")
        if status >= 300:
            self._limit = min(self._limit, ERROR_BODY_LIMIT)
        elif not content_type.startswith(self._reading.whole):
            self._is_stream = True
            self._answered(None)

    def on_body(self, data: bytes) -> None:
        self._aside = 0
        self._pieces.append(data)
        self._size += len(data)
        if not self._is_stream:
            if self._size > self._limit:
                raise BodyTooLarge(self._limit)
            return
        if self._size > UNREAD_LIMIT and self._is_reading:
            self._is_reading = False
            self.transport.pause_reading()
        if self._taker is None:
            self._wake()

    def on_message_complete(self) -> None:
        if not self._status:
            return  # of an answer that only announces the answer
        self._is_complete = True
        self._keeps_alive = self._parser.should_keep_alive()  # it knows no more after this
        if self._is_stream:
            self._wake()  # who waits takes what is left
            return
        content = b"".join(self._pieces)
        self._answered(content)
        self._end()

    # -- pieces ----------------------------------------------------------------------------------------------------

    def _answered(self, content: bytes | None) -> None:
        if self._answer is not None and not self._answer.done():
            headers, self._headers = self._headers, []
            self._answer.set_result(Answer(self._status, headers, content, self))

    def _end(self) -> None:
        """Make it ready for the next request, if that can be."""
        self._answer = None
        # A server that has answered before it has read the whole request may never read the rest.
        is_sent = not self.transport.get_write_buffer_size()
        if not (self._keeps_alive and self._is_reading and is_sent) or self.transport.is_closing():
            self.transport.abort()
            return
        self._reset()
        self._idle_since = self._loop.time()
        self._watch(self._idle_since + IDLE_SECONDS)
        self._exchanges.renew(self)

    def _fail(self, error: Exception) -> None:
        if self._is_idle or self._is_complete:
            self.transport.abort()  # what came behind the answer is broken
            return
        self._error = self._error or error
        if self._answer is not None and not self._answer.done():
            if self._status >= 300:
                self._answered(b"".join(self._pieces)[: self._limit])  # the status says enough
            else:
                self._answer.set_exception(error)
        self._wake()
        self.transport.abort()

    def _wake(self) -> None:
        more, self._more = self._more, None
        if more is not None and not more.done():
            more.set_result(None)

    def _watch(self, due: float) -> None:
        """Have `_look` called then or before. A timer outlives its request: the next one needs it too."""
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        """See whether what is under way has taken too long, or the connection has been idle for too long."""
        self._timer = None
        if self.transport.is_closing():
            return
        now = self._loop.time()
        if self._is_idle:
            if self.is_old():
                self.transport.abort()
            else:
                self._watch(max(self._idle_since + IDLE_SECONDS, now + 0.01))
        elif self._is_complete:
            return  # and not yet read to its end
        elif now >= self._deadline:
            self._fail(TimeoutError())
        elif now - self.heard_at >= self._silence and self._is_reading:
            self._fail(httpx.ReadTimeout(f"nothing came for {self._silence} seconds"))
        else:
            due = self._deadline if not self._is_reading else min(self._deadline, self.heard_at + self._silence)
            self._watch(max(due, now + 0.01))


def _no_http(reason: str) -> httpx.RemoteProtocolError:
    return httpx.RemoteProtocolError(f"it is no HTTP: {reason}")


def _close_descriptor(item: socket.socket) -> None:
    """Close it in this process, whoever else holds it: uvloop's hold would keep `socket.close` from doing so."""
    descriptor = item.detach()
    if descriptor >= 0:
        os.close(descriptor)


def _bury(transport: asyncio.Transport) -> None:
    """Keep the transport of a closed loop from complaining, when it is collected, that it was not closed.

    asyncio's can be closed on an open loop only. Its socket is closed by now.
    """
    with suppress(RuntimeError):
        transport.abort()
    inner: Any = getattr(getattr(transport, "_ssl_protocol", None), "_transport", transport)
    if getattr(inner, "_sock", None) is not None:
        inner._sock = None
