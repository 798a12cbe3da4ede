"""One pool of connections per event loop, for the life of the loop: what every request to a vendor goes through.

    exchanges()   the loop's connections
    client()      an `httpx.AsyncClient` over them
    shared()      an object built once per loop around that client: an SDK
    download()    the bytes behind a URL that a vendor answered with
    read_body()   a body that may not grow beyond a limit

No key is ever in a client: it travels with each request. Every connection is checked by `src.core.net_guard` after DNS,
redirects are not followed, cookies are not kept, and proxies of the environment are not used: an outbound proxy is
configured as `AIProvider.api_base_url`.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Hashable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final, TypeVar

import httpx
from django.conf import settings

from src.core.exchange import ERROR_BODY_LIMIT as ERROR_BODY_LIMIT
from src.core.exchange import Exchanges
from src.core.limits import BodyTooLarge as BodyTooLarge
from src.core.limits import Timeouts as Timeouts
from src.core.net_guard import check_url
from src.core.transport import Transport

T = TypeVar("T")

# Stands where an SDK demands a key for its client. A request that would carry it never leaves.
NO_KEY: Final = "key-travels-with-each-request"
_NO_KEY: Final = NO_KEY.encode()

SHARED_LIMIT: Final = 64  # SDK objects a loop; each base URL has its own
DOWNLOAD_LIMIT: Final = 64 * 1024 * 1024


class KeyMissing(RuntimeError):
    """A request was about to leave without a key of its own."""


def timeouts(operation: str, total: float | None = None) -> Timeouts:
    """The time-outs of an operation (a method's name), from the settings `AI_TIMEOUT_*`; `total` overrides theirs.

    A vendor sends the head of an answer when the answer is ready, so the first byte may take as long as the whole;
    a stream and a list start at once.
    """
    if total is None:
        total = settings.AI_TIMEOUT_IMAGE if operation == "generate_image" else settings.AI_TIMEOUT_TOTAL
    prompt = operation in ("stream_chat", "validate_api_key", "get_available_models")
    return Timeouts(
        connect=min(settings.AI_TIMEOUT_CONNECT, total),
        first_byte=min(settings.AI_TIMEOUT_FIRST_BYTE, total) if prompt else total,
        total=total,
    )


async def client() -> httpx.AsyncClient:
    """The running loop's client. Never close it: it is closed with the loop."""
    return (await _pool()).client


async def exchanges() -> Exchanges:
    """The running loop's connections. They are closed with the loop."""
    pool = _pools.get(asyncio.get_running_loop()) or await _pool()
    return pool.exchanges


async def shared(key: Hashable, build: Callable[[httpx.AsyncClient], T]) -> T:
    """What `build` made of the running loop's client, once per loop and key.

    `build` runs in a thread: importing an SDK takes half a second that the loop must not stand still for.
    """
    pool = await _pool()
    if key not in pool.shared:
        async with pool.building:
            if key not in pool.shared:
                built = await asyncio.to_thread(build, pool.client)
                if len(pool.shared) >= SHARED_LIMIT:
                    del pool.shared[next(iter(pool.shared))]
                pool.shared[key] = built
    found: T = pool.shared[key]
    return found


@dataclass(frozen=True, slots=True)
class Download:
    """A file and the mime type it was sent under."""

    data: bytes
    content_type: str


async def download(url: str, *, seconds: float, limit: int = DOWNLOAD_LIMIT) -> Download:
    """The file behind a URL that a vendor answered with. No key goes along.

    Raises:
        UrlRefused: the URL or its address may not be asked.
        BodyTooLarge, TimeoutError, httpx.HTTPError: it did not arrive; a status other than 2xx is an
            `httpx.HTTPStatusError`, redirects included.
    """
    check_url(url)
    async with asyncio.timeout(seconds):
        limits = Timeouts(connect=min(settings.AI_TIMEOUT_CONNECT, seconds), first_byte=seconds, total=seconds)
        async with (await client()).stream("GET", url, timeout=limits.httpx()) as response:
            response.raise_for_status()
            return Download(await read_body(response, limit), response.headers.get("content-type", ""))


async def read_body(response: httpx.Response, limit: int) -> bytes:
    """The whole body; the response is closed whatever happens.

    Raises:
        BodyTooLarge: it is longer than `limit`.
    """
    if response.is_stream_consumed or response.is_closed:
        if len(response.content) > limit:
            raise BodyTooLarge(limit)
        return response.content
    parts: list[bytes] = []
    size = 0
    try:
        async for part in response.aiter_bytes():
            size += len(part)
            if size > limit:
                raise BodyTooLarge(limit)
            parts.append(part)
    finally:
        await response.aclose()
    return b"".join(parts)


# -- the pool of a loop ------------------------------------------------------------------------------------------------


class _Pool:
    def __init__(self) -> None:
        self.exchanges = Exchanges(ssl_context())
        self.client = _Client(Transport(self.exchanges))
        self.shared: dict[Hashable, Any] = {}
        self.building = asyncio.Lock()
        self.keeper: AsyncIterator[None] | None = None


class _Client(httpx.AsyncClient):
    """Sends each request as it is, once, and keeps nothing of its answer.

    httpx's own way to the transport, with cookies, redirects and authentication to merge and to follow, takes longer
    than the transport.
    """

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport=transport, trust_env=False)
        self._always = [(name.lower(), value) for name, value in self.headers.raw]

    def build_request(
        self,
        method: str,
        url: httpx.URL | str,
        *,
        headers: Any = None,
        timeout: Any = httpx.USE_CLIENT_DEFAULT,
        extensions: Any = None,
        **content: Any,
    ) -> httpx.Request:
        lines = httpx.Headers(headers).raw
        given = {name.lower() for name, _ in lines}
        lines += [line for line in self._always if line[0] not in given]
        limits = self.timeout if timeout is httpx.USE_CLIENT_DEFAULT else httpx.Timeout(timeout)
        extensions = {"timeout": limits.as_dict(), **(extensions or {})}
        text = str(url)
        parsed = httpx.URL(text) if "?" in text else _url(text)  # a query may be a signature, and comes once
        return httpx.Request(method, parsed, headers=lines, extensions=extensions, **content)

    async def send(self, request: httpx.Request, *, stream: bool = False, **_: Any) -> httpx.Response:
        if any(_NO_KEY in value for _, value in request.headers.raw):
            raise KeyMissing("a request to a vendor needs its key among its own headers")
        try:
            response = await self._transport.handle_async_request(request)
        except httpx.RequestError as error:
            error.request = request
            raise
        response.request = request
        if not stream:
            await response.aread()
        return response


_url: Final = lru_cache(maxsize=256)(httpx.URL)  # most requests go where others have gone
_pools: dict[asyncio.AbstractEventLoop, _Pool] = {}
_inherited: dict[asyncio.AbstractEventLoop, _Pool] = {}  # kept: collecting them would wake the parent's loops
_lock = threading.Lock()


async def _pool() -> _Pool:
    loop = asyncio.get_running_loop()
    pool = _pools.get(loop)
    if pool is None:
        with _lock:
            _sweep()
            pool = _pools[loop] = _Pool()
        pool.keeper = _close_with_loop(loop, pool)
        await anext(pool.keeper)
    return pool


async def _close_with_loop(loop: asyncio.AbstractEventLoop, pool: _Pool) -> AsyncIterator[None]:
    """An async generator that a loop's `shutdown_asyncgens()` closes, which every runner calls before the loop ends."""
    try:
        yield
    finally:
        with _lock:
            _pools.pop(loop, None)
        pool.exchanges.drop()


def _sweep() -> None:
    """Drop the pools of loops that were closed without `shutdown_asyncgens()`."""
    for loop in [loop for loop in _pools if loop.is_closed()]:
        _pools.pop(loop).exchanges.drop()


def _forget_after_fork() -> None:
    """A child shares no connection with its parent: two processes would mix their bytes on it."""
    global _pools, _lock
    _inherited.update(_pools)
    for pool in _pools.values():
        pool.exchanges.drop()
    _pools, _lock = {}, threading.Lock()


os.register_at_fork(after_in_child=_forget_after_fork)


@cache
def ssl_context() -> ssl.SSLContext:
    """The one context of this process: making one takes 18 ms. `SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured."""
    return httpx.create_ssl_context()
