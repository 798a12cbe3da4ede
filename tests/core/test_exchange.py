"""HTTP for what passes through: whole answers, streams, and what is left when either breaks. On both kinds of loop."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import os
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop
from pytest_django import Settings

from src.core import exchange, http
from src.core.exchange import ANY, ERROR_BODY_LIMIT, LARGE, UNREAD_LIMIT, Answer, AnswerBroken, Endpoint, Reading
from src.core.http import BodyTooLarge, Timeouts
from src.core.loop import io_loop
from src.core.net_guard import UrlRefused
from tests.core.conftest import in_child, run_and_close, silent_address
from tests.upstream.server import CLOSE, DONE, HANG, RESET, WAIT, Content, Gate, Reply, Upstream, endless, events, whole
from tests.upstream.tls import server_context

KEY = "sk-0123456789abcdef"
OK = whole(200, {"ok": True})
HEAD = b"HTTP/1.1 200 OK\r\n"
WHOLE = (b"application/json", b"text/html")
LIMITS = Timeouts(connect=5, first_byte=5, total=10)
IMPATIENT = Timeouts(connect=5, first_byte=0.1, total=10)
LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test on asyncio's own loop and on uvloop, each of which ends with it."""

    @functools.wraps(test)
    def runs(*args: Any, run: Callable[[Any], None], **named: Any) -> None:
        run(test(*args, **named))

    signature = inspect.signature(test)
    run = inspect.Parameter("run", inspect.Parameter.KEYWORD_ONLY)
    runs.__signature__ = signature.replace(parameters=[*signature.parameters.values(), run])  # type: ignore[attr-defined]
    return LOOPS(runs)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        server.on("POST", "/", OK)
        yield server


async def post(
    url: str,
    body: bytes = b"{}",
    *,
    limits: Timeouts = LIMITS,
    limit: int = 1 << 20,
    streams: bool = False,
    headers: dict[str, str] | None = None,
) -> Answer:
    endpoint = Endpoint.of(url, {"Authorization": f"Bearer {KEY}", **(headers or {})})
    reading = Reading(WHOLE if streams else ANY, limit)
    return await (await http.exchanges()).post(endpoint, body, b"", limits, reading)


async def read(answer: Answer) -> bytes:
    """All of a stream, which is then over."""
    pieces = []
    try:
        while piece := await answer.next_piece():
            pieces.append(piece)
    finally:
        answer.close()
    return b"".join(pieces)


async def closed(upstream: Upstream) -> None:
    """Wait until no connection is left at the other end, nor on this one."""
    await asyncio.to_thread(upstream.wait_for, lambda: upstream.open_connections == 0)
    exchanges = await http.exchanges()
    async with asyncio.timeout(WAIT):
        while exchanges._sockets:  # the other end knows before this one does
            await asyncio.sleep(0)
    assert not any(exchanges._idle.values())


def served(request: Any) -> Reply:
    """An answer that says which connection it came over."""
    return whole(200, str(request.connection))


def raw(*parts: Content) -> Reply:
    return Reply(before=[*parts, HANG])


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "status", "content"),
    [
        (HEAD + b"content-length: 2\r\n\r\nok", 200, b"ok"),
        (HEAD + b"content-length: 0\r\n\r\n", 200, b""),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\n\r\n", 200, b"ok"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\ntrailer: x\r\n\r\n", 200, b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", 304, b""),
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + HEAD + b"content-length: 2\r\n\r\nok", 200, b"ok"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + HEAD + b"content-length: 2\r\n\r\nok", 200, b"ok"),
        (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok", 200, b"ok"),
        (b"HTTP/1.1 500 Oops\r\ncontent-length: 2\r\n\r\nno", 500, b"no"),
        (b"HTTP/1.1 429 Slow\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", 429, b"no"),
    ],
)
@pytest.mark.parametrize("size", [1, 10_000], ids=["byte by byte", "at once"])
@on_both_loops
async def test_an_answer_is_whole_and_its_connection_used_again(
    upstream: Upstream, answer: bytes, status: int, content: bytes, size: int
) -> None:
    pieces = [answer[at : at + size] for at in range(0, len(answer), size)]
    upstream.send(Reply(before=[*pieces, DONE]), served)
    got = await post(upstream.url)
    assert (got.status, got.content, got.is_stream) == (status, content, False)
    assert not {b"link", b"trailer"} & {name for name, _ in got.headers}
    assert await got.next_piece() == b""
    assert (await post(upstream.url)).content == b"1"


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"connection: close\r\ncontent-length: 2\r\n\r\nok",
        HEAD + b"content-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        HEAD + b"content-length: 2\r\n\r\nok, and more",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ],
    ids=["told to close", "an answer nobody asked for", "garbage behind it", "HTTP/1.0"],
)
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@on_both_loops
async def test_a_connection_that_can_not_be_used_again_is_closed(
    upstream: Upstream, answer: bytes, streams: bool
) -> None:
    upstream.send(Reply(before=[answer, HANG]), served)
    got = await post(upstream.url, streams=streams)
    assert (await read(got) if streams else got.content) == b"ok"
    await closed(upstream)
    assert (await post(upstream.url)).content == b"2"


@pytest.mark.parametrize("head", [HEAD, b"HTTP/1.0 200 OK\r\n"])
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@on_both_loops
async def test_an_answer_that_ends_with_its_connection_is_whole(upstream: Upstream, head: bytes, streams: bool) -> None:
    upstream.send(Reply(before=[head + b"\r\no", b"k", CLOSE]))
    got = await post(upstream.url, streams=streams)
    assert (await read(got) if streams else got.content) == b"ok"
    await closed(upstream)


@on_both_loops
async def test_what_is_asked_arrives_as_it_is(upstream: Upstream) -> None:
    body = os.urandom(3 << 20)
    await post(f"{upstream.url}/v1/x?a=b%20c", body, headers={"X-Odd": "\t a b "})
    request = upstream.last
    assert (request.path, request.query, request.body) == ("/v1/x", "a=b%20c", body)
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["host"] == upstream.url.removeprefix("http://")


@on_both_loops
async def test_a_large_answer_arrives_whole(upstream: Upstream) -> None:
    body = os.urandom(5 << 20)
    upstream.send(whole(200, body), served)
    assert (await post(upstream.url, limit=len(body))).content == body
    assert (await post(upstream.url)).content == b"1"


@on_both_loops
async def test_two_requests_at_once_use_two_connections(upstream: Upstream) -> None:
    gate = Gate()
    upstream.send(Reply(200, [gate, b"first"]), served)
    first = asyncio.create_task(post(upstream.url))
    await asyncio.to_thread(gate.wait_until_reached)
    assert (await post(upstream.url)).content == b"2"
    gate.open()
    assert (await first).content == b"first"
    await asyncio.gather(*(post(upstream.url) for _ in range(2)))
    assert upstream.connections == 2


# -- streams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["chunked", "length", "connection"])
@on_both_loops
async def test_a_stream_comes_piece_by_piece(upstream: Upstream, framing: str) -> None:
    gate = Gate()
    parts = [b"first", gate, b"second"]
    kind = {"content-type": "text/event-stream"}
    upstream.send(
        {
            "chunked": Reply(200, parts, kind),
            "length": Reply(200, parts, kind, length=11),
            "connection": Reply(before=[HEAD + b"\r\n", *parts, CLOSE]),
        }[framing],
        served,
    )
    answer = await post(upstream.url, streams=True)
    assert answer.is_stream
    assert answer.content_length == (11 if framing == "length" else None)
    assert await answer.next_piece() == b"first"
    gate.open()
    assert await answer.next_piece() == b"second"
    assert await answer.next_piece() == b""
    answer.close()
    assert (await post(upstream.url)).content == (b"2" if framing == "connection" else b"1")


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8", "text/html"])
@on_both_loops
async def test_what_no_stream_is_sent_as_comes_whole(upstream: Upstream, kind: str) -> None:
    upstream.send(whole(200, b"{}", content_type=kind), whole(503, b"data: x", content_type="text/event-stream"))
    assert (await post(upstream.url, streams=True)).content == b"{}"
    assert (await post(upstream.url, streams=True)).content == b"data: x"


@on_both_loops
async def test_a_stream_that_is_not_read_to_its_end_is_closed(upstream: Upstream) -> None:
    upstream.send(events({"n": 1}, HANG))
    answer = await post(upstream.url, streams=True)
    assert await answer.next_piece()
    answer.close()
    answer.close()
    await closed(upstream)
    assert await answer.next_piece() == b""


@on_both_loops
async def test_a_slow_reader_makes_the_sender_wait(upstream: Upstream) -> None:
    gate, size = Gate(), 64 << 20
    upstream.send(Reply(200, [*[b"x" * (1 << 20)] * 64, gate], {"content-type": "audio/mpeg"}))
    answer = await post(upstream.url, streams=True)
    received = len(await answer.next_piece())
    for _ in range(300):  # each lets the loop turn more than once
        await post(upstream.url)
    assert not gate.is_reached
    gate.open()
    largest = 0
    while piece := await answer.next_piece():
        received += len(piece)
        largest = max(largest, len(piece))
    answer.close()
    assert received == size
    assert largest <= UNREAD_LIMIT + (1 << 20)
    await asyncio.gather(*(post(upstream.url) for _ in range(2)))
    assert upstream.connections == 2


@on_both_loops
async def test_a_stream_whose_end_nobody_read_leaves_no_connection_that_is_deaf(upstream: Upstream) -> None:
    gate = Gate()
    parts = [b"x" * UNREAD_LIMIT, gate, b"x"]  # the last makes its sender wait, and is the end
    upstream.send(Reply(200, parts, {"content-type": "audio/mpeg"}, length=UNREAD_LIMIT + 1))
    answer = await post(upstream.url, streams=True)
    await asyncio.to_thread(gate.wait_until_reached)
    gate.open()
    for _ in range(20):
        await post(upstream.url)
    answer.close()
    assert [(await post(upstream.url, limits=IMPATIENT)).status for _ in range(3)] == [200] * 3


@pytest.mark.parametrize("step", [CLOSE, RESET])
@on_both_loops
async def test_what_came_before_a_stream_broke_is_read_first(upstream: Upstream, step: Any) -> None:
    gate = Gate()
    upstream.send(events({"n": 1}, gate, step))
    answer = await post(upstream.url, streams=True)
    await asyncio.to_thread(gate.wait_until_reached)
    gate.open()
    await asyncio.to_thread(upstream.wait_for, lambda: upstream.open_connections == 0)
    assert await answer.next_piece() == b'data: {"n": 1}\n\n'
    with pytest.raises(httpx.ReadError):
        await answer.next_piece()
    answer.close()
    await closed(upstream)


# -- streams that are handed on ----------------------------------------------------------------------------------------


def paced(count: int, *, last: Any = b"") -> tuple[Reply, list[Gate]]:
    """A stream of so many pieces, each behind a gate of its own, and what comes at its end."""
    gates = [Gate() for _ in range(count)]
    parts = [part for number, gate in enumerate(gates) for part in (gate, b"%d;" % number)]
    return Reply(200, [b"x;", *parts, last], {"content-type": "text/event-stream"}), gates


async def opened(gates: list[Gate]) -> None:
    for gate in gates:
        await asyncio.to_thread(gate.wait_until_reached)
        gate.open()


@on_both_loops
async def test_who_takes_is_called_in_the_name_of_the_task_that_waits(upstream: Upstream) -> None:
    reply, gates = paced(20)
    upstream.send(reply, served)
    answer = await post(upstream.url, streams=True)
    name: ContextVar[str] = ContextVar("name")
    seen: list[tuple[object, str]] = []
    taken: list[bytes] = []

    def take(piece: bytes) -> None:
        taken.append(piece)
        seen.append((asyncio.current_task(), name.get()))

    async def wait() -> None:
        name.set("its own")
        await answer.hand_to(take)

    task = asyncio.create_task(wait())
    await opened(gates)
    await task
    answer.close()
    assert b"".join(taken) == b"x;" + b"".join(b"%d;" % number for number in range(20))
    assert set(seen) == {(task, "its own")}
    assert (await post(upstream.url)).content == b"1"


@on_both_loops
async def test_the_next_piece_waits_for_what_is_left_of_the_one_before(upstream: Upstream) -> None:
    reply, gates = paced(3)
    upstream.send(reply)
    answer = await post(upstream.url, streams=True)
    writing, may_write, taken = asyncio.Event(), asyncio.Event(), []

    async def write() -> None:
        writing.set()
        await may_write.wait()
        taken.append(b"written")

    def take(piece: bytes) -> Coroutine[Any, Any, None]:
        taken.append(piece)
        return write()

    task = asyncio.create_task(answer.hand_to(take))
    await writing.wait()
    await opened(gates)
    for _ in range(20):
        await asyncio.sleep(0)
    assert taken == [b"x;"]
    may_write.set()
    await task
    answer.close()
    assert taken[1::2] == [b"written"] * (len(taken) // 2)
    assert b"".join(taken[::2]) == b"x;0;1;2;"


@on_both_loops
async def test_who_takes_slowly_makes_the_sender_wait(upstream: Upstream) -> None:
    gate = Gate()
    upstream.send(Reply(200, [*[b"x" * (1 << 20)] * 64, gate], {"content-type": "audio/mpeg"}))
    answer = await post(upstream.url, streams=True)
    may_go_on, sizes = asyncio.Event(), []

    def take(piece: bytes) -> Coroutine[Any, Any, bool]:
        sizes.append(len(piece))
        return may_go_on.wait()

    task = asyncio.create_task(answer.hand_to(take))  # type: ignore[arg-type]
    for _ in range(300):
        await post(upstream.url)
    assert not gate.is_reached
    may_go_on.set()
    gate.open()
    await task
    answer.close()
    assert sum(sizes) == 64 << 20
    assert max(sizes) <= UNREAD_LIMIT + (1 << 20)


@on_both_loops
async def test_what_goes_wrong_where_a_piece_is_taken_ends_it(upstream: Upstream) -> None:
    reply, gates = paced(1, last=HANG)
    upstream.send(reply)
    answer = await post(upstream.url, streams=True)

    def take(piece: bytes) -> None:
        if piece != b"x;":
            raise LookupError(piece)

    task = asyncio.create_task(answer.hand_to(take))
    await opened(gates)
    with pytest.raises(LookupError):
        await task
    answer.close()
    await closed(upstream)


@on_both_loops
async def test_all_that_came_before_a_stream_broke_is_taken(upstream: Upstream) -> None:
    reply, gates = paced(3, last=RESET)
    upstream.send(reply)
    answer = await post(upstream.url, streams=True)
    taken: list[bytes] = []
    task = asyncio.create_task(answer.hand_to(taken.append))
    await opened(gates)
    with pytest.raises(httpx.ReadError):
        await task
    answer.close()
    assert b"".join(taken) == b"x;0;1;2;"
    await closed(upstream)


@on_both_loops
async def test_nothing_is_taken_for_who_was_cancelled(upstream: Upstream) -> None:
    reply, gates = paced(2, last=HANG)
    upstream.send(reply)
    answer = await post(upstream.url, streams=True)
    taken: list[bytes] = []
    task = asyncio.create_task(answer.hand_to(taken.append))
    await opened(gates[:1])
    while taken[-1:] != [b"0;"]:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await opened(gates[1:])
    answer.close()
    await closed(upstream)
    assert b"".join(taken) == b"x;0;"


@on_both_loops
async def test_many_streams_hand_on_several_pieces_at_a_time_and_end_at_once(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "SHARE", 1e6)
    monkeypatch.setattr(exchange, "LONGEST_PAUSE", 1e6)
    reply, gates = paced(10)
    upstream.send(reply)
    answer = await post(upstream.url, streams=True)
    taken: list[bytes] = []
    task = asyncio.create_task(answer.hand_to(taken.append))
    while not taken:
        await asyncio.sleep(0)
    await opened(gates)
    await task
    answer.close()
    assert len(taken) <= 3
    assert b"".join(taken) == b"x;" + b"".join(b"%d;" % number for number in range(10))


@on_both_loops
async def test_what_is_large_is_not_held_back(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "SHARE", 1e6)
    monkeypatch.setattr(exchange, "LONGEST_PAUSE", 1e6)
    reply, gates = paced(1, last=b"y" * LARGE)
    upstream.send(Reply(200, [*reply.parts, HANG], reply.headers))
    answer = await post(upstream.url, streams=True)
    taken: list[bytes] = []
    task = asyncio.create_task(answer.hand_to(taken.append))
    async with asyncio.timeout(WAIT):
        while not taken:
            await asyncio.sleep(0)
        await opened(gates)
        while not taken[-1].endswith(b"y"):
            await asyncio.sleep(0)
    task.cancel()
    answer.close()
    await closed(upstream)


@on_both_loops
async def test_a_pause_between_pieces_has_an_end(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "SHARE", 0.02)
    reply, gates = paced(5, last=HANG)
    upstream.send(reply, reply)
    taken: list[bytes] = []
    answers = [await post(upstream.url, streams=True) for _ in range(2)]
    tasks = [asyncio.create_task(answer.hand_to(taken.append)) for answer in answers]
    for gate in gates:
        gate.open()
    async with asyncio.timeout(WAIT):
        while sum(map(len, taken)) < 2 * len(b"x;0;1;2;3;4;"):
            await asyncio.sleep(0.001)
    for answer, task in zip(answers, tasks, strict=True):
        task.cancel()
        answer.close()
    await closed(upstream)


@pytest.mark.parametrize("way", ["read", "handed on", "held up"])
@on_both_loops
async def test_who_still_waits_when_another_closes_the_stream_gets_nothing_of_the_next(
    upstream: Upstream, way: str
) -> None:
    gate, next_gate = Gate(), Gate()
    kind = {"content-type": "audio/mpeg"}
    upstream.send(Reply(200, [b"x", gate], kind), Reply(200, [b"the next", next_gate, b"'s"], kind))
    first = await post(upstream.url, streams=True)
    taken: list[bytes] = []
    may_go_on = asyncio.Event()

    def take(piece: bytes) -> Coroutine[Any, Any, bool] | None:
        taken.append(piece)
        return may_go_on.wait() if way == "held up" else None

    async def read_on() -> None:
        while piece := await first.next_piece():
            taken.append(piece)

    reading = asyncio.create_task(read_on() if way == "read" else first.hand_to(take))  # type: ignore[arg-type]
    while not taken:
        await asyncio.sleep(0)
    connection: Any = first._connection
    gate.open()
    while not connection._is_complete:
        await asyncio.sleep(0)
    first.close()  # before the reader runs
    second = await post(upstream.url, streams=True)
    may_go_on.set()
    await asyncio.to_thread(next_gate.wait_until_reached)
    next_gate.open()
    assert await read(second) == b"the next's"
    await reading
    assert taken == [b"x"]


# -- connections that wait ---------------------------------------------------------------------------------------------


@on_both_loops
async def test_an_idle_connection_that_the_other_side_closes_is_noticed(upstream: Upstream) -> None:
    for step in (CLOSE, RESET):
        upstream.send(Reply(200, [b"ok", step], length=2))
        assert (await post(upstream.url)).content == b"ok"
        await closed(upstream)
    assert upstream.connections == 2


@on_both_loops
async def test_an_idle_connection_that_is_closed_just_when_it_is_used_has_not_answered(upstream: Upstream) -> None:
    for step in (CLOSE, RESET):
        upstream.send(served, Reply(before=[step]))
        await post(upstream.url)
        with pytest.raises(httpx.ReadError) as caught:
            await post(upstream.url)
        assert type(caught.value) is httpx.ReadError
        await closed(upstream)


@on_both_loops
async def test_bytes_that_nobody_asked_for_close_an_idle_connection(upstream: Upstream) -> None:
    gate = Gate()
    upstream.send(Reply(before=[HEAD + b"content-length: 2\r\n\r\nok", gate, HEAD, HANG]), served)
    assert (await post(upstream.url)).content == b"ok"
    gate.open()
    await closed(upstream)
    assert (await post(upstream.url)).content == b"2"


@on_both_loops
async def test_an_idle_connection_is_closed_in_time(upstream: Upstream) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "IDLE_SECONDS", 0.05)
        await post(upstream.url)
        await closed(upstream)


@on_both_loops
async def test_few_connections_are_kept(upstream: Upstream) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "IDLE_LIMIT", 2)
        gates = [Gate() for _ in range(5)]
        upstream.send(*(Reply(200, [gate]) for gate in gates))
        tasks = [asyncio.create_task(post(upstream.url)) for _ in gates]
        for gate in gates:
            await asyncio.to_thread(gate.wait_until_reached)
            gate.open()
        await asyncio.gather(*tasks)
        await asyncio.to_thread(upstream.wait_for, lambda: upstream.open_connections == 2)


# -- answers that break ------------------------------------------------------------------------------------------------


CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
BROKEN: list[tuple[list[Any], type[Exception]]] = [
    ([CLOSE], httpx.ReadError),
    ([RESET], httpx.ReadError),
    ([HEAD, CLOSE], AnswerBroken),
    ([HEAD, RESET], AnswerBroken),
    ([b"HTTP/1.1 100 Continue\r\n\r\n", CLOSE], AnswerBroken),
    ([HEAD + b"content-length: 9\r\n\r\nok", CLOSE], AnswerBroken),
    ([HEAD + b"content-length: 9\r\n\r\nok", RESET], AnswerBroken),
    ([CHUNKED + b"9\r\nok", CLOSE], AnswerBroken),
    ([CHUNKED + b"zz\r\n", CLOSE], httpx.RemoteProtocolError),
    ([CHUNKED + b"fffffffffffffffff\r\n", HANG], httpx.RemoteProtocolError),
    ([b"220 mail\r\n\r\n", HANG], httpx.RemoteProtocolError),
    ([b"\x16\x03\x01", HANG], httpx.RemoteProtocolError),
    ([b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", HANG], httpx.RemoteProtocolError),
    ([HEAD + b"content-length: many\r\n\r\n", HANG], httpx.RemoteProtocolError),
    ([HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\nok", HANG], httpx.RemoteProtocolError),
    ([HEAD + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", HANG], httpx.RemoteProtocolError),
    ([HEAD + b"transfer-encoding: chunked\r\n" * 2 + b"\r\n2\r\nok\r\n0\r\n\r\n", HANG], httpx.RemoteProtocolError),
    (
        [b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", HANG],
        httpx.RemoteProtocolError,
    ),
    ([HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", HANG], httpx.RemoteProtocolError),
    ([HEAD + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\nok", HANG], httpx.RemoteProtocolError),
    ([HEAD + b"x: a\0b\r\n\r\n", HANG], httpx.RemoteProtocolError),
    ([HEAD + b"x: " + b"y" * 200_000 + b"\r\ncontent-length: 0\r\n\r\n", HANG], httpx.RemoteProtocolError),
    ([HEAD + b"x: ", endless(b"y" * 1000)], httpx.RemoteProtocolError),
    ([HEAD, endless(b"x: y\r\n")], httpx.RemoteProtocolError),
    ([endless(b"HTTP/1.1 100 Continue\r\n\r\n")], httpx.RemoteProtocolError),
    ([CHUNKED + b"2\r\nok\r\n0\r\n", endless(b"x: y\r\n")], httpx.RemoteProtocolError),
    ([CHUNKED + b"2\r\nok\r\n2;", endless(b"x")], httpx.RemoteProtocolError),
]


@pytest.mark.parametrize(("before", "error"), BROKEN)
@on_both_loops
async def test_a_broken_answer_says_how_it_broke(upstream: Upstream, before: list[Any], error: type[Exception]) -> None:
    upstream.send(Reply(before=before))
    with pytest.raises(httpx.TransportError) as caught:
        await post(upstream.url)
    assert type(caught.value) is error
    await closed(upstream)


@pytest.mark.parametrize(
    ("before", "error"),
    [(before, error) for before, error in BROKEN if isinstance(before[0], bytes) and before[0].startswith(CHUNKED)],
)
@on_both_loops
async def test_a_broken_stream_says_how_it_broke(upstream: Upstream, before: list[Any], error: type[Exception]) -> None:
    upstream.send(Reply(before=before))
    answer = await post(upstream.url, streams=True)
    with pytest.raises(httpx.TransportError) as caught:
        await read(answer)
    assert type(caught.value) is error
    await closed(upstream)


@pytest.mark.parametrize(
    "answer",
    [
        whole(200, b"x" * 1001),
        Reply(200, [b"x" * 500, b"x" * 501]),
        Reply(200, [endless(b"x" * 100)]),
        Reply(before=[HEAD + b"\r\n", endless(b"x" * 100)]),
    ],
    ids=["length", "chunks", "endless", "until it closes"],
)
@on_both_loops
async def test_an_answer_may_not_grow_beyond_its_limit(upstream: Upstream, answer: Reply) -> None:
    upstream.send(answer, whole(200, b"x" * 1000))
    with pytest.raises(BodyTooLarge, match="1,000"):
        await post(upstream.url, limit=1000)
    await closed(upstream)
    assert (await post(upstream.url, limit=1000)).content == b"x" * 1000


@pytest.mark.parametrize(
    "answer",
    [
        Reply(500, [b"{", CLOSE]),
        Reply(500, [b"{", RESET]),
        Reply(500, [b"{", HANG]),
        Reply(before=[b"HTTP/1.1 500 Oops\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\nzz\r\n", HANG]),
    ],
    ids=["closed", "reset", "silent", "garbled"],
)
@on_both_loops
async def test_the_status_of_an_error_is_known_however_its_body_breaks(upstream: Upstream, answer: Reply) -> None:
    upstream.send(answer)
    got = await post(upstream.url, limits=IMPATIENT)
    assert (got.status, got.content) == (500, b"{")
    await closed(upstream)


@on_both_loops
async def test_of_an_error_only_the_first_part_is_read(upstream: Upstream) -> None:
    upstream.send(Reply(500, [endless(b"x" * 1000)]))
    assert (await post(upstream.url)).content == b"x" * ERROR_BODY_LIMIT
    await closed(upstream)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@on_both_loops
async def test_a_server_that_answers_before_it_has_read_everything_is_heard(
    certificate: Path, trusted: None, tls: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        answered = threading.Event()

        def refuse() -> None:
            accepted, _ = server.accept()
            if tls:
                accepted = server_context(certificate).wrap_socket(accepted, server_side=True)
            accepted.recv(100)
            accepted.sendall(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig")
            answered.wait(10)  # what it closes at once may not be read by any client
            accepted.close()

        thread = threading.Thread(target=refuse)
        thread.start()
        try:
            url = f"{'https' if tls else 'http'}://localhost:{server.getsockname()[1]}"
            answer = await post(url, b"x" * (8 << 20))
        finally:
            answered.set()
            await asyncio.to_thread(thread.join)
        assert (answer.status, answer.content) == (413, b"big")
        if not tls:  # there nobody can see how much of it is still to be sent
            assert not any((await http.exchanges())._idle.values())


# -- time --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [[], [b"HTTP/1.1 100 Continue\r\n\r\n"], [HEAD], [CHUNKED + b"2\r\nok\r\n"]])
@on_both_loops
async def test_silence_has_an_end(upstream: Upstream, before: list[Any]) -> None:
    upstream.send(raw(*before))
    with pytest.raises(httpx.ReadTimeout):
        await post(upstream.url, limits=IMPATIENT)
    await closed(upstream)


@on_both_loops
async def test_silence_on_a_connection_that_was_used_before_has_an_end(upstream: Upstream) -> None:
    upstream.send(OK, raw())
    await post(upstream.url)
    with pytest.raises(httpx.ReadTimeout):
        await post(upstream.url, limits=IMPATIENT)
    await closed(upstream)
    assert upstream.connections == 1


@on_both_loops
async def test_silence_within_a_stream_has_an_end(upstream: Upstream) -> None:
    upstream.send(events({"n": 1}, HANG))
    answer = await post(upstream.url, limits=IMPATIENT, streams=True)
    assert await answer.next_piece()
    with pytest.raises(httpx.ReadTimeout):
        await answer.next_piece()
    await closed(upstream)


@on_both_loops
async def test_silence_after_a_reader_took_his_time_has_an_end(upstream: Upstream) -> None:
    upstream.send(Reply(200, [b"x" * (16 << 20), HANG], {"content-type": "audio/mpeg"}))
    answer = await post(upstream.url, limits=IMPATIENT, streams=True)
    await asyncio.sleep(3 * IMPATIENT.first_byte)  # his time, in which nothing is read: nobody's silence
    received = 0
    while received < 16 << 20:
        received += len(await answer.next_piece())
    with pytest.raises(httpx.ReadTimeout):
        await answer.next_piece()
    await closed(upstream)


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@on_both_loops
async def test_all_of_it_has_its_time_though_something_always_comes(upstream: Upstream, streams: bool) -> None:
    upstream.send(Reply(200, [endless(b"x")], {"content-type": "audio/mpeg"}))
    with pytest.raises(TimeoutError):
        await read(await post(upstream.url, limits=Timeouts(5, 5, 0.2), limit=1 << 40, streams=streams))
    await closed(upstream)


@on_both_loops
async def test_who_does_not_read_has_no_more_time(upstream: Upstream) -> None:
    upstream.send(Reply(200, [endless(b"x" * 100_000)], {"content-type": "audio/mpeg"}))
    answer = await post(upstream.url, limits=Timeouts(5, 0.1, 0.2), streams=True)
    await closed(upstream)
    with pytest.raises(TimeoutError):
        await read(answer)


# -- connecting --------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_a_host_that_keeps_silent_is_given_up() -> None:
    with silent_address() as (host, port), pytest.raises(httpx.ConnectTimeout):
        await post(f"http://{host}:{port}", limits=Timeouts(0.1, 5, 5))
    assert not (await http.exchanges())._sockets


@on_both_loops
async def test_a_host_that_refuses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(httpx.ConnectError):
        await post(f"http://127.0.0.1:{port}")
    assert not (await http.exchanges())._sockets


# On asyncio's own loop only: uvloop has names resolved by libuv, in whose place no test can answer.
async def test_the_next_address_is_tried_when_one_keeps_silent(
    upstream: Upstream, resolve: Callable[..., list[str]], settings: Settings
) -> None:
    settings.AI_HTTP_HOSTS = ["vendor.example"]
    with silent_address() as silent:
        resolve(silent, ("127.0.0.1", upstream.port))
        assert (await post("http://vendor.example", limits=Timeouts(0.4, 5, 5))).status == 200


async def test_a_name_without_an_address_can_not_be_reached(resolve: Callable[..., list[str]]) -> None:
    resolve()
    with pytest.raises(httpx.ConnectError):
        await post("https://vendor.example")


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["93.184.215.14", "127.0.0.1"], ["169.254.169.254"], ["fe80::1%eth0"], ["::ffff:127.0.0.1"]],
    ids=" ".join,
)
async def test_a_name_that_leads_into_the_network_is_refused(
    upstream: Upstream, resolve: Callable[..., list[str]], addresses: list[str]
) -> None:
    resolve(*((address, upstream.port) for address in addresses))
    for _ in range(2):
        with pytest.raises(UrlRefused, match="not a public"):
            await post("https://vendor.example")
    assert upstream.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "[::1]", "[::ffff:7f00:1]"])
@on_both_loops
async def test_an_address_within_the_network_is_refused(upstream: Upstream, settings: Settings, host: str) -> None:
    settings.AI_HTTP_HOSTS = []
    for scheme in ("http", "https"):
        with pytest.raises(UrlRefused):
            await post(f"{scheme}://{host}:{upstream.port}")
    assert upstream.connections == 0


async def test_a_name_is_asked_for_again_when_its_time_is_over(
    upstream: Upstream, resolve: Callable[..., list[str]], settings: Settings
) -> None:
    settings.AI_HTTP_HOSTS = ["vendor.example"]
    asked = resolve(("127.0.0.1", upstream.port))
    close = Reply(200, headers={"connection": "close"})
    upstream.send(close, close, close)
    await post("http://vendor.example")
    await post("http://vendor.example")
    assert asked == ["vendor.example"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "NAME_SECONDS", -1.0)
        (await http.exchanges())._addresses.clear()
        await post("http://vendor.example")
        await post("http://vendor.example")
    assert asked == ["vendor.example"] * 3
    assert upstream.last.headers["host"] == "vendor.example"


@on_both_loops
async def test_an_address_of_ipv6(settings: Settings) -> None:
    settings.AI_HTTP_HOSTS = ["::1"]
    with Upstream(host="::1") as upstream:
        upstream.on("POST", "/v1/x", OK)
        assert (await post(f"{upstream.url}/v1/x")).status == 200
        assert upstream.last.headers["host"] == f"[::1]:{upstream.port}"


async def test_a_host_in_another_script(
    upstream: Upstream, resolve: Callable[..., list[str]], settings: Settings
) -> None:
    settings.AI_HTTP_HOSTS = ["bücher.example"]
    asked = resolve(("127.0.0.1", upstream.port))
    upstream.on("POST", "/fürst/v1", OK)
    await post(f"http://bücher.example:{upstream.port}/fürst x")
    assert asked == ["xn--bcher-kva.example"]
    assert upstream.last.headers["host"] == f"xn--bcher-kva.example:{upstream.port}"
    assert upstream.last.path == "/f%C3%BCrst%20x"


# -- what goes into a head ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["https://a..b/", f"https://{'a' * 64}.example/", "https://host:port/", "https://[::1/"]
)
def test_a_url_that_can_not_be_read_is_refused(url: str) -> None:
    with pytest.raises(UrlRefused):
        Endpoint.of(url, {})


@pytest.mark.parametrize("value", ["a\r\nX-Evil: b", "a\nb", "a\rb", "a\0b", "schlüssel", "a\x7f", "a\u2028b"])
def test_a_header_that_would_bring_others_along_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(ValueError, match="'Authorization'") as caught:
        Endpoint.of("https://vendor.example/", {"Authorization": value})
    assert value not in str(caught.value)
    with pytest.raises(ValueError, match="no header may hold"):
        Endpoint.of("https://vendor.example/", {f"X {value}": "a"})


@on_both_loops
async def test_a_key_is_in_no_repr(upstream: Upstream) -> None:
    gate = Gate()
    upstream.send(Reply(200, [b"x", gate], {"content-type": "audio/mpeg"}))
    endpoint = Endpoint.of(upstream.url, {"Authorization": f"Bearer {KEY}"})
    exchanges = await http.exchanges()
    answer = await exchanges.post(endpoint, b"{}", b"", LIMITS, Reading(WHOLE))
    connections = list(exchanges._sockets.values())
    shown = [repr(one) for one in (endpoint, endpoint.origin, exchanges, answer, *connections)]
    shown.append(repr(vars(exchanges)))
    shown += [repr(getattr(one, name, None)) for one in connections if one for name in one.__slots__]
    assert len(connections) == 1
    assert not [text for text in shown if KEY in text]
    gate.open()
    answer.close()
    await closed(upstream)


# -- TLS ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def secure(certificate: Path) -> Iterator[Upstream]:
    with Upstream(tls=server_context(certificate)) as server:
        server.on("POST", "/", served)
        yield server


@on_both_loops
async def test_a_certificate_that_nobody_vouches_for_is_refused(secure: Upstream) -> None:
    with pytest.raises(httpx.ConnectError, match="self-signed certificate"):
        await post(f"https://localhost:{secure.port}")
    assert not secure.requests
    await closed(secure)


@on_both_loops
async def test_a_certificate_of_another_host_is_refused(secure: Upstream, trusted: None) -> None:
    with pytest.raises(httpx.ConnectError, match=r"not valid for '127\.0\.0\.1'"):
        await post(f"https://127.0.0.1:{secure.port}")
    assert not secure.requests
    await closed(secure)


@on_both_loops
async def test_a_server_without_tls_is_refused(upstream: Upstream) -> None:
    with pytest.raises((httpx.ConnectError, httpx.ConnectTimeout)):
        await post(f"https://localhost:{upstream.port}", limits=Timeouts(0.2, 5, 5))
    await closed(upstream)


@on_both_loops
async def test_a_handshake_that_stalls_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(httpx.ConnectTimeout):
            await post(f"https://localhost:{server.getsockname()[1]}", limits=Timeouts(0.1, 5, 5))
        assert not (await http.exchanges())._sockets


@on_both_loops
async def test_connections_with_tls_are_used_again(secure: Upstream, trusted: None) -> None:
    url = f"https://localhost:{secure.port}"
    secure.send(served, events({"n": 1}))
    assert (await post(url)).content == b"1"
    assert await read(await post(url, streams=True)) == b'data: {"n": 1}\n\ndata: [DONE]\n\n'
    body = os.urandom(2 << 20)
    secure.send(lambda request: whole(200, request.body))
    assert (await post(url, body, limit=len(body))).content == body
    assert (await post(url)).content == b"1"


@pytest.mark.parametrize("step", [CLOSE, RESET, HANG])
@on_both_loops
async def test_a_stream_that_breaks_off_inside_tls_is_noticed(secure: Upstream, trusted: None, step: Any) -> None:
    secure.send(events({"n": 1}, step))
    answer = await post(f"https://localhost:{secure.port}", limits=IMPATIENT, streams=True)
    with pytest.raises((httpx.ReadError, httpx.ReadTimeout)):
        await read(answer)
    await closed(secure)


@on_both_loops
async def test_an_idle_connection_with_tls_that_is_closed_is_noticed(secure: Upstream, trusted: None) -> None:
    for step in (CLOSE, RESET):
        secure.send(Reply(200, [b"ok", step], length=2))
        assert (await post(f"https://localhost:{secure.port}")).content == b"ok"
        await closed(secure)


@on_both_loops
async def test_a_slow_reader_makes_a_sender_behind_tls_wait(secure: Upstream, trusted: None) -> None:
    gate, url = Gate(), f"https://localhost:{secure.port}"
    secure.send(Reply(200, [*[b"x" * (1 << 20)] * 64, gate], {"content-type": "audio/mpeg"}))
    answer = await post(url, streams=True)
    for _ in range(300):
        await post(url)
    assert not gate.is_reached
    gate.open()
    assert len(await read(answer)) == 64 << 20


# -- cancelled ---------------------------------------------------------------------------------------------------------


ANSWERS = {
    "whole": OK,
    "chunked": Reply(200, [b"a", b"b", b"c"]),
    "stream": events({"n": 1}, {"n": 2}),
    "error": whole(500, b"x" * 50_000),
    "endless": Reply(200, [endless(b"x" * 1000)]),
    "silent": Reply(before=[HANG]),
    "closed": Reply(before=[CLOSE]),
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@on_both_loops
async def test_a_call_cancelled_at_any_moment_leaves_nothing_open(
    upstream: Upstream, secure: Upstream, trusted: None, answer: str, tls: bool
) -> None:
    server = secure if tls else upstream
    url = f"https://localhost:{server.port}" if tls else server.url

    async def ask() -> None:
        got = await post(url, streams=True)
        try:
            while await got.next_piece():
                pass
        finally:
            got.close()

    server.on("POST", "/", ANSWERS[answer])
    for moment in range(40):
        task = asyncio.create_task(ask())
        for _ in range(moment):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError, httpx.HTTPError):
            await task
    await asyncio.to_thread(server.wait_for, lambda: server.open_connections <= 1)
    server.on("POST", "/", OK)
    assert (await post(url)).status == 200
    await asyncio.to_thread(server.wait_for, lambda: server.open_connections == 1)
    exchanges = await http.exchanges()
    assert len(exchanges._sockets) == len(exchanges._idle[next(iter(exchanges._idle))]) == 1


@pytest.mark.parametrize("before", [[], [HEAD], [CHUNKED + b"2\r\nok\r\n"]], ids=["head", "in the head", "body"])
@on_both_loops
async def test_who_is_cancelled_while_he_waits_closes_at_once(upstream: Upstream, before: list[Any]) -> None:
    gate = Gate()
    upstream.send(raw(*before, gate))
    task = asyncio.create_task(post(upstream.url))
    await asyncio.to_thread(gate.wait_until_reached)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.open()
    await closed(upstream)


@on_both_loops
async def test_who_is_cancelled_while_he_connects_leaves_no_socket() -> None:
    with silent_address() as (host, port):
        task = asyncio.create_task(post(f"http://{host}:{port}"))
        exchanges = await http.exchanges()
        while not exchanges._sockets:
            await asyncio.sleep(0)
        (item,) = exchanges._sockets
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert item.fileno() == -1
        assert not exchanges._sockets


# -- loops and processes -----------------------------------------------------------------------------------------------


def sockets_open() -> set[str]:
    """This process's TCP sockets, but for those that listen."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return {name for name in found if name.startswith("socket:")}


RUNNERS: dict[str, Callable[[Any], Any]] = {
    "asyncio.run": asyncio.run,
    "uvloop.run": uvloop.run,
    "asyncio, closed only": lambda work: run_and_close(work, asyncio.new_event_loop),
    "uvloop, closed only": lambda work: run_and_close(work, uvloop.new_event_loop),
}


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.filterwarnings("ignore:unclosed resource <TCPTransport:ResourceWarning")  # uvloop's, which closes it
def test_short_loops_leave_no_descriptors(
    upstream: Upstream, secure: Upstream, trusted: None, runner: str, tls: bool
) -> None:
    server = secure if tls else upstream
    url = f"https://localhost:{server.port}" if tls else server.url
    run = RUNNERS[runner]
    run(post(url))
    run(post(url))
    gc.collect()
    before = sockets_open()
    for _ in range(30):
        run(post(url))
    gc.collect()
    server.wait_for(lambda: server.open_connections <= 1)  # of the last loop, where that was closed only
    assert len(sockets_open() - before) < 10  # beside what other threads of the process open meanwhile
    assert server.connections == 32


@LOOPS
def test_a_loop_that_ends_within_a_stream_closes_its_connection(upstream: Upstream, run: Callable[[Any], Any]) -> None:
    upstream.send(events({"n": 1}, HANG))

    async def begin() -> Answer:
        answer = await post(upstream.url, streams=True)
        assert await answer.next_piece()
        return answer

    answer = run(begin())
    upstream.wait_for(lambda: upstream.open_connections == 0)
    del answer
    gc.collect()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_has_connections_of_its_own(upstream: Upstream) -> None:
    upstream.on("POST", "/", served)
    assert io_loop.run(post(upstream.url)).content == b"1"
    assert in_child(lambda: [io_loop.run(post(upstream.url)).content for _ in range(2)] == [b"2", b"2"])
    assert io_loop.run(post(upstream.url)).content == b"1"
    assert upstream.connections == 2


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@LOOPS
def test_a_child_forked_within_a_stream_does_not_disturb_it(upstream: Upstream, run: Callable[[Any], Any]) -> None:
    gate = Gate()
    upstream.send(Reply(200, [b"first", gate, b"second"], {"content-type": "audio/mpeg"}))
    upstream.on("POST", "/", served)
    reached = threading.Event()

    async def ask() -> bytes:
        answer = await post(upstream.url, streams=True)
        reached.set()
        return await read(answer)

    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(run, ask())
        assert reached.wait(10)
        gate.wait_until_reached()
        assert in_child(lambda: gc.collect() >= 0 and asyncio.run(post(upstream.url)).content == b"2")
        gate.open()
        assert answer.result(10) == b"firstsecond"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@LOOPS
def test_a_child_holds_no_connection_of_its_parent_open(upstream: Upstream, run: Callable[[Any], Any]) -> None:
    upstream.send(events({"n": 1}, HANG))
    child_ends, parent_ends = os.pipe()

    async def ask() -> int:
        answer = await post(upstream.url, streams=True)
        assert await answer.next_piece()
        child = os.fork()
        if child == 0:
            os.close(parent_ends)
            os.read(child_ends, 1)  # until the parent has seen what it wants to see
            os._exit(0)
        answer.close()
        await closed(upstream)
        return child

    try:
        child = run(ask())
    finally:
        os.close(parent_ends)
        os.close(child_ends)
    os.waitpid(child, 0)
