"""The rows a call needs, from this process's memory, else from Django's cache, else from the database.

A cached value carries the `ConfigStamp` it was read under and counts only while that is the current one. Rows that are
handed out are shared with other threads: copy one before you change it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from django.contrib.auth.models import AbstractUser
from django.core.cache import cache
from django.core.exceptions import EmptyResultSet
from django.db.models import QuerySet

from src.ai.models import AdminProviderSettings, AIModel, AIProvider
from src.ai.models.config_stamp import freshness
from src.core.cache.freshness import Memory
from src.core.cache.namespaces import AICacheKeys, CacheSize, CacheTTL

T = TypeVar("T")

_MISSING: Final = object()
_rows: Memory[Any] = freshness.memory(size=CacheSize.ROWS, lifetime=CacheTTL.AI)
_counts: Memory[int] = freshness.memory(size=CacheSize.COUNTS, lifetime=CacheTTL.AI)


class NotInMemory(Exception):
    """What was asked for has to be read first."""


class Catalogue:
    """Providers, models and settings as they were less than a second ago. Make one per call: it asks the stamp once."""

    def __init__(self, *, memory_only: bool = False) -> None:
        """With `memory_only` it never waits for anything, for use on an event loop.

        Raises:
            NotInMemory: then, here and from any method: the same has to be asked again without it, in a thread.
        """
        self._memory_only = memory_only
        # Before the rows: a change in between leaves a value under an old stamp, never old rows under the new.
        self._stamp = freshness.believed() if memory_only else freshness.current()
        if memory_only and self._stamp is None:
            raise NotInMemory

    def provider(self, slug: str) -> AIProvider | None:
        """The provider of this slug."""
        return self._cached(AICacheKeys.provider(slug), lambda: AIProvider.objects.filter(slug=slug).first())

    def model(self, pk: int) -> AIModel | None:
        """The model of this primary key, active or not, with its provider."""
        return self._cached(
            AICacheKeys.model(pk), lambda: AIModel.objects.select_related("provider").filter(pk=pk).first()
        )

    def active_model(self, provider_slug: str, capability: str) -> AIModel | None:
        """The provider's active model for the capability."""
        return self._cached(
            AICacheKeys.active_model(provider_slug, capability),
            lambda: AIModel.objects.get_active_model(provider_slug, capability),
        )

    def active_models(self, capability: str) -> list[AIModel]:
        """The active models of all providers for the capability, in the order in which they are tried."""
        return self._cached(
            AICacheKeys.models_by_capability(capability), lambda: list(AIModel.objects.active_for(capability))
        )

    def all_active_models(self) -> list[AIModel]:
        """Every active model of every active provider, whatever it can do, in the same order."""

        def load() -> list[AIModel]:
            rows = AIModel.objects.select_related("provider").filter(is_active=True, provider__is_active=True)
            return list(rows.order_by("provider__sort_order", "sort_order", "id"))

        return self._cached(AICacheKeys.all_active_models(), load)

    def admin_settings(self, admin: AbstractUser, provider: AIProvider) -> AdminProviderSettings | None:
        """The admin's own settings at the provider. Its counters may be old: they do not change the stamp."""

        def load() -> AdminProviderSettings | None:
            rows = AdminProviderSettings.objects.filter(admin_id=admin.pk, provider_id=provider.pk)
            return rows.select_related("provider").first()

        return self._cached(AICacheKeys.admin_settings(admin.pk, provider.pk), load)

    def all_admin_settings(self, admin: AbstractUser) -> dict[int, AdminProviderSettings]:
        """The admin's own settings by the id of their provider."""

        def load() -> dict[int, AdminProviderSettings]:
            return {row.provider_id: row for row in AdminProviderSettings.objects.filter(admin_id=admin.pk)}

        return self._cached(AICacheKeys.all_admin_settings(admin.pk), load)

    def count(self, rows: QuerySet[Any]) -> int:
        """How many rows of providers and models, however filtered, there are."""
        try:
            key = (rows.db, *rows.order_by().query.sql_with_params())
        except EmptyResultSet:
            return 0
        counted = _counts.get(key, self._stamp, None) if self._stamp else None
        if counted is None:
            if self._memory_only:
                raise NotInMemory
            counted = rows.count()
            if self._stamp:
                _counts.put(key, self._stamp, counted)
        return counted

    def _cached(self, key: str, load: Callable[[], T]) -> T:
        if self._stamp is None:
            return load()
        value: T | Any = _rows.get(key, self._stamp, _MISSING)
        if value is _MISSING:
            if self._memory_only:
                raise NotInMemory
            value = self._shared(key, self._stamp, load)
            _rows.put(key, self._stamp, value)
        return value

    @staticmethod
    def _shared(key: str, stamp: str, load: Callable[[], T]) -> T:
        entry: tuple[str, T] | Any = cache.get(key)
        if isinstance(entry, tuple) and entry[0] == stamp:
            found: T = entry[1]
            return found
        value = load()
        cache.set(key, (stamp, value), CacheTTL.AI)
        return value
