"""Gemini's `generateContent`: dict in, dict out. No transport.

Source: ai.google.dev/gemini-api and `google-genai` 3.4.0 types.py, 2026-11-23.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import quote

from src.ai.exceptions import InvalidRequest
from src.ai.providers.payload import as_count, as_text
from src.ai.results import ResultInfo, Usage

JSONMode = Literal["schema", "openapi", "prompt"]
Built = tuple[dict[str, Any], tuple[str, ...]]  # a body, and the names of the options that it had to leave out

# A model's thoughts count against maxOutputTokens, so that a small limit leaves nothing for the reply. A limit
# gets this much more, the model's own limit being the end. One plain question took 1,001 tokens of thought
# (chat_response_with_thought_parts.json); hard ones take a multiple.
THINKING_ROOM: Final = 8_192
_OUTPUT_LIMIT, _GEMMA_OUTPUT_LIMIT = 65_536, 32_768  # outputTokenLimit in the model list

_FIELDS: Final = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "max_tokens": "maxOutputTokens",
    "stop": "stopSequences",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
_THINKING: Final = frozenset({"thinking_level", "thinking_budget"})
# gemini-4-* ignores temperature, topP and topK and refuses penalties; a newer one is taken to do the same.
_SAMPLING: Final = frozenset({"temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty"})
_NO_SAMPLING: Final = re.compile(r"gemini-(?:[4-9]|\d\d)\b")
_NO_THOUGHTS: Final = re.compile(r"gemini-(?:1\.|2\.0|pro$)|gemma-[1-3]")
_NO_MINIMAL: Final = re.compile(r"gemini-(?:3\.1-pro|3\.[78]-flash|[4-9]\b|\d\d)")
_JSON_WORDS: Final = re.compile("json|schema|mime", re.IGNORECASE)
# What responseSchema knows of JSON Schema (OpenAPI subset).
_OPENAPI: Final = (
    *("type", "format", "title", "description", "nullable", "enum", "items", "minItems", "maxItems", "properties"),
    *("required", "minimum", "maximum", "minLength", "maxLength", "pattern", "anyOf", "propertyOrdering"),
)

_BLOCKED: Final = (
    *("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE"),
    *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"),
)
_BROKE_DOWN: Final = (
    *("IMAGE_OTHER", "NO_IMAGE", "OTHER", "MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "UNEXPECTED_TOOL_CALL"),
    *("TOO_MANY_TOOL_CALLS", "MISSING_THOUGHT_SIGNATURE"),
)
_FINISH: Final = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    **dict.fromkeys(_BLOCKED, "content_filter"),
}


# -- requests ----------------------------------------------------------------------------------------------------------


def model_name(model: str) -> str:
    """An id as we keep it: the list's `models/` is left out."""
    return model.strip("/").removeprefix("models/")


def build_path(model: str, method: str) -> str:
    """Where `method` of a model is asked, whether or not its id carries `models/` (or `tunedModels/`)."""
    name = model.strip("/")
    return f"/{quote(name if '/' in name else f'models/{name}', safe='/')}:{method}"


def build_chat(
    model: str,
    message: str,
    history: Sequence[Mapping[str, str]] | None,
    system_message: str | None,
    options: Mapping[str, Any],
) -> Built:
    """The body of a conversation, oldest turn first.

    Args:
        model: the vendor's id, for what its family takes.
        message: the last turn, the user's.
        history: turns of the roles user, assistant and system; those without text are left out (Gemini refuses them).
        system_message: joined with the history's system turns. gemma-* has no such field: there it opens the first
            turn of the user.
        options: `temperature`, `max_tokens` and the other keys of `config`. `None` is as good as absent.

    Raises:
        InvalidRequest: the message is empty; the last turn must be the user's.
    """
    if not message.strip():
        raise InvalidRequest(reason="The message is empty.", attr="message")
    turns = [turn for turn in (*(history or ()), {"role": "user", "content": message}) if turn["content"].strip()]
    said = [system_message or "", *(turn["content"] for turn in turns if turn["role"] == "system")]
    system = "\n\n".join(text for text in said if text.strip())
    contents = [
        {"role": "model" if turn["role"] == "assistant" else "user", "parts": [{"text": turn["content"]}]}
        for turn in turns
        if turn["role"] != "system"
    ]
    body: dict[str, Any] = {"contents": contents}
    if system and model_name(model).startswith("gemma-"):
        opening: Any = next(turn for turn in contents if turn["role"] == "user")
        opening["parts"][0]["text"] = f"{system}\n\n{opening['parts'][0]['text']}"
    elif system:
        body["systemInstruction"] = {"parts": [{"text": system}]}
    generation, dropped = build_generation(model, options)
    return (body | {"generationConfig": generation} if generation else body), dropped


def build_generation(model: str, options: Mapping[str, Any]) -> Built:
    """The `generationConfig` for a text.

    `thinkingConfig` is left out unless asked for: what it may hold differs by family, and leaving it out is always
    legal. `max_tokens` is the length of the reply, so a model that thinks gets `THINKING_ROOM` on top.
    """
    name = model_name(model)
    asked = {option: value for option, value in options.items() if value is not None}
    thinking = _thinking(name, asked)
    generation: dict[str, Any] = {}
    dropped: list[str] = []
    for option, value in asked.items():
        if option in _THINKING:
            if _camel(option) not in thinking:
                dropped.append(option)
        elif option not in _FIELDS or (option in _SAMPLING and _NO_SAMPLING.match(name)):
            dropped.append(option)
        elif option == "max_tokens":
            generation["maxOutputTokens"] = _with_room(name, int(value), thinking)
        elif option == "stop":
            generation["stopSequences"] = [value] if isinstance(value, str) else list(value)
        else:
            generation[_FIELDS[option]] = value
    if thinking:
        generation["thinkingConfig"] = thinking
    return generation, tuple(dropped)


def build_content(
    model: str,
    prompt: str,
    system_message: str | None,
    options: Mapping[str, Any],
    schema: Mapping[str, Any],
    mode: JSONMode,
) -> Built:
    """The body of a request for JSON of `schema` (ordinary JSON Schema), by one of the means that a model may have."""
    if mode == "prompt":
        demand = f"Answer with one JSON object of this JSON Schema, and nothing else: {json.dumps(schema)}"
        system_message = f"{system_message}\n\n{demand}" if system_message else demand
        return build_chat(model, prompt, None, system_message, options)
    body, dropped = build_chat(model, prompt, None, system_message, options)
    means = {"responseJsonSchema": schema} if mode == "schema" else {"responseSchema": build_openapi_schema(schema)}
    generation = {**body.get("generationConfig", {}), "responseMimeType": "application/json", **means}
    return {**body, "generationConfig": generation}, dropped


def weaker_json_mode(mode: JSONMode, reason: str) -> JSONMode | None:
    """What to try after a 400 that said `reason`; `None` where that was about something else, or nothing is left."""
    if mode == "prompt" or not _JSON_WORDS.search(reason):
        return None
    return "openapi" if mode == "schema" and "schema" in reason.lower() else "prompt"


def build_openapi_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON Schema in the dialect of `responseSchema`: types in upper case, and nothing that it does not know."""
    known: dict[str, Any] = {key: value for key, value in schema.items() if key in _OPENAPI}
    types = [known["type"]] if isinstance(known.get("type"), str) else list(known.get("type") or ())
    if "null" in types:
        known["nullable"] = True
    if kept := [kind for kind in types if kind != "null"]:
        known["type"] = kept[0].upper()
    if "properties" in known:
        known["properties"] = {name: build_openapi_schema(value) for name, value in known["properties"].items()}
        known.setdefault("propertyOrdering", list(known["properties"]))
    if "items" in known:
        known["items"] = build_openapi_schema(known["items"])
    if "anyOf" in known:
        known["anyOf"] = [build_openapi_schema(value) for value in known["anyOf"]]
    return known


def merge(body: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`body` with `extra` having the last word, object by object: options of ours and of `extra_body` share one."""
    merged = dict(body)
    for key, value in extra.items():
        ours = merged.get(key)
        merged[key] = merge(ours, value) if isinstance(ours, dict) and isinstance(value, dict) else value
    return merged


def _thinking(name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The part of what was asked that this family takes: 2.5 a budget, 3.x and later a level."""
    level, budget = str(asked.get("thinking_level") or "").upper(), asked.get("thinking_budget")
    if name.startswith("gemini-2.5"):
        return {} if budget is None or (budget == 0 and "pro" in name) else {"thinkingBudget": budget}
    if not re.match(r"gemini-(?:[3-9]|\d\d)\b", name) or (level == "MINIMAL" and _NO_MINIMAL.match(name)):
        return {}
    return {"thinkingLevel": level} if level else {}


def _with_room(name: str, limit: int, thinking: Mapping[str, Any]) -> int:
    if _NO_THOUGHTS.match(name) or thinking.get("thinkingBudget") == 0:
        return limit
    highest = _GEMMA_OUTPUT_LIMIT if name.startswith("gemma-") else _OUTPUT_LIMIT
    return max(limit, min(limit + THINKING_ROOM, highest))


def _camel(option: str) -> str:
    first, *rest = option.split("_")
    return first + "".join(word.capitalize() for word in rest)


# -- answers -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class File:
    """An `inlineData`: base64 and the mime type it is sent under."""

    mime_type: str
    data: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One answer, or one piece of a streamed one. Thoughts, be they texts or drafts of images, are not in it.

    `finish` and `blocked` (why the prompt was) are the vendor's words, `note` is what it says about them.
    """

    text: str = ""
    files: tuple[File, ...] = ()
    finish: str = ""
    blocked: str = ""
    note: str = ""
    usage: Usage | None = None
    model: str | None = None
    response_id: str | None = None

    @property
    def finish_reason(self) -> str | None:
        """`finish` in the words of all vendors; one that is not known is an `error`."""
        if self.blocked:
            return "content_filter"
        return _FINISH.get(self.finish, "error") if self.finish else None

    @property
    def broke_down(self) -> bool:
        """Whether the model did not end but failed. A reason newer than this list says nothing against the text."""
        return self.finish in _BROKE_DOWN

    @property
    def info(self) -> ResultInfo:
        """The facts for a result."""
        return ResultInfo(
            usage=self.usage, finish_reason=self.finish_reason, model=self.model, response_id=self.response_id
        )

    def plus(self, part: Part) -> Part:
        """The end of a stream so far: facts, without the text. Usage is cumulative, so the last one counts."""
        return Part(
            finish=part.finish or self.finish,
            blocked=part.blocked or self.blocked,
            note=part.note or self.note,
            usage=part.usage or self.usage,
            model=part.model or self.model,
            response_id=part.response_id or self.response_id,
        )


def parse_answer(data: Any) -> Part:
    """A `GenerateContentResponse`. Candidates, their content and its parts may each be missing.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(data, dict) or not isinstance(data.get("candidates", []), list):
        raise ValueError("it is no answer of generateContent")
    candidate: Any = next(iter(data.get("candidates") or ()), {})
    parts = [part for part in (candidate.get("content") or {}).get("parts") or () if not part.get("thought")]
    feedback = data.get("promptFeedback") or {}
    ratings = [*(candidate.get("safetyRatings") or ()), *(feedback.get("safetyRatings") or ())]
    harms = [str(rating.get("category")) for rating in ratings if rating.get("blocked")]
    notes = [candidate.get("finishMessage"), feedback.get("blockReasonMessage"), ", ".join(harms)]
    return Part(
        text="".join(part["text"] for part in parts if isinstance(part.get("text"), str)),
        files=tuple(file for part in parts if (file := _file(part.get("inlineData")))),
        finish=as_text(candidate.get("finishReason")),
        blocked=as_text(feedback.get("blockReason")),
        note=" ".join(note for note in map(as_text, notes) if note),
        usage=parse_usage(data.get("usageMetadata")),
        model=as_text(data.get("modelVersion")) or None,
        response_id=as_text(data.get("responseId")) or None,
    )


def parse_usage(metadata: Mapping[str, Any] | None) -> Usage | None:
    """Tokens by our names: thoughts are billed as output, and are apart from the candidates' in Gemini's count."""
    if not metadata:
        return None
    read, thought = as_count(metadata.get("promptTokenCount")), as_count(metadata.get("thoughtsTokenCount"))
    written, total = as_count(metadata.get("candidatesTokenCount")), as_count(metadata.get("totalTokenCount"))
    if written is not None or thought is not None:
        output: int | None = (written or 0) + (thought or 0)  # candidatesTokenCount is absent when 0
    else:
        output = None if total is None or read is None else max(total - read, 0)
    return Usage(
        input_tokens=read,
        output_tokens=output,
        cache_read_tokens=as_count(metadata.get("cachedContentTokenCount")),
        reasoning_tokens=thought,
    )


def _file(inline: Any) -> File | None:
    if not isinstance(inline, dict) or not inline.get("data"):
        return None
    return File(str(inline.get("mimeType") or ""), str(inline["data"]))
