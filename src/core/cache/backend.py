"""django-redis for a site that outlives its Redis."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import sleep
from typing import Any, Final

from django_redis import cache as django_redis
from redis import exceptions

logger = logging.getLogger(__name__)

# Seconds between two attempts to reach a Redis that is away.
RETRY_AFTER: Final = 2.0

_NO_ANSWER = (OSError, exceptions.ConnectionError, exceptions.TimeoutError)
_UNABLE = (exceptions.ReadOnlyError, exceptions.OutOfMemoryError, exceptions.ClusterDownError)


def means_away(error: Exception) -> bool:
    """Whether Redis does not answer, or answers that it can't do its work now."""
    # MISCONF: it could not save to its disk. The one such answer that has no class of its own.
    return isinstance(error, (*_NO_ANSWER, *_UNABLE)) or str(error).startswith("MISCONF")


class Outage:
    """Whether one Redis server is away, as this process knows it. While it is, a thread of its own tries it again."""

    _all: Final[dict[str, Outage]] = {}
    _making = threading.Lock()

    def __init__(self) -> None:
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self.is_on = False

    @classmethod
    def of(cls, server: str) -> Outage:
        """The one of this server: a thread has a cache object of its own, the process knows one outage."""
        with cls._making:
            if server not in cls._all:
                cls._all[server] = cls()
            return cls._all[server]

    def begin(self, error: Exception, attempt: Callable[[], object]) -> None:
        """Redis has failed with `error`: nobody need ask it again until `attempt` succeeds."""
        with self._lock:
            if self.is_on:
                return
            self.is_on = True
        logger.warning("Redis is away, going on without", extra={"reason": str(error)})
        threading.Thread(target=self._wait_for, args=(attempt,), name="redis-outage", daemon=True).start()

    def _wait_for(self, attempt: Callable[[], object]) -> None:
        while self.is_on:
            sleep(RETRY_AFTER)
            with suppress(Exception):
                attempt()
                self.is_on = False
                logger.warning("Redis is back")


class RedisCache(django_redis.RedisCache):  # type: ignore[misc]  # django-redis ships no types
    """Django's cache in Redis. While Redis is away nothing is cached: a read finds nothing, a write does nothing.

    Who meets the outage first waits for one time-out; everybody after that for nothing, until Redis is back. What only
    django-redis knows (`lock`, `ttl`, sets, …) raises as ever.
    """

    def __init__(self, server: str, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self._outage = Outage.of(str(server))

    @property
    def is_away(self) -> bool:
        return self._outage.is_on

    def get(self, key: str, default: Any = None, *args: Any, **kwargs: Any) -> Any:
        return self._ask(super().get, default, key, default, *args, **kwargs)

    def get_many(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        found: dict[str, Any] = self._ask(super().get_many, {}, *args, **kwargs)
        return found

    def has_key(self, *args: Any, **kwargs: Any) -> bool:
        return bool(self._ask(super().has_key, False, *args, **kwargs))

    def add(self, *args: Any, **kwargs: Any) -> bool:
        return bool(self._ask(super().add, False, *args, **kwargs))

    def set(self, *args: Any, **kwargs: Any) -> bool:
        return bool(self._ask(super().set, False, *args, **kwargs))

    def set_many(self, data: Mapping[str, Any], *args: Any, **kwargs: Any) -> list[str]:
        """The keys that were not set."""
        return self._ask(super().set_many, list(data), data, *args, **kwargs) or []

    def touch(self, *args: Any, **kwargs: Any) -> bool:
        return bool(self._ask(super().touch, False, *args, **kwargs))

    def delete(self, *args: Any, **kwargs: Any) -> bool:
        return bool(self._ask(super().delete, False, *args, **kwargs))

    def delete_many(self, *args: Any, **kwargs: Any) -> Any:
        return self._ask(super().delete_many, 0, *args, **kwargs)

    def clear(self) -> Any:
        return self._ask(super().clear, None)

    def incr(self, key: str, *args: Any, **kwargs: Any) -> int:
        return self._found(key, self._ask(super().incr, None, key, *args, **kwargs))

    def decr(self, key: str, *args: Any, **kwargs: Any) -> int:
        return self._found(key, self._ask(super().decr, None, key, *args, **kwargs))

    def incr_version(self, key: str, *args: Any, **kwargs: Any) -> int:
        return self._found(key, self._ask(super().incr_version, None, key, *args, **kwargs))

    def _ask(self, operation: Callable[..., Any], without: Any, *args: Any, **kwargs: Any) -> Any:
        if self._outage.is_on:
            return without
        try:
            return operation(*args, **kwargs)
        except (OSError, exceptions.RedisError) as error:
            if not means_away(error):
                raise
            self._outage.begin(error, self._attempt)
            return without

    def _attempt(self) -> None:
        # A write: a Redis that is full, or read-only, answers a ping.
        super().set("redis-outage", 1, timeout=1)

    @staticmethod
    def _found(key: str, value: int | None) -> int:
        if value is None:
            raise ValueError(f"Key '{key}' not found")
        return value
