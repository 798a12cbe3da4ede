"""So many in any minute and so many at once, by key: counted in Redis for all processes, or in this process's memory.

    verdict = await take(claim, turn)    whether there is room, in one decision
    give_back(claim, turn)               the place of a turn that was taken is free again; never waits

In Redis both are entries of one script, and what comes up while a round trip is under way goes into the next one
together: under load one round trip serves many.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from math import ceil
from time import monotonic
from typing import Any, Final

import redis
from django.conf import settings
from redis import asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

from src.core.cache.backend import RETRY_AFTER, Outage, means_away
from src.core.loop import io_loop, loop_is_running_here

logger = logging.getLogger(__name__)

GRANTED: Final = 0
FULL: Final = -1
MINUTE: Final = 60.0  # seconds
MOST_TOGETHER: Final = 500  # in one round trip
MOST_KEPT: Final = 10_000  # of what could not be given back
MOST_IDLE: Final = 10_000  # keys that a process remembers before it looks which are of no use any more


class RedisAway(Exception):
    """Redis does not answer, or can't count."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What holds for a key: turns `per_minute`, in any 60 seconds, and `at_once`; 0 is no limit.

    A place that nobody gives back is free again after `held` seconds.
    """

    key: str
    per_minute: int
    at_once: int
    held: float


async def take(claim: Claim, turn: str) -> int:
    """`GRANTED`, or `FULL` where all places are taken, or the milliseconds until the minute has room for one more.

    What is refused counts for nothing. `turn` names the turn, for `give_back`.

    Raises:
        RedisAway: Redis is to count, and can't. Only who meets that first waits for it.
    """
    url = settings.REDIS_URL
    if not url:
        return _memory.take(claim, turn)
    if Outage.of(url).is_on:
        raise RedisAway
    return await (await _line(url)).take(claim, turn)


def take_here(claim: Claim, turn: str) -> int:
    """`take` for synchronous code: it waits."""
    return io_loop.run(take(claim, turn)) if settings.REDIS_URL else _memory.take(claim, turn)


def give_back(claim: Claim, turn: str) -> None:
    """Free the place of a turn that was taken. From any thread; never waits."""
    if not claim.at_once:
        return
    url = settings.REDIS_URL
    if not url:
        _memory.give_back(claim.key, turn)
    elif loop_is_running_here() and (line := _lines.get((asyncio.get_running_loop(), url))):
        line.give_back(claim, turn)
    else:  # a thread without a loop, or a loop that is about to end
        io_loop.start(_give_back_there(url, claim, turn))


async def _give_back_there(url: str, claim: Claim, turn: str) -> None:
    (await _line(url)).give_back(claim, turn)


def new_turn() -> str:
    """A name that no other turn has, in whichever process."""
    return _names.new()


class _Names:
    """Names that begin with the process's own."""

    def __init__(self) -> None:
        self.reset()
        os.register_at_fork(after_in_child=self.reset)

    def reset(self) -> None:
        self._process, self._numbers = os.urandom(8).hex(), count()

    def new(self) -> str:
        return f"{self._process}{next(self._numbers):x}"


# -- in memory ---------------------------------------------------------------------------------------------------------


class _Memory:
    """The counts of one process."""

    def __init__(self) -> None:
        self.reset()
        os.register_at_fork(after_in_child=self.reset)

    def reset(self) -> None:
        self._lock = threading.Lock()
        self._minutes: dict[str, deque[float]] = {}  # when turns were granted, the oldest first
        self._places: dict[str, dict[str, float]] = {}  # until when each turn holds its place

    def take(self, claim: Claim, turn: str) -> int:
        now = monotonic()
        with self._lock:
            minute, places = self._minute(claim.key, now), self._taken(claim.key, now)
            if claim.per_minute and len(minute) >= claim.per_minute:
                return ceil((minute[-claim.per_minute] + MINUTE - now) * 1000)
            if claim.at_once and len(places) >= claim.at_once:
                return FULL
            if claim.per_minute:
                minute.append(now)
                self._minutes[claim.key] = minute
            if claim.at_once:
                places[turn] = now + claim.held
                self._places[claim.key] = places
            if len(self._minutes) + len(self._places) > MOST_IDLE:
                self._tidy(now)
        return GRANTED

    def give_back(self, key: str, turn: str) -> None:
        with self._lock:
            self._places.get(key, {}).pop(turn, None)

    def _minute(self, key: str, now: float) -> deque[float]:
        minute = self._minutes.get(key) or deque()
        while minute and minute[0] <= now - MINUTE:
            minute.popleft()
        return minute

    def _taken(self, key: str, now: float) -> dict[str, float]:
        return {turn: until for turn, until in self._places.get(key, {}).items() if until > now}

    def _tidy(self, now: float) -> None:
        minutes = {key: self._minute(key, now) for key in self._minutes}
        self._minutes = {key: minute for key, minute in minutes.items() if minute}
        places = {key: self._taken(key, now) for key in self._places}
        self._places = {key: taken for key, taken in places.items() if taken}


# -- in Redis ----------------------------------------------------------------------------------------------------------

# Two keys a claim: a list of the times (µs, Redis's clock) of the last minute's turns, the newest first; and a sorted
# set of the turns that hold a place, by the time at which they lose it. Entries with nothing held are given back.
_SCRIPT: Final = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local verdicts = {}
for i, entry in ipairs(ARGV) do
  local minute, places = KEYS[2 * i - 1], KEYS[2 * i]
  local per_minute, at_once, held, turn = string.match(entry, '^(%d+) (%d+) (%d+) (.+)$')
  per_minute, at_once, held = tonumber(per_minute), tonumber(at_once), tonumber(held)
  local verdict = 0
  if held == 0 then
    redis.call('ZREM', places, turn)
  else
    if per_minute > 0 then
      local oldest = redis.call('LINDEX', minute, -1)
      while oldest and now - oldest >= 60000000 do
        redis.call('RPOP', minute)
        oldest = redis.call('LINDEX', minute, -1)
      end
      if redis.call('LLEN', minute) >= per_minute then
        local leaves = redis.call('LINDEX', minute, per_minute - 1) + 60000000
        verdict = math.max(math.ceil((leaves - now) / 1000), 1)
      end
    end
    if verdict == 0 and at_once > 0 then
      redis.call('ZREMRANGEBYSCORE', places, '-inf', string.format('%.0f', now))
      if redis.call('ZCARD', places) >= at_once then verdict = -1 end
    end
    if verdict == 0 and per_minute > 0 then
      redis.call('LPUSH', minute, string.format('%.0f', now))
      redis.call('PEXPIRE', minute, 60000)
    end
    if verdict == 0 and at_once > 0 then
      redis.call('ZADD', places, string.format('%.0f', now + held * 1000), turn)
      if redis.call('PTTL', places) < held then redis.call('PEXPIRE', places, held) end
    end
  end
  verdicts[i] = verdict
end
return verdicts
"""
_SHA: Final = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()


@dataclass(slots=True, eq=False)
class _Asked:
    claim: Claim
    turn: str
    verdict: asyncio.Future[int]


_Left = tuple[Claim, str]


class _Line:
    """One loop's connection to one Redis, and who stands in line for it."""

    def __init__(self, url: str, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.keeper: AsyncIterator[None] | None = None
        self._url = url
        self._prefix = f"{settings.CACHE_KEY_PREFIX}turnstile:"
        self._asked: list[_Asked] = []
        self._left: list[_Left] = []
        self._trips: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None
        self._is_told = False
        # Without time-outs of its own: two that end inside one another lose connections.
        pool = aioredis.ConnectionPool.from_url(
            url, socket_timeout=None, socket_connect_timeout=None, retry=Retry(NoBackoff(), 0), protocol=2
        )
        self._connection: Any = pool.make_connection()  # type: ignore[no-untyped-call]

    async def take(self, claim: Claim, turn: str) -> int:
        asked = _Asked(claim, turn, self.loop.create_future())
        self._asked.append(asked)
        self._go()
        try:
            return await asked.verdict
        except asyncio.CancelledError:
            if claim.at_once:  # it may have been granted meanwhile
                self.give_back(claim, turn)
            raise

    def give_back(self, claim: Claim, turn: str) -> None:
        self._left.append((claim, turn))
        self._go()

    def _go(self) -> None:
        if self._trips is None:
            self._trips = self.loop.create_task(self._travel())

    async def _travel(self) -> None:
        try:
            while self._asked or self._left:
                asked, self._asked = self._asked[:MOST_TOGETHER], self._asked[MOST_TOGETHER:]
                left, self._left = self._left[:MOST_TOGETHER], self._left[MOST_TOGETHER:]
                asked = [one for one in asked if not one.verdict.done()]
                if asked or left:
                    await self._travel_with(asked, left)
        except RedisAway:
            waiting, self._asked = self._asked, []
            self._refuse(waiting)
            if self._left and self._again is None:
                self._again = self.loop.call_later(RETRY_AFTER, self._go_again)
        finally:
            self._trips = None

    def _go_again(self) -> None:
        self._again = None
        self._go()

    async def _travel_with(self, asked: Sequence[_Asked], left: Sequence[_Left]) -> None:
        try:
            verdicts = await self._ask(asked, left)
        except BaseException as error:
            # Some may have been granted, and what was left may still be taken: the next trip gives all of it back.
            self._left = [*left, *((one.claim, one.turn) for one in asked if one.claim.at_once), *self._left]
            del self._left[MOST_KEPT:]
            self._refuse(asked)
            if not isinstance(error, Exception):
                raise
            self._note(error)
            raise RedisAway from error
        self._is_told = False
        for one, verdict in zip(asked, verdicts[len(left) :], strict=True):
            if not one.verdict.done():
                one.verdict.set_result(verdict)

    def _refuse(self, asked: Sequence[_Asked]) -> None:
        for one in asked:
            if not one.verdict.done():
                one.verdict.set_exception(RedisAway())

    async def _ask(self, asked: Sequence[_Asked], left: Sequence[_Left]) -> list[int]:
        keys: list[str] = []
        entries: list[str] = []
        for claim, turn in left:  # first: they make room
            keys += self._keys(claim)
            entries.append(f"0 0 0 {turn}")
        for one in asked:
            claim = one.claim
            keys += self._keys(claim)
            entries.append(f"{claim.per_minute} {claim.at_once} {ceil(claim.held * 1000)} {one.turn}")
        command = (len(keys), *keys, *entries)
        if self._connection.is_connected:
            try:
                return await self._evaluate(command)
            except TimeoutError:
                raise
            except (OSError, redis.ConnectionError):
                pass  # Redis has closed it since it was last used: that alone is no outage
        async with asyncio.timeout(settings.REDIS_CONNECT_TIMEOUT):
            await self._connection.connect()
        return await self._evaluate(command)

    def _keys(self, claim: Claim) -> tuple[str, str]:
        return f"{self._prefix}minute:{claim.key}", f"{self._prefix}places:{claim.key}"

    async def _evaluate(self, command: tuple[Any, ...]) -> list[int]:
        try:
            async with asyncio.timeout(settings.REDIS_TIMEOUT):
                try:
                    return await self._execute("EVALSHA", _SHA, *command)
                except NoScriptError:
                    return await self._execute("EVAL", _SCRIPT, *command)
        except BaseException:
            await self._connection.disconnect(nowait=True)  # what it would still answer is nobody's
            raise

    async def _execute(self, *command: Any) -> list[int]:
        await self._connection.send_command(*command)
        answer: list[int] = await self._connection.read_response()
        return answer

    def _note(self, error: Exception) -> None:
        if means_away(error):
            Outage.of(self._url).begin(error, lambda: _try(self._url))
        elif not self._is_told:
            self._is_told = True
            logger.error("Redis can't count", extra={"reason": f"{type(error).__name__}: {error}"})

    async def close(self) -> None:
        """Give back what is left, if Redis takes it, and let go of the connection."""
        if self._trips is not None:
            self._trips.cancel()
            await asyncio.gather(self._trips, return_exceptions=True)
        if self._again is not None:
            self._again.cancel()
        if self._left and not Outage.of(self._url).is_on:
            with suppress(Exception):
                await self._ask([], self._left)
        with suppress(Exception):
            await self._connection.disconnect(nowait=True)


def _try(url: str) -> None:
    """See whether Redis can do its work again: a full one still answers a ping."""
    timeouts = {"socket_connect_timeout": settings.REDIS_CONNECT_TIMEOUT, "socket_timeout": settings.REDIS_TIMEOUT}
    with redis.Redis.from_url(url, **timeouts) as client:
        client.set(f"{settings.CACHE_KEY_PREFIX}redis-outage", 1, px=1000)


# -- the lines of a process --------------------------------------------------------------------------------------------


async def _line(url: str) -> _Line:
    """The running loop's line to this Redis, for as long as the loop lives."""
    loop = asyncio.get_running_loop()
    line = _lines.get((loop, url))
    if line is None:
        with _lock:
            for key in [key for key in _lines if key[0].is_closed()]:
                _ended.append(_lines.pop(key))
            line = _lines[loop, url] = _Line(url, loop)
        line.keeper = _close_with_loop(line, url)
        await anext(line.keeper)
    return line


async def _close_with_loop(line: _Line, url: str) -> AsyncIterator[None]:
    """An async generator that a loop's `shutdown_asyncgens()` closes, which every runner calls before the loop ends."""
    try:
        yield
    finally:
        with _lock:
            _lines.pop((line.loop, url), None)
        await line.close()


def _forget_after_fork() -> None:
    """A child shares no connection with its parent: two processes would mix their bytes on it."""
    global _lines, _lock
    _ended.extend(_lines.values())
    _lines, _lock = {}, threading.Lock()


_lines: dict[tuple[asyncio.AbstractEventLoop, str], _Line] = {}
_ended: Final[list[_Line]] = []  # kept: collecting them would wake loops that are closed, or the parent's
_lock = threading.Lock()
_memory: Final = _Memory()
_names: Final = _Names()
os.register_at_fork(after_in_child=_forget_after_fork)
