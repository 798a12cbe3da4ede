"""What OpenAI's models take, by family, and how what callers say becomes that."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from src.ai.exceptions import ProviderInvalidResponse
from src.ai.providers.openai import OpenAIProvider, capabilities_of
from src.ai.providers.openai_format import build_chat
from tests.providers.answers import answers_of, b64, completion, mp3, png
from tests.upstream.server import HANG, Reply, Upstream, endless, whole

VENDOR = answers_of("openai")
CHAT = ("POST", "/v1/chat/completions")
IMAGES = ("POST", "/v1/images/generations")
SPEECH = ("POST", "/v1/audio/speech")
SAMPLING = {"temperature": 0.5, "top_p": 0.9, "presence_penalty": 1, "frequency_penalty": 1, "logit_bias": {}}
ALL = {*SAMPLING, "stop"}
MODELS_BY_FAMILY = {
    "never": ["gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini", "chatgpt-4o-latest", "ft:gpt-4.1-mini:acme::abc"],
    "asked": ["gpt-5.1", "gpt-5.2", "gpt-5.3-chat-latest", "gpt-5.4", "gpt-5.4-mini"],
    "default": ["gpt-5.5", "gpt-5.6-mini", "gpt-6-sol", "gpt-6-luna", "gpt-6-luna-2026-10-01", "gpt-6.1-terra"],
    "always": ["o3", "o4-mini", "gpt-5", "gpt-5-mini", "gpt-5-nano", "gpt-5-2025-08-07", "gpt-6-astra", "gpt-6.1-sol",
               "gpt-6.2-luna", "gpt-7"],
    "another maker's": ["llama-3.3-70b", "gpt-oss-120b", "openai/gpt-oss-20b", "mistral-small", "deepseek-r1"],
}  # fmt: skip
FAMILIES = [
    # family, effort, effort that is sent, options that are not
    ("never", None, None, set()),
    ("never", "low", None, {"reasoning_effort"}),
    ("asked", None, None, set()),
    ("asked", "none", "none", set()),
    ("asked", "low", "low", ALL),
    ("default", None, "none", set()),
    ("default", "none", "none", set()),
    ("default", "high", "high", ALL),
    ("always", None, None, ALL),
    ("always", "high", "high", ALL),
    ("another maker's", None, None, set()),
    ("another maker's", "low", "low", set()),
]


@pytest.mark.parametrize(("family", "effort", "sent", "dropped"), FAMILIES)
def test_point_02_each_family_gets_what_it_takes(
    family: str, effort: str | None, sent: str | None, dropped: set[str]
) -> None:
    options = {**SAMPLING, "stop": ["x"], "max_tokens": 50, "reasoning_effort": effort}
    if family in ("asked", "default"):
        dropped = dropped | {"stop"}  # newer than o3, whatever the effort
    for model in MODELS_BY_FAMILY[family]:
        provider = OpenAIProvider("sk-key")
        body, left_out = build_chat(model, [], options, provider.chat_rules(model, options))
        assert body.get("reasoning_effort") == sent, model
        assert set(left_out) == dropped, model
        assert not dropped & set(body), model
        limit = "max_tokens" if family == "another maker's" else "max_completion_tokens"
        assert (body[limit], len({"max_tokens", "max_completion_tokens"} & set(body))) == (50, 1), model


# The model, what callers say, what is sent, and what is dropped.
IMAGES_SAID = [
    *(("gpt-image-2", {"size": size}, {"size": size}, ()) for size in ("1024x1024", "1536x1024", "auto", "3840x2160")),
    ("gpt-image-2", {"size": "1792x1024"}, {"size": "1536x1024"}, ()),
    ("gpt-image-2", {"size": "1024x1792"}, {"size": "1024x1536"}, ()),
    ("gpt-image-2", {"size": "512x512"}, {"size": "1024x1024"}, ()),
    ("gpt-image-2", {"size": "256x256"}, {"size": "1024x1024"}, ()),
    ("gpt-image-2.5-flare", {"size": "2160x3840"}, {"size": "2160x3840"}, ()),
    ("gpt-image-2.6-sunburst", {"size": "1200x400"}, {"size": "1200x400"}, ()),
    ("gpt-image-2", {"size": "1201x400"}, {}, ("size",)),  # no multiple of 16
    ("gpt-image-2", {"size": "1616x400"}, {}, ("size",)),  # wider than 3:1
    ("gpt-image-2", {"size": "4096x2160"}, {}, ("size",)),
    ("gpt-image-2", {"size": "3840x3840"}, {}, ("size",)),
    ("gpt-image-2", {"size": "big"}, {}, ("size",)),
    ("gpt-image-1.5", {"size": "1792x1024"}, {"size": "1536x1024"}, ()),
    ("gpt-image-1.5", {"size": "1920x1080"}, {"size": "1536x1024"}, ()),
    ("gpt-image-1-mini", {"size": "1080x1920"}, {"size": "1024x1536"}, ()),
    ("chatgpt-image-latest", {"size": "2048x2048"}, {"size": "1024x1024"}, ()),
    ("gpt-image-2", {"quality": "standard"}, {"quality": "medium"}, ()),
    ("gpt-image-2", {"quality": "hd"}, {"quality": "high"}, ()),
    ("gpt-image-2", {"quality": "max"}, {"quality": "high"}, ()),
    ("gpt-image-2.5-flare", {"quality": "max"}, {"quality": "max"}, ()),
    ("gpt-image-2", {"quality": "best"}, {}, ("quality",)),
    ("gpt-image-2", {"style": "vivid"}, {"prompt": "A cat\n\nStyle: vivid"}, ()),
    ("gpt-image-2", {"n": 50}, {"n": 10}, ()),
    ("gpt-image-2", {"response_format": "url"}, {}, ("response_format",)),
    ("gpt-image-2", {"background": "transparent", "output_format": "webp"},
     {"background": "transparent", "output_format": "webp"}, ()),
    ("dall-e-3", {"size": "1792x1024", "quality": "hd", "style": "vivid", "n": 1},
     {"size": "1792x1024", "quality": "hd", "style": "vivid", "response_format": "b64_json"}, ()),
    ("dall-e-3", {"n": 4}, {"response_format": "b64_json"}, ("n",)),
    ("dall-e-2", {"size": "512x512", "quality": "hd", "n": 2},
     {"size": "512x512", "n": 2, "response_format": "b64_json"}, ("quality",)),
]  # fmt: skip


@pytest.mark.parametrize(("model", "said", "sent", "dropped"), IMAGES_SAID)
def test_point_04_callers_still_speak_dall_e(
    model: str, said: dict[str, Any], sent: dict[str, Any], dropped: tuple[str, ...]
) -> None:
    body, left_out = OpenAIProvider("sk-key").build_image(model, "A cat", said)
    assert body == {"model": model, "prompt": "A cat", **sent}
    assert left_out == dropped


@pytest.mark.parametrize(
    ("model", "said", "sent", "dropped"),
    [
        ("gpt-4o-mini-tts", {}, {"voice": "alloy", "response_format": "mp3"}, ()),
        ("gpt-4o-mini-tts", {"voice": "marin"}, {"voice": "marin"}, ()),
        ("gpt-4o-mini-tts", {"voice": "Kore"}, {"voice": "alloy"}, ("voice",)),
        ("tts-1", {"voice": "marin"}, {"voice": "alloy"}, ("voice",)),
        ("kokoro", {"voice": "af_heart"}, {"voice": "af_heart"}, ()),
        ("tts-1", {"instructions": "Whisper."}, {}, ("instructions",)),
        ("gpt-4o-mini-tts", {"instructions": "Whisper."}, {"instructions": "Whisper."}, ()),
        ("tts-1", {"speed": 9}, {"speed": 4.0}, ()),
        ("tts-1", {"speed": 0.1}, {"speed": 0.25}, ()),
        ("tts-1", {"response_format": "wav", "pitch": 3}, {"response_format": "wav"}, ("pitch",)),
    ],
)
def test_speech_is_asked_for_as_the_model_takes_it(
    model: str, said: dict[str, Any], sent: dict[str, Any], dropped: tuple[str, ...]
) -> None:
    body, left_out = OpenAIProvider("sk-key").build_speech(model, "Hello", said)
    assert body == {"model": model, "input": "Hello", "voice": "alloy", "response_format": "mp3", **sent}
    assert left_out == dropped


@pytest.mark.parametrize(
    ("model", "capabilities"),
    [
        ("gpt-6-luna", ("chat", "content", "vision")),
        ("o3", ("chat", "content", "vision")),
        ("o3-mini", ("chat", "content")),
        ("gpt-4-turbo", ("chat", "content")),
        ("ft:gpt-4.1-mini:acme::abc", ("chat", "content", "vision")),
        ("gpt-image-2.6-flare", ("image",)),
        ("dall-e-3", ("image",)),
        ("gpt-4o-mini-tts", ("audio",)),
        ("text-embedding-3-large", ("embedding",)),
        ("gpt-4o-transcribe", ("transcription",)),
        ("whisper-1", ("transcription",)),
        *((model, ()) for model in ("gpt-6-sol-pro", "gpt-5.2-codex", "gpt-realtime", "gpt-audio", "sora-2",
                                    "omni-moderation-latest", "gpt-3.5-turbo-instruct", "babbage-002", "unheard-of",
                                    "computer-use-preview", "o4-mini-deep-research")),
    ],
)  # fmt: skip
def test_what_a_model_can_do_is_read_off_its_id(model: str, capabilities: tuple[str, ...]) -> None:
    assert capabilities_of(model) == capabilities


async def test_organisation_and_project_are_those_of_the_row_not_of_the_environment(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_API_KEY", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "from-the-environment")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://evil.example/v1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Custom: from-the-environment")
    upstream.on(*CHAT, whole(200, completion("Hi.")))
    await VENDOR.provider(upstream).chat("Hello")
    assert "from-the-environment" not in str(upstream.last.headers)
    await VENDOR.provider(upstream, organization="org-1", project="proj-1").chat("Hello")
    assert upstream.last.headers["openai-organization"] == "org-1"
    assert upstream.last.headers["openai-project"] == "proj-1"


# -- media -------------------------------------------------------------------------------------------------------------


def with_urls(upstream: Upstream, *paths: str) -> None:
    upstream.on(*IMAGES, whole(200, {"created": 1, "data": [{"url": f"{upstream.url}{path}"} for path in paths]}))


async def test_an_image_behind_a_url_is_fetched_at_once_and_without_the_key(upstream: Upstream) -> None:
    with_urls(upstream, "/a.png", "/b.png")
    upstream.on("GET", "/a.png", whole(200, png("red"), content_type="image/png"))
    upstream.on("GET", "/b.png", whole(200, png("blue"), content_type="image/png"))
    media = await VENDOR.provider(upstream).generate_image("A cat")
    assert [item.getvalue() for item in media.all] == [png("red"), png("blue")]
    for request in upstream.requests[1:]:
        assert VENDOR.key not in str(request.headers)


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (whole(404, b"gone"), "HTTP 404"),
        (whole(302, b"", {"location": "http://169.254.169.254/"}), "HTTP 302"),
        (Reply(200, [endless(b"x" * 65536)]), "larger than"),
    ],
    ids=["gone", "redirected", "endless"],
)
async def test_an_image_that_can_not_be_fetched_is_an_error(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch, reply: Reply, says: str
) -> None:
    monkeypatch.setattr("src.ai.providers.vendor.MEDIA_LIMIT", 1_000_000)
    with_urls(upstream, "/a.png", "/b.png")
    upstream.on("GET", "/a.png", whole(200, png(), content_type="image/png"))
    upstream.on("GET", "/b.png", reply)
    with pytest.raises(ProviderInvalidResponse, match=says):
        await VENDOR.provider(upstream).generate_image("A cat")


@pytest.mark.parametrize("url", ["https://169.254.169.254/latest/meta-data", "http://vendor.example/x.png"])
async def test_an_image_inside_the_network_is_not_fetched(upstream: Upstream, url: str) -> None:
    upstream.on(*IMAGES, whole(200, {"created": 1, "data": [{"url": url}]}))
    with pytest.raises(ProviderInvalidResponse, match="URL is refused"):
        await VENDOR.provider(upstream).generate_image("A cat")


async def test_nothing_goes_on_after_an_image_that_failed(upstream: Upstream) -> None:
    with_urls(upstream, "/a.png", "/b.png")
    upstream.on("GET", "/a.png", whole(404))
    upstream.on("GET", "/b.png", Reply(200, [b"x", HANG]))
    with pytest.raises(ProviderInvalidResponse, match="HTTP 404"):
        await VENDOR.provider(upstream).generate_image("A cat")
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_same_image_in_each_of_its_forms(upstream: Upstream) -> None:
    for form in ({"b64_json": b64(png())}, {"url": f"data:image/png;base64,{b64(png())}"}):
        upstream.on(*IMAGES, whole(200, {"created": 1, "data": [form]}))
        assert (await VENDOR.provider(upstream).generate_image("A cat")).getvalue() == png()


async def test_headerless_audio_that_was_asked_for_gets_its_header_once(upstream: Upstream) -> None:
    upstream.on(*SPEECH, whole(200, b"\x00\x01" * 100, content_type="application/octet-stream"))
    provider = VENDOR.provider(upstream)
    media = await provider.text_to_speech("Hello", response_format="pcm")
    assert (media.content_type, media.getvalue()[:4], len(media.getvalue())) == ("audio/wav", b"RIFF", 244)
    upstream.on(*SPEECH, whole(200, media.getvalue(), content_type="audio/pcm"))
    assert (await provider.text_to_speech("Hello", response_format="pcm")).getvalue() == media.getvalue()
    upstream.on(*SPEECH, whole(200, mp3(), content_type="application/octet-stream"))
    assert (await provider.text_to_speech("Hello")).content_type == "audio/mpeg"
