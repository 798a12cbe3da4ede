"""Requests in OpenAI's own form that go on to a vendor as they are: where to, and what has to be put in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

# A body's fields as their raw JSON: what is not touched goes on byte by byte.
Fields = dict[str, msgspec.Raw]

CHAT: Final = "chat/completions"
IMAGES: Final = "images/generations"
SPEECH: Final = "audio/speech"
EMBEDDINGS: Final = "embeddings"

_encoder: Final = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where a vendor takes the requests of one of OpenAI's endpoints, for one model and key.

    `prepare` changes the fields where the vendor's form differs from what clients send, and `read` makes of its answer
    what they expect. `extra` is put in last.
    """

    url: str
    headers: Mapping[str, str]
    max_tokens_field: str = "max_tokens"
    stream_usage: bool = True  # `stream_options.include_usage`
    extra: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[Fields], None] | None = None
    read: Callable[[bytes], bytes] | None = None

    def __repr__(self) -> str:
        return f"Route({self.url})"  # the headers hold a key


def to_raw(value: object) -> msgspec.Raw:
    """A value as a field."""
    return msgspec.Raw(_encoder.encode(value))


def to_value(raw: msgspec.Raw) -> Any:
    """What a field holds."""
    return msgspec.json.decode(raw)


def text_in(fields: Fields, name: str) -> str | None:
    """A field's text; None where it is absent or something else, which is for the vendor to judge."""
    try:
        value = to_value(fields[name]) if name in fields else None
    except (msgspec.DecodeError, RecursionError):
        return None
    return value if isinstance(value, str) else None


def encode(fields: Fields) -> bytes:
    """The body with these fields."""
    return _encoder.encode(fields)
