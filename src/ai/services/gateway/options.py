"""The settings that every request needs: to ask Django for one costs a microsecond each time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Self

from django.conf import settings
from django.core.signals import setting_changed
from django.dispatch import receiver


@dataclass(frozen=True, slots=True)
class Options:
    """As they are now."""

    https_only: bool
    body_limit: int
    body_timeout: float
    stores_texts: bool
    secure_header: tuple[bytes, str] | None  # what a proxy says of the client's connection

    @classmethod
    def current(cls) -> Self:
        return cls(
            https_only=settings.SECURE_SSL_REDIRECT,
            body_limit=settings.AI_GATEWAY_BODY_LIMIT,
            body_timeout=settings.AI_GATEWAY_BODY_TIMEOUT,
            stores_texts=settings.AI_STORE_TEXTS,
            secure_header=_header_of(settings.SECURE_PROXY_SSL_HEADER),
        )


@cache
def options() -> Options:
    """The settings, read once."""
    return Options.current()


@receiver(setting_changed)
def _forget(**_: Any) -> None:
    options.cache_clear()


def _header_of(setting: tuple[str, str] | None) -> tuple[bytes, str] | None:
    if setting is None:
        return None
    name, value = setting
    return name.removeprefix("HTTP_").replace("_", "-").lower().encode("ascii"), value
