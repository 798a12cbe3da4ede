"""Google Gemini (ai.google.dev/gemini-api, autumn 2026)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from io import BytesIO
from typing import Any, ClassVar, Final, get_args

from msgspec import structs

from src.ai.exceptions import ContentBlocked, EmptyReply, ProviderBadRequest, ProviderError, ProviderUnavailable
from src.ai.providers import errors, gemini_format, gemini_media, gemini_models
from src.ai.providers.base import ConfigType
from src.ai.providers.errors import Call
from src.ai.providers.gemini_format import JSONMode, Part
from src.ai.providers.media_bytes import decode_image, media_type
from src.ai.providers.passthrough import CHAT, EMBEDDINGS, IMAGES, Route
from src.ai.providers.payload import read_json
from src.ai.providers.sse import Event
from src.ai.providers.vendor import DRAIN_WAIT, MEDIA_LIMIT, Answer, Ask, HTTPVendor, interrupted, is_error
from src.ai.results import Media, ModelInfo, Reply, ReplyStream, ResultInfo, Usage

MOST_IMAGES: Final = 10
_CONFIGURED: Final = ("temperature", "max_tokens", "top_p", "top_k", "thinking_level", "thinking_budget")


# REST for every operation: `google-genai` 3.4.0 has one time-out for connecting and for the whole answer, reads answers
# without a limit (2.5 GB in 2 s), keeps the connection of an abandoned stream, takes an error in a list for an empty
# chunk, and refuses what is newer than itself, `responseFormat` included (_api_client.py, types.py, 2026-11-23).
class GeminiProvider(HTTPVendor):
    """Gemini and Gemma by `generateContent`, and any server that speaks it, by `base_url`."""

    default_base_url = "https://generativelanguage.googleapis.com/v1beta"
    speaks_wav = True
    default_models: ClassVar[Mapping[str, str]] = {
        "chat": "gemini-3.8-flash",
        "image": "gemini-3.1-flash-image",
        "audio": "gemini-3.8-flash-lite-tts",
    }
    config_types: ClassVar[Mapping[str, ConfigType]] = {
        "json_mode": get_args(JSONMode),
        "top_p": (int, float),
        "top_k": (int,),
        "thinking_level": (str,),
        "thinking_budget": (int,),
        "safety_settings": (list,),
    }

    @classmethod
    def get_provider_name(cls) -> str:
        return "gemini"

    def _auth(self) -> dict[str, str]:
        """In a header, as `?key=` would end up in logs."""
        return {"x-goog-api-key": self._header_key()}

    def openai_route(self, endpoint: str, model: str) -> Route | None:
        """The layer that speaks OpenAI's form has no speech (ai.google.dev, "OpenAI compatibility", autumn 2026)."""
        if endpoint not in (CHAT, EMBEDDINGS, IMAGES):
            return None
        return Route(
            url=f"{self._checked_base_url()}/openai/{endpoint}",
            headers={"Authorization": f"Bearer {self._header_key()}"},
            extra=self.config.get("extra_body", {}),
        )

    # -- texts -----------------------------------------------------------------------------------------------------

    async def chat(
        self, message: str, conversation_history: Sequence[Mapping[str, str]] | None = None, **kwargs: Any
    ) -> Reply:
        """The reply, without the model's thoughts. Options as in `BaseProvider.chat`, and those of `gemini_format`."""
        ask, dropped = self._chat_request("chat", message, conversation_history, kwargs)
        return await self._reply(ask, dropped)

    def stream_chat(
        self, message: str, conversation_history: Sequence[Mapping[str, str]] | None = None, **kwargs: Any
    ) -> ReplyStream:
        """`chat` as it comes. Nothing is sent before the first delta is asked for."""
        info = ResultInfo()
        return ReplyStream(self._deltas(message, conversation_history, kwargs, info), info)

    async def generate_content(self, prompt: str, **kwargs: Any) -> Reply:
        """Text for `prompt`; with `json_schema` by the strongest means that the model takes.

        One that refuses a means is asked by the next: responseJsonSchema, responseSchema, the prompt alone.
        """
        schema = kwargs.pop("json_schema", None)
        if schema is None:
            ask, dropped = self._chat_request("generate_content", prompt, None, kwargs)
            return await self._reply(ask, dropped)
        model, system, options = self._text_options("content", kwargs)
        mode: JSONMode = self.config.get("json_mode") or "schema"
        while True:
            body, dropped = gemini_format.build_content(model, prompt, system, options, schema, mode)
            try:
                return await self._reply(self._request("generate_content", model, body), dropped)
            except ProviderBadRequest as error:
                weaker = gemini_format.weaker_json_mode(mode, str(error.facts.get("reason")))
                if weaker is None:
                    raise
                mode = weaker

    # -- images and speech -----------------------------------------------------------------------------------------

    async def generate_image(self, prompt: str, **kwargs: Any) -> BytesIO:
        """The image as `Media`. A call makes one, so `n` are `n` calls at once, and `all` holds those that came.

        Raises:
            ContentBlocked: the vendor declined, or the model explained in words why there is no image.
            EmptyReply: nothing came, or the limit was reached before an image.
        """
        options = {**self.config.get("image", {}), **kwargs}
        model = self.resolve_model("image", options)
        options.pop("model", None)
        count = min(max(int(options.pop("n", None) or 1), 1), MOST_IMAGES)
        body, dropped = gemini_media.build_image(model, prompt, options)
        ask = self._request("generate_image", model, body, limit=MEDIA_LIMIT)
        made = await asyncio.gather(*(self._image(ask) for _ in range(count)), return_exceptions=True)
        failures = [result for result in made if isinstance(result, BaseException)]
        images = [result for result in made if isinstance(result, Media)]
        if not images:
            raise failures[0]
        first, *more = images
        usage = sum((image.info.usage or Usage() for image in images), Usage())
        whole = structs.replace(first.info, usage=usage, dropped_params=(*dropped, *(["n"] if failures else [])))
        for image in images:
            image.info = whole
        first.more = tuple(more)
        return first

    async def text_to_speech(self, text: str, **kwargs: Any) -> BytesIO:
        """The recording as `Media` that plays: raw PCM gets a WAV header.

        Raises:
            ProviderInvalidResponse: also the second answer held no audio; `EmptyReply` where it held nothing.
        """
        options = {**self.config.get("tts", {}), **kwargs}
        model = self.resolve_model("audio", options)
        options.pop("model", None)
        body, dropped = gemini_media.build_speech(model, text, options)
        ask = self._request("text_to_speech", model, body, limit=MEDIA_LIMIT)
        try:
            media = await self._recording(ask)
        except ProviderBadRequest as error:
            plain = gemini_media.without_response_format(ask.body or {}, str(error.facts.get("reason")))
            if plain is None:
                raise
            media = await self._recording(replace(ask, body=plain))
        media.info.usage = structs.replace(media.info.usage or Usage(), characters=len(text))
        media.info.dropped_params = dropped
        return media

    # -- models and the key ----------------------------------------------------------------------------------------

    async def validate_api_key(self) -> bool:
        """Whether the vendor accepts the key. Raises a `ProviderError` where it could not be asked.

        A 400 that is not `API_KEY_INVALID`, as for a country without Gemini, says nothing about the key.
        """
        return await self._accepts_key(Ask(operation="validate_api_key", path="/models", params={"pageSize": 1}))

    async def get_available_models(self) -> list[ModelInfo]:
        """The vendor's list, all pages, each id once."""
        ask = Ask(operation="get_available_models", path="/models", params={"pageSize": 1000})

        async def fetch(token: str | None) -> tuple[list[ModelInfo], str | None]:
            page = replace(ask, params={**ask.params, **({"pageToken": token} if token else {})})
            return await self._ask(
                page, lambda answer: gemini_models.parse_page(answer.json(), first=token is None), in_thread=True
            )

        models: dict[str, ModelInfo] = {}
        async with aclosing(self._pages(fetch, self._call(ask))) as pages:
            async for page in pages:
                models.update({model.model_id: model for model in page})
        return list(models.values())

    # -- requests --------------------------------------------------------------------------------------------------

    def _text_options(self, capability: str, kwargs: Mapping[str, Any]) -> tuple[str, str | None, dict[str, Any]]:
        """The model, the system message and the options: the caller's over the configuration's."""
        options: dict[str, Any] = {name: self.config[name] for name in _CONFIGURED if name in self.config}
        options |= {name: value for name, value in kwargs.items() if value is not None}
        return self.resolve_model(capability, options), options.pop("system_message", None), options

    def _chat_request(
        self, operation: str, message: str, history: Sequence[Mapping[str, str]] | None, kwargs: Mapping[str, Any]
    ) -> tuple[Ask, tuple[str, ...]]:
        capability = "content" if operation == "generate_content" else "chat"
        model, system, options = self._text_options(capability, kwargs)
        body, dropped = gemini_format.build_chat(model, message, history, system, options)
        return self._request(operation, model, body), dropped

    def _request(self, operation: str, model: str, body: Mapping[str, Any], **facts: Any) -> Ask:
        safety = self.config.get("safety_settings")
        if safety and operation != "text_to_speech":
            body = {**body, "safetySettings": safety}
        return Ask(
            operation=operation,
            path=gemini_format.build_path(model, "generateContent"),
            body=gemini_format.merge(body, self.config.get("extra_body", {})),
            model=gemini_format.model_name(model),
            **facts,
        )

    # -- answers ---------------------------------------------------------------------------------------------------

    async def _reply(self, ask: Ask, dropped: tuple[str, ...]) -> Reply:
        call = self._call(ask)

        def parse(answer: Answer) -> Reply:
            part = gemini_format.parse_answer(answer.json())
            _check_end(call, part, part.text)
            return Reply(part.text, part.info)

        reply = await self._ask(ask, parse)
        reply.info.dropped_params = dropped
        return reply

    async def _deltas(
        self,
        message: str,
        history: Sequence[Mapping[str, str]] | None,
        kwargs: Mapping[str, Any],
        info: ResultInfo,
    ) -> AsyncGenerator[str]:
        ask, info.dropped_params = self._chat_request("stream_chat", message, history, kwargs)
        path = gemini_format.build_path(ask.model or "", "streamGenerateContent")
        ask = replace(ask, path=path, params={"alt": "sse"}, accept="text/event-stream")
        call = self._call(ask)
        end, shown, whole = Part(), "", False
        async with aclosing(self._events(ask)) as events:
            async for event in events:
                whole = event.name == "answer"
                for part in _parse_event(call, event, shown):
                    end = end.plus(part)
                    info.usage = end.usage
                    if part.text:
                        shown = shown or part.text.strip()
                        yield part.text
                if end.finish or end.blocked:
                    await _read_on(events)
                    break
        dropped = info.dropped_params
        info.update(end.info)
        info.dropped_params = dropped
        if not (end.finish or end.blocked or whole):
            raise interrupted(call, "the connection was closed before the end of the reply.")
        _check_end(call, end, shown)

    async def _image(self, ask: Ask) -> Media:
        call = self._call(ask)

        def parse(answer: Answer) -> Media:
            part = gemini_format.parse_answer(answer.json())
            _check_image(call, part)
            data = decode_image(part.files[0].data)
            media = Media(data, media_type(data) or part.files[0].mime_type, part.info)
            media.info.usage = structs.replace(part.usage or Usage(), images=1)
            return media

        return await self._ask(ask, parse, in_thread=True)

    async def _recording(self, ask: Ask) -> Media:
        """The audio; asked for once more where the model answered in words or not at all, as it sometimes does.

        Nothing was recorded then, so nothing is paid for twice but the reading.
        """
        call = self._call(ask)

        def parse(answer: Answer) -> tuple[Part, Media | None]:
            part = gemini_format.parse_answer(answer.json())
            _check_blocked(call, part)
            return part, Media(*gemini_media.parse_speech(part.files), part.info) if part.files else None

        part, media = await self._ask(ask, parse, in_thread=True)
        if media is None:
            part, media = await self._ask(ask, parse, in_thread=True)
        if media is not None:
            return media
        if part.text.strip():
            raise errors.invalid_response(call, f"it is a text instead of audio: {part.text}")
        raise _empty(call, part)


# -- the end of an answer ----------------------------------------------------------------------------------------------


def _check_end(call: Call, part: Part, text: str) -> None:
    """Raise what the end of a reply says, unless it is a good one."""
    _check_blocked(call, part)
    if not text.strip():
        raise _empty(call, part)
    if part.broke_down:
        reason = f"the model broke off (finish reason: {part.finish}). {part.note}".strip()
        raise ProviderUnavailable(**_facts(call), reason=reason)


def _check_blocked(call: Call, part: Part) -> None:
    if part.finish_reason != "content_filter":
        return
    what = f"the prompt was blocked ({part.blocked})." if part.blocked else f"the answer was blocked ({part.finish})."
    reason = f"{what} {part.note}".strip()
    raise ContentBlocked(**_facts(call), usage=part.usage, reason=reason, finish_reason="content_filter")


def _check_image(call: Call, part: Part) -> None:
    """Words alone, or `NO_IMAGE`, are a refusal: the words say why."""
    _check_blocked(call, part)
    if part.files:
        return
    words = part.text.strip() or (part.finish == "NO_IMAGE" and (part.note or "it made no image (NO_IMAGE)."))
    if words and part.finish_reason != "length":
        raise ContentBlocked(**_facts(call), usage=part.usage, reason=words, finish_reason="content_filter")
    raise _empty(call, part)


def _empty(call: Call, part: Part) -> EmptyReply:
    """It names the vendor's own finish reason. One of a breakdown may go away by itself."""
    facts = {**_facts(call), "usage": part.usage, "temporary": part.finish_reason == "error"}
    return EmptyReply(**facts, finish_reason=part.finish or "none")


def _facts(call: Call) -> dict[str, Any]:
    return {"provider": call.provider, "operation": call.operation, "model": call.model}


# -- streams -----------------------------------------------------------------------------------------------------------


def _parse_event(call: Call, event: Event, shown: str) -> list[Part]:
    """The pieces of the reply in one event; a server that knows no `alt=sse` sends all of them in one list."""
    try:
        data = read_json(event.data)
        items = data if isinstance(data, list) else [data]
        for item in items:
            if is_error(item):
                raise errors.from_body(call, item, {})
        return [gemini_format.parse_answer(item) for item in items]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        reason = "an event of the stream can't be read."
        raise interrupted(call, reason) if shown else errors.invalid_response(call, reason) from error


async def _read_on(events: AsyncGenerator[Event]) -> None:
    """Read what follows the end of the reply, so that its connection can be used again; without waiting for it."""
    with suppress(TimeoutError, ProviderError):
        async with asyncio.timeout(DRAIN_WAIT):
            async for _ in events:
                pass
