"""Chat as server-sent events: what is sent when, how it fails, and what is on the books after it."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing
from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import connections
from django.test import AsyncClient
from django.utils.translation import gettext_lazy
from rest_framework.test import APIClient

from src.ai.messages.messages import MESSAGES
from src.ai.models import AdminProviderSettings, AIModel, AIProvider, IdempotencyKey, UsageRecord
from src.ai.services.ledger.writer import writer as books_writer
from src.ai.services.unified_service import UnifiedAIService
from src.ai.views import streaming
from src.ai.views.on_loop import chat_on_loop
from src.core.asgi import Handler
from tests import vendor_answers as answers
from tests.conftest import codes
from tests.serving import server_thread
from tests.upstream.server import CLOSE, HANG, Gate, Upstream, events, whole

CHAT = "/api/admin/ai/chat/send"
HELLO = {"message": "Hi", "stream": True}
HEL, LO = answers.chunk("Hel"), answers.chunk("lo!")
END = {**answers.chunk(None, "stop"), "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}}
INFO = {
    "provider": "openai",
    "request_model": "gpt-6-luna",
    "response_model": "gpt-6-luna-2026-10-01",
    "response_id": "chatcmpl-1",
    "finish_reason": "stop",
    "cost": "4.000000000000",
    "dropped_params": [],
}
Ended = Callable[[], UsageRecord]
Events = list[tuple[str, Any]]


@pytest.fixture
def provider(make_provider: Callable[..., AIProvider], upstream: Upstream) -> AIProvider:
    return make_provider(
        api_base_url=f"{upstream.url}/v1", shared_api_key="sk-0123456789abcdef", allow_shared_for_normal_admins=True
    )


@pytest.fixture(autouse=True)
def writer(provider: AIProvider, make_model: Callable[..., AIModel]) -> AIModel:
    """A dollar a token of the reply; what is asked costs nothing."""
    return make_model(provider, "chat", model_id="gpt-6-luna", pricing_input=0, pricing_output=1_000_000)


@pytest.fixture
def quick_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "KEEP_ALIVE_AFTER", 0.01)


@pytest.fixture
def served(transactional_db: None, editor_api: APIClient) -> Iterator[httpx.Client]:
    """A client of a real server, with the editor's token."""
    headers = {"Authorization": editor_api._credentials["HTTP_AUTHORIZATION"]}
    with server_thread() as url, httpx.Client(base_url=url, headers=headers, timeout=20) as client:
        yield client
    connections.close_all()


def parsed(lines: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """The events as they come; a comment is one named `:`."""
    name = ""
    for line in lines:
        if line.startswith(":"):
            yield ":", line[1:].strip()
        elif line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def sent(response: Any) -> Events:
    """All events of an answer of the test client's."""
    return list(parsed(response.getvalue().decode().splitlines()))


def told(events: Events) -> str:
    return "".join(data["text"] for name, data in events if name == "delta")


# -- what is sent --------------------------------------------------------------------------------------------------


def test_the_deltas_come_as_events_and_then_the_facts(
    editor_api: APIClient, writer: AIModel, upstream: Upstream
) -> None:
    upstream.send(events(HEL, LO, END))
    response = editor_api.post(CHAT, {**HELLO, "system_message": "Be brief.", "temperature": 0.5})
    assert response.status_code == 200
    assert response["Content-Type"] == "text/event-stream; charset=utf-8"
    assert (response["Cache-Control"], response["X-Accel-Buffering"]) == ("no-cache", "no")
    assert "Content-Length" not in response
    *deltas, (name, done) = sent(response)
    assert deltas == [("delta", {"text": "Hel"}), ("delta", {"text": "lo!"})]
    usage = done.pop("usage")
    assert (name, done) == ("done", {**INFO, "model_id": writer.pk})
    assert (usage["input_tokens"], usage["output_tokens"]) == (9, 4)
    asked = upstream.last.json
    assert (asked["stream"], asked["temperature"], [turn["content"] for turn in asked["messages"]]) == (
        True,
        0.5,
        ["Be brief.", "Hi"],
    )


def test_the_facts_are_those_of_a_plain_answer(editor_api: APIClient, upstream: Upstream) -> None:
    upstream.reply(200, answers.chat("Hello!"))
    plain = editor_api.post(CHAT, {"message": "Hi", "stream": False})
    upstream.send(events(HEL, LO, END))
    assert sent(editor_api.post(CHAT, HELLO))[-1] == ("done", plain.json()["info"])


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "text/event-stream", "text/html, */*;q=0.8"])
def test_a_stream_is_sent_whatever_is_accepted_where_the_body_asks_for_one(
    accept: str | None, editor_api: APIClient, upstream: Upstream
) -> None:
    upstream.send(events(HEL, LO, END))
    response = editor_api.post(CHAT, HELLO, headers={} if accept is None else {"accept": accept})
    assert told(sent(response)) == "Hello!"


@pytest.mark.parametrize(
    ("accept", "body", "is_stream"),
    [
        ("text/event-stream", {}, True),
        ("text/event-stream, */*", {"stream": None}, True),
        ("text/event-stream", {"stream": False}, False),
        ("application/json, text/event-stream", {}, False),
        ("*/*", {}, False),
    ],
)
def test_where_the_body_says_nothing_it_is_what_is_accepted_that_counts(
    accept: str, body: dict[str, Any], is_stream: bool, editor_api: APIClient, upstream: Upstream
) -> None:
    upstream.send(events(HEL, LO, END) if is_stream else whole(200, answers.chat("Hello!")))
    response = editor_api.post(CHAT, {"message": "Hi", **body}, headers={"accept": accept})
    if is_stream:
        assert told(sent(response)) == "Hello!"
    else:
        assert (response["Content-Type"], response.json()["reply"]) == ("application/json", "Hello!")


def test_any_text_arrives_as_it_was(editor_api: APIClient, upstream: Upstream) -> None:
    texts = ["سلام\n\n", "data: x\r\nevent: y", "\u2028 \U0001f600", '"\\']
    upstream.send(events(*map(answers.chunk, texts), END))
    response = editor_api.post(CHAT, HELLO)
    body = response.getvalue()
    assert "سلام".encode() in body
    assert told(list(parsed(body.decode().split("\n")))) == "".join(texts)


def test_a_limit_is_told_with_this_call_counted(
    editor: User, editor_api: APIClient, provider: AIProvider, upstream: Upstream
) -> None:
    AdminProviderSettings.objects.create(admin=editor, provider=provider, monthly_limit=2)
    upstream.send(events(HEL, LO, END))
    response = editor_api.post(CHAT, HELLO)
    assert (response["X-AI-Limit"], response["X-AI-Limit-Remaining"]) == ("2", "1")
    assert told(sent(response)) == "Hello!"


# -- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_what_fails_before_the_first_delta_is_an_ordinary_error(
    accept: str, editor_api: APIClient, anonymous_api: APIClient, upstream: Upstream
) -> None:
    def send(api: APIClient = editor_api, **body: Any) -> tuple[int, list[str], str]:
        response = api.post(CHAT, {**HELLO, **body}, headers={"accept": accept})
        return response.status_code, codes(response), response["Content-Type"]

    assert send(stream="maybe") == (400, ["invalid"], "application/json")
    assert send(temprature=1) == (400, ["unknown_field"], "application/json")
    assert send(anonymous_api) == (401, ["not_authenticated"], "application/json")
    assert send(provider_slug="nobody") == (404, ["provider_not_found"], "application/json")
    assert upstream.requests == []
    upstream.reply(429, {"error": {"message": "slow down"}}, headers={"retry-after": "60"})
    assert send() == (429, ["provider_rate_limited"], "application/json")
    upstream.send(events(END))
    assert send() == (502, ["empty_reply"], "application/json")
    assert {record.state for record in UsageRecord.objects.all()} == {"failed"}


def test_at_a_limit_a_stream_is_refused_like_any_call(
    editor: User, editor_api: APIClient, provider: AIProvider, upstream: Upstream
) -> None:
    AdminProviderSettings.objects.create(admin=editor, provider=provider, monthly_limit=0)
    response = editor_api.post(CHAT, HELLO)
    assert (response.status_code, codes(response)) == (429, ["monthly_limit_reached"])
    assert response["X-AI-Limit-Remaining"] == "0"
    assert upstream.requests == []


def test_what_fails_after_the_first_delta_is_an_event_with_the_same_code(
    editor_api: APIClient, upstream: Upstream
) -> None:
    upstream.send(events(HEL, CLOSE))
    delta, (name, body) = sent(editor_api.post(CHAT, HELLO))
    assert delta == ("delta", {"text": "Hel"})
    assert (name, body["type"]) == ("error", "server_error")
    (error,) = body["errors"]
    assert (error["code"], error["attr"]) == ("stream_interrupted", None)
    assert "'openai'" in error["detail"]
    record = UsageRecord.objects.get()
    assert (record.state, record.error_code) == ("failed", "stream_interrupted")


def test_what_nobody_foresaw_tells_no_more_than_that(
    editor_api: APIClient, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise LookupError("sk-0123456789abcdef")

    monkeypatch.setattr(UnifiedAIService, "_increment_usage", fail)
    editor_api.raise_request_exception = False
    upstream.send(events(HEL, LO, END))
    *_deltas, last = sent(editor_api.post(CHAT, HELLO))
    error = {"code": "error", "detail": "Server Error (500)", "attr": None}
    assert last == ("error", {"type": "server_error", "errors": [error]})


def test_a_key_that_would_repeat_a_stream_is_refused_before_it_is_claimed(
    editor_api: APIClient, upstream: Upstream
) -> None:
    for body, accept in ((HELLO, "*/*"), ({"message": "Hi"}, "text/event-stream")):
        response = editor_api.post(CHAT, body, headers={"Idempotency-Key": "order-1", "accept": accept})
        assert (response.status_code, codes(response)) == (400, ["idempotency_key_with_stream"])
    assert (upstream.requests, IdempotencyKey.objects.count()) == ([], 0)


# -- when it is sent, at a real server -----------------------------------------------------------------------------


def test_each_delta_is_sent_when_it_comes(served: httpx.Client, upstream: Upstream) -> None:
    gate = Gate()
    upstream.send(events(HEL, gate, LO, END))
    with served.stream("POST", CHAT, json=HELLO) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["x-accel-buffering"] == "no"
        coming = parsed(response.iter_lines())
        assert next(coming) == ("delta", {"text": "Hel"})  # while the vendor still holds the rest
        assert UsageRecord.objects.get().state == "reserved"
        gate.open()
        assert next(coming) == ("delta", {"text": "lo!"})
        name, done = next(coming)
        assert (name, done["cost"], done["usage"]["output_tokens"]) == ("done", "4.000000000000", 4)
        assert list(coming) == []
    record = UsageRecord.objects.get()
    assert (record.state, record.cost, record.streamed, record.finish_reason) == ("settled", 4, True, "stop")


def test_an_error_event_is_in_the_readers_language(
    served: httpx.Client, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MESSAGES, "stream_interrupted", gettext_lazy("Not found."))  # which has a translation
    upstream.send(events(HEL, CLOSE))
    with served.stream("POST", CHAT, json=HELLO, headers={"accept-language": "fa"}) as response:
        delta, (name, body) = parsed(response.iter_lines())
    assert (delta, name) == (("delta", {"text": "Hel"}), "error")
    assert body["errors"] == [{"code": "stream_interrupted", "detail": "یافت نشد.", "attr": None}]


def test_a_refusal_has_its_status_at_a_real_server_too(served: httpx.Client, upstream: Upstream) -> None:
    upstream.reply(401, {"error": {"message": "no"}})
    response = served.post(CHAT, json=HELLO)
    assert (response.status_code, codes(response)) == (502, ["provider_auth_failed"])


def test_a_silent_line_is_kept_open_by_comments(served: httpx.Client, upstream: Upstream, quick_comments: None) -> None:
    gate = Gate()
    upstream.send(events(HEL, gate, LO, END))
    with served.stream("POST", CHAT, json=HELLO) as response:
        coming = parsed(response.iter_lines())
        assert [next(coming)[0] for _ in range(4)] == ["delta", ":", ":", ":"]
        gate.open()
        rest = [event for event in coming if event[0] != ":"]
    assert [name for name, _ in rest] == ["delta", "done"]
    assert rest[0] == ("delta", {"text": "lo!"})


def test_a_silent_line_is_kept_open_under_wsgi_too(
    editor_api: APIClient, upstream: Upstream, quick_comments: None
) -> None:
    gate = Gate()
    upstream.send(events(HEL, gate, LO, END))
    parts = iter(editor_api.post(CHAT, HELLO).streaming_content)
    assert b"Hel" in next(parts)
    assert [next(parts), next(parts)] == [b": keep-alive\n\n"] * 2
    gate.open()
    rest = [part for part in parts if not part.startswith(b":")]
    assert [part.partition(b"\n")[0] for part in rest] == [b"event: delta", b"event: done"]


@pytest.mark.parametrize("comments", [False, True])
def test_a_reader_who_leaves_closes_the_vendors_connection_and_is_charged_what_had_come(
    comments: bool, request: pytest.FixtureRequest, served: httpx.Client, upstream: Upstream, ended: Ended
) -> None:
    if comments:
        request.getfixturevalue("quick_comments")
    upstream.send(events(HEL, HANG))
    with served.stream("POST", CHAT, json=HELLO) as response:
        coming = parsed(response.iter_lines())
        assert next(coming) == ("delta", {"text": "Hel"})
        if comments:
            next(coming)
    upstream.wait_for(lambda: upstream.open_connections == 0)
    record = ended()
    assert (record.state, record.error_code, record.cost_state) == ("settled", "client_disconnected", "estimated")


def test_a_reader_who_leaves_before_the_first_delta_ends_the_call(
    served: httpx.Client, upstream: Upstream, ended: Ended
) -> None:
    upstream.send(events(HANG))
    with pytest.raises(httpx.ReadTimeout):
        served.post(CHAT, json=HELLO, timeout=httpx.Timeout(10, read=0.5))
    upstream.wait_for(lambda: upstream.open_connections == 0)
    assert ended().error_code == "client_disconnected"


def test_a_reader_who_leaves_under_wsgi_does_the_same(
    editor_api: APIClient, upstream: Upstream, quick_comments: None
) -> None:
    upstream.send(events(HEL, HANG))
    response = editor_api.post(CHAT, HELLO)
    parts = iter(response.streaming_content)
    next(parts), next(parts)
    response._iterator.close()  # where the client's handling of signals is; it calls close() as a server does
    upstream.wait_for(lambda: upstream.open_connections == 0)
    record = UsageRecord.objects.get()
    assert (record.state, record.error_code, record.cost_state) == ("settled", "client_disconnected", "estimated")


# -- Django's own asynchronous client --------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
async def test_an_asynchronous_reader_gets_the_same(editor_api: APIClient, upstream: Upstream) -> None:
    gate = Gate()
    upstream.send(events(HEL, gate, LO, END))
    response = await AsyncClient().post(CHAT, HELLO, "application/json", headers=bearer(editor_api))
    assert response.is_async
    async with aclosing(aiter(response)) as parts:
        assert b"Hel" in await anext(parts)
        gate.open()
        assert [part.partition(b"\n")[0] async for part in parts] == [b"event: delta", b"event: done"]
    await sync_to_async(connections.close_all)()


@pytest.mark.django_db(transaction=True)
async def test_a_reader_who_takes_nothing_and_leaves_is_let_go_at_once(
    editor_api: APIClient, upstream: Upstream, ended: Ended
) -> None:
    upstream.send(events(HEL, HANG))
    body = json.dumps(HELLO).encode()
    messages = iter([{"type": "http.request", "body": body}])
    is_stuck = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if message := next(messages, None):
            return message
        await is_stuck.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            is_stuck.set()
            await asyncio.Event().wait()

    headers = {"host": "testserver", "content-type": "application/json", "content-length": str(len(body))}
    headers |= bearer(editor_api)
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    gc.disable()
    try:
        await Handler(chat_on_loop)({"type": "http", "method": "POST", "path": CHAT, "headers": raw}, receive, send)
        record = await sync_to_async(ended)()
    finally:
        gc.enable()
    assert (record.state, record.error_code) == ("settled", "client_disconnected")
    await asyncio.to_thread(upstream.wait_for, lambda: upstream.open_connections == 0)
    await sync_to_async(connections.close_all)()


@pytest.mark.django_db(transaction=True)
async def test_a_stream_that_is_never_read_is_settled(editor_api: APIClient, upstream: Upstream, ended: Ended) -> None:
    upstream.send(events(HEL, HANG))
    response = await AsyncClient().post(CHAT, HELLO, "application/json", headers=bearer(editor_api))
    await sync_to_async(response.close)()
    await asyncio.to_thread(upstream.wait_for, lambda: upstream.open_connections == 0)
    record = await sync_to_async(ended)()
    assert (record.state, record.error_code) == ("settled", "client_disconnected")
    await sync_to_async(connections.close_all)()


@pytest.mark.django_db(transaction=True)
def test_a_stream_that_is_never_read_is_settled_under_wsgi_too(editor_api: APIClient, upstream: Upstream) -> None:
    upstream.send(events(HEL, HANG))
    editor_api.post(CHAT, HELLO).close()
    upstream.wait_for(lambda: upstream.open_connections == 0)
    assert UsageRecord.objects.get().error_code == "client_disconnected"


@pytest.mark.django_db(transaction=True)
async def test_a_view_in_a_transaction_streams_too(
    editor_api: APIClient, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    upstream.send(events(HEL, LO, END))
    async with asyncio.timeout(10):
        response = await AsyncClient().post(CHAT, HELLO, "application/json", headers=bearer(editor_api))
        names = [part.partition(b"\n")[0] async for part in response]
    assert names == [b"event: delta", b"event: delta", b"event: done"]
    await asyncio.to_thread(books_writer.drain, 10)
    record = await UsageRecord.objects.aget()
    assert (record.state, record.cost) == ("settled", 4)
    await sync_to_async(connections.close_all)()


def bearer(api: APIClient) -> dict[str, str]:
    return {"authorization": api._credentials["HTTP_AUTHORIZATION"]}


# -- documents -----------------------------------------------------------------------------------------------------


def test_the_openapi_document_shows_both_kinds_of_answer(anonymous_api: APIClient) -> None:
    schema = anonymous_api.get("/api/schema", headers={"accept": "application/json"}).json()
    operation = schema["paths"][CHAT]["post"]
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    assert set(operation["responses"]["default"]["content"]) == {"application/json"}
    assert [parameter["name"] for parameter in operation["parameters"]] == ["Idempotency-Key"]
    assert schema["components"]["schemas"]["ChatRequest"]["properties"]["stream"]["type"] == ["boolean", "null"]
