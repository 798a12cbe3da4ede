"""`/v1/chat/completions` as OpenAI's client, and anybody else, sees it."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import httpx
import openai
import pytest

from src.ai.models import UsageRecord
from tests.upstream.server import Upstream, events
from tests.vendor_answers import chat, chunk

pytestmark = pytest.mark.usefixtures("chat_model")

HELLO = [{"role": "user", "content": "Hello"}]
USAGE = {**chunk(None), "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}}


def test_a_reply_and_its_record(client: openai.OpenAI, upstream: Upstream, settled: Callable[[], UsageRecord]) -> None:
    upstream.reply(200, chat("Hi!"), headers={"x-request-id": "req_vendor", "openai-processing-ms": "12"})
    raw = client.chat.completions.with_raw_response.create(model="openai/gpt-6-luna", messages=HELLO)
    reply = raw.parse()
    assert reply.choices[0].message.content == "Hi!"
    assert reply.usage is not None
    assert reply.usage.total_tokens == 13
    assert raw.headers["x-provider-request-id"] == "req_vendor"
    assert raw.headers["openai-processing-ms"] == "12"
    assert upstream.last.headers["authorization"] == "Bearer sk-0123456789abcdef"
    assert upstream.last.json == {"model": "gpt-6-luna", "messages": HELLO}
    record = settled()
    assert (record.state, record.input_tokens, record.output_tokens, record.cost) == ("settled", 9, 4, Decimal(4))
    assert record.request_id == raw.headers["x-request-id"]


@pytest.mark.parametrize("name", ["openai/gpt-6-luna", "gpt-6-luna", "chat"])
def test_a_model_has_three_names(client: openai.OpenAI, upstream: Upstream, name: str) -> None:
    upstream.reply(200, chat("Hi!"))
    client.chat.completions.create(model=name, messages=HELLO)
    assert upstream.last.json["model"] == "gpt-6-luna"


def test_what_a_client_sends_and_a_vendor_answers_goes_through_untouched(
    http: httpx.Client, upstream: Upstream
) -> None:
    choice = '{"index":0,"message":{"content":"a"},"finish_reason":"stop"}'
    answer = f'{{"id":"x","choices":[{choice}],"new":1e400,"z":[1.50]}}'
    upstream.reply(200, answer, headers={"content-type": "application/json"})
    messages = '[{"role":"user","content":"\\u0633"}]'
    body = f'{{"messages":{messages},"seed":123456789012345678901234567890,"new":{{"b":1.0}},"model":"chat"}}'
    response = http.post("/chat/completions", content=body)
    assert response.text == answer
    assert upstream.last.body.decode() == body.replace('"chat"', '"gpt-6-luna"')


def test_a_stream(client: openai.OpenAI, upstream: Upstream, settled: Callable[[], UsageRecord]) -> None:
    upstream.send(events(chunk("Hel"), chunk("lo"), chunk(None, "stop"), USAGE))
    stream = client.chat.completions.create(model="chat", messages=HELLO, stream=True)
    chunks = list(stream)
    assert [one.choices[0].delta.content for one in chunks] == ["Hel", "lo", None]
    assert upstream.last.json["stream_options"] == {"include_usage": True}
    record = settled()
    assert (record.state, record.streamed, record.output_tokens, record.finish_reason) == ("settled", True, 2, "stop")


def test_a_stream_with_the_usage_that_was_asked_for(http: httpx.Client, upstream: Upstream) -> None:
    sent = events(chunk("Hi"), chunk(None, "stop"), USAGE)
    upstream.send(sent)
    asked = {"model": "chat", "messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}
    response = http.post("/chat/completions", json=asked)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (response.headers["cache-control"], response.headers["x-accel-buffering"]) == ("no-cache", "no")
    assert response.content == b"".join(part for part in sent.parts if isinstance(part, bytes))
