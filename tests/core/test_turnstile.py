"""So many in any minute and so many at once: by one process or several, with Redis, without, and while it is away."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import Any

import pytest
import redis
import uvloop
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from pytest_django import Settings
from rest_framework.test import APIClient

from src.ai.exceptions import RatesUnavailable, TokenRateLimited
from src.ai.models import AIModel, AIProvider, APIToken
from src.ai.services import rates
from src.ai.services.token_rules import TokenRules
from src.core import turnstile
from src.core.cache.backend import Outage
from tests import vendor_answers as answers
from tests.conftest import codes
from tests.ledger.processes import Client as SiteClient
from tests.ledger.processes import Processes, listening, this_database
from tests.ledger.services import Redis, free_port
from tests.upstream.server import Gate, Upstream, whole

PLACES, CALLERS = 5, 32
CHAT = "/api/admin/ai/chat/send"
LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


def rules(**limits: int) -> TokenRules:
    return TokenRules(token_hex(8), "ci", **limits)  # type: ignore[arg-type]


def until(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + 20
    while not condition():
        assert monotonic() < deadline, "it did not come to pass"


def is_limited(asked: TokenRules) -> bool:
    try:
        lease = rates.acquire_here(asked, 60)
    except TokenRateLimited:
        return True
    if lease:
        lease.release()
    return False


# -- decisions: in memory or in Redis, as the suite has it -----------------------------------------------------------


async def test_places_are_given_out_and_taken_back() -> None:
    asked = rules(concurrent_requests=2)
    one, two = await rates.acquire(asked, 60), await rates.acquire(asked, 60)
    assert one
    assert two
    with pytest.raises(TokenRateLimited) as refused:
        await rates.acquire(asked, 60)
    assert (refused.value.retry_after, "requests at once: 2" in str(refused.value)) == (1, True)
    one.release()
    one.release()  # once more changes nothing
    assert await rates.acquire(asked, 60)
    with pytest.raises(TokenRateLimited):
        await rates.acquire(asked, 60)


async def test_of_any_number_at_once_as_many_get_in_as_have_room() -> None:
    asked = rules(concurrent_requests=7, requests_per_minute=12)
    got = await asyncio.gather(*(rates.acquire(asked, 60) for _ in range(300)), return_exceptions=True)
    leases = [lease for lease in got if isinstance(lease, rates.Lease)]
    assert (len(leases), len(got) - len(leases)) == (7, sum(isinstance(one, TokenRateLimited) for one in got))
    for lease in leases:
        lease.release()
    got = await asyncio.gather(*(rates.acquire(asked, 60) for _ in range(300)), return_exceptions=True)
    assert sum(isinstance(one, rates.Lease) for one in got) == 5  # of the minute


async def test_a_token_without_rates_is_never_counted() -> None:
    for asked in (None, TokenRules("t", capabilities=frozenset({"chat"}))):
        assert await rates.acquire(asked, 60) is None
        assert rates.acquire_here(asked, 60) is None


async def test_a_place_that_nobody_gives_back_is_free_after_the_longest_time_of_its_call() -> None:
    asked = rules(concurrent_requests=1)
    assert await rates.acquire(asked, 0.2)
    with pytest.raises(TokenRateLimited):
        await rates.acquire(asked, 60)
    deadline = monotonic() + 20
    while True:
        try:
            assert await rates.acquire(asked, 60)
            break
        except TokenRateLimited:
            assert monotonic() < deadline
    with pytest.raises(TokenRateLimited):
        await rates.acquire(asked, 60)


async def test_whoever_gives_up_waiting_holds_no_place() -> None:
    asked = rules(concurrent_requests=1)
    waiting = [asyncio.ensure_future(rates.acquire(asked, 60)) for _ in range(20)]
    await asyncio.sleep(0)
    for one in waiting:
        one.cancel()
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    for lease in ended:
        if isinstance(lease, rates.Lease):  # was faster
            lease.release()
    assert await rates.acquire(asked, 60)


def test_threads_and_loops_of_a_process_share_the_rates() -> None:
    asked = rules(concurrent_requests=PLACES)

    def hold(number: int) -> Any:
        try:
            return rates.acquire_here(asked, 60) if number % 2 else asyncio.run(rates.acquire(asked, 60))
        except TokenRateLimited:
            return None

    with ThreadPoolExecutor(8) as callers:
        leases = [lease for lease in callers.map(hold, range(CALLERS)) if lease]
        assert len(leases) == PLACES
        list(callers.map(rates.Lease.release, leases))  # in other threads, after their loops have ended
    until(lambda: not is_limited(asked))


def test_a_call_that_fails_gives_its_place_back() -> None:
    asked = rules(concurrent_requests=1)

    async def fail() -> None:
        async with rates.holding(asked, 60):
            raise LookupError

    for _ in range(3):
        with pytest.raises(LookupError):
            async_to_sync(fail)()
    for _ in range(3):
        with pytest.raises(LookupError), rates.holding(asked, 60):
            raise LookupError
    assert not is_limited(asked)


def test_the_minute_goes_by_in_memory(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.REDIS_URL = ""
    asked = rules(requests_per_minute=2)
    assert [is_limited(asked) for _ in range(3)] == [False, False, True]
    monkeypatch.setattr(turnstile, "MINUTE", 0.0)
    assert not is_limited(asked)


# -- in Redis ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    """A Redis of the test's own."""
    monkeypatch.setattr("src.core.cache.backend.RETRY_AFTER", 0.1)
    monkeypatch.setattr(turnstile, "RETRY_AFTER", 0.1)
    with Redis() as started:
        settings.REDIS_URL = started.url
        yield started
        if not started.answers():
            started.start()
        until(lambda: not Outage.of(started.url).is_on)
        # With this goes what could not be given back meanwhile: this process would try that for ever.
        rates.acquire_here(rules(concurrent_requests=1), 1)


@pytest.mark.redis
def test_the_minute_goes_by_in_redis(server: Redis) -> None:
    asked = rules(requests_per_minute=2)
    assert [is_limited(asked) for _ in range(3)] == [False, False, True]
    with pytest.raises(TokenRateLimited) as refused:
        rates.acquire_here(asked, 60)
    with redis.Redis(port=server.port) as store:
        (key,) = store.keys("*minute*")
        assert 0 < store.pttl(key) <= 60_000
        newest, oldest = (int(moment) for moment in store.lrange(key, 0, -1))
        until_then = (oldest - newest) / 1_000_000 + refused.value.retry_after
        assert 59 < until_then <= 60
        store.lset(key, 1, oldest - 60_000_000)
        assert [is_limited(asked) for _ in range(2)] == [False, True]
        store.lset(key, 1, newest - 50_000_000)
        with pytest.raises(TokenRateLimited) as refused:
            rates.acquire_here(asked, 60)
    assert refused.value.retry_after <= 10


@pytest.mark.redis
def test_redis_keeps_nothing_of_a_token_that_rests(server: Redis) -> None:
    asked = rules(requests_per_minute=5, concurrent_requests=2)
    long, short = rates.acquire_here(asked, 90), rates.acquire_here(asked, 1)
    assert long
    assert short
    with redis.Redis(port=server.port) as store:
        (places,) = store.keys("*places*")
        assert 60_000 < store.pttl(places) <= 90_000  # the longest that any place is held
        long.release()
        short.release()
        until(lambda: not store.exists(places))


@pytest.mark.redis
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_counts_over_a_connection_of_its_own(server: Redis) -> None:
    asked = rules(concurrent_requests=2)
    held = rates.acquire_here(asked, 60)
    assert held
    child = os.fork()
    if child == 0:
        status = 1
        with suppress(BaseException):
            rates.acquire_here(asked, 60)
            status = 0 if is_limited(asked) else 2
        os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert is_limited(asked)
    held.release()
    assert not is_limited(asked)


@pytest.mark.redis
def test_what_comes_together_travels_together(server: Redis) -> None:
    asked = rules(concurrent_requests=1000)

    async def all_at_once() -> int:
        await rates.acquire(asked, 60)
        with redis.Redis(port=server.port) as store:

            def scripts() -> int:
                told = store.info("commandstats")
                return sum(told.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))

            before = scripts()
            leases = await asyncio.gather(*(rates.acquire(asked, 60) for _ in range(200)))
            for lease in leases:
                assert lease
                lease.release()
            await rates.acquire(asked, 60)
            return scripts() - before

    assert asyncio.run(all_at_once()) <= 4  # for 400 entries


@pytest.mark.redis
@pytest.mark.parametrize("opened", [False, True])
def test_while_redis_is_away_the_setting_decides(
    opened: bool, server: Redis, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.AI_RATES_FAIL_OPEN = opened
    caplog.set_level(logging.WARNING, "src.core")
    asked = rules(requests_per_minute=1, concurrent_requests=1)
    assert not is_limited(asked)
    assert is_limited(asked)
    server.stop()
    for _ in range(50):
        if opened:
            assert rates.acquire_here(asked, 60) is None
        else:
            with pytest.raises(RatesUnavailable) as refused:
                rates.acquire_here(asked, 60)
            assert refused.value.retry_after
    assert [record.message for record in caplog.records] == ["Redis is away, going on without"]
    assert not is_limited(rules())  # what has no rates goes on
    server.start()
    until(lambda: not Outage.of(server.url).is_on)
    assert [is_limited(asked) for _ in range(2)] == [False, True]  # Redis has forgotten


@pytest.mark.redis
def test_a_redis_that_answers_nothing_is_waited_for_once(server: Redis, settings: Settings) -> None:
    settings.REDIS_TIMEOUT = 0.2
    asked = rules(concurrent_requests=1)
    held = rates.acquire_here(asked, 60)
    assert held
    with frozen(server):
        start = monotonic()
        for _ in range(100):
            with pytest.raises(RatesUnavailable):
                rates.acquire_here(asked, 60)
        held.release()  # does not wait either
        assert monotonic() - start < 20 * settings.REDIS_TIMEOUT  # of 100
    until(lambda: not Outage.of(server.url).is_on)
    until(lambda: not is_limited(asked))  # what was given back meanwhile has been kept


@pytest.mark.redis
@LOOPS
def test_a_machine_that_stood_still_is_no_outage(
    run: Callable[[Coroutine[Any, Any, object]], object], server: Redis, settings: Settings
) -> None:
    """Whoever was not there himself can't tell that Redis was not."""
    settings.REDIS_TIMEOUT = 1.0
    asked = rules(concurrent_requests=1)

    async def main() -> None:
        await rates.acquire(rules(concurrent_requests=1), 60)  # connects
        with frozen(server):
            waiting = asyncio.ensure_future(rates.acquire(asked, 60))
            for _ in range(5):
                await asyncio.sleep(0)  # it is sent
            sleep(settings.REDIS_TIMEOUT + 0.5)  # what stands still with Redis is this loop
            asyncio.get_running_loop().call_later(0.1, server.process.send_signal, signal.SIGCONT)
            assert await waiting

    run(main())


@pytest.mark.redis
def test_a_redis_that_was_started_again_is_no_outage(server: Redis) -> None:
    asked = rules(requests_per_minute=5)
    assert not is_limited(asked)
    server.stop()
    server.start()
    assert not is_limited(asked)
    assert not Outage.of(server.url).is_on


@pytest.mark.redis
def test_a_redis_that_can_not_write_can_not_count(server: Redis) -> None:
    asked = rules(requests_per_minute=5)
    assert not is_limited(asked)
    with redis.Redis(port=server.port) as store:
        store.config_set("maxmemory", "1")
        with pytest.raises(RatesUnavailable):
            rates.acquire_here(asked, 60)
        store.config_set("maxmemory", "0")
    until(lambda: not Outage.of(server.url).is_on)
    assert not is_limited(asked)


@pytest.mark.redis
def test_calls_by_tokens_without_rates_go_on_while_redis_is_away(
    server: Redis,
    editor: User,
    provider: AIProvider,
    settings: Settings,
) -> None:
    limited, free = (
        client_of(APIToken.objects.create(user=editor, name="ci", **limits)[1])
        for limits in ({"requests_per_minute": 9}, {"capabilities": ["chat"]})
    )
    server.stop()
    response = limited.post(CHAT, {"message": "Hi"})
    assert (response.status_code, codes(response)) == (503, ["rates_unavailable"])
    assert int(response["Retry-After"]) >= 1
    assert free.post(CHAT, {"message": "Hi"}).status_code == 200
    settings.AI_RATES_FAIL_OPEN = True
    assert limited.post(CHAT, {"message": "Hi"}).status_code == 200


@contextmanager
def frozen(server: Redis) -> Iterator[None]:
    """It takes connections and answers nothing."""
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


def client_of(token: str) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
    return client


@pytest.fixture
def provider(
    make_provider: Callable[..., AIProvider], make_model: Callable[..., AIModel], upstream: Upstream
) -> AIProvider:
    upstream.on("POST", answers.CHAT, whole(200, answers.chat("Hello!")))
    row = make_provider(
        api_base_url=f"{upstream.url}/v1", shared_api_key="sk-0123456789abcdef", allow_shared_for_normal_admins=True
    )
    make_model(row, "chat")
    return row


@pytest.mark.redis
@LOOPS
@pytest.mark.parametrize(
    "url",
    [
        "redis://:{password}@127.0.0.1:{port}/3?client_name=turnstile",
        "unix://:{password}@{folder}/socket?db=3&client_name=turnstile",
        "rediss://:{password}@localhost:{tls_port}/3?client_name=turnstile&ssl_ca_certs={certificate}",
    ],
    ids=["tcp", "unix", "tls"],
)
def test_a_url_may_ask_for_all_that_redis_py_knows(
    run: Callable[[Coroutine[Any, Any, Any]], Any],
    url: str,
    certificate: Path,
    settings: Settings,
) -> None:
    password, tls_port = token_hex(8), free_port()
    asked = rules(concurrent_requests=1)

    async def take_and_give_back() -> None:
        for _ in range(3):
            lease = await rates.acquire(asked, 60)
            assert lease
            with pytest.raises(TokenRateLimited):
                await rates.acquire(asked, 60)
            assert "turnstile" in {client["name"] for client in store.client_list()}
            assert store.info("keyspace")["db3"]["keys"] == 1
            lease.release()
            store.client_kill_filter(_type="normal", skipme=True)  # the next round has to connect again

    with TemporaryDirectory() as folder:  # a socket's path may not be long
        secure = ["--tls-port", str(tls_port), "--tls-auth-clients", "no"]
        for kind in ("cert", "key", "ca-cert"):
            secure += [f"--tls-{kind}-file", str(certificate)]
        with (
            Redis("--unixsocket", f"{folder}/socket", *secure) as started,
            redis.Redis(port=started.port) as store,
        ):
            store.config_set("requirepass", password)
            settings.REDIS_URL = url.format(
                password=password, port=started.port, folder=folder, tls_port=tls_port, certificate=certificate
            )
            run(take_and_give_back())
            until(lambda: "turnstile" not in {client["name"] for client in store.client_list()})
            assert "db3" not in store.info("keyspace")


@pytest.mark.redis
@LOOPS
def test_a_connection_or_a_script_that_redis_has_dropped_is_no_outage(
    run: Callable[[Coroutine[Any, Any, Any]], Any], server: Redis
) -> None:
    async def go_on() -> None:
        asked = rules(requests_per_minute=6)
        with redis.Redis(port=server.port) as store:
            for drop in (store.script_flush, lambda: store.client_kill_filter(_type="normal", skipme=True)) * 3:
                await rates.acquire(asked, 60)
                drop()
        with pytest.raises(TokenRateLimited):
            await rates.acquire(asked, 60)

    run(go_on())
    assert not Outage.of(server.url).is_on


@pytest.mark.redis
@LOOPS
def test_a_loop_that_ends_gives_back_what_is_left(
    run: Callable[[Coroutine[Any, Any, Any]], Any], server: Redis
) -> None:
    asked = rules(concurrent_requests=1)

    async def take_and_leave() -> None:
        lease = await rates.acquire(asked, 60)
        assert lease
        with redis.Redis(port=server.port) as store:
            store.client_kill_filter(_type="normal", skipme=True)  # so that it has to connect for it
        lease.release()

    for _ in range(3):
        run(take_and_leave())


@pytest.mark.redis
@LOOPS
def test_an_answer_may_come_in_pieces(
    run: Callable[[Coroutine[Any, Any, Any]], Any], server: Redis, settings: Settings
) -> None:
    asked = rules(concurrent_requests=PLACES, requests_per_minute=1000)

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(rates.acquire(asked, 60) for _ in range(100)), return_exceptions=True)

    def relay(client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", server.port)) as there, ThreadPoolExecutor(1) as thread:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = thread.submit(pass_on, there, client, 1)
            pass_on(client, there, 1 << 16)
            back.result()

    def pass_on(source: socket.socket, target: socket.socket, size: int) -> None:
        with suppress(OSError):
            while data := source.recv(size):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    with played_by(relay) as url:
        settings.REDIS_URL = url
        got = Counter(type(one) for one in run(all_at_once()))
        settings.REDIS_URL = server.url
    assert got == {rates.Lease: PLACES, TokenRateLimited: 100 - PLACES}


@pytest.mark.redis
@pytest.mark.parametrize("answer", [b"*2\r\n:0\r\n:0\r\n", b"*1\r\n$-1\r\n", b"+OK\r\n"])
def test_an_answer_that_is_none_takes_nobody_in(answer: bytes, settings: Settings) -> None:
    def play(client: socket.socket) -> None:
        with suppress(OSError):
            while asked := client.recv(1 << 16):
                client.sendall(answer if b"EVAL" in asked else b"+OK\r\n" * asked.count(b"CLIENT"))

    with played_by(play) as url:
        settings.REDIS_URL = url
        with pytest.raises(RatesUnavailable):
            asyncio.run(rates.acquire(rules(requests_per_minute=1), 60))
        assert Outage.of(url).is_on
        Outage.of(url).is_on = False


@contextmanager
def played_by(play: Callable[[socket.socket], None]) -> Iterator[str]:
    """The URL of what plays a Redis for one connection."""

    def serve() -> None:
        with listener.accept()[0] as client:
            play(client)

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as thread:
        listener.settimeout(20)
        served = thread.submit(serve)
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        served.result()


# -- several processes -------------------------------------------------------------------------------------------------


@pytest.mark.redis
@pytest.mark.django_db(transaction=True)
def test_processes_share_the_rates_and_a_killed_one_gives_its_places_back(
    editor: User, provider: AIProvider, upstream: Upstream, server: Redis
) -> None:
    stored, token = APIToken.objects.create(user=editor, name="ci", concurrent_requests=PLACES)
    gate, answer = Gate(), whole(200, answers.chat("Hello!"))
    upstream.on("POST", answers.CHAT, type(answer)(200, answer.parts, answer.headers, [gate], answer.length))
    with (
        listening() as (listener, port),
        listening() as (other_listener, other_port),
        Processes(this_database(), {"REDIS_URL": server.url}) as processes,
        ThreadPoolExecutor(2 * CALLERS) as callers,
        redis.Redis(port=server.port) as store,
    ):
        servers = [processes.serve(listener), processes.serve(other_listener)]
        clients = [SiteClient(port, str(token)), SiteClient(other_port, str(token))]
        calls = [callers.submit(clients[number % 2].chat, 5) for number in range(CALLERS)]
        until(lambda: sum(call.done() for call in calls) == CALLERS - PLACES)
        upstream.wait_for(lambda: len(upstream.requests) == PLACES)

        dead = next(number for number, call in enumerate(calls) if not call.done()) % 2
        processes.kill(servers[dead])
        gate.open()
        outcomes = Counter(call.result() for call in calls)
        assert outcomes["token_rate_limited"] == CALLERS - PLACES
        assert outcomes["lost"] + outcomes["served"] == PLACES
        (key,) = store.keys("*places*")
        until(lambda: store.zcard(key) == outcomes["lost"])  # what the other held is free again
        # As if the longest time that a call may take had gone by.
        store.zadd(key, dict.fromkeys(store.zrange(key, 0, -1), 0))
        upstream.on("POST", answers.CHAT, answer)
        assert [clients[1 - dead].chat(5) for _ in range(2)] == ["served", "served"]
        until(lambda: not store.exists(key))
    assert stored.token_key in key.decode()


@pytest.mark.redis
@pytest.mark.django_db(transaction=True)
def test_processes_share_the_minute(editor: User, provider: AIProvider, upstream: Upstream, server: Redis) -> None:
    _stored, token = APIToken.objects.create(user=editor, name="ci", requests_per_minute=PLACES)
    with (
        listening() as (listener, port),
        listening() as (other_listener, other_port),
        Processes(this_database(), {"REDIS_URL": server.url}) as processes,
        ThreadPoolExecutor(CALLERS) as callers,
    ):
        processes.serve(listener)
        processes.serve(other_listener)
        clients = [SiteClient(port, str(token)), SiteClient(other_port, str(token))]
        outcomes = Counter(callers.map(lambda number: clients[number % 2].chat(5), range(CALLERS)))
    assert outcomes == {"served": PLACES, "token_rate_limited": CALLERS - PLACES}
    assert len(upstream.requests) == PLACES
