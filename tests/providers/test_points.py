"""Fourteen things that break naive code, each a test. Those that are not here:

02, the fields that reasoning models refuse      test_openai.py, test_retry.py
04, what GPT image models take                   test_openai.py
05, headerless audio                             test_media_bytes.py, test_gemini.py
09, where usage is                               test_reading.py, test_shapes.py
10, comments, line ends and cuts of a stream     test_sse.py, test_streams.py
11, `retry-after` on good answers                test_reading.py
13, prices in strings, and "-1"                  test_reading.py, test_openrouter.py
"""

from __future__ import annotations

import json

import httpx
import httpx2
import pytest

from src.ai.exceptions import (
    ContentBlocked,
    EmptyReply,
    ProviderError,
    ProviderModelNotFound,
    ProviderRateLimited,
    StreamInterrupted,
)
from src.ai.providers import errors
from src.ai.providers.errors import Call
from src.ai.providers.openai_compatible import OpenAICompatible
from src.ai.providers.registry import AIProviderRegistry
from tests.providers.answers import VendorAnswers, answers_of, call, chunk, each, http_providers
from tests.upstream.server import Reply, Upstream, events

RETIRED = [
    ("openai", "gpt-4", 404, {"code": "model_not_found", "message": "The model `gpt-4` has been deprecated, learn …"}),
    ("openai", "gpt-3.5-turbo", 404, {"code": "model_not_found", "message": "gone"}),
    ("openai", "dall-e-3", 400, {"code": None, "message": "The model 'dall-e-3' does not exist."}),
    ("openai", "dall-e-3", 400, {"code": "invalid_value", "param": "model", "message": "Invalid model."}),
    ("openai", "gpt-image-1", 404, {"message": "The model `gpt-image-1` has been deprecated"}),
    ("deepseek", "deepseek-chat", 404, {"message": "Model Not Exist", "code": "invalid_request_error"}),
    ("deepseek", "deepseek-reasoner", 400, {"message": "Model Not Exist: deepseek-reasoner is unknown"}),
    ("groq", "llama-3.3-70b-versatile", 400, {"code": "model_decommissioned", "message": "has been decommissioned"}),
    ("gemini", "gemini-2.0-flash", 404, {"status": "NOT_FOUND", "message": "models/gemini-2.0-flash is not found"}),
    ("gemini", "imagen-4.0-generate-001", 404, {"status": "NOT_FOUND", "message": "is not found"}),
]


@pytest.mark.parametrize(("name", "model", "status", "error"), RETIRED)
def test_point_01_a_retired_model_is_named_with_its_successor(
    name: str, model: str, status: int, error: dict[str, str]
) -> None:
    found = errors.from_response(Call(name, "chat", "", model), status, {}, json.dumps({"error": error}).encode())
    assert type(found) is ProviderModelNotFound
    assert found.successor != model
    assert f"Use '{found.successor}' instead." in str(found)


async def test_point_01_the_name_of_a_retired_model_is_passed_on(vendor: VendorAnswers, upstream: Upstream) -> None:
    with pytest.raises(ProviderError):
        await call(vendor.provider(upstream), "chat", {**vendor.chat.kwargs, "model": "retired-model-1"})
    request = upstream.last
    assert "retired-model-1" in f"{request.path} {request.body!r}"


def test_point_03_an_empty_reply_names_its_reason_at_every_vendor(vendor: VendorAnswers) -> None:
    """Each is played back by `test_a_vendors_own_error_is_understood`."""
    empty = [failure for failure in vendor.failures if failure.error is EmptyReply]
    assert empty
    assert all(failure.facts.get("finish_reason") or failure.says for failure in empty)


@pytest.mark.parametrize("vendor", http_providers(OpenAICompatible), indirect=True)
async def test_point_03_thoughts_alone_are_no_streamed_reply(vendor: VendorAnswers, upstream: Upstream) -> None:
    thought = {"reasoning": "Hmm.", "reasoning_content": "Hmm."}
    for texts in (
        [chunk(delta={"content": None, **thought})],
        [chunk("<think>Hmm.")],
        [chunk("<think>Hmm.</think>\n")],
    ):
        vendor.serve(upstream, vendor.stream, events(*texts, chunk("", finish="length")))
        stream = vendor.provider(upstream).stream_chat("Hello", **vendor.stream.kwargs)
        with pytest.raises(EmptyReply, match="length"):
            [delta async for delta in stream]
        assert stream.text == ""


def test_point_06_groq_is_always_asked_for_wav() -> None:
    audio = answers_of("groq").audio
    assert audio is not None
    assert (audio.sent or {})["response_format"] == "wav"


def test_point_07_a_block_that_looks_like_a_success_is_a_block() -> None:
    blocks = [failure for failure in answers_of("gemini").failures if failure.error is ContentBlocked]
    assert {200} == {failure.reply.status for failure in blocks}


@pytest.mark.parametrize("named", [False, True])
@each("stream")
async def test_point_08_a_stream_may_turn_into_an_error(
    vendor: VendorAnswers, operation: str, upstream: Upstream, named: bool
) -> None:
    assert vendor.cut_stream is not None
    begun = [part for part in vendor.cut_stream.parts if isinstance(part, bytes)]
    error = {"error": {"message": "out of luck", "code": 429}}
    event = (b"event: error\n" if named else b"") + b"data: " + json.dumps(error).encode() + b"\n\n"
    for parts, shown in (([event], False), ([*begun, event], True)):
        vendor.serve(upstream, vendor.stream, Reply(200, parts, vendor.stream.reply.headers))
        stream = vendor.provider(upstream).stream_chat("Hello", **vendor.stream.kwargs)
        with pytest.raises(ProviderRateLimited, match="out of luck"):
            [delta async for delta in stream]
        assert bool(stream.text) is shown


@each("stream")
async def test_an_event_that_can_not_be_read_interrupts_what_was_shown(
    vendor: VendorAnswers, operation: str, upstream: Upstream
) -> None:
    assert vendor.cut_stream is not None
    begun = [part for part in vendor.cut_stream.parts if isinstance(part, bytes)]
    vendor.serve(upstream, vendor.stream, Reply(200, [*begun, b"data: {nonsense\n\n"], vendor.stream.reply.headers))
    stream = vendor.provider(upstream).stream_chat("Hello", **vendor.stream.kwargs)
    with pytest.raises(StreamInterrupted):
        [delta async for delta in stream]
    assert stream.text


def test_point_12_a_key_is_not_checked_by_a_list_that_is_public(vendor: VendorAnswers) -> None:
    if AIProviderRegistry().get(vendor.name).public_model_list:
        assert vendor.validate.path != vendor.models.path


@each()
async def test_point_14_every_request_goes_through_the_one_pool(
    vendor: VendorAnswers, operation: str, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise AssertionError("a request went round the pool")

    for transport in (httpx.AsyncHTTPTransport, httpx2.AsyncHTTPTransport):
        monkeypatch.setattr(transport, "handle_async_request", refuse)
    exchange = vendor.exchanges()[operation]
    vendor.serve(upstream, exchange)
    await call(vendor.provider(upstream), operation, exchange.kwargs)
    assert upstream.requests
