"""The one way to any model: the same steps in order, for synchronous and asynchronous callers alike.

Prepare (ORM, the caller's thread) → reserve (the books) → `execute_async` (network only) → settle (the books).
Synchronous callers run the network part on the process's I/O loop, asynchronous ones await it on their own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Final, TypedDict, Unpack

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.core.exceptions import SynchronousOnlyOperation
from django.db import InterfaceError, OperationalError, close_old_connections
from django.utils.functional import LazyObject

from src.ai.exceptions import (
    ContentInvalid,
    EmptyReply,
    InvalidRequest,
    LedgerUnavailable,
    ModelAccessDenied,
    ModelLacksCapability,
    ModelNotFound,
    NoActiveModel,
    NoActiveModelAnyProvider,
    ProviderInvalidResponse,
    ProviderNotFound,
    SyncCallInAsyncCode,
)
from src.ai.models import AdminProviderSettings, AIModel, AIProvider
from src.ai.providers.base import OPERATIONS, BaseProvider
from src.ai.providers.content import check_article, parse_keywords
from src.ai.providers.registry import AIProviderRegistry, get_provider_instance
from src.ai.results import Article, Media, Reply, ReplyIterator, ReplyStream, ResultInfo, Usage
from src.ai.services import execution, rates
from src.ai.services.access import ModelAccessState, check_admin, choose_key, choose_key_source
from src.ai.services.caller import current_caller
from src.ai.services.catalogue import Catalogue, NotInMemory
from src.ai.services.ledger.entries import Settle, total_cost
from src.ai.services.ledger.estimates import guessed_usage, highest_cost
from src.ai.services.ledger.meter import Meter
from src.ai.services.ledger.writer import Desk
from src.ai.services.listing import describe_models, models_with
from src.ai.services.media import checked_audio, checked_image
from src.ai.services.token_rules import TokenRules, allows, check
from src.ai.services.usage import aannounce, announce, call_facts, keep_texts
from src.core.database import lend_connections
from src.core.loop import io_loop, loop_is_running_here, sync_caller_waits

ROLES: Final = ("system", "user", "assistant")


class ImageOptions(TypedDict, total=False):
    """`size` "WxH" in pixels; `quality` "standard" | "hd"; `style` such as "vivid"; `n` images."""

    size: str | None
    quality: str | None
    style: str | None
    n: int | None


class ContentOptions(TypedDict, total=False):
    """`word_count` of the article; `tone`; `keywords` to use; `language`, by default `AI_CONTENT_LANGUAGE`."""

    word_count: int | None
    tone: str | None
    keywords: Sequence[str] | None
    language: str | None


class ChatOptions(TypedDict, total=False):
    """`conversation_history` `[{"role", "content"}]`, oldest first; `temperature` 0 to 2; `max_tokens` of the reply."""

    conversation_history: Sequence[Mapping[str, str]] | None
    system_message: str | None
    temperature: float | None
    max_tokens: int | None


class SpeechOptions(TypedDict, total=False):
    """`voice` by its name; `speed`, 1.0 being the voice's own."""

    voice: str | None
    speed: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a caller asks for."""

    capability: str
    admin: AbstractUser | None
    pk: int | None
    provider_slug: str | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    streamed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedCall:
    """All that the network part needs, and what settling needs after it."""

    operation: str
    model: AIModel
    admin: AbstractUser
    provider: BaseProvider
    meter: Meter
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rules: TokenRules | None = None

    @property
    def rates(self) -> rates.holding:
        """What holds the call's place among those of its token."""
        return rates.holding(self.rules, self.meter.facts.lease_seconds)

    @property
    def facts(self) -> ResultInfo:
        """What is known of the result before there is one."""
        return ResultInfo(provider=self.model.provider.slug, model_pk=self.model.pk, request_model=self.model.model_id)

    @property
    def prompt(self) -> str:
        """What is asked, as it may be kept."""
        return json.dumps([*self.args, self.kwargs], ensure_ascii=False, default=str)

    def guess(self, stream: ReplyStream) -> Usage | None:
        """What was used up to here, where something had come."""
        if not stream.text:
            return stream.info.usage
        return guessed_usage(stream.info.usage, self.args, self.kwargs, stream.text)


class UnifiedAIService:
    """Images, content, chat and speech from whichever model is active, paid by whichever key may pay.

    Every method takes `admin` (a saved, active staff user) and, to choose a model, either `model_id` (the primary key
    of an `AIModel`) or `provider_slug`; with neither, the first active model that the admin may use serves. Synchronous
    methods work in a view, a thread, a shell or a forked worker; asynchronous code awaits the twins named `a…`.

    Raises, all of them: `AIError`s as listed in `src.ai.exceptions`; those of wrong set-up (no admin, no active model,
    no key) are `ValueError`s too.
    """

    # -- what callers call -----------------------------------------------------------------------------------------

    @classmethod
    def generate_image(
        cls,
        prompt: str,
        admin: AbstractUser | None,
        model_id: int | None = None,
        provider_slug: str | None = None,
        **options: Unpack[ImageOptions],
    ) -> Media:
        """An image of `prompt`: a `BytesIO` at position 0, checked to be one; with `n` > 1, `all` holds each."""
        result: Media = cls._call(cls._request("image", admin, model_id, provider_slug, "prompt", prompt, options))
        return result

    @classmethod
    async def agenerate_image(
        cls,
        prompt: str,
        admin: AbstractUser | None,
        model_id: int | None = None,
        provider_slug: str | None = None,
        **options: Unpack[ImageOptions],
    ) -> Media:
        """The asynchronous twin of `generate_image`."""
        result: Media = await cls._acall(
            cls._request("image", admin, model_id, provider_slug, "prompt", prompt, options)
        )
        return result

    @classmethod
    def generate_content(
        cls,
        topic: str,
        admin: AbstractUser | None,
        model_id: int | None = None,
        provider_slug: str | None = None,
        **options: Unpack[ContentOptions],
    ) -> Article:
        """An article: a dict with title, meta_title, meta_description, content, keywords and slug."""
        result: Article = cls._call(cls._request("content", admin, model_id, provider_slug, "topic", topic, options))
        return result

    @classmethod
    async def agenerate_content(
        cls,
        topic: str,
        admin: AbstractUser | None,
        model_id: int | None = None,
        provider_slug: str | None = None,
        **options: Unpack[ContentOptions],
    ) -> Article:
        """The asynchronous twin of `generate_content`."""
        result: Article = await cls._acall(
            cls._request("content", admin, model_id, provider_slug, "topic", topic, options)
        )
        return result

    @classmethod
    def chat(
        cls,
        message: str,
        admin: AbstractUser | None,
        model_id: int | None = None,
        provider_slug: str | None = None,
        **options: Unpack[ChatOptions],
    ) -> Reply:
        """The reply to `message`: a `str`, never empty."""
        result: Reply = cls._call(cls._request("chat", admin, model_id, provider_slug, "message", message, options))
        return result

    @classmethod
    async def achat(
        cls,
        message: str,
        admin: AbstractUser | None,
        model_id: int | None = None,
        provider_slug: str | None = None,
        **options: Unpack[ChatOptions],
    ) -> Reply:
        """The asynchronous twin of `chat`."""
        result: Reply = await cls._acall(
            cls._request("chat", admin, model_id, provider_slug, "message", message, options)
        )
        return result

    @classmethod
    def stream_chat(
        cls,
        message: str,
        admin: AbstractUser | None,
        model_id: int | None = None,
        provider_slug: str | None = None,
        **options: Unpack[ChatOptions],
    ) -> ReplyIterator:
        """`chat` as text deltas, to be iterated once. After an error, `text` still holds what had come.

        What can be refused before the vendor is called is refused here; closing early closes the vendor's connection.
        """
        request = cls._request("chat", admin, model_id, provider_slug, "message", message, options, streamed=True)
        call = cls._prepare_here(request)
        stream = execution.stream(call.provider, *call.args, **call.kwargs)
        deltas = cls._iterate(call, stream)
        next(deltas)  # up to the reservation: from now on the call is settled even if nobody asks for a delta
        return ReplyIterator(deltas, stream)

    @classmethod
    def astream_chat(
        cls,
        message: str,
        admin: AbstractUser | None,
        model_id: int | None = None,
        provider_slug: str | None = None,
        **options: Unpack[ChatOptions],
    ) -> ReplyStream:
        """The asynchronous twin of `stream_chat`: `async for delta in UnifiedAIService.astream_chat(…)`.

        Nothing happens before the first delta is asked for, refusals included.
        """
        info = ResultInfo()
        request = cls._request("chat", admin, model_id, provider_slug, "message", message, options, streamed=True)
        return ReplyStream(cls._aiterate(request, info), info)

    @classmethod
    def text_to_speech(
        cls,
        text: str,
        admin: AbstractUser | None,
        model_id: int | None = None,
        provider_slug: str | None = None,
        **options: Unpack[SpeechOptions],
    ) -> Media:
        """`text` spoken: a `BytesIO` at position 0, checked to be audio."""
        result: Media = cls._call(cls._request("audio", admin, model_id, provider_slug, "text", text, options))
        return result

    @classmethod
    async def atext_to_speech(
        cls,
        text: str,
        admin: AbstractUser | None,
        model_id: int | None = None,
        provider_slug: str | None = None,
        **options: Unpack[SpeechOptions],
    ) -> Media:
        """The asynchronous twin of `text_to_speech`."""
        result: Media = await cls._acall(cls._request("audio", admin, model_id, provider_slug, "text", text, options))
        return result

    @classmethod
    def get_available_models(cls, capability: str, admin: AbstractUser | None) -> list[dict[str, Any]]:
        """Every model that has `capability`, active ones first, with what it costs and whether `admin` may use it.

        Each is a dict with id, name, model_id, provider{slug,name}, capabilities, is_active, is_free, access_state,
        pricing{input,output} (US$ per 1M tokens, `Decimal` or None) and limits{max_tokens,context_window} (tokens).
        """
        return describe_models(models_with(capability), check_admin(admin), capability)

    @classmethod
    async def aget_available_models(cls, capability: str, admin: AbstractUser | None) -> list[dict[str, Any]]:
        """The asynchronous twin of `get_available_models`."""
        return await sync_to_async(cls.get_available_models)(capability, admin)

    # -- the steps -------------------------------------------------------------------------------------------------

    @classmethod
    def _get_model(cls, pk: int, capability: str, *, catalogue: Catalogue | None = None) -> AIModel:
        model = (catalogue or Catalogue()).model(pk)
        if model is None:
            raise ModelNotFound(model_id=pk, attr="model_id")
        if not model.has_capability(capability):
            raise ModelLacksCapability(capability=capability, attr="model_id")
        return model

    @classmethod
    def _get_active_model(
        cls,
        capability: str,
        provider_slug: str | None = None,
        *,
        admin: AbstractUser | None = None,
        catalogue: Catalogue | None = None,
        rules: TokenRules | None = None,
    ) -> AIModel:
        """The provider's active model or, over all providers, the first that `admin` and the token may use.

        Where they may use none of them it is the first: the steps after this one say why not.
        """
        catalogue = catalogue or Catalogue()
        if provider_slug:
            model = catalogue.active_model(provider_slug, capability)
            if model is None and catalogue.provider(provider_slug) is None:
                raise ProviderNotFound(provider=provider_slug, attr="provider")
            if model is None:
                raise NoActiveModel(provider=provider_slug, capability=capability)
            return model
        models = catalogue.active_models(capability)
        if not models:
            raise NoActiveModelAnyProvider(capability=capability)
        models = [model for model in models if allows(rules, model, capability)] or models
        usable = (model for model in models if admin and cls._access_state(model, admin, catalogue).is_available)
        return next(usable, models[0])

    @classmethod
    def _check_access(
        cls, model: AIModel, admin: AbstractUser, *, catalogue: Catalogue | None = None
    ) -> ModelAccessState:
        """The admin's access to the model, unless that is off or nothing is installed to speak to its provider.

        A missing key is for `_get_api_key` to name.
        """
        AIProviderRegistry().get(model.provider.slug)
        state = cls._access_state(model, admin, catalogue or Catalogue())
        if state is ModelAccessState.DISABLED:
            raise ModelAccessDenied(attr="model_id")
        return state

    @classmethod
    def _get_api_key(cls, provider: AIProvider, admin: AbstractUser, *, catalogue: Catalogue | None = None) -> str:
        """The plain key that pays: the admin's own, else the shared one if they may, else an error."""
        own = (catalogue or Catalogue()).admin_settings(admin, provider)
        return choose_key(provider=provider, admin=admin, own=own).api_key

    @classmethod
    def _get_provider_instance(
        cls, model: AIModel, admin: AbstractUser, *, catalogue: Catalogue | None = None
    ) -> BaseProvider:
        """The provider object of one call, with the key that pays and the merged configuration."""
        provider = model.provider
        api_key = cls._get_api_key(provider, admin, catalogue=catalogue)
        return get_provider_instance(provider.slug, api_key, provider.config_for(model))

    @classmethod
    async def execute_async(cls, operation: str, provider: BaseProvider, *args: Any, **kwargs: Any) -> Any:
        """Run one operation of a provider: network only, no ORM."""
        return await execution.execute(operation, provider, *args, **kwargs)

    @classmethod
    def _increment_usage(
        cls,
        model: AIModel,
        admin: AbstractUser,
        *,
        call: PreparedCall | None = None,
        entries: Sequence[Settle] = (),
        reply: str = "",
    ) -> None:
        """Settle what `call` has reserved, and tell the application. Without a call count one that passed the books."""
        if call is None:
            own = AdminProviderSettings.objects.filter(admin_id=admin.pk, provider_id=model.provider_id)
            for row in (model.provider, model, *own):
                row.increment_usage()
            return
        settled = call.meter.write(entries)
        announce(settled)
        if settings.AI_STORE_TEXTS:
            keep_texts(settled, call.prompt, reply)

    @classmethod
    async def _aincrement_usage(cls, call: PreparedCall, entries: Sequence[Settle], reply: str = "") -> None:
        """The asynchronous twin of `_increment_usage`."""
        settled = await call.meter.awrite(entries)
        await aannounce(settled)
        if settings.AI_STORE_TEXTS:
            await sync_to_async(keep_texts)(settled, call.prompt, reply)

    # -- how they are strung together ------------------------------------------------------------------------------

    @classmethod
    def _call(cls, request: Request) -> Any:
        call = cls._prepare_here(request)
        with call.rates:
            return cls._result(call)

    @classmethod
    def _result(cls, call: PreparedCall) -> Any:
        meter = call.meter
        meter.open()
        try:
            work = cls.execute_async(call.operation, call.provider, *call.args, **call.kwargs)
            result = cls._checked(call, io_loop.run(work, meter.desk.errands))
        except Exception as error:
            cls._increment_usage(call.model, call.admin, call=call, entries=meter.failure(error))
            raise
        except BaseException as error:
            meter.write_soon(meter.failure(error))
            raise
        entries = meter.success(result.info)
        cls._increment_usage(call.model, call.admin, call=call, entries=entries, reply=_as_text(result))
        result.info.standings, result.info.cost = meter.standings, total_cost(entries)
        return result

    @classmethod
    async def _acall(cls, request: Request) -> Any:
        call = await cls._aprepare(request)
        async with call.rates:
            return await cls._aresult(call)

    @classmethod
    async def _aresult(cls, call: PreparedCall) -> Any:
        meter = call.meter
        await meter.aopen()
        try:
            answer = await cls.execute_async(call.operation, call.provider, *call.args, **call.kwargs)
            check = sync_to_async(cls._checked) if call.operation in _SLOW_CHECKS else None
            result = await check(call, answer) if check else cls._checked(call, answer)
        except Exception as error:
            await cls._aincrement_usage(call, meter.failure(error))
            raise
        except BaseException as error:
            meter.write_soon(meter.failure(error))
            raise
        entries = meter.success(result.info)
        await cls._aincrement_usage(call, entries, _as_text(result))
        result.info.standings, result.info.cost = meter.standings, total_cost(entries)
        return result

    @classmethod
    def _iterate(cls, call: PreparedCall, stream: ReplyStream) -> Iterator[str]:
        """Nothing, once the call is reserved; then the deltas."""
        with call.rates:
            yield from cls._deltas(call, stream)

    @classmethod
    def _deltas(cls, call: PreparedCall, stream: ReplyStream) -> Iterator[str]:
        stream.info.update(call.facts)
        meter = call.meter
        errands = meter.desk.errands
        meter.open()
        entries: Sequence[Settle] = ()
        asked = False
        stream.info.standings = meter.standings
        try:
            yield ""
            asked = True
            while (delta := io_loop.run(anext(stream, None), errands)) is not None:
                if delta:
                    meter.first_chunk()
                yield delta
            entries = meter.success(stream.info)
            stream.info.cost = total_cost(entries)
        except GeneratorExit:
            entries = meter.left(stream.info, call.guess(stream)) if asked else meter.unused()
            raise
        except BaseException as error:
            entries = meter.failure(error, call.guess(stream))
            raise
        finally:
            try:
                io_loop.run(stream.aclose())
            finally:
                cls._increment_usage(call.model, call.admin, call=call, entries=entries, reply=stream.text)
                stream.info.standings = meter.standings

    @classmethod
    async def _aiterate(cls, request: Request, info: ResultInfo) -> AsyncIterator[str]:
        call = await cls._aprepare(request)
        async with call.rates, aclosing(cls._adeltas(call, info)) as deltas:
            async for delta in deltas:
                yield delta

    @classmethod
    async def _adeltas(cls, call: PreparedCall, info: ResultInfo) -> AsyncGenerator[str]:
        meter = call.meter
        stream = execution.stream(call.provider, *call.args, **call.kwargs)
        info.update(call.facts)
        await meter.aopen()
        info.standings = meter.standings
        entries: Sequence[Settle] = ()
        try:
            async for delta in stream:
                meter.first_chunk()
                yield delta
            info.update(stream.info)
            entries = meter.success(info)
            info.cost = total_cost(entries)
        except GeneratorExit:
            entries = meter.left(stream.info, call.guess(stream))
            raise
        except asyncio.CancelledError:
            meter.write_soon(meter.left(stream.info, call.guess(stream)))  # nobody may be made to wait now
            raise
        except BaseException as error:
            entries = meter.failure(error, call.guess(stream))
            raise
        finally:
            try:
                await stream.aclose()
            finally:
                await cls._aincrement_usage(call, entries, stream.text)
                info.standings = meter.standings

    @classmethod
    def _prepare_here(cls, request: Request) -> PreparedCall:
        if loop_is_running_here():
            raise SyncCallInAsyncCode()
        return cls._prepare(request)

    @classmethod
    async def _aprepare(cls, request: Request) -> PreparedCall:
        """On the loop where all it takes is in memory; else, and where it may be in a transaction, in a thread."""
        if not (isinstance(request.admin, LazyObject) or sync_caller_waits()):
            # What was not foreseen to need a query is `SynchronousOnlyOperation`: Django's, of a model field left out.
            with suppress(NotInMemory, SynchronousOnlyOperation):
                return cls._prepared(request, Catalogue(memory_only=True))
        return await sync_to_async(cls._prepare)(request)

    @classmethod
    def _prepare(cls, request: Request) -> PreparedCall:
        try:
            return cls._prepared(request, Catalogue())
        except (InterfaceError, OperationalError) as error:
            close_old_connections()  # a thread that serves no requests would keep a broken one for ever
            raise LedgerUnavailable(retry_after=1) from error

    @classmethod
    def _prepared(cls, request: Request, catalogue: Catalogue) -> PreparedCall:
        admin, rules = check_admin(request.admin), current_caller().rules
        if request.pk is not None:
            model = cls._get_model(request.pk, request.capability, catalogue=catalogue)
        else:
            model = cls._get_active_model(
                request.capability, request.provider_slug, admin=admin, catalogue=catalogue, rules=rules
            )
        check(rules, model, request.capability)
        cls._check_access(model, admin, catalogue=catalogue)
        provider = cls._get_provider_instance(model, admin, catalogue=catalogue)
        own = catalogue.admin_settings(admin, model.provider)
        operation = OPERATIONS[request.capability]
        facts = call_facts(
            model=model,
            admin=admin,
            own=own,
            source=choose_key_source(provider=model.provider, admin=admin, own=own),
            capability=request.capability,
            operation=operation,
            streamed=request.streamed,
            seconds=execution.total_timeout(operation, provider),
            held_cost=highest_cost(model, request.capability, request.args, request.kwargs),
        )
        provider.attempts = meter = Meter(facts, Desk(), str(model.provider))
        if current_caller().shares_connections:
            lend_connections()  # a process has fewer of them than it can have calls under way
        return PreparedCall(
            operation=operation,
            model=model,
            admin=admin,
            provider=provider,
            meter=meter,
            args=request.args,
            kwargs={**request.kwargs, "model": model.model_id},
            rules=rules,
        )

    @classmethod
    def _checked(cls, call: PreparedCall, result: Any) -> Any:
        checked = _CHECKS[call.operation](result, call.model.provider.slug)
        checked.info.update(call.facts)
        return checked

    @classmethod
    def _request(
        cls,
        capability: str,
        admin: AbstractUser | None,
        pk: int | None,
        provider_slug: str | None,
        name: str,
        text: str,
        options: Mapping[str, Any],
        *,
        streamed: bool = False,
    ) -> Request:
        if not isinstance(text, str) or not text.strip():
            raise InvalidRequest(reason=f"'{name}' must be a text that is not empty.", attr=name)
        if pk is not None and (not isinstance(pk, int) or isinstance(pk, bool)):
            raise InvalidRequest(reason="'model_id' must be the id (a number) of an AI model.", attr="model_id")
        kwargs = {option: value for option, value in options.items() if value is not None}
        args: tuple[Any, ...] = (text,)
        if capability == "chat":
            args = (text, _checked_history(kwargs.pop("conversation_history", ())))
        elif capability == "content":
            kwargs.setdefault("language", settings.AI_CONTENT_LANGUAGE)
            if isinstance(words := kwargs.get("keywords"), str):
                kwargs["keywords"] = parse_keywords(words)
        return Request(
            capability=capability,
            admin=admin,
            pk=pk,
            provider_slug=provider_slug,
            args=args,
            kwargs=kwargs,
            streamed=streamed,
        )

    @classmethod
    def _access_state(cls, model: AIModel, admin: AbstractUser, catalogue: Catalogue) -> ModelAccessState:
        own = catalogue.admin_settings(admin, model.provider)
        return ModelAccessState.calculate(model=model, admin=admin, own=own)


def _as_text(result: Any) -> str:
    """What may be kept of a result: texts, no media."""
    if isinstance(result, Article):
        return json.dumps(result, ensure_ascii=False)
    return str(result) if isinstance(result, Reply) else ""


def _checked_history(history: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    for turn in history:
        fits = isinstance(turn, Mapping) and turn.get("role") in ROLES and isinstance(turn.get("content"), str)
        if not fits:
            raise InvalidRequest(
                reason=f"Each turn of conversation_history needs a role ({', '.join(ROLES)}) and a content text.",
                attr="conversation_history",
            )
    return [{"role": turn["role"], "content": turn["content"]} for turn in history]


def _checked_reply(result: str, provider: str) -> Reply:
    if not isinstance(result, str):
        raise ProviderInvalidResponse(provider=provider, reason=f"it is {type(result).__name__} instead of a text")
    reply = result if isinstance(result, Reply) else Reply(result)
    if not reply.strip():
        raise EmptyReply(provider=provider, operation="chat", finish_reason=reply.finish_reason)
    return reply


def _checked_article(result: dict[str, Any], provider: str) -> Article:
    article = result if isinstance(result, Article) else Article(result)
    try:
        check_article(article)
    except ValueError as error:
        raise ContentInvalid(provider=provider, operation="generate_seo_content", reason=str(error)) from error
    return article


_CHECKS: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    "chat": _checked_reply,
    "generate_seo_content": _checked_article,
    "generate_image": checked_image,
    "text_to_speech": checked_audio,
}
_SLOW_CHECKS: Final = frozenset({"generate_image", "text_to_speech"})  # megabytes are decoded: in a thread
