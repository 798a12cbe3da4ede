"""Every endpoint by OpenAI's own client: what goes out, what comes back, and what is on the books."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from src.ai.models import AIModel, AIProvider, UsageRecord
from tests.gateway.conftest import HELLO, KEY, VENDORS, Vendor
from tests.upstream.server import Upstream, whole
from tests.vendor_answers import IMAGES, SPEECH, chat, images, png, wav

Settled = Callable[[], UsageRecord]
Maker = Callable[..., AIModel]
EMBEDDINGS = "/v1/embeddings"


@pytest.fixture
def rows(transactional_db: None, upstream: Upstream, make_provider: Callable[..., AIProvider]) -> dict[str, AIProvider]:
    """The rows of all six."""
    shared = {"shared_api_key": KEY, "allow_shared_for_normal_admins": True}
    return {one.slug: make_provider(one.slug, api_base_url=f"{upstream.url}{one.base}", **shared) for one in VENDORS}


# -- chat ----------------------------------------------------------------------------------------------------------


def test_every_vendor_is_asked_as_it_wants_to_be(
    client: openai.OpenAI, upstream: Upstream, vendor: Vendor, settled: Settled
) -> None:
    upstream.reply(200, {**chat("Hi!"), "x_new": {"a": [1.50]}})
    raw = client.chat.completions.with_raw_response.create(model=f"{vendor.slug}/{vendor.model}", messages=HELLO)
    assert raw.parse().choices[0].message.content == "Hi!"
    assert raw.http_response.json()["x_new"] == {"a": [1.5]}
    assert upstream.last.path == vendor.chat
    assert upstream.last.json == {"model": vendor.model, "messages": HELLO}
    assert upstream.last.headers["authorization"] == f"Bearer {KEY}"
    record = settled()
    assert (record.provider_slug, record.model_name, record.output_tokens) == (vendor.slug, vendor.model, 4)


def test_whatever_a_client_sends_arrives(client: openai.OpenAI, upstream: Upstream, chat_model: AIModel) -> None:
    upstream.reply(200, chat('{"a": 1}'))
    image = "data:image/png;base64," + base64.b64encode(png()).decode()
    asked: dict[str, Any] = {
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this? \u200c\U0001f642"},
                    {"type": "image_url", "image_url": {"url": image, "detail": "low"}},
                ],
            },
            {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {}}]},
            {"role": "tool", "tool_call_id": "c", "content": "rain"},
        ],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
        "tools": [{"type": "function", "function": {"name": "rain", "parameters": {}}}],
        "tool_choice": "auto",
        "seed": 12345678901234567,
        "logprobs": True,
        "n": 2,
        "metadata": {"a": "b"},
        "temperature": 0.10,
        "max_completion_tokens": 7,
    }
    client.chat.completions.create(model="chat", **asked, extra_body={"not_yet_known": [{"x": None}]})
    assert upstream.last.json == {**asked, "model": "gpt-6-luna", "not_yet_known": [{"x": None}]}


@pytest.mark.usefixtures("chat_model")
async def test_the_asynchronous_client(site: str, token: str, upstream: Upstream) -> None:
    upstream.on("POST", "/v1/chat/completions", whole(200, chat("Hi!")))
    async with openai.AsyncOpenAI(base_url=f"{site}/v1", api_key=token) as client:
        reply = await client.chat.completions.create(model="chat", messages=HELLO)  # type: ignore[call-overload]
        assert reply.choices[0].message.content == "Hi!"
        assert [model.id async for model in client.models.list()] == ["openai/gpt-6-luna"]


def test_a_configuration_is_put_in_and_a_callers_limit_stays(
    client: openai.OpenAI, upstream: Upstream, provider: AIProvider, chat_model: AIModel
) -> None:
    provider.config = {"max_tokens": 50, "extra_body": {"service_tier": "flex"}}
    provider.save()
    for asked, limits in (
        ({}, {"max_completion_tokens": 50}),
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_completion_tokens": 5}, {"max_completion_tokens": 5}),
    ):
        upstream.reply(200, chat("Hi!"))
        client.chat.completions.create(model="chat", messages=HELLO, **asked)  # type: ignore[call-overload]
        fixed = {"model": "gpt-6-luna", "messages": HELLO, "service_tier": "flex"}
        assert upstream.last.json == {**fixed, **limits}


def test_a_limit_by_the_name_that_a_vendor_ignores_is_said_by_the_other(
    client: openai.OpenAI, upstream: Upstream, rows: dict[str, AIProvider], make_model: Maker
) -> None:
    make_model(rows["deepseek"], "chat", model_id="deepseek-flash")
    upstream.reply(200, chat("Hi!"))
    client.chat.completions.create(model="deepseek-flash", messages=HELLO, max_completion_tokens=5)  # type: ignore[call-overload]
    assert upstream.last.json == {"model": "deepseek-flash", "messages": HELLO, "max_tokens": 5}


def test_openrouters_own_choice_of_hosts_stands_unless_the_caller_makes_one(
    http: httpx.Client, upstream: Upstream, rows: dict[str, AIProvider], make_model: Maker
) -> None:
    row = rows["openrouter"]
    make_model(row, "chat", model_id="a/b")
    row.config = {"provider": {"zdr": True}, "app_name": "Panel"}
    row.save()
    for own in ({}, {"provider": {"sort": "price"}}):
        upstream.reply(200, chat("Hi!"))
        http.post("/chat/completions", json={"model": "a/b", "messages": HELLO, **own}).raise_for_status()
        assert upstream.last.json["provider"] == own.get("provider", {"zdr": True})
        assert upstream.last.headers["x-openrouter-title"] == "Panel"


# -- images --------------------------------------------------------------------------------------------------------


def test_an_image(
    client: openai.OpenAI, upstream: Upstream, provider: AIProvider, make_model: Maker, settled: Settled
) -> None:
    make_model(provider, "image", model_id="gpt-image-2", pricing_input=0, pricing_output=1_000_000)
    usage = {"input_tokens": 5, "output_tokens": 3, "total_tokens": 8}
    upstream.reply(200, {**images(png(), png()), "usage": usage})
    made = client.images.generate(prompt="A kite", n=2, size="1024x1024", background="transparent")
    assert made.data is not None
    assert [base64.b64decode(one.b64_json or "") for one in made.data] == [png(), png()]
    assert upstream.last.path == IMAGES
    asked = {"model": "gpt-image-2", "prompt": "A kite", "n": 2, "size": "1024x1024", "background": "transparent"}
    assert upstream.last.json == asked
    record = settled()
    assert (record.capability, record.operation, record.images, record.cost) == ("image", "generate_image", 2, 3)


def test_dall_es_words_are_translated_for_newer_models(
    client: openai.OpenAI, upstream: Upstream, provider: AIProvider, make_model: Maker
) -> None:
    make_model(provider, "image", model_id="gpt-image-2.6-flare")
    upstream.reply(200, images(png()))
    client.images.generate(
        model="image", prompt="A kite", quality="hd", style="vivid", size="1792x1024", response_format="b64_json"
    )
    sent = upstream.last.json
    assert sent["quality"] == "high"
    assert "vivid" in sent["prompt"]
    assert {"style", "response_format"}.isdisjoint(sent)


@pytest.mark.parametrize(
    ("slug", "model", "path"),
    [
        ("openrouter", "google/gemini-3.1-flash-image", "/api/v1/images"),
        ("gemini", "gemini-3.1-flash-image", "/v1beta/openai/images/generations"),
    ],
)
def test_other_vendors_images(
    slug: str,
    model: str,
    path: str,
    client: openai.OpenAI,
    upstream: Upstream,
    rows: dict[str, AIProvider],
    make_model: Maker,
) -> None:
    make_model(rows[slug], "image", model_id=model)
    upstream.reply(200, images(png()))
    made = client.images.generate(model=f"{slug}/{model}", prompt="A kite", n=1)
    assert made.data is not None
    assert made.data[0].b64_json == base64.b64encode(png()).decode()
    assert (upstream.last.path, upstream.last.json["model"]) == (path, model)


# -- speech --------------------------------------------------------------------------------------------------------


def test_speech_is_passed_on_as_it_comes(
    client: openai.OpenAI, upstream: Upstream, provider: AIProvider, make_model: Maker, settled: Settled
) -> None:
    make_model(provider, "audio", model_id="gpt-4o-mini-tts")
    upstream.reply(200, b"ID3" + b"\0" * 100_000, content_type="audio/mpeg", headers={"x-request-id": "r"})
    with client.audio.speech.with_streaming_response.create(
        model="audio", input="سلام", voice="coral", instructions="Whisper", speed=1.25, response_format="mp3"
    ) as response:
        assert response.headers["content-type"] == "audio/mpeg"
        assert response.read() == b"ID3" + b"\0" * 100_000
    assert upstream.last.path == SPEECH
    assert upstream.last.json == {
        "model": "gpt-4o-mini-tts",
        "input": "سلام",
        "voice": "coral",
        "instructions": "Whisper",
        "speed": 1.25,
        "response_format": "mp3",
    }
    record = settled()
    assert (record.operation, record.characters, record.state) == ("text_to_speech", 4, "settled")


@pytest.mark.parametrize(
    ("slug", "model", "path", "put_in"),
    [
        ("groq", "canopylabs/orpheus-v1-english", "/openai/v1/audio/speech", "wav"),
        ("openrouter", "openai/gpt-4o-mini-tts", "/api/v1/audio/speech", "mp3"),
    ],
)
def test_other_vendors_speech(
    slug: str,
    model: str,
    path: str,
    put_in: str,
    client: openai.OpenAI,
    upstream: Upstream,
    rows: dict[str, AIProvider],
    make_model: Maker,
) -> None:
    make_model(rows[slug], "audio", model_id=model)
    upstream.reply(200, wav(), content_type="audio/wav")
    spoken = client.audio.speech.create(model=model, input="Hello", voice="hannah")
    assert spoken.read() == wav()
    assert spoken.response.headers["content-type"] == "audio/wav"
    assert upstream.last.path == path
    assert upstream.last.json == {"model": model, "input": "Hello", "voice": "hannah", "response_format": put_in}


def test_speech_as_events_goes_through(
    http: httpx.Client, upstream: Upstream, provider: AIProvider, make_model: Maker
) -> None:
    make_model(provider, "audio", model_id="gpt-4o-mini-tts")
    sent = b'data: {"type":"speech.audio.delta","audio":"AAAA"}\n\n'
    upstream.reply(200, sent, content_type="text/event-stream")
    asked = {"model": "audio", "input": "Hello", "voice": "alloy", "stream_format": "sse"}
    response = http.post("/audio/speech", json=asked)
    assert (response.content, response.headers["content-type"]) == (sent, "text/event-stream")


# -- embeddings ----------------------------------------------------------------------------------------------------


def test_embeddings_by_the_clients_default_of_base64(
    client: openai.OpenAI, upstream: Upstream, provider: AIProvider, make_model: Maker, settled: Settled
) -> None:
    make_model(provider, "embedding", model_id="text-embedding-3-small", pricing_input=1_000_000, pricing_output=0)
    vector = base64.b64encode(struct.pack("<3f", 0.5, 0.25, -1)).decode()
    rows = [{"object": "embedding", "index": 0, "embedding": vector}]
    usage = {"prompt_tokens": 2, "total_tokens": 2}
    upstream.reply(200, {"object": "list", "data": rows, "model": "text-embedding-3-small", "usage": usage})
    made = client.embeddings.create(model="embedding", input=["Hello", "you"], dimensions=3)
    assert made.data[0].embedding == [0.5, 0.25, -1]
    asked = {"model": "text-embedding-3-small", "input": ["Hello", "you"], "dimensions": 3}
    assert upstream.last.json == {**asked, "encoding_format": "base64"}
    assert upstream.last.path == EMBEDDINGS
    record = settled()
    assert (record.capability, record.operation) == ("embedding", "embeddings")
    assert (record.input_tokens, record.output_tokens, record.cost) == (2, 0, 2)


@pytest.mark.parametrize("given", ["Hello", ["Hello", "you"], [1, 2, 3], [[1, 2], [3]]])
def test_every_form_of_input_for_embeddings_arrives(
    given: Any, http: httpx.Client, upstream: Upstream, provider: AIProvider, make_model: Maker
) -> None:
    make_model(provider, "embedding", model_id="text-embedding-3-small")
    upstream.reply(200, {"object": "list", "data": [], "model": "m"})
    assert http.post("/embeddings", json={"model": "embedding", "input": given}).status_code == 200
    assert upstream.last.json["input"] == given


def test_huggingfaces_embeddings_are_put_into_openais_form(
    client: openai.OpenAI, upstream: Upstream, rows: dict[str, AIProvider], make_model: Maker
) -> None:
    make_model(rows["huggingface"], "embedding", model_id="BAAI/bge-m3")
    upstream.reply(200, json.dumps([[0.5, 1.5], [2, 3]]), content_type="application/json")
    made = client.embeddings.create(model="BAAI/bge-m3", input=["a", "b"])
    assert [row.embedding for row in made.data] == [[0.5, 1.5], [2, 3]]
    assert upstream.last.path == "/hf-inference/models/BAAI/bge-m3/pipeline/feature-extraction"
    assert upstream.last.json == {"inputs": ["a", "b"]}
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="BAAI/bge-m3", input=[1, 2])
    assert caught.value.param == "input"


def test_geminis_embeddings(
    client: openai.OpenAI, upstream: Upstream, rows: dict[str, AIProvider], make_model: Maker
) -> None:
    make_model(rows["gemini"], "embedding", model_id="gemini-embedding-2")
    row = {"object": "embedding", "index": 0, "embedding": [0.5]}
    upstream.reply(200, {"object": "list", "data": [row], "model": "gemini-embedding-2"})
    assert client.embeddings.create(model="embedding", input="a").data[0].embedding == [0.5]
    assert upstream.last.path == "/v1beta/openai/embeddings"


# -- what is missing or wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("chat/completions", {}, "messages"),
        ("chat/completions", {"messages": "Hi"}, "messages"),
        ("chat/completions", {"messages": HELLO}, "model"),
        ("chat/completions", {"messages": HELLO, "model": 1}, "model"),
        ("chat/completions", {"messages": HELLO, "model": ""}, "model"),
        ("chat/completions", {"messages": HELLO, "model": "chat", "stream": "yes"}, "stream"),
        ("chat/completions", {"messages": HELLO, "model": "chat", "max_tokens": "9"}, "max_tokens"),
        (
            "chat/completions",
            {"messages": HELLO, "model": "chat", "stream": True, "stream_options": 1},
            "stream_options",
        ),
        ("images/generations", {}, "prompt"),
        ("images/generations", {"prompt": ["a"]}, "prompt"),
        ("audio/speech", {"model": "audio"}, "input"),
        ("embeddings", {"model": "embedding"}, "input"),
        ("embeddings", {"input": "a"}, "model"),
    ],
)
def test_a_body_that_lacks_something_is_told_what(
    path: str, body: dict[str, Any], param: str, http: httpx.Client, chat_model: AIModel, upstream: Upstream
) -> None:
    response = http.post(path, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert param in error["message"]
    assert upstream.requests == []


def test_a_model_of_another_kind(client: openai.OpenAI, chat_model: AIModel, upstream: Upstream) -> None:
    for model in ("chat", "openai/gpt-6-luna", "gpt-6-luna"):
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model=model, input="a")
        assert (caught.value.code, caught.value.param) == ("model_no_capability", "model")
    assert upstream.requests == []
