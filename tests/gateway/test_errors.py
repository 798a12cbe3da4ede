"""What a vendor refuses or breaks, as the official client raises it."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import openai
import pytest

from src.ai.models import AIModel, AIProvider, UsageRecord
from src.ai.providers import retry
from src.ai.services.ledger.writer import writer as books_writer
from tests.gateway.conftest import HELLO, KEY, Vendor
from tests.serving import WAIT, server_process
from tests.upstream.server import CLOSE, HANG, RESET, Gate, Reply, Upstream, whole
from tests.vendor_answers import chat

pytestmark = pytest.mark.usefixtures("quick_retries")
Asking = Callable[[], Any]
GROQ_429 = {
    "message": "Rate limit reached for model `openai/gpt-oss-120b`. Please try again in 11.2375s.",
    "type": "tokens",
    "code": "rate_limit_exceeded",
}


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.001)


@pytest.fixture
def ask(client: openai.OpenAI, chat_model: AIModel) -> Asking:
    return lambda: client.chat.completions.create(model="chat", messages=HELLO)  # type: ignore[call-overload]


# (vendor's status, its body) → (the client's class, its status, the code, whether the SDK may ask again)
REFUSED: list[tuple[int, Any, type[openai.APIStatusError], int, str | None, bool]] = [
    (400, {"message": "Bad.", "type": "t", "param": "seed", "code": "c"}, openai.BadRequestError, 400, "c", True),
    (400, "text only", openai.BadRequestError, 400, "provider_bad_request", True),
    (413, {"message": "Too large."}, openai.APIStatusError, 413, None, True),
    (422, {"message": "Odd."}, openai.UnprocessableEntityError, 422, None, True),
    (422, "odd", openai.UnprocessableEntityError, 422, "provider_bad_request", True),
    (400, {"message": "no", "code": "moderation_blocked"}, openai.BadRequestError, 400, "moderation_blocked", True),
    (404, {"message": "gone", "code": "model_not_found"}, openai.NotFoundError, 404, "model_not_found", True),
    (404, "gone", openai.NotFoundError, 404, "model_not_found", True),
    (429, GROQ_429, openai.RateLimitError, 429, "rate_limit_exceeded", True),
    # The site's key and account are none of the caller's business, and asking again is no use.
    (401, {"message": f"Wrong key {KEY}"}, openai.InternalServerError, 502, "provider_auth_failed", False),
    (403, {"message": "Not yours"}, openai.InternalServerError, 502, "provider_auth_failed", False),
    (402, {"message": "Insufficient Balance"}, openai.InternalServerError, 502, "provider_no_credit", False),
    (
        429,
        {"message": "quota", "code": "insufficient_quota"},
        openai.InternalServerError,
        502,
        "provider_no_credit",
        False,
    ),
    (500, {"message": "oops"}, openai.InternalServerError, 502, "provider_unavailable", True),
    (503, {"message": "busy"}, openai.InternalServerError, 502, "provider_unavailable", True),
    (302, "", openai.InternalServerError, 502, "provider_invalid_response", False),
]


@pytest.mark.parametrize(("status", "error", "raised", "answered", "code", "again"), REFUSED)
def test_a_vendors_refusal_is_the_exception_that_it_should_be(
    status: int,
    error: Any,
    raised: type[openai.APIStatusError],
    answered: int,
    code: str | None,
    again: bool,
    ask: Asking,
    upstream: Upstream,
) -> None:
    upstream.on("POST", "/v1/chat/completions", whole(status, {"error": error}))
    with pytest.raises(raised) as caught:
        ask()
    assert caught.value.status_code == answered
    assert caught.value.code == code
    assert isinstance(caught.value.body, dict)
    assert set(caught.value.body) >= {"message", "type", "param", "code"}
    said = error if isinstance(error, str) else error["message"]
    assert said.replace(KEY, "********") in caught.value.body["message"]
    assert KEY not in caught.value.response.text
    assert (caught.value.response.headers.get("x-should-retry") == "false") == (not again)
    assert books_writer.drain(10)
    assert {caught.value.request_id} == set(UsageRecord.objects.values_list("request_id", flat=True))


def test_a_bodys_further_facts_and_headers_come_along(http: httpx.Client, upstream: Upstream, ask: Asking) -> None:
    error = {"message": "no", "type": "t", "code": "tool_use_failed", "failed_generation": {"a": f"{KEY[:4]}…"}}
    upstream.reply(400, {"error": error, "user_id": "u"}, {"x-ratelimit-remaining-requests": "3", "x-request-id": "r"})
    response = http.post("/chat/completions", json={"model": "chat", "messages": HELLO})
    assert response.json() == {"error": {**error, "param": None}, "user_id": "u"}
    assert response.headers["x-ratelimit-remaining-requests"] == "3"
    assert response.headers["x-provider-request-id"] == "r"
    assert response.headers["content-length"] == str(len(response.content))


@pytest.mark.parametrize(
    "shown", [KEY, f"Bearer {KEY}", f"{KEY[:5]}*****{KEY[-4:]}", "****" + KEY[-4:], json.dumps(KEY)]
)
def test_no_part_of_a_key_gets_through(shown: str, http: httpx.Client, upstream: Upstream, ask: Asking) -> None:
    bodies: list[Any] = [
        {"error": {"message": f"Your api key: {shown} is invalid", "metadata": {"raw": f"key {shown}"}}},
        {"error": f"key {shown}"},
        [{"error": {"message": f"key {shown}"}}],
        f"<html><title>key {shown}</title></html>",
    ]
    for status in (400, 404, 429):
        for body in bodies:
            upstream.reply(status, body, headers={"retry-after": "60"})
            response = http.post("/chat/completions", json={"model": "chat", "messages": HELLO})
            assert response.status_code == status
            assert KEY not in response.text
            assert KEY[-4:] not in response.text


@pytest.mark.parametrize(
    ("headers", "seconds"), [({"retry-after": "17"}, "17"), ({"retry-after": "11.2"}, "12"), ({}, "12")]
)
def test_a_vendor_says_when_to_come_back(
    headers: dict[str, str], seconds: str, ask: Asking, upstream: Upstream
) -> None:
    upstream.reply(429, {"error": GROQ_429}, headers)
    with pytest.raises(openai.RateLimitError) as caught:
        ask()
    assert caught.value.response.headers["retry-after"] == seconds


def test_an_error_within_a_success(ask: Asking, upstream: Upstream) -> None:
    upstream.reply(200, {"error": {"message": "no", "code": 429}})
    upstream.on("POST", "/v1/chat/completions", whole(200, {"error": {"message": "no", "code": 429}}))
    with pytest.raises(openai.RateLimitError):
        ask()


@pytest.mark.parametrize("answer", ["", "nonsense", "[]", "<html></html>", "null", "1"])
def test_what_is_no_answer(answer: str, ask: Asking, upstream: Upstream, settled: Callable[[], UsageRecord]) -> None:
    upstream.reply(200, answer, content_type="application/json")
    with pytest.raises(openai.InternalServerError) as caught:
        ask()
    assert caught.value.code == "provider_invalid_response"
    assert caught.value.response.headers["x-should-retry"] == "false"  # it may have been paid for
    assert settled().error_code == "provider_invalid_response"


def test_a_vendor_that_never_answers(
    chat_model: AIModel, client: openai.OpenAI, upstream: Upstream, settled: Callable[[], UsageRecord]
) -> None:
    chat_model.provider.config = {"timeout": 0.3}
    chat_model.provider.save()
    upstream.send(Reply(200, before=[HANG]))
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="chat", messages=HELLO)
    assert (caught.value.status_code, caught.value.code) == (504, "provider_timeout")
    assert settled().error_code == "provider_timeout"


def test_a_vendor_that_is_not_there(chat_model: AIModel, client: openai.OpenAI, upstream: Upstream) -> None:
    chat_model.provider.api_base_url = "http://127.0.0.1:1/v1"
    chat_model.provider.save()
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="chat", messages=HELLO)
    assert (caught.value.status_code, caught.value.code) == (502, "provider_unavailable")


def test_a_vendor_that_breaks_off_is_asked_again(ask: Asking, upstream: Upstream) -> None:
    upstream.send(Reply(200, before=[RESET]), whole(503, {"error": {"message": "busy"}}), whole(200, chat("Hi!")))
    assert ask().choices[0].message.content == "Hi!"
    assert len(upstream.requests) == 3


def test_every_vendors_refusal_is_the_callers(
    client: openai.OpenAI, upstream: Upstream, vendor: Vendor, settled: Callable[[], UsageRecord]
) -> None:
    bodies: dict[str, Any] = {
        "gemini": [{"error": {"code": 400, "message": "Invalid value at 'x'", "status": "INVALID_ARGUMENT"}}],
        "huggingface": {"error": "Invalid value at 'x'"},
        "openrouter": {"error": {"code": 400, "message": "Invalid value at 'x'"}, "user_id": "u"},
    }
    upstream.reply(400, bodies.get(vendor.slug, {"error": {"message": "Invalid value at 'x'", "type": "t"}}))
    with pytest.raises(openai.BadRequestError, match="Invalid value at 'x'"):
        client.chat.completions.create(model=f"{vendor.slug}/{vendor.model}", messages=HELLO)
    record = settled()
    assert (record.state, record.error_code, record.cost) == ("failed", "provider_bad_request", 0)


def test_a_recording_that_breaks_off_is_no_whole_one(
    http: httpx.Client, door: str, upstream: Upstream, provider: AIProvider, make_model: Callable[..., AIModel]
) -> None:
    make_model(provider, "audio", model_id="tts-1")
    gate = Gate()
    upstream.send(Reply(200, [RESET], {"content-type": "audio/mpeg"}, length=2000))
    upstream.send(Reply(200, [b"ID3" + b"\0" * 500, gate, RESET], {"content-type": "audio/mpeg"}, length=2000))
    asked = {"model": "tts-1", "input": "Hello", "voice": "alloy"}
    assert http.post("/audio/speech", json=asked).json()["error"]["code"] == "provider_unavailable"
    received = b""
    try:
        with http.stream("POST", "/audio/speech", json=asked) as response:
            assert response.headers["content-type"] == "audio/mpeg"
            for piece in response.iter_bytes():
                received += piece
                gate.open()
        assert door == "wsgi"  # wsgiref ends what has no length by closing the connection
    except httpx.RemoteProtocolError:
        assert door != "wsgi"
    assert received == b"ID3" + b"\0" * 500


@pytest.mark.parametrize(
    ("before", "times"),
    [
        ([RESET], 2),
        ([b"HTTP/1.1 200 OK\r\n", RESET], 1),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", RESET], 1),
        ([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n", CLOSE], 1),
        ([b"HTTP/1.1 500 Oops\r\ncontent-length: 99\r\n\r\n{", CLOSE], 1),
    ],
    ids=["nothing came", "in the head", "in the body", "in a chunk", "in an error"],
)
@pytest.mark.parametrize("endpoint", ["images/generations", "audio/speech"])
def test_what_may_have_been_made_is_not_asked_for_again(
    before: list[Any],
    times: int,
    endpoint: str,
    http: httpx.Client,
    upstream: Upstream,
    provider: AIProvider,
    make_model: Callable[..., AIModel],
) -> None:
    kind, model = ("audio", "tts-1") if endpoint == "audio/speech" else ("image", "gpt-image-2")
    make_model(provider, kind, model_id=model)
    upstream.on("POST", f"/v1/{endpoint}", Reply(before=before))
    asked = {"model": model, "prompt": "A cat", "input": "Hello", "voice": "alloy"}
    with suppress(httpx.RemoteProtocolError):  # what had come of a recording has gone on
        response = http.post(f"/{endpoint}", json=asked)
        assert response.content == b"{" or response.json()["error"]["code"] == "provider_unavailable"
    assert len(upstream.requests) == times


@pytest.mark.parametrize("url", ["https://a..b/v1", f"https://{'a' * 64}.example/v1"])
def test_a_base_url_that_no_resolver_reads_is_a_wrong_configuration(
    url: str, chat_model: AIModel, http: httpx.Client
) -> None:
    chat_model.provider.api_base_url = url
    chat_model.provider.save()
    response = http.post("/chat/completions", json={"model": "chat", "messages": HELLO})
    assert response.json()["error"]["code"] == "invalid_config"


@pytest.mark.parametrize("status", [204, 205])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_can_have_no_body_is_none(
    status: int, stream: bool, http: httpx.Client, upstream: Upstream, chat_model: AIModel
) -> None:
    upstream.on("POST", "/v1/chat/completions", Reply(status))
    answer = http.post("/chat/completions", json={"model": "chat", "messages": HELLO, "stream": stream})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "provider_invalid_response")


def test_while_the_database_is_away_nobody_waits_for_all_the_others() -> None:
    """Each look-up of a token would wait ten seconds for a connection."""
    nowhere = "postgres://postgres@127.0.0.1:1/none"
    with server_process(DATABASE_URL=nowhere, AI_LEDGER_TIMEOUT="0.5") as server, ThreadPoolExecutor(8) as callers:

        def ask(number: int) -> httpx.Response:
            headers = {"Authorization": f"Bearer {number:064d}"}
            return httpx.get(f"{server.url}/v1/models", headers=headers, timeout=WAIT)

        answers = list(callers.map(ask, range(8)))
    assert [answer.json()["error"]["code"] for answer in answers] == ["ledger_unavailable"] * 8
    assert {(answer.status_code, answer.headers["retry-after"]) for answer in answers} == {(503, "1")}


def test_the_panel_is_told_that_the_database_is_away() -> None:
    nowhere = "postgres://postgres@127.0.0.1:1/none"
    headers = {"Authorization": f"Bearer {'0' * 64}"}
    with server_process(DATABASE_URL=nowhere, DATABASE_POOL_TIMEOUT="0.2") as server:
        url = f"{server.url}/api/admin/ai/chat/send"
        answer = httpx.post(url, json={"message": "Hi"}, headers=headers, timeout=WAIT)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["errors"][0]["code"] == "database_unavailable"
