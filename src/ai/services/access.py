"""Who may use what, and whose key pays."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from django.contrib.auth.models import AbstractUser

from src.ai.exceptions import AdminRequired, NoAPIKeyAvailable, SharedKeyNotAllowed
from src.ai.models import AdminProviderSettings, AIModel, AIProvider
from src.ai.providers.registry import AIProviderRegistry


class KeySource(StrEnum):
    """Whose key pays."""

    PERSONAL = "personal"
    SHARED = "shared"
    NONE_NEEDED = "none_needed"  # the provider asks for no key


class ModelAccessState(StrEnum):
    """What an admin can do with a model."""

    AVAILABLE_PERSONAL = "available_personal"
    AVAILABLE_SHARED = "available_shared"
    NO_ACCESS = "no_access"
    DISABLED = "disabled"

    @classmethod
    def calculate(cls, *, model: AIModel, admin: AbstractUser, own: AdminProviderSettings | None) -> Self:
        """The state of `model` for `admin`, whose settings at the model's provider are `own`."""
        if not (model.is_active and model.provider.is_active):
            return cls(cls.DISABLED)
        return cls.of_provider(provider=model.provider, admin=admin, own=own)

    @classmethod
    def of_provider(cls, *, provider: AIProvider, admin: AbstractUser, own: AdminProviderSettings | None) -> Self:
        """The state of any active model of `provider` for `admin`."""
        if not provider.is_active or provider.slug not in AIProviderRegistry().get_registered_names():
            return cls(cls.DISABLED)
        try:
            source = choose_key_source(provider=provider, admin=admin, own=own)
        except (SharedKeyNotAllowed, NoAPIKeyAvailable):
            return cls(cls.NO_ACCESS)
        return cls(cls.AVAILABLE_PERSONAL if source is KeySource.PERSONAL else cls.AVAILABLE_SHARED)

    @property
    def is_available(self) -> bool:
        return self in (ModelAccessState.AVAILABLE_PERSONAL, ModelAccessState.AVAILABLE_SHARED)


def choose_key_source(*, provider: AIProvider, admin: AbstractUser, own: AdminProviderSettings | None) -> KeySource:
    """Whose key pays for this admin's calls: their own, else the shared one if they may, else an error.

    Raises:
        SharedKeyNotAllowed: only the shared key is left, and it is not for normal admins.
        NoAPIKeyAvailable: no key is set, or the admin has switched the shared one off.
    """
    if own is not None and own.is_active and own.personal_api_key and provider.allow_personal_keys:
        return KeySource.PERSONAL
    if not AIProviderRegistry().get(provider.slug).requires_api_key:
        return KeySource.NONE_NEEDED
    if own is not None and not own.use_shared_api:
        raise NoAPIKeyAvailable(provider_name=str(provider))
    if not (admin.is_superuser or provider.allow_shared_for_normal_admins):
        raise SharedKeyNotAllowed(provider_name=str(provider))
    if not provider.shared_api_key:
        raise NoAPIKeyAvailable(provider_name=str(provider))
    return KeySource.SHARED


@dataclass(frozen=True, slots=True)
class KeyChoice:
    """The key of one call."""

    source: KeySource
    api_key: str

    def __repr__(self) -> str:
        return f"KeyChoice({self.source})"


def choose_key(*, provider: AIProvider, admin: AbstractUser, own: AdminProviderSettings | None) -> KeyChoice:
    """The key this admin's call will use, decrypted.

    Raises:
        SharedKeyNotAllowed, NoAPIKeyAvailable: see `choose_key_source`.
        KeyUnreadable: the key that would pay can't be decrypted. The other key does not step in unasked.
    """
    source = choose_key_source(provider=provider, admin=admin, own=own)
    if source is KeySource.PERSONAL and own is not None:
        return KeyChoice(source, own.get_personal_api_key())
    return KeyChoice(source, provider.get_shared_api_key() if source is KeySource.SHARED else "")


def check_admin(admin: AbstractUser | None) -> AbstractUser:
    """`admin`, if AI may be used on their behalf.

    Raises:
        AdminRequired: not a saved, active staff user.
    """
    if admin is None or not getattr(admin, "pk", None) or not (admin.is_active and admin.is_staff):
        raise AdminRequired(attr="admin")
    return admin
