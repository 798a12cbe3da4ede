"""Whatever happens on the wire, a call ends in time, with an error of ours, without its key, and leaves nothing open.

Every fault meets every operation of every vendor. The operations of one vendor run at once, each against an upstream of
its own.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import pytest
from pytest_django import Settings

from src.ai.exceptions import (
    AIError,
    ProviderError,
    ProviderInvalidResponse,
    ProviderTimeout,
    ProviderUnavailable,
    StreamInterrupted,
)
from tests.providers.answers import Exchange, VendorAnswers, answers_of, call
from tests.upstream.server import CLOSE, HANG, RESET, Content, Reply, Upstream, endless, whole

IN_TIME = 5.0  # seconds: many times the time-outs of these tests
MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class Good:
    """The good answer that a fault spoils."""

    key: str
    body: bytes
    content_type: str

    @property
    def half(self) -> bytes:
        return self.body[: len(self.body) // 2]

    @property
    def is_json(self) -> bool:
        return "json" in self.content_type

    @property
    def is_stream(self) -> bool:
        return "event-stream" in self.content_type

    def begun(self, *parts: Content) -> Reply:
        """An answer that begins as it should."""
        return Reply(200, parts, {"content-type": self.content_type})

    def instead(self, body: bytes, content_type: str = "", **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return whole(200, body, named, content_type or self.content_type)

    def without_head(self, *parts: Content) -> Reply:
        return Reply(before=parts)


Fault = Callable[[Good], Reply]

# What must end by a time-out.
STALLS: dict[str, Fault] = {
    "no answer": lambda good: good.without_head(HANG),
    "half a head": lambda good: good.without_head(b"HTTP/1.1 200 OK\r\ncontent-ty", HANG),
    "head without end": lambda good: good.without_head(b"HTTP/1.1 200 OK\r\nx-a: ", endless(b"y" * 1000)),
    "headers without end": lambda good: good.without_head(b"HTTP/1.1 200 OK\r\n", endless(b"x-a: y\r\n" * 100)),
    "a body that stalls": lambda good: good.begun(good.half, HANG),
    "a body that never begins": lambda good: good.begun(HANG),
    "a body without end": lambda good: good.begun(good.half, endless(b" " * 1000)),
    "lines without end": lambda good: good.begun(good.half, endless(b": still here\n\n" * 100)),
    "an error that stalls": lambda good: Reply(500, [b'{"error": ', HANG]),
    "an error without end": lambda good: Reply(500, [endless(b"x" * 1000)]),
}
# What must end at once: the error, where there is no other.
FAULTS: dict[str, tuple[Fault, type[AIError] | None]] = {
    "reset before the answer": (lambda good: good.without_head(RESET), ProviderUnavailable),
    "closed before the answer": (lambda good: good.without_head(CLOSE), ProviderUnavailable),
    "reset in the head": (lambda good: good.without_head(b"HTTP/1.1 200 OK\r\nco", RESET), ProviderUnavailable),
    "closed in the head": (lambda good: good.without_head(b"HTTP/1.1 200 OK\r\nco", CLOSE), ProviderUnavailable),
    "reset in the body": (lambda good: good.begun(good.half, RESET), None),
    "closed in the body": (lambda good: replace(good.begun(good.half, CLOSE), length=len(good.body)), None),
    "no HTTP": (lambda good: good.without_head(b"220 mail ready " + good.key.encode() + b"\r\n", CLOSE), None),
    "no chunks": (lambda good: Reply(200, [b"zz\r\n"], {"transfer-encoding": "chunked"}, length=0), None),
    "garbage": (lambda good: good.instead(good.key.encode() + bytes(range(256)) * 40), ProviderInvalidResponse),
    "another type": (lambda good: good.instead(b"%PDF-1.7 " + good.key.encode(), "application/pdf"), None),
    "no type": (lambda good: good.instead(b"Hello, " + good.key.encode(), "nonsense"), None),
    "a page": (
        lambda good: good.instead(f"<html><title>Log in, {good.key}</title></html>".encode(), "text/html"),
        ProviderInvalidResponse,
    ),
    "nothing": (lambda good: good.instead(b""), None),
    "ten megabytes of nothing": (lambda good: good.instead(bytes(10 * MEGABYTE)), None),
    "a megabyte of spaces": (lambda good: good.instead(b" " * MEGABYTE), None),
    "a megabyte of letters": (lambda good: good.instead(b"a" * MEGABYTE), None),
    "ten megabytes that are no error": (lambda good: whole(500, bytes(10 * MEGABYTE)), ProviderUnavailable),
    "too deep": (lambda good: good.instead(b"[" * 100_000), None),
    "too deep in an event": (lambda good: good.instead(b"data: " + b"[" * 100_000 + b"\n\n"), None),
    "null": (lambda good: good.instead(b"null"), None),
    "null in an event": (lambda good: good.instead(b"data: null\n\n"), None),
    "a text": (lambda good: good.instead(json.dumps(good.key).encode()), None),
    "broken compression": (lambda good: good.instead(good.body, content_encoding="gzip"), ProviderInvalidResponse),
    "cut compression": (lambda good: good.instead(gzip.compress(good.body)[:-20], content_encoding="gzip"), None),
    "an error of broken compression": (lambda good: whole(503, b"busy", {"content-encoding": "gzip"}), None),
    "an unknown status": (lambda good: whole(999, f"Hello, {good.key}"), None),
    "no body at all": (lambda good: Reply(204, length=0), None),
    "a redirect": (lambda good: whole(302, b"", {"location": f"https://evil.example/?{good.key}"}), None),
}
# A cut, an odd type or an odd shape may go unnoticed where the answer is the file itself, and by who only asks whether
# a key is accepted.
MAY_PASS = {
    "cut compression": {"image", "audio", "chat", "content", "models", "validate", "stream"},
    "no body at all": {"validate"},
    "null": {"validate"},
    "a text": {"validate"},
}


def targets(vendor: VendorAnswers) -> Iterator[tuple[str, str, Exchange]]:
    """Each request of each operation: its name, the operation, and the exchange with this request as the main one."""
    for operation, exchange in vendor.exchanges().items():
        yield operation, operation, exchange
        for (_, path), reply in exchange.also.items():
            main = {(exchange.method, exchange.path): exchange.reply}
            also = {place: answer for place, answer in exchange.also.items() if place[1] != path}
            yield f"{operation} ({path})", operation, replace(exchange, path=path, reply=reply, also={**main, **also})


def good_answer(vendor: VendorAnswers, exchange: Exchange) -> Good:
    body = b"".join(part for part in exchange.reply.parts if isinstance(part, bytes))
    return Good(vendor.key, body, exchange.reply.headers.get("content-type", ""))


async def outcome(vendor: VendorAnswers, upstream: Upstream, operation: str, exchange: Exchange, reply: Reply) -> Any:
    for (method, path), answer in exchange.also.items():
        upstream.on(method, path, answer)
    for method in ("GET", "POST"):
        upstream.on(method, exchange.path, reply)
    try:
        async with asyncio.timeout(IN_TIME):
            return await call(vendor.provider(upstream), operation, exchange.kwargs)
    except TimeoutError as error:
        return error
    except Exception as error:
        return error


class Outcome(NamedTuple):
    operation: str
    error: Any  # or the result
    asked: int  # how often


def times_asked(upstream: Upstream, exchange: Exchange) -> int:
    """How often the exchange's own request has come."""
    return sum(request.path == exchange.path for request in upstream.requests)


def outcomes(vendor: VendorAnswers, fault: Fault, *, leaves: int) -> dict[str, Outcome]:
    """What came of each target, by its name; `leaves` is how many connections may stay, beside the one that carried
    another answer where the time was over before the fault was asked for.
    """
    with ExitStack() as stack:
        upstreams = {name: stack.enter_context(Upstream()) for name, *_ in targets(vendor)}

        async def run() -> list[Any]:
            ended = await asyncio.gather(
                *(
                    outcome(vendor, upstreams[name], operation, exchange, fault(good_answer(vendor, exchange)))
                    for name, operation, exchange in targets(vendor)
                )
            )
            for name, _, exchange in targets(vendor):
                upstream = upstreams[name]
                most = leaves + bool(exchange.also and not times_asked(upstream, exchange))
                await asyncio.to_thread(
                    upstream.wait_for, lambda upstream=upstream, most=most: upstream.open_connections <= most
                )
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return ended

        ended = asyncio.run(run())
        for upstream in upstreams.values():
            upstream.wait_for(lambda upstream=upstream: upstream.open_connections == 0)
        return {
            name: Outcome(operation, end, times_asked(upstreams[name], exchange))
            for (name, operation, exchange), end in zip(targets(vendor), ended, strict=True)
        }


def check_error(vendor: VendorAnswers, name: str, error: Any) -> None:
    assert isinstance(error, ProviderError), (name, error)
    shown = f"{error} {error!r} {error.facts}"
    assert vendor.key not in shown, name
    assert len(str(error)) < 800, name
    str(error).encode()


@cache
def warm_up(name: str) -> None:
    """Import what a vendor's operations import, which takes longer than the time-outs of these tests."""
    vendor = answers_of(name)

    async def run() -> None:
        for operation, exchange in vendor.exchanges().items():
            with Upstream() as upstream:
                vendor.serve(upstream, exchange)
                await call(vendor.provider(upstream), operation, exchange.kwargs)

    asyncio.run(run())


@pytest.mark.parametrize("fault", STALLS)
def test_nothing_hangs_past_its_time_out(vendor: VendorAnswers, settings: Settings, fault: str) -> None:
    warm_up(vendor.name)
    for name in ("CONNECT", "FIRST_BYTE", "TOTAL", "IMAGE"):
        setattr(settings, f"AI_TIMEOUT_{name}", 0.15)
    for name, (_, error, asked) in outcomes(vendor, STALLS[fault], leaves=0).items():
        check_error(vendor, name, error)
        if "without end" not in fault and "error" not in fault:
            assert isinstance(error, ProviderTimeout | StreamInterrupted), name
            assert asked <= 1, f"{name} was asked again, though the vendor may still have been at work"


@pytest.mark.parametrize("fault", FAULTS)
def test_no_fault_is_anything_but_an_error_of_ours(vendor: VendorAnswers, fault: str) -> None:
    spoil, expected = FAULTS[fault]
    goods = {name: good_answer(vendor, exchange) for name, _, exchange in targets(vendor)}
    for name, (operation, error, _) in outcomes(vendor, spoil, leaves=2).items():
        if operation in MAY_PASS.get(fault, ()) and not isinstance(error, Exception):
            continue
        check_error(vendor, name, error)
        if expected is not None and not goods[name].is_stream:
            assert isinstance(error, expected), (name, error)
