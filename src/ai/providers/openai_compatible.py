"""The base of vendors that speak OpenAI's format: chat, streams, structured content, lists of models, key checks.

A vendor adds its address, its rules (`chat_rules`), how it lists models (`parse_model`) and, where it has them,
`OpenAIImages` and `OpenAISpeech`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, ClassVar, Final, TypeVar, get_args

import httpx

from src.ai.exceptions import (
    ContentBlocked,
    EmptyReply,
    ProviderBadRequest,
    ProviderError,
    ProviderUnavailable,
)
from src.ai.providers import errors, openai_format
from src.ai.providers.base import ConfigType
from src.ai.providers.errors import Call
from src.ai.providers.openai_format import ChatRules, JSONMode, Part
from src.ai.providers.passthrough import CHAT, EMBEDDINGS, Route
from src.ai.providers.payload import read_json
from src.ai.providers.sse import Event
from src.ai.providers.thinking import ThinkFilter, may_think_aloud, strip_thoughts
from src.ai.providers.vendor import DONE, Answer, Ask, HTTPVendor, interrupted, is_error
from src.ai.results import ModelInfo, Reply, ReplyStream, ResultInfo
from src.core import http

T = TypeVar("T")

# Finish reasons of a vendor that broke down, not of a model that ended (OpenRouter; DeepSeek, 2026-11).
_BROKE_DOWN: Final = frozenset({"error", "insufficient_system_resource"})
_JSON_WORDS: Final = re.compile(r"response_format|json_schema|json_object|json mode|structured output", re.IGNORECASE)


class OpenAICompatible(HTTPVendor):
    """Chat and what follows from it, through the `openai` SDK. See the module's text for what a vendor adds."""

    models_path: ClassVar[str] = "/models"
    config_types: ClassVar[Mapping[str, ConfigType]] = {
        "json_mode": get_args(JSONMode),
        "reasoning_effort": (str,),
        "top_p": (int, float),
    }

    # -- what a vendor says about itself ---------------------------------------------------------------------------

    def chat_rules(self, model: str, options: Mapping[str, Any]) -> ChatRules:
        """What `model` takes; `options` are those that were asked for."""
        return ChatRules()

    def parse_model(self, row: Mapping[str, Any]) -> ModelInfo | None:
        """One row of the vendor's list; `None` leaves it out."""
        raise NotImplementedError

    # -- operations ------------------------------------------------------------------------------------------------

    async def chat(
        self, message: str, conversation_history: Sequence[Mapping[str, str]] | None = None, **kwargs: Any
    ) -> Reply:
        """The reply, without the model's thoughts. Options as in `BaseProvider.chat`, and those of `openai_format`."""
        ask, _, dropped = self._chat_request("chat", message, conversation_history, kwargs)
        return await self._reply(ask, dropped)

    def stream_chat(
        self, message: str, conversation_history: Sequence[Mapping[str, str]] | None = None, **kwargs: Any
    ) -> ReplyStream:
        """`chat` as it comes. Nothing is sent before the first delta is asked for."""
        info = ResultInfo()
        return ReplyStream(self._deltas(message, conversation_history, kwargs, info), info)

    async def generate_content(self, prompt: str, **kwargs: Any) -> Reply:
        """Text for `prompt`; with `json_schema` by the strongest means that the model has.

        A server that refuses one means is asked by the next: its JSON Schema mode, its JSON mode, the prompt alone.
        """
        schema = kwargs.pop("json_schema", None)
        ask, rules, dropped = self._chat_request("generate_content", prompt, None, kwargs)
        if schema is None:
            return await self._reply(ask, dropped)
        mode: JSONMode | None = self.config.get("json_mode") or rules.json_mode
        plain = ask.body or {}
        while True:
            body = self._with_json(plain, schema, mode or "prompt")
            try:
                return await self._reply(replace(ask, body=self._with_extra_body(body)), dropped)
            except ProviderError as error:
                mode = openai_format.weaker_json_mode(mode or "prompt")
                if mode is None or not self._refuses_json_mode(error):
                    raise

    def _with_json(self, body: Mapping[str, Any], schema: Mapping[str, Any], mode: JSONMode) -> dict[str, Any]:
        return openai_format.with_json(body, schema, mode)

    def _refuses_json_mode(self, error: ProviderError) -> bool:
        """Whether the vendor refused only the way in which JSON was asked for."""
        if not isinstance(error, ProviderBadRequest):
            return False
        param = str(error.facts.get("param") or "")
        return param.startswith("response_format") or bool(_JSON_WORDS.search(str(error.facts.get("reason", ""))))

    async def validate_api_key(self) -> bool:
        """Whether the vendor accepts the key. Raises a `ProviderError` where it could not be asked."""
        return await self._accepts_key(Ask(operation="validate_api_key", path=self.models_path))

    async def get_available_models(self) -> list[ModelInfo]:
        """The vendor's list, each id once."""
        ask = Ask(operation="get_available_models", path=self.models_path)
        return await self._ask(ask, lambda answer: self.parse_models(answer.json()), in_thread=True)

    def parse_models(self, data: Any) -> list[ModelInfo]:
        """The models of a list in OpenAI's form. Raises `ValueError` for anything else."""
        if not isinstance(data, dict) or not isinstance(data.get("data"), list):
            raise ValueError("it is no list of models")
        rows = [row for row in data["data"] if isinstance(row, dict) and isinstance(row.get("id"), str)]
        models = [self.parse_model(row) for row in rows]
        return list({model.model_id: model for model in models if model is not None}.values())

    # -- requests --------------------------------------------------------------------------------------------------

    def openai_path(self, endpoint: str) -> str | None:
        """The path of one of OpenAI's endpoints here; None where the vendor has none in that form."""
        return f"/{endpoint}" if endpoint in (CHAT, EMBEDDINGS) else None

    def openai_route(self, endpoint: str, model: str) -> Route | None:
        path = self.openai_path(endpoint)
        if path is None:
            return None
        rules = self.chat_rules(model, {})
        return Route(
            url=f"{self._checked_base_url()}{path}",
            headers=self._auth(),
            max_tokens_field=rules.max_tokens_field,
            stream_usage=rules.stream_usage,
            extra=self.config.get("extra_body", {}),
        )

    def _chat_request(
        self,
        operation: str,
        message: str,
        history: Sequence[Mapping[str, str]] | None,
        kwargs: dict[str, Any],
    ) -> tuple[Ask, ChatRules, tuple[str, ...]]:
        options = dict(kwargs)
        model = self.resolve_model("content" if operation == "generate_content" else "chat", options)
        messages = openai_format.build_messages(message, history, options.pop("system_message", None))
        configured = ("temperature", "max_tokens", "top_p", "reasoning_effort")
        options = {**{name: self.config[name] for name in configured if name in self.config}, **options}
        rules = self.chat_rules(model, options)
        body, dropped = openai_format.build_chat(model, messages, options, rules)
        ask = Ask(operation=operation, path="/chat/completions", body=self._with_extra_body(body), model=model)
        return ask, rules, dropped

    def _with_extra_body(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return {**body, **self.config.get("extra_body", {})}

    # -- answers ---------------------------------------------------------------------------------------------------

    async def _reply(self, ask: Ask, dropped: tuple[str, ...]) -> Reply:
        def parse(answer: Answer) -> Reply:
            part = openai_format.parse_chat(answer.json())
            text = strip_thoughts(part.text)
            self._check_end(call, part, text)
            return Reply(text, _info(part))

        call = self._call(ask)
        reply, refused = await self._without_refused(ask, lambda asked: self._ask(asked, parse))
        reply.info.dropped_params = (*dropped, *refused)
        return reply

    async def _deltas(
        self,
        message: str,
        history: Sequence[Mapping[str, str]] | None,
        kwargs: dict[str, Any],
        info: ResultInfo,
    ) -> AsyncGenerator[str]:
        ask, rules, dropped = self._chat_request("stream_chat", message, history, kwargs)
        ask = replace(ask, body=self._with_extra_body(openai_format.with_stream(ask.body or {}, rules)))
        call = self._call(ask)
        info.dropped_params = dropped
        thoughts = ThinkFilter(hold=not rules.hides_thoughts and may_think_aloud(ask.model or ""))
        total, shown, ended = Part(), False, False
        async with aclosing(self._streamed(ask, info)) as events:
            async for event in events:
                if event.data.strip() == DONE:
                    ended = True
                    continue
                part = self._parse_event(call, event, shown)
                total = _add(total, part)
                _fill(info, total)
                ended = ended or event.name == "answer" or bool(part.finish_reason)
                released = thoughts.release() if part.thinks_apart else ""
                if delta := released + thoughts.feed(part.text):
                    shown = True
                    yield delta
        if not ended:
            raise interrupted(call, "the connection was closed before the end of the reply.")
        if rest := thoughts.finish():
            shown = True
            yield rest
        self._check_end(call, total, "shown" if shown else "")

    async def _streamed(self, ask: Ask, info: ResultInfo) -> AsyncGenerator[Event]:
        """The events of `ask`; a field that the server refuses before it begins is left out."""
        for last in (False, True):
            try:
                async with aclosing(self._events(ask)) as events:
                    async for event in events:
                        yield event
                    return
            except ProviderBadRequest as error:
                body = None if last else _without_refused(ask.body or {}, error)
                if body is None:
                    raise
                info.dropped_params = (*info.dropped_params, *_lost(ask.body or {}, body))
                ask = replace(ask, body=body)

    async def _without_refused(self, ask: Ask, send: Callable[[Ask], Awaitable[T]]) -> tuple[T, tuple[str, ...]]:
        """What `send` gives for `ask`, and the fields left out because the server refused them (once)."""
        try:
            return await send(ask), ()
        except ProviderBadRequest as error:
            body = _without_refused(ask.body or {}, error)
            if body is None:
                raise
        return await send(replace(ask, body=body)), _lost(ask.body or {}, body)

    def _parse_event(self, call: Call, event: Event, shown: bool) -> Part:
        """The piece of the reply in one event. An error in it is raised as what it is."""
        try:
            data = read_json(event.data)
            if is_error(data) or event.name == "error":
                raise errors.from_body(call, data, {})
            return openai_format.parse_chat(data)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            reason = "an event of the stream can't be read."
            raise interrupted(call, reason) if shown else errors.invalid_response(call, reason) from error

    def _check_end(self, call: Call, part: Part, text: str) -> None:
        """Raise what the end of a reply says, unless it is a good one."""
        facts: dict[str, Any] = {"provider": call.provider, "operation": call.operation, "model": call.model}
        facts |= {"usage": part.usage, "cost": part.cost}
        if part.refusal:
            raise ContentBlocked(**facts, reason=part.refusal, finish_reason="refusal")
        if part.finish_reason == "content_filter":
            reason = "its content filter stopped the reply."
            raise ContentBlocked(**facts, reason=reason, finish_reason=part.finish_reason)
        if part.finish_reason in _BROKE_DOWN:
            raise ProviderUnavailable(**facts, reason=f"the model broke off (finish reason: {part.finish_reason}).")
        if not text.strip():
            raise EmptyReply(**facts, finish_reason=part.finish_reason or "none")

    # -- the SDK ---------------------------------------------------------------------------------------------------

    @classmethod
    def _sdk_key(cls, base_url: str) -> tuple[str, str]:
        """Vendors with one SDK and one address share its object."""
        return ("openai", base_url)

    @classmethod
    def _build_sdk(cls, base_url: str, client: httpx.AsyncClient) -> Any:
        """The SDK's client around the pool's. It has no key, and takes nothing from the environment."""
        from openai import AsyncOpenAI

        sdk = AsyncOpenAI(
            api_key=http.NO_KEY,
            admin_api_key=http.NO_KEY,
            organization="",
            project="",
            webhook_secret="",
            base_url=base_url,
            max_retries=0,
            http_client=client,  # type: ignore[arg-type]  # annotated for httpx2; httpx is accepted (openai/_httpx2.py)
        )
        # OPENAI_ORG_ID, OPENAI_PROJECT_ID and OPENAI_CUSTOM_HEADERS are OpenAI's; this object may be another vendor's.
        sdk.organization = sdk.project = None
        sdk._custom_headers = {}
        return sdk

    async def _open(self, ask: Ask, limits: http.Timeouts) -> httpx.Response:
        """Send through the SDK, and take the answer as it is.

        The SDK's own reading of an answer does not tell a cut stream from a finished one, holds a line of any length,
        and costs 400 µs (openai 3.54.0, `_streaming.py`, `_response.py`).
        """
        headers = self._headers(ask)
        if "Authorization" not in headers:
            return await super()._open(ask, limits)  # the SDK would put its stand-in for a key
        base_url = self._checked_base_url()
        sdk = await http.shared(self._sdk_key(base_url), lambda client: self._build_sdk(base_url, client))
        # What is not named here the SDK fills in by copying its defaults, and a path it parses twice.
        options: dict[str, Any] = {"headers": headers, "timeout": limits.httpx(), "max_retries": 0, "params": {}}
        url = ask.path if "://" in ask.path else f"{base_url}{ask.path}"
        if ask.params:
            options["params"] = dict(ask.params)
        body = {} if ask.body is None else {"body": dict(ask.body)}
        send = sdk.get if ask.body is None else sdk.post
        try:
            response: httpx.Response = await send(url, cast_to=httpx.Response, options=options, stream=True, **body)
        except Exception as error:
            refused = getattr(error, "response", None)
            if not isinstance(refused, httpx.Response):
                raise
            return refused  # its status is read as for any other request
        return response


# -- pieces ------------------------------------------------------------------------------------------------------------


def _add(total: Part, part: Part) -> Part:
    return Part(
        refusal=total.refusal + part.refusal,
        finish_reason=part.finish_reason or total.finish_reason,
        usage=part.usage or total.usage,
        cost=total.cost if part.cost is None else part.cost,
        model=part.model or total.model,
        response_id=part.response_id or total.response_id,
    )


def _info(part: Part) -> ResultInfo:
    info = ResultInfo()
    _fill(info, part)
    return info


def _fill(info: ResultInfo, part: Part) -> None:
    info.usage = part.usage
    info.finish_reason = part.finish_reason
    info.model = part.model
    info.response_id = part.response_id
    info.cost = part.cost


def _without_refused(body: Mapping[str, Any], error: ProviderBadRequest) -> dict[str, Any] | None:
    if error.facts.get("vendor_code") not in openai_format.REFUSED_FIELD:
        return None
    return openai_format.without_refused(body, error.facts.get("param"))


def _lost(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """What is in no field any more; a field that only changed its name is not lost."""
    moved = {openai_format.RENAMED[name] for name in after if name in openai_format.RENAMED and name not in before}
    return tuple(name for name in before if name not in after and name not in moved)
