"""So many in any minute and so many at once, by key: counted in Redis for all processes, or in this process's memory.

    verdict = await take(claim, turn)    whether there is room, in one decision
    give_back(claim, turn)               the place of a turn that was taken is free again; never waits

In Redis both are entries of one script, and what comes up while a round trip is under way goes into the next one
together: under load one round trip serves many. redis-py connects; what goes over the connection is written and read
here, as its streams take several times as long over it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import count
from math import ceil
from time import monotonic
from typing import Any, Final, cast

import redis
from django.conf import settings
from django.core.signals import setting_changed
from django.dispatch import receiver
from redis import asyncio as aioredis
from redis.asyncio.connection import DefaultParser
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

from src.core.cache.backend import RETRY_AFTER, Outage, means_away
from src.core.loop import io_loop

logger = logging.getLogger(__name__)

GRANTED: Final = 0
FULL: Final = -1
MINUTE: Final = 60.0  # seconds
MOST_TOGETHER: Final = 500  # in one round trip
MOST_KEPT: Final = 10_000  # of what could not be given back
MOST_IDLE: Final = 10_000  # keys that a process remembers before it looks which are of no use any more
STOOD_STILL: Final = 0.1  # seconds by which a timer is late only if its loop, or the whole machine, has stood still


class RedisAway(Exception):
    """Redis does not answer, or can't count."""


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """What holds for a key: turns `per_minute`, in any 60 seconds, and `at_once`; 0 is no limit.

    A place that nobody gives back is free again after `held` seconds. Keep a claim for the calls to come: what Redis is
    sent of it is made once.
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
    url = _redis_url()
    if not url:
        return _memory.take(claim, turn)
    line = _lines.get((asyncio.get_running_loop(), url)) or await _new_line(url)
    if line.outage.is_on:
        raise RedisAway
    return await line.take(claim, turn)


def take_here(claim: Claim, turn: str) -> int:
    """`take` for synchronous code: it waits."""
    return io_loop.run(take(claim, turn)) if _redis_url() else _memory.take(claim, turn)


def give_back(claim: Claim, turn: str) -> None:
    """Free the place of a turn that was taken. From any thread; never waits."""
    if not claim.at_once:
        return
    url, loop = _redis_url(), asyncio._get_running_loop()
    if not url:
        _memory.give_back(claim.key, turn)
    elif loop is not None and (line := _lines.get((loop, url))):
        line.give_back(claim, turn)
    else:  # a thread without a loop, or a loop that is about to end
        io_loop.start(_give_back_there(url, claim, turn))


@cache
def _redis_url() -> str:
    """The setting; to ask Django for it costs as much as all the rest of a claim."""
    return str(settings.REDIS_URL)


@receiver(setting_changed)
def _forget_url(**_: Any) -> None:
    _redis_url.cache_clear()


async def _give_back_there(url: str, claim: Claim, turn: str) -> None:
    line = _lines.get((asyncio.get_running_loop(), url)) or await _new_line(url)
    line.give_back(claim, turn)


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
for i = 1, #KEYS / 2 do
  local minute, places, turn = KEYS[2 * i - 1], KEYS[2 * i], ARGV[2 * i]
  local per_minute, at_once, held = string.match(ARGV[2 * i - 1], '^(%d+) (%d+) (%d+)$')
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


def _word(text: object) -> str:
    """One word of a command, as Redis reads it."""
    return f"${len(str(text).encode())}\r\n{text}\r\n"


@lru_cache(maxsize=1024)
def _words(prefix: str, claim: Claim) -> tuple[str, str]:
    """The keys of a claim, and what holds for them."""
    keys = _word(f"{prefix}minute:{claim.key}") + _word(f"{prefix}places:{claim.key}")
    return keys, _word(f"{claim.per_minute} {claim.at_once} {ceil(claim.held * 1000)}")


_BY_NAME: Final = _word("EVALSHA") + _word(_SHA)
_WHOLE: Final = _word("EVAL") + _word(_SCRIPT)
_GIVEN_BACK: Final = _word("0 0 0")
_NOTHING: Final = Claim("", 0, 0, 0)


class _Wire(asyncio.Protocol):
    """A connection that redis-py has made ready, for one call of the script at a time."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._size = 0
        self._received = b""
        self._answered: Callable[[list[int] | Exception], None] | None = None
        self._seconds = 0.0
        self._deadline = 0.0
        self._is_extended = False
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self.is_proven = False  # it has carried an answer
        transport.set_protocol(self)

    @property
    def is_lost(self) -> bool:
        return self._is_closed or self._transport.is_closing()

    def ask(self, command: bytes, size: int, seconds: float, answered: Callable[[list[int] | Exception], None]) -> None:
        """Send a command and have `answered` called with its `size` numbers, or why there are none."""
        self._size, self._received, self._answered = size, b"", answered
        self._seconds, self._is_extended = seconds, False
        self._deadline = self._loop.time() + seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._look)
        self._transport.write(command)

    def drop(self) -> None:
        """Close it. What it would still answer is nobody's."""
        self._answered = None
        self._close()

    def data_received(self, data: bytes) -> None:
        received = self._received = self._received + data
        if not received.endswith(b"\r\n"):
            return
        if received.startswith(b"-"):
            error: Exception = DefaultParser.parse_error(received[1:-2].decode(errors="replace"))  # type: ignore[no-untyped-call]
            self._end(error)
            return
        length, *numbers, _ = received.split(b"\r\n")
        if len(numbers) < self._size and length == b"*%d" % self._size:
            return  # there is more to come
        try:
            answer = [int(number.removeprefix(b":")) for number in numbers]
        except ValueError:
            answer = []
        if len(answer) != self._size:
            self._end(redis.ConnectionError("what it answers is not what it was asked"))
            return
        self.is_proven = True
        self._end(answer)

    def connection_lost(self, error: Exception | None) -> None:
        self._close()
        self._end(redis.ConnectionError(str(error or "the connection was closed")))

    def _close(self) -> None:
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()

    def _look(self) -> None:
        """One timer for many calls: each only moves the deadline."""
        self._timer = None
        if self._answered is None:
            return
        now = self._loop.time()
        if now > self._deadline + STOOD_STILL and not self._is_extended:
            self._is_extended, self._deadline = True, now + self._seconds  # Redis may have stood still as well
        if now < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._look)
        else:
            self._end(TimeoutError("Redis did not answer in time"))

    def _end(self, answer: list[int] | Exception) -> None:
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(answer)
        else:  # nobody has asked
            self._close()


_Asked = tuple[Claim, str, "asyncio.Future[int]"]
_Left = tuple[Claim, str]


class _Line:
    """One loop's connection to one Redis, and who stands in line for it."""

    def __init__(self, url: str, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.outage = Outage.of(url)
        self.keeper: AsyncIterator[None] | None = None
        self._url = url
        self._prefix = f"{settings.CACHE_KEY_PREFIX}turnstile:"
        self._asked: list[_Asked] = []
        self._left: list[_Left] = []
        self._is_going = False  # a round trip is under way, or about to be
        self._trip: tuple[Sequence[_Asked], Sequence[_Left]] = ((), ())
        self._wire: _Wire | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None
        self._is_told = False
        # Without time-outs of its own: two that end inside one another lose connections.
        pool = aioredis.ConnectionPool.from_url(
            url, socket_timeout=None, socket_connect_timeout=None, retry=Retry(NoBackoff(), 0), protocol=2
        )
        self._connection: Any = pool.make_connection()  # type: ignore[no-untyped-call]

    async def take(self, claim: Claim, turn: str) -> int:
        verdict: asyncio.Future[int] = self.loop.create_future()
        self._asked.append((claim, turn, verdict))
        self._go()
        try:
            return await verdict
        except asyncio.CancelledError:
            if claim.at_once:  # it may have been granted meanwhile
                self.give_back(claim, turn)
            raise

    def give_back(self, claim: Claim, turn: str) -> None:
        self._left.append((claim, turn))
        self._go()

    def _go(self) -> None:
        if not self._is_going:
            self._is_going = True
            self.loop.call_soon(self._set_off)

    def _set_off(self) -> None:
        asked, self._asked = self._asked[:MOST_TOGETHER], self._asked[MOST_TOGETHER:]
        left, self._left = self._left[:MOST_TOGETHER], self._left[MOST_TOGETHER:]
        asked = [one for one in asked if not one[2].done()]
        self._trip = asked, left
        if not (asked or left):
            self._is_going = False
        elif self._wire is None or self._wire.is_lost:
            self._connect()
        else:
            self._send(self._wire, _BY_NAME)

    def _send(self, wire: _Wire, script: str) -> None:
        asked, left = self._trip
        size = len(asked) + len(left)
        keys: list[str] = []
        entries: list[str] = []
        for claim, turn in left:  # first: they make room
            keys.append(_words(self._prefix, claim)[0])
            entries += _GIVEN_BACK, _word(turn)
        for claim, turn, _ in asked:
            words = _words(self._prefix, claim)
            keys.append(words[0])
            entries += words[1], _word(turn)
        command = f"*{3 + 4 * size}\r\n{script}{_word(2 * size)}{''.join(keys)}{''.join(entries)}"
        wire.ask(command.encode(), size, settings.REDIS_TIMEOUT, self._arrived)

    def _arrived(self, answer: list[int] | Exception) -> None:
        wire = cast(_Wire, self._wire)
        if isinstance(answer, list):
            self._is_told = False
            asked, left = self._trip
            for (_, _, verdict), number in zip(asked, answer[len(left) :], strict=True):
                if not verdict.done():
                    verdict.set_result(number)
            # Once the loop has gone round: setting off at once would make many small trips of a few.
            self.loop.call_soon(self.loop.call_soon, self._set_off)
        elif isinstance(answer, NoScriptError):
            self._send(wire, _WHOLE)
        elif wire.is_lost and wire.is_proven:  # Redis has closed it since it was last used: that alone is no outage
            self._connect()
        else:
            self._fail(answer)

    def _connect(self) -> None:
        self._connecting = self.loop.create_task(self._travel_anew())

    async def _travel_anew(self) -> None:
        try:
            async with asyncio.timeout(settings.REDIS_CONNECT_TIMEOUT):
                await self._connection.disconnect(nowait=True)  # else it takes itself for connected
                await self._connection.connect()
            # redis-py has no public name for it.
            wire = self._wire = _Wire(self._connection._writer.transport, self.loop)
            self._send(wire, _BY_NAME)
        except BaseException as error:
            self._fail(error)
            if not isinstance(error, Exception):
                raise

    def _fail(self, error: BaseException) -> None:
        (asked, left), self._trip = self._trip, ((), ())
        if self._wire is not None:
            self._wire.drop()
        # Some may have been granted, and what was left may still be taken: the next trip gives all of it back.
        self._left = [*left, *((claim, turn) for claim, turn, _ in asked if claim.at_once), *self._left]
        del self._left[MOST_KEPT:]
        waiting, self._asked = self._asked, []
        for *_, verdict in (*asked, *waiting):
            if not verdict.done():
                verdict.set_exception(RedisAway())
        self._is_going = False
        if isinstance(error, Exception):
            self._note(error)
        if self._left and self._again is None:
            self._again = self.loop.call_later(RETRY_AFTER, self._go_again)

    def _go_again(self) -> None:
        self._again = None
        self._go()

    def _note(self, error: Exception) -> None:
        if means_away(error):
            self.outage.begin(error, lambda: _try(self._url))
        elif not self._is_told:
            self._is_told = True
            logger.error("Redis can't count", extra={"reason": f"{type(error).__name__}: {error}"})

    async def close(self) -> None:
        """Give back what is left, if Redis takes it, and let go of the connection."""
        with suppress(RedisAway):
            if self._is_going:
                await self.take(_NOTHING, "")  # comes back when what was under way has ended
            while self._left and not self.outage.is_on:
                await self.take(_NOTHING, "")
        if self._again is not None:
            self._again.cancel()
        if self._wire is not None:
            self._wire.drop()
        with suppress(Exception):
            await self._connection.disconnect(nowait=True)


def _try(url: str) -> None:
    """See whether Redis can do its work again: a full one still answers a ping."""
    timeouts = {"socket_connect_timeout": settings.REDIS_CONNECT_TIMEOUT, "socket_timeout": settings.REDIS_TIMEOUT}
    with redis.Redis.from_url(url, **timeouts) as client:
        client.set(f"{settings.CACHE_KEY_PREFIX}redis-outage", 1, px=1000)


# -- the lines of a process --------------------------------------------------------------------------------------------


async def _new_line(url: str) -> _Line:
    """A line of the running loop to this Redis, for as long as the loop lives."""
    loop = asyncio.get_running_loop()
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
