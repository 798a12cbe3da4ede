"""Whether a provider's or a model's `config` is one that the provider's class understands."""

from __future__ import annotations

import json
from typing import Any

from src.ai.exceptions import InvalidConfig, ProviderNotRegistered
from src.ai.providers.registry import get_provider_instance
from src.core.net_guard import UrlRefused, check_base_url

LONGEST_TIMEOUT = 3600


def check_config(provider_slug: str, config: Any) -> None:
    """See that `config` is an object with keys that the provider knows. A provider not installed here can't object.

    Raises:
        InvalidConfig: it is not; the message names the known keys.
    """
    if not isinstance(config, dict):
        raise InvalidConfig(provider=provider_slug, reason="it must be a JSON object.", attr="config")
    if not _is_storable(config):
        raise InvalidConfig(provider=provider_slug, reason="it holds NaN, Infinity or a null character.", attr="config")
    timeout = config.get("timeout")
    if isinstance(timeout, int | float) and not 0 < timeout <= LONGEST_TIMEOUT:
        reason = f"'timeout' must be more than 0 and at most {LONGEST_TIMEOUT} seconds."
        raise InvalidConfig(provider=provider_slug, reason=reason, attr="config")
    try:
        if isinstance(base_url := config.get("base_url", ""), str) and base_url:
            check_base_url(base_url)
    except UrlRefused as error:
        raise InvalidConfig(provider=provider_slug, reason=f"'base_url': {error}.", attr="config") from error
    try:
        get_provider_instance(provider_slug, "", config)
    except ProviderNotRegistered:
        return


def _is_storable(config: dict[str, Any]) -> bool:
    """Whether PostgreSQL's jsonb takes it, too."""
    try:
        json.dumps(config, ensure_ascii=False).encode()
        return "\\u0000" not in json.dumps(config, allow_nan=False)
    except (ValueError, RecursionError):
        return False
