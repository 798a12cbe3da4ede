"""An answer of any shape is a result or an error of ours: each part of each good answer is replaced by odd ones."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest

from src.ai.exceptions import AIError
from src.ai.results import Usage
from tests.providers.answers import Exchange, VendorAnswers, call, each
from tests.upstream.server import Reply, Upstream

ODD = (None, 7, -1, "odd", "\ud83d", [], [7], {}, True, 1e999)


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items: Any = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def replaced(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = data.copy()
    copy[path[0]] = replaced(data[path[0]], path[1:], value)
    return copy


def odd_versions(data: Any) -> Iterator[Any]:
    """Every place with two odd values, each of which comes about equally often."""
    for number, path in enumerate(places(data)):
        for turn in (0, 1):
            yield replaced(data, path, ODD[(number * 2 + turn) % len(ODD)])


def odd_replies(exchange: Exchange) -> Iterator[Reply]:
    reply = exchange.reply
    parts = [part for part in reply.parts if isinstance(part, bytes)]
    content_type = reply.headers.get("content-type", "")
    if "json" in content_type:
        for version in odd_versions(json.loads(b"".join(parts))):
            yield Reply(reply.status, [json.dumps(version).encode()], reply.headers)
    elif "event-stream" in content_type:
        for number, part in enumerate(parts):
            if part.startswith(b"data: {"):
                for version in odd_versions(json.loads(part[6:])):
                    odd = b"data: " + json.dumps(version).encode() + b"\n\n"
                    yield Reply(reply.status, [*parts[:number], odd, *parts[number + 1 :]], reply.headers)


def check_result(result: Any) -> None:
    """It can be passed on: as JSON in UTF-8, its numbers counted."""
    told = result
    if isinstance(result, tuple):
        deltas, told = result
        "".join(deltas).encode()
    elif isinstance(result, str):
        result.encode()
    elif isinstance(result, list):
        for row in result:
            for text in (row.model_id, row.display_name, row.description, *row.capabilities):
                text.encode()
            for number in (row.context_window, row.max_tokens):
                assert number is None or (type(number) is int and number >= 0), row
            for price in (row.pricing_input, row.pricing_output):
                assert price is None or (price.is_finite() and price >= 0), row
        return
    elif isinstance(result, BytesIO):
        assert result.getbuffer().nbytes
    else:
        return
    info = told.info
    json.dumps([info.finish_reason, info.model, info.response_id], ensure_ascii=False).encode()
    for fact in (info.finish_reason, info.model, info.response_id):
        assert fact is None or isinstance(fact, str), info
    for unit in Usage.__slots__:
        number = getattr(info.usage, unit, None)
        assert number is None or (isinstance(number, int | float) and 0 <= number < float("inf")), info
    assert info.cost is None or (info.cost.is_finite() and info.cost >= 0)


@each()
async def test_an_answer_of_any_shape_is_a_result_or_an_error_of_ours(
    vendor: VendorAnswers, operation: str, upstream: Upstream
) -> None:
    exchange = vendor.exchanges()[operation]
    for reply in odd_replies(exchange):
        vendor.serve(upstream, exchange, reply)
        sent = b"".join(part for part in reply.parts if isinstance(part, bytes)).decode()
        try:
            async with asyncio.timeout(20):
                result = await call(vendor.provider(upstream), operation, exchange.kwargs)
        except AIError as error:
            str(error).encode()
            json.dumps(error.facts, default=str, ensure_ascii=False).encode()
            continue
        except Exception as error:
            pytest.fail(f"{error!r} out of {sent}")
        try:
            check_result(result)
        except (AssertionError, AttributeError, TypeError, UnicodeEncodeError) as error:
            pytest.fail(f"{error!r} with {result!r} out of {sent}")
    assert upstream.connections <= 3 * (1 + len(exchange.also)) or operation == "stream"
