"""Gemini beyond the battery: families of models, blocks, thoughts, images, speech, the list, the key."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from io import BytesIO
from typing import Any
from wave import open as open_wave

import pytest
from django.contrib.auth.models import User

from src.ai.exceptions import (
    ContentBlocked,
    EmptyReply,
    InvalidConfig,
    InvalidRequest,
    ProviderBadRequest,
    ProviderInvalidResponse,
    ProviderModelNotFound,
    ProviderUnavailable,
    StreamInterrupted,
)
from src.ai.models import AIModel, AIProvider
from src.ai.providers import gemini_format, gemini_media, gemini_models
from src.ai.providers.gemini import GeminiProvider
from src.ai.providers.gemini_format import THINKING_ROOM, Part, parse_answer, parse_usage
from src.ai.providers.prices import FREE, UNKNOWN, Price
from src.ai.results import Media, Usage
from src.ai.services.unified_service import UnifiedAIService
from tests.providers.answers import SCHEMA, b64, png, wav
from tests.providers.vendors.gemini import (
    CHAT_PATH,
    IMAGE_PATH,
    READ,
    SPEECH_PATH,
    THOUGHT,
    USAGE,
    VENDOR,
    answer,
    failure,
    inline,
    row,
    stream,
)
from tests.upstream.server import CLOSE, HANG, RESET, Gate, Reply, Request, Step, Upstream, whole

STREAM_PATH = VENDOR.stream.path
PCM = b"\x01\x02" * 24


@pytest.fixture
def gemini(upstream: Upstream) -> Callable[..., GeminiProvider]:
    def make(**config: Any) -> GeminiProvider:
        provider = VENDOR.provider(upstream, **config)
        assert isinstance(provider, GeminiProvider)
        return provider

    return make


def built(model: str = "gemini-3.8-flash", **options: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    return gemini_format.build_generation(model, options)


# -- requests ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("gemini-3.8-flash", "/models/gemini-3.8-flash:x"),
        ("models/gemini-3.8-flash", "/models/gemini-3.8-flash:x"),
        ("tunedModels/mine", "/tunedModels/mine:x"),
        ("odd?key=1#:", "/models/odd%3Fkey%3D1%23%3A:x"),
    ],
)
def test_an_id_is_asked_for_with_and_without_its_prefix(model: str, path: str) -> None:
    assert gemini_format.build_path(model, "x") == path


def test_turns_without_text_are_left_out_and_system_turns_are_no_turns() -> None:
    history = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": " "},
        {"role": "assistant", "content": "Two"},
    ]
    body, _ = gemini_format.build_chat("gemini-3.8-flash", "Three", history, "Be brief.", {})
    assert body == {
        "systemInstruction": {"parts": [{"text": "Be brief.\n\nBe kind."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "One"}]},
            {"role": "model", "parts": [{"text": "Two"}]},
            {"role": "user", "parts": [{"text": "Three"}]},
        ],
    }


def test_gemma_hears_the_system_message_from_the_user() -> None:
    history = [{"role": "assistant", "content": "Hello"}, {"role": "user", "content": "One"}]
    body, _ = gemini_format.build_chat("models/gemma-4-31b-it", "Two", history, "Be brief.", {})
    assert body == {
        "contents": [
            {"role": "model", "parts": [{"text": "Hello"}]},
            {"role": "user", "parts": [{"text": "Be brief.\n\nOne"}]},
            {"role": "user", "parts": [{"text": "Two"}]},
        ]
    }


async def test_an_empty_message_is_refused_here(gemini: Callable[..., GeminiProvider], upstream: Upstream) -> None:
    with pytest.raises(InvalidRequest):
        await gemini().chat(" ", [{"role": "assistant", "content": "Hello"}])
    assert not upstream.requests


@pytest.mark.parametrize(
    ("model", "options", "limit"),
    [
        ("gemini-3.8-flash", {"max_tokens": 50}, 50 + THINKING_ROOM),
        ("gemini-2.5-flash", {"max_tokens": 50}, 50 + THINKING_ROOM),
        ("gemini-2.5-flash", {"max_tokens": 50, "thinking_budget": 0}, 50),
        ("gemini-3.8-flash", {"max_tokens": 60_000}, 65_536),
        ("gemini-3.8-flash", {"max_tokens": 70_000}, 70_000),
        ("gemma-4-31b-it", {"max_tokens": 30_000}, 32_768),
        ("gemma-3-27b-it", {"max_tokens": 50}, 50),
        ("gemini-2.0-flash", {"max_tokens": 50}, 50),
    ],
)
def test_a_limit_leaves_room_for_thoughts(model: str, options: dict[str, Any], limit: int) -> None:
    assert built(model, **options)[0]["maxOutputTokens"] == limit


@pytest.mark.parametrize(
    ("model", "options", "thinking", "dropped"),
    [
        ("gemini-3.8-flash", {}, None, ()),
        ("gemini-2.5-flash", {"thinking_budget": 0}, {"thinkingBudget": 0}, ()),
        ("gemini-2.5-pro", {"thinking_budget": 0}, None, ("thinking_budget",)),
        ("gemini-2.5-pro", {"thinking_budget": -1}, {"thinkingBudget": -1}, ()),
        ("gemini-2.5-flash", {"thinking_level": "LOW"}, None, ("thinking_level",)),
        ("gemini-3.5-flash", {"thinking_level": "minimal"}, {"thinkingLevel": "MINIMAL"}, ()),
        ("gemini-3.8-flash", {"thinking_level": "minimal"}, None, ("thinking_level",)),
        ("gemini-3.1-pro", {"thinking_level": "MINIMAL"}, None, ("thinking_level",)),
        ("gemini-4-argon", {"thinking_level": "MINIMAL"}, None, ("thinking_level",)),
        ("gemini-4-argon", {"thinking_level": "high"}, {"thinkingLevel": "HIGH"}, ()),
        ("gemini-4-argon", {"thinking_budget": 100}, None, ("thinking_budget",)),
        ("gemma-4-31b-it", {"thinking_level": "LOW"}, None, ("thinking_level",)),
    ],
)
def test_thinking_is_asked_for_as_the_family_takes_it_and_never_unasked(
    model: str, options: dict[str, Any], thinking: Any, dropped: tuple[str, ...]
) -> None:
    generation, left_out = built(model, **options)
    assert (generation.get("thinkingConfig"), left_out) == (thinking, dropped)


SAMPLING = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "presence_penalty": 1.0, "frequency_penalty": 1.0}


def test_sampling_goes_to_models_that_heed_it() -> None:
    assert built("gemini-3.8-flash", **SAMPLING, seed=7, stop="END") == (
        {
            "temperature": 0.5,
            "topP": 0.9,
            "topK": 40,
            "presencePenalty": 1.0,
            "frequencyPenalty": 1.0,
            "seed": 7,
            "stopSequences": ["END"],
        },
        (),
    )
    assert built("models/gemini-4-argon", **SAMPLING, seed=7) == ({"seed": 7}, tuple(SAMPLING))


async def test_the_configuration_speaks_where_the_caller_does_not(
    gemini: Callable[..., GeminiProvider], upstream: Upstream
) -> None:
    upstream.on("POST", CHAT_PATH, whole(200, answer("Hi.")))
    safety = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]
    provider = gemini(
        chat_model="gemini-3.8-flash",
        temperature=0.2,
        top_p=0.9,
        safety_settings=safety,
        extra_body={"generationConfig": {"topP": 0.8, "responseLogprobs": True}},
    )
    await provider.chat("Hello", temperature=0.7, max_tokens=None)
    assert upstream.last.json == {
        "contents": [{"role": "user", "parts": [{"text": "Hello"}]}],
        "generationConfig": {"temperature": 0.7, "topP": 0.8, "responseLogprobs": True},
        "safetySettings": safety,
    }


# -- structured content ------------------------------------------------------------------------------------------------


async def test_json_is_asked_for_by_weaker_means_where_the_stronger_is_refused(
    gemini: Callable[..., GeminiProvider], upstream: Upstream
) -> None:
    refused = failure(400, "INVALID_ARGUMENT", 'Unknown name "responseJsonSchema"')
    upstream.send(refused, failure(400, "INVALID_ARGUMENT", "JSON mode is not enabled for this model"))
    upstream.on("POST", CHAT_PATH, whole(200, answer('{"title": "T"}')))
    await gemini().generate_content("Write.", json_schema=SCHEMA)
    first, second, third = (request.json for request in upstream.requests)
    assert first["generationConfig"] == {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA}
    assert second["generationConfig"] == {
        "responseMimeType": "application/json",
        "responseSchema": {
            "type": "OBJECT",
            "required": ["title"],
            "properties": {"title": {"type": "STRING"}},
            "propertyOrdering": ["title"],
        },
    }
    assert "generationConfig" not in third
    assert json.dumps(SCHEMA) in third["systemInstruction"]["parts"][0]["text"]


async def test_a_400_about_something_else_is_not_asked_again(
    gemini: Callable[..., GeminiProvider], upstream: Upstream
) -> None:
    upstream.on("POST", CHAT_PATH, failure(400, "INVALID_ARGUMENT", "The input is too long."))
    with pytest.raises(ProviderBadRequest):
        await gemini().generate_content("Write.", json_schema=SCHEMA)
    assert len(upstream.requests) == 1


async def test_a_means_that_does_not_exist_is_refused(gemini: Callable[..., GeminiProvider]) -> None:
    with pytest.raises(InvalidConfig, match="schema, openapi, prompt"):
        await gemini(json_mode="yaml").generate_content("Write.", json_schema=SCHEMA)


def test_a_schema_is_translated_for_gemini_at_every_level() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "name": {"type": ["string", "null"], "default": ""},
            "tags": {"type": "array", "items": {"anyOf": [{"type": "integer", "const": 1}, {"type": "number"}]}},
        },
    }
    assert gemini_format.build_openapi_schema(schema) == {
        "type": "OBJECT",
        "properties": {
            "name": {"type": "STRING", "nullable": True},
            "tags": {"type": "ARRAY", "items": {"anyOf": [{"type": "INTEGER"}, {"type": "NUMBER"}]}},
        },
        "propertyOrdering": ["name", "tags"],
    }


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("STOP", "stop"), ("MAX_TOKENS", "length"), ("CONTINUATION", "length"), ("NEWER_THAN_THIS", "error")],
)
async def test_a_reply_says_in_our_words_how_it_ended(
    gemini: Callable[..., GeminiProvider], upstream: Upstream, finish: str, reason: str
) -> None:
    upstream.on("POST", CHAT_PATH, whole(200, answer("Hi.", finish=finish)))
    reply = await gemini().chat("Hello")
    assert (reply, reply.finish_reason) == ("Hi.", reason)


@pytest.mark.parametrize(
    "finish", ["SAFETY", "BLOCKLIST", "SPII", "LANGUAGE", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"]
)
def test_every_reason_of_a_filter_is_a_block(finish: str) -> None:
    assert parse_answer(answer("Half", finish=finish)).finish_reason == "content_filter"


@pytest.mark.parametrize(
    "finish", ["OTHER", "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "MISSING_THOUGHT_SIGNATURE", "NO_IMAGE"]
)
def test_every_reason_of_a_breakdown_is_one(finish: str) -> None:
    part = parse_answer(answer("Half", finish=finish))
    assert (part.finish_reason, part.broke_down) == ("error", True)


@pytest.mark.parametrize(
    ("metadata", "usage"),
    [
        (None, None),
        ({"promptTokenCount": 5, "totalTokenCount": 5}, Usage(input_tokens=5, output_tokens=0)),
        (
            {"promptTokenCount": 5, "thoughtsTokenCount": 2, "totalTokenCount": 7},
            Usage(input_tokens=5, output_tokens=2, reasoning_tokens=2),
        ),
        ({"promptTokenCount": 5, "candidatesTokenCount": 3}, Usage(input_tokens=5, output_tokens=3)),
        ({"promptTokenCount": 5}, Usage(input_tokens=5)),
        (USAGE, READ),
    ],
)
def test_usage_counts_thoughts_as_output_and_keeps_the_unknown_unknown(metadata: Any, usage: Usage | None) -> None:
    assert parse_usage(metadata) == usage


@pytest.mark.parametrize(
    "data",
    [{}, {"candidates": []}, {"candidates": [{}]}, {"candidates": [{"content": {}}]}, {"promptFeedback": {}}],
)
def test_any_part_of_an_answer_may_be_missing(data: Any) -> None:
    assert parse_answer(data) == Part()


async def test_nothing_for_no_good_reason_is_asked_for_again(
    gemini: Callable[..., GeminiProvider], upstream: Upstream
) -> None:
    upstream.send(whole(200, answer(finish="OTHER")), whole(200, answer("Hi.")))
    assert await gemini().chat("Hello") == "Hi."
    upstream.on("POST", CHAT_PATH, whole(200, answer(finish="OTHER")))
    with pytest.raises(EmptyReply, match="OTHER"):
        await gemini().chat("Hello")


async def test_a_retired_model_is_told_with_its_successor(
    gemini: Callable[..., GeminiProvider], upstream: Upstream
) -> None:
    gone = failure(404, "NOT_FOUND", "models/gemini-1.5-flash is not found for API version v1beta")
    upstream.on("POST", "/v1beta/models/gemini-1.5-flash:generateContent", gone)
    with pytest.raises(ProviderModelNotFound, match=r"Use 'gemini-3\.8-flash' instead") as caught:
        await gemini().chat("Hello", model="models/gemini-1.5-flash")
    assert caught.value.model == "gemini-1.5-flash"


# -- streams -----------------------------------------------------------------------------------------------------------


async def streamed(provider: GeminiProvider) -> list[str]:
    return [delta async for delta in provider.stream_chat("Hello")]


async def test_streams_share_a_connection(gemini: Callable[..., GeminiProvider], upstream: Upstream) -> None:
    upstream.on("POST", STREAM_PATH, VENDOR.stream.reply)
    for _ in range(3):
        assert await streamed(gemini()) == ["Hi ", "thè", "re."]
    assert upstream.connections == 1


@pytest.mark.parametrize("parts", [(), (answer(THOUGHT, finish=None),), (answer("Hi ", finish=None),)])
async def test_a_stream_that_ends_in_order_but_without_a_finish_reason_is_interrupted(
    gemini: Callable[..., GeminiProvider], upstream: Upstream, parts: tuple[dict[str, Any], ...]
) -> None:
    upstream.on("POST", STREAM_PATH, stream(*parts))
    with pytest.raises(StreamInterrupted):
        await streamed(gemini())


@pytest.mark.parametrize("after", [HANG, RESET, CLOSE])
async def test_a_stream_is_over_with_its_finish_reason_whatever_becomes_of_the_connection(
    gemini: Callable[..., GeminiProvider], upstream: Upstream, after: Step
) -> None:
    upstream.on("POST", STREAM_PATH, stream(answer("Hi "), after))
    async with asyncio.timeout(5):
        assert await streamed(gemini()) == ["Hi "]
    await asyncio.to_thread(upstream.wait_for, lambda: upstream.open_connections == 0)


async def test_a_server_that_knows_no_events_sends_one_list(
    gemini: Callable[..., GeminiProvider], upstream: Upstream
) -> None:
    upstream.on("POST", STREAM_PATH, whole(200, [answer("Hi ", finish=None), answer("there.")]))
    assert await streamed(gemini()) == ["Hi ", "there."]
    upstream.on("POST", STREAM_PATH, whole(200, [answer("Hi ", finish=None), {"error": {"code": 503}}]))
    with pytest.raises(ProviderUnavailable):
        await streamed(gemini())


async def test_an_unreadable_event_interrupts_what_was_shown(
    gemini: Callable[..., GeminiProvider], upstream: Upstream
) -> None:
    upstream.on("POST", STREAM_PATH, stream(answer("Hi ", finish=None), b"data: {cut\r\n\r\n"))
    with pytest.raises(StreamInterrupted):
        await streamed(gemini())
    upstream.on("POST", STREAM_PATH, stream(b"data: {cut\r\n\r\n"))
    with pytest.raises(ProviderInvalidResponse):
        await streamed(gemini())


# -- images ------------------------------------------------------------------------------------------------------------


def image_config(model: str, **options: Any) -> tuple[Any, tuple[str, ...]]:
    body, dropped = gemini_media.build_image(model, "A cat", options)
    return body["generationConfig"].get("imageConfig"), dropped


@pytest.mark.parametrize(
    ("model", "options", "config", "dropped"),
    [
        ("gemini-3.1-flash-image", {}, None, ()),
        ("gemini-3.1-flash-image", {"size": "auto", "quality": "standard"}, None, ()),
        ("gemini-3.1-flash-image", {"size": "1024x1024"}, {"aspectRatio": "1:1"}, ()),
        ("gemini-3.1-flash-image", {"size": "1536x1024"}, {"aspectRatio": "3:2"}, ()),
        ("gemini-3.1-flash-image", {"size": "1792x1024"}, {"aspectRatio": "16:9"}, ()),
        ("gemini-3.1-flash-image", {"size": "1024x1792"}, {"aspectRatio": "9:16"}, ()),
        ("gemini-3.1-flash-image", {"size": "512x512"}, {"aspectRatio": "1:1", "imageSize": "512"}, ()),
        ("gemini-nano-banana-2.1", {"size": "512x512"}, {"aspectRatio": "1:1"}, ()),
        ("gemini-3-pro-image", {"size": "3840x2160"}, {"aspectRatio": "16:9", "imageSize": "4K"}, ()),
        ("gemini-3.1-flash-image", {"size": "4096x1024"}, {"aspectRatio": "4:1", "imageSize": "4K"}, ()),
        ("gemini-3-pro-image", {"size": "4096x1024"}, {"aspectRatio": "21:9", "imageSize": "4K"}, ()),
        ("gemini-3-pro-image", {"quality": "high"}, {"imageSize": "2K"}, ()),
        ("gemini-3.1-flash-lite-image", {"quality": "hd"}, None, ("quality",)),
        ("gemini-9-unheard-of-image", {"quality": "hd"}, None, ("quality",)),
        ("gemini-3-pro-image", {"size": "huge"}, None, ("size",)),
        ("gemini-3-pro-image", {"aspect_ratio": "21:9"}, {"aspectRatio": "21:9"}, ()),
        ("gemini-3-pro-image", {"quality": "hd", "image_size": "4K"}, {"imageSize": "4K"}, ()),
        ("gemini-3-pro-image", {"aspect_ratio": "8:1", "image_size": "512"}, None, ("aspect_ratio", "image_size")),
    ],
)  # fmt: skip
def test_size_and_quality_are_translated(
    model: str, options: dict[str, Any], config: Any, dropped: tuple[str, ...]
) -> None:
    assert image_config(model, **options) == (config, dropped)


async def test_several_images_are_made_at_the_same_time(
    gemini: Callable[..., GeminiProvider], upstream: Upstream
) -> None:
    gate = Gate()
    reply = whole(200, answer(inline(png(), "image/jpeg")))
    upstream.on("POST", IMAGE_PATH, Reply(200, reply.parts, reply.headers, before=[gate], length=reply.length))
    making = asyncio.create_task(gemini().generate_image("A cat", n=3))
    await asyncio.to_thread(upstream.wait_for, lambda: len(upstream.requests) == 3)
    gate.open()
    media = await making
    assert isinstance(media, Media)
    assert [item.getvalue() for item in media.all] == [png()] * 3
    assert {item.content_type for item in media.all} == {"image/png"}
    assert media.usage == Usage(input_tokens=36, output_tokens=21, cache_read_tokens=12, reasoning_tokens=9, images=3)
    assert media.dropped_params == ()


async def test_images_that_came_are_not_lost_with_one_that_did_not(
    gemini: Callable[..., GeminiProvider], upstream: Upstream
) -> None:
    good = whole(200, answer(inline(png(), "image/png")))
    upstream.send(good, whole(200, answer(finish="IMAGE_SAFETY")), good)
    media = await gemini().generate_image("A cat", n=3)
    assert isinstance(media, Media)
    assert (len(media.all), media.dropped_params) == (2, ("n",))
    upstream.on("POST", IMAGE_PATH, whole(200, answer(finish="IMAGE_SAFETY")))
    with pytest.raises(ContentBlocked):
        await gemini().generate_image("A cat", n=3)


# -- speech ------------------------------------------------------------------------------------------------------------


LEGACY = "gemini-2.5-flash-preview-tts"
LEGACY_PATH = f"/v1beta/models/{LEGACY}:generateContent"


async def test_headerless_audio_is_wrapped_once_all_its_parts_together(
    gemini: Callable[..., GeminiProvider], upstream: Upstream
) -> None:
    pcm = inline(PCM, "audio/L16;codec=pcm;rate=16000")
    upstream.on("POST", LEGACY_PATH, whole(200, answer(pcm, pcm)))
    media = await gemini().text_to_speech("Hello.", model=LEGACY, voice="puck", style="cheerfully")
    assert isinstance(media, Media)
    with open_wave(BytesIO(media.getvalue())) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16_000)
        assert file.readframes(100) == PCM * 2
    assert (media.content_type, media.dropped_params) == ("audio/wav", ())
    assert upstream.last.json == {
        "contents": [{"role": "user", "parts": [{"text": "Say cheerfully: Hello."}]}],
        "generationConfig": {
            "responseModalities": ["AUDIO"],
            "speechConfig": {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Puck"}}},
        },
    }


@pytest.mark.parametrize("mime_type", ["audio/wav", "audio/x-wav", "audio/L16;rate=24000", ""])
def test_a_wav_is_left_as_it_is_whatever_it_is_called(mime_type: str) -> None:
    files = (gemini_format.File(mime_type, b64(wav())), gemini_format.File(mime_type, b64(wav())))
    assert gemini_media.parse_speech(files) == (wav(), "audio/wav")


def test_the_voices_own_pace_is_no_loss() -> None:
    _, dropped = gemini_media.build_speech("gemini-3.8-flash-tts", "Hi", {"speed": 1.0, "voice": "KORE", "format": "x"})
    assert dropped == ("format",)


@pytest.mark.parametrize("first", [answer("Hello."), answer(finish="OTHER")])
async def test_words_instead_of_audio_are_asked_again_once(
    gemini: Callable[..., GeminiProvider], upstream: Upstream, first: dict[str, Any]
) -> None:
    upstream.send(whole(200, first), whole(200, answer(inline(wav(), "audio/wav"))))
    media = await gemini().text_to_speech("Hello.", model="gemini-3.8-flash-tts")
    assert media.getvalue() == wav()
    assert len(upstream.requests) == 2


async def test_words_instead_of_audio_are_shown_and_a_block_is_not_asked_again(
    gemini: Callable[..., GeminiProvider], upstream: Upstream
) -> None:
    for reply, error, words, requests in (
        (answer("I only write."), ProviderInvalidResponse, "I only write", 2),
        (answer(finish="OTHER"), EmptyReply, "OTHER", 2),
        (answer("Half", finish="SAFETY"), ContentBlocked, "SAFETY", 1),
    ):
        upstream.requests.clear()
        upstream.on("POST", SPEECH_PATH, whole(200, reply))
        with pytest.raises(error, match=words):
            await gemini().text_to_speech("Hello.", model="gemini-3.8-flash-tts")
        assert len(upstream.requests) == requests


async def test_a_format_that_is_refused_is_not_asked_for_again(
    gemini: Callable[..., GeminiProvider], upstream: Upstream
) -> None:
    upstream.send(failure(400, "INVALID_ARGUMENT", "Invalid value at 'generation_config.response_format'"))
    upstream.on("POST", SPEECH_PATH, whole(200, answer(inline(wav(), "audio/wav"))))
    media = await gemini().text_to_speech("Hello.", model="gemini-3.8-flash-tts")
    assert media.getvalue() == wav()
    assert "responseFormat" not in upstream.last.json["generationConfig"]
    upstream.on("POST", SPEECH_PATH, failure(400, "INVALID_ARGUMENT", "The text is too long."))
    upstream.requests.clear()
    with pytest.raises(ProviderBadRequest):
        await gemini().text_to_speech("Hello.", model="gemini-3.8-flash-tts")
    assert len(upstream.requests) == 1


# -- models and the key ------------------------------------------------------------------------------------------------


async def test_the_list_is_followed_to_its_last_page(gemini: Callable[..., GeminiProvider], upstream: Upstream) -> None:
    pages = {
        "": {"models": [row("gemini-3.8-flash"), row("gemini-4-argon")], "nextPageToken": "two"},
        "two": {"nextPageToken": "three"},
        "three": {"models": [row("gemini-3.8-flash"), row("gemma-4-31b-it")]},
    }

    def page(request: Request) -> Reply:
        return whole(200, pages[request.query.partition("&pageToken=")[2]])

    upstream.on("GET", "/v1beta/models", page)
    models = await gemini().get_available_models()
    assert [model.model_id for model in models] == ["gemini-3.8-flash", "gemini-4-argon", "gemma-4-31b-it"]
    assert [request.query for request in upstream.requests] == [
        "pageSize=1000",
        "pageSize=1000&pageToken=two",
        "pageSize=1000&pageToken=three",
    ]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"models": [row("gemini-4-argon")], "nextPageToken": "again"}, "repeats a page"),
        ({}, "no list of models"),
        ({"models": "none"}, "no list of models"),
        ([], "no list of models"),
    ],
)
async def test_a_list_that_is_none_or_never_ends_is_an_error(
    gemini: Callable[..., GeminiProvider], upstream: Upstream, body: Any, why: str
) -> None:
    upstream.on("GET", "/v1beta/models", whole(200, body))
    with pytest.raises(ProviderInvalidResponse, match=why):
        await gemini().get_available_models()
    assert len(upstream.requests) <= 2


@pytest.mark.parametrize(
    ("model_id", "listed", "price"),
    [
        ("gemini-9-new", Price(input=FREE, output=FREE), (None, None)),
        ("gemini-9-new", UNKNOWN, (None, None)),
        ("gemma-9-new", UNKNOWN, (Decimal(0), Decimal(0))),
        ("gemini-9-new", Price(input=Decimal(1), output=Decimal(2)), (Decimal(1), Decimal(2))),
    ],
)
def test_only_gemma_is_free(
    monkeypatch: pytest.MonkeyPatch, model_id: str, listed: Price, price: tuple[Decimal | None, Decimal | None]
) -> None:
    monkeypatch.setattr(gemini_models, "find_price", lambda *_: listed)
    found = gemini_models.price_of(model_id)
    assert (found.input, found.output) == price


async def test_a_leaked_key_is_refused_and_a_wrong_country_says_nothing(
    gemini: Callable[..., GeminiProvider], upstream: Upstream
) -> None:
    upstream.on("GET", "/v1beta/models", failure(403, "PERMISSION_DENIED", "Your API key was reported as leaked."))
    assert await gemini().validate_api_key() is False
    upstream.on("GET", "/v1beta/models", failure(400, "FAILED_PRECONDITION", "User location is not supported."))
    with pytest.raises(ProviderBadRequest, match="User location"):
        await gemini().validate_api_key()


# -- through the service -----------------------------------------------------------------------------------------------


@pytest.fixture
def rows(
    make_provider: Callable[..., AIProvider], make_model: Callable[..., AIModel], upstream: Upstream
) -> AIProvider:
    provider = make_provider("gemini", api_base_url=f"{upstream.url}/v1beta", shared_api_key=VENDOR.key)
    make_model(provider, "chat", "content", "vision", model_id="gemini-3.8-flash")
    make_model(provider, "image", model_id="gemini-3.1-flash-image")
    make_model(provider, "audio", model_id="gemini-3.8-flash-tts")
    for exchange in (VENDOR.chat, VENDOR.stream, VENDOR.image, VENDOR.audio):
        VENDOR.serve(upstream, exchange)
    return provider


def test_every_operation_works_through_the_service(rows: AIProvider, superuser: User, upstream: Upstream) -> None:
    ask = {"admin": superuser, "provider_slug": "gemini"}
    reply = UnifiedAIService.chat(message="Hello", **ask)
    assert (reply, reply.usage, reply.info.request_model) == ("Hi there.", READ, "gemini-3.8-flash")
    assert "".join(UnifiedAIService.stream_chat(message="Hello", **ask)) == "Hi thère."
    assert UnifiedAIService.generate_image(prompt="A cat", n=2, **ask).content_type == "image/png"
    assert UnifiedAIService.text_to_speech(text="Hello.", voice="alloy", **ask).dropped_params == ("voice",)
    article = dict.fromkeys(("title", "meta_title", "meta_description", "content"), "Cats") | {
        "keywords": ["cat"],
        "slug": "cats",
    }
    upstream.on("POST", CHAT_PATH, whole(200, answer(THOUGHT, json.dumps(article))))
    assert UnifiedAIService.generate_content(topic="Cats", **ask) == article
    assert {VENDOR.key_in(request) for request in upstream.requests} == {VENDOR.key}
    assert not any(VENDOR.key in request.query for request in upstream.requests)


async def test_the_request_is_the_one_that_googles_own_sdk_sends(
    gemini: Callable[..., GeminiProvider], upstream: Upstream
) -> None:
    from google import genai  # half a second that only this test needs

    for _ in range(2):
        upstream.reply(200, answer("Hello!"))
    await gemini().chat("Hi", model="gemma-4-31b-it", temperature=0.5)
    with genai.Client(api_key="AIza-key", http_options={"base_url": upstream.url, "api_version": "v1beta"}) as client:
        client.models.generate_content(model="gemma-4-31b-it", contents="Hi", config={"temperature": 0.5})
    ours, theirs = upstream.requests
    assert (ours.method, ours.path, ours.json) == (theirs.method, theirs.path, theirs.json)
    assert "x-goog-api-key" in ours.headers.keys() & theirs.headers.keys()
