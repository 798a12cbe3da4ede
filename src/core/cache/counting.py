"""A cache for what must go on counting when the shared one is away."""

from __future__ import annotations

from typing import Any

from django.core.cache import cache
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.cache.backends.locmem import LocMemCache


class CountingCache(LocMemCache):
    """Django's cache, and while that `is_away` this process's own memory."""

    def __init__(self) -> None:
        super().__init__("counting", {"OPTIONS": {"MAX_ENTRIES": 10_000}})

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        return super().get(key, default, version) if _is_away() else cache.get(key, default, version)

    def set(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        if _is_away():
            super().set(key, value, timeout, version)
        else:
            cache.set(key, value, timeout, version)


def _is_away() -> bool:
    return bool(getattr(cache, "is_away", False))
