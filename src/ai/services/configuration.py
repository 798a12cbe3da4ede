"""Whether a provider's or a model's `config` is one that the provider's class understands."""

from __future__ import annotations

import json
from typing import Any

from src.ai.exceptions import InvalidConfig, ProviderNotRegistered
from src.ai.providers.registry import get_provider_instance


def check_config(provider_slug: str, config: Any) -> None:
    """See that `config` is an object with keys that the provider knows. A provider not installed here can't object.

    Raises:
        InvalidConfig: it is not; the message names the known keys.
    """
    if not isinstance(config, dict):
        raise InvalidConfig(provider=provider_slug, reason="it must be a JSON object.", attr="config")
    if not _is_storable(config):
        raise InvalidConfig(provider=provider_slug, reason="it holds NaN, Infinity or a null character.", attr="config")
    try:
        get_provider_instance(provider_slug, "", config)
    except ProviderNotRegistered:
        return


def _is_storable(config: dict[str, Any]) -> bool:
    """Whether PostgreSQL's jsonb takes it, too."""
    try:
        return "\\u0000" not in json.dumps(config, allow_nan=False)
    except ValueError:
        return False
