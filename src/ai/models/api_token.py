"""Bearer tokens."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from knox.models import AbstractAuthToken

from src.core.cache.writes import bookkeeping

# A write per request would cost more than it tells.
LAST_USE_PRECISION = timedelta(minutes=1)


class APIToken(AbstractAuthToken):  # type: ignore[misc]  # knox ships no types
    """A named token of one user; only its SHA-512 digest is stored.

    `APIToken.objects.create(user=…, name=…, expiry=timedelta | None)` returns the row and, this once, the token.
    """

    name = models.CharField(_("name"), max_length=100, blank=True, help_text=_("Where it is used, to know it again."))
    last_used_at = models.DateTimeField(_("last used at"), null=True, blank=True, editable=False)

    class Meta:
        verbose_name = _("API token")
        verbose_name_plural = _("API tokens")
        ordering = ("-created",)

    def __str__(self) -> str:
        return f"{self.name or _('unnamed')} · {self.token_key}…"

    @property
    def is_expired(self) -> bool:
        return self.expiry is not None and self.expiry <= timezone.now()

    @property
    def use_is_to_be_noted(self) -> bool:
        """Whether a minute has passed since its use was noted."""
        return self.last_used_at is None or timezone.now() - self.last_used_at >= LAST_USE_PRECISION

    def record_use(self) -> bool:
        """Note that the token was used now, to the minute, unless another process has; whether it was time to."""
        if not self.use_is_to_be_noted:
            return False
        now = timezone.now()
        unnoted = Q(last_used_at=None) | Q(last_used_at__lte=now - LAST_USE_PRECISION)
        with bookkeeping():
            type(self).objects.filter(unnoted, pk=self.pk).update(last_used_at=now)
        self.last_used_at = now
        return True


def access_fields() -> list[models.Field[Any, Any]]:
    """The columns that decide what a user may do, as far as they are in the user model's own table.

    They are what is kept of a user in memory. Everything else about one is read from the database when it is asked for.
    Empty where `is_staff` is none of them: then nothing is kept.
    """
    user_model = get_user_model()
    names = {"is_active", "is_staff", "is_superuser", user_model.USERNAME_FIELD}
    fields = [field for field in user_model._meta.local_concrete_fields if field.name in names]
    return fields if any(field.name == "is_staff" for field in fields) else []
