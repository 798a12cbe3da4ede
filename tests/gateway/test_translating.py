"""Providers that do not speak OpenAI's form are reached by what they can do: the local one, a file of one's own."""

from __future__ import annotations

import base64
import io
import json
import sys
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from django.core.management import call_command
from PIL import Image

from src.ai import providers
from src.ai.models import AIModel, AIProvider, UsageRecord
from src.ai.providers.registry import AIProviderRegistry
from src.ai.services.gateway import translating
from tests.gateway.conftest import HELLO, KEY
from tests.upstream.server import Upstream
from tests.vendor_answers import wav

ACME = '''
"""A vendor of its own kind."""

import asyncio

from src.ai.providers.base import BaseProvider
from src.ai.results import Reply, ReplyStream, ResultInfo, Usage
from src.ai.exceptions import StreamInterrupted

asked = {}
ended = []
gate = None


class AcmeProvider(BaseProvider):
    @classmethod
    def get_provider_name(cls):
        return "acme"

    async def chat(self, message, conversation_history=None, **kwargs):
        asked.update(kwargs, message=message, history=conversation_history)
        return Reply(f"You said: {message}", ResultInfo(usage=Usage(input_tokens=3, output_tokens=4)))
'''
STREAMING = (
    ACME
    + """
    def stream_chat(self, message, conversation_history=None, **kwargs):
        info = ResultInfo()

        async def deltas():
            try:
                yield "Hel"
                if message == "wait":
                    await asyncio.Event().wait()
                if message == "pause":
                    await asyncio.sleep(0.2)
                if message == "break":
                    raise StreamInterrupted(provider="acme", operation="stream_chat", reason="it broke")
                yield "\\ud83d"
                info.usage, info.finish_reason = Usage(input_tokens=3, output_tokens=4), "max_tokens"
            finally:
                ended.append(message)

        return ReplyStream(deltas(), info)
"""
)


@pytest.fixture
def acme(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    transactional_db: None,
    make_provider: Callable[..., AIProvider],
    make_model: Callable[..., AIModel],
) -> Iterator[Callable[[str], Any]]:
    """Adds a provider of one file with a model; the module."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(providers, "__path__", [*providers.__path__, str(tmp_path)])

    def add(text: str) -> Any:
        (tmp_path / "acme.py").write_text(text)
        AIProviderRegistry().auto_discover()
        row = make_provider("acme", shared_api_key="acme-0123456789", allow_shared_for_normal_admins=True)
        make_model(row, "chat", model_id="acme-1", pricing_input=0, pricing_output=1_000_000)
        return sys.modules["src.ai.providers.acme"]

    yield add
    AIProviderRegistry().unregister("acme")
    sys.modules.pop("src.ai.providers.acme", None)


def ask(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": "acme/acme-1", "messages": HELLO, **more})


# -- a file of one's own -------------------------------------------------------------------------------------------


def test_who_only_chats_is_reached_too(
    client: openai.OpenAI, acme: Callable[[str], Any], settled: Callable[[], UsageRecord]
) -> None:
    module = acme(ACME)
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "And kind."}]},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": [{"type": "text", "text": "How "}, {"type": "text", "text": "are you?"}]},
    ]
    reply = ask(client, messages=messages, temperature=1, max_completion_tokens=9, user="x", seed=1, tools=[])
    assert reply.choices[0].message.content == "You said: How are you?"
    assert (reply.choices[0].finish_reason, reply.object) == ("stop", "chat.completion")
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (3, 4, 7)
    assert module.asked["history"] == [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    assert (module.asked["system_message"], module.asked["max_tokens"]) == ("Be brief.\n\nAnd kind.", 9)
    record = settled()
    assert (record.provider_slug, record.cost, record.request_id) == ("acme", 4, reply._request_id)


def test_who_does_not_stream_answers_in_one_piece(client: openai.OpenAI, acme: Callable[[str], Any]) -> None:
    acme(ACME)
    said = [one.choices[0].delta.content for one in ask(client, stream=True)]
    assert said == ["", "You said: Hello", None]


def test_a_stream(client: openai.OpenAI, http: httpx.Client, acme: Callable[[str], Any]) -> None:
    acme(STREAMING)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert len({(one.id, one.created, one.model, one.object) for one in chunks}) == 1
    first, hel, half, last, usage = chunks
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert (hel.choices[0].delta.content, half.choices[0].delta.content) == ("Hel", "\ud83d")
    assert [one.choices[0].finish_reason for one in chunks[:-1]] == [None, None, None, "length"]
    assert last.choices[0].delta.to_dict() == {}
    assert (usage.choices, usage.usage.total_tokens) == ([], 7)
    response = http.post("/chat/completions", json={"model": "acme-1", "messages": HELLO, "stream": True})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (response.headers["cache-control"], response.headers["x-accel-buffering"]) == ("no-cache", "no")
    assert response.text.endswith("\n\ndata: [DONE]\n\n")
    assert '"usage"' not in response.text


def test_a_stream_that_breaks(
    client: openai.OpenAI, acme: Callable[[str], Any], settled: Callable[[], UsageRecord]
) -> None:
    acme(STREAMING)
    stream = ask(client, stream=True, messages=[{"role": "user", "content": "break"}])
    with pytest.raises(openai.APIError) as caught:
        list(stream)
    assert caught.value.code == "stream_interrupted"
    assert settled().error_code == "stream_interrupted"


def test_a_stream_whose_reader_leaves(
    http: httpx.Client, acme: Callable[[str], Any], settled: Callable[[], UsageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = acme(STREAMING)
    monkeypatch.setattr(translating, "KEEP_ALIVE_AFTER", 0.02)
    asked = {"model": "acme-1", "messages": [{"role": "user", "content": "wait"}], "stream": True}
    with http.stream("POST", "/chat/completions", json=asked) as response:
        lines = response.iter_lines()
        while ": keep-alive" not in next(lines):
            pass
    record = settled()
    assert (record.state, record.error_code) == ("settled", "client_disconnected")
    assert module.ended == ["wait"]


def test_a_silent_stream_is_kept_open(
    http: httpx.Client, acme: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    acme(STREAMING)
    monkeypatch.setattr(translating, "KEEP_ALIVE_AFTER", 0.02)
    asked = {"model": "acme-1", "messages": [{"role": "user", "content": "pause"}], "stream": True}
    text = http.post("/chat/completions", json=asked).text
    assert ": keep-alive\n\n" in text
    assert text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"n": 2}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [1]}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role=tool"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
    ],
)
def test_what_can_not_be_said_is_refused_and_not_left_out(
    more: dict[str, Any], param: str, http: httpx.Client, acme: Callable[[str], Any]
) -> None:
    module = acme(ACME)
    response = http.post("/chat/completions", content=json.dumps({"model": "acme-1", "messages": HELLO, **more}))
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert module.asked == {}


def test_fields_that_can_not_be_read_are_no_error_of_ours(http: httpx.Client, acme: Callable[[str], Any]) -> None:
    acme(STREAMING)
    whole = '"model": "acme-1", "messages": [{"role": "user", "content": "a"}]'
    for name in ("tools", "temperature", "n", "max_tokens", "response_format", "stream_options", "logprobs"):
        for raw in ('"\\ud800"', "1e999", "[" * 2000 + "]" * 2000, '{"a":1e999}'):
            response = http.post("/chat/completions", content=f'{{{whole}, "stream": true, "{name}": {raw}}}')
            assert response.status_code == 400, (name, raw[:20], response.text)


# -- a vendor's speech ---------------------------------------------------------------------------------------------


@pytest.fixture
def gemini(
    transactional_db: None,
    upstream: Upstream,
    make_provider: Callable[..., AIProvider],
    make_model: Callable[..., AIModel],
) -> AIModel:
    shared = {"shared_api_key": KEY, "allow_shared_for_normal_admins": True}
    row = make_provider("gemini", api_base_url=f"{upstream.url}/v1beta", **shared)
    return make_model(row, "audio", model_id="gemini-3.8-flash-tts")


def spoken(recording: bytes) -> dict[str, Any]:
    data = {"mimeType": "audio/wav", "data": base64.b64encode(recording).decode()}
    return {"candidates": [{"content": {"parts": [{"inlineData": data}]}, "finishReason": "STOP"}]}


@pytest.mark.parametrize("wanted", [None, "wav", "pcm"])
def test_speech_by_a_vendors_own_form(
    wanted: str | None, client: openai.OpenAI, upstream: Upstream, gemini: AIModel
) -> None:
    upstream.reply(200, spoken(wav()))
    formats: Any = {} if wanted is None else {"response_format": wanted}
    made = client.audio.speech.create(model="audio", input="Hello", voice="alloy", **formats)
    with wave.open(io.BytesIO(wav())) as file:
        samples = file.readframes(file.getnframes())
    assert made.read() == (samples if wanted == "pcm" else wav())
    assert made.response.headers["content-type"] == ("audio/pcm" if wanted == "pcm" else "audio/wav")
    assert upstream.last.path == "/v1beta/models/gemini-3.8-flash-tts:generateContent"


@pytest.mark.parametrize("wanted", ["mp3", "opus", "x"])
def test_a_format_that_there_is_not_is_refused_before_it_is_paid_for(
    wanted: str, http: httpx.Client, upstream: Upstream, gemini: AIModel
) -> None:
    asked = {"model": "audio", "input": "Hello", "voice": "alloy", "response_format": wanted}
    response = http.post("/audio/speech", json=asked)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "response_format")
    assert upstream.requests == []


# -- the local app -------------------------------------------------------------------------------------------------


@pytest.fixture
def local(transactional_db: None) -> None:
    call_command("seed_ai_local", verbosity=0)


@pytest.mark.local
@pytest.mark.usefixtures("local")
def test_the_local_app_does_everything_but_vectors(client: openai.OpenAI, settled: Callable[[], UsageRecord]) -> None:
    names = {model.id for model in client.models.list()}
    assert names == {"local/smollm2-135m-instruct", "local/espeak-ng", "local/placeholder-card"}
    reply = client.chat.completions.create(model="chat", messages=HELLO, max_tokens=8)  # type: ignore[call-overload]
    assert reply.choices[0].message.content
    assert reply.usage.completion_tokens > 0
    assert settled().provider_slug == "local"
    stream = client.chat.completions.create(model="chat", messages=HELLO, max_tokens=8, stream=True)  # type: ignore[call-overload]
    assert len([one for one in stream if one.choices[0].delta.content]) > 1
    made = client.images.generate(prompt="A harbour", size="256x256", n=2, response_format="b64_json")
    assert made.data is not None
    pictures = [Image.open(io.BytesIO(base64.b64decode(one.b64_json or ""))) for one in made.data]
    assert [picture.size for picture in pictures] == [(256, 256)] * 2
    linked = client.images.generate(prompt="A harbour", size="256x256", response_format="url")
    assert linked.data is not None
    assert (linked.data[0].url or "").startswith("data:image/png;base64,")
    speech = client.audio.speech.create(model="audio", input="Hello", voice="alloy", response_format="wav").read()
    with wave.open(io.BytesIO(speech)) as file:
        assert file.getnframes() > 0
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="local/espeak-ng", input="a")
    with pytest.raises(openai.BadRequestError):
        client.images.generate(prompt="x", size="1x1")  # type: ignore[call-overload]
