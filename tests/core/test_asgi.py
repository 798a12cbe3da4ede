"""Django behind an ASGI server: bodies, signals, threads, and nothing of a request that the next one finds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from asgiref.testing import ApplicationCommunicator
from django.core.signals import request_finished, request_started
from django.dispatch import Signal
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import path
from django.utils.translation import activate, get_language
from django.views.decorators.csrf import csrf_exempt

from src.core import asgi
from src.core.asgi import Handler

release = threading.Event()


def echo(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.read())


def language(request: HttpRequest) -> HttpResponse:
    before = get_language()
    activate("fa")
    return HttpResponse(f"{threading.current_thread().name} {before}")


def stream(request: HttpRequest) -> HttpResponseBase:
    async def parts() -> AsyncIterator[str]:
        yield "one "
        await asyncio.sleep(0)
        yield "two"

    return StreamingHttpResponse(parts())


def waits_for_a_coroutine(request: HttpRequest) -> HttpResponse:
    async_to_sync(asyncio.Event().wait)()
    return HttpResponse()


def waits(request: HttpRequest) -> HttpResponse:
    release.wait(20)
    return HttpResponse()


VIEWS: dict[str, Callable[[HttpRequest], HttpResponseBase]] = {
    "echo": echo,
    "language": language,
    "stream": stream,
    "coroutine": waits_for_a_coroutine,
    "waits": waits,
}
urlpatterns = [path(name, csrf_exempt(view)) for name, view in VIEWS.items()]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db(transaction=True)]


@pytest.fixture
def site() -> Handler:
    release.clear()
    return Handler()


def asking(site: Handler, name: str) -> ApplicationCommunicator:
    headers = [(b"host", b"testserver")]
    return ApplicationCommunicator(site, {"type": "http", "method": "POST", "path": f"/{name}", "headers": headers})


async def answer(site: Handler, name: str, *pieces: bytes) -> tuple[int, bytes]:
    """The status and the body."""
    client = asking(site, name)
    for piece in pieces:
        await client.send_input({"type": "http.request", "body": piece, "more_body": True})
    await client.send_input({"type": "http.request", "body": b""})
    start = await client.receive_output(10)
    body, more = b"", True
    while more:
        message = await client.receive_output(10)
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await client.wait(10)
    return start["status"], body


@contextmanager
def heard(*signals: Signal) -> Iterator[list[tuple[Signal, str]]]:
    """Which signals are sent, and in which threads."""
    told: list[tuple[Signal, str]] = []

    def hear(signal: Signal, **facts: Any) -> None:
        told.append((signal, threading.current_thread().name))

    for signal in signals:
        signal.connect(hear)
    try:
        yield told
    finally:
        for signal in signals:
            signal.disconnect(hear)


@pytest.mark.parametrize(
    "pieces", [(), (b"whole",), (b"in ", b"pieces"), (b"a" * 65_536,) * 50], ids=["none", "whole", "pieces", "large"]
)
async def test_a_body_arrives_as_it_was_sent(site: Handler, pieces: tuple[bytes, ...]) -> None:
    assert await answer(site, "echo", *pieces) == (200, b"".join(pieces))


async def test_who_leaves_while_sending_is_not_answered(site: Handler) -> None:
    client = asking(site, "echo")
    with heard(request_started) as told:
        await client.send_input({"type": "http.request", "body": b"half", "more_body": True})
        await client.send_input({"type": "http.disconnect"})
        await client.wait(10)
    assert (client.output_queue.empty(), told) == (True, [])


async def test_a_thread_serves_one_request_after_another_and_keeps_nothing_of_them(site: Handler) -> None:
    told = [(await answer(site, "language"))[1] for _ in range(20)]
    assert len(set(told)) < len(told)
    assert all(one.endswith(b" en") for one in told)


async def test_a_request_is_begun_and_finished_once_in_the_thread_of_its_view(site: Handler) -> None:
    with heard(request_started, request_finished) as told:
        assert (await answer(site, "echo", b"Hi"))[1] == b"Hi"
    assert [signal for signal, _ in told] == [request_started, request_finished]
    assert {name.partition("_")[0] for _, name in told} == {"request"}


async def test_a_stream_is_finished_once_when_all_is_sent(site: Handler) -> None:
    with heard(request_finished) as told:
        assert await answer(site, "stream") == (200, b"one two")
    assert len(told) == 1


async def test_a_view_that_waits_for_a_coroutine_is_cancelled_with_its_client(site: Handler) -> None:
    client = asking(site, "coroutine")
    with heard(request_started, request_finished) as told:
        await client.send_input({"type": "http.request"})
        while not told:
            await asyncio.sleep(0.01)
        await client.send_input({"type": "http.disconnect"})
        await client.wait(10)
    assert [signal for signal, _ in told] == [request_started, request_finished]
    assert client.output_queue.empty()


async def test_a_request_whose_client_has_left_is_under_way_until_its_view_has_ended(
    site: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asgi, "WATCH_AFTER", 0.0)
    client = asking(site, "waits")
    with heard(request_started, request_finished) as told:
        await client.send_input({"type": "http.request"})
        while not told:
            await asyncio.sleep(0.01)
        await client.send_input({"type": "http.disconnect"})
        for _ in range(20):
            await asyncio.sleep(0)
        assert not client.future.done()
        release.set()
        await client.wait(10)
    assert [signal for signal, _ in told] == [request_started, request_finished]
    assert client.output_queue.empty()
