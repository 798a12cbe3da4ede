"""What talking to any vendor has in common: transport, time-outs, retries, errors, streams. No vendor's format."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, ClassVar, Final, TypeVar

import httpx

from src.ai.exceptions import AIError, InvalidRequest, ProviderAuthFailed, ProviderError, StreamInterrupted
from src.ai.providers import errors, retry
from src.ai.providers.attempts import Attempt, info_of
from src.ai.providers.base import BaseProvider
from src.ai.providers.errors import Call
from src.ai.providers.payload import read_json
from src.ai.providers.sse import Event, EventDecoder
from src.core import http
from src.core.net_guard import UrlRefused, check_base_url

T = TypeVar("T")

JSON_LIMIT: Final = 32 * 1024 * 1024  # a list of 10,000 models has about 15 MB
MEDIA_LIMIT: Final = 128 * 1024 * 1024  # ten 4K images in base64
PAGE_LIMIT: Final = 200
DONE: Final = "[DONE]"
DRAIN_WAIT: Final = 0.1  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request to a vendor.

    `path` is appended to the base URL; where it is a whole URL it stands alone. `model` is what an error names.
    """

    operation: str
    path: str
    body: Mapping[str, Any] | None = None  # sent as JSON by POST; without it, GET
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None
    accept: str = "application/json"
    limit: int = JSON_LIMIT

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer with a good status."""

    status: int
    headers: httpx.Headers
    content: bytes

    @property
    def content_type(self) -> str:
        content_type: str = self.headers.get("content-type", "")
        return content_type

    def json(self) -> Any:
        """The body read as JSON.

        Raises:
            ValueError: it is none; the message says what came instead.
            ErrorInAnswer: it is the vendor's error, in spite of the status (OpenRouter, 2026-11).
        """
        try:
            data = read_json(self.content)
        except ValueError as error:
            shown = errors.parse_error(self.content[: http.ERROR_BODY_LIMIT]).message or "cut-off or broken JSON"
            raise ValueError(f"it is no JSON but {shown}" if self.content.strip() else "it is empty") from error
        if is_error(data):
            raise ErrorInAnswer(data)
        return data


class ErrorInAnswer(Exception):
    """A body that began as a success holds an error; `data` is the body."""

    def __init__(self, data: Any) -> None:
        super().__init__("the answer is an error")
        self.data = data


def is_error(data: object) -> bool:
    """Whether a body or a chunk is an error. To be asked before anything else of it is read."""
    if isinstance(data, list):
        return bool(data) and is_error(data[0])
    return isinstance(data, dict) and bool(data.get("error"))


class HTTPVendor(BaseProvider):
    """A vendor that is asked over HTTP through the process's pool.

    A subclass says where (`default_base_url`) and who pays (`_auth`), and speaks through `_call`, `_ask` and `_events`.
    """

    default_base_url: ClassVar[str]
    default_models: ClassVar[Mapping[str, str]] = {}  # by capability, where neither caller nor `config` names one

    @property
    def base_url(self) -> str:
        """Where to ask, without a slash at the end: `config["base_url"]`, else the vendor's own."""
        return str(self.config.get("base_url") or self.default_base_url).rstrip("/")

    def _auth(self) -> dict[str, str]:
        """The headers that carry the key."""
        return {"Authorization": f"Bearer {self._header_key()}"}

    def _header_key(self) -> str:
        """The key, fit for a header.

        Raises:
            ProviderAuthFailed: it is empty or holds what no key has; httpx would name the key in its own complaint.
        """
        key = self.api_key.strip()
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            reason = "it is empty, or holds characters that no key has."
            raise ProviderAuthFailed(provider=self.get_provider_name(), reason=reason)
        return key

    def resolve_model(self, capability: str, kwargs: dict[str, Any]) -> str:
        """The model to ask, taken out of `kwargs`: the caller's, that of `config`, or the vendor's default.

        Raises:
            InvalidRequest: nobody names one.
        """
        settings = self.config.get("tts", {}) if capability == "audio" else self.config.get(capability, {})
        named = (
            kwargs.pop("model", None),
            self.config.get(f"{capability}_model"),
            settings.get("model") if isinstance(settings, dict) else None,
            self.config.get("chat_model") if capability == "content" else None,
            self.default_models.get(capability),
            self.default_models.get("chat") if capability == "content" else None,
        )
        model = next((name for name in named if name), None)
        if model is None:
            raise InvalidRequest(reason=f"Name the model, or set '{capability}_model' in the configuration.")
        return str(model)

    # -- asking ----------------------------------------------------------------------------------------------------

    async def _ask(self, ask: Ask, parse: Callable[[Answer], T], *, in_thread: bool = False) -> T:
        """What `parse` reads from the vendor's whole answer, asked again where that may help.

        `in_thread` is for an answer of megabytes: the loop goes on while it is read.

        Raises:
            ProviderError: of the kind that `errors` finds. What `parse` raises as a `ValueError`, `KeyError`,
                `TypeError`, `IndexError` or `AttributeError` is a `ProviderInvalidResponse`.
        """
        call, limits = self._call(ask), self._timeouts(ask.operation)

        async def attempt() -> T:
            async with self._told(ask) as told:
                answer = await self._fetch(ask, call, limits)
                if in_thread:
                    result = await asyncio.to_thread(self._read, call, answer, parse)
                else:
                    result = self._read(call, answer, parse)
                told.succeeded(info_of(result))
                return result

        with self._as_ours(call, limits):
            async with asyncio.timeout(limits.total):
                return await retry.retrying(ask.operation, attempt)

    def _read(self, call: Call, answer: Answer, parse: Callable[[Answer], T]) -> T:
        try:
            return parse(answer)
        except ErrorInAnswer as error:
            raise errors.from_body(call, error.data, answer.headers) from error
        except AIError:
            raise
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise errors.invalid_response(call, _shape(error)) from error

    async def _events(self, ask: Ask) -> AsyncGenerator[Event]:
        """The events of a streamed answer, in order; retried until the vendor begins to answer, never after.

        An answer that is JSON instead of a stream comes as one event named `answer`. After `[DONE]` nothing comes.

        Raises:
            StreamInterrupted: the connection broke after the answer had begun.
            ProviderError: anything else, as from `_ask`.
        """
        call, limits = self._call(ask), self._timeouts(ask.operation)
        deadline = monotonic() + limits.total

        async def attempt() -> httpx.Response:
            async with self._told(ask):  # how it ends is for the reader of the stream to tell
                return await self._answered(ask, call, limits)

        with self._as_ours(call, limits):
            async with asyncio.timeout(limits.total):
                response = await retry.retrying(ask.operation, attempt)
        try:
            content_type = response.headers.get("content-type", "")
            if content_type.startswith(("text/html", "application/xhtml")):
                with self._as_ours(call, limits, answered=True):
                    page = errors.parse_error(await http.read_body(response, http.ERROR_BODY_LIMIT)).message
                raise errors.invalid_response(call, page)
            if content_type.startswith("application/json"):
                with self._as_ours(call, limits, answered=True):
                    async with asyncio.timeout(max(deadline - monotonic(), 0)):
                        whole = await http.read_body(response, ask.limit)
                yield Event(whole.decode("utf-8", "replace"), "answer")
                return
            began = False
            async for event in self._decoded(response, call, limits, deadline):
                began = True
                yield event
            if not began and not content_type.startswith("text/event-stream"):
                raise errors.invalid_response(call, f"it is {content_type or 'nothing'} instead of a stream of events")
        finally:
            await response.aclose()

    async def _download(self, url: str, operation: str) -> http.Download:
        """The file behind a URL that this vendor answered with; no key goes along."""
        call, limits = Call(self.get_provider_name(), operation, self.api_key), self._timeouts(operation)
        try:
            return await http.download(url, seconds=limits.total, limit=MEDIA_LIMIT)
        except UrlRefused as error:
            raise errors.invalid_response(call, f"the file's URL is refused: {error}") from error
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            raise errors.invalid_response(call, f"the file's URL answered with HTTP {status}") from error
        except Exception as error:
            raise errors.from_exception(call, error, limits, answered=True) from error

    async def _pages(
        self, fetch: Callable[[str | None], Awaitable[tuple[list[T], str | None]]], call: Call
    ) -> AsyncGenerator[list[T]]:
        """The pages of a list: `fetch(token)` gives one and the next one's token, `None` at the end.

        Raises:
            ProviderInvalidResponse: a token came twice, or there are more than `PAGE_LIMIT` pages.
        """
        token: str | None = None
        seen: set[str] = set()
        for _ in range(PAGE_LIMIT):
            rows, token = await fetch(token)
            yield rows
            if not token:
                return
            if token in seen:
                raise errors.invalid_response(call, "its list of models repeats a page")
            seen.add(token)
        raise errors.invalid_response(call, f"its list of models has more than {PAGE_LIMIT} pages")

    async def _accepts_key(self, ask: Ask) -> bool:
        """Whether the vendor answers `ask` with this key.

        A key without credit is a good key. So is one that is only not allowed this very question, by its scopes
        (OpenAI's "Missing scopes", 403 or 401, 2026-11).

        Raises:
            ProviderError: the vendor could not be asked, so nothing is known.
        """
        try:
            await self._ask(ask, Answer.json)
        except ProviderAuthFailed as error:
            return "missing scopes" in str(error.facts.get("reason", "")).lower()
        except ProviderError as error:
            if error.facts.get("status_code") == 402:
                return True
            raise
        return True

    # -- the transport ---------------------------------------------------------------------------------------------

    async def _open(self, ask: Ask, limits: http.Timeouts) -> httpx.Response:
        """Send the request; the answer's body is still to be read. A vendor with an SDK sends through that."""
        url = ask.path if "://" in ask.path else f"{self._checked_base_url()}{ask.path}"
        client = await http.client()
        request = client.build_request(
            ask.method,
            url,
            json=ask.body,
            params=ask.params or None,
            headers=self._headers(ask),
            timeout=limits.httpx(),
        )
        return await client.send(request, stream=True)

    def _headers(self, ask: Ask) -> dict[str, str]:
        """What goes along with `ask`; a list that is open to all is asked for without a key where there is none."""
        is_open = self.public_model_list and ask.operation == "get_available_models" and not self.api_key.strip()
        return {"Accept": ask.accept, **({} if is_open else self._auth()), **ask.headers}

    async def _fetch(self, ask: Ask, call: Call, limits: http.Timeouts) -> Answer:
        response = await self._answered(ask, call, limits)
        with self._as_ours(call, limits, answered=True):
            return Answer(response.status_code, response.headers, await http.read_body(response, ask.limit))

    async def _answered(self, ask: Ask, call: Call, limits: http.Timeouts) -> httpx.Response:
        """The response, if its status is good; else its error."""
        with self._as_ours(call, limits):
            response = await self._open(ask, limits)
        if response.is_success:
            return response
        try:
            content = await http.read_body(response, http.ERROR_BODY_LIMIT * 100)
        except (httpx.HTTPError, http.BodyTooLarge):
            content = b""  # the status says enough
        raise errors.from_response(call, response.status_code, response.headers, content)

    async def _decoded(
        self, response: httpx.Response, call: Call, limits: http.Timeouts, deadline: float
    ) -> AsyncGenerator[Event]:
        decoder = EventDecoder()
        parts = response.aiter_bytes()
        began = False
        while True:
            try:
                with self._as_ours(call, limits, answered=True):
                    async with asyncio.timeout(max(deadline - monotonic(), 0)):
                        part = await anext(parts, None)
                    events = list(decoder.feed(part) if part is not None else decoder.finish())
            except ProviderError as error:
                if not began:
                    raise
                raise interrupted(call, error) from error
            for event in events:
                began = True
                yield event
                if event.data.strip() == DONE:
                    await _drain(parts)
                    return
            if part is None:
                return

    @asynccontextmanager
    async def _told(self, ask: Ask) -> AsyncGenerator[Attempt]:
        """Tell `attempts` of a request that the vendor may charge for. Questions by GET are free."""
        attempt = Attempt() if ask.body is None else await self.attempts.begin()
        try:
            yield attempt
        except BaseException as error:
            attempt.failed(error)
            raise

    # -- facts of a call -------------------------------------------------------------------------------------------

    def _call(self, ask: Ask) -> Call:
        return Call(self.get_provider_name(), ask.operation, self.api_key, ask.model)

    def _timeouts(self, operation: str) -> http.Timeouts:
        return http.timeouts(operation, self.config.get("timeout"))

    def _checked_base_url(self) -> str:
        """The base URL. Raises `InvalidConfig` where no request may go to it."""
        try:
            check_base_url(self.base_url)
        except UrlRefused as error:
            raise self._invalid_config(f"'base_url' is refused: {error}.") from error
        return self.base_url

    @contextmanager
    def _as_ours(self, call: Call, limits: http.Timeouts, *, answered: bool = False) -> Iterator[None]:
        try:
            yield
        except AIError:
            raise
        except Exception as error:
            raise errors.from_exception(call, error, limits, answered=answered) from error


async def _drain(parts: AsyncIterator[bytes]) -> None:
    """Read what follows the end of a stream, so that its connection can be used again; without waiting for it."""
    try:
        async with asyncio.timeout(DRAIN_WAIT):
            async for _ in parts:
                pass
    except (TimeoutError, httpx.HTTPError):
        pass


def interrupted(call: Call, cause: ProviderError | str) -> StreamInterrupted:
    """The end of a stream that should have gone on."""
    reason = cause if isinstance(cause, str) else str(cause.facts.get("reason") or cause.message)
    return StreamInterrupted(provider=call.provider, operation=call.operation, model=call.model, reason=reason)


def _shape(error: Exception) -> str:
    if type(error) is ValueError:
        return str(error)
    return f"it has not the form that was agreed ({type(error).__name__}: {error})"
