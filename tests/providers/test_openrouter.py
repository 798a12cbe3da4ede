"""OpenRouter's own ways, beyond what every vendor is tested for."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User

from src.ai.exceptions import (
    ContentBlocked,
    EmptyReply,
    InvalidConfig,
    ProviderAuthFailed,
    ProviderBadRequest,
    ProviderModelNotFound,
)
from src.ai.models import AIModel, AIProvider
from src.ai.results import Media, Usage
from src.ai.services.unified_service import UnifiedAIService
from tests.providers.answers import SCHEMA, answers_of, b64, chunk, completion, mp3, png, wav
from tests.providers.vendors.openrouter import failure
from tests.upstream.server import Gate, Reply, Request, Upstream, events, whole

OPENROUTER = answers_of("openrouter")
CHAT, IMAGES, SPEECH = ("POST", OPENROUTER.chat.path), ("POST", "/api/v1/images"), ("POST", "/api/v1/audio/speech")
MODELS = ("GET", "/api/v1/models")
UNROUTABLE = failure(404, "No endpoints found that can handle the requested parameters.")
SAMPLES = b"\x00\x01" * 24


async def draw(upstream: Upstream, config: dict[str, Any] | None = None, **kwargs: Any) -> Media:
    media = await OPENROUTER.provider(upstream, **(config or {})).generate_image("A cat", **kwargs)
    assert isinstance(media, Media)
    return media


async def speak(upstream: Upstream, config: dict[str, Any] | None = None, **kwargs: Any) -> Media:
    media = await OPENROUTER.provider(upstream, **(config or {})).text_to_speech("Hello.", **kwargs)
    assert isinstance(media, Media)
    return media


def one_image(color: str = "red", cost: float = 0.04) -> Reply:
    return whole(200, {"created": 1, "data": [{"b64_json": b64(png(color))}], "usage": {"cost": cost}})


# -- keys and headers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "  "])
async def test_the_list_needs_no_key_and_nothing_else_goes_without(upstream: Upstream, key: str) -> None:
    upstream.on(*MODELS, OPENROUTER.models.reply)
    provider = OPENROUTER.provider(upstream, key=key)
    assert await provider.get_available_models() == OPENROUTER.models.result
    assert "authorization" not in upstream.last.headers
    assert await provider.validate_api_key() is False
    with pytest.raises(ProviderAuthFailed):
        await provider.chat("Hello")
    assert len(upstream.requests) == 1


async def test_a_name_that_fits_no_header_is_left_out(upstream: Upstream) -> None:
    upstream.on(*CHAT, OPENROUTER.chat.reply)
    config = {"app_name": "هوش", "site_url": "", "app_categories": "cli-agent,writing"}
    await OPENROUTER.provider(upstream, **config).chat("Hello")
    headers = upstream.last.headers
    assert headers["x-openrouter-categories"] == "cli-agent,writing"
    assert not {"x-openrouter-title", "http-referer"} & set(headers)


# -- chat --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "dropped"),
    [
        ("openai/gpt-6-luna", ("temperature", "stop")),
        ("openai/gpt-5-nano", ("temperature", "stop")),
        ("openai/gpt-5.4-mini", ()),
        ("openai/gpt-oss-120b", ()),
        ("openai/gpt-4o-mini", ()),
        ("anthropic/claude-sonnet-4", ()),
    ],
)
async def test_what_openrouter_would_drop_silently_is_said(
    upstream: Upstream, model: str, dropped: tuple[str, ...]
) -> None:
    upstream.on(*CHAT, OPENROUTER.chat.reply)
    reply: Any = await OPENROUTER.provider(upstream).chat("Hello", model=model, temperature=0.5, stop=["x"])
    assert reply.dropped_params == dropped
    assert ("temperature" in upstream.last.json, "stop" in upstream.last.json) == (not dropped, not dropped)


async def test_effort_goes_beside_the_wish_to_see_no_thoughts(upstream: Upstream) -> None:
    upstream.on(*CHAT, OPENROUTER.chat.reply)
    await OPENROUTER.provider(upstream, provider={"sort": "price"}).chat("Hello", reasoning_effort="low")
    sent = upstream.last.json
    assert (sent["reasoning"], sent["reasoning_effort"]) == ({"exclude": True}, "low")
    assert sent["provider"] == {"sort": "price"}


async def test_a_thinking_model_is_heard_at_once(upstream: Upstream) -> None:
    gate = Gate()
    upstream.on(*CHAT, events(chunk("Hi "), gate, chunk("there."), chunk(finish="stop")))
    stream = OPENROUTER.provider(upstream).stream_chat("Hello", model="nvidia/nemotron-3-super-120b-a12b:free")
    assert await anext(stream) == "Hi "
    gate.open()
    assert [delta async for delta in stream] == ["there."]


# -- structured content ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "sent"),
    [
        ({"order": ["azure"]}, {"order": ["azure"], "require_parameters": True}),
        ({"require_parameters": False}, {"require_parameters": False}),
    ],
)
async def test_only_hosts_that_honour_the_format_are_asked_unless_told_otherwise(
    upstream: Upstream, config: dict[str, Any], sent: dict[str, Any]
) -> None:
    upstream.on(*CHAT, OPENROUTER.content.reply)
    await OPENROUTER.provider(upstream, provider=config).generate_content("Write.", json_schema=SCHEMA)
    assert upstream.last.json["provider"] == sent


async def test_where_no_host_takes_the_format_the_prompt_alone_has_to_do(upstream: Upstream) -> None:
    upstream.send(UNROUTABLE, UNROUTABLE, OPENROUTER.content.reply)
    reply = await OPENROUTER.provider(upstream).generate_content("Write.", json_schema=SCHEMA, model="maker/model")
    assert reply == '{"title": "T"}'
    formats = [request.json.get("response_format", {}).get("type") for request in upstream.requests]
    assert formats == ["json_schema", "json_object", None]
    assert "provider" not in upstream.last.json


async def test_a_model_without_hosts_is_asked_for_once(upstream: Upstream) -> None:
    upstream.on(*CHAT, failure(404, "No endpoints found for maker/model."))
    with pytest.raises(ProviderModelNotFound):
        await OPENROUTER.provider(upstream).generate_content("Write.", json_schema=SCHEMA, model="maker/model")
    assert len(upstream.requests) == 1


# -- images ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sent", "dropped"),
    [
        ({"size": "1024x1024"}, {"aspect_ratio": "1:1", "resolution": "1K"}, ()),
        ({"size": "1024x1792"}, {"aspect_ratio": "9:16", "resolution": "1K"}, ()),
        ({"size": "1536x1024"}, {"aspect_ratio": "3:2", "resolution": "1K"}, ()),
        ({"size": "2048x2048"}, {"aspect_ratio": "1:1", "resolution": "2K"}, ()),
        ({"size": "3840x2160"}, {"aspect_ratio": "16:9", "resolution": "4K"}, ()),
        ({"size": "2K"}, {"resolution": "2K"}, ()),
        ({"aspect_ratio": "21:9", "size": "1024x1024"}, {"aspect_ratio": "21:9", "resolution": "1K"}, ()),
        ({"size": "auto", "quality": None, "n": 1}, {}, ()),
        ({"size": "large", "quality": "superb"}, {}, ("size", "quality")),
        ({"size": "0000x1024"}, {}, ("size",)),
        ({"quality": "standard", "seed": 7}, {"quality": "medium", "seed": 7}, ()),
    ],
)
async def test_sizes_become_what_every_host_understands(
    upstream: Upstream, options: dict[str, Any], sent: dict[str, Any], dropped: tuple[str, ...]
) -> None:
    upstream.on(*IMAGES, one_image())
    media = await draw(upstream, model="maker/paints", **options)
    assert upstream.last.json == {"model": "maker/paints", "prompt": "A cat", **sent}
    assert media.dropped_params == dropped


async def test_a_model_that_makes_one_image_a_request_is_asked_several_times(upstream: Upstream) -> None:
    upstream.send(failure(400, "n must be 1 for this provider"), one_image("red"), one_image("blue"))
    upstream.on(*IMAGES, failure(500, "broken"))
    media = await draw(upstream, n=3)
    assert [request.json.get("n") for request in upstream.requests] == [3, None, None, None]
    assert {item.getvalue() for item in media.all} == {png("red"), png("blue")}
    assert (media.cost, media.usage) == (Decimal("0.08"), Usage(images=2))


async def test_a_refused_image_is_refused(upstream: Upstream) -> None:
    upstream.on(*IMAGES, failure(400, "unsupported"))
    with pytest.raises(ProviderBadRequest):
        await draw(upstream, n=2)
    with pytest.raises(ProviderBadRequest):
        await draw(upstream)
    assert [request.json.get("n") for request in upstream.requests] == [2, None, None]


def drawn_in_chat(request: Request | None = None, **message: Any) -> Reply:
    url = f"data:image/png;base64,{b64(png())}"
    images = [{"type": "image_url", "index": 0, "image_url": {"url": url}}]
    usage = {"prompt_tokens": 7, "completion_tokens": 1290, "cost": 0.0387}
    return whole(200, completion("", message={"images": images, **message}, usage=usage))


async def test_the_older_way_to_an_image_is_a_chat(upstream: Upstream) -> None:
    upstream.on(*CHAT, drawn_in_chat())
    options = {"model": "maker/paints", "size": "1792x1024", "quality": "hd", "style": "vivid", "n": 2, "seed": 7}
    media = await draw(upstream, {"image_api": "chat", "provider": {"sort": "price"}}, **options)
    assert upstream.last.json == {
        "model": "maker/paints",
        "messages": [{"role": "user", "content": "A cat\n\nStyle: vivid"}],
        "modalities": ["image", "text"],
        "image_config": {"aspect_ratio": "16:9", "image_size": "1K"},
        "provider": {"sort": "price"},
    }
    assert [(item.getvalue(), item.content_type) for item in media.all] == [(png(), "image/png")] * 2
    assert media.usage == Usage(input_tokens=14, output_tokens=2580, images=2)
    assert (media.cost, media.dropped_params) == (Decimal("0.0774"), ("quality", "seed"))


async def test_words_instead_of_an_image_are_a_refusal(upstream: Upstream) -> None:
    upstream.on(*CHAT, whole(200, completion("<think>hm</think>I can't draw that.")))
    with pytest.raises(ContentBlocked, match=r"I can't draw that\.") as caught:
        await draw(upstream, {"image_api": "chat"})
    assert "hm" not in str(caught.value)
    upstream.on(*CHAT, whole(200, completion("", finish="length")))
    with pytest.raises(EmptyReply):
        await draw(upstream, {"image_api": "chat"})


def test_there_are_two_ways_to_an_image(upstream: Upstream) -> None:
    with pytest.raises(InvalidConfig, match="'images' or 'chat'"):
        OPENROUTER.provider(upstream, image_api="carrier pigeon")


# -- speech ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "options", "sent", "dropped"),
    [
        ("google/gemini-3.8-flash-tts", {"voice": "alloy"}, {"voice": "Kore", "response_format": "pcm"}, ("voice",)),
        (
            "google/gemini-3.8-flash-tts",
            {"voice": "Puck", "speed": 1.5},
            {"voice": "Puck", "response_format": "pcm"},
            ("speed",),
        ),
        ("google/gemini-3.8-flash-tts", {"response_format": "mp3"}, {"voice": "Kore", "response_format": "mp3"}, ()),
        ("openai/gpt-4o-mini-tts", {"speed": 9}, {"voice": "alloy", "response_format": "mp3", "speed": 4.0}, ()),
        ("openai/gpt-4o-mini-tts", {"speed": 1.0}, {"voice": "alloy", "response_format": "mp3"}, ()),
        ("hexgrad/kokoro-82m", {"voice": "nova"}, {"response_format": "mp3"}, ("voice",)),
        ("hexgrad/kokoro-82m", {"voice": "af_bella"}, {"voice": "af_bella", "response_format": "mp3"}, ()),
        ("hexgrad/kokoro-82m", {"response_format": "flac"}, {"response_format": "mp3"}, ("response_format",)),
    ],
)
async def test_each_maker_is_asked_for_its_own_voices_and_formats(
    upstream: Upstream, model: str, options: dict[str, Any], sent: dict[str, Any], dropped: tuple[str, ...]
) -> None:
    upstream.on(*SPEECH, whole(200, mp3(), content_type="audio/mpeg"))
    media = await speak(upstream, model=model, **options)
    assert upstream.last.json == {"model": model, "input": "Hello.", **sent}
    assert media.dropped_params == dropped


@pytest.mark.parametrize("content_type", ["audio/pcm;rate=16000;channels=1", "audio/mpeg"])
async def test_audio_plays_whichever_of_the_two_formats_comes(upstream: Upstream, content_type: str) -> None:
    is_raw = "pcm" in content_type
    upstream.on(*SPEECH, whole(200, SAMPLES if is_raw else mp3(), content_type=content_type))
    for asked in ("mp3", "pcm"):
        media = await speak(upstream, model="maker/speaks", response_format=asked)
        assert media.getvalue() == (wav(SAMPLES, 16_000) if is_raw else mp3())
        assert media.content_type == ("audio/wav" if is_raw else "audio/mpeg")


@pytest.mark.parametrize("refusal", [failure(400, "response_format mp3 is not supported"), UNROUTABLE])
async def test_a_model_without_mp3_is_asked_for_pcm(upstream: Upstream, refusal: Reply) -> None:
    upstream.send(refusal, whole(200, SAMPLES, content_type="audio/pcm;rate=24000;channels=1"))
    media = await speak(upstream, model="maker/speaks", response_format="mp3")
    assert [request.json["response_format"] for request in upstream.requests] == ["mp3", "pcm"]
    assert (media.getvalue(), media.dropped_params) == (wav(SAMPLES), ("response_format",))


async def test_a_refusal_that_another_format_cannot_mend_stays_one(upstream: Upstream) -> None:
    upstream.on(*SPEECH, failure(400, "response_format is not supported"))
    with pytest.raises(ProviderBadRequest):
        await speak(upstream, model="google/gemini-3.8-flash-tts")
    upstream.on(*SPEECH, failure(400, "voice is unknown"))
    with pytest.raises(ProviderBadRequest):
        await speak(upstream, {"tts": {"voice": "x"}}, model="maker/speaks")
    assert len(upstream.requests) == 2


# -- through the service -----------------------------------------------------------------------------------------------


def test_openrouter_serves_through_the_service(
    upstream: Upstream,
    superuser: User,
    make_provider: Callable[..., AIProvider],
    make_model: Callable[..., AIModel],
) -> None:
    row = make_provider("openrouter", api_base_url=f"{upstream.url}/api/v1", shared_api_key=OPENROUTER.key)
    make_model(row, "chat", "content", model_id="google/gemini-3.8-flash")
    make_model(row, "image", model_id="google/gemini-3.1-flash-image", config={"image_api": "chat"})
    make_model(row, "audio", model_id="google/gemini-3.8-flash-tts")
    article = dict.fromkeys(("title", "meta_title", "meta_description", "content", "slug"), "T") | {"keywords": ["k"]}

    upstream.on(*CHAT, OPENROUTER.chat.reply)
    reply = UnifiedAIService.chat("Hello", superuser)
    assert (reply, reply.cost) == ("Hi there.", Decimal("0.00435825"))
    upstream.on(*CHAT, OPENROUTER.stream.reply)
    assert "".join(UnifiedAIService.stream_chat("Hello", superuser)) == "Hi thère."
    upstream.on(*CHAT, whole(200, completion(str(article).replace("'", '"'))))
    assert UnifiedAIService.generate_content("Cats", superuser)["title"] == "T"
    upstream.on(*CHAT, drawn_in_chat())
    assert UnifiedAIService.generate_image("A cat", superuser, n=2).content_type == "image/png"
    upstream.on(*SPEECH, whole(200, SAMPLES, content_type="audio/pcm;rate=24000;channels=1"))
    media = UnifiedAIService.text_to_speech("Hello there.", superuser, voice="alloy")
    assert (media.content_type, media.dropped_params) == ("audio/wav", ("voice",))
    assert {OPENROUTER.key_in(request) for request in upstream.requests} == {OPENROUTER.key}
