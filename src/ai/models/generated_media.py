"""Images and audio that were kept."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from src.ai.models.ai_provider import AIModel
from src.core.models import BaseModel


def media_path(media: GeneratedMedia, filename: str) -> str:
    """Where a file is stored: by kind and month, under a name that can't be guessed."""
    extension = filename.rpartition(".")[2]
    return f"ai/{media.kind}/{timezone.now():%Y/%m}/{uuid.uuid4().hex}.{extension}"


class GeneratedMedia(BaseModel):
    """One stored image or piece of audio, and how it was made."""

    class Kind(models.TextChoices):
        IMAGE = "image", _("image")
        AUDIO = "audio", _("audio")

    kind = models.CharField(_("kind"), max_length=10, choices=Kind)
    file = models.FileField(_("file"), upload_to=media_path, max_length=255)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        related_name="ai_media",
        verbose_name=_("owner"),
    )
    model = models.ForeignKey(
        AIModel, models.SET_NULL, null=True, blank=True, related_name="+", verbose_name=_("model")
    )
    model_name = models.CharField(_("model name"), max_length=300, help_text=_("Stays when the model is deleted."))
    prompt = models.TextField(_("prompt"))
    title = models.CharField(_("title"), max_length=255, blank=True)
    alt_text = models.CharField(_("alternative text"), max_length=500, blank=True)
    mime_type = models.CharField(_("mime type"), max_length=100)
    size = models.PositiveBigIntegerField(_("size in bytes"))
    placeholder = models.BooleanField(_("placeholder"), default=False, help_text=_("Not made by a model."))

    class Meta:
        verbose_name = _("generated media")
        verbose_name_plural = _("generated media")
        ordering = ("-id",)

    def __str__(self) -> str:
        return self.title or self.prompt[:60]
