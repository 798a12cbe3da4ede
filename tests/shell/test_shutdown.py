"""A server that is asked to stop: what goes on may finish within the limit, and what is cut is settled."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from django.db import connection, connections, transaction
from rest_framework.test import APIClient

from src.ai.models import AIModel, AIProvider, UsageRecord
from tests import vendor_answers as answers
from tests.serving import Server, server_process
from tests.upstream.server import HANG, Gate, Reply, Upstream, events, whole

CHAT = "/api/admin/ai/chat/send"
STREAM = {"message": "Hi", "stream": True}
GATEWAY = "/v1/chat/completions"
ASKED = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
HEL, LO, END = answers.chunk("Hel"), answers.chunk("lo!"), answers.chunk(None, "stop")

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def writer(make_provider: Callable[..., AIProvider], make_model: Callable[..., AIModel], upstream: Upstream) -> None:
    provider = make_provider(
        api_base_url=f"{upstream.url}/v1", shared_api_key="sk-0123456789abcdef", allow_shared_for_normal_admins=True
    )
    make_model(provider, "chat", model_id="gpt-6-luna", pricing_input=0, pricing_output=1_000_000)


@pytest.fixture
def client(editor_api: APIClient) -> Iterator[httpx.Client]:
    headers = {"Authorization": editor_api._credentials["HTTP_AUTHORIZATION"]}
    # A worker says that it is up a moment before it listens.
    with httpx.Client(headers=headers, timeout=20, transport=httpx.HTTPTransport(retries=5)) as client:
        yield client
    connections.close_all()


def is_closed(server: Server) -> bool:
    """Whether nobody new is let in."""
    try:
        httpx.get(f"{server.url}/healthz")
    except httpx.ConnectError:
        return True
    return False


def test_a_stream_goes_on_to_its_end_within_the_limit(client: httpx.Client, upstream: Upstream) -> None:
    gate = Gate()
    upstream.send(events(HEL, gate, LO, END))
    with server_process("--timeout-graceful-shutdown", "60") as server:
        with client.stream("POST", f"{server.url}{CHAT}", json=STREAM) as response:
            lines = response.iter_lines()
            assert next(lines) == "event: delta"
            server.stop()
            assert is_closed(server)
            gate.open()
            rest = list(lines)
        assert 'data: {"text": "lo!"}' in rest
        assert "event: done" in rest
        assert server.wait() == -signal.SIGTERM
    record = UsageRecord.objects.get()
    assert (record.state, record.error_code, record.finish_reason) == ("settled", "", "stop")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_goes_on_beyond_the_limit_is_cut_and_settled(
    workers: str, client: httpx.Client, upstream: Upstream
) -> None:
    gates = [Gate(), Gate()]
    upstream.send(events(HEL, HANG))
    options = ("--timeout-graceful-shutdown", "1", "--workers", workers)
    with server_process(*options) as server, ThreadPoolExecutor(2) as pool:
        if workers == "2":
            server.wait_for_line("startup complete")
            server.wait_for_line("startup complete")
        with client.stream("POST", f"{server.url}{CHAT}", json=STREAM) as response:
            lines = response.iter_lines()
            assert next(lines) == "event: delta"
            upstream.send(events(gates[0], HANG), Reply(200, [HANG], before=[gates[1]]))
            waiting = pool.submit(client.post, f"{server.url}{CHAT}", json=STREAM)
            gates[0].wait_until_reached()
            plain = pool.submit(client.post, f"{server.url}{CHAT}", json={"message": "Hi"})
            gates[1].wait_until_reached()
            server.stop()
            server.wait()
            for gate in gates:
                gate.open()
            with pytest.raises(httpx.RemoteProtocolError):
                list(lines)
        for request in (waiting, plain):
            assert isinstance(request.exception(), httpx.RemoteProtocolError) or request.result().status_code == 500
    cut, *others = UsageRecord.objects.order_by("created_at")
    assert (cut.state, cut.error_code, cut.cost_state) == ("settled", "client_disconnected", "estimated")
    assert [(record.state, record.cost_state) for record in others] == [("failed", "unknown")] * 2


def test_a_stream_of_the_gateway_goes_on_to_its_end_within_the_limit(client: httpx.Client, upstream: Upstream) -> None:
    gate = Gate()
    upstream.send(events(HEL, gate, LO, END))
    with server_process("--timeout-graceful-shutdown", "60") as server:
        with client.stream("POST", f"{server.url}{GATEWAY}", json=ASKED) as response:
            lines = response.iter_lines()
            assert "Hel" in next(lines)
            server.stop()
            assert is_closed(server)
            gate.open()
            assert list(lines)[-2:] == ["data: [DONE]", ""]
        assert server.wait() == -signal.SIGTERM
    record = UsageRecord.objects.get()
    assert (record.state, record.error_code, record.finish_reason) == ("settled", "", "stop")


def test_what_goes_on_in_the_gateway_beyond_the_limit_is_cut_and_settled(
    client: httpx.Client, upstream: Upstream
) -> None:
    gate = Gate()
    upstream.send(events(HEL, HANG))
    with server_process("--timeout-graceful-shutdown", "1") as server, ThreadPoolExecutor(1) as pool:
        with client.stream("POST", f"{server.url}{GATEWAY}", json=ASKED) as response:
            lines = response.iter_lines()
            assert "Hel" in next(lines)
            upstream.send(Reply(200, [HANG], before=[gate]))
            plain = pool.submit(client.post, f"{server.url}{GATEWAY}", json={**ASKED, "stream": False})
            gate.wait_until_reached()
            server.stop()
            server.wait()
            gate.open()
            with pytest.raises(httpx.RemoteProtocolError):
                list(lines)
        assert isinstance(plain.exception(), httpx.RemoteProtocolError) or plain.result().status_code == 500
    cut, other = UsageRecord.objects.order_by("created_at")
    assert (cut.state, cut.error_code, cut.cost_state) == ("settled", "client_disconnected", "estimated")
    assert (other.state, other.cost_state) == ("failed", "unknown")


def test_the_process_waits_until_what_was_cut_is_on_the_books(client: httpx.Client, upstream: Upstream) -> None:
    upstream.send(events(HEL, HANG))
    with (
        server_process("--timeout-graceful-shutdown", "0") as server,
        client.stream("POST", f"{server.url}{CHAT}", json=STREAM) as response,
    ):
        lines = response.iter_lines()
        assert next(lines) == "event: delta"
        with transaction.atomic():  # SQLite has one writer
            if connection.vendor == "postgresql":
                connection.cursor().execute("LOCK TABLE ai_usagerecord IN EXCLUSIVE MODE")
            server.stop()
            with pytest.raises(subprocess.TimeoutExpired):
                server.process.wait(2)
        server.wait()
    assert UsageRecord.objects.get().state == "settled"


@pytest.mark.postgres
def test_calls_under_way_hold_no_connection_of_the_pool(client: httpx.Client, upstream: Upstream) -> None:
    gate = Gate()
    upstream.on("POST", answers.CHAT, Reply(200, whole(200, answers.chat("Hello!")).parts, before=[gate]))
    pool_of_two = {"DATABASE_POOL_MIN_SIZE": "1", "DATABASE_POOL_MAX_SIZE": "2", "DATABASE_POOL_TIMEOUT": "5"}
    with server_process(**pool_of_two) as server, ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(client.post, f"{server.url}{CHAT}", json={"message": "Hi"}) for _ in range(8)]
        try:
            upstream.wait_for(lambda: len(upstream.requests) == 8)
        finally:
            gate.open()
        assert [call.result().status_code for call in calls] == [200] * 8
