"""The contract between this app and a vendor (strategy), and what all vendors share (template methods)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from io import BytesIO
from typing import Any, ClassVar, Final

from msgspec import structs

from src.ai.exceptions import ContentInvalid, InvalidConfig, OperationNotSupported
from src.ai.providers import content
from src.ai.providers.attempts import Attempts
from src.ai.providers.passthrough import Route
from src.ai.results import Article, ModelInfo, Reply, ReplyStream, ResultInfo, Usage

# Which operation (a method) serves which capability (data).
OPERATIONS: Final[Mapping[str, str]] = {
    "chat": "chat",
    "content": "generate_seo_content",
    "image": "generate_image",
    "audio": "text_to_speech",
}

# What a `config` key takes: values of one of these types, or one of these words.
ConfigType = tuple[type | str, ...]

# `config` keys that mean the same for every provider. A provider adds its own in `config_types`.
COMMON_CONFIG: Final[Mapping[str, ConfigType]] = {
    "base_url": (str,),
    "chat_model": (str,),
    "content_model": (str,),
    "image_model": (str,),
    "audio_model": (str,),
    "tts": (dict,),
    "image": (dict,),
    "temperature": (int, float),
    "max_tokens": (int,),
    "timeout": (int, float),
    "extra_body": (dict,),
}


class BaseProvider(ABC):
    """One vendor. A subclass whose name ends in `Provider` is found and registered under `get_provider_name()`.

    Implement the operations the vendor has; the others raise `OperationNotSupported`. What a provider can do is
    derived from what it overrides. An instance is cheap and belongs to one call: connections live in `src.core.http`.

    Args:
        api_key: the key that pays for this call; travels with each request, never with a client.
        config: `AIProvider.config` under `AIModel.config`; an unknown or mistyped key raises `InvalidConfig`.
    """

    requires_api_key: ClassVar[bool] = True
    speaks_wav: ClassVar[bool] = False  # and nothing else: other formats are refused before anything is made
    public_model_list: ClassVar[bool] = False  # `get_available_models` works without a key
    config_types: ClassVar[Mapping[str, ConfigType]] = {}
    # The service puts its own here. A provider that does not tell it of its requests is taken to make one a call.
    attempts = Attempts()

    def __init__(self, api_key: str, config: Mapping[str, Any] | None = None) -> None:
        self.api_key = api_key
        self.config = self._check_config(config or {})

    @classmethod
    @abstractmethod
    def get_provider_name(cls) -> str:
        """The name this provider is registered under: the slug of its `AIProvider` row."""

    # -- operations ------------------------------------------------------------------------------------------------

    async def chat(
        self, message: str, conversation_history: Sequence[Mapping[str, str]] | None = None, **kwargs: Any
    ) -> str:
        """The reply to `message` after `conversation_history` (`[{"role", "content"}]`, oldest first).

        Keyword arguments: `model` (the vendor's id), `system_message`, `temperature`, `max_tokens`.
        """
        raise self._not_supported("chat")

    def stream_chat(
        self, message: str, conversation_history: Sequence[Mapping[str, str]] | None = None, **kwargs: Any
    ) -> ReplyStream:
        """`chat` as text deltas. A provider without streaming sends its whole reply as one."""
        info = ResultInfo()
        return ReplyStream(self._one_delta(message, conversation_history, kwargs, info), info)

    async def _one_delta(
        self,
        message: str,
        conversation_history: Sequence[Mapping[str, str]] | None,
        kwargs: dict[str, Any],
        info: ResultInfo,
    ) -> AsyncIterator[str]:
        reply = await self.chat(message, conversation_history, **kwargs)
        if isinstance(reply, Reply):
            info.update(reply.info)
        yield str(reply)

    async def generate_content(self, prompt: str, **kwargs: Any) -> str:
        """Free text for `prompt`; JSON of the schema where `json_schema` is given.

        Keyword arguments: those of `chat`, and `json_schema` (a JSON Schema in OpenAI's strict dialect).
        """
        raise self._not_supported("generate_content")

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
        """An `Article` about `topic` with all six keys, in `language`.

        An answer that can't be used goes back to the model once; after that `ContentInvalid` says what is wrong.
        """
        kwargs = {"system_message": content.SYSTEM_MESSAGE, "json_schema": content.CONTENT_SCHEMA, **kwargs}
        prompt = content.build_content_prompt(
            topic, word_count=word_count, tone=tone, keywords=keywords, language=language
        )
        first = await self.generate_content(prompt, **kwargs)
        try:
            return Article(content.parse_article(first, keywords=keywords), _info(first))
        except ValueError as error:
            problem = str(error)
        second = await self.generate_content(content.build_repair_prompt(first, problem), **kwargs)
        info = structs.replace(_info(second), usage=_sum_usage(_info(first).usage, _info(second).usage))
        try:
            return Article(content.parse_article(second, keywords=keywords), info)
        except ValueError as error:
            raise ContentInvalid(
                provider=self.get_provider_name(), operation="generate_seo_content", reason=str(error)
            ) from error

    async def generate_image(self, prompt: str, **kwargs: Any) -> BytesIO:
        """An image of `prompt`, as `Media`.

        Keyword arguments: `model`, `size` ("1024x1024"), `quality` ("standard" | "hd"), `style`, `n`.
        """
        raise self._not_supported("generate_image")

    async def text_to_speech(self, text: str, **kwargs: Any) -> BytesIO:
        """`text` spoken, as `Media` that plays.

        Keyword arguments: `model`, `voice`, `speed` (1.0 is the voice's own pace).
        """
        raise self._not_supported("text_to_speech")

    async def validate_api_key(self) -> bool:
        """Whether the vendor accepts the key. A vendor that can't be asked raises a `ProviderError`."""
        raise self._not_supported("validate_api_key")

    async def get_available_models(self) -> list[ModelInfo]:
        """The vendor's own list of models."""
        raise self._not_supported("get_available_models")

    # -- requests in OpenAI's own form -----------------------------------------------------------------------------

    def openai_route(self, endpoint: str, model: str) -> Route | None:
        """Where `model` is asked by a request to OpenAI's `endpoint` ("chat/completions") as it stands.

        None where it has to be said by an operation instead.

        Raises:
            ProviderAuthFailed, InvalidConfig: no request can be sent.
        """
        return None

    # -- what it can do --------------------------------------------------------------------------------------------

    @classmethod
    def supports(cls, operation: str) -> bool:
        """Whether this provider implements `operation` (a method's name)."""
        if operation == "generate_seo_content" and cls.generate_seo_content is BaseProvider.generate_seo_content:
            operation = "generate_content"
        if operation == "stream_chat":
            operation = "chat"
        return getattr(cls, operation) is not getattr(BaseProvider, operation)

    # -- for subclasses --------------------------------------------------------------------------------------------

    def _not_supported(self, operation: str) -> OperationNotSupported:
        return OperationNotSupported(operation=operation, provider=self.get_provider_name())

    def _check_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        known = dict(COMMON_CONFIG)
        for kind in reversed(type(self).__mro__):
            known.update(vars(kind).get("config_types", {}))
        for key, value in config.items():
            if key not in known:
                raise self._invalid_config(f"unknown key '{key}'. Known keys: {', '.join(sorted(known))}.")
            if (problem := _problem(value, known[key])) is not None:
                raise self._invalid_config(f"'{key}' {problem}.")
        return dict(config)

    def _invalid_config(self, reason: str) -> InvalidConfig:
        return InvalidConfig(provider=self.get_provider_name(), reason=reason, attr="config")


def _problem(value: object, allowed: ConfigType) -> str | None:
    """What is wrong with the value of a `config` key."""
    words = [word for word in allowed if isinstance(word, str)]
    if words:
        return None if value in words else f"must be one of {', '.join(words)}"
    kinds = tuple(kind for kind in allowed if isinstance(kind, type))
    if isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds):
        return None
    return f"must be {' or '.join(kind.__name__ for kind in kinds)}, not {type(value).__name__}"


def _info(reply: str) -> ResultInfo:
    return reply.info if isinstance(reply, Reply) else ResultInfo()


def _sum_usage(first: Usage | None, second: Usage | None) -> Usage | None:
    return first + second if first and second else first or second
