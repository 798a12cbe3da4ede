"""A chat that is answered on the server's loop: as in a thread, to the letter."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.contrib.auth.models import User
from django.core.signals import request_started
from django.db import connections
from rest_framework.test import APIClient

from src.ai.models import AIModel, AIProvider, UsageRecord
from src.ai.services.ledger.writer import writer
from src.ai.views.on_loop import chat_on_loop
from src.core import asgi
from src.core.asgi import Handler, LoopView
from src.core.graceful import Graceful, Scope
from tests import vendor_answers as answers
from tests.upstream.server import Gate, Reply, Upstream, events, whole

CHAT = "/api/admin/ai/chat/send"
HELLO = {"message": "Hi"}
STREAM = [answers.chunk("Hel"), answers.chunk("lo!"), answers.chunk(None, "stop")]
Headers = dict[str, str]

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def model(make_provider: Callable[..., AIProvider], make_model: Callable[..., AIModel], upstream: Upstream) -> AIModel:
    upstream.on("POST", answers.CHAT, whole(200, answers.chat("Hello!")))
    provider = make_provider(
        api_base_url=f"{upstream.url}/v1",
        shared_api_key="sk-0123456789abcdef",
        allow_shared_for_normal_admins=True,
        default_monthly_limit=1000,
    )
    return make_model(provider, "chat", model_id="gpt-6-luna", pricing_input=0, pricing_output=1_000_000)


@dataclass
class Answer:
    status: int
    headers: Headers
    body: bytes


class Site:
    """The site behind an ASGI server, and one admin's browser."""

    def __init__(self, api: APIClient) -> None:
        self.credentials = api._credentials["HTTP_AUTHORIZATION"]
        self.on_loop = 0
        self.application: Any = Handler(self.choose)

    def choose(self, scope: Scope) -> LoopView | None:
        view = chat_on_loop(scope)
        self.on_loop += view is not None
        return view

    async def asking(
        self, body: Any = HELLO, headers: Headers | None = None, *, path: str = CHAT
    ) -> ApplicationCommunicator:
        content = json.dumps(body).encode()
        sent = {"host": "testserver", "content-type": "application/json", "content-length": str(len(content))}
        sent |= {"authorization": self.credentials}
        raw = [(name.encode(), value.encode()) for name, value in {**sent, **(headers or {})}.items()]
        client = ApplicationCommunicator(
            self.application, {"type": "http", "method": "POST", "path": path, "headers": raw}
        )
        await client.send_input({"type": "http.request", "body": content})
        return client

    async def ask(self, *args: Any, **kwargs: Any) -> Answer:
        client = await self.asking(*args, **kwargs)
        start = await client.receive_output(10)
        body, more = b"", True
        while more:
            message = await client.receive_output(10)
            body, more = body + message.get("body", b""), message.get("more_body", False)
        await client.wait(10)
        headers = {name.decode().lower(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], headers, body)

    async def warm(self) -> None:
        """Until what a chat needs is in memory, which a second later it is no more."""
        for _ in range(5):
            before = self.on_loop
            assert (await self.ask()).status == 200
            if self.on_loop > before:
                return
        raise AssertionError("no chat was answered on the loop")


@pytest.fixture
async def site(model: AIModel, editor_api: APIClient) -> AsyncIterator[Site]:
    yield Site(editor_api)
    await sync_to_async(connections.close_all)()


def comparable(answer: Answer) -> tuple[int, Headers, bytes]:
    changing = ("x-request-id", "x-ai-limit-reset", "x-ai-limit-remaining")
    assert "x-request-id" in answer.headers
    return answer.status, {name: text for name, text in answer.headers.items() if name not in changing}, answer.body


@pytest.mark.parametrize(
    ("body", "headers", "vendor"),
    [
        (HELLO, {}, whole(200, answers.chat("Hello!"))),
        ({**HELLO, "temperature": 7}, {}, None),
        ({**HELLO, "temperature": 7}, {"accept-language": "fa"}, None),
        ({"massage": "Hi"}, {}, None),
        ([HELLO], {}, None),
        ({**HELLO, "provider_slug": "groq"}, {}, None),
        (HELLO, {"accept": "application/pdf"}, None),
        (HELLO, {"content-type": "text/csv"}, None),
        (HELLO, {"host": "elsewhere"}, None),
        (HELLO, {}, whole(400, {"error": {"message": "no"}})),
        (HELLO, {}, whole(429, {"error": {"message": "slow down"}}, headers={"retry-after": "70"})),
        ({**HELLO, "stream": True}, {}, events(*STREAM)),
        (HELLO, {"accept": "text/event-stream", "accept-language": "fa"}, events(*STREAM[:1])),
        ({**HELLO, "stream": True}, {}, whole(401, {"error": {"message": "no such key"}})),
    ],
)
async def test_the_answer_is_that_of_a_thread(
    site: Site, upstream: Upstream, body: Any, headers: Headers, vendor: Reply | None
) -> None:
    await site.warm()
    begun = site.on_loop
    if vendor:
        upstream.send(vendor, vendor)
    on_loop = await site.ask(body, headers)
    assert site.on_loop == begun + 1
    site.application = Handler()
    assert comparable(on_loop) == comparable(await site.ask(body, headers))


@pytest.mark.parametrize(
    ("headers", "path"),
    [
        ({"idempotency-key": "once"}, CHAT),
        ({"accept": "text/html,*/*"}, CHAT),
        ({"authorization": "Bearer 0123"}, CHAT),
        ({"authorization": ""}, CHAT),
        ({}, f"{CHAT}/"),
    ],
)
async def test_what_may_have_to_be_read_first_is_read_in_a_thread(site: Site, headers: Headers, path: str) -> None:
    await site.warm()
    begun = site.on_loop
    assert (await site.ask(headers=headers, path=path)).status == (401 if "authorization" in headers else 200)
    assert site.on_loop == begun


async def test_whoever_listens_to_requests_hears_of_all(site: Site) -> None:
    await site.warm()
    heard: list[str] = []

    def hear(scope: Scope, **facts: Any) -> None:
        heard.append(scope["path"])

    request_started.connect(hear)
    try:
        assert (await site.ask()).status == 200
    finally:
        request_started.disconnect(hear)
    assert heard == [CHAT]


async def test_a_token_of_somebody_who_has_been_switched_off_is_refused(site: Site, editor: User) -> None:
    await site.warm()
    await User.objects.filter(pk=editor.pk).aupdate(is_active=False)
    assert (await site.ask()).status == 401


async def test_who_leaves_before_the_answer_pays_for_it(
    site: Site, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asgi, "WATCH_AFTER", 0.0)
    await site.warm()
    gate = Gate()
    upstream.send(Reply(200, whole(200, answers.chat("Late")).parts, before=[gate]))
    begun = site.on_loop
    client = await site.asking()
    await asyncio.to_thread(gate.wait_until_reached)
    await client.send_input({"type": "http.disconnect"})
    for _ in range(20):
        await asyncio.sleep(0)
    assert not client.future.done()
    gate.open()
    await client.wait(10)
    assert (client.output_queue.empty(), site.on_loop) == (True, begun + 1)
    record = await UsageRecord.objects.alatest("created_at")
    assert (record.state, record.error_code, record.requests) == ("settled", "", 1)


async def test_who_leaves_a_stream_before_its_beginning_ends_it(site: Site, upstream: Upstream) -> None:
    await site.warm()
    gate = Gate()
    upstream.send(Reply(200, events(*STREAM).parts, {"content-type": "text/event-stream"}, before=[gate]))
    client = await site.asking({**HELLO, "stream": True})
    await asyncio.to_thread(gate.wait_until_reached)
    connections_before = upstream.open_connections
    await client.send_input({"type": "http.disconnect"})
    await client.wait(10)
    gate.open()
    await asyncio.to_thread(upstream.wait_for, lambda: upstream.open_connections < connections_before)
    await asyncio.to_thread(writer.drain, 10)
    record = await UsageRecord.objects.alatest("created_at")
    assert (record.state, record.cost_state, client.output_queue.empty()) == ("failed", "unknown", True)


async def test_the_end_of_the_process_cuts_and_settles_it(site: Site, upstream: Upstream) -> None:
    await site.warm()
    site.application = Graceful(site.application, at_end=lambda: writer.drain(10))
    life = ApplicationCommunicator(site.application, {"type": "lifespan"})
    await life.send_input({"type": "lifespan.startup"})
    assert (await life.receive_output(10))["type"] == "lifespan.startup.complete"
    gate = Gate()
    upstream.send(Reply(200, whole(200, answers.chat("Late")).parts, before=[gate]))
    client = await site.asking()
    await asyncio.to_thread(gate.wait_until_reached)
    await life.send_input({"type": "lifespan.shutdown"})
    assert (await life.receive_output(15))["type"] == "lifespan.shutdown.complete"
    record = await UsageRecord.objects.alatest("created_at")
    assert (record.state, record.cost_state) == ("failed", "unknown")
    gate.open()
    await client.wait(10)
