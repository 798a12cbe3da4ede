"""API keys on a row: encrypted at rest, given back only on purpose."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import cast

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.utils.formats import date_format
from django.utils.timezone import localtime
from django.utils.translation import gettext as _

from src.ai.models.config_stamp import freshness
from src.core import secrets
from src.core.cache.freshness import Memory
from src.core.cache.namespaces import CacheSize, CacheTTL
from src.core.fields import Ciphertext, EncryptedTextField

# In this process's memory and nowhere else. A ciphertext opens to one key under any stamp: a new one only empties this.
_plain_keys: Memory[str] = freshness.memory(size=CacheSize.PLAIN_KEYS, lifetime=CacheTTL.AI)
_ANY_STAMP = ""

SHORTEST_KEY_WITH_ENDING = 16  # four characters of a shorter key would give too much of it away


def validate_key(value: str) -> None:
    """A key travels in an HTTP header: no spaces, no letters that a header can't carry."""
    if not (value.isascii() and value.isprintable()) or " " in value:
        message = _("This is no API key: it holds spaces or characters that no key has. Copy it again.")
        raise ValidationError(message, code="invalid_key")


class KeyState(StrEnum):
    UNSET = "unset"
    SET = "set"
    UNREADABLE = "key_unreadable"


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What may be shown of a key."""

    state: KeyState
    ending: str = ""
    set_at: datetime | None = None

    def __str__(self) -> str:
        if self.state is KeyState.UNSET:
            return _("not set")
        if self.state is KeyState.UNREADABLE:
            return _("can't be decrypted: enter it again")
        parts = [_("set")]
        if self.ending:
            parts.append(_("ends …{ending}").format(ending=self.ending))
        if self.set_at:
            parts.append(_("set on {date}").format(date=date_format(localtime(self.set_at))))
        return " · ".join(parts)


class EncryptedAPIKeyMixin(models.Model):
    """A row with an encrypted API key in the field that `api_key_field` names.

    Assign a plain key and save; only the subclass's `get_…_api_key()` gives it back.
    """

    api_key_field: str

    class Meta:
        abstract = True

    @property
    def key_info(self) -> KeyInfo:
        """What may be shown of the stored key."""
        field = self._api_key_field
        value = getattr(self, field.attname)
        if not value:
            return KeyInfo(KeyState.UNSET)
        if not isinstance(value, Ciphertext):
            return KeyInfo(KeyState.SET)
        try:
            plain = field.reveal(self)
            set_at = secrets.encrypted_at(value, context=field.context(self))
        except secrets.Undecryptable:
            return KeyInfo(KeyState.UNREADABLE)
        return KeyInfo(KeyState.SET, plain[-4:] if len(plain) >= SHORTEST_KEY_WITH_ENDING else "", set_at)

    def reveal_api_key(self) -> str:
        """The plain key; empty where none is set. Raises `Undecryptable`."""
        field = self._api_key_field
        value: str = getattr(self, field.attname)
        if not isinstance(value, Ciphertext):
            return value or ""
        # The hash: an error report shows local variables.
        kept_as = (value, field.context(self), hash((settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)))
        plain: str | None = _plain_keys.get(kept_as, _ANY_STAMP, None)
        if plain is None:
            plain = field.reveal(self)
            _plain_keys.put(kept_as, _ANY_STAMP, plain)
        return plain

    def rotate_api_key(self) -> bool:
        """Re-encrypt under today's `SECRET_KEY`, unsaved; whether that changed anything. Raises `Undecryptable`."""
        field = self._api_key_field
        value: str = getattr(self, field.attname)
        if not value:
            return False
        rotated = secrets.rotate(value, context=field.context(self))
        setattr(self, field.attname, Ciphertext(rotated))
        return rotated != value

    @property
    def _api_key_field(self) -> EncryptedTextField:
        return cast(EncryptedTextField, self._meta.get_field(self.api_key_field))
