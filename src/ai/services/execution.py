"""The network part of a call: time-outs, and every failure as an `AIError`. No ORM."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, TypeVar

from django.conf import settings

from src.ai.exceptions import AIError, EmptyReply, ProviderError, ProviderTimeout
from src.ai.providers.base import BaseProvider
from src.ai.results import ReplyStream, ResultInfo
from src.core.secrets import scrub

T = TypeVar("T")
logger = logging.getLogger(__name__)


async def execute(operation: str, provider: BaseProvider, *args: Any, **kwargs: Any) -> Any:
    """The result of the provider's `operation` (a method's name).

    Raises:
        AIError: whatever goes wrong, exceptions of third-party providers included.
    """
    with _failures_as_ours(operation, provider):
        return await _within(total_timeout(operation, provider), getattr(provider, operation)(*args, **kwargs))


def stream(provider: BaseProvider, *args: Any, **kwargs: Any) -> ReplyStream:
    """The provider's `stream_chat`, guarded like `execute`."""
    info = ResultInfo()
    return ReplyStream(_deltas(provider, provider.stream_chat(*args, **kwargs), info), info)


def total_timeout(operation: str, provider: BaseProvider) -> float:
    """Seconds that `operation` may take: the provider's own `timeout`, else the setting's."""
    if own := provider.config.get("timeout"):
        return float(own)
    seconds: float = settings.AI_TIMEOUT_IMAGE if operation == "generate_image" else settings.AI_TIMEOUT_TOTAL
    return seconds


async def _deltas(provider: BaseProvider, source: ReplyStream, info: ResultInfo) -> AsyncIterator[str]:
    operation = "stream_chat"
    deadline = monotonic() + total_timeout(operation, provider)
    try:
        while True:
            with _failures_as_ours(operation, provider):
                try:
                    delta = await _within(deadline - monotonic(), anext(source))
                except StopAsyncIteration:
                    break
            info.update(source.info)  # who leaves here is charged what the vendor has counted up to here
            yield delta
        info.update(source.info)
        if not source.text.strip():
            name = provider.get_provider_name()
            raise EmptyReply(provider=name, operation=operation, finish_reason=info.finish_reason)
    finally:
        await source.aclose()


class _Expired(Exception):
    """Our own time-out ended, not one inside the provider."""

    def __init__(self, seconds: float) -> None:
        self.seconds = round(seconds, 1)


async def _within(seconds: float, call: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(seconds) as limit:
            return await call
    except TimeoutError as error:
        if limit.expired():
            raise _Expired(seconds) from error
        raise


@contextmanager
def _failures_as_ours(operation: str, provider: BaseProvider) -> Iterator[None]:
    name = provider.get_provider_name()
    try:
        yield
    except (AIError, StopAsyncIteration):
        raise
    except _Expired as error:
        raise ProviderTimeout(provider=name, operation=operation, seconds=error.seconds) from error
    except Exception as error:  # a provider is a plug-in: what it did not foresee must not break its caller
        reason = scrub(f"{type(error).__name__}: {error}", provider.api_key)
        logger.warning("A provider failed in a way it does not name", extra={"provider": name, "operation": operation})
        raise ProviderError(provider=name, operation=operation, reason=reason) from error
