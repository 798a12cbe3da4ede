"""A stamp that changes whenever a provider, a model, an admin's settings, a token or an admin's rights do."""

from __future__ import annotations

from django.db import models

from src.core.cache.freshness import Freshness


class ConfigStamp(models.Model):
    """One row, written by database triggers alone (`src.ai.models.triggers`).

    A cached value carries the stamp it was read under and counts only while that is still the current one. Whoever
    changes the data, by whatever statement, in whichever process, has thereby dropped what was cached of it.
    """

    ONLY_ID = 1

    value = models.CharField(max_length=36)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.value


def _read_stamp() -> str | None:
    return ConfigStamp.objects.values_list("value", flat=True).first()


freshness = Freshness(read=_read_stamp, using=lambda: ConfigStamp.objects.db)
