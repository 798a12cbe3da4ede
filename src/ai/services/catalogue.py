"""The rows a call needs, read through the cache.

A cached value carries the `ConfigStamp` it was read under and counts only while that is the current one: one small
query a call, and no process ever works with what another has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from django.contrib.auth.models import AbstractUser
from django.core.cache import cache

from src.ai.models import AdminProviderSettings, AIModel, AIProvider, ConfigStamp
from src.core.cache.namespaces import AICacheKeys, CacheTTL

T = TypeVar("T")


class Catalogue:
    """Providers, active models and settings as they are now. Make one per call: it reads the stamp once."""

    def __init__(self) -> None:
        # Read before the rows: a change in between leaves a value under an old stamp, never old rows under the new.
        self._stamp = ConfigStamp.objects.values_list("value", flat=True).first()

    def provider(self, slug: str) -> AIProvider | None:
        """The provider of this slug."""
        return self._cached(AICacheKeys.provider(slug), lambda: AIProvider.objects.filter(slug=slug).first())

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

    def admin_settings(self, admin: AbstractUser, provider: AIProvider) -> AdminProviderSettings | None:
        """The admin's own settings at the provider. Its counters may be old: they do not change the stamp."""
        rows = AdminProviderSettings.objects.filter(admin_id=admin.pk, provider_id=provider.pk)
        return self._cached(AICacheKeys.admin_settings(admin.pk, provider.pk), rows.select_related("provider").first)

    def _cached(self, key: str, load: Callable[[], T]) -> T:
        entry: tuple[str, T] | Any = cache.get(key)
        if self._stamp is not None and isinstance(entry, tuple) and entry[0] == self._stamp:
            value: T = entry[1]
            return value
        value = load()
        cache.set(key, (self._stamp, value), CacheTTL.AI)
        return value
