"""HuggingFace Inference Providers (huggingface.co/docs): chat at the router, images and speech at its hosts.

`huggingface_hub` 2.4.0 can't keep what every call here promises, so nothing is asked through it:
- chat_completion, text_to_image, text_to_speech: a client has one key, and a pool of its own that follows redirects
  (`AsyncInferenceClient._get_async_client`); building the headers GETs `/api/agent-harnesses`, blocking the loop
  (`utils/_detect_agent.py`). The last two also GET the model's mapping, blocking, with HF_TOKEN in place of the key,
  keep it for the life of the process, and call a host that is known to be down (`inference/_providers/_common.py`).
- whoami, list_models: blocking only (`hf_api.py`).
Chat goes through the `openai` SDK, for which the router is made; the rest is REST over our pool.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Coroutine, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from io import BytesIO
from time import monotonic
from typing import Any, ClassVar, Final, Generic, TypeVar
from urllib.parse import quote

import httpx

from src.ai.exceptions import ProviderAuthFailed, ProviderModelNotFound, ProviderNoCredit, ProviderUnavailable
from src.ai.providers import errors, huggingface_forms, passthrough
from src.ai.providers import huggingface_hub_api as hub_api
from src.ai.providers.base import ConfigType
from src.ai.providers.errors import Call
from src.ai.providers.huggingface_forms import IMAGE_FORMS, SPEECH_FORMS, Form, Found, NotReady, Route
from src.ai.providers.media_bytes import decode_image, media_type, playable
from src.ai.providers.openai_compatible import OpenAICompatible
from src.ai.providers.openai_format import ChatRules
from src.ai.providers.vendor import MEDIA_LIMIT, Answer, Ask, HTTPVendor
from src.ai.results import Media, ModelInfo, ResultInfo, Usage
from src.core import http
from src.core.net_guard import UrlRefused, check_base_url

T = TypeVar("T")
logger = logging.getLogger(__name__)

HUB_URL: Final = "https://huggingface.co/api"
ROUTES_KEPT: Final = 600.0  # seconds; a host that goes earlier answers 404, and is looked up again
KEYS_KEPT: Final = 60.0  # seconds; whoami-v2 is rate limited, and a withdrawn key must not seem good for long
KEPT: Final = 1000
PAGE: Final = 50
ROWS: Final = 500  # of each task; the Hub has thousands of LoRAs
IMAGES: Final = 10
_ORGANISATION: Final = re.compile(r"[\w.\-]+", re.ASCII)
_FORMS: Final[Mapping[str, Mapping[str, Form]]] = {"text-to-image": IMAGE_FORMS, "text-to-speech": SPEECH_FORMS}


class HuggingFaceProvider(OpenAICompatible):
    """The router's chat, and the images and speech of the hosts behind it.

    `base_url` replaces the router, and the Hub as well: a proxy answers `/v1/…`, `/{host}/…` and `/api/…`. Where the
    Hub is elsewhere, `hub_url` names it, so that a key goes to no host that the operator did not name. `bill_to` is the
    organisation that pays. `media_host` chooses the host of images and speech; a model's id can too, by `:host`.
    """

    default_base_url = "https://router.huggingface.co/v1"
    default_models: ClassVar[Mapping[str, str]] = {
        "chat": "openai/gpt-oss-120b",
        "image": "black-forest-labs/FLUX.1-schnell",
        "audio": "hexgrad/Kokoro-82M",
    }
    config_types: ClassVar[Mapping[str, ConfigType]] = {
        "hub_url": (str,),
        "bill_to": (str,),
        "media_host": (str,),
    }
    public_model_list = True

    @classmethod
    def get_provider_name(cls) -> str:
        return "huggingface"

    @property
    def _router(self) -> str:
        return self._checked_base_url().removesuffix("/v1")

    @property
    def _hub(self) -> str:
        """The Hub's API. Raises `InvalidConfig` where no request may go to it."""
        named = self.config.get("hub_url")
        if not named:
            return HUB_URL if self.base_url == self.default_base_url else f"{self._router}/api"
        try:
            check_base_url(named)
        except UrlRefused as error:
            raise self._invalid_config(f"'hub_url' is refused: {error}.") from error
        return str(named).rstrip("/")

    def _auth(self) -> dict[str, str]:
        bill_to = self.config.get("bill_to")
        if not bill_to:
            return super()._auth()
        if not _ORGANISATION.fullmatch(bill_to):
            raise self._invalid_config("'bill_to' must be the name of an organisation.")
        return {**super()._auth(), "X-HF-Bill-To": bill_to}

    async def _open(self, ask: Ask, limits: http.Timeouts) -> httpx.Response:
        if "://" in ask.path:  # a host's or the Hub's: the SDK knows the router's `/v1` only
            return await HTTPVendor._open(self, ask, limits)
        return await super()._open(ask, limits)

    def chat_rules(self, model: str, options: Mapping[str, Any]) -> ChatRules:
        """What a host can't take beyond these is between it and the model."""
        return ChatRules(refused=frozenset({"verbosity", "service_tier", "user"}))

    def openai_route(self, endpoint: str, model: str) -> passthrough.Route | None:
        """The router has chat; embeddings are asked of `hf-inference` in its own form."""
        if endpoint != passthrough.EMBEDDINGS:
            return super().openai_route(endpoint, model)
        return passthrough.Route(
            url=f"{self._router}/hf-inference/models/{quote(model)}/pipeline/feature-extraction",
            headers=self._auth(),
            prepare=huggingface_forms.prepare_embeddings,
            read=lambda content: huggingface_forms.read_embeddings(content, model),
        )

    # -- keys ------------------------------------------------------------------------------------------------------

    async def validate_api_key(self) -> bool:
        """Whether the Hub knows the key, and lets it call Inference Providers: without that, every call is a 403.

        Only a yes is remembered, for `KEYS_KEPT` seconds. Raises a `ProviderError` where it could not be asked.
        """
        accepted: _Recent[bool] = await self._recent("keys", KEYS_KEPT)
        name = (self._hub, sha256(self.api_key.encode()).hexdigest())
        if accepted.get(name):
            return True
        ask = Ask(operation="validate_api_key", path=f"{self._hub}/whoami-v2")
        try:
            allowed = await self._ask(ask, lambda answer: hub_api.may_infer(answer.json()))
        except ProviderAuthFailed:
            return False
        except ProviderNoCredit:
            return True
        if not allowed:
            logger.info("A key lacks the permission to call Inference Providers", extra={"provider": "huggingface"})
        else:
            accepted.put(name, True)
        return allowed

    # -- models ----------------------------------------------------------------------------------------------------

    async def get_available_models(self) -> list[ModelInfo]:
        """The router's chat models, then the Hub's for images, speech and embeddings, each id once.

        A model in both lists is a chat model. Nothing is listed unless all of it could be.
        """
        ask = Ask(operation="get_available_models", path=f"{self._checked_base_url()}/models")
        models = await self._ask(ask, lambda answer: self.parse_models(answer.json()), in_thread=True)
        for task in hub_api.TASKS:
            models += await self._hub_models(task)
        once: dict[str, ModelInfo] = {}
        for model in models:
            once.setdefault(model.model_id, model)
        return list(once.values())

    def parse_model(self, row: Mapping[str, Any]) -> ModelInfo | None:
        """One row of either list as `ModelInfo`."""
        return hub_api.parse_chat_model(row)

    async def _hub_models(self, task: str) -> list[ModelInfo]:
        """The models that do `task`, of the `ROWS` that most people look at now."""
        path = f"{self._hub}/models"
        first = {
            "inference_provider": "all",
            "pipeline_tag": task,
            "sort": "trendingScore",
            "limit": PAGE,
            "expand[]": ["inferenceProviderMapping", "pipeline_tag"],
        }
        ask = Ask(operation="get_available_models", path=path)

        def parse(answer: Answer) -> tuple[list[ModelInfo], str | None]:
            models = hub_api.parse_hub_models(answer.json(), task, _FORMS.get(task))
            return models, hub_api.next_query(answer.headers)

        async def page(query: str | None) -> tuple[list[ModelInfo], str | None]:
            where = replace(ask, params=first) if query is None else replace(ask, path=f"{path}?{query}")
            return await self._ask(where, parse, in_thread=True)

        models: list[ModelInfo] = []
        seen = 0  # rows, also those that can't be asked
        async for found in self._pages(page, self._call(ask)):
            models += found
            seen += PAGE
            if seen >= ROWS:
                break
        return models[:ROWS]

    # -- images and speech -----------------------------------------------------------------------------------------

    async def generate_image(self, prompt: str, **kwargs: Any) -> BytesIO:
        """The image as `Media`. No host takes `n`: several images are several calls at once, with seeds of their own.

        Options: `size` ("WxH"), `negative_prompt`, `num_inference_steps`, `guidance_scale`, `scheduler`, `seed`.
        """
        options = {**self.config.get("image", {}), **kwargs}
        model = self.resolve_model("image", options)
        asked = int(options.pop("n", None) or 1)
        count = min(max(asked, 1), IMAGES)
        route = await self._route("generate_image", "text-to-image", model)
        form = IMAGE_FORMS[route.host]
        body, dropped = huggingface_forms.build_image(form, route, prompt, options)
        if options.get("seed") is None or count == 1:
            bodies = [body] * count
        else:
            seeds = [{**options, "seed": int(options["seed"]) + number} for number in range(count)]
            bodies = [huggingface_forms.build_image(form, route, prompt, seeded)[0] for seeded in seeds]
        call = Call(self.get_provider_name(), "generate_image", self.api_key, model)
        calls = await _all(self._files(call, route, form, body) for body in bodies)
        files = [file for files in calls for file in files]
        info = ResultInfo(usage=Usage(images=len(files)), model=model)
        info.dropped_params = (*dropped, *(["n"] if asked != count else []))
        first, *more = [Media(data, mime_type, info) for data, mime_type in files]
        first.more = tuple(more)
        return first

    async def text_to_speech(self, text: str, **kwargs: Any) -> BytesIO:
        """The recording as `Media`, in the container that the host chose. Options: `voice`."""
        options = {**self.config.get("tts", {}), **kwargs}
        model = self.resolve_model("audio", options)
        options.pop("model", None)
        route = await self._route("text_to_speech", "text-to-speech", model)
        form = SPEECH_FORMS[route.host]
        body, dropped = huggingface_forms.build_speech(form, route, text, options)
        call = Call(self.get_provider_name(), "text_to_speech", self.api_key, model)
        data, mime_type = (await self._files(call, route, form, body))[0]
        info = ResultInfo(usage=Usage(characters=len(text)), model=model, dropped_params=tuple(dropped))
        return Media(data, mime_type, info)

    async def _route(self, operation: str, task: str, model: str) -> Route:
        """Where to ask for `model`.

        Raises:
            ProviderModelNotFound: nobody serves it for `task` in a form that is known.
            ProviderError: the Hub could not be asked.
        """
        name, host = hub_api.split_host(model)
        host = host or self.config.get("media_host")
        if host == "hf-inference":  # it has no ids of its own
            return Route(host=host, model=name, host_model=name)
        known: _Recent[tuple[Route, ...]] = await self._recent("routes", ROUTES_KEPT)
        routes = known.get((self._hub, name))
        if routes is None:
            # A list to be read is asked for again where that may help; an image or a recording is not.
            ask = Ask(
                operation="get_available_models",
                path=f"{self._hub}/models/{quote(name, safe='/')}",
                params={"expand[]": "inferenceProviderMapping"},
                model=model,
            )
            routes = await self._ask(ask, lambda answer: hub_api.parse_routes(name, answer.json()))
            known.put((self._hub, name), routes)
        try:
            return hub_api.choose_route(routes, task, _FORMS[task], host)
        except LookupError as error:
            known.drop((self._hub, name))
            raise ProviderModelNotFound(
                provider=self.get_provider_name(), operation=operation, model=model, reason=str(error)
            ) from error

    async def _files(self, call: Call, route: Route, form: Form, body: Mapping[str, Any]) -> list[tuple[bytes, str]]:
        """What the host made, checked by its bytes, and the mime types."""
        ask = Ask(
            operation=call.operation,
            path=f"{self._router}/{route.host}{form.path(route)}",
            body=self._with_extra_body(body),
            headers=form.headers,
            model=call.model,
            accept=form.accept,
            limit=MEDIA_LIMIT,
        )

        def parse(answer: Answer) -> list[Found]:
            try:
                return list(form.read(answer))
            except NotReady as error:
                facts: dict[str, Any] = {"provider": call.provider, "operation": call.operation, "model": call.model}
                raise ProviderUnavailable(**facts, reason=str(error)) from error

        try:
            found = await self._ask(ask, parse)
        except ProviderModelNotFound:
            known: _Recent[tuple[Route, ...]] = await self._recent("routes", ROUTES_KEPT)
            known.drop((self._hub, route.model))
            raise
        return await _all(self._file(call, item) for item in found)

    async def _file(self, call: Call, found: Found) -> tuple[bytes, str]:
        if isinstance(found, str) and found.startswith(("https://", "http://")):
            found = await self._download(found, call.operation)
        try:
            file = http.Download(decode_image(found), "") if isinstance(found, str) else found
            return playable(file.data, file.content_type) if call.operation == "text_to_speech" else _image(file)
        except ValueError as error:
            raise errors.invalid_response(call, str(error)) from error

    async def _recent(self, what: str, seconds: float) -> _Recent[Any]:
        """What this loop has learned lately."""
        return await http.shared(("huggingface", what), lambda _: _Recent(seconds))


@dataclass(slots=True)
class _Recent(Generic[T]):
    """Values that are forgotten after `seconds`, and the oldest beyond `KEPT`."""

    seconds: float
    _values: dict[Hashable, tuple[float, T]] = field(default_factory=dict)

    def get(self, name: Hashable) -> T | None:
        until, value = self._values.get(name, (0.0, None))
        return value if until > monotonic() else None

    def put(self, name: Hashable, value: T) -> None:
        self._values.pop(name, None)
        if len(self._values) >= KEPT:
            del self._values[next(iter(self._values))]
        self._values[name] = (monotonic() + self.seconds, value)

    def drop(self, name: Hashable) -> None:
        self._values.pop(name, None)


def _image(file: http.Download) -> tuple[bytes, str]:
    mime_type = media_type(file.data)
    if not mime_type or not mime_type.startswith("image/"):
        raise ValueError(f"it is no image but {file.content_type or 'something without a type'}")
    return file.data, mime_type


async def _all(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Every result, in order; the first failure ends the others."""
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
