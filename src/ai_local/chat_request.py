"""What llama.cpp is asked: a pure function from our arguments to its chat completion."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from django.utils.translation import gettext as _

from src.ai.exceptions import InvalidRequest
from src.ai_local import packages, structure

OPTIONS: Final = ("system_message", "temperature", "max_tokens", "json_schema")

# A bound for chats that name none: about six seconds on two idle cores.
DEFAULT_MAX_TOKENS: Final = 512

# For the bundled model alone, which repeats itself without them: chosen by reading articles made with and without.
BUNDLED_SAMPLING: Final[Mapping[str, Any]] = {
    "temperature": 0.4,
    "top_p": 0.9,
    "repeat_penalty": 1.1,
    "repeat_last_n": 256,
    "dry_multiplier": 0.8,
    "dry_allowed_length": 3,
    "dry_penalty_last_n": 1024,
}

# Chat templates mark turns with such words; in what a person wrote they are only text.
_CONTROL_WORD: Final = re.compile(r"<\|(\w+)\|>")


def build(message: str, history: Sequence[Mapping[str, str]] | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The request for the reply to `message`.

    Args:
        message: what is said now.
        history: the turns before it, oldest first.
        options: `OPTIONS`, and `extra_body`, which is merged last.

    Raises:
        InvalidRequest: `max_tokens` is not positive.
    """
    max_tokens = options.get("max_tokens", DEFAULT_MAX_TOKENS)
    if max_tokens < 1:
        raise InvalidRequest(attr="max_tokens", reason=_("max_tokens must be at least 1."))
    system = [{"role": "system", "content": text}] if (text := options.get("system_message")) else []
    turns = [*system, *(history or ()), {"role": "user", "content": message}]
    request: dict[str, Any] = {} if packages.configured_gguf() else dict(BUNDLED_SAMPLING)
    request["messages"] = [{"role": turn["role"], "content": _as_text(turn["content"])} for turn in turns]
    request["max_tokens"] = max_tokens
    if "temperature" in options:
        request["temperature"] = options["temperature"]
    if schema := options.get("json_schema"):
        request["json_schema"] = structure.bound(schema)
    return {**request, **options.get("extra_body", {})}


def _as_text(content: str) -> str:
    return _CONTROL_WORD.sub(r"<| \1 |>", content)
