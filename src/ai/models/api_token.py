"""Bearer tokens."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q, Value
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from knox.models import AbstractAuthToken

from src.ai.models.ai_provider import validate_capabilities
from src.core.cache.writes import bookkeeping

# A write per request would cost more than it tells.
LAST_USE_PRECISION = timedelta(minutes=1)
MOST_REQUESTS_PER_MINUTE = 1_000_000
MOST_CONCURRENT_REQUESTS = 100_000
MOST_MODELS = 1_000  # that one token names
LONGEST_MODEL = 251  # a slug, a slash, a model id


def validate_token_models(value: object) -> None:
    """A list of distinct names "provider-slug/model-id", or "provider-slug/*" for all models of a provider."""
    names = value if isinstance(value, list) else None
    if names is None or not all(isinstance(name, str) and _is_model_name(name) for name in names):
        message = _('Give a list of models, each as "provider-slug/model-id" or "provider-slug/*".')
        raise ValidationError(message, code="invalid")
    if len(set(names)) != len(names):
        raise ValidationError(_("Each model may be listed once."), code="invalid")
    if len(names) > MOST_MODELS:
        message = _("A token names at most %(count)d models. To allow all of a provider's, give “provider-slug/*”.")
        raise ValidationError(message, code="max_length", params={"count": MOST_MODELS})


def _is_model_name(name: str) -> bool:
    slug, _slash, model_id = name.partition("/")
    whole = slug.strip() == slug != "" and model_id.strip() == model_id != ""
    return whole and len(name) <= LONGEST_MODEL and name.isprintable()


def _list_field(label: Any, **options: Any) -> Any:
    empty = Value([], output_field=models.JSONField())
    return models.JSONField(label, default=list, db_default=empty, blank=True, **options)


class APIToken(AbstractAuthToken):  # type: ignore[misc]  # knox ships no types
    """A named token of one user; only its SHA-512 digest is stored. What is set of its rules narrows the user's rights.

    `APIToken.objects.create(user=…, name=…, expiry=timedelta | None)` returns the row and, this once, the token.
    """

    name = models.CharField(_("name"), max_length=100, blank=True, help_text=_("Where it is used, to know it again."))
    last_used_at = models.DateTimeField(_("last used at"), null=True, blank=True, editable=False)
    capabilities = _list_field(
        _("capabilities"),
        validators=[validate_capabilities],
        help_text=_("What it may be used for. Empty: everything."),
    )
    requests_per_minute = models.PositiveIntegerField(
        _("requests per minute"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(MOST_REQUESTS_PER_MINUTE)],
        help_text=_("In any 60 seconds. Empty: no limit."),
    )
    concurrent_requests = models.PositiveIntegerField(
        _("requests at once"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(MOST_CONCURRENT_REQUESTS)],
        help_text=_("Empty: no limit."),
    )
    monthly_budget = models.DecimalField(
        _("monthly budget"),
        max_digits=14,
        decimal_places=6,
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text=_("US$ a month, over all providers, from when it is set. Empty: no limit."),
    )
    # Last, as its name hides the module's from what follows in this body.
    models = _list_field(
        _("models"),
        validators=[validate_token_models],
        help_text=_("Each as “provider-slug/model-id”, or “provider-slug/*” for all of a provider. Empty: all."),
    )

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
