"""What is asked again, how often and after how long; and what is left out when a server refuses it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from src.ai.exceptions import (
    AIError,
    ProviderBadRequest,
    ProviderError,
    ProviderRateLimited,
    ProviderTimeout,
    ProviderUnavailable,
)
from src.ai.providers import retry
from src.ai.providers.openai_compatible import OpenAICompatible
from src.ai.providers.openai_format import ESSENTIAL
from src.ai.providers.openai_media import OpenAIImages, OpenAISpeech
from tests.providers.answers import VendorAnswers, call, each, http_providers, openai_error
from tests.upstream.server import CLOSE, RESET, Content, Reply, Upstream, whole

FREE = ("chat", "stream", "content", "models", "validate")
COSTLY = ("image", "audio")
BEGUN = b"HTTP/1.1 200 OK\r\ncontent-"


def first_then_good(vendor: VendorAnswers, operation: str, upstream: Upstream, *replies: Reply) -> Callable[[], int]:
    """Answer with these, then well; what it returns counts the requests."""
    exchange = vendor.exchanges()[operation]
    left: Iterator[Reply] = iter(replies)
    vendor.serve(upstream, exchange)
    upstream.on(exchange.method, exchange.path, lambda _: next(left, exchange.reply))
    return lambda: sum(request.path == exchange.path for request in upstream.requests)


async def ask(vendor: VendorAnswers, operation: str, upstream: Upstream) -> Any:
    return await call(vendor.provider(upstream), operation, vendor.exchanges()[operation].kwargs)


@pytest.mark.parametrize("step", [RESET, CLOSE])
@each(*FREE)
async def test_a_connection_lost_before_the_answer_is_tried_three_times(
    vendor: VendorAnswers, operation: str, upstream: Upstream, step: Content
) -> None:
    asked = first_then_good(vendor, operation, upstream, *[Reply(before=[step])] * 2)
    await ask(vendor, operation, upstream)
    assert asked() == 3


@pytest.mark.parametrize("step", [RESET, CLOSE])
@each(*COSTLY)
async def test_what_costs_money_is_tried_once_more_before_any_byte(
    vendor: VendorAnswers, operation: str, upstream: Upstream, step: Content
) -> None:
    asked = first_then_good(vendor, operation, upstream, Reply(before=[step]))
    await ask(vendor, operation, upstream)
    assert asked() == 2
    asked = first_then_good(vendor, operation, upstream, *[Reply(before=[step])] * 2)
    with pytest.raises(ProviderUnavailable):
        await ask(vendor, operation, upstream)
    assert asked() == 4


@pytest.mark.parametrize(
    "reply",
    [
        Reply(before=[BEGUN, RESET]),
        Reply(before=[BEGUN, CLOSE]),
        Reply(200, [b"{", RESET], {"content-type": "application/json"}),
        Reply(500, [b"{", RESET]),
        Reply(before=[b"220 no HTTP\r\n\r\n", CLOSE]),
        whole(200, b"{", content_type="application/json"),
        whole(429, {"error": {"message": "slow down"}}, {"retry-after": "0"}),
        whole(503, {"error": {"message": "busy"}}),
    ],
    ids=["head reset", "head closed", "body reset", "error reset", "no HTTP", "cut", "429", "503"],
)
@each(*COSTLY)
async def test_what_costs_money_is_not_tried_again_after_the_first_byte(
    vendor: VendorAnswers, operation: str, upstream: Upstream, reply: Reply
) -> None:
    asked = first_then_good(vendor, operation, upstream, reply)
    with pytest.raises(ProviderError):
        await ask(vendor, operation, upstream)
    assert asked() == 1


@each("stream")
async def test_a_stream_is_not_asked_for_again_once_it_has_begun(
    vendor: VendorAnswers, operation: str, upstream: Upstream
) -> None:
    headers = vendor.stream.reply.headers
    for parts in ([RESET], [b": keep-alive\n\n", RESET], [*vendor.stream.reply.parts[:1], RESET]):
        before = len(upstream.requests)
        asked = first_then_good(vendor, operation, upstream, Reply(200, parts, headers))
        with pytest.raises(ProviderError):
            await ask(vendor, operation, upstream)
        assert asked() - before == 1


async def waits_of(error: AIError, monkeypatch: pytest.MonkeyPatch, operation: str = "chat") -> list[float]:
    """How long it was waited before each further attempt, when all of them fail with `error`."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def attempt() -> None:
        raise error

    monkeypatch.setattr(retry, "FIRST_DELAY", 0.5)
    monkeypatch.setattr(retry.asyncio, "sleep", sleep)
    with pytest.raises(type(error)):
        await retry.retrying(operation, attempt)
    return waits


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ProviderRateLimited(retry_after=3.0), [3.0, 3.0]),
        (ProviderUnavailable(retry_after=0.0), [0.0, 0.0]),
        (ProviderUnavailable(retry_after=10.0), [10.0, 10.0]),
        (ProviderRateLimited(retry_after=10.1), []),
        (ProviderBadRequest(), []),
        (ProviderTimeout(), []),
        (ProviderError(), []),
        (ProviderError(temporary=True, retry_after=1.0), [1.0, 1.0]),
        (ProviderTimeout(unanswered=True, retry_after=1.0), [1.0, 1.0]),
    ],
    ids=repr,
)
async def test_how_long_it_is_waited(
    monkeypatch: pytest.MonkeyPatch, error: ProviderError, expected: list[float]
) -> None:
    assert await waits_of(error, monkeypatch) == expected


async def test_waits_grow_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [await waits_of(ProviderUnavailable(), monkeypatch) for _ in range(20)]
    assert all(0.25 <= first <= 0.5 <= second <= 1.0 for first, second in seen)
    assert len({first for first, _ in seen}) > 1


# -- fields that a server refuses --------------------------------------------------------------------------------------


BASES = {"chat": OpenAICompatible, "stream": OpenAICompatible, "image": OpenAIImages, "audio": OpenAISpeech}


def refusing(field: str, code: str = "unsupported_parameter") -> Reply:
    return openai_error(400, f"Unsupported parameter: '{field}'.", param=field, code=code)


def refusable(body: Any) -> str:
    """A field of this body that may be left out."""
    return next(name for name in reversed([*body]) if name not in ESSENTIAL and not name.startswith("max_"))


@pytest.mark.parametrize("code", ["unsupported_parameter", "unsupported_value"])
@pytest.mark.parametrize(
    ("vendor", "operation"),
    [(name, op) for op, base in BASES.items() for name in http_providers(base)],
    indirect=["vendor"],
)
async def test_point_02_a_refused_field_is_left_out_once_and_said(
    vendor: VendorAnswers, operation: str, upstream: Upstream, code: str
) -> None:
    exchange = vendor.exchanges()[operation]
    field = refusable(exchange.sent)
    asked = first_then_good(vendor, operation, upstream, refusing(field, code))
    result = await ask(vendor, operation, upstream)
    first, second = [request for request in upstream.requests if request.path == exchange.path][:2]
    assert (asked(), second.json) == (2, {name: value for name, value in first.json.items() if name != field})
    told = result[1] if operation == "stream" else result
    assert field in told.dropped_params


@pytest.mark.parametrize("vendor", http_providers(OpenAICompatible), indirect=True)
@pytest.mark.parametrize("operation", ["chat", "stream"])
async def test_a_second_refusal_is_an_error(vendor: VendorAnswers, operation: str, upstream: Upstream) -> None:
    asked = first_then_good(vendor, operation, upstream, refusing("temperature"), refusing("max_tokens"))
    with pytest.raises(ProviderBadRequest, match="max_tokens"):
        await ask(vendor, operation, upstream)
    assert asked() == 2


@pytest.mark.parametrize("vendor", http_providers(OpenAICompatible), indirect=True)
@pytest.mark.parametrize("field", ["model", "messages", "stream", "unheard_of", "messages[0].content", ""])
async def test_what_is_essential_or_was_not_sent_is_not_left_out(
    vendor: VendorAnswers, upstream: Upstream, field: str
) -> None:
    asked = first_then_good(vendor, "chat", upstream, refusing(field))
    with pytest.raises(ProviderBadRequest):
        await ask(vendor, "chat", upstream)
    assert asked() == 1


@pytest.mark.parametrize("vendor", http_providers(OpenAICompatible), indirect=True)
@pytest.mark.parametrize("operation", ["chat", "stream"])
async def test_point_02_a_refused_limit_moves_to_its_other_name(
    vendor: VendorAnswers, operation: str, upstream: Upstream
) -> None:
    names = {"max_tokens", "max_completion_tokens"}
    (sent,) = names & set(vendor.chat.sent or ())
    (other,) = names - {sent}
    first_then_good(vendor, operation, upstream, refusing(sent))
    result = await ask(vendor, operation, upstream)
    first, second = (request.json for request in upstream.requests)
    assert (second.get(other), sent in second) == (first[sent], False)
    assert "max_tokens" not in (result[1] if operation == "stream" else result).dropped_params


# -- structured content where a server has not the means ---------------------------------------------------------------


@pytest.mark.parametrize("vendor", http_providers(OpenAICompatible), indirect=True)
@pytest.mark.parametrize(
    "refusal",
    [
        openai_error(400, "Unknown name.", param="response_format"),
        openai_error(400, "This response_format type is unavailable now"),
        openai_error(400, "JSON mode is not supported by this model", code="invalid_request"),
        openai_error(422, "Structured output is not available"),
    ],
)
async def test_a_server_without_json_modes_is_asked_in_words(
    vendor: VendorAnswers, upstream: Upstream, refusal: Reply
) -> None:
    exchange = vendor.content
    vendor.serve(upstream, exchange)
    upstream.on(
        "POST", exchange.path, lambda request: refusal if b"response_format" in request.body else exchange.reply
    )
    assert await ask(vendor, "content", upstream) == exchange.result
    modes = [request.json.get("response_format", {}).get("type", "prompt") for request in upstream.requests]
    assert modes == ["json_schema", "json_object", "prompt"][-len(modes) :]
    assert len(modes) > 1
    schema = json.dumps(exchange.kwargs["json_schema"])
    assert all(schema in request.json["messages"][0]["content"] for request in upstream.requests[-1:])
    for request, mode in zip(upstream.requests, modes, strict=True):
        assert mode == "json_schema" or "JSON" in str(request.json["messages"])


@pytest.mark.parametrize("vendor", http_providers(OpenAICompatible), indirect=True)
async def test_another_refusal_of_content_is_an_error_at_once(vendor: VendorAnswers, upstream: Upstream) -> None:
    asked = first_then_good(vendor, "content", upstream, openai_error(400, "Too long."))
    with pytest.raises(ProviderBadRequest, match="Too long"):
        await ask(vendor, "content", upstream)
    assert asked() == 1


@pytest.mark.parametrize("vendor", http_providers(OpenAICompatible), indirect=True)
@pytest.mark.parametrize("mode", ["schema", "object", "prompt"])
async def test_the_configuration_may_name_the_mode(vendor: VendorAnswers, upstream: Upstream, mode: str) -> None:
    vendor.serve(upstream, vendor.content)
    await call(vendor.provider(upstream, json_mode=mode), "content", vendor.content.kwargs)
    sent = upstream.last.json.get("response_format", {}).get("type")
    assert sent == {"schema": "json_schema", "object": "json_object", "prompt": None}[mode]
