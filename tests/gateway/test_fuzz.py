"""Whatever is sent to `/v1`, well or badly: an answer that says what is wrong, soon, and never one of 5xx."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from src.ai.models import AIModel, AIProvider
from tests.gateway.conftest import HELLO
from tests.upstream.server import Reply, Request, Upstream, events, whole
from tests.vendor_answers import IMAGES, SPEECH, chat, chunk, images, png

CHAT = "chat/completions"
EMBEDDINGS = "/v1/embeddings"
WHOLE: dict[str, dict[str, Any]] = {
    CHAT: {"model": "chat", "messages": HELLO},
    "images/generations": {"model": "image", "prompt": "A kite"},
    "audio/speech": {"model": "audio", "input": "Hello", "voice": "alloy"},
    "embeddings": {"model": "embedding", "input": "Hello"},
}
READ = {
    CHAT: ["model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "tools"],
    "images/generations": ["model", "prompt", "stream", "size", "quality", "style", "n", "response_format"],
    "audio/speech": ["model", "input", "voice", "speed", "response_format"],
    "embeddings": ["model", "input", "dimensions", "encoding_format"],
}
DEEP = 100_000


@pytest.fixture(autouse=True)
def vendor(upstream: Upstream, provider: AIProvider, make_model: Callable[..., AIModel]) -> Upstream:
    """One that takes everything."""
    for capability, model_id in (
        ("chat", "gpt-6-luna"),
        ("image", "gpt-image-2"),
        ("audio", "tts-1"),
        ("embedding", "text-embedding-3-small"),
    ):
        make_model(provider, capability, model_id=model_id, pricing_input=1, pricing_output=1)

    def answer(request: Request) -> Reply:
        is_stream = b'"stream":true' in request.body.replace(b" ", b"")
        return events(chunk("Hi"), chunk(None, "stop")) if is_stream else whole(200, chat("Hi!"))

    upstream.on("POST", "/v1/chat/completions", answer)
    upstream.on("POST", IMAGES, whole(200, images(png())))
    upstream.on("POST", SPEECH, whole(200, b"ID3", content_type="audio/mpeg"))
    upstream.on("POST", EMBEDDINGS, whole(200, {"object": "list", "data": []}))
    return upstream


def check(response: httpx.Response) -> int:
    """The status of an answer, which must be one that a client can use."""
    assert response.status_code < 500, response.text[:500]
    if response.status_code >= 400:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        assert len(response.content) < 2000
    assert response.headers["x-request-id"]
    return response.status_code


# -- bodies --------------------------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**30, -(10**30), 2**63, -(2**63) - 1, 0, -1]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["chat", "image", "audio", "embedding", "gpt-6-luna", "openai/", "\0", "data:", "\u2028", "auto"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
# What is written into the JSON as it stands: no Python value says it.
raw_values = st.sampled_from(
    [
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1e400",
        b"-1e400",
        b"1E-400",
        b"0" * 50 + b"1",
        b"9" * 5000,
        b"1" + b"0" * 5000 + b".5e-3",
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'"\\u0000"',
        b'"\xff\xfe"',
        b'"\xed\xa0\x80"',
        b'"\x01\x1f\x7f"',
        b"'x'",
        b"undefined",
        b"{]",
        b"[" * DEEP + b"]" * DEEP,
        b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        b"[" * DEEP,
        b"",
        b"//x",
        b"[1,]",
        b'{"a":1,"a":2}',
    ]
)


def changed(path: str, name: str, raw: bytes) -> bytes:
    fields = {key: json.dumps(value).encode() for key, value in WHOLE[path].items()}
    fields[name] = raw
    return b"{" + b",".join(json.dumps(key).encode() + b":" + value for key, value in fields.items()) + b"}"


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, bytes]:
    path = draw(st.sampled_from(sorted(WHOLE)))
    name = draw(st.sampled_from(READ[path]) | st.text(max_size=10))
    value = draw(values.map(lambda value: json.dumps(value).encode()) | raw_values)
    return path, changed(path, name, value)


def test_any_value_in_any_field(http: httpx.Client, door: str) -> None:
    @settings(
        max_examples=150 if door == "uvicorn" else 40,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(bodies())
    def ask(asked: tuple[str, bytes]) -> None:
        check(http.post(f"/{asked[0]}", content=asked[1]))

    ask()


@pytest.mark.parametrize("path", sorted(WHOLE))
def test_depth_and_nonsense_in_every_field_that_is_read(path: str, http: httpx.Client) -> None:
    for name in READ[path]:
        for raw in (b"[" * DEEP + b"]" * DEEP, b'{"a":' * DEEP + b"1" + b"}" * DEEP, b'"\\ud800"', b"1e400", b"NaN"):
            check(http.post(f"/{path}", content=changed(path, name, raw)))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"1",
        b'"x"',
        b"[]",
        b"[{}]",
        b"{",
        b"}",
        b"\0",
        b"\xff",
        b"{}{}",
        b"{} x",
        b"\xef\xbb\xbf{}",
        '{"model": "chat"}'.encode("utf-16"),
        b'{"model": "\xff"}',
        b'{"\xff": 1}',
        b'{"model": 1, "messages": []',
        b"{" + b'"a":{' * DEEP,
        b"[" * DEEP + b"]" * DEEP,
        b"model=chat&messages=x",
        b"\x1f\x8b\x08\x00",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_no_json_object_is_400(body: bytes, http: httpx.Client, vendor: Upstream) -> None:
    for path in sorted(WHOLE):
        response = http.post(f"/{path}", content=body)
        assert check(response) == 400
        assert response.json()["error"]["code"] in ("invalid_body", "invalid_request")
    assert vendor.requests == []


def test_of_a_field_that_comes_twice_the_last_counts(http: httpx.Client, vendor: Upstream) -> None:
    body = b'{"model": "nope", "messages": [], "model": "chat", "messages": [{"role": "user", "content": "a"}]}'
    assert check(http.post(f"/{CHAT}", content=body)) == 200
    assert vendor.last.body.count(b'"model"') == 1


def test_any_bytes_at_all(http: httpx.Client, door: str) -> None:
    @settings(
        max_examples=150 if door == "uvicorn" else 40,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(sorted(WHOLE)), st.binary(max_size=300))
    def ask(path: str, body: bytes) -> None:
        assert check(http.post(f"/{path}", content=body)) == 400

    ask()


# -- size ----------------------------------------------------------------------------------------------------------


def test_twenty_megabytes_go_through(http: httpx.Client, vendor: Upstream) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 20_000_000}}
    asked = {"model": "chat", "messages": [{"role": "user", "content": [image]}]}
    assert check(http.post(f"/{CHAT}", json=asked)) == 200
    assert len(vendor.last.body) > 20_000_000
    assert vendor.last.json["messages"] == asked["messages"]


@pytest.mark.parametrize("limit", [100, 5_000_000])
@pytest.mark.parametrize("is_announced", [True, False])
def test_more_than_the_limit_is_413(
    limit: int, is_announced: bool, http: httpx.Client, door: str, vendor: Upstream, settings: Any
) -> None:
    settings.AI_GATEWAY_BODY_LIMIT = limit
    body = json.dumps({**WHOLE[CHAT], "x": "a" * limit}).encode()

    def in_chunks() -> Iterator[bytes]:
        for at in range(0, len(body), 65536):
            yield body[at : at + 65536]

    if door == "wsgi" and not is_announced:
        # A body without a length is none for WSGI.
        assert check(http.post(f"/{CHAT}", content=in_chunks())) == 400
        return
    response = http.post(f"/{CHAT}", content=body if is_announced else in_chunks())
    assert check(response) == 413
    assert response.json()["error"]["code"] == "body_too_large"
    assert vendor.requests == []
    assert check(http.post(f"/{CHAT}", json={"messages": HELLO})) in (400, 413)  # the client goes on


def test_a_body_of_just_the_limit(http: httpx.Client, settings: Any) -> None:
    body = json.dumps(WHOLE[CHAT]).encode()
    settings.AI_GATEWAY_BODY_LIMIT = len(body)
    assert check(http.post(f"/{CHAT}", content=body)) == 200
    assert check(http.post(f"/{CHAT}", content=body + b" ")) == 413


# -- by hand -------------------------------------------------------------------------------------------------------


class Wire:
    """A connection, and what is said on it."""

    def __init__(self, site: str, token: str) -> None:
        host = urlsplit(site)
        self.socket = socket.create_connection((host.hostname, host.port), timeout=10)
        self.auth = f"Host: {host.netloc}\r\nAuthorization: Bearer {token}\r\n"

    def head(self, length: int | str, version: str = "1.1", path: str = CHAT, more: str = "") -> bytes:
        said = f"POST /v1/{path} HTTP/{version}\r\n{self.auth}Content-Length: {length}\r\n{more}\r\n"
        return said.encode()

    def post(self, body: bytes, **how: Any) -> bytes:
        return self.head(len(body), **how) + body

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> tuple[int, Any]:
        """The next answer's status, and its body as far as it has come."""
        response = HTTPResponse(self.socket)
        response.begin()
        body = response.read()
        return response.status, json.loads(body)

    def rest(self) -> bytes:
        """All that comes until the server closes the connection."""
        parts = []
        with contextlib.suppress(ConnectionError):
            while part := self.socket.recv(65536):
                parts.append(part)
        return b"".join(parts)


@pytest.fixture
def wire(site: str, token: str) -> Iterator[Wire]:
    connection = Wire(site, token)
    yield connection
    connection.socket.close()


@pytest.mark.parametrize("door", ["uvicorn", "asgi"], indirect=True)
@pytest.mark.parametrize("begun", [b"", b'{"model": "chat"', json.dumps(WHOLE[CHAT]).encode()])
def test_a_body_that_does_not_come_is_waited_for_no_longer_than_the_setting_says(
    begun: bytes, wire: Wire, vendor: Upstream, settings: Any
) -> None:
    settings.AI_GATEWAY_BODY_TIMEOUT = 0.2
    wire.send(wire.head(10_000) + begun)
    status, answer = wire.answer()
    assert (status, answer["error"]["code"]) == (408, "body_timeout")
    assert vendor.requests == []


def test_a_body_that_comes_byte_by_byte(wire: Wire, door: str, vendor: Upstream, settings: Any) -> None:
    """Within its time it is read; beyond it, it is refused."""
    body = json.dumps(WHOLE[CHAT]).encode()
    wire.send(wire.head(len(body)))
    for at in range(len(body)):
        wire.send(body[at : at + 1])
    assert wire.answer() == (200, chat("Hi!"))
    settings.AI_GATEWAY_BODY_TIMEOUT = 0
    wire.send(wire.head(len(body)))
    for at in range(len(body)):
        wire.send(body[at : at + 1])
    assert wire.answer()[0] == 408
    assert len(vendor.requests) == 1


def test_who_leaves_within_the_body_asks_nobody(site: str, token: str, vendor: Upstream, http: httpx.Client) -> None:
    for begun in (b"", b"{", json.dumps(WHOLE[CHAT]).encode()):
        connection = Wire(site, token)
        connection.send(connection.head(1000) + begun)
        connection.socket.shutdown(socket.SHUT_WR)
        assert connection.rest()[:13] in (b"", b"HTTP/1.1 400 ", b"HTTP/1.1 408 ")
        connection.socket.close()
    assert check(http.post(f"/{CHAT}", json=WHOLE[CHAT])) == 200
    assert len(vendor.requests) == 1


def test_requests_that_come_before_their_turn_are_answered_in_it(wire: Wire, vendor: Upstream) -> None:
    good, bad = json.dumps(WHOLE[CHAT]).encode(), b"[]"
    wire.send(b"".join([wire.post(good), wire.post(bad), wire.post(good), wire.post(bad), wire.post(good)]))
    answers: list[int] = []
    buffered = wire.socket.makefile("rb")
    for _ in range(5):
        status = int(buffered.readline().split()[1])
        headers = {}
        while line := buffered.readline().strip():
            name, _, value = line.partition(b": ")
            headers[name.lower()] = value
        buffered.read(int(headers[b"content-length"]))
        answers.append(status)
    assert answers == [200, 400, 200, 400, 200]


def test_http_1_0(wire: Wire, vendor: Upstream) -> None:
    wire.send(wire.post(json.dumps(WHOLE[CHAT]).encode(), version="1.0"))
    head, _, body = wire.rest().partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0]
    assert json.loads(body) == chat("Hi!")


def test_a_stream_by_http_1_0_ends_with_its_connection(wire: Wire, vendor: Upstream) -> None:
    wire.send(wire.post(json.dumps({**WHOLE[CHAT], "stream": True}).encode(), version="1.0"))
    _head, _, body = wire.rest().partition(b"\r\n\r\n")
    told = [line for line in body.splitlines() if line.startswith(b"data: ")]
    assert [json.loads(line[6:]) for line in told[:-1]] == [chunk("Hi"), chunk(None, "stop")]
    assert told[-1] == b"data: [DONE]"


@pytest.mark.parametrize(
    "said",
    [
        b"GET /v1/models HTTP/1.1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/%ff%fe%00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/../v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"GET http://x/v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_what_is_hardly_http(said: bytes, wire: Wire, http: httpx.Client) -> None:
    wire.send(said.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
    wire.socket.shutdown(socket.SHUT_WR)
    answer = wire.rest()
    assert b" 500 " not in answer.split(b"\r\n", 1)[0]
    assert check(http.get("/models")) == 200


@pytest.mark.parametrize("fold", ["\r\n ", "\r\n\t", "\n ", "\r"])
def test_a_header_that_goes_on_brings_no_other_along(fold: str, wire: Wire, vendor: Upstream) -> None:
    body = json.dumps(WHOLE[CHAT]).encode()
    wire.send(wire.post(body, more=f"User-Agent: a{fold}X-Smuggled: b\r\nConnection: close\r\n"))
    assert b" 500 " not in wire.rest().split(b"\r\n", 1)[0]
    for request in vendor.requests:
        assert "x-smuggled" not in request.headers
        assert request.headers["authorization"] == "Bearer sk-0123456789abcdef"
        assert "\n" not in request.headers.get("user-agent", "")
