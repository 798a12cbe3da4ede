"""OpenRouter (openrouter.ai/docs, autumn 2026): models of nearly every vendor behind one key."""

from __future__ import annotations

import asyncio
import operator
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import reduce
from math import log
from typing import Any, ClassVar, Final

from django.utils.encoding import iri_to_uri
from msgspec import structs

from src.ai.exceptions import ContentBlocked, InvalidRequest, ProviderBadRequest, ProviderError, ProviderModelNotFound
from src.ai.providers.base import ConfigType
from src.ai.providers.errors import REASON_LENGTH
from src.ai.providers.openai import VOICES
from src.ai.providers.openai_format import SAMPLING, ChatRules, JSONMode, parse_chat, parse_date
from src.ai.providers.openai_media import OpenAIImages, OpenAISpeech
from src.ai.providers.passthrough import IMAGES, SPEECH, Fields, Route, to_raw
from src.ai.providers.payload import as_count, as_text
from src.ai.providers.prices import per_million
from src.ai.providers.thinking import strip_thoughts
from src.ai.providers.vendor import Answer, Ask
from src.ai.results import Media, ModelInfo, ResultInfo, Usage

HIDDEN: Final = {"exclude": True}  # the value of `reasoning` that keeps thoughts out of the answer
_ATTRIBUTION: Final = {
    "HTTP-Referer": "site_url",
    "X-OpenRouter-Title": "app_name",
    "X-OpenRouter-Categories": "app_categories",
}
# OpenAI's reasoning models list none of these in `supported_parameters`; OpenRouter drops them silently.
_NO_SAMPLING: Final = re.compile(r"openai/(?:o\d|gpt-5(?:-|$)|gpt-5\.[5-9]|gpt-[6-9])")
_NO_ENDPOINT: Final = re.compile("No endpoints found that", re.IGNORECASE)
_FORMAT_WORDS: Final = re.compile(r"response_format|\bformat\b|\bmp3\b|No endpoints found that", re.IGNORECASE)
_FORMATS: Final = (("response_format", "mp3"), ("response_format", "pcm"))
_MODERATION: Final = re.compile("guard|moderation|content-safety")

_RATIOS: Final = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
_SIZE: Final = re.compile(r"([1-9]\d{1,3})x([1-9]\d{1,3})")
_TIERS: Final = ("512", "768", "1K", "1.5K", "2K", "4K")
_QUALITIES: Final = {"standard": "medium", "hd": "high"} | {
    name: name for name in ("auto", "low", "medium", "high", "xhigh", "max")
}
_IMAGE_FIELDS: Final = ("aspect_ratio", "resolution", "seed", "background", "output_format", "output_compression")
MOST_IMAGES: Final = 10  # a request


class OpenRouterProvider(OpenAIImages, OpenAISpeech):
    """OpenRouter.

    Of `config`: `site_url`, `app_name` and `app_categories` say who is asking; `provider` chooses among the hosts of a
    model (OpenRouter's own object); `image_api` is "images", or "chat" for a model that makes images in chat only.
    """

    public_model_list = True
    default_base_url = "https://openrouter.ai/api/v1"
    default_models: ClassVar[Mapping[str, str]] = {
        "chat": "openai/gpt-6-luna",
        "image": "google/gemini-3.1-flash-image",
        "audio": "google/gemini-3.8-flash-tts",
    }
    config_types: ClassVar[Mapping[str, ConfigType]] = {
        "site_url": (str,),
        "app_name": (str,),
        "app_categories": (str,),
        "provider": (dict,),
        "image_api": (str,),
    }

    def __init__(self, api_key: str, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(api_key, config)
        image_api = self.config.get("image_api", "images")
        if image_api not in ("images", "chat"):
            raise self._invalid_config("'image_api' must be 'images' or 'chat'.")
        self.images_path = "/images" if image_api == "images" else "/chat/completions"

    @classmethod
    def get_provider_name(cls) -> str:
        return "openrouter"

    def _auth(self) -> dict[str, str]:
        said = {header: _ascii(self.config.get(key, "")) for header, key in _ATTRIBUTION.items()}
        return {**super()._auth(), **{header: value for header, value in said.items() if value}}

    async def validate_api_key(self) -> bool:
        """Asks for the key itself: the list of models is open to all. A key whose limit is spent is a good key."""
        return await self._accepts_key(Ask(operation="validate_api_key", path="/key"))

    # -- chat ------------------------------------------------------------------------------------------------------

    def chat_rules(self, model: str, options: Mapping[str, Any]) -> ChatRules:
        """What a host does not support is left out by OpenRouter, so only what is known is said."""
        refused = SAMPLING | {"stop"} if _NO_SAMPLING.match(model) else frozenset[str]()
        return ChatRules(refused=refused, extra={"reasoning": HIDDEN, **self._routing()}, hides_thoughts=True)

    def _routing(self) -> dict[str, Any]:
        return {"provider": self.config["provider"]} if "provider" in self.config else {}

    def _with_json(self, body: Mapping[str, Any], schema: Mapping[str, Any], mode: JSONMode) -> dict[str, Any]:
        """Only hosts that honour `response_format` are asked, and so nothing is sent that some of them do not know."""
        asked = super()._with_json(body, schema, mode)
        if "response_format" not in asked:
            return asked
        if asked.get("reasoning") == HIDDEN:  # thoughts come in a field of their own, which nobody reads
            del asked["reasoning"]
        return {**asked, "provider": {"require_parameters": True, **asked.get("provider", {})}}

    def _refuses_json_mode(self, error: ProviderError) -> bool:
        """No host of the model takes all that was asked for: 404 "No endpoints found that can handle …"."""
        unroutable = isinstance(error, ProviderModelNotFound) and _NO_ENDPOINT.search(str(error.facts.get("reason")))
        return bool(unroutable) or super()._refuses_json_mode(error)

    # -- images ----------------------------------------------------------------------------------------------------

    async def generate_image(self, prompt: str, **kwargs: Any) -> Media:
        """As the base has it. Where a model makes one image a request, `n` of them are asked for; those that fail
        after the first are missing from the result, as those that came are paid for.
        """
        count = _count(kwargs.get("n") or self.config.get("image", {}).get("n") or 1)
        make, one = super().generate_image, {**kwargs, "n": 1}
        if self.images_path == "/images":
            try:
                return await make(prompt, **kwargs)
            except ProviderBadRequest:
                if count == 1:
                    raise
        first = await make(prompt, **one)
        others = await asyncio.gather(*(make(prompt, **one) for _ in range(count - 1)), return_exceptions=True)
        return _as_one([item for item in (first, *others) if isinstance(item, Media)])

    def openai_path(self, endpoint: str) -> str | None:
        """What is made in chat only has to be asked for in chat."""
        return None if endpoint == IMAGES and self.images_path != "/images" else super().openai_path(endpoint)

    def openai_route(self, endpoint: str, model: str) -> Route | None:
        route = super().openai_route(endpoint, model)
        if route is None:
            return None

        def prepare(fields: Fields) -> None:
            if "provider" in self.config:
                fields.setdefault("provider", to_raw(self.config["provider"]))
            if endpoint == IMAGES:
                self._in_newer_words(model, fields, ("quality", "style"))
            elif endpoint == SPEECH:
                fields.setdefault("response_format", to_raw("mp3"))  # as clients expect; here it would be pcm

        return replace(route, prepare=prepare)

    def build_image(
        self, model: str, prompt: str, options: Mapping[str, Any]
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        """DALL·E's words in OpenRouter's: pixels become a ratio and a tier, which hosts fit to their own."""
        body: dict[str, Any] = {"model": model, "prompt": prompt}
        dropped: list[str] = []
        for name, value in options.items():
            if value is None or (name, value) == ("size", "auto"):
                continue
            if name == "size" and (sized := _size(str(value))):
                body = {**sized, **body}
            elif name == "quality" and value in _QUALITIES:
                body["quality"] = _QUALITIES[value]
            elif name == "style":
                body["prompt"] = f"{prompt}\n\nStyle: {value}"
            elif name == "n":
                body |= {"n": _count(value)} if _count(value) > 1 else {}
            elif name in _IMAGE_FIELDS:
                body[name] = value
            else:
                dropped.append(name)
        if self.images_path == "/images":
            return {**body, **self._routing()}, tuple(dropped)
        lost = [name for name in ("quality", *_IMAGE_FIELDS[2:]) if name in body]
        return {**_image_by_chat(body), **self._routing()}, (*dropped, *lost)

    def _parse_images(self, answer: Answer) -> tuple[list[str], ResultInfo]:
        if self.images_path == "/images":
            return super()._parse_images(answer)
        data = answer.json()
        part = parse_chat(data)
        found = data["choices"][0]["message"].get("images") or ()
        images = [url for item in found if (url := (item.get("image_url") or {}).get("url"))]
        if not images:
            call, text = (
                self._call(Ask(operation="generate_image", path="", model=part.model)),
                strip_thoughts(part.text),
            )
            self._check_end(call, part, text)
            raise ContentBlocked(
                provider=call.provider, operation=call.operation, model=call.model, reason=text[:REASON_LENGTH]
            )
        return images, ResultInfo(
            usage=structs.replace(part.usage or Usage(), images=len(images)),
            cost=part.cost,
            model=part.model,
            response_id=part.response_id,
        )

    # -- speech ----------------------------------------------------------------------------------------------------

    async def text_to_speech(self, text: str, **kwargs: Any) -> Media:
        """As the base has it; a model that refuses MP3 is asked for PCM, which is wrapped as WAV."""
        options = {**self.config.get("tts", {}), **kwargs}
        asked, _ = self.build_speech(self.resolve_model("audio", dict(options)), text, options)
        try:
            return await super().text_to_speech(text, **kwargs)
        except (ProviderBadRequest, ProviderModelNotFound) as error:
            refused = _FORMAT_WORDS.search(str(error.facts.get("reason")))
            if asked["response_format"] == "pcm" or not refused:
                raise
        media = await super().text_to_speech(text, **{**kwargs, "response_format": "pcm"})
        if "response_format" in kwargs:
            media.info.dropped_params = (*media.info.dropped_params, "response_format")
        return media

    def build_speech(self, model: str, text: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Each maker has voices of its own; OpenAI's are replaced by the maker's default."""
        is_gemini, is_openai = model.startswith("google/"), model.startswith("openai/")

        def has_voice(name: object) -> bool:
            return is_openai or name not in VOICES

        body: dict[str, Any] = {"model": model, "input": text}
        # Gemini's speech has been PCM only, at OpenRouter too (uncertain for 3.8).
        body["response_format"] = "pcm" if is_gemini else "mp3"
        if is_gemini or is_openai:
            body["voice"] = "Kore" if is_gemini else "alloy"
        dropped: list[str] = []
        for name, value in options.items():
            if value is None or (name, value) == ("speed", 1):
                continue
            if name == "speed" and not is_gemini:
                body["speed"] = min(max(float(value), 0.25), 4.0)
            elif name == "instructions" or (name, value) in _FORMATS or (name == "voice" and has_voice(value)):
                body[name] = value
            else:
                dropped.append(name)
        return {**body, **self._routing()}, tuple(dropped)

    # -- models ----------------------------------------------------------------------------------------------------

    async def get_available_models(self) -> list[ModelInfo]:
        """The whole list, in one answer; it needs no key. Without the parameter it holds models of text only."""
        ask = Ask(operation="get_available_models", path="/models", params={"output_modalities": "all"})
        return await self._ask(ask, lambda answer: self.parse_models(answer.json()), in_thread=True)

    def parse_model(self, row: Mapping[str, Any]) -> ModelInfo | None:
        """Any field may be missing. Variants for batches and models past their date are left out."""
        model_id = str(row["id"])
        expires = parse_date(row.get("expiration_date"))
        if model_id.endswith(":batch") or (expires and expires < datetime.now(UTC).date()):
            return None
        capabilities = _capabilities(model_id, row.get("architecture") or {})
        top = row.get("top_provider") or {}
        input_, output = _prices(model_id, row.get("pricing") or {}, capabilities)
        note = f"To be withdrawn on {expires}. " if expires else ""
        return ModelInfo(
            model_id=model_id,
            display_name=as_text(row.get("name")),
            description=f"{note}{as_text(row.get('description'))}".strip(),
            capabilities=capabilities,
            pricing_input=input_,
            pricing_output=output,
            context_window=as_count(row.get("context_length")) or as_count(top.get("context_length")),
            max_tokens=as_count(top.get("max_completion_tokens")),
        )


# -- pieces ------------------------------------------------------------------------------------------------------------


def _ascii(text: str) -> str:
    """`text` as a header may carry it: a URL is escaped, accents go, letters of other scripts are left out."""
    plain = iri_to_uri(text) if "://" in text else unicodedata.normalize("NFKD", text)
    return "".join(char for char in plain if char.isascii() and char.isprintable()).strip()


def _count(value: object) -> int:
    try:
        return min(max(int(str(value)), 1), MOST_IMAGES)
    except ValueError:
        raise InvalidRequest(reason="'n' must be a whole number.", attr="n") from None


def _size(size: str) -> dict[str, str]:
    """A tier, or pixels as the nearest ratio and tier: 1024 to 1792 on the longer side is "1K", as DALL·E had it."""
    if size in _TIERS:
        return {"resolution": size}
    if not (found := _SIZE.fullmatch(size)):
        return {}
    width, height = int(found[1]), int(found[2])
    longest = max(width, height)
    nearest = min(_RATIOS, key=lambda ratio: abs(log(width / height) - log(_ratio(ratio))))
    return {"aspect_ratio": nearest, "resolution": "1K" if longest <= 1792 else "2K" if longest <= 2560 else "4K"}


def _ratio(ratio: str) -> float:
    width, _, height = ratio.partition(":")
    return int(width) / int(height)


def _image_by_chat(body: Mapping[str, Any]) -> dict[str, Any]:
    """The older way to an image: the same wish as a chat completion."""
    shape = {"aspect_ratio": body.get("aspect_ratio"), "image_size": body.get("resolution")}
    asked = {name: value for name, value in shape.items() if value}
    return {
        "model": body["model"],
        "messages": [{"role": "user", "content": body["prompt"]}],
        "modalities": ["image", "text"],
        **({"image_config": asked} if asked else {}),
    }


def _as_one(images: list[Media]) -> Media:
    """The first of several answers, with the others and the sums of what they cost."""
    first, *more = images
    usages = [image.info.usage for image in images if image.info.usage]
    costs = [image.info.cost for image in images if image.info.cost is not None]
    usage = reduce(operator.add, usages) if usages else None
    whole = structs.replace(first.info, usage=usage, cost=sum(costs, Decimal(0)) if costs else None)
    for image in images:
        image.info = whole
    first.more = tuple(more)
    return first


def _capabilities(model_id: str, architecture: Mapping[str, Any]) -> tuple[str, ...]:
    """What a model makes. One of images or audio is nothing else: activating it would switch the chat model off."""
    before, _, after = str(architecture.get("modality") or "").partition("->")
    inputs = architecture.get("input_modalities") or before.split("+")
    outputs = architecture.get("output_modalities") or after.split("+")
    is_router = model_id.startswith("openrouter/") and "text" in outputs
    if not is_router:
        if "image" in outputs:
            return ("image",)
        if "speech" in outputs or "audio" in outputs:
            return ("audio",)
        for name, capability in (("embeddings", "embedding"), ("transcription", "transcription")):
            if name in outputs:
                return (capability,)
    if "text" not in outputs:
        return ()
    if _MODERATION.search(model_id):
        return ("moderation",)
    return ("chat", "content", "vision") if "image" in inputs else ("chat", "content")


def _prices(
    model_id: str, pricing: Mapping[str, Any], capabilities: tuple[str, ...]
) -> tuple[Decimal | None, Decimal | None]:
    """US$ per 1M tokens in and out. Speech is priced per character in the same fields, so it stays unknown, and a
    price of zero means "free" only where nothing else is billed.
    """
    if model_id.endswith(":free"):
        return Decimal(0), Decimal(0)
    if "audio" in capabilities or "transcription" in capabilities:
        return None, None
    input_, output = per_million(pricing.get("prompt")), per_million(pricing.get("completion"))
    if "image" in capabilities:
        return input_ or None, output or None
    elsewhere = [per_million(pricing[name]) for name in ("request", "image_output") if pricing.get(name)]
    return (None, None) if input_ == output == 0 and any(price != 0 for price in elsewhere) else (input_, output)
