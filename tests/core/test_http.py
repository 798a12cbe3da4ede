"""The process's connections: reused, bounded, closed in time, and never shared with a forked child."""

from __future__ import annotations

import asyncio
import gc
import gzip
import multiprocessing
import os
import select
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop
from pytest_django import Settings

from src.core import exchange, http, transport
from src.core.exchange import AnswerBroken
from src.core.http import BodyTooLarge, KeyMissing
from src.core.loop import io_loop
from src.core.net_guard import UrlRefused
from tests.core.conftest import in_child, run_and_close, silent_address
from tests.upstream.server import CLOSE, HANG, RESET, WAIT, Gate, Reply, Upstream, endless, whole
from tests.upstream.tls import server_context

OK = whole(200, {"ok": True})


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        server.on("GET", "/", OK)
        server.on("POST", "/", OK)
        yield server


async def get(url: str, **more: Any) -> httpx.Response:
    return await (await http.client()).get(url, timeout=httpx.Timeout(5), **more)


def served(request: Any) -> Reply:
    """An answer that says which connection it came over."""
    return whole(200, str(request.connection))


# -- reuse -------------------------------------------------------------------------------------------------------------


def test_one_thread_uses_one_connection(upstream: Upstream) -> None:
    for _ in range(50):
        io_loop.run(get(upstream.url))
    assert upstream.connections == 1


def test_eight_threads_use_no_more_than_eight(upstream: Upstream) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: io_loop.run(get(upstream.url)), range(200)))
    assert len(upstream.requests) == 200
    assert upstream.connections <= 8


async def test_as_many_connections_as_calls_at_once(upstream: Upstream) -> None:
    for _ in range(10):
        await asyncio.gather(*(get(upstream.url) for _ in range(5)))
    assert len(upstream.requests) == 50
    assert upstream.connections <= 5


async def test_hosts_do_not_share_connections(upstream: Upstream) -> None:
    with Upstream() as other:
        other.on("GET", "/", OK)
        for _ in range(3):
            await get(upstream.url)
            await get(other.url)
        assert (upstream.connections, other.connections) == (1, 1)


@pytest.mark.parametrize("step", [CLOSE, RESET])
async def test_a_connection_that_the_vendor_has_closed_is_not_used_again(upstream: Upstream, step: Any) -> None:
    upstream.on("GET", "/", Reply(200, [b"ok", step], length=2))
    for _ in range(3):
        assert (await get(upstream.url)).text == "ok"
        await asyncio.to_thread(upstream.wait_for, lambda: upstream.open_connections == 0)
    assert upstream.connections == 3


async def test_a_connection_that_was_closed_while_the_loop_stood_still_is_not_used_again(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "FRESH", 0.0)
    upstream.on("GET", "/", Reply(200, [b"ok", CLOSE], length=2))
    assert (await get(upstream.url)).text == "ok"
    assert select.select([*(await http.exchanges())._sockets], [], [], WAIT)[0]
    assert (await get(upstream.url)).text == "ok"
    assert upstream.connections == 2


async def test_an_old_connection_is_not_used_again(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    await get(upstream.url)
    monkeypatch.setattr(exchange, "IDLE_SECONDS", 0.0)
    await get(upstream.url)
    assert upstream.connections == 2
    await asyncio.to_thread(upstream.wait_for, lambda: upstream.open_connections == 0)


async def test_few_connections_are_kept(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "IDLE_LIMIT", 2)
    await asyncio.gather(*(get(upstream.url) for _ in range(6)))
    await asyncio.to_thread(upstream.wait_for, lambda: upstream.open_connections <= 2)


async def test_a_request_too_many_waits_for_its_turn(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "REQUESTS_LIMIT", 1)
    gate = Gate()
    upstream.send(Reply(200, [gate]), served)
    first = asyncio.create_task(get(upstream.url))
    await asyncio.to_thread(gate.wait_until_reached)
    with pytest.raises(httpx.PoolTimeout):
        await (await http.client()).get(upstream.url, timeout=httpx.Timeout(5, pool=0.01))
    second = asyncio.create_task(get(upstream.url))
    gate.open()
    await asyncio.gather(first, second)
    assert (upstream.connections, len(upstream.requests)) == (1, 2)


async def test_cookies_are_not_kept(upstream: Upstream) -> None:
    upstream.on("GET", "/", whole(200, b"", {"set-cookie": "who=admin; path=/"}))
    await get(upstream.url)
    await get(upstream.url)
    assert "cookie" not in upstream.last.headers


async def test_a_proxy_of_the_environment_is_not_used(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert (await get(upstream.url)).status_code == 200


# -- loops and processes -----------------------------------------------------------------------------------------------


def descriptors() -> set[str]:
    gc.collect()
    return set(os.listdir("/proc/self/fd"))


RUNNERS: dict[str, Callable[[Any], Any]] = {
    "asyncio.run": asyncio.run,
    "uvloop.run": uvloop.run,
    "asyncio, closed only": lambda work: run_and_close(work, asyncio.new_event_loop),
    "uvloop, closed only": lambda work: run_and_close(work, uvloop.new_event_loop),
}


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.filterwarnings("ignore:unclosed resource <TCPTransport:ResourceWarning")  # uvloop's, which closes it
def test_short_loops_leave_no_descriptors(upstream: Upstream, runner: str) -> None:
    run = RUNNERS[runner]
    # The first loop also opens what stays for the process, as libuv's own pipe for signals does.
    run(get(upstream.url))
    run(get(upstream.url))
    before = descriptors()
    for _ in range(60):
        run(get(upstream.url))
    upstream.wait_for(lambda: upstream.open_connections <= 1)  # of the last loop, where that was closed only
    assert len(descriptors()) < len(before) + 10  # beside what other threads of the process open meanwhile
    assert upstream.connections == 62


def test_a_loop_that_ends_in_the_middle_of_an_answer_closes_its_connection(upstream: Upstream) -> None:
    upstream.on("GET", "/", Reply(200, [b"x", HANG]))

    async def begin() -> AsyncIterator[bytes]:
        client = await http.client()
        response = await client.send(client.build_request("GET", upstream.url), stream=True)
        parts = response.aiter_bytes()
        assert await anext(parts) == b"x"
        return parts

    asyncio.run(begin())
    upstream.wait_for(lambda: upstream.open_connections == 0)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_has_connections_of_its_own(upstream: Upstream) -> None:
    upstream.on("GET", "/", served)
    assert io_loop.run(get(upstream.url)).text == "1"
    assert in_child(lambda: [io_loop.run(get(upstream.url)).text for _ in range(2)] == ["2", "2"])
    assert io_loop.run(get(upstream.url)).text == "1"
    assert upstream.connections == 2


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_forked_in_the_middle_of_an_answer_does_not_disturb_it(upstream: Upstream) -> None:
    gate = Gate()
    upstream.send(Reply(200, [b"first ", gate, b"second"]))
    upstream.on("GET", "/", served)
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(lambda: io_loop.run(get(upstream.url)))
        gate.wait_until_reached()
        assert in_child(lambda: io_loop.run(get(upstream.url)).text == "2")
        gate.open()
        assert answer.result().text == "first second"


def number_of_connection(url: str) -> str:
    return io_loop.run(get(url)).text


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_prefork_workers_each_keep_one_connection(upstream: Upstream) -> None:
    upstream.on("GET", "/", served)
    assert number_of_connection(upstream.url) == "1"
    with multiprocessing.get_context("fork").Pool(3) as workers:
        numbers = workers.map(number_of_connection, [upstream.url] * 60, chunksize=1)
    assert "1" not in numbers
    assert number_of_connection(upstream.url) == "1"
    assert upstream.connections <= 4


# -- cancelled ---------------------------------------------------------------------------------------------------------


ANSWERS = {
    "whole": OK,
    "chunked": Reply(200, [b"a", b"b", b"c"]),
    "error": whole(500, b"x" * 100_000),
    "endless": Reply(200, [endless(b"x" * 1000)]),
    "endless error": Reply(500, [endless(b"x" * 1000)]),
    "silent": Reply(before=[HANG]),
    "closed": Reply(before=[CLOSE]),
}


@pytest.mark.parametrize("answer", ANSWERS)
async def test_a_call_cancelled_at_any_moment_leaves_nothing_open(upstream: Upstream, answer: str) -> None:
    upstream.on("GET", "/", ANSWERS[answer])
    for moment in range(40):
        task = asyncio.create_task(get(upstream.url))
        for _ in range(moment):
            await asyncio.sleep(0)
        # Twice, as by one time-out inside another; in the middle of what the first has begun.
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError, httpx.HTTPError):
            await task
    await asyncio.to_thread(upstream.wait_for, lambda: upstream.open_connections <= 1)
    upstream.on("GET", "/", OK)
    assert (await get(upstream.url)).status_code == 200
    await asyncio.to_thread(upstream.wait_for, lambda: upstream.open_connections == 1)


@pytest.mark.parametrize("answer", ["silent", "endless", "endless error"])
async def test_a_time_out_inside_a_time_out_leaves_nothing_open(upstream: Upstream, answer: str) -> None:
    upstream.on("GET", "/", ANSWERS[answer])
    for delay in range(10):
        with suppress(TimeoutError, httpx.TimeoutException):
            async with asyncio.timeout(0.02), asyncio.timeout(0.02 + delay / 100_000):
                await (await http.client()).get(upstream.url, timeout=0.02)
    await asyncio.to_thread(upstream.wait_for, lambda: upstream.open_connections == 0)


async def test_an_endless_answer_does_not_stop_the_loop(upstream: Upstream) -> None:
    upstream.on("GET", "/", Reply(200, [endless(b"x" * 65536)]))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    client = await http.client()
    async with client.stream("GET", upstream.url) as response:
        parts = 0
        async for _ in response.aiter_bytes():
            parts += 1
            if parts == 200:
                break
    counting.cancel()
    assert turns >= 40  # asyncio reads four parts at a time at most


# -- the protocol ------------------------------------------------------------------------------------------------------


async def test_a_large_body_arrives_whole(upstream: Upstream) -> None:
    body = os.urandom(3 * 1024 * 1024)
    client = await http.client()
    await client.post(upstream.url, content=body)
    assert upstream.last.body == body


async def test_a_body_of_parts_arrives_whole(upstream: Upstream) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 1000

    await (await http.client()).post(upstream.url, content=parts(), headers={"content-length": "100000"})
    assert upstream.last.body == b"x" * 100_000


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("answer", "reused"),
    [
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + HEAD + b"content-length: 2\r\n\r\nok", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + HEAD + b"content-length: 2\r\n\r\nok", True),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\ntrailer: x\r\n\r\n", True),
        (HEAD + b"connection: close\r\ncontent-length: 2\r\n\r\nok", False),
        (HEAD + b"content-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", False),
    ],
    ids=["early hints", "continue", "trailers", "told to close", "an answer nobody asked for"],
)
async def test_what_http_allows_is_understood(upstream: Upstream, answer: bytes, reused: bool) -> None:
    upstream.on("GET", "/", Reply(before=[answer, HANG]))
    assert (await get(upstream.url)).text == "ok"
    if not reused:
        await asyncio.to_thread(upstream.wait_for, lambda: upstream.open_connections == 0)
    else:
        assert upstream.open_connections == 1


async def test_an_answer_that_ends_with_its_connection_is_whole(upstream: Upstream) -> None:
    upstream.on("GET", "/", Reply(before=[b"HTTP/1.0 200 OK\r\n\r\nok", CLOSE]))
    assert (await get(upstream.url)).text == "ok"


async def test_a_server_that_answers_before_it_has_read_everything_is_heard(upstream: Upstream) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            accepted, _ = server.accept()
            accepted.sendall(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig")
            accepted.close()

        thread = threading.Thread(target=refuse)
        thread.start()
        client = await http.client()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        response = await client.post(url, content=b"x" * (8 << 20), timeout=5)
        thread.join()
    assert (response.status_code, response.text) == (413, "big")


@pytest.mark.parametrize(
    ("before", "error"),
    [
        ([CLOSE], httpx.ReadError),
        ([RESET], httpx.ReadError),
        ([HEAD, CLOSE], AnswerBroken),
        ([HEAD, RESET], AnswerBroken),
        ([b"220 mail\r\n\r\n", CLOSE], httpx.RemoteProtocolError),
        ([HEAD + b"content-length: many\r\n\r\n", CLOSE], httpx.RemoteProtocolError),
        ([HEAD + b"content-length: 9\r\n\r\nok", CLOSE], AnswerBroken),
        ([HEAD + b"transfer-encoding: chunked\r\n\r\n9\r\nok", CLOSE], AnswerBroken),
        ([HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n", CLOSE], httpx.RemoteProtocolError),
        ([HEAD + b"x: " + b"y" * 200_000 + b"\r\n\r\n", CLOSE], httpx.RemoteProtocolError),
    ],
)
async def test_a_broken_answer_says_how_it_broke(upstream: Upstream, before: list[Any], error: type[Exception]) -> None:
    upstream.on("GET", "/", Reply(before=before))
    with pytest.raises(error) as caught:
        await get(upstream.url)
    assert type(caught.value) is error
    await asyncio.to_thread(upstream.wait_for, lambda: upstream.open_connections == 0)


async def test_of_an_error_only_the_first_part_is_read(upstream: Upstream) -> None:
    upstream.on("GET", "/", Reply(500, [endless(b"x" * 1000)]))
    response = await get(upstream.url)
    assert exchange.ERROR_BODY_LIMIT <= len(response.content) < 2 * exchange.ERROR_BODY_LIMIT


@pytest.mark.parametrize("step", [CLOSE, RESET])
async def test_the_status_of_an_error_is_known_however_its_body_breaks(upstream: Upstream, step: Any) -> None:
    upstream.on("GET", "/", Reply(500, [b"{", step]))
    assert (await get(upstream.url)).status_code == 500


# -- keys, redirects, downloads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
async def test_the_stand_in_for_a_key_never_leaves(upstream: Upstream, header: str) -> None:
    with pytest.raises(KeyMissing):
        await get(upstream.url, headers={header: f"Bearer {http.NO_KEY}"})
    assert not upstream.requests


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(upstream: Upstream, status: int) -> None:
    with Upstream() as elsewhere:
        upstream.on("GET", "/", whole(status, b"", {"location": elsewhere.url}))
        assert (await get(upstream.url, headers={"authorization": "Bearer key"})).status_code == status
        with pytest.raises(httpx.HTTPStatusError):
            await http.download(upstream.url, seconds=5)
        assert elsewhere.connections == 0


async def test_a_download_takes_no_key_along(upstream: Upstream) -> None:
    upstream.on("GET", "/", whole(200, b"file", content_type="image/png"))
    assert await http.download(upstream.url, seconds=5) == http.Download(b"file", "image/png")
    assert {"authorization", "cookie", "x-goog-api-key"}.isdisjoint(upstream.last.headers)


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        (whole(200, b"x" * 10_001), 1),
        (Reply(200, [b"x" * 5_000, b"x" * 5_001]), 1),
        (Reply(200, [endless(b"x" * 1000)]), 0),
        (whole(200, gzip.compress(bytes(50_000_000)), {"content-encoding": "gzip"}), 1),
    ],
    ids=["length", "chunks", "endless", "compressed"],
)
async def test_a_download_may_not_grow_beyond_its_limit(upstream: Upstream, answer: Reply, left: int) -> None:
    upstream.on("GET", "/", answer)
    with pytest.raises(BodyTooLarge, match="10,000"):
        await http.download(upstream.url, seconds=5, limit=10_000)
    await asyncio.to_thread(upstream.wait_for, lambda: upstream.open_connections <= left)


async def test_what_is_compressed_grows_before_its_readers_eyes(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "PIECE", 1000)
    upstream.on("GET", "/", whole(200, gzip.compress(bytes(5_000_000)), {"content-encoding": "gzip"}))
    async with (await http.client()).stream("GET", upstream.url) as response:
        sizes = [len(part) async for part in response.aiter_bytes()]
    assert sum(sizes) == 5_000_000
    assert max(sizes) < 1_100_000  # DEFLATE makes a thousandth of it at best


async def test_head_is_refused(upstream: Upstream) -> None:
    with pytest.raises(httpx.LocalProtocolError, match="GET"):
        await (await http.client()).head(upstream.url)


@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\nx", "a\x00"])
async def test_a_header_that_would_bring_others_along_is_refused_and_not_repeated(
    upstream: Upstream, value: str
) -> None:
    with pytest.raises(httpx.LocalProtocolError) as caught:
        await get(upstream.url, headers={"x-key": value})
    assert "evil" not in str(caught.value)
    assert not upstream.requests


async def test_a_download_has_its_time(upstream: Upstream) -> None:
    upstream.on("GET", "/", Reply(200, [b"x", HANG]))
    with pytest.raises((TimeoutError, httpx.TimeoutException)):
        await http.download(upstream.url, seconds=0.1)
    await asyncio.to_thread(upstream.wait_for, lambda: upstream.open_connections == 0)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/x.png",
        "https://10.0.0.1/x.png",
        "file:///etc/passwd",
        "https://169.254.169.254/",
        "x.png",
        "",
    ],
)
async def test_a_download_into_the_network_is_refused(url: str) -> None:
    with pytest.raises(UrlRefused):
        await http.download(url, seconds=5)


# -- names and addresses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["93.184.215.14", "127.0.0.1"],
        ["10.0.0.1"],
        ["169.254.169.254"],
        ["168.63.129.16"],
        ["fd00:ec2::254"],
        ["fe80::1%eth0"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::a9fe:a9fe"],
        ["0.0.0.0"],  # noqa: S104
    ],
    ids=" ".join,
)
async def test_a_name_that_leads_into_the_network_is_refused(
    upstream: Upstream, resolve: Callable[..., list[str]], addresses: list[str]
) -> None:
    resolve(*((address, upstream.port) for address in addresses))
    with pytest.raises(UrlRefused, match="not a public"):
        await get("https://vendor.example/")
    assert upstream.connections == 0


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0x7f.1", "017700000001", "127.1", "127.0.0.1."])
async def test_an_address_in_disguise_is_refused(upstream: Upstream, settings: Settings, host: str) -> None:
    settings.AI_HTTP_HOSTS = []
    with pytest.raises(UrlRefused):
        await get(f"https://{host}:{upstream.port}/")
    assert upstream.connections == 0


async def test_a_name_is_resolved_once_for_the_check_and_the_connection(
    upstream: Upstream, resolve: Callable[..., list[str]], settings: Settings
) -> None:
    settings.AI_HTTP_HOSTS = ["vendor.example"]
    asked = resolve(("127.0.0.1", upstream.port))
    assert (await get("http://vendor.example/")).status_code == 200
    assert asked == ["vendor.example"]
    assert upstream.last.headers["host"] == "vendor.example"


async def test_every_request_is_checked_not_only_the_first(upstream: Upstream, settings: Settings) -> None:
    await get(upstream.url)
    settings.AI_HTTP_HOSTS = []
    with pytest.raises(UrlRefused):
        await get(upstream.url)


async def test_a_host_that_keeps_silent_is_given_up() -> None:
    before = descriptors()
    with silent_address() as (host, port), pytest.raises(httpx.ConnectTimeout):
        await (await http.client()).get(f"http://{host}:{port}", timeout=httpx.Timeout(5, connect=0.1))
    assert len(descriptors()) < len(before) + 10  # beside what other threads of the process open meanwhile


async def test_the_next_address_is_tried_when_one_keeps_silent(
    upstream: Upstream, resolve: Callable[..., list[str]], settings: Settings
) -> None:
    settings.AI_HTTP_HOSTS = ["vendor.example"]
    with silent_address() as silent:
        resolve(silent, ("127.0.0.1", upstream.port))
        response = await (await http.client()).get("http://vendor.example/", timeout=httpx.Timeout(5, connect=0.4))
    assert response.status_code == 200


async def test_a_name_without_an_address_can_not_be_reached(resolve: Callable[..., list[str]]) -> None:
    resolve()
    with pytest.raises(httpx.ConnectError):
        await get("https://vendor.example/")


# -- TLS ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tls_upstream(certificate: Path) -> Iterator[Upstream]:
    with Upstream(tls=server_context(certificate)) as server:
        server.on("GET", "/", served)
        yield server


async def test_a_certificate_that_nobody_vouches_for_is_refused(tls_upstream: Upstream) -> None:
    with pytest.raises(httpx.ConnectError, match="self-signed certificate"):
        await get(f"https://localhost:{tls_upstream.port}/")
    assert not tls_upstream.requests


@pytest.mark.usefixtures("trusted")
async def test_a_certificate_of_another_host_is_refused(tls_upstream: Upstream) -> None:
    with pytest.raises(httpx.ConnectError, match=r"not valid for '127\.0\.0\.1'"):
        await get(f"https://127.0.0.1:{tls_upstream.port}/")
    assert not tls_upstream.requests


async def test_a_server_without_tls_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            accepted, _ = server.accept()
            accepted.recv(1 << 16)
            accepted.sendall(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")
            accepted.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(httpx.ConnectError):
            await get(f"https://localhost:{server.getsockname()[1]}/")
        thread.join()


async def test_a_handshake_that_stalls_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"https://localhost:{server.getsockname()[1]}/"
        with pytest.raises(httpx.ConnectTimeout):
            await (await http.client()).get(url, timeout=httpx.Timeout(5, connect=0.1))


@pytest.mark.usefixtures("trusted")
async def test_connections_with_tls_are_used_again(tls_upstream: Upstream) -> None:
    url = f"https://localhost:{tls_upstream.port}/"
    assert [(await get(url)).text for _ in range(5)] == ["1"] * 5


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_large_bodies_go_through_tls_both_ways(tls_upstream: Upstream, run: Callable[[Any], bytes]) -> None:
    tls_upstream.on("POST", "/", lambda request: whole(200, request.body))
    body = os.urandom(2 * 1024 * 1024)

    async def post() -> bytes:
        return (await (await http.client()).post(f"https://localhost:{tls_upstream.port}/", content=body)).content

    assert run(post()) == body


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("step", [CLOSE, RESET, HANG])
async def test_an_answer_that_breaks_off_inside_tls_is_noticed(tls_upstream: Upstream, step: Any) -> None:
    tls_upstream.on("GET", "/", Reply(200, [b"begun", step]))
    with pytest.raises((httpx.ReadError, httpx.ReadTimeout)):
        await (await http.client()).get(f"https://localhost:{tls_upstream.port}/", timeout=httpx.Timeout(5, read=0.2))
    await asyncio.to_thread(tls_upstream.wait_for, lambda: tls_upstream.open_connections == 0)


# -- what is built once ------------------------------------------------------------------------------------------------


async def test_an_sdk_is_built_once_a_loop_and_not_on_the_loop() -> None:
    threads: list[int] = []

    def build(client: httpx.AsyncClient) -> object:
        threads.append(threading.get_ident())
        return object()

    built = await asyncio.gather(*(http.shared("sdk", build) for _ in range(20)))
    assert len(set(map(id, built))) == len(threads) == 1
    assert threads != [threading.get_ident()]


def test_each_loop_has_an_sdk_of_its_own() -> None:
    async def shared() -> tuple[object, httpx.AsyncClient]:
        return await http.shared("sdk", lambda client: client), await http.client()

    first, second = asyncio.run(shared()), asyncio.run(shared())
    assert first[0] is first[1]
    assert second[0] is second[1]
    assert first[0] is not second[0]


async def test_the_number_of_sdks_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SHARED_LIMIT", 3)
    first = await http.shared("sdk 0", lambda client: object())
    for number in range(1, 4):
        await http.shared(f"sdk {number}", lambda client: object())
    assert await http.shared("sdk 0", lambda client: object()) is not first
