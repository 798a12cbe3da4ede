"""The door in uvicorn's protocol: what goes by it, what is left to ASGI, and that nobody can tell."""

from __future__ import annotations

import gc
import json
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from src.ai.asgi import Gateway
from src.ai.models import AIModel
from src.ai.protocol import Protocol, Turn
from src.core.graceful import Receive, Scope, Send
from tests.gateway.conftest import HELLO, PROTOCOLS
from tests.ledger.processes import until
from tests.serving import server_thread
from tests.upstream.server import HANG, Reply, Upstream, events, whole
from tests.vendor_answers import chat, chunk

ASKED = {"model": "chat", "messages": HELLO}
PROTOCOL = PROTOCOLS["uvicorn"]
Pairs = list[tuple[str, str]]


class Counting(Gateway):
    """Counts what comes by ASGI."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway.application)
        self.seen: Pairs = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.seen.append((scope["method"], scope["path"]))
        await super().__call__(scope, receive, send)


@pytest.fixture
def served(chat_model: AIModel, upstream: Upstream) -> Upstream:
    upstream.on("POST", "/v1/chat/completions", whole(200, chat("Hi!")))
    return upstream


@contextmanager
def counted(token: str, **options: Any) -> Iterator[tuple[httpx.Client, Pairs]]:
    """A client, and what of its requests comes by ASGI."""
    found: list[Counting] = []

    def around(gateway: Gateway) -> Gateway:
        found.append(Counting(gateway))
        return found[0]

    headers = {"Authorization": f"Bearer {token}"}
    with (
        server_thread(PROTOCOL, around, **options) as url,
        httpx.Client(base_url=url, headers=headers, timeout=20) as client,
    ):
        yield client, found[0].seen


class Wire:
    """One connection, byte by byte."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port or 80), timeout=20)
        self.common = f"Host: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"

    def head(self, first: str, size: int, more: str = "") -> bytes:
        return f"{first} HTTP/1.1\r\n{self.common}Content-Length: {size}\r\n{more}\r\n".encode()

    def request(self, **asked: Any) -> bytes:
        body = json.dumps({**ASKED, **asked}).encode()
        return self.head("POST /v1/chat/completions", len(body)) + body

    def close(self) -> None:
        self.socket.close()

    def until(self, end: bytes) -> bytes:
        received = b""
        while not received.endswith(end):
            piece = self.socket.recv(65536)
            assert piece, f"the connection was closed after {received!r}"
            received += piece
        return received


def test_what_is_asked_most_goes_past_asgi_and_all_else_does_not(served: Upstream, token: str) -> None:
    with counted(token) as (client, seen):
        assert client.post("/v1/chat/completions", json=ASKED).json() == chat("Hi!")
        assert client.post("/v1/embeddings", json={}).status_code == 400
        assert seen == []
        left = [
            ("GET", "/v1/models"),
            ("GET", "/v1/chat/completions"),
            ("POST", "/v1/nothing"),
            ("POST", "/v1/chat/completions/"),
            ("GET", "/healthz"),
        ]
        for method, path in left:
            client.request(method, path)
        assert seen == left
        client.post("/v1/chat/completions?x=1", json=ASKED)
        assert seen[5:] == [("POST", "/v1/chat/completions")]


def test_middleware_around_the_gateway_sees_every_request(served: Upstream, token: str) -> None:
    seen: list[str] = []

    def around(gateway: Gateway) -> Any:
        async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope.get("path", ""))
            await gateway(scope, receive, send)

        return middleware

    with server_thread(PROTOCOL, around) as url:
        response = httpx.post(f"{url}/v1/chat/completions", json=ASKED, headers={"Authorization": f"Bearer {token}"})
    assert (response.status_code, seen) == (200, ["", "/v1/chat/completions"])


def test_what_would_be_in_the_servers_access_log_is_there(
    served: Upstream, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    with counted(token, log_level="info", access_log=True) as (client, seen):
        client.post("/v1/chat/completions", json=ASKED)
    assert seen == [("POST", "/v1/chat/completions")]
    lines = [record.getMessage() for record in caplog.records if record.name == "uvicorn.access"]
    assert [line.split(" - ")[1] for line in lines] == ['"POST /v1/chat/completions HTTP/1.1" 200']


@pytest.mark.parametrize("option", [{"root_path": "/panel"}, {"limit_concurrency": 100}, {"reset_contextvars": True}])
def test_a_server_with_rules_of_its_own_keeps_them(option: dict[str, Any], served: Upstream, token: str) -> None:
    with counted(token, **option) as (client, seen):
        client.post("/v1/chat/completions", json=ASKED)
    assert len(seen) == 1


@pytest.mark.parametrize("protocol", PROTOCOLS.values())
@pytest.mark.parametrize("trusted", ["127.0.0.1", "10.0.0.1"])
@pytest.mark.parametrize("told", ["https", "http", "HTTPS", "wss"])
def test_https_is_what_a_trusted_proxy_says(
    told: str, trusted: str, protocol: str, served: Upstream, token: str, settings: Any
) -> None:
    settings.SECURE_SSL_REDIRECT = True
    headers = {"Authorization": f"Bearer {token}", "X-Forwarded-Proto": told}
    with server_thread(protocol, forwarded_allow_ips=trusted) as url:
        response = httpx.post(f"{url}/v1/chat/completions", json=ASKED, headers=headers)
    is_https = trusted == "127.0.0.1" and told == "https"
    assert response.status_code == (200 if is_https else 403)


def test_requests_that_come_together_are_answered_in_turn(served: Upstream, chat_model: AIModel, token: str) -> None:
    """Those by this door and those by ASGI."""
    served.send(whole(200, chat("One")), events(chunk("Two"), chunk(None, "stop")), whole(200, chat("Four")))
    with counted(token) as (client, _seen), closing(Wire(str(client.base_url), token)) as wire:
        wire.socket.sendall(
            wire.request()
            + wire.request(stream=True)
            + wire.head("GET /v1/models", 0)
            + wire.request()
            + wire.head("GET /healthz", 0, "Connection: close\r\n")
        )
        received = b""
        while piece := wire.socket.recv(65536):
            received += piece
    assert received.count(b"HTTP/1.1 200 OK") == 5
    order = [b'"One"', b'"Two"', b"data: [DONE]", b'"list"', b'"Four"', b"connection: close"]
    places = [received.index(part) for part in order]
    assert places == sorted(places)


def test_a_connection_serves_one_request_after_another(served: Upstream, token: str) -> None:
    with counted(token) as (client, seen), closing(Wire(str(client.base_url), token)) as wire:
        for _ in range(3):
            wire.socket.sendall(wire.request())
            assert b"200 OK" in wire.until(b"}")
        wire.socket.sendall(wire.request().replace(b"Host: localhost", b"Host: localhost\r\nConnection: close"))
        received = wire.until(b"}")
        assert b"\r\nconnection: close\r\n" in received
        assert wire.socket.recv(1) == b""
    assert seen == []


def test_who_asks_first_whether_to_send_the_body_is_told(served: Upstream, token: str) -> None:
    body = json.dumps(ASKED).encode()
    with counted(token) as (client, _seen), closing(Wire(str(client.base_url), token)) as wire:
        wire.socket.sendall(wire.head("POST /v1/chat/completions", len(body), "Expect: 100-continue\r\n"))
        assert wire.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.socket.sendall(body)
        assert b"200 OK" in wire.until(b"}")


def test_a_body_in_chunks_and_in_pieces(served: Upstream, token: str) -> None:
    body = json.dumps({**ASKED, "user": "x" * 200_000}).encode()

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(body), 10_000):
            yield body[start : start + 10_000]

    with counted(token) as (client, seen):
        assert client.post("/v1/chat/completions", content=pieces()).json() == chat("Hi!")
        assert client.post("/v1/chat/completions", content=body).json() == chat("Hi!")
    assert seen == []
    assert [request.json["user"] for request in served.requests] == ["x" * 200_000] * 2


def test_who_leaves_after_a_large_body_is_noticed(served: Upstream, token: str) -> None:
    """Its end was more than uvicorn reads ahead, so that nothing more was read."""
    served.send(events(chunk("Hel"), HANG))
    with counted(token) as (client, _seen):
        with closing(Wire(str(client.base_url), token)) as wire:
            wire.socket.sendall(wire.request(stream=True, user="x" * 100_000))
            wire.until(b"\n\n\r\n")
        served.wait_for(lambda: served.open_connections == 0)


def test_who_does_not_read_is_not_answered_on_and_on(served: Upstream, token: str) -> None:
    large = whole(200, chat("x" * 1_000_000))
    served.on("POST", "/v1/chat/completions", large)
    with counted(token) as (client, _seen), closing(Wire(str(client.base_url), token)) as wire:

        def is_asked(times: int) -> bool:
            end = monotonic() + 1
            while len(served.requests) < times and monotonic() < end:
                sleep(0.005)
            return len(served.requests) == times

        sent = 0
        while sent < 60:
            wire.socket.sendall(wire.request())
            sent += 1
            if not is_asked(sent):
                break
        assert sent < 60
        answers, tail = 0, b""
        while answers < sent or not tail.endswith(b"}"):  # in the end it gets them all
            piece = tail + wire.socket.recv(65536)
            answers += piece.count(b"HTTP/1.1 200 OK") - tail.count(b"HTTP/1.1 200 OK")
            tail = piece[-20:]
    assert len(served.requests) == sent


def test_a_connection_that_is_closed_leaves_no_garbage_to_collect(served: Upstream, token: str) -> None:
    def left() -> list[object]:
        return [found for found in gc.get_objects() if type(found) in (Protocol, Turn)]

    with counted(token) as (client, _seen):
        gc.collect()
        gc.disable()
        try:
            for close in ({}, {"connection": "close"}):
                with closing(Wire(str(client.base_url), token)) as wire:
                    wire.socket.sendall(wire.request())
                    wire.until(b"}")
                client.post("/v1/chat/completions", json=ASKED, headers=close)
            client.close()
            until(lambda: not left())
        finally:
            gc.enable()


def test_the_servers_end_begins_nothing_that_waits_behind_what_it_cuts(served: Upstream, token: str) -> None:
    served.send(Reply(200, before=[HANG]))
    with server_thread(PROTOCOL, timeout_graceful_shutdown=0) as url:
        wire = Wire(url, token)
        wire.socket.sendall(wire.request() + wire.request())
        served.wait_for(lambda: len(served.requests) == 1)
    with closing(wire):
        received = b""
        while piece := wire.socket.recv(65536):
            received += piece
    assert received.startswith(b"HTTP/1.1 500 ")
    assert b"\r\nconnection: close\r\n" in received
    assert (received.count(b"HTTP/1.1"), len(served.requests)) == (1, 1)


def test_every_answer_has_what_the_server_says_of_itself(served: Upstream, token: str) -> None:
    with counted(token, headers=[("x-served-by", "node-7")]) as (client, _seen):
        headers = client.post("/v1/chat/completions", json=ASKED).headers
    assert headers["server"] == "uvicorn"
    assert headers["x-served-by"] == "node-7"
    assert headers["date"]
