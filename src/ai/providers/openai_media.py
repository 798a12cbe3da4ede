"""Images and speech in OpenAI's form, for vendors on `OpenAICompatible` that have them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from msgspec import structs

from src.ai.providers import errors
from src.ai.providers.media_bytes import decode_image, media_type, playable
from src.ai.providers.openai_compatible import OpenAICompatible
from src.ai.providers.openai_format import find_usage, parse_decimal, parse_usage
from src.ai.providers.passthrough import IMAGES, SPEECH, Fields, text_in, to_raw
from src.ai.providers.vendor import MEDIA_LIMIT, Answer, Ask
from src.ai.results import Media, ResultInfo, Usage

# OpenAI's formats without a container; `opus` comes in Ogg (SDK 3.54.0, speech_create_params.py).
_RAW_FORMATS: Final = frozenset({"pcm"})


class OpenAIImages(OpenAICompatible):
    """Adds `generate_image`. A vendor says in `build_image` what its models take."""

    images_path: str = "/images/generations"

    def build_image(
        self, model: str, prompt: str, options: Mapping[str, Any]
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The body for one request, and the names of the options that it had to leave out."""
        raise NotImplementedError

    def openai_path(self, endpoint: str) -> str | None:
        return self.images_path if endpoint == IMAGES else super().openai_path(endpoint)

    def _in_newer_words(self, model: str, fields: Fields, names: Sequence[str]) -> None:
        """Say what DALL·E's fields `names` ask for as the model takes it; images come in base64 whatever is asked."""
        prompt = text_in(fields, "prompt")
        if prompt is None:
            return
        asked = {name: text_in(fields, name) for name in names}
        body, _ = self.build_image(model, prompt, asked)
        fields.pop("response_format", None)
        fields.pop("style", None)
        fields.update({name: to_raw(body[name]) for name in ("prompt", *names) if name in body})

    async def generate_image(self, prompt: str, **kwargs: Any) -> Media:
        """The image as `Media`; with `n` > 1, `all` holds each. A URL in the answer is downloaded at once."""
        options = {**self.config.get("image", {}), **kwargs}
        model = self.resolve_model("image", options)
        body, dropped = self.build_image(model, prompt, options)
        ask = Ask(
            operation="generate_image",
            path=self.images_path,
            body=self._with_extra_body(body),
            model=model,
            limit=MEDIA_LIMIT,
        )
        (images, info), refused = await self._without_refused(ask, lambda asked: self._ask(asked, self._parse_images))
        info.dropped_params = (*dropped, *refused)
        info.model = info.model or model
        try:
            async with asyncio.TaskGroup() as group:
                files = [group.create_task(self._image_bytes(image)) for image in images]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        made = [file.result() for file in files]
        first, *more = [Media(data, media_type(data) or "application/octet-stream", info) for data in made]
        first.more = tuple(more)
        return first

    def _parse_images(self, answer: Answer) -> tuple[list[str], ResultInfo]:
        data = answer.json()
        images = parse_images(data)
        if not images:
            raise ValueError("it holds no image")
        used = find_usage(data)
        usage = structs.replace(parse_usage(used) or Usage(), images=len(images))
        return images, ResultInfo(usage=usage, cost=parse_decimal(used.get("cost")) if used else None)

    async def _image_bytes(self, image: str) -> bytes:
        if image.startswith(("https://", "http://")):
            return (await self._download(image, "generate_image")).data
        try:
            return decode_image(image)
        except ValueError as error:
            raise errors.invalid_response(self._call(Ask(operation="generate_image", path="")), str(error)) from error


class OpenAISpeech(OpenAICompatible):
    """Adds `text_to_speech`. A vendor says in `build_speech` what its models take."""

    speech_path: ClassVar[str] = "/audio/speech"

    def build_speech(self, model: str, text: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The body for one request, and the names of the options that it had to leave out."""
        raise NotImplementedError

    def openai_path(self, endpoint: str) -> str | None:
        return self.speech_path if endpoint == SPEECH else super().openai_path(endpoint)

    async def text_to_speech(self, text: str, **kwargs: Any) -> Media:
        """The recording as `Media` that plays: raw PCM gets a WAV header."""
        options = {**self.config.get("tts", {}), **kwargs}
        model = self.resolve_model("audio", options)
        options.pop("model", None)
        body, dropped = self.build_speech(model, text, options)
        body = self._with_extra_body(body)
        ask = Ask(
            operation="text_to_speech",
            path=self.speech_path,
            body=body,
            model=model,
            accept="*/*",
            limit=MEDIA_LIMIT,
        )
        raw = body.get("response_format") in _RAW_FORMATS
        media, refused = await self._without_refused(
            ask, lambda asked: self._ask(asked, lambda answer: parse_speech(answer, raw=raw))
        )
        media.info.usage = Usage(characters=len(text))
        media.info.model = model
        media.info.dropped_params = (*dropped, *refused)
        return media


def parse_images(data: Mapping[str, Any]) -> list[str]:
    """Each image of an answer: base64, a `data:` URL or a URL."""
    rows: Sequence[Mapping[str, Any]] = data["data"]
    found = (row.get("b64_json") or row.get("url") for row in rows)
    return [image for image in found if image and isinstance(image, str)]


def parse_speech(answer: Answer, *, raw: bool) -> Media:
    """The audio of an answer. `raw` says that headerless PCM was asked for.

    Raises:
        ValueError: it is no audio.
        ErrorInAnswer: it is an error.
    """
    if "json" in answer.content_type:
        answer.json()
        raise ValueError("it is JSON and no audio")
    is_named = answer.content_type.startswith("audio/")
    data, mime_type = playable(answer.content, "audio/pcm" if raw and not is_named else answer.content_type)
    info = ResultInfo(response_id=answer.headers.get("x-generation-id"))
    return Media(data, mime_type, info)
