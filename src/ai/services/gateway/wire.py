"""What comes in and goes out, whichever server carries it; and errors as OpenAI's clients read them."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Protocol, TypeVar

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import InterfaceError, OperationalError, close_old_connections
from django.utils import translation
from django.utils.translation.trans_real import parse_accept_lang_header

from src.ai.exceptions import (
    AIError,
    KeyUnreadable,
    LedgerUnavailable,
    ModelLacksCapability,
    NoActiveModel,
    NoSuchModel,
    ProviderAuthFailed,
    ProviderBadRequest,
    ProviderModelNotFound,
    ProviderNoCredit,
    ProviderRateLimited,
    TokenRateLimited,
    UsageLimited,
    http_status,
)
from src.ai.services.limit_headers import limit_headers
from src.core.database import lend_connections
from src.core.loop import Errands

T = TypeVar("T")
Headers = list[tuple[bytes, bytes]]

KEEP_ALIVE: Final = b": keep-alive\n\n"
STREAM_HEADERS: Final[Headers] = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
JSON: Final = (b"content-type", b"application/json")
NEVER_RETRY: Final = (b"x-should-retry", b"false")
# The types and codes that clients know (openai 3.54.0, _exceptions.py; developers.openai.com, "Error codes").
_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_CODES: Final[tuple[tuple[type[AIError], str], ...]] = (
    (NoSuchModel, "model_not_found"),
    (NoActiveModel, "model_not_found"),
    (ProviderModelNotFound, "model_not_found"),
    (ProviderRateLimited, "rate_limit_exceeded"),
    (TokenRateLimited, "rate_limit_exceeded"),
)
# What will end the same way however often it is asked, though its status says that it may not.
_HOPELESS: Final = (UsageLimited, ProviderAuthFailed, ProviderNoCredit, KeyUnreadable, ModelLacksCapability)


@dataclass(slots=True)
class Request:
    """One request. `path` is what follows `/v1/`; the names of `headers` are in lower case."""

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    read_body: Callable[[], Awaitable[bytes]]
    request_id: str
    is_secure: bool
    errands: Errands | None = None  # done by the thread that waits for the answer, where one does

    @property
    def is_alone(self) -> bool:
        """Whether no thread, which could be in a transaction, waits for the answer."""
        return self.errands is None

    async def run_sync(self, function: Callable[..., T], *args: Any) -> T:
        """The result of a function that uses the database. Its connections are lent to others afterwards.

        Raises:
            LedgerUnavailable: the database is away.
        """
        if self.errands is None:
            return await sync_to_async(_with_database)(function, *args)
        return await self.errands.ask(lambda: _with_database(function, *args))

    async def look_up(self, function: Callable[..., T], *args: Any) -> T:
        """As `run_sync`, for what comes before a call.

        All look-ups share one thread: without an end each would wait for all before it to find the database away.

        Raises:
            LedgerUnavailable: the database is away, or busy for longer than `AI_LEDGER_TIMEOUT`.
        """
        try:
            async with asyncio.timeout(settings.AI_LEDGER_TIMEOUT if self.is_alone else None) as waiting:
                return await self.run_sync(function, *args)
        except TimeoutError as error:
            if not waiting.expired():
                raise
            raise LedgerUnavailable(retry_after=1) from error

    def header(self, name: bytes) -> str:
        return self.headers.get(name, b"").decode("latin-1")

    def forget(self) -> None:
        """Let go of what has come in: an answer may take minutes."""
        self.headers, self.read_body = {}, _no_body


async def _no_body() -> bytes:
    return b""


def _with_database(function: Callable[..., T], *args: Any) -> T:
    try:
        return function(*args)
    except (InterfaceError, OperationalError) as error:
        close_old_connections()  # the next one may be better
        raise LedgerUnavailable(retry_after=1) from error
    finally:
        lend_connections()


class _Sent(Awaitable[None]):
    def __await__(self) -> Generator[Any, Any, None]:
        yield from ()


SENT: Final = _Sent()  # what is left to wait for where all is done


class Responder(Protocol):
    """Where the answer goes: by one `send`, or by `begin`, as many `write`s as there are pieces, and `end`."""

    left: bool  # whether the client has gone
    has_begun: bool  # whether the head of an answer is on its way

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer."""

    async def begin(self, status: int, headers: Headers, when_left: Callable[[], object]) -> None:
        """The head of an answer that comes piece by piece; `when_left` is called if the client goes meanwhile."""

    def watch(self, when_left: Callable[[], object]) -> None:
        """Call `when_left` if the client goes before an answer has begun, where the server tells."""

    def write(self, piece: bytes) -> Awaitable[None]:
        """A piece of it. What comes back is to be awaited; it may be `SENT`, where there is nothing to wait for."""

    async def end(self) -> None:
        """Its end."""

    def break_off(self) -> None:
        """Have the connection closed without an end, so that nobody takes what has come for the whole."""


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error as it is sent."""

    status: int
    headers: Headers
    body: bytes


def error_answer(error: AIError, request: Request | None = None) -> ErrorAnswer:
    """The answer that an error is: the vendor's own body where it has one in this form, else ours."""
    status = status_of(error)
    headers: Headers = [JSON, *to_headers(limit_headers(error.facts.get("standings", ())))]
    if error.retry_after is not None:
        headers.append((b"retry-after", str(math.ceil(error.retry_after)).encode()))
    if isinstance(error, _HOPELESS) or error.may_have_cost:
        headers.append(NEVER_RETRY)
    if status == 405:
        headers.append((b"allow", str(error.facts["allowed"]).encode()))
    passed = error.facts.get("passed_on")
    if passed is not None:
        known = {name for name, _ in headers}
        more = [(name, value) for name, value in passed.headers if name not in known]
        return ErrorAnswer(passed.status, headers + more, passed.body)
    with translation.override(_language(request)):
        return ErrorAnswer(status, headers, to_json({"error": error_object(error)}))


def status_of(error: AIError) -> int:
    """The status of an error: as everywhere, but that a body which a vendor refused is the client's own here."""
    if isinstance(error, ProviderBadRequest):
        told = error.facts.get("status_code")
        return told if told in (400, 413, 422) else 400
    return http_status(error)


def error_object(error: AIError) -> dict[str, Any]:
    """What stands under `error` in a body or an event."""
    status = status_of(error)
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    if isinstance(error, UsageLimited):
        kind = "insufficient_quota"
    code = next((code for known, code in _CODES if isinstance(error, known)), error.code)
    param = error.facts.get("param") or error.attr
    return {"message": error.message, "type": kind, "param": param, "code": code}


def server_error() -> ErrorAnswer:
    """What is said of a mistake of ours."""
    body = {"error": {"message": "Internal error.", "type": "server_error", "param": None, "code": "internal_error"}}
    return ErrorAnswer(500, [JSON], json.dumps(body).encode())


def to_json(data: object) -> bytes:
    """The data in UTF-8. Half of a surrogate pair, which some vendors send, becomes an escape: that is JSON too."""
    return json.dumps(data, ensure_ascii=False).encode("utf-8", "backslashreplace")


def to_headers(named: Mapping[str, str]) -> Headers:
    return [(_wire_name(name), value.encode()) for name, value in named.items()]


@lru_cache(maxsize=256)
def _wire_name(name: str) -> bytes:
    return name.lower().encode("latin-1")


def _language(request: Request | None) -> str:
    """The first language that the client accepts and this site has."""
    accepted: Sequence[tuple[str, float]] = ()
    if request is not None and b"accept-language" in request.headers:
        accepted = parse_accept_lang_header(request.header(b"accept-language"))
    for code, _ in accepted:
        try:
            return translation.get_supported_language_variant(code)
        except LookupError:
            continue
    return str(settings.LANGUAGE_CODE)
