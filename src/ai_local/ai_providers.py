"""The provider of this app. Nothing in `src.ai` knows of it: the registry finds it in this module, by its class."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from django.utils.translation import gettext as _

from src.ai.exceptions import EmptyReply, InvalidRequest, ProviderModelNotFound
from src.ai.providers.base import OPERATIONS, BaseProvider
from src.ai.results import Article, Media, ModelInfo, Reply, ReplyStream, ResultInfo, Usage
from src.ai_local import card, catalogue, chat_request, llm, packages, speech, structure


class LocalProvider(BaseProvider):
    """Small engines in this process: no key, no network. Their packages are imported when they are first used."""

    requires_api_key = False
    speaks_wav = True

    @classmethod
    def get_provider_name(cls) -> str:
        return packages.PROVIDER

    async def chat(
        self, message: str, conversation_history: Sequence[Mapping[str, str]] | None = None, **kwargs: Any
    ) -> Reply:
        stream = self.stream_chat(message, conversation_history, **kwargs)
        async for _delta in stream:
            pass
        return Reply(stream.text, stream.info)

    def stream_chat(
        self, message: str, conversation_history: Sequence[Mapping[str, str]] | None = None, **kwargs: Any
    ) -> ReplyStream:
        info = ResultInfo()
        return ReplyStream(self._generate("chat", message, conversation_history, kwargs, info), info)

    async def generate_content(self, prompt: str, **kwargs: Any) -> Reply:
        info = ResultInfo()
        stream = ReplyStream(self._generate("content", prompt, None, kwargs, info), info)
        async for _delta in stream:
            pass
        cut = info.finish_reason == "length" and kwargs.get("json_schema") is not None
        return Reply(structure.close_json(stream.text) if cut else stream.text, info)

    async def generate_seo_content(
        self,
        topic: str,
        *,
        word_count: int | None = None,
        tone: str | None = None,
        keywords: Sequence[str] = (),
        language: str = "en",
        **kwargs: Any,
    ) -> dict[str, Any]:
        words = min(word_count or structure.DEFAULT_WORDS, structure.MAX_WORDS)
        ours: dict[str, Any] = {
            "json_schema": structure.build_article_schema(words, with_keywords=not keywords),
            "max_tokens": structure.count_article_tokens(words),
        }
        article = await super().generate_seo_content(
            topic, word_count=words, tone=tone, keywords=keywords, language=language, **{**ours, **kwargs}
        )
        if isinstance(article, Article) and (word_count or 0) > words:
            article.info.dropped_params += ("word_count",)
        return article

    async def generate_image(self, prompt: str, **kwargs: Any) -> Media:
        self._check_model(kwargs, "image_model", catalogue.IMAGE_ID)
        options = {**self.config.get("image", {}), **_given(kwargs)}
        size = card.parse_size(options.get("size"))
        count = options.get("n", 1)
        if not 1 <= count <= card.MAX_IMAGES:
            raise InvalidRequest(attr="n", reason=_("n must be from 1 to {most}.").format(most=card.MAX_IMAGES))
        info = ResultInfo(
            usage=Usage(images=count),
            model=catalogue.IMAGE_ID,
            dropped_params=_unknown(kwargs, "size", "n"),
            placeholder=True,
        )
        cards = [
            Media(await asyncio.to_thread(card.draw_card, prompt, size, number=number, of=count), "image/png", info)
            for number in range(1, count + 1)
        ]
        cards[0].more = tuple(cards[1:])
        return cards[0]

    async def text_to_speech(self, text: str, **kwargs: Any) -> Media:
        self._check_model(kwargs, "audio_model", catalogue.SPEECH_ID)
        options = {**self.config.get("tts", {}), **_given(kwargs)}
        voice = options.get("voice")
        spoken = await speech.speak(text, voice=voice, speed=options.get("speed", 1.0))
        foreign = ("voice",) if speech.is_foreign(voice) else ()
        info = ResultInfo(
            usage=Usage(characters=len(text), audio_seconds=round(spoken.seconds, 3)),
            model=catalogue.SPEECH_ID,
            dropped_params=(*_unknown(kwargs, "voice", "speed"), *foreign),
        )
        return Media(spoken.wav, "audio/wav", info)

    async def validate_api_key(self) -> bool:
        return True

    async def get_available_models(self) -> list[ModelInfo]:
        return catalogue.get_models()

    # -- shared ----------------------------------------------------------------------------------------------------

    async def _generate(
        self,
        capability: str,
        message: str,
        history: Sequence[Mapping[str, str]] | None,
        kwargs: Mapping[str, Any],
        info: ResultInfo,
    ) -> AsyncIterator[str]:
        info.model = self._check_model(kwargs, f"{capability}_model", catalogue.get_llm_id())
        info.dropped_params = _unknown(kwargs, *chat_request.OPTIONS)
        request = chat_request.build(message, history, {**self.config, **_given(kwargs)})
        empty = True
        async for delta in llm.stream(request, info):
            empty = empty and not delta.strip()
            yield delta
        if empty:
            raise EmptyReply(
                provider=packages.PROVIDER, operation=OPERATIONS[capability], finish_reason=info.finish_reason
            )

    def _check_model(self, kwargs: Mapping[str, Any], config_key: str, served: str) -> str:
        asked = kwargs.get("model") or self.config.get(config_key) or served
        if asked != served:
            reason = _("here it is '{model}' that serves. Synchronise the models, or see LOCAL_GGUF.")
            raise ProviderModelNotFound(provider=packages.PROVIDER, model=asked, reason=reason.format(model=served))
        return served


def _given(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if value is not None}


def _unknown(kwargs: Mapping[str, Any], *known: str) -> tuple[str, ...]:
    return tuple(sorted(_given(kwargs).keys() - {"model", *known}))
