"""Django for ASGI servers: one step into a thread for each request, and none where a view asks for none.

A view on the loop is an asynchronous one that is chosen by the request's head, before Django. The middleware runs
around it as around any other, on the loop too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from typing import IO, Any, Final

from asgiref.sync import SyncToAsync, sync_to_async
from django.conf import settings
from django.core import signals
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, ASGIRequest, get_script_prefix
from django.core.handlers.exception import response_for_exception
from django.db import close_old_connections
from django.http import FileResponse
from django.http.response import HttpResponseBase
from django.urls import set_script_prefix, set_urlconf
from django.utils.log import log_response
from django.utils.module_loading import import_string

from src.core.graceful import Message, Receive, Scope, Send

LoopView = Callable[[ASGIRequest], Awaitable[HttpResponseBase]]
Choice = Callable[[Scope], LoopView | None]
Chain = Callable[[Any], Any]

THREADS_LIMIT: Final = 1000  # requests answered at once; more wait for their turn
WATCH_AFTER: Final = 1.0  # seconds without an answer, after which it is worth while to see whether the client stays
# These wait for nothing where a view leaves session and messages alone.
QUICK_MIDDLEWARE: Final = frozenset(
    {
        "src.core.request_id.request_id_middleware",
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.locale.LocaleMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    }
)


class Handler(ASGIHandler):
    """Runs the signals, the middleware and the view of a request in one go, in a thread that is used again after it.

    Django's own goes into a thread twice for each middleware and starts one anew for each request, which is most of
    what a short request costs. What an answer streams comes from the server's loop, as with Django's.
    """

    def __init__(self, choose: Choice = lambda scope: None) -> None:
        """To be made when Django is set up.

        `choose` gives the view on the loop for a request, by its ASGI scope; None leaves it to a thread and the URLs.
        Such a view is exempt from CSRF checks and leaves session, messages and database alone.
        """
        super().__init__()
        self._choose = choose
        self._chain_on_loop = _chain_on_loop() if QUICK_MIDDLEWARE.issuperset(settings.MIDDLEWARE) else None
        threads = ThreadPoolExecutor(THREADS_LIMIT, thread_name_prefix="request")
        self._respond_in_thread = sync_to_async(self._respond, thread_sensitive=False, executor=threads)

    def load_middleware(self, is_async: bool = False) -> None:
        """The synchronous chain, whatever is asked for."""
        super().load_middleware(is_async=False)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, unless the client leaves before that: then the view learns of it where it waits for a coroutine.

        That the client has left is looked for once a stream has begun, or the answer has taken `WATCH_AFTER` seconds.
        """
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        set_script_prefix(get_script_prefix(scope))
        request, refusal = self.create_request(scope, body)
        if request is None:
            await self.send_response(refusal, send)  # type: ignore[arg-type]  # one of the two is there
            return
        view = self._choose(scope) if self._chain_on_loop and _only_django_listens() else None
        responding: Future[HttpResponseBase] = Future()
        respond = (
            self._respond_on_loop(view, request, responding) if view else self._respond_in_thread(request, responding)
        )
        try:
            async with asyncio.timeout(None) as staying:
                watch = _Watch(receive, staying)
                try:
                    response = await respond
                    if response.streaming:
                        watch.begin()
                    await self.send_response(response, send)
                finally:
                    watch.end()
        except TimeoutError:
            if not staying.expired():
                raise
            if responding.cancel():
                return  # it had not begun
        with suppress(asyncio.CancelledError):
            response = responding.result() if responding.done() else await asyncio.wrap_future(responding)
            if view and not (response.streaming or _thread_was_used()):
                _close_on_loop(response)
            elif not response.closed:
                await sync_to_async(response.close)()  # in the thread that a view on the loop may have used

    async def read_body(self, receive: Receive) -> IO[bytes]:
        """What arrives in one piece stays where it is; of the rest, what is large goes to a file."""
        message = await receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            return BytesIO(message.get("body", b""))
        begun = [message]

        async def receive_on() -> Message:
            return begun.pop() if begun else await receive()

        body: IO[bytes] = await super().read_body(receive_on)
        return body

    def _respond(self, request: ASGIRequest, responding: Future[HttpResponseBase]) -> HttpResponseBase:
        """In the thread: all that Django does for a request but sending. `responding` is for who no longer waits."""
        if not responding.set_running_or_notify_cancel():
            raise CancelledError
        try:
            signals.request_started.send(sender=type(self), scope=request.scope)
            response: HttpResponseBase = self.get_response(request)
            response._handler_class = type(self)  # type: ignore[attr-defined]  # the sender of `request_finished`
            if isinstance(response, FileResponse):
                response.block_size = self.chunk_size
            if response.streaming:
                close_old_connections()  # of this thread; what is streamed is made elsewhere
            else:
                response.close()
        except BaseException as error:  # Django answers for all others
            signals.request_finished.send(sender=type(self))
            responding.set_exception(error)
            raise
        responding.set_result(response)
        return response

    async def _respond_on_loop(
        self, view: LoopView, request: ASGIRequest, responding: Future[HttpResponseBase]
    ) -> HttpResponseBase:
        """What `_respond` does, on the loop."""
        responding.set_running_or_notify_cancel()
        try:
            set_urlconf(settings.ROOT_URLCONF)
            request.view_on_loop = view  # type: ignore[attr-defined]  # of ours
            response: Any = await self._chain_on_loop(request)  # type: ignore[misc]  # there is one
            response._handler_class = type(self)
            response._resource_closers.append(request.close)
            if response.status_code >= 400:
                log_response("%s: %s", response.reason_phrase, request.path, response=response, request=request)
        except BaseException as error:
            responding.set_exception(error)
            raise
        responding.set_result(response)
        answered: HttpResponseBase = response
        return answered


class _Watch:
    """Ends a wait when the client leaves. It looks from `begin` on, or when the wait has become a long one."""

    def __init__(self, receive: Receive, wait: asyncio.Timeout) -> None:
        self._receive = receive
        self._wait = wait
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER, self.begin)
        self._looking: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._timer.cancel()
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())

    def end(self) -> None:
        self._timer.cancel()
        looking, self._looking = self._looking, None  # else each would keep the other until garbage is collected
        if looking is not None:
            looking.cancel()

    async def _look(self) -> None:
        await self._receive()
        self._wait.reschedule(0)


def _chain_on_loop() -> Chain:
    """The middleware around a view on the loop, without Django's steps into a thread."""
    chain: Chain = _answer
    layers: list[Any] = []
    for path in reversed(settings.MIDDLEWARE):
        middleware = import_string(path)
        if isinstance(middleware, type):
            layers.insert(0, middleware(_answer))
        else:
            chain, layers = middleware(_through(layers, chain)), []
    return _through(layers, chain)


async def _answer(request: Any) -> Any:
    return await request.view_on_loop(request)


def _through(layers: Sequence[Any], answer: Chain) -> Chain:
    """`answer` within these middleware objects, outermost first: as they would call each other, in one coroutine.

    Nothing is raised: as with Django's, each gets a response from within.
    """
    steps = [(getattr(one, "process_request", None), getattr(one, "process_response", None)) for one in layers]

    async def through(request: Any) -> Any:
        response, left = None, []
        try:
            for on_request, on_response in steps:
                response = on_request(request) if on_request else None
                left.append(on_response)
                if response is not None:
                    break
            else:
                response = await answer(request)
        except Exception as error:
            response = await _for_exception(request, error)
        for on_response in reversed(left):
            try:
                response = on_response(request, response) if on_response else response
            except Exception as error:
                response = await _for_exception(request, error)
        return response

    return through


async def _for_exception(request: Any, error: Exception) -> Any:
    return await sync_to_async(response_for_exception, thread_sensitive=False)(request, error)


def _close_on_loop(response: Any) -> None:
    """`response.close` without its signal, of which only what uses a database has to learn."""
    for close in response._resource_closers:
        with suppress(Exception):
            close()
    response._resource_closers.clear()
    response.closed = True


def _only_django_listens() -> bool:
    """Whether nobody else wants to know when a request begins and ends: it is not told of those on the loop."""
    return len(signals.request_started.receivers) <= 2 and len(signals.request_finished.receivers) <= 3


def _thread_was_used() -> bool:
    """Whether the request has been in a thread after all, whose connections it has to close."""
    return SyncToAsync.thread_sensitive_context.get(None) in SyncToAsync.context_to_thread_executor
