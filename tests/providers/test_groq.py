"""Groq's own ways, beyond what every vendor is tested for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from io import BytesIO
from typing import Any
from wave import open as open_wave

import pytest
from django.contrib.auth.models import User

from src.ai.exceptions import ProviderInvalidResponse, ProviderTimeout, StreamInterrupted
from src.ai.models import AIModel, AIProvider
from src.ai.providers.groq import split_text
from src.ai.providers.media_bytes import join_wavs
from src.ai.results import Media, Usage
from src.ai.services.unified_service import UnifiedAIService
from tests.providers.answers import SCHEMA, answers_of, chunk, completion, openai_error, wav
from tests.upstream.server import Gate, Reply, Request, Upstream, events, whole

GROQ = answers_of("groq")
CHAT, SPEECH = ("POST", GROQ.chat.path), ("POST", "/openai/v1/audio/speech")
LONG = "The first sentence is short. " + "The second one, " * 15 + "is not.\nThe third?"


async def chat_body(upstream: Upstream, **kwargs: Any) -> dict[str, Any]:
    upstream.on(*CHAT, whole(200, completion("Hi.")))
    reply: Any = await GROQ.provider(upstream).chat("Hello", **kwargs)  # type: ignore[assignment]
    return {**upstream.last.json, "dropped": reply.dropped_params}


async def speak(upstream: Upstream, text: str, config: dict[str, Any] | None = None, **kwargs: Any) -> Media:
    media = await GROQ.provider(upstream, **(config or {})).text_to_speech(text, **kwargs)
    assert isinstance(media, Media)
    return media


# -- the SDK -----------------------------------------------------------------------------------------------------------


async def test_the_official_sdk_asks_and_takes_nothing_from_the_environment(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "gsk_of-somebody-else")
    monkeypatch.setenv("GROQ_BASE_URL", "https://elsewhere.example")
    monkeypatch.setenv("GROQ_CUSTOM_HEADERS", "X-Leak: 1\nAuthorization: Bearer gsk_of-somebody-else")
    await chat_body(upstream)
    headers = upstream.last.headers
    assert headers["user-agent"].startswith("AsyncGroq/")
    assert (headers["authorization"], headers.get("x-leak")) == (f"Bearer {GROQ.key}", None)


async def test_each_sdk_has_a_client_of_its_own_at_one_address(upstream: Upstream) -> None:
    upstream.on(*CHAT, GROQ.chat.reply)
    for name in ("openai", "groq"):
        await answers_of(name).provider(upstream, base_url=f"{upstream.url}/openai/v1").chat("Hello")
    agents = [request.headers["user-agent"].partition("/")[0] for request in upstream.requests]
    assert agents == ["AsyncOpenAI", "AsyncGroq"]


# -- reasoning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "effort", "sent", "dropped"),
    [
        ("openai/gpt-oss-120b", None, {"include_reasoning": False}, ()),
        ("openai/gpt-oss-20b", "high", {"include_reasoning": False, "reasoning_effort": "high"}, ()),
        ("openai/gpt-oss-20b", "none", {"include_reasoning": False}, ("reasoning_effort",)),
        ("qwen/qwen3.8-27b", "low", {"reasoning_format": "hidden", "reasoning_effort": "low"}, ()),
        ("qwen/qwen3-32b", "none", {"reasoning_format": "hidden", "reasoning_effort": "none"}, ()),
        ("qwen/qwen3-32b", "low", {"reasoning_format": "hidden"}, ("reasoning_effort",)),
        ("deepseek-r1-distill-llama-70b", "low", {"reasoning_format": "hidden"}, ("reasoning_effort",)),
        ("llama-3.3-70b-versatile", "low", {}, ("reasoning_effort",)),
        ("groq/compound", None, {}, ()),
    ],
)
async def test_each_family_is_told_to_hide_its_thoughts_in_its_own_way(
    upstream: Upstream, model: str, effort: str | None, sent: dict[str, Any], dropped: tuple[str, ...]
) -> None:
    body = await chat_body(upstream, model=model, reasoning_effort=effort)
    assert {name: value for name, value in body.items() if "reason" in name} == sent
    assert body["dropped"] == dropped


async def test_a_model_that_hides_its_thoughts_is_heard_at_once(upstream: Upstream) -> None:
    gate = Gate()
    upstream.on(*CHAT, events(chunk("Hi "), gate, chunk("there."), chunk(finish="stop")))
    stream = GROQ.provider(upstream).stream_chat("Hello", model="qwen/qwen3.8-27b")
    assert await anext(stream) == "Hi "
    gate.open()
    assert [delta async for delta in stream] == ["there."]


async def test_raw_thoughts_are_taken_out_of_a_stream(upstream: Upstream) -> None:
    parts = [chunk(text) for text in ("<thi", "nk>", "\nOkay, secret", ".</think>", "\n\nTo ", "make")]
    upstream.on(*CHAT, events(*parts, chunk(finish="stop")))
    stream = GROQ.provider(upstream).stream_chat("Hello", model="deepseek-r1-distill-llama-70b")
    assert "".join([delta async for delta in stream]) == "To make"


async def test_a_stream_that_groq_stops_early_is_interrupted(upstream: Upstream) -> None:
    stopped = chunk(finish="stop", x_groq={"id": "req_1", "error": "over capacity"})
    upstream.on(*CHAT, events(chunk("Hi ", x_groq=None), stopped))
    stream = GROQ.provider(upstream).stream_chat("Hello")
    with pytest.raises(StreamInterrupted, match="over capacity"):
        [delta async for delta in stream]
    assert stream.text == "Hi "


# -- structured content ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "mode"),
    [
        ("openai/gpt-oss-20b", "json_schema"),
        ("openai/gpt-oss-120b", "json_schema"),
        ("qwen/qwen3.8-27b", "json_schema"),
        ("qwen/qwen3-32b", "json_object"),
        ("openai/gpt-oss-safeguard-20b", "json_object"),
    ],
)
async def test_a_schema_is_sent_to_the_models_that_keep_to_one(upstream: Upstream, model: str, mode: str) -> None:
    upstream.on(*CHAT, whole(200, completion("{}")))
    await GROQ.provider(upstream).generate_content("Write.", model=model, json_schema=SCHEMA)
    assert upstream.last.json["response_format"]["type"] == mode
    assert ("JSON" in upstream.last.json["messages"][0]["content"]) is (mode == "json_object")
    assert "stream" not in upstream.last.json


async def test_json_that_groq_itself_refuses_is_asked_for_by_weaker_means(upstream: Upstream) -> None:
    refused = openai_error(
        400,
        "Failed to validate JSON. Please adjust your prompt. See 'failed_generation' for more details.",
        code="json_validate_failed",
        failed_generation="{broken",
    )
    upstream.send(refused, refused, whole(200, completion("{}")))
    await GROQ.provider(upstream).generate_content("Write.", json_schema=SCHEMA)
    formats = [request.json.get("response_format", {}).get("type") for request in upstream.requests]
    assert formats == ["json_schema", "json_object", None]


# -- speech ------------------------------------------------------------------------------------------------------------


async def test_a_long_text_is_spoken_in_pieces_and_comes_as_one_recording(upstream: Upstream) -> None:
    def reply(_: Request) -> Reply:
        number = len(upstream.requests)
        recording = wav(bytes([number, 0]) * 100)
        return whole(200, recording[:40] + b"\xff" * 4 + recording[44:], content_type="audio/wav")

    upstream.on(*SPEECH, reply)
    media = await speak(upstream, LONG, voice="troy")
    said = [request.json["input"] for request in upstream.requests]
    assert " ".join(said).split() == LONG.split()
    assert max(len(piece) for piece in said) <= 200
    assert {request.json["voice"] for request in upstream.requests} == {"troy"}
    with open_wave(BytesIO(media.getvalue())) as recording:
        samples = recording.readframes(recording.getnframes())
    assert samples == b"".join(bytes([number + 1, 0]) * 100 for number in range(len(said)))
    assert (media.content_type, media.usage) == ("audio/wav", Usage(characters=len(LONG)))


@pytest.mark.parametrize(("limit", "requests"), [(0, 1), (4000, 1), (100, 4)])
async def test_how_much_goes_into_one_request_is_configured(upstream: Upstream, limit: int, requests: int) -> None:
    upstream.on(*SPEECH, whole(200, wav(), content_type="audio/wav"))
    await speak(upstream, LONG, {"speech_limit": limit})
    assert len(upstream.requests) == requests
    assert requests > 1 or upstream.last.json["input"] == LONG


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", [""]),
        ("Short.", ["Short."]),
        ("One two. Three four. Five.", ["One two. Three four.", "Five."]),
        ("Nine words without an end among all of them", ["Nine words without", "an end among all of", "them"]),
        ("Unbreakableasitistobesure", ["Unbreakableasitistob", "esure"]),
        ("هل أنت هنا؟ نعم، أنا هنا اليوم.", ["هل أنت هنا؟", "نعم، أنا هنا اليوم."]),
        ("A line\n\nand another one here", ["A line", "and another one here"]),
    ],
)
def test_texts_are_split_where_sentences_end(text: str, pieces: list[str]) -> None:
    assert split_text(text, 20) == pieces


@pytest.mark.parametrize(
    ("model", "options", "config", "sent", "dropped"),
    [
        ("canopylabs/orpheus-v1-english", {}, {}, "hannah", ()),
        ("canopylabs/orpheus-v1-english", {"voice": "troy", "speed": 1.0}, {}, "troy", ()),
        ("canopylabs/orpheus-v1-english", {"voice": "nova"}, {"voice": "diana"}, "diana", ("voice",)),
        ("canopylabs/orpheus-arabic-saudi", {"voice": "alloy"}, {}, "fahad", ("voice",)),
        ("canopylabs/orpheus-arabic-saudi", {"voice": "lulwa"}, {}, "lulwa", ()),
        ("canopylabs/orpheus-arabic-saudi", {"voice": "troy"}, {}, "fahad", ("voice",)),
        ("some/new-tts", {"voice": "Nobody", "response_format": "mp3"}, {}, "Nobody", ("response_format",)),
        ("some/new-tts", {"response_format": "wav"}, {}, None, ()),
    ],
)
async def test_a_voice_of_another_vendor_falls_back_to_the_models_own(
    upstream: Upstream,
    model: str,
    options: dict[str, Any],
    config: dict[str, Any],
    sent: str | None,
    dropped: tuple[str, ...],
) -> None:
    upstream.on(*SPEECH, whole(200, wav(), content_type="audio/wav"))
    media = await speak(upstream, "Hello.", {"tts": config}, model=model, **options)
    assert upstream.last.json.get("voice") == sent
    assert (upstream.last.json["response_format"], media.dropped_params) == ("wav", dropped)


async def test_recordings_that_do_not_fit_together_are_an_error(upstream: Upstream) -> None:
    for rate in (24_000, 48_000):
        upstream.send(whole(200, wav(rate=rate), content_type="audio/wav"))
    upstream.on(*SPEECH, whole(200, wav(), content_type="audio/wav"))
    with pytest.raises(ProviderInvalidResponse, match="differ"):
        await speak(upstream, LONG)


async def test_all_pieces_together_have_one_time_out(upstream: Upstream, short_timeouts: float) -> None:
    def slowly(_: Request) -> Reply:
        gate = Gate()
        threading.Timer(short_timeouts * 0.6, gate.open).start()
        return Reply(200, [gate, wav()], {"content-type": "audio/wav"})

    upstream.on(*SPEECH, slowly)
    with pytest.raises(ProviderTimeout):
        await speak(upstream, LONG)
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("size", [b"\x00" * 4, b"\xff" * 4, (48).to_bytes(4, "little")])
def test_the_sizes_of_a_recording_are_counted(size: bytes) -> None:
    tagged = wav()[:36] + b"LIST\x03\x00\x00\x00abc\x00" + b"data" + size + wav()[44:]
    assert join_wavs([tagged]) == wav()
    assert join_wavs([tagged, tagged]) == wav(wav()[44:] * 2)


# -- through the service -----------------------------------------------------------------------------------------------


def test_groq_serves_through_the_service(
    upstream: Upstream,
    superuser: User,
    make_provider: Callable[..., AIProvider],
    make_model: Callable[..., AIModel],
) -> None:
    row = make_provider("groq", api_base_url=f"{upstream.url}/openai/v1", shared_api_key=GROQ.key)
    make_model(row, "chat", "content", model_id="openai/gpt-oss-120b")
    make_model(row, "audio", model_id="canopylabs/orpheus-v1-english")
    article = dict.fromkeys(("title", "meta_title", "meta_description", "content", "slug"), "T") | {"keywords": ["k"]}

    upstream.on(*CHAT, GROQ.chat.reply)
    assert UnifiedAIService.chat("Hello", superuser) == "Hi there."
    upstream.on(*CHAT, GROQ.stream.reply)
    assert "".join(UnifiedAIService.stream_chat("Hello", superuser)) == "Hi thère."
    upstream.on(*CHAT, whole(200, completion(str(article).replace("'", '"'))))
    assert UnifiedAIService.generate_content("Cats", superuser)["title"] == "T"
    assert GROQ.audio
    upstream.on(*SPEECH, GROQ.audio.reply)
    media = UnifiedAIService.text_to_speech("Hello there.", superuser, voice="alloy")
    assert (media.content_type, media.dropped_params) == ("audio/wav", ("voice",))
    assert {GROQ.key_in(request) for request in upstream.requests} == {GROQ.key}
