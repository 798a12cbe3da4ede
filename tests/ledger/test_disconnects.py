"""Whoever leaves early pays for what was used, and the vendor's connection does not outlive a stream's reader."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import socket
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User

from src.ai.exceptions import StreamInterrupted
from src.ai.models import AIModel, AIProvider, APIToken, CostState, UsageRecord, UsageState
from src.ai.results import ReplyStream
from src.ai.services.unified_service import UnifiedAIService
from tests import vendor_answers as answers
from tests.ledger import books
from tests.ledger.processes import WAIT, Processes, listening, until
from tests.upstream.server import HANG, Gate, Reply, Upstream, events, whole

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("model")]

FRAMES = events(answers.chunk("Hel"), answers.chunk("lo!"), answers.chunk(None, "stop")).parts
HEADERS = {"content-type": "text/event-stream"}
LEFT = "client_disconnected"


def stream_with(*parts: Any, before: tuple[Any, ...] = ()) -> Reply:
    return Reply(200, parts, HEADERS, before)


def assert_charged_a_guess(record: UsageRecord) -> None:
    """What came of the reply was counted by its length."""
    assert (record.state, record.requests, record.error_code) == (UsageState.SETTLED, 1, LEFT)
    assert record.cost_state == CostState.ESTIMATED
    assert record.cost is not None
    assert record.output_tokens is not None
    assert record.cost == Decimal(record.output_tokens) / 1_000_000 > 0
    assert record.streamed


def assert_nothing_came(record: UsageRecord) -> None:
    """The vendor was asked, and what it charges for that nobody knows."""
    assert (record.state, record.requests, record.cost, record.cost_state) == (
        UsageState.FAILED,
        0,
        None,
        CostState.UNKNOWN,
    )


# -- streams of synchronous callers ------------------------------------------------------------------------------------


def test_a_stream_that_is_never_read_holds_nothing_and_asks_nobody(superuser: User, upstream: Upstream) -> None:
    stream = UnifiedAIService.stream_chat("Hi", superuser)
    assert books.states() == [UsageState.RESERVED]
    stream.close()
    record = books.only_record()
    assert (record.state, record.error_code, record.requests, record.cost) == (UsageState.FAILED, LEFT, 0, 0)
    books.assert_true()
    assert upstream.requests == []


def test_a_stream_that_is_dropped_unread_holds_nothing_either(superuser: User, upstream: Upstream) -> None:
    stream = UnifiedAIService.stream_chat("Hi", superuser)
    del stream
    gc.collect()
    books.assert_true()
    assert (books.states(), upstream.requests) == ([UsageState.FAILED], [])


@pytest.mark.parametrize("drop", [False, True])
def test_a_stream_that_is_left_in_the_middle(drop: bool, superuser: User, upstream: Upstream) -> None:
    gate = Gate()
    upstream.send(stream_with(FRAMES[0], gate, FRAMES[1], HANG))
    stream = UnifiedAIService.stream_chat("Hi", superuser)
    assert next(stream) == "Hel"
    if drop:
        del stream
        gc.collect()
    else:
        stream.close()
    gate.open()
    upstream.wait_for(lambda: upstream.open_connections == 0)
    assert_charged_a_guess(books.only_record())
    books.assert_true()


def test_a_stream_that_is_left_after_its_last_piece(superuser: User, upstream: Upstream) -> None:
    upstream.send(stream_with(*FRAMES))
    stream = UnifiedAIService.stream_chat("Hi", superuser)
    assert [next(stream), next(stream)] == ["Hel", "lo!"]
    stream.close()
    assert_charged_a_guess(books.only_record())
    books.assert_true()


def test_a_stream_that_breaks_is_charged_what_had_come_and_not_counted(superuser: User, upstream: Upstream) -> None:
    upstream.send(stream_with(FRAMES[0], b"data: {broken\n\n"))
    stream = UnifiedAIService.stream_chat("Hi", superuser)
    assert next(stream) == "Hel"
    with pytest.raises(StreamInterrupted):
        next(stream)
    record = books.only_record()
    assert (record.state, record.requests, record.output_tokens) == (UsageState.FAILED, 0, 1)
    assert record.cost_state == CostState.ESTIMATED
    books.assert_true()


def test_what_the_vendor_had_counted_by_then_stands(
    superuser: User, make_provider: Callable[..., AIProvider], make_model: Callable[..., AIModel], upstream: Upstream
) -> None:
    gemini = make_provider("gemini", api_base_url=f"{upstream.url}/v1beta", shared_api_key="AIza-0123456789")
    model = make_model(gemini, "chat", model_id="gemini-any", pricing_input=Decimal(1), pricing_output=Decimal(1))
    piece = {
        "candidates": [{"content": {"parts": [{"text": "Hel"}]}}],
        "usageMetadata": {"promptTokenCount": 40, "candidatesTokenCount": 2, "thoughtsTokenCount": 100},
    }
    gate = Gate()
    upstream.send(stream_with(f"data: {json.dumps(piece)}\n\n".encode(), gate))
    stream = UnifiedAIService.stream_chat("Hi", superuser, model_id=model.pk)
    assert next(stream) == "Hel"
    stream.close()
    gate.open()
    record = books.only_record()
    assert (record.input_tokens, record.output_tokens, record.reasoning_tokens) == (40, 102, 100)
    assert (record.cost, record.cost_state) == (Decimal("0.000142"), CostState.ESTIMATED)
    books.assert_true()


# -- streams and calls of asynchronous callers -------------------------------------------------------------------------


async def closed(upstream: Upstream) -> None:
    await asyncio.to_thread(upstream.wait_for, lambda: upstream.open_connections == 0)


async def in_thread(look: Callable[..., Any], *args: Any) -> Any:
    """What the ORM says, asked from where it may be asked."""
    return await sync_to_async(look)(*args)


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_an_async_stream_that_is_never_read_leaves_no_trace(superuser: User, upstream: Upstream) -> None:
    await UnifiedAIService.astream_chat("Hi", superuser).aclose()
    assert (await in_thread(books.records), upstream.requests) == ([], [])


async def test_an_async_stream_that_is_left_before_its_first_piece(superuser: User, upstream: Upstream) -> None:
    gate = Gate()
    upstream.send(stream_with(*FRAMES, before=(gate,)))
    reading = asyncio.create_task(anext(UnifiedAIService.astream_chat("Hi", superuser)))  # type: ignore[arg-type]
    await asyncio.to_thread(gate.wait_until_reached)
    await cancelled(reading)
    gate.open()
    await closed(upstream)
    await in_thread(books.assert_true)
    assert_nothing_came(await in_thread(books.only_record))


@pytest.mark.parametrize("way", ["closed", "cancelled while it waits", "cancelled while it works", "dropped"])
async def test_an_async_stream_that_is_left_in_the_middle(way: str, superuser: User, upstream: Upstream) -> None:
    gate, came = Gate(), asyncio.Event()
    upstream.send(stream_with(FRAMES[0], gate, FRAMES[1], HANG))

    async def read(stream: ReplyStream) -> None:
        async for _ in stream:
            came.set()
            if way == "cancelled while it works":
                await asyncio.Event().wait()

    if way in ("closed", "dropped"):
        stream: ReplyStream | None = UnifiedAIService.astream_chat("Hi", superuser)
        assert stream is not None
        assert await anext(stream) == "Hel"
        if way == "closed":
            await stream.aclose()
        stream = None
        gc.collect()
    else:
        reading = asyncio.create_task(read(UnifiedAIService.astream_chat("Hi", superuser)))
        await came.wait()
        if way == "cancelled while it waits":
            await asyncio.to_thread(gate.wait_until_reached)
        await cancelled(reading)
        del reading
        gc.collect()
    gate.open()
    await closed(upstream)
    await in_thread(until, books_have_settled)
    assert_charged_a_guess(await in_thread(books.only_record))
    await in_thread(books.assert_true)


async def test_an_async_stream_that_is_left_after_its_last_piece(superuser: User, upstream: Upstream) -> None:
    upstream.send(stream_with(*FRAMES))
    stream = UnifiedAIService.astream_chat("Hi", superuser)
    assert [await anext(stream), await anext(stream)] == ["Hel", "lo!"]
    await stream.aclose()
    assert_charged_a_guess(await in_thread(books.only_record))
    await in_thread(books.assert_true)


async def test_an_async_call_that_is_cancelled_while_the_vendor_works(superuser: User, upstream: Upstream) -> None:
    gate = Gate()
    upstream.send(Reply(200, [json.dumps(answers.chat("Hello!")).encode()], {}, [gate]))
    call = asyncio.create_task(UnifiedAIService.achat("Hi", superuser))
    await asyncio.to_thread(gate.wait_until_reached)
    await cancelled(call)
    gate.open()
    await closed(upstream)
    await in_thread(books.assert_true)
    record = await in_thread(books.only_record)
    assert_nothing_came(record)
    assert record.error_code == "cancelled"


# -- clients of the site -----------------------------------------------------------------------------------------------

ENDPOINTS = {
    "chat/send": {"message": "Hi"},
    "content/generate": {"topic": "Tea"},
    "image/generate": {"prompt": "A kite"},
    "audio/generate": {"text": "Hello"},
}


@pytest.fixture
def served(provider: AIProvider, make_model: Callable[..., AIModel], superuser: User, processes: Processes) -> Any:
    """The site in a process of its own, with a model for everything; its port and a token."""
    prices = {"pricing_input": Decimal(1), "pricing_output": Decimal(1)}
    for capability in ("content", "image", "audio"):
        make_model(provider, capability, model_id=f"{capability}-model", **prices)
    with listening() as (listener, port):
        processes.serve(listener)
        yield port, str(APIToken.objects.create(user=superuser, name="leaver")[1])


def request_bytes(path: str, token: str) -> bytes:
    body = json.dumps(ENDPOINTS[path]).encode()
    head = (
        f"POST /api/admin/ai/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def answer_at_the_gate(upstream: Upstream, gate: Gate) -> None:
    """Every vendor's answer waits there."""
    for path, answer in (
        (answers.CHAT, whole(200, answers.article())),
        (answers.IMAGES, whole(200, answers.images(answers.png()))),
        (answers.SPEECH, whole(200, answers.wav(), content_type="audio/wav")),
    ):
        upstream.on("POST", path, Reply(200, answer.parts, answer.headers, [gate], answer.length))


def books_have_settled() -> bool:
    return books.states() == [UsageState.SETTLED]


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_client_that_leaves_while_the_vendor_works_pays_for_the_call(
    path: str, served: tuple[int, str], upstream: Upstream
) -> None:
    """The vendor has been asked and goes on; meanwhile the others are served."""
    (port, token), gate = served, Gate()
    answer_at_the_gate(upstream, gate)
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as client:
        client.sendall(request_bytes(path, token))
        gate.wait_until_reached()
    other = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT)
    other.request("GET", "/api/admin/ai/chat/models", headers={"Authorization": f"Bearer {token}"})
    assert other.getresponse().status == 200
    other.close()
    assert books.states() == [UsageState.RESERVED]
    gate.open()
    until(books_have_settled)
    assert (books.only_record().requests, books.period().requests) == (1, 1)
    books.assert_true()


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_client_that_leaves_before_or_after_changes_nothing(
    path: str, served: tuple[int, str], upstream: Upstream
) -> None:
    """Before its request is whole nothing has begun; after the call nothing is left to do."""
    (port, token), gate = served, Gate()
    gate.open()
    answer_at_the_gate(upstream, gate)
    asked = request_bytes(path, token)
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as client:
        client.sendall(asked[:-1])
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as client:
        client.sendall(asked)
        assert client.recv(12) == b"HTTP/1.1 200"
    until(books_have_settled)
    assert (len(upstream.requests), books.period().requests) == (1, 1)
    books.assert_true()
