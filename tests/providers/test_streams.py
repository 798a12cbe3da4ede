"""Streams: cut anywhere, ended early, broken, left, and with thoughts in them."""

from __future__ import annotations

import asyncio

import pytest

from src.ai.exceptions import StreamInterrupted
from tests.providers.answers import VendorAnswers, each
from tests.upstream.server import RESET, Gate, Reply, Upstream


def in_single_bytes(reply: Reply) -> Reply:
    data = b"".join(part for part in reply.parts if isinstance(part, bytes))
    return Reply(reply.status, [bytes([byte]) for byte in data], reply.headers)


@each("stream")
async def test_a_stream_may_be_cut_at_any_byte(vendor: VendorAnswers, operation: str, upstream: Upstream) -> None:
    vendor.serve(upstream, vendor.stream, in_single_bytes(vendor.stream.reply))
    stream = vendor.provider(upstream).stream_chat("Hello", **vendor.stream.kwargs)
    assert "".join([delta async for delta in stream]) == vendor.stream.result
    assert stream.usage == vendor.stream.info["usage"]


@each("stream")
async def test_lines_may_end_as_on_windows(vendor: VendorAnswers, operation: str, upstream: Upstream) -> None:
    parts = [part.replace(b"\n", b"\r\n") for part in vendor.stream.reply.parts if isinstance(part, bytes)]
    vendor.serve(upstream, vendor.stream, Reply(200, parts, vendor.stream.reply.headers))
    stream = vendor.provider(upstream).stream_chat("Hello", **vendor.stream.kwargs)
    assert "".join([delta async for delta in stream]) == vendor.stream.result


@each("stream")
async def test_text_reaches_the_caller_before_the_vendor_has_finished(
    vendor: VendorAnswers, operation: str, upstream: Upstream
) -> None:
    gate = Gate()
    parts = [part for part in vendor.stream.reply.parts if isinstance(part, bytes)]
    vendor.serve(upstream, vendor.stream, Reply(200, [*parts[:-2], gate, *parts[-2:]], vendor.stream.reply.headers))
    stream = vendor.provider(upstream).stream_chat("Hello", **vendor.stream.kwargs)
    first = await anext(stream)
    gate.wait_until_reached()
    gate.open()
    assert vendor.stream.result.startswith(first)
    assert first + "".join([delta async for delta in stream]) == vendor.stream.result


@each("stream")
async def test_a_stream_without_its_end_is_interrupted_and_what_came_stays(
    vendor: VendorAnswers, operation: str, upstream: Upstream
) -> None:
    assert vendor.cut_stream is not None
    for reply in (vendor.cut_stream, Reply(200, [*vendor.cut_stream.parts[:-1], RESET], vendor.cut_stream.headers)):
        vendor.serve(upstream, vendor.stream, reply)
        stream = vendor.provider(upstream).stream_chat("Hello", **vendor.stream.kwargs)
        with pytest.raises(StreamInterrupted):
            [delta async for delta in stream]
        assert vendor.stream.result.startswith(stream.text)
        assert stream.text


@each("stream")
async def test_leaving_a_stream_closes_its_connection(
    vendor: VendorAnswers, operation: str, upstream: Upstream
) -> None:
    gate = Gate()
    parts = [part for part in vendor.stream.reply.parts if isinstance(part, bytes)]
    vendor.serve(upstream, vendor.stream, Reply(200, [*parts[:-1], gate, parts[-1]], vendor.stream.reply.headers))
    stream = vendor.provider(upstream).stream_chat("Hello", **vendor.stream.kwargs)
    await anext(stream)
    await stream.aclose()
    gate.open()
    await asyncio.to_thread(upstream.wait_for, lambda: upstream.open_connections == 0)
