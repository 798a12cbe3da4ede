"""Chat as server-sent events.

    event: delta   data: {"text": …}                  as often as the vendor sends some
    event: done    data: what a plain answer has as `info`
    event: error   data: what an error answer has as its body; nothing comes after it

What goes wrong before the first delta is an ordinary error answer: a stream begins when its first delta is there.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, closing
from functools import wraps
from typing import Any, Final, TypeVar

from asgiref.sync import async_to_sync
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.serializers import BooleanField
from rest_framework.views import APIView

from src.ai.exceptions import IdempotencyKeyWithStream
from src.ai.results import ReplyIterator, ReplyStream, ResultInfo
from src.ai.serializers.base import ResultInfoSerializer, shared
from src.ai.services.unified_service import UnifiedAIService
from src.ai.views.idempotency import HEADER as IDEMPOTENCY_KEY

KEEP_ALIVE_AFTER: float = 15.0  # seconds without an event
KEEP_ALIVE: Final = b": keep-alive\n\n"
HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}

View = TypeVar("View", bound="StreamingMixin")


class EventStreamRenderer(JSONRenderer):
    """Makes `Accept: text/event-stream` acceptable. Renders nothing: whatever is no stream is JSON."""

    media_type = "text/event-stream"
    charset = None


class EventStream(StreamingHttpResponse):
    """Closes what it is made of as soon as its reader goes, where Django leaves that to the garbage collector."""

    def __init__(self, parts: Iterator[bytes] | AsyncIterator[bytes], let_go: Callable[[], None]) -> None:
        super().__init__(parts, headers=HEADERS)
        self._let_go = let_go
        self._is_begun = False

    def __iter__(self) -> Iterator[bytes]:
        self._is_begun = True
        return super().__iter__()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._is_begun = True
        async with aclosing(self._iterator) as parts:  # type: ignore[attr-defined]
            async for part in parts:
                yield self.make_bytes(part)

    def close(self) -> None:
        """A generator that has not begun does not notice its end."""
        super().close()
        if not self._is_begun:
            self._let_go()


class StreamingMixin(APIView):
    """A view that may answer with a stream, where its renderers include `EventStreamRenderer`."""

    _accepts_stream = False

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        """As ever; who asks for a stream gets anything else in JSON."""
        renderer, media_type = super().perform_content_negotiation(request, force)
        self._accepts_stream = isinstance(renderer, EventStreamRenderer)
        return (JSONRenderer(), JSONRenderer.media_type) if self._accepts_stream else (renderer, media_type)

    def wants_stream(self, request: Request) -> bool:
        """As the body's `stream` says; where it says nothing, as the client accepts."""
        asked = request.data.get("stream") if isinstance(request.data, dict) else None
        return self._accepts_stream if asked is None else any(asked == value for value in BooleanField.TRUE_VALUES)

    def stream(self, request: Request) -> HttpResponseBase:
        """The streamed answer."""
        raise NotImplementedError

    def stream_chat(self, request: Request, **asked: Any) -> tuple[StreamingHttpResponse, ResultInfo]:
        """The answer, once its first delta has come, and the facts known by then.

        An ASGI server runs the vendor's stream on its own loop: no thread stands between the two.
        """
        if isinstance(request._request, ASGIRequest):
            return async_to_sync(self.astream_chat)(**asked)
        stream = UnifiedAIService.stream_chat(**asked)
        first = next(stream)
        return EventStream(self._events(stream, first), stream.close), stream.info

    async def astream_chat(self, **asked: Any) -> tuple[StreamingHttpResponse, ResultInfo]:
        """The asynchronous twin of `stream_chat`."""
        stream = UnifiedAIService.astream_chat(**asked)
        first = await anext(stream)
        return EventStream(self._aevents(stream, first), async_to_sync(stream.aclose)), stream.info

    async def _aevents(self, stream: ReplyStream, first: str) -> AsyncIterator[bytes]:
        async with aclosing(stream):
            stream.patience = KEEP_ALIVE_AFTER
            yield _delta(first)
            try:
                async for text in stream:
                    yield _delta(text)
            except Exception as error:
                yield self._error(error)
            else:
                yield _done(stream.info)

    def _events(self, stream: ReplyIterator, first: str) -> Iterator[bytes]:
        with closing(stream):
            stream.patience = KEEP_ALIVE_AFTER
            yield _delta(first)
            try:
                for text in stream:
                    yield _delta(text)
            except Exception as error:
                yield self._error(error)
            else:
                yield _done(stream.info)

    def _error(self, error: Exception) -> bytes:
        return _event("error", self.handle_exception(error).data)


def or_stream(action: Callable[[View, Request], HttpResponse]) -> Callable[[View, Request], HttpResponseBase]:
    """An action that answers with the view's `stream` where one is asked for. Stands above `@idempotent`.

    A stream takes no `Idempotency-Key`: it can't be kept.
    """

    @wraps(action)
    def answer(view: View, request: Request) -> HttpResponseBase:
        if not view.wants_stream(request):
            return action(view, request)
        if IDEMPOTENCY_KEY in request.headers:
            raise IdempotencyKeyWithStream()
        return view.stream(request)

    return answer


def _delta(text: str) -> bytes:
    return _event("delta", {"text": text}) if text else KEEP_ALIVE


def _done(info: ResultInfo) -> bytes:
    return _event("done", shared(ResultInfoSerializer).to_representation(info))


def _event(name: str, data: Any) -> bytes:
    # Half of a surrogate pair becomes an escape, which whoever joins the texts joins too.
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode(errors="backslashreplace")
