"""A token's rates: so many requests in any minute, and so many at once. One decision for each call.

    async with holding(rules, seconds): …      or `with`, in synchronous code
    lease = await acquire(rules, seconds)      the same by hand; then `lease.release()` where there is a lease

They are counted for all processes where there is a Redis, else by each process. While Redis is away calls are refused
or, with `AI_RATES_FAIL_OPEN`, let through. A token without rates costs nothing.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from math import ceil
from typing import Final, cast

from django.conf import settings
from django.utils.text import format_lazy

from src.ai.exceptions import RatesUnavailable, TokenRateLimited
from src.ai.messages.messages import RATE_OF
from src.ai.services.token_rules import TokenRules
from src.core import turnstile
from src.core.cache.backend import RETRY_AFTER
from src.core.turnstile import FULL, GRANTED, Claim, RedisAway

logger = logging.getLogger(__name__)

PLACE_WAIT: Final = 1.0  # seconds that a caller who finds all places taken is asked to wait: nobody knows better


class Lease:
    """A place among the calls that a token may have under way."""

    __slots__ = ("_claim", "_turn")

    def __init__(self, claim: Claim, turn: str) -> None:
        self._claim: Claim | None = claim
        self._turn = turn

    def release(self) -> None:
        """Give the place back. From any thread, as often as one likes; never waits, never raises."""
        claim, self._claim = self._claim, None
        if claim is None:
            return
        try:
            turnstile.give_back(claim, self._turn)
        except Exception:  # it ends by itself, and the call it was held for has been made
            logger.exception("A place could not be given back")


async def acquire(rules: TokenRules | None, seconds: float) -> Lease | None:
    """Count a call that takes at most `seconds`; the place it holds, where the token has a limit on these.

    Raises:
        TokenRateLimited: a rate has no room for it.
        RatesUnavailable: the rates can't be checked.
    """
    if rules is None or not rules.has_rates:
        return None
    claim, turn = _claim(rules, seconds), turnstile.new_turn()
    try:
        verdict = await turnstile.take(claim, turn)
    except RedisAway as error:
        return _unchecked(rules, error)
    return _decided(rules, claim, turn, verdict)


def acquire_here(rules: TokenRules | None, seconds: float) -> Lease | None:
    """`acquire` for synchronous code: it waits."""
    if rules is None or not rules.has_rates:
        return None
    claim, turn = _claim(rules, seconds), turnstile.new_turn()
    try:
        verdict = turnstile.take_here(claim, turn)
    except RedisAway as error:
        return _unchecked(rules, error)
    return _decided(rules, claim, turn, verdict)


class holding:
    """What runs inside is one call that is counted, and holds its place until it ends, in whichever way.

    Raises:
        TokenRateLimited, RatesUnavailable: see `acquire`. Then nothing runs.
    """

    __slots__ = ("_lease", "_rules", "_seconds")

    def __init__(self, rules: TokenRules | None, seconds: float) -> None:
        self._rules = rules
        self._seconds = seconds
        self._lease: Lease | None = None

    async def __aenter__(self) -> None:
        self._lease = await acquire(self._rules, self._seconds)

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()

    def __enter__(self) -> None:
        self._lease = acquire_here(self._rules, self._seconds)

    def __exit__(self, *_: object) -> None:
        if self._lease is not None:
            self._lease.release()


def _claim(rules: TokenRules, seconds: float) -> Claim:
    return _kept_claim(rules.token, rules.requests_per_minute or 0, rules.concurrent_requests or 0, seconds)


_kept_claim: Final = lru_cache(maxsize=1024)(Claim)


def _decided(rules: TokenRules, claim: Claim, turn: str, verdict: int) -> Lease | None:
    if verdict == GRANTED:
        return Lease(claim, turn) if claim.at_once else None
    name = "concurrent_requests" if verdict == FULL else "requests_per_minute"
    seconds = PLACE_WAIT if verdict == FULL else verdict / 1000
    limit = format_lazy(cast(str, RATE_OF[name]), count=getattr(rules, name))
    raise TokenRateLimited(token=str(rules), limit=limit, seconds=ceil(seconds), retry_after=seconds)


def _unchecked(rules: TokenRules, error: RedisAway) -> Lease | None:
    """Let a call through whose rates can't be checked, or refuse it, as the setting says."""
    if settings.AI_RATES_FAIL_OPEN:
        return None
    raise RatesUnavailable(token=str(rules), retry_after=RETRY_AFTER) from error
