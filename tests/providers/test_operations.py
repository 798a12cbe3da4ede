"""Every operation of every vendor: what goes over the wire, and what a caller gets."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest

from src.ai.exceptions import InvalidConfig, ProviderAuthFailed
from src.ai.providers.registry import AIProviderRegistry
from src.ai.results import Media, Reply
from tests.providers.answers import OPERATIONS, VendorAnswers, call, each
from tests.upstream.server import Upstream, whole


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_provider_has_answers_for_what_it_can_do_and_for_nothing_else(vendor: VendorAnswers, name: str) -> None:
    can = AIProviderRegistry().get(vendor.name).supports(OPERATIONS[name])
    assert can == (name in vendor.exchanges())


@each()
async def test_the_request_is_what_the_vendor_documents(
    vendor: VendorAnswers, operation: str, upstream: Upstream
) -> None:
    exchange = vendor.exchanges()[operation]
    vendor.serve(upstream, exchange)
    await call(vendor.provider(upstream), operation, exchange.kwargs)
    request = next(request for request in upstream.requests if request.path == exchange.path)
    assert (request.method, request.query) == (exchange.method, exchange.query)
    assert vendor.key_in(request) == vendor.key
    assert exchange.headers.items() <= request.headers.items()
    if exchange.sent is not None:
        assert request.json == exchange.sent


@each()
async def test_the_answer_is_read_with_all_its_facts(vendor: VendorAnswers, operation: str, upstream: Upstream) -> None:
    exchange = vendor.exchanges()[operation]
    vendor.serve(upstream, exchange)
    result = await call(vendor.provider(upstream), operation, exchange.kwargs)
    told: Any = result
    if operation == "stream":
        deltas, told = result
        assert all(deltas)
        assert len(deltas) > 1
        result = "".join(deltas)
    if operation == "validate":
        assert result is True
        return
    assert (result.getvalue() if isinstance(result, BytesIO) else result) == exchange.result
    assert {name: getattr(told, name) for name in exchange.info} == exchange.info


@each("image")
async def test_images_of_one_call_are_all_there(vendor: VendorAnswers, operation: str, upstream: Upstream) -> None:
    exchange = vendor.exchanges()[operation]
    vendor.serve(upstream, exchange)
    media = await call(vendor.provider(upstream), operation, exchange.kwargs)
    assert isinstance(media, Media)
    assert [item.content_type.startswith("image/") for item in media.all] == [True] * exchange.kwargs.get("n", 1)
    assert all(item.tell() == 0 for item in media.all)


@each("chat", "content")
async def test_a_reply_is_a_str_that_knows_more(vendor: VendorAnswers, operation: str, upstream: Upstream) -> None:
    exchange = vendor.exchanges()[operation]
    vendor.serve(upstream, exchange)
    reply = await call(vendor.provider(upstream), operation, exchange.kwargs)
    assert isinstance(reply, Reply)
    assert reply.usage is not None


@each("chat", "stream")
async def test_what_a_model_cannot_take_is_left_out_and_said(
    vendor: VendorAnswers, operation: str, upstream: Upstream
) -> None:
    exchange = vendor.exchanges()[operation]
    vendor.serve(upstream, exchange)
    result = await call(vendor.provider(upstream), operation, {**exchange.kwargs, "unheard_of": 1})
    told = result[1] if operation == "stream" else result
    assert "unheard_of" in told.dropped_params
    assert "unheard_of" not in upstream.last.json


@each("chat", "stream", "content", "image", "audio")
async def test_extra_body_of_the_configuration_has_the_last_word(
    vendor: VendorAnswers, operation: str, upstream: Upstream
) -> None:
    exchange = vendor.exchanges()[operation]
    vendor.serve(upstream, exchange)
    provider = vendor.provider(upstream, extra_body={"vendor_option": {"deep": True}})
    await call(provider, operation, exchange.kwargs)
    request = next(request for request in upstream.requests if request.path == exchange.path)
    assert request.json["vendor_option"] == {"deep": True}


def test_an_unknown_configuration_key_is_refused_with_the_known_ones(vendor: VendorAnswers, upstream: Upstream) -> None:
    with pytest.raises(InvalidConfig, match=r"unknown key 'chat_modle'.*chat_model"):
        vendor.provider(upstream, chat_modle="x")


@each("validate")
async def test_a_refused_key_is_false_and_a_vendor_out_of_reach_is_an_error(
    vendor: VendorAnswers, operation: str, upstream: Upstream
) -> None:
    exchange = vendor.exchanges()[operation]
    vendor.serve(upstream, exchange, vendor.bad_key)
    assert await vendor.provider(upstream).validate_api_key() is False
    vendor.serve(upstream, exchange, whole(402, {"error": {"message": "no credit", "code": 402}}))
    assert await vendor.provider(upstream).validate_api_key() is True
    for status in (429, 500, 503):
        vendor.serve(upstream, exchange, whole(status, {"error": {"message": "busy"}}))
        with pytest.raises(Exception, match="busy") as caught:
            await vendor.provider(upstream).validate_api_key()
        assert not isinstance(caught.value, ProviderAuthFailed)


@pytest.mark.parametrize("key", ["", "sk-a\nb", "sk-ключ", "two words"])
async def test_a_key_that_fits_no_header_is_refused_before_anything_is_sent(
    vendor: VendorAnswers, upstream: Upstream, key: str
) -> None:
    provider = vendor.provider(upstream, key=key)
    with pytest.raises(ProviderAuthFailed) as caught:
        await provider.chat("Hello", **{k: v for k, v in vendor.chat.kwargs.items() if k != "conversation_history"})
    assert not upstream.requests
    assert not key.strip() or key not in str(caught.value)
