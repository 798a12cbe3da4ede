"""Requests that must run once."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _


class IdempotencyKey(models.Model):
    """A request that one admin sent under one key: first its lock, then its answer.

    Whoever inserts the row runs the request. Past `expires_at` the row counts as absent: for one that is still running
    this is the end of its lease, for an answer the end of its keeping. `src.ai.services.idempotency` writes it.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    admin = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.CASCADE,
        related_name="+",
        db_index=False,  # the constraint's index begins with it
        verbose_name=_("admin"),
    )
    key = models.CharField(_("key"), max_length=255)
    fingerprint = models.CharField(_("fingerprint"), max_length=64)
    answer = models.TextField(_("answer"), blank=True, help_text=_("Encrypted; empty while the request is running."))
    expires_at = models.DateTimeField(_("expires at"), db_index=True)

    class Meta:
        verbose_name = _("idempotency key")
        verbose_name_plural = _("idempotency keys")
        default_permissions = ()
        constraints = (models.UniqueConstraint(fields=["admin", "key"], name="ai_idempotency_key_once"),)

    def __str__(self) -> str:
        return self.key
