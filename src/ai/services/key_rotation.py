"""Putting every stored API key under today's `SECRET_KEY`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from django.apps import apps
from django.db import transaction

from src.ai.models import EncryptedAPIKeyMixin
from src.core.secrets import Undecryptable


class Rotation(StrEnum):
    """What became of one key."""

    ROTATED = "rotated"
    CURRENT = "current"  # already under today's SECRET_KEY
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class KeyRotation:
    """One stored key and what became of it; as a text, whose it is."""

    row: EncryptedAPIKeyMixin
    outcome: Rotation

    def __str__(self) -> str:
        row = self.row
        return f"{row._meta.verbose_name} {row.pk} ({row}), {row._api_key_field.verbose_name}"


def rotate_keys(*, dry_run: bool = False) -> Iterator[KeyRotation]:
    """Re-encrypt each stored key, in a transaction of its own; yields what became of it.

    Args:
        dry_run: write nothing and say what would become of it.

    A row that is changed or deleted meanwhile is read again under a lock; only its key column is written.
    """
    for model in apps.get_models():
        if not issubclass(model, EncryptedAPIKeyMixin):
            continue
        rows = model._default_manager.exclude(**{model.api_key_field: ""}).order_by("pk")
        for pk in rows.values_list("pk", flat=True):
            if (rotation := _rotate(model, pk, dry_run)) is not None:
                yield rotation


def _rotate(model: type[EncryptedAPIKeyMixin], pk: int, dry_run: bool) -> KeyRotation | None:
    with transaction.atomic():
        rows = model._default_manager.all() if dry_run else model._default_manager.select_for_update(no_key=True)
        row = rows.filter(pk=pk).first()
        if row is None or not getattr(row, model.api_key_field):
            return None
        try:
            changed = row.rotate_api_key()
        except Undecryptable:
            return KeyRotation(row, Rotation.UNREADABLE)
        if changed and not dry_run:
            row.save(update_fields=[model.api_key_field])
        return KeyRotation(row, Rotation.ROTATED if changed else Rotation.CURRENT)
