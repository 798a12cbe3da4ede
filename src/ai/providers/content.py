"""Structured content: what is asked of a model and how its answer is read. Pure functions, for every vendor."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from django.utils.text import slugify

from src.ai.providers.payload import read_json

FIELDS: Final = ("title", "meta_title", "meta_description", "content", "keywords", "slug")

# OpenAI's strict dialect: every property required, none additional (developers.openai.com, structured outputs).
CONTENT_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "required": list(FIELDS),
    "properties": {
        "title": {"type": "string"},
        "meta_title": {"type": "string"},
        "meta_description": {"type": "string"},
        "content": {"type": "string"},
        "keywords": {"type": "array", "items": {"type": "string"}},
        "slug": {"type": "string"},
    },
}

SYSTEM_MESSAGE: Final = (
    "You write for the web. Answer with one JSON object and nothing else. Its keys are: title, meta_title (at most 60 "
    "characters), meta_description (at most 160 characters), content (the article), keywords (a list of strings), slug."
)

_THOUGHT = re.compile(r"^.*?</think>", re.DOTALL)
_SLUG_BREAKS = re.compile(r"[\u200b-\u200f_/|.,:;،؛؟]+")  # Persian writes words in two halves around U+200C


def build_content_prompt(
    topic: str,
    *,
    word_count: int | None = None,
    tone: str | None = None,
    keywords: Sequence[str] = (),
    language: str = "en",
) -> str:
    """The request for one article about `topic`, to be written in `language` (a BCP 47 tag or a language's name)."""
    lines = [f"Write an article about: {topic}", f"Language of every value: {language}"]
    if word_count:
        lines.append(f"Length of content: about {word_count} words")
    if tone:
        lines.append(f"Tone: {tone}")
    if keywords:
        lines.append(f"Use these keywords: {', '.join(keywords)}")
    return "\n".join(lines)


def build_repair_prompt(answer: str, problem: str) -> str:
    """The request to put an unusable answer right."""
    return (
        f"This answer can't be used: {problem}\n\n{answer}\n\n"
        f"Send it again as one JSON object with exactly these keys: {', '.join(FIELDS)}. Nothing else."
    )


def parse_article(answer: str, *, keywords: Sequence[str] = ()) -> dict[str, Any]:
    """The six fields out of a model's answer, cleaned.

    Reads JSON inside Markdown fences, after a `</think>` and between other text. `keywords` may be a list or one
    comma-separated string; where the model gives none, the caller's stand in. The slug is always made here.

    Raises:
        ValueError: the answer holds no JSON object, or a text field is missing or empty. The message says which.
    """
    data = _parse_object(answer)
    texts = {name: _clean_text(data, name) for name in ("title", "content")}
    meta_title = _optional_text(data, "meta_title") or texts["title"]
    meta_description = _optional_text(data, "meta_description")
    if not meta_description:
        raise ValueError("'meta_description' is missing or empty")
    slug = build_slug(_optional_text(data, "slug")) or build_slug(texts["title"])
    if not slug:
        raise ValueError("'slug' and 'title' hold no letter or digit")
    return {
        "title": texts["title"],
        "meta_title": meta_title,
        "meta_description": meta_description,
        "content": texts["content"],
        "keywords": parse_keywords(data.get("keywords")) or list(keywords),
        "slug": slug,
    }


def build_slug(text: str) -> str:
    """A slug that keeps the letters of any script: «هوش مصنوعی» → «هوش-مصنوعی»."""
    return slugify(_SLUG_BREAKS.sub("-", text), allow_unicode=True)


def _parse_object(answer: str) -> dict[str, Any]:
    text = _THOUGHT.sub("", answer)
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        raise ValueError("it holds no JSON object")
    try:
        data = read_json(text[start : end + 1], strict=False)  # models put raw line breaks into strings
    except ValueError as error:
        raise ValueError(f"its JSON is broken: {error}") from error
    if not isinstance(data, dict):
        raise ValueError("its JSON is not an object")
    return data


def _optional_text(data: dict[str, Any], name: str) -> str:
    value = data.get(name, "")
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"'{name}' is not a string")
    return value.strip()


def _clean_text(data: dict[str, Any], name: str) -> str:
    text = _optional_text(data, name)
    if not text:
        raise ValueError(f"'{name}' is missing or empty")
    return text


def parse_keywords(value: object) -> list[str]:
    """Keywords out of a list, or of one text with commas. Raises `ValueError`."""
    if isinstance(value, str):
        value = re.split(r"[,،;؛\n]", value)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("'keywords' is not a list of strings")
    return [word for item in value if (word := item.strip())]


def check_article(data: dict[str, Any]) -> None:
    """See that an article has the six fields with their types.

    Raises:
        ValueError: it has not; the message says which.
    """
    if set(data) != set(FIELDS):
        raise ValueError(f"its keys are {', '.join(sorted(data))}")
    for name in FIELDS:
        if name == "keywords":
            parse_keywords(data[name] if isinstance(data[name], list) else 0)
        else:
            _clean_text(data, name)
