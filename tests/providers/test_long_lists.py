"""A vendor's list of 10,000 models is read in time, beside the loop, and pagination ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from time import process_time, thread_time
from typing import Any

import pytest

from src.ai.exceptions import ProviderInvalidResponse
from src.ai.providers import vendor as vendor_module
from src.ai.providers.errors import Call
from src.ai.providers.vendor import HTTPVendor
from tests.providers.answers import VendorAnswers, each
from tests.upstream.server import Reply, Upstream, whole

ROWS = 10_000


def rows_of(data: Any) -> list[dict[str, Any]]:
    """The rows of a list of models, wherever a vendor puts them."""
    return data if isinstance(data, list) else next(value for value in data.values() if isinstance(value, list))


def lengthened(reply: Reply) -> tuple[Reply, int]:
    """The same list with 10,000 rows, a vendor's own ones again and again under new ids; and how many it had."""
    data = json.loads(b"".join(part for part in reply.parts if isinstance(part, bytes)))
    rows = rows_of(data)
    original = list(rows)
    for number in range(ROWS - len(original)):
        row = original[number % len(original)]
        key = "id" if "id" in row else "name"
        rows.append({**row, key: f"{row[key]}-{number}"})
    return whole(200, data), len(original)


@each("models")
async def test_ten_thousand_models_are_read_in_time_and_beside_the_loop(
    vendor: VendorAnswers, operation: str, upstream: Upstream
) -> None:
    exchange = vendor.models
    vendor.serve(upstream, exchange)
    few = await vendor.provider(upstream).get_available_models()
    reply, original = lengthened(exchange.reply)
    vendor.serve(upstream, exchange, reply)
    all_threads, this_thread = process_time(), thread_time()
    models = await vendor.provider(upstream).get_available_models()
    all_threads, this_thread = process_time() - all_threads, thread_time() - this_thread
    assert len(models) > ROWS * len(few) // original // 2
    assert len({model.model_id for model in models}) == len(models)
    assert [model for model in models if model.model_id in {known.model_id for known in few}] == few
    assert all_threads < 4
    assert this_thread < all_threads / 2


class Paged(HTTPVendor):
    @classmethod
    def get_provider_name(cls) -> str:
        return "paged"


async def read(pages: AsyncIterator[list[int]]) -> list[int]:
    return [row async for page in pages for row in page]


CALL = Call("paged", "get_available_models")


async def test_pages_are_read_to_the_last() -> None:
    async def fetch(token: str | None) -> tuple[list[int], str | None]:
        number = int(token or 0)
        return [number], str(number + 1) if number < 150 else None

    assert await read(Paged("key")._pages(fetch, CALL)) == [*range(151)]


async def test_a_vendor_that_repeats_its_page_token_ends_with_an_error() -> None:
    asked: list[str | None] = []

    async def fetch(token: str | None) -> tuple[list[int], str | None]:
        asked.append(token)
        return [1], "again"

    with pytest.raises(ProviderInvalidResponse, match="repeats"):
        await read(Paged("key")._pages(fetch, CALL))
    assert asked == [None, "again"]


async def test_a_vendor_that_never_ends_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vendor_module, "PAGE_LIMIT", 20)

    async def fetch(token: str | None) -> tuple[list[int], str | None]:
        await asyncio.sleep(0)
        return [1], str(int(token or 0) + 1)

    with pytest.raises(ProviderInvalidResponse, match="more than 20 pages"):
        await read(Paged("key")._pages(fetch, CALL))
