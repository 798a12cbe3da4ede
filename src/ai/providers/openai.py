"""OpenAI (developers.openai.com, autumn 2026)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

from src.ai.providers.base import ConfigType
from src.ai.providers.openai_format import SAMPLING, ChatRules, parse_date
from src.ai.providers.openai_media import OpenAIImages, OpenAISpeech
from src.ai.providers.passthrough import IMAGES, Route
from src.ai.providers.prices import find_price
from src.ai.results import ModelInfo

# Families of chat models, the first that fits counts. `always` reasons whatever is asked, `default` unless told
# not to, `asked` only when told to, `never` cannot. A newer model than these is taken to reason always.
_FAMILIES: Final = (
    (re.compile(r"gpt-(?:4o|4\.1|4|3\.5)|chatgpt-4o"), "never"),
    (re.compile(r"gpt-5\.[1-4](?!\d)"), "asked"),
    (re.compile(r"gpt-5\.5|gpt-5\.6|gpt-6-(?:sol|luna)|gpt-6\.1-terra"), "default"),
    (re.compile(r"o\d|gpt-(?!oss)"), "always"),
)
NO_EFFORT: Final = {"reasoning_effort": "none"}  # cheaper and faster, and makes temperature legal again
_VISION_LESS: Final = re.compile(r"gpt-4(?!o|\.1)|gpt-3|o1-mini|o3-mini")

# What an id says about a model. Order matters: `gpt-4o-mini-tts` and `gpt-4o-transcribe` are no chat models.
_SKIPPED: Final = re.compile(
    "realtime|live|moderation|sora|codex|-audio|search|computer-use|deep-research|babbage|davinci|instruct|-pro"
)
_CAPABILITIES: Final = (
    (re.compile("embedding"), ("embedding",)),
    (re.compile("tts"), ("audio",)),
    (re.compile("gpt-image|chatgpt-image|dall-e"), ("image",)),
    (re.compile("whisper|transcribe"), ("transcription",)),
    (_SKIPPED, ()),
    (re.compile(r"gpt-|o\d|chatgpt-"), ("chat", "content")),
)

_DALL_E_SIZES: Final = {
    "1792x1024": "1536x1024",
    "1024x1792": "1024x1536",
    "512x512": "1024x1024",
    "256x256": "1024x1024",
}
_FIXED_SIZES: Final = ("1024x1024", "1536x1024", "1024x1536", "auto")
_FIXED_SIZE_MODELS: Final = re.compile(r"gpt-image-1|chatgpt-image")
_GPT_IMAGE: Final = re.compile("gpt-image|chatgpt-image")
_SIZE: Final = re.compile(r"(\d{2,4})x(\d{2,4})")
_QUALITIES: Final = {"standard": "medium", "hd": "high"}
_IMAGE_OPTIONS: Final = ("background", "output_format", "output_compression", "moderation", "complexity")

_OLD_VOICES: Final = frozenset({"alloy", "ash", "coral", "echo", "fable", "onyx", "nova", "sage", "shimmer"})
VOICES: Final = _OLD_VOICES | {"ballad", "verse", "marin", "cedar"}


class OpenAIProvider(OpenAIImages, OpenAISpeech):
    """OpenAI, and any server that speaks its format, by `base_url`."""

    default_base_url = "https://api.openai.com/v1"
    default_models: ClassVar[Mapping[str, str]] = {
        "chat": "gpt-6-luna",
        "image": "gpt-image-2.5-flare",
        "audio": "gpt-4o-mini-tts",
    }
    config_types: ClassVar[Mapping[str, ConfigType]] = {"organization": (str,), "project": (str,)}

    @classmethod
    def get_provider_name(cls) -> str:
        return "openai"

    def _auth(self) -> dict[str, str]:
        named = {"OpenAI-Organization": "organization", "OpenAI-Project": "project"}
        return {**super()._auth(), **{header: self.config[key] for header, key in named.items() if key in self.config}}

    def chat_rules(self, model: str, options: Mapping[str, Any]) -> ChatRules:
        """What a model of this family takes. Models of other makers, on compatible servers, take everything."""
        reasons = next((kind for pattern, kind in _FAMILIES if pattern.match(_base_name(model))), None)
        if reasons is None:
            return ChatRules()
        rules = ChatRules(max_tokens_field="max_completion_tokens")
        if reasons == "never":
            return rules.without("reasoning_effort", "verbosity")
        rules = rules.without("stop")
        effort = options.get("reasoning_effort")
        if reasons == "always" or effort not in (None, "none"):
            return rules.without(*SAMPLING)
        return rules if reasons == "asked" else replace(rules, extra=NO_EFFORT)

    def openai_route(self, endpoint: str, model: str) -> Route | None:
        """GPT image models refuse `response_format` and `style` (SDK 3.54.0, image_generate_params.py)."""
        route = super().openai_route(endpoint, model)
        if route is None or endpoint != IMAGES or not _GPT_IMAGE.search(model):
            return route
        return replace(route, prepare=lambda fields: self._in_newer_words(model, fields, ("size", "quality", "style")))

    def build_image(
        self, model: str, prompt: str, options: Mapping[str, Any]
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        """DALL·E's words, which callers speak, in those of the model."""
        return (_dall_e if "dall-e" in model else _gpt_image)(model, prompt, options)

    def build_speech(self, model: str, text: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """An unknown voice of a known model is replaced; a model of another maker knows its own voices."""
        body: dict[str, Any] = {"model": model, "input": text, "voice": "alloy", "response_format": "mp3"}
        dropped: list[str] = []
        known = {"gpt-4o-mini-tts": VOICES, "tts-1": _OLD_VOICES, "tts-1-hd": _OLD_VOICES}.get(model)
        for name, value in options.items():
            if value is None:
                continue
            if name == "speed":
                body["speed"] = min(max(float(value), 0.25), 4.0)
            elif (name == "voice" and known and value not in known) or (
                name == "instructions" and known is _OLD_VOICES
            ):
                dropped.append(name)
            elif name in ("voice", "response_format", "instructions"):
                body[name] = value
            else:
                dropped.append(name)
        return body, tuple(dropped)

    def parse_model(self, row: Mapping[str, Any]) -> ModelInfo | None:
        """A model whose shutdown date is past is not listed; one of an unknown kind has no capability."""
        model_id = str(row["id"])
        shutdown = parse_date(row.get("shutdown_date"))
        if shutdown is not None and shutdown <= datetime.now(UTC).date():
            return None
        price = find_price(model_id, "openai")
        return ModelInfo(
            model_id=model_id,
            display_name=price.name,
            description=f"To be shut down on {shutdown.isoformat()}." if shutdown else "",
            capabilities=capabilities_of(model_id),
            pricing_input=price.input,
            pricing_output=price.output,
            context_window=price.context_window,
        )


def capabilities_of(model_id: str) -> tuple[str, ...]:
    """What a model with this id can do; nothing where the id does not say."""
    name = _base_name(model_id.lower())
    found = next((what for pattern, what in _CAPABILITIES if pattern.search(name)), ())
    if "chat" not in found:
        return found
    if not re.match(r"gpt-|o\d|chatgpt-", name):
        return ()
    return found if _VISION_LESS.match(name) else (*found, "vision")


def _base_name(model: str) -> str:
    """`ft:gpt-4.1-mini:acme::abc` is a `gpt-4.1-mini`."""
    return model.split(":")[1] if model.startswith("ft:") else model


def _gpt_image(model: str, prompt: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    body: dict[str, Any] = {"model": model, "prompt": prompt}
    dropped: list[str] = []
    for name, value in options.items():
        if value is None:
            continue
        if name == "size":
            body["size"] = _gpt_image_size(model, str(value))
        elif name == "quality":
            body["quality"] = _gpt_image_quality(model, str(value))
        elif name == "style":
            body["prompt"] = f"{prompt}\n\nStyle: {value}"
        elif name == "n":
            body["n"] = min(int(value), 10)
        elif name in _IMAGE_OPTIONS:
            body[name] = value
        else:
            dropped.append(name)
    lost = [name for name in ("size", "quality") if body.get(name, "") is None]
    return {name: value for name, value in body.items() if value is not None}, (*dropped, *lost)


def _gpt_image_size(model: str, size: str) -> str | None:
    size = _DALL_E_SIZES.get(size, size)
    if size in _FIXED_SIZES:
        return size
    found = _SIZE.fullmatch(size)
    if found is None:
        return None
    width, height = int(found[1]), int(found[2])
    if _FIXED_SIZE_MODELS.match(model):
        return "1024x1024" if width == height else "1536x1024" if width > height else "1024x1536"
    longest, shortest = max(width, height), min(width, height)
    legal = width % 16 == 0 and height % 16 == 0 and longest <= 3 * shortest and longest <= 3840 and shortest <= 2160
    return size if legal else None


def _gpt_image_quality(model: str, quality: str) -> str | None:
    quality = _QUALITIES.get(quality, quality)
    if quality in ("xhigh", "max") and not re.match(r"gpt-image-2\.[5-9]", model):
        return "high"
    return quality if quality in ("low", "medium", "high", "xhigh", "max", "auto") else None


def _dall_e(model: str, prompt: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Only compatible servers have these models any more."""
    body: dict[str, Any] = {"model": model, "prompt": prompt, "response_format": "b64_json"}
    taken = ("size", "n") if model == "dall-e-2" else ("size", "quality", "style")
    asked = {name: value for name, value in options.items() if value is not None}
    body |= {name: value for name, value in asked.items() if name in taken}
    return body, tuple(name for name in asked if name not in taken and (name, asked[name]) != ("n", 1))
