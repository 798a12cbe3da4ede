"""Which model to name when a configured one is gone, from the vendors' deprecation pages (autumn 2026)."""

from __future__ import annotations

import re
from typing import Final

# Per provider: a pattern of retired ids, and what took their place. The first that fits counts.
SUCCESSORS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "openai": (
        (r"dall-e-|gpt-image-1$", "gpt-image-2.5-flare"),
        (r"gpt-4(?!.*-(?:tts|transcribe|audio|realtime|search))|gpt-3\.5|chatgpt-4|o1|o3-mini|o4-mini", "gpt-6-luna"),
    ),
    "gemini": (
        (r"imagen-|gemini-.*image", "gemini-3.1-flash-image"),
        (r"gemini-.*-tts", "gemini-3.8-flash-lite-tts"),
        (r"gemini-[12]\..*(?:lite|8b)", "gemini-3.5-flash-lite"),
        (r"gemini-(?:[12]\.|pro)", "gemini-3.8-flash"),
    ),
    "groq": ((r"(?:meta-llama/)?llama-?3", "openai/gpt-oss-120b"),),
    "openrouter": (
        (r"openai/(?:gpt-4|gpt-3\.5|chatgpt-4|o1|o3-mini|o4-mini)", "openai/gpt-6-luna"),
        (r"google/gemini-.*image", "google/gemini-3.1-flash-image"),
        (r"google/gemini-.*-tts", "google/gemini-3.8-flash-tts"),
        (r"google/gemini-[12]\.", "google/gemini-3.8-flash"),
    ),
    "deepseek": ((r"deepseek-(?:chat|reasoner)$", "deepseek-flash"),),
}


def find_successor(provider: str, model: str | None) -> str | None:
    """The id to use instead of `model`, where we know one."""
    if not model:
        return None
    name = model.removeprefix("models/")
    found = next((new for pattern, new in SUCCESSORS.get(provider, ()) if re.match(pattern, name)), None)
    return None if found == name else found
