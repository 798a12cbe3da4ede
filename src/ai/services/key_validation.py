"""Asking a provider about a key."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from src.ai.exceptions import NoAPIKeyAvailable, ProviderError
from src.ai.messages import AI_SUCCESS
from src.ai.models import AdminProviderSettings, AIProvider
from src.ai.providers.registry import get_provider_instance
from src.ai.services import execution
from src.core.loop import io_loop


class KeyStatus(StrEnum):
    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class KeyVerdict:
    """What the provider says of a key; `detail` is for the reader."""

    status: KeyStatus
    detail: str

    @property
    def valid(self) -> bool:
        return self.status is KeyStatus.ACCEPTED


def validate_shared_key(provider: AIProvider) -> KeyVerdict:
    """Ask the provider about the shared key.

    Raises:
        NoAPIKeyAvailable, KeyUnreadable: there is none to ask about.
    """
    return _validate(provider, provider.get_shared_api_key())


def validate_personal_key(own: AdminProviderSettings) -> KeyVerdict:
    """Ask the provider about an admin's own key. Raises as `validate_shared_key` does."""
    return _validate(own.provider, own.get_personal_api_key())


def _validate(provider: AIProvider, api_key: str) -> KeyVerdict:
    instance = get_provider_instance(provider.slug, api_key, provider.config_for())
    if not api_key and instance.requires_api_key:
        raise NoAPIKeyAvailable(provider_name=str(provider))
    try:
        accepted = io_loop.run(execution.execute("validate_api_key", instance))
    except ProviderError as error:
        return KeyVerdict(KeyStatus.UNKNOWN, str(AI_SUCCESS["key_unknown"]).format(reason=error.message))
    if accepted:
        return KeyVerdict(KeyStatus.ACCEPTED, str(AI_SUCCESS["key_accepted"]))
    return KeyVerdict(KeyStatus.REFUSED, str(AI_SUCCESS["key_refused"]))
