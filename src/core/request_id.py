"""The name of a request: the caller's or a new one, in the answer, in every log line and on the books."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from inspect import iscoroutinefunction
from typing import Final

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

from src.core.ids import new_id

HEADER: Final = "X-Request-Id"

_SANE: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_current: ContextVar[str] = ContextVar("request_id", default="")


def current_request_id() -> str:
    """The name of the request that is being answered; empty outside of one."""
    return _current.get()


def name_request(sent: str) -> str:
    """Name the request that is answered from here on: `sent`, where that is a sane name, else a new one."""
    name = sent if sent and _SANE.fullmatch(sent) else new_id()
    _current.set(name)
    return name


@sync_and_async_middleware
def request_id_middleware(
    get_response: Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]],
) -> Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]:
    """Names the request by its header `X-Request-Id`, or anew where that is not 1 to 128 of `A-Za-z0-9._:-`.

    Comes first, so that every answer of Django's carries the name. A stream keeps it for as long as it is sent.
    """

    def begin(request: HttpRequest) -> str:
        name = name_request(request.headers.get(HEADER, ""))
        request.request_id = name  # type: ignore[attr-defined]
        return name

    def end(response: HttpResponseBase, name: str) -> HttpResponseBase:
        response[HEADER] = name
        if not response.streaming:
            _current.set("")
        return response

    if iscoroutinefunction(get_response):

        async def amiddleware(request: HttpRequest) -> HttpResponseBase:
            name = begin(request)
            return end(await get_response(request), name)

        return amiddleware

    def middleware(request: HttpRequest) -> HttpResponseBase:
        name = begin(request)
        return end(get_response(request), name)  # type: ignore[arg-type]  # no coroutine, as seen above

    return middleware


class RequestIdFilter(logging.Filter):
    """Adds the name of the request to records that have none: of the one that is answered, or that they are about."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        name = _current.get() or getattr(getattr(record, "request", None), "request_id", "")
        if name and not hasattr(record, "request_id"):
            record.request_id = name
        return True
