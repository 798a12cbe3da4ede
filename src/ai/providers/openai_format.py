"""OpenAI's wire format, as six vendors and many servers speak it: dict in, dict out. No transport.

Source: `openai` 3.54.0 types/* and each vendor's reference where it differs, 2026-11-23.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal

from src.ai.providers.payload import as_count, as_text
from src.ai.results import Usage

JSONMode = Literal["schema", "object", "prompt"]

SAMPLING: Final = frozenset(
    {"temperature", "top_p", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "logit_bias"}
)
OPTIONS: Final = SAMPLING | {"max_tokens", "stop", "seed", "reasoning_effort", "verbosity", "service_tier", "user"}
# What must not be left out of a request, even where a server refuses it.
ESSENTIAL: Final = frozenset({"model", "messages", "prompt", "input", "stream", "response_format"})
RENAMED: Final = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
REFUSED_FIELD: Final = frozenset({"unsupported_parameter", "unsupported_value"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRules:
    """What one model takes, beside `model` and `messages`."""

    max_tokens_field: str = "max_tokens"
    refused: frozenset[str] = frozenset()  # options that the model cannot take
    extra: Mapping[str, Any] = field(default_factory=dict)  # what is sent unless the caller or `config` says otherwise
    json_mode: JSONMode = "schema"
    stream_usage: bool = True  # `stream_options.include_usage`
    hides_thoughts: bool = False  # `extra` has the vendor keep them out of the text: a stream need not be held back

    def without(self, *options: str) -> ChatRules:
        """The same, refusing these options as well."""
        return replace(self, refused=self.refused | set(options))


# -- requests ----------------------------------------------------------------------------------------------------------


def build_messages(
    message: str, history: Sequence[Mapping[str, str]] | None = None, system_message: str | None = None
) -> list[dict[str, str]]:
    """The conversation, oldest first: the system message, the history, the new message."""
    system = [{"role": "system", "content": system_message}] if system_message else []
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in history or ()]
    return [*system, *turns, {"role": "user", "content": message}]


def build_chat(
    model: str, messages: list[dict[str, str]], options: Mapping[str, Any], rules: ChatRules
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The body of a chat completion, and the names of the options that it had to leave out."""
    body: dict[str, Any] = {"model": model, "messages": messages, **rules.extra}
    dropped: list[str] = []
    for name, value in options.items():
        if value is None:
            continue
        if name not in OPTIONS or name in rules.refused:
            dropped.append(name)
        elif name == "max_tokens":
            body[rules.max_tokens_field] = value
        else:
            body[name] = value
    return body, tuple(dropped)


def with_stream(body: Mapping[str, Any], rules: ChatRules) -> dict[str, Any]:
    """The same request, streamed."""
    options = {"stream_options": {"include_usage": True}} if rules.stream_usage else {}
    return {**body, "stream": True, **options}


def with_json(body: Mapping[str, Any], schema: Mapping[str, Any], mode: JSONMode) -> dict[str, Any]:
    """The same request, for JSON of this schema: by the vendor's own means (`schema`, `object`) or by asking for it.

    `object` demands the word JSON in a message (OpenAI, Groq and DeepSeek, 2026-11).
    """
    if mode == "schema":
        format_ = {"type": "json_schema", "json_schema": {"name": "content", "strict": True, "schema": schema}}
        return {**body, "response_format": format_}
    demand = f"Answer with one JSON object of this JSON Schema, and nothing else: {json.dumps(schema)}"
    messages = [dict(turn) for turn in body["messages"]]
    if messages[0]["role"] == "system":
        messages[0]["content"] = f"{messages[0]['content']}\n\n{demand}"
    else:
        messages.insert(0, {"role": "system", "content": demand})
    asked = {**body, "messages": messages}
    return asked if mode == "prompt" else {**asked, "response_format": {"type": "json_object"}}


def weaker_json_mode(mode: JSONMode) -> JSONMode | None:
    """What to try where a server refuses `mode`."""
    return {"schema": "object", "object": "prompt"}.get(mode)  # type: ignore[return-value]


def without_refused(body: Mapping[str, Any], param: str | None) -> dict[str, Any] | None:
    """The same request without the field that the server refused, or `None` where nothing can be left out.

    A limit of tokens is not lost: it moves to its other name.
    """
    name = (param or "").partition(".")[0].partition("[")[0]
    if not name or name in ESSENTIAL or name not in body:
        return None
    rest = {key: value for key, value in body.items() if key != name}
    if name in RENAMED and RENAMED[name] not in body:
        rest[RENAMED[name]] = body[name]
    return rest


# -- answers -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One answer, or one piece of a streamed one. Thoughts are not in it."""

    text: str = ""
    thinks_apart: bool = False  # the vendor keeps thoughts in a field of their own
    refusal: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None
    cost: Decimal | None = None
    model: str | None = None
    response_id: str | None = None


def parse_chat(data: Mapping[str, Any]) -> Part:
    """A chat completion, or one chunk of it: usage may come in any of them, and `choices` may be empty.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(data, dict) or not isinstance(data.get("choices", []), list):
        raise ValueError("it is no chat completion")
    usage = find_usage(data)
    common: dict[str, Any] = {
        "usage": parse_usage(usage),
        "cost": parse_decimal(usage.get("cost")) if usage else None,
        "model": as_text(data.get("model")) or None,
        "response_id": as_text(data.get("id")) or None,
    }
    choices = data.get("choices") or []
    if not choices:
        return Part(**common)
    choice = choices[0] if isinstance(choices[0], dict) else {}
    message = choice.get("message") or choice.get("delta") or {}
    return Part(
        text=_content(message.get("content")),
        thinks_apart=bool(message.get("reasoning") or message.get("reasoning_content")),
        refusal=as_text(message.get("refusal")),
        finish_reason=as_text(choice.get("finish_reason")) or None,
        **common,
    )


def find_usage(data: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The `usage` of an answer or a chunk; Groq also puts it into `x_groq` (2026-11)."""
    usage = data.get("usage") or (data.get("x_groq") or {}).get("usage")
    return usage if isinstance(usage, dict) else None


def parse_usage(usage: Mapping[str, Any] | None) -> Usage | None:
    """Tokens by our names. Cached ones are in OpenAI's details, in `prompt_cache_hit_tokens` (DeepSeek) or plain."""
    if not usage:
        return None
    read = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    wrote = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
    input_tokens = _count(usage, "prompt_tokens", "input_tokens")
    output_tokens = _count(usage, "completion_tokens", "output_tokens")
    cached = _count(read, "cached_tokens")
    if cached is None:
        cached = _count(usage, "prompt_cache_hit_tokens", "cached_tokens")
    reasoning = _count(wrote, "reasoning_tokens")
    if (input_tokens, output_tokens, cached, reasoning) == (None, None, None, None):
        return None
    return Usage(
        input_tokens=input_tokens, output_tokens=output_tokens, cache_read_tokens=cached, reasoning_tokens=reasoning
    )


def parse_decimal(value: object) -> Decimal | None:
    """A price or a cost, sent as a number or as a string; negative means "varies" and is unknown."""
    if value is None or isinstance(value, bool):
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() and number >= 0 else None


def parse_date(value: object) -> date | None:
    """A date, sent as "2027-01-14" with or without a time; `None` for anything else."""
    try:
        return date.fromisoformat(str(value)[:10])
    except ValueError:
        return None


def _content(content: object) -> str:
    """Text, or the text parts of a list of parts (Mistral's servers, OpenRouter)."""
    if isinstance(content, list):
        return "".join(
            as_text(part.get("text")) for part in content if isinstance(part, dict) and part.get("type") == "text"
        )
    return as_text(content)


def _count(usage: object, *names: str) -> int | None:
    if not isinstance(usage, dict):
        return None
    for name in names:
        if (count := as_count(usage.get(name))) is not None:
            return count
    return None
