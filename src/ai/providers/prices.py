"""Prices and windows of vendors that do not list them, out of `genai-prices` (data inside the package, no network)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from src.ai.providers.openai_format import parse_decimal

FREE = Decimal(0)


@dataclass(frozen=True, slots=True)
class Price:
    """US$ per 1M tokens today, outside of peak hours, and the window in tokens. `None` is unknown, zero is free."""

    input: Decimal | None = None
    output: Decimal | None = None
    context_window: int | None = None
    name: str = ""


UNKNOWN = Price()


def per_million(value: object) -> Decimal | None:
    """US$ per 1M tokens, of a price per token that a vendor lists as a text or a number; negative means "varies"."""
    price = parse_decimal(value)
    return None if price is None else price * 1_000_000


def find_price(model_id: str, provider_id: str) -> Price:
    """What `genai-prices` knows; `provider_id` is its own name of the vendor ("google", not "gemini").

    Its import takes 30 ms to 250 ms: call this from a thread.
    """
    from genai_prices.data_snapshot import get_snapshot

    try:
        _, model = get_snapshot().find_provider_model(model_id, None, provider_id, None)
    except LookupError:
        return UNKNOWN
    # At night: DeepSeek's price doubles from 1 to 4 and from 6 to 10 UTC (api-docs.deepseek.com, 2026-11), and a list
    # of prices must not depend on the hour at which it was asked for.
    price = model.get_prices(datetime.now(UTC).replace(hour=0))
    units = [value for value in vars(price).values() if value is not None]
    return Price(
        input=_base(price.input_mtok) if units else FREE,
        output=_base(price.output_mtok) if units else FREE,
        context_window=model.context_window,
        name=model.name if model.name and _plain(model.name) == _plain(model_id) else "",
    )


def _plain(name: str) -> str:
    """Letters and digits: a name that several models share says too little of each."""
    return "".join(filter(str.isalnum, name.lower()))


def _base(value: Any) -> Decimal | None:
    """The price below the first step, where a price has steps: the package's own calculation of 1M tokens is above."""
    base: Decimal | None = getattr(value, "base", value)
    return base
