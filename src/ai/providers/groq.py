"""Groq (console.groq.com/docs, autumn 2026): chat, structured content and speech. It makes no images."""

from __future__ import annotations

import asyncio
import logging
import re
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final

import httpx
from msgspec import structs

from src.ai.exceptions import ProviderError
from src.ai.providers import errors
from src.ai.providers.base import ConfigType
from src.ai.providers.errors import Call
from src.ai.providers.media_bytes import join_wavs
from src.ai.providers.openai_format import ChatRules, Part
from src.ai.providers.openai_media import OpenAISpeech
from src.ai.providers.passthrough import SPEECH, Fields, Route, to_raw
from src.ai.providers.payload import as_count, as_text, read_json
from src.ai.providers.prices import find_price, per_million
from src.ai.providers.sse import Event
from src.ai.providers.vendor import Ask, interrupted
from src.ai.results import Media, ModelInfo, Usage
from src.core import http

_REFUSED: Final = frozenset(
    {"presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "logit_bias", "verbosity"}
)
# Reasoning models: what keeps their thoughts away, and which efforts they know. The first that fits counts.
_REASONERS: Final = (
    (re.compile("gpt-oss"), {"include_reasoning": False}, {"low", "medium", "high"}),
    (re.compile(r"qwen3\.8"), {"reasoning_format": "hidden"}, {"none", "default", "low", "medium", "high"}),
    (re.compile("qwen3"), {"reasoning_format": "hidden"}, {"none", "default"}),
    (re.compile("deepseek-r1|qwq"), {"reasoning_format": "hidden"}, set[str]()),
)
_STRICT_SCHEMA: Final = frozenset({"openai/gpt-oss-20b", "openai/gpt-oss-120b", "qwen/qwen3.8-27b"})

# By a part of the model's id, each language's default first.
_VOICES: Final = (
    ("orpheus-arabic", ("fahad", "abdullah", "sultan", "lulwa", "noura", "aisha")),
    ("orpheus", ("hannah", "autumn", "diana", "austin", "daniel", "troy")),
)
SPEECH_LIMIT: Final = 200  # characters a request; whether Groq still insists is open
_SENTENCE_END: Final = re.compile("(?<=[.!?…؟\u06d4])\\s+|\\s*\\n+\\s*")


class GroqProvider(OpenAISpeech):
    """Groq, through its own SDK.

    `config["speech_limit"]` is the number of characters that go into one request for speech (200); 0 sends the text
    whole.
    """

    default_base_url = "https://api.groq.com/openai/v1"
    default_models: ClassVar[Mapping[str, str]] = {
        "chat": "openai/gpt-oss-120b",
        "audio": "canopylabs/orpheus-v1-english",
    }
    config_types: ClassVar[Mapping[str, ConfigType]] = {"speech_limit": (int,)}

    @classmethod
    def get_provider_name(cls) -> str:
        return "groq"

    @classmethod
    def _sdk_key(cls, base_url: str) -> tuple[str, str]:
        return ("groq", base_url)

    @classmethod
    def _build_sdk(cls, base_url: str, client: httpx.AsyncClient) -> Any:
        """The SDK adds `/openai/v1` in its resources, which are not used here: its base is the full one."""
        from groq import AsyncGroq

        sdk = AsyncGroq(api_key=http.NO_KEY, base_url=base_url, max_retries=0, http_client=client)
        sdk._custom_headers = {}  # GROQ_CUSTOM_HEADERS
        # At DEBUG, which GROQ_LOG asks for, it logs each request's headers with the key (groq 1.7.0).
        logging.getLogger("groq._base_client").setLevel(logging.INFO)
        return sdk

    # -- chat ------------------------------------------------------------------------------------------------------

    def chat_rules(self, model: str, options: Mapping[str, Any]) -> ChatRules:
        """Thoughts are hidden by the field that the model's family takes; the two exclude each other."""
        known = ((hidden, efforts) for pattern, hidden, efforts in _REASONERS if pattern.search(model))
        hidden, efforts = next(known, ({}, set[str]()))
        rules = ChatRules(
            max_tokens_field="max_completion_tokens",
            refused=_REFUSED,
            extra=hidden,
            json_mode="schema" if model in _STRICT_SCHEMA else "object",
            hides_thoughts=bool(hidden),
        )
        return rules if options.get("reasoning_effort") in efforts else rules.without("reasoning_effort")

    def _refuses_json_mode(self, error: ProviderError) -> bool:
        """Groq checks the model's JSON itself and refuses its own answer (`json_validate_failed`)."""
        return error.facts.get("vendor_code") == "json_validate_failed" or super()._refuses_json_mode(error)

    def _parse_event(self, call: Call, event: Event, shown: bool) -> Part:
        """As the base has it; a stream that Groq stops early says so in `x_groq` (SDK 1.7.0, `XGroq.error`)."""
        part = super()._parse_event(call, event, shown)
        if '"x_groq"' in event.data and (reason := (read_json(event.data).get("x_groq") or {}).get("error")):
            raise interrupted(call, errors.from_body(call, {"error": reason}, {}))
        return part

    def openai_route(self, endpoint: str, model: str) -> Route | None:
        route = super().openai_route(endpoint, model)
        if route is None or endpoint != SPEECH:
            return route

        def prepare(fields: Fields) -> None:
            fields.setdefault("response_format", to_raw("wav"))  # the only one there is, and it must be sent

        return replace(route, prepare=prepare)

    # -- speech ----------------------------------------------------------------------------------------------------

    async def text_to_speech(self, text: str, **kwargs: Any) -> Media:
        """The recording as one WAV. A long text is spoken in pieces, one after the other: each counts as a request."""
        call, limits = self._call(Ask(operation="text_to_speech", path="")), self._timeouts("text_to_speech")
        recordings: list[Media] = []
        with self._as_ours(call, limits):
            async with asyncio.timeout(limits.total):
                for piece in split_text(text, self.config.get("speech_limit", SPEECH_LIMIT)):
                    recordings.append(await super().text_to_speech(piece, **kwargs))
        try:
            joined = join_wavs([recording.getvalue() for recording in recordings])
        except ValueError as error:
            raise errors.invalid_response(call, str(error)) from error
        return Media(joined, "audio/wav", structs.replace(recordings[0].info, usage=Usage(characters=len(text))))

    def build_speech(self, model: str, text: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """`response_format` must be sent and be "wav"; an unknown voice of a known model is replaced."""
        body: dict[str, Any] = {"model": model, "input": text, "response_format": "wav"}
        voices: tuple[str, ...] = next((names for part, names in _VOICES if part in model), ())
        if voices:
            configured = self.config.get("tts", {}).get("voice")
            body["voice"] = configured if configured in voices else voices[0]
        dropped: list[str] = []
        for name, value in options.items():
            if value is None or (name, value) in (("speed", 1), ("response_format", "wav")):
                continue
            if name == "voice" and (not voices or value in voices):
                body["voice"] = value
            else:
                dropped.append(name)
        return body, tuple(dropped)

    # -- models ----------------------------------------------------------------------------------------------------

    def parse_model(self, row: Mapping[str, Any]) -> ModelInfo | None:
        """Modalities, names and prices are in newer rows only; a price per token is one of a text model."""
        if row.get("active") is False:
            return None
        model_id = str(row["id"])
        capabilities = _capabilities(model_id, row)
        listed = (row.get("pricing") or {}) if "chat" in capabilities else {}
        price = find_price(model_id, "groq")
        input_, output = per_million(listed.get("prompt")), per_million(listed.get("completion"))
        return ModelInfo(
            model_id=model_id,
            display_name=as_text(row.get("name")) or price.name,
            capabilities=capabilities,
            pricing_input=price.input if input_ is None else input_,
            pricing_output=price.output if output is None else output,
            context_window=as_count(row.get("context_window")) or price.context_window,
            max_tokens=as_count(row.get("max_completion_tokens")),
        )


def split_text(text: str, limit: int) -> list[str]:
    """`text` in pieces of at most `limit` characters that end where sentences do, else words; 0 leaves it whole."""
    if limit <= 0 or len(text) <= limit:
        return [text]
    pieces = [""]
    for sentence in _SENTENCE_END.split(text):
        for part in textwrap.wrap(sentence, limit):
            longer = f"{pieces[-1]} {part}".lstrip()
            if len(longer) <= limit:
                pieces[-1] = longer
            else:
                pieces.append(part)
    return pieces


def _capabilities(model_id: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    name = model_id.lower()
    inputs, outputs = row.get("input_modalities") or (), row.get("output_modalities") or ()
    if "guard" in name:  # `llama-guard`, `gpt-oss-safeguard`: they judge texts
        return ("moderation",)
    if "speech" in outputs or (not outputs and re.search("orpheus|tts", name)):
        return ("audio",)
    if "transcription" in outputs or (not outputs and "whisper" in name):
        return ("transcription",)
    if outputs and "text" not in outputs:
        return ()
    return ("chat", "content", "vision") if "image" in inputs else ("chat", "content")
