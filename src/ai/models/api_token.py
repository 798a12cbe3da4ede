"""Bearer tokens."""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from knox.models import AbstractAuthToken

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

    def record_use(self) -> None:
        """Note that the token was used now, to the minute."""
        now = timezone.now()
        if self.last_used_at is None or now - self.last_used_at >= LAST_USE_PRECISION:
            type(self).objects.filter(pk=self.pk).update(last_used_at=now)
