"""What Gemini's list of models says, and what it does not. Pure functions (ai.google.dev, autumn 2026)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from src.ai.providers.gemini_format import model_name
from src.ai.providers.payload import as_text
from src.ai.providers.prices import FREE, UNKNOWN, Price, find_price
from src.ai.results import ModelInfo

# `generateContent` is also on agents, music and robots: the id tells them apart.
_OTHER_KINDS: Final = re.compile(
    "veo|lyria|robotics|computer-use|deep-research|antigravity|-live|native-audio|aqa|omni"
)
# Shut down, though rows may linger: Imagen, 1.x, 2.0, 2.5-flash-image, speech before 3.8.
_GONE: Final = re.compile(
    r"imagen|gemini-(?:1\.|2\.0|pro$|pro-vision)|gemini-2\.5-flash-image|gemini-(?:2\.5|3\.1)-.*-tts"
)
_RETIRING: Final = {
    "gemini-2.5-pro": "Retires on 2026-12-01; a newer model then answers in its place.",
    "gemini-2.5-flash": "Retires on 2026-12-01; a newer model then answers in its place.",
}


def parse_page(data: Any, *, first: bool) -> tuple[list[ModelInfo], str | None]:
    """The models of one page, and the next page's token.

    Raises:
        ValueError: it is no list of models. Only a page after the first may be without rows.
    """
    rows = data.get("models", None if first else []) if isinstance(data, dict) else None
    if not isinstance(rows, list):
        raise ValueError("it is no list of models")
    found = [parse_model(row) for row in rows if isinstance(row, dict) and isinstance(row.get("name"), str)]
    return [model for model in found if model is not None], data.get("nextPageToken") or None


def parse_model(row: Mapping[str, Any]) -> ModelInfo | None:
    """One row; `None` for a model that is gone or of a kind that we have no use for."""
    model_id = model_name(row["name"])
    capabilities = capabilities_of(model_id, row.get("supportedGenerationMethods") or ())
    if not capabilities:
        return None
    price = price_of(model_id)
    notes = (row.get("description"), _RETIRING.get(model_id))
    return ModelInfo(
        model_id=model_id,
        display_name=as_text(row.get("displayName")) or price.name,
        description=" ".join(note for note in notes if note),
        capabilities=capabilities,
        pricing_input=price.input,
        pricing_output=price.output,
        context_window=_count(row.get("inputTokenLimit")) or price.context_window,
        max_tokens=None if "embedding" in capabilities else _count(row.get("outputTokenLimit")),
    )


def capabilities_of(model_id: str, methods: Any) -> tuple[str, ...]:
    """What a model can do. Its methods alone mislead: speech and image models have `generateContent` too."""
    name = model_id.lower()
    if _OTHER_KINDS.search(name) or _GONE.match(name):
        return ()
    if "embedContent" in methods:
        return ("embedding",)
    if "generateContent" not in methods:
        return ()
    if "-tts" in name:
        return ("audio",)
    if "-image" in name or "nano-banana" in name:
        return ("image",)
    return ("chat", "content", "vision")


def price_of(model_id: str) -> Price:
    """What `genai-prices` knows. Only gemma-* costs nothing at all: a free tier is no free model."""
    price = find_price(model_id, "google")
    if model_id.startswith("gemma-"):
        return Price(input=FREE, output=FREE, context_window=price.context_window, name=price.name)
    return UNKNOWN if price.input == price.output == FREE else price


def _count(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None
