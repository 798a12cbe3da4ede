"""Django for ASGI servers, with one step into a thread for each request."""

from __future__ import annotations

import asyncio
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from typing import IO, Final

import django
from asgiref.sync import sync_to_async
from django.core import signals
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, ASGIRequest, get_script_prefix
from django.db import close_old_connections
from django.http import FileResponse
from django.http.response import HttpResponseBase
from django.urls import set_script_prefix

from src.core.graceful import Message, Receive, Scope, Send

THREADS_LIMIT: Final = 1000  # requests answered at once; more wait for their turn


def get_asgi_application() -> Handler:
    """What Django's function of this name is for, with our handler."""
    django.setup(set_prefix=False)
    return Handler()


class Handler(ASGIHandler):
    """Runs the signals, the middleware and the view of a request in one go, in a thread that is used again after it.

    Django's own goes into a thread twice for each middleware and starts one anew for each request, which is most of
    what a short request costs. What an answer streams comes from the server's loop, as with Django's.
    """

    def __init__(self) -> None:
        super().__init__()
        threads = ThreadPoolExecutor(THREADS_LIMIT, thread_name_prefix="request")
        self._respond_in_thread = sync_to_async(self._respond, thread_sensitive=False, executor=threads)

    def load_middleware(self, is_async: bool = False) -> None:
        """The synchronous chain, whatever is asked for."""
        super().load_middleware(is_async=False)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, unless the client leaves before that: then the view learns of it where it waits for a coroutine."""
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        set_script_prefix(get_script_prefix(scope))
        request, refusal = self.create_request(scope, body)
        if request is None:
            await self.send_response(refusal, send)  # type: ignore[arg-type]  # one of the two is there
            return
        responding: Future[HttpResponseBase] = Future()
        answering = asyncio.create_task(self._answer(request, responding, send))
        leaving = asyncio.ensure_future(receive())
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        answering.cancel()
        with suppress(asyncio.CancelledError):
            await answering
        if responding.cancel():
            return  # it had not begun
        with suppress(asyncio.CancelledError):
            response = responding.result() if responding.done() else await asyncio.wrap_future(responding)
            if not response.closed:
                await sync_to_async(response.close)()

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

    async def _answer(self, request: ASGIRequest, responding: Future[HttpResponseBase], send: Send) -> None:
        response = await self._respond_in_thread(request, responding)
        await self.send_response(response, send)

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
