"""What a call may cost, and what it did cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

from django.conf import settings
from msgspec import structs

from src.ai.models import AIModel, CostState
from src.ai.results import ResultInfo, Usage

FREE: Final = Decimal(0)
LARGEST_COST: Final = Decimal(1_000_000)  # what is more was misread, and sums of it would not fit their columns
MILLION: Final = Decimal(1_000_000)
# The rule of thumb for English (OpenAI, "What are tokens and how to count them?"); Persian is near it in UTF-8.
BYTES_PER_TOKEN: Final = 4
# What a request's form adds to its texts: roles, separators and, for content, the instructions and the schema.
FORM_TOKENS: Final = {"content": 1000}
FORM_TOKENS_ELSE: Final = 32


def highest_cost(model: AIModel, capability: str, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Decimal | None:
    """The most that the call should cost in US$; `None` where a price is not known.

    A token is at least a byte, so the input's bytes bound its tokens. The reply is bounded by what is asked for, else
    by the model's own maximum, else by `AI_DEFAULT_MAX_TOKENS`.
    """
    if model.pricing_input is None or model.pricing_output is None:
        return None
    size = sum(len(text.encode("utf-8", "replace")) for text in _texts((args, kwargs)))
    size += FORM_TOKENS.get(capability, FORM_TOKENS_ELSE)
    reply = kwargs.get("max_tokens") or longest_reply(model)
    return cost_at_most(model, size, reply * (kwargs.get("n") or 1))


def longest_reply(model: AIModel) -> int:
    """The tokens that a reply may have where nobody asks for less: the model's own maximum, as far as it is known."""
    return model.max_tokens or int(settings.AI_DEFAULT_MAX_TOKENS)


def cost_at_most(model: AIModel, input_tokens: int, output_tokens: int) -> Decimal | None:
    """What so many tokens cost at the model's prices, in US$; `None` where one is not known."""
    if model.pricing_input is None or model.pricing_output is None:
        return None
    return (input_tokens * model.pricing_input + output_tokens * model.pricing_output) / MILLION


def guessed_usage(counted: Usage | None, args: Iterable[Any], kwargs: Mapping[str, Any], reply: str) -> Usage:
    """The tokens of a call that was ended before its vendor had counted all; what it had `counted` stands."""
    counted = counted or Usage()
    asked = sum(len(text.encode("utf-8", "replace")) for text in _texts((args, kwargs)))
    answered = len(reply.encode("utf-8", "replace"))
    read, written = counted.input_tokens, counted.output_tokens
    return structs.replace(
        counted,
        input_tokens=-(-asked // BYTES_PER_TOKEN) if read is None else read,
        output_tokens=-(-answered // BYTES_PER_TOKEN) if written is None else written,
    )


def cost_of(
    info: ResultInfo, price_input: Decimal | None, price_output: Decimal | None, *, guessed: bool = False
) -> tuple[Decimal | None, CostState]:
    """What a call cost in US$, and how sure that is; `None` is unknown and never zero.

    The vendor's own figure is exact. So are tokens that it counted, at known prices, but for cached ones: their rebate
    is not known, and they are charged in full.
    """
    if info.cost is not None and info.cost.is_finite() and 0 <= info.cost <= LARGEST_COST:
        return info.cost, CostState.EXACT
    if price_input == 0 and price_output == 0:
        return FREE, CostState.EXACT
    usage = info.usage
    if usage is None or price_input is None or price_output is None:
        return None, CostState.UNKNOWN
    if usage.input_tokens is None and usage.output_tokens is None:
        return None, CostState.UNKNOWN
    cost = ((usage.input_tokens or 0) * price_input + (usage.output_tokens or 0) * price_output) / MILLION
    if not 0 <= cost <= LARGEST_COST:
        return None, CostState.UNKNOWN
    partly = usage.input_tokens is None or usage.output_tokens is None or bool(usage.cache_read_tokens)
    return cost, CostState.ESTIMATED if guessed or partly else CostState.EXACT


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
