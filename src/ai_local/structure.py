"""JSON that a very small model can finish: schemas with bounds for the grammar, and an end for what was cut. Pure.

llama.cpp turns a schema into a grammar, so the model can't leave its form, but within that form it may go on for ever.
Lengths bound it in characters; tokens for a character differ with the script (SmolLM2: 0.25 in English, up to 2 in
Persian), so the token limit can still cut the last value short.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from src.ai_local.catalogue import MAX_TOKENS

Schema = dict[str, Any]

DEFAULT_WORDS: Final = 150
MAX_WORDS: Final = 1000
MAX_STRING: Final = 600
MAX_ITEMS: Final = 6

# Tokens for all fields but the text, at 3 a character, which is what the characters of `_CHARACTERS` cost at most.
FRAME_TOKENS: Final = 1300
TOKENS_PER_WORD: Final = 3  # English takes 1.4; the rest is for words of several tokens

# Letters and digits of all scripts below the surrogates: no emoji, no symbols, nothing that JSON or a grammar escapes.
_LETTERS: Final = "A-Za-z0-9\u00c0-\u024f\u0370-\u1fff\u3040-\ud7ff"
_CHARACTERS: Final = _LETTERS + " ,.:;!?'()%&\u200c\u2019-"

# Strings that hold what they must in a form of their own already.
_BOUNDED: Final = ("maxLength", "pattern", "enum", "const", "format")


def build_article_schema(words: int, *, with_keywords: bool) -> Schema:
    """What the model fills in of an article of about `words` words; the text comes last, where a cut hurts least.

    It makes no slug: that is made of the title (`parse_article`), which starts with a letter or digit for that.
    """
    properties: Schema = {"title": _text(8, 70), "meta_title": _text(8, 55), "meta_description": _text(40, 150)}
    if with_keywords:
        properties["keywords"] = {"type": "array", "items": _text(3, 24), "minItems": 3, "maxItems": 5}
    properties["content"] = _text(2 * words, 7 * words, _CHARACTERS + "\n")
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(properties),
        "properties": properties,
    }


def count_article_tokens(words: int) -> int:
    """Tokens that an article of about `words` words may take."""
    return min(FRAME_TOKENS + TOKENS_PER_WORD * words, MAX_TOKENS)


def bound(schema: Any) -> Any:
    """The schema with an end to every string and list that has none."""
    if isinstance(schema, list):
        return [bound(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    bounded = {key: bound(value) for key, value in schema.items()}
    if schema.get("type") == "string" and not any(key in schema for key in _BOUNDED):
        bounded = {"minLength": 1, **bounded, "maxLength": max(MAX_STRING, schema.get("minLength", 0))}
    if schema.get("type") == "array" and "maxItems" not in schema:
        bounded = {"minItems": 1, **bounded, "maxItems": max(MAX_ITEMS, schema.get("minItems", 0))}
    return bounded


def close_json(text: str) -> str:
    """JSON that was cut off, with what is open closed; as it was where that does not make it readable."""
    closers: list[str] = []
    for token in re.finditer(r'"(?:[^"\\]|\\.)*("?)|[{}\[\]]', text, re.DOTALL):
        mark = token[0]
        if mark in "{[":
            closers.append("}" if mark == "{" else "]")
        elif mark in "}]":
            closers.pop()
        elif not token[1]:
            closers.append('"')
    closed = re.sub(r"\\(?:u[0-9A-Fa-f]{0,3})?$", "", text) + "".join(reversed(closers))
    try:
        json.loads(closed, strict=False)
    except json.JSONDecodeError:
        return text
    return closed


def _text(shortest: int, longest: int, characters: str = _CHARACTERS) -> Schema:
    """Text that starts with a letter or digit."""
    return {"type": "string", "pattern": f"^[{_LETTERS}][{characters}]{{{shortest - 1},{longest - 1}}}$"}
