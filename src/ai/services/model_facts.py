"""What a model's row says, what a vendor's list says, and what a person has set by hand.

A row remembers in `AIModel.synced` the value that a sync or the seed last *wrote* to each field. A field is set by hand
when it differs from that value or, where nothing was ever written, when it is not empty. So a person's edit survives
every sync, a field that was put back to the remembered value (or, never written, emptied) follows the vendor again,
and what a person sets to the same as the vendor's is theirs all the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Any, Final

from django.db.models import Model

from src.ai.models import AIModel, ModelCapability
from src.ai.results import ModelInfo

TEXTS: Final = ("name", "display_name", "description")
PRICES: Final = ("pricing_input", "pricing_output")
WINDOWS: Final = ("context_window", "max_tokens")
FIELDS: Final = (*TEXTS, "capabilities", *PRICES, *WINDOWS)

PRICE_STEP: Final = Decimal("0.000001")  # `decimal_places` of the price columns
PRICE_LIMIT: Final = Decimal(10) ** 8  # their `max_digits`, less the places
WINDOW_LIMIT: Final = 2**31 - 1

Facts = dict[str, Any]


def _max_length(model: type[Model], name: str) -> int:
    """How many characters the model's field holds."""
    return next(field.max_length or 0 for field in model._meta.concrete_fields if field.name == name)


NAME_LENGTH: Final = min(_max_length(AIModel, "name"), _max_length(AIModel, "display_name"))
ID_LENGTH: Final = _max_length(AIModel, "model_id")
CAPABILITY_LENGTH: Final = _max_length(ModelCapability, "capability")


def facts_of(info: ModelInfo, default: ModelInfo | None = None) -> Facts:
    """Field by field what is known of a model, fit for its columns: the vendor's word, else that of `default`."""
    facts: Facts = {"name": "", **_facts(info)}
    for name, value in _facts(default).items() if default else ():
        if is_empty(facts[name]):
            facts[name] = value
    facts["name"] = (facts["display_name"] or fit_text(info.model_id))[:NAME_LENGTH]
    return facts


def is_empty(value: object) -> bool:
    """Whether this says nothing. A price of zero does."""
    return value is None or value == "" or value == []


def is_set_by_hand(row: AIModel, field: str) -> bool:
    """Whether a person gave this field of the row its value."""
    value = getattr(row, field)
    if field not in row.synced:
        return not is_empty(value)
    return bool(_mark(field, value) != row.synced[field])


def remember(row: AIModel, field: str) -> None:
    """Note that the field's value is the vendor's or the catalogue's."""
    row.synced = {**row.synced, field: _mark(field, getattr(row, field))}


def fill(row: AIModel, facts: Mapping[str, Any]) -> None:
    """Write all that is known to a new row."""
    for field, value in facts.items():
        setattr(row, field, value)
        if not is_empty(value):
            remember(row, field)


def fit_text(value: object) -> str:
    """Text without what a database refuses: NUL, and halves of characters that broken JSON can carry."""
    return str(value or "").replace("\x00", "").encode("utf-8", "ignore").decode().strip()


def fit_price(value: object) -> Decimal | None:
    """The price as its column holds it; None where it is unknown, negative or absurd. Only zero becomes zero."""
    if value is None or isinstance(value, bool):
        return None
    try:
        price = Decimal(str(value))
        rounded = price.quantize(PRICE_STEP, ROUND_HALF_EVEN)
    except InvalidOperation:
        return None
    if not (rounded.is_finite() and price >= 0 and rounded < PRICE_LIMIT):
        return None
    return rounded if rounded or not price else PRICE_STEP


def fit_window(value: object) -> int | None:
    """The number of tokens; None where it is unknown or no sensible count."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 < value <= WINDOW_LIMIT else None


def fit_capabilities(values: Iterable[object]) -> list[str]:
    """The distinct names, in order."""
    names = (fit_text(value) for value in values)
    return list(dict.fromkeys(name for name in names if 0 < len(name) <= CAPABILITY_LENGTH))


def _facts(info: ModelInfo) -> Facts:
    return {
        "display_name": fit_text(info.display_name)[:NAME_LENGTH],
        "description": fit_text(info.description),
        "capabilities": fit_capabilities(info.capabilities),
        "pricing_input": fit_price(info.pricing_input),
        "pricing_output": fit_price(info.pricing_output),
        "context_window": fit_window(info.context_window),
        "max_tokens": fit_window(info.max_tokens),
    }


def _mark(field: str, value: Any) -> Any:
    """What is remembered of a value, in JSON: enough to know it again."""
    if isinstance(value, Decimal):
        return str(value)
    if field == "description" and value:
        return hashlib.sha256(value.encode()).hexdigest()[:32]
    return value
