"""What an entry of the default catalogue is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from src.ai.results import ModelInfo

TEXT: Final = ("chat", "content")
TEXT_AND_VISION: Final = ("chat", "content", "vision")
IMAGE: Final = ("image",)
AUDIO: Final = ("audio",)
EMBEDDING: Final = ("embedding",)
FREE: Final = ("0", "0")
UNKNOWN: Final = (None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultProvider:
    """A provider and its default models, both in the order in which they are offered."""

    slug: str
    name: str
    description: str
    website: str
    models: Sequence[ModelInfo]


def model(
    model_id: str,
    name: str,
    capabilities: tuple[str, ...],
    price: tuple[str | None, str | None] = UNKNOWN,
    *,
    window: int | None = None,
    output: int | None = None,
    note: str = "",
) -> ModelInfo:
    """One default model.

    Args:
        model_id: the vendor's own id.
        name: what people call it.
        capabilities: what it can do.
        price: US$ per 1M tokens in and out; `FREE` costs nothing, `UNKNOWN` is not billed by token or not published.
        window: tokens it reads at most.
        output: tokens it writes at most.
        note: what to know when choosing it.
    """
    cost_in, cost_out = (None if amount is None else Decimal(amount) for amount in price)
    return ModelInfo(
        model_id=model_id,
        display_name=name,
        description=note,
        capabilities=capabilities,
        pricing_input=cost_in,
        pricing_output=cost_out,
        context_window=window,
        max_tokens=output,
    )
