"""The one retry policy: what may be asked again, how often and when. SDKs retry nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from random import SystemRandom
from typing import Final, TypeVar

from src.ai.exceptions import ProviderError, ProviderRateLimited, ProviderUnavailable

T = TypeVar("T")
logger = logging.getLogger(__name__)

ATTEMPTS: Final = 3
COSTLY_ATTEMPTS: Final = 2
FIRST_DELAY = 0.5  # seconds, doubled each time, less up to a half at random
LONGEST_WAIT: Final = 10.0  # a vendor that asks for more gets no second request: the caller learns how long to wait
# A second image or recording would be paid for twice.
COSTLY: Final = frozenset({"generate_image", "text_to_speech"})

_random = SystemRandom()


async def retrying(operation: str, attempt: Callable[[], Awaitable[T]]) -> T:
    """The result of `attempt`, called again while that may help. Raises the last `ProviderError`.

    An attempt must end before anything of it has reached the caller: a stream is retried up to its first byte only.
    """
    attempts = COSTLY_ATTEMPTS if operation in COSTLY else ATTEMPTS
    for number in range(1, attempts + 1):
        try:
            return await attempt()
        except ProviderError as error:
            wait = _wait(error, number)
            if number == attempts or not may_help(operation, error) or wait > LONGEST_WAIT:
                raise
            facts = {name: error.facts.get(name) for name in ("provider", "status_code", "request_id")}
            logger.info("Asking a provider again", extra={**facts, "operation": operation, "attempt": number})
            await asyncio.sleep(wait)
    raise AssertionError("unreachable")


def may_help(operation: str, error: ProviderError) -> bool:
    """Whether asking again can end differently without being paid for twice."""
    unanswered = bool(error.facts.get("unanswered"))
    if operation in COSTLY:
        return unanswered
    temporary = isinstance(error, ProviderUnavailable | ProviderRateLimited) or error.facts.get("temporary")
    return unanswered or bool(temporary)


def _wait(error: ProviderError, number: int) -> float:
    if error.retry_after is not None:
        return error.retry_after
    return FIRST_DELAY * float(2 ** (number - 1)) * _random.uniform(0.5, 1.0)
