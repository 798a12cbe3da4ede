"""A key pays for its own admin's calls, and connections are shared by all."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from threading import Barrier
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection

from src.ai.models import AdminProviderSettings, AIModel, AIProvider
from src.ai.services.unified_service import UnifiedAIService
from src.core import http
from src.core.loop import io_loop
from tests.providers.answers import OPERATIONS, VendorAnswers, each
from tests.upstream.server import Reply, Request, Upstream

CALLS = 200
GENERATING = ("chat", "stream", "content", "image", "audio")


def keys_of(vendor: VendorAnswers) -> dict[str, str]:
    """Two admins, and a key of each in the vendor's form."""
    return {name: f"{vendor.key[:-6]}{ending}" for name, ending in (("xenia", "111111"), ("yorick", "222222"))}


def serve_all(vendor: VendorAnswers, upstream: Upstream) -> None:
    """Answer each operation, where two share a path by what the request says."""
    replies: dict[tuple[str, str], Reply] = {}
    for exchange in vendor.exchanges().values():
        for place, reply in ((exchange.method, exchange.path), exchange.reply), *exchange.also.items():
            replies.setdefault(place, reply)
    stream = vendor.stream

    def answer(request: Request) -> Reply:
        if request.path == stream.path and (stream.path != vendor.chat.path or b'"stream"' in request.body):
            return stream.reply
        return replies[request.method, request.path]

    for method, path in replies:
        upstream.on(method, path, answer)


async def ask(provider: Any, name: str, text: str, kwargs: Any) -> None:
    if name == "stream":
        async for _ in provider.stream_chat(text, **kwargs):
            pass
    else:
        await getattr(provider, OPERATIONS[name])(text, **kwargs)


def check_keys(vendor: VendorAnswers, upstream: Upstream) -> int:
    """See that each request with an admin's words had that admin's key; how many there were."""
    seen = 0
    keys = keys_of(vendor)
    for request in upstream.requests:
        for name, key in keys.items():
            others = [other for other in keys.values() if other != key]
            if name.encode() in request.body:
                seen += 1
                assert vendor.key_in(request) == key
                assert not any(other in value for value in request.headers.values() for other in others)
        assert http.NO_KEY not in str(request.headers)
        assert not any(key in f"{request.query} {request.body!r}" for key in keys.values())
    return seen


async def test_keys_of_calls_on_one_loop_never_cross(vendor: VendorAnswers, upstream: Upstream) -> None:
    serve_all(vendor, upstream)
    at_once = asyncio.Semaphore(20)
    operations = cycle(name for name in vendor.exchanges() if name in GENERATING)
    admins = cycle(keys_of(vendor).items())

    async def one(number: int, operation: str, admin: str, key: str) -> None:
        async with at_once:
            provider = vendor.provider(upstream, key)
            kwargs = {**vendor.exchanges()[operation].kwargs}
            await ask(provider, operation, f"{admin} says hello for the {number}th time", kwargs)

    await asyncio.gather(*(one(number, next(operations), *next(admins)) for number in range(CALLS)))
    assert check_keys(vendor, upstream) >= CALLS
    assert upstream.connections <= 20


@pytest.mark.django_db(transaction=True)
def test_keys_of_calls_in_threads_never_cross(
    vendor: VendorAnswers,
    upstream: Upstream,
    make_provider: Callable[..., AIProvider],
    make_model: Callable[..., AIModel],
) -> None:
    serve_all(vendor, upstream)
    row = make_provider(vendor.name, api_base_url=f"{upstream.url}{vendor.base_path}", config=dict(vendor.config))
    make_model(row, "chat", model_id=vendor.chat.kwargs["model"])
    admins = {}
    for name, key in keys_of(vendor).items():
        admins[name] = User.objects.create_user(name, is_staff=True)
        AdminProviderSettings.objects.create(admin=admins[name], provider=row, personal_api_key=key)
    together = Barrier(8)

    def work(thread: int) -> None:
        try:
            together.wait(10)
            for _ in range(CALLS // 8):
                name = ("xenia", "yorick")[thread % 2]
                UnifiedAIService.chat(f"{name} says hello", admins[name], provider_slug=vendor.name)
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert check_keys(vendor, upstream) == CALLS
    assert upstream.connections <= 8
    counted = AdminProviderSettings.objects.order_by("admin__username").values_list("total_requests", flat=True)
    assert list(counted) == [CALLS // 2, CALLS // 2]


@pytest.mark.parametrize("threads", [1, 8])
def test_threads_share_few_connections(vendor: VendorAnswers, upstream: Upstream, threads: int) -> None:
    vendor.serve(upstream, vendor.chat)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: io_loop.run(vendor.provider(upstream).chat("Hello", **vendor.chat.kwargs)), range(40)))
    assert len(upstream.requests) == 40
    assert upstream.connections <= threads


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_prefork_workers_ask_over_connections_of_their_own(vendor: VendorAnswers, upstream: Upstream) -> None:
    """As Celery's do: the parent has asked before it forks."""
    vendor.serve(upstream, vendor.chat)

    def ask_once(_: int = 0) -> str:
        return str(io_loop.run(vendor.provider(upstream).chat("Hello", **vendor.chat.kwargs)))

    assert ask_once() == vendor.chat.result
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            try:
                os._exit(0 if [ask_once() for _ in range(5)] == [vendor.chat.result] * 5 else 1)
            finally:
                os._exit(2)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    assert ask_once() == vendor.chat.result
    assert (upstream.connections, len(upstream.requests)) == (3, 12)


@each()
async def test_every_operation_gives_its_connection_back(
    vendor: VendorAnswers, operation: str, upstream: Upstream
) -> None:
    exchange = vendor.exchanges()[operation]
    vendor.serve(upstream, exchange)
    texts = () if operation in ("models", "validate") else ("Hello",)
    for _ in range(3):
        if texts:
            await ask(vendor.provider(upstream), operation, "Hello", exchange.kwargs)
        else:
            await getattr(vendor.provider(upstream), OPERATIONS[operation])(**exchange.kwargs)
    at_once = 1 + len(exchange.also)
    assert upstream.connections <= at_once


@each()
async def test_no_log_line_holds_a_key(
    vendor: VendorAnswers, operation: str, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("", "httpx", "httpx2", "openai", "groq", "huggingface_hub"):
        caplog.set_level(logging.DEBUG, name)
    exchange = vendor.exchanges()[operation]
    vendor.serve(upstream, exchange)
    if operation in ("models", "validate"):
        await getattr(vendor.provider(upstream), OPERATIONS[operation])(**exchange.kwargs)
    else:
        await ask(vendor.provider(upstream), operation, "Hello", exchange.kwargs)
    assert vendor.key not in caplog.text
    assert not any(vendor.key in str(vars(record)) for record in caplog.records)
