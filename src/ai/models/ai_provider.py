"""Providers, their models, and each admin's own settings: rows and their invariants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models, transaction
from django.db.models import OuterRef, Q, Subquery
from django.db.models.functions import Coalesce
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from src.ai.exceptions import KeyUnreadable
from src.ai.models.counted import Counted, CountedManager, FromBooks
from src.ai.models.encrypted_key import EncryptedAPIKeyMixin
from src.ai.models.usage import Period, UsagePeriod
from src.core.fields import EncryptedTextField
from src.core.models import BaseModel
from src.core.months import month_of
from src.core.net_guard import UrlRefused, check_base_url
from src.core.secrets import Undecryptable


def validate_base_url(value: str) -> None:
    """A URL that keys may be sent to."""
    try:
        check_base_url(value)
    except UrlRefused as error:
        raise ValidationError(str(error), code="url_refused") from error


class AIProvider(EncryptedAPIKeyMixin, Counted, BaseModel):
    """A vendor: which class speaks to it is the registry's, how it is set up is here."""

    api_key_field = "shared_api_key"

    slug = models.SlugField(_("slug"), unique=True, help_text=_("The name the provider's class is registered under."))
    name = models.CharField(_("name"), max_length=100)
    display_name = models.CharField(_("display name"), max_length=200, blank=True)
    description = models.TextField(_("description"), blank=True)
    website = models.URLField(_("website"), blank=True)
    api_base_url = models.URLField(
        _("API base URL"),
        blank=True,
        validators=[validate_base_url],
        help_text=_("Replaces the vendor's own: a compatible server or a company proxy."),
    )
    shared_api_key = EncryptedTextField(_("shared API key"), blank=True, default="")
    allow_personal_keys = models.BooleanField(_("admins may use their own key"), default=True)
    allow_shared_for_normal_admins = models.BooleanField(_("normal admins may use the shared key"), default=False)
    default_monthly_limit = models.PositiveIntegerField(
        _("monthly limit of admins without settings"),
        null=True,
        blank=True,
        help_text=_("Requests a month. Empty: none."),
    )
    shared_monthly_budget = models.DecimalField(
        _("monthly budget of the shared key"),
        max_digits=14,
        decimal_places=6,
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text=_("US$ a month, over all admins. Empty: no limit."),
    )
    config = models.JSONField(_("configuration"), default=dict, blank=True)
    sort_order = models.IntegerField(_("order"), default=0)

    objects = CountedManager["AIProvider"]()

    class Meta:
        verbose_name = _("AI provider")
        verbose_name_plural = _("AI providers")
        ordering = ("sort_order", "id")

    def __str__(self) -> str:
        return self.display_name or self.name

    @classmethod
    def usage_match(cls) -> Mapping[str, Any]:
        return {"scope": UsagePeriod.Scope.PROVIDER, "provider": OuterRef("pk")}

    def period(self, month: date) -> Period:
        return Period.of_provider(self.pk, self.slug, month=month)

    def config_for(self, model: AIModel | None = None) -> dict[str, Any]:
        """What the provider's class is configured with: a model's own `config` wins, the base URL is this row's."""
        base_url = {"base_url": self.api_base_url} if self.api_base_url else {}
        return {**self.config, **(model.config if model else {}), **base_url}

    def get_shared_api_key(self) -> str:
        """The plain shared key; empty where none is set. Raises `KeyUnreadable`."""
        return _reveal(self, self)


@dataclass(frozen=True, slots=True)
class Activation:
    """What activating a model changed beside it."""

    deactivated: tuple[AIModel, ...] = ()
    uncovered: tuple[str, ...] = field(default=())  # capabilities of the provider left with no active model


class AIModelManager(CountedManager["AIModel"]):
    """Finds and keeps the one active model of each provider and capability."""

    def get_active_model(self, provider_slug: str, capability: str) -> AIModel | None:
        """The provider's active model for the capability, or None (also where the provider is off)."""
        return self.active_for(capability).filter(provider__slug=provider_slug).first()

    def active_for(self, capability: str) -> models.QuerySet[AIModel]:
        """The active models for the capability, in the order in which they are tried."""
        return (
            self.select_related("provider")
            .filter(
                capability_rows__capability=capability,
                capability_rows__is_active=True,
                provider__is_active=True,
            )
            .order_by("provider__sort_order", "sort_order", "id")
        )

    def deactivate_other_models(
        self, provider_id: int, capability: str | Iterable[str], exclude_id: int | None = None
    ) -> list[AIModel]:
        """Deactivate the provider's active models that have the capability (or any of several); returns them."""
        wanted = [capability] if isinstance(capability, str) else list(capability)
        others = list(
            self.filter(provider_id=provider_id, is_active=True, capability_rows__capability__in=wanted)
            .exclude(pk__in=() if exclude_id is None else (exclude_id,))
            .distinct()
        )
        self.filter(pk__in=[model.pk for model in others]).update(is_active=False, updated_at=timezone.now())
        return others


CAPABILITY_LENGTH = 100


def validate_capabilities(value: object) -> None:
    """A list of distinct, non-empty names. The set is open."""
    names = value if isinstance(value, list) else None
    if names is None or not all(isinstance(name, str) and _is_name(name) for name in names):
        raise ValidationError(_('Give a list of capability names, such as ["chat", "content"].'), code="invalid")
    if len(set(names)) != len(names):
        raise ValidationError(_("Each capability may be listed once."), code="invalid")


def _is_name(name: str) -> bool:
    return name.strip() == name != "" and len(name) <= CAPABILITY_LENGTH and name.isprintable()


class AIModel(Counted, BaseModel):
    """A vendor's model. At most one is active per provider and capability; the database sees to it (`ModelCapability`).

    Saving with `is_active=True` deactivates the siblings that share a capability; `activation` then tells which.
    """

    provider = models.ForeignKey(AIProvider, models.CASCADE, related_name="models", verbose_name=_("provider"))
    name = models.CharField(_("name"), max_length=200)
    display_name = models.CharField(_("display name"), max_length=200, blank=True)
    model_id = models.CharField(_("model id"), max_length=200, help_text=_("The provider's own id of the model."))
    description = models.TextField(_("description"), blank=True)
    capabilities = models.JSONField(_("capabilities"), default=list, validators=[validate_capabilities])
    is_active = models.BooleanField(_("active"), default=False)
    pricing_input = models.DecimalField(
        _("input price"),
        max_digits=14,
        decimal_places=6,
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text=_("US$ per 1M tokens. Empty: unknown. 0: free."),
    )
    pricing_output = models.DecimalField(
        _("output price"),
        max_digits=14,
        decimal_places=6,
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text=_("US$ per 1M tokens. Empty: unknown. 0: free."),
    )
    context_window = models.PositiveIntegerField(_("context window"), null=True, blank=True, help_text=_("Tokens."))
    max_tokens = models.PositiveIntegerField(_("max output tokens"), null=True, blank=True)
    config = models.JSONField(_("configuration"), default=dict, blank=True)
    sort_order = models.IntegerField(_("order"), default=0)
    gone_since = models.DateTimeField(
        _("not listed since"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("When a sync first found that the provider's own list does not have this model."),
    )
    # Field → the value that a sync or the seed wrote: what differs from it was set by hand and is never overwritten.
    synced = models.JSONField(_("last synced values"), default=dict, blank=True, editable=False)

    objects = AIModelManager()
    activation = Activation()

    class Meta:
        verbose_name = _("AI model")
        verbose_name_plural = _("AI models")
        ordering = ("provider__sort_order", "sort_order", "id")
        constraints = (models.UniqueConstraint(fields=["provider", "model_id"], name="ai_model_unique_per_provider"),)
        indexes = (
            models.Index(fields=["provider", "is_active", "sort_order"], name="ai_model_provider_active"),
            models.Index(fields=["is_active", "sort_order"], name="ai_model_active"),
        )

    def __str__(self) -> str:
        return self.display_name or self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save; where that makes the model active, in one transaction with deactivating its siblings."""
        written = kwargs.get("update_fields")
        if not self.is_active or (written is not None and not {"is_active", "capabilities", "provider"} & set(written)):
            self.activation = Activation()
            super().save(*args, **kwargs)
            return
        with transaction.atomic(using=kwargs.get("using") or self._state.db or None):
            self.activation = self._make_room()
            super().save(*args, **kwargs)

    @property
    def is_free(self) -> bool:
        """Costs nothing at all; an unknown price is not free."""
        return self.pricing_input == 0 and self.pricing_output == 0

    @classmethod
    def usage_match(cls) -> Mapping[str, Any]:
        return {"scope": UsagePeriod.Scope.MODEL, "model": OuterRef("pk")}

    def period(self, month: date) -> Period:
        return Period.of_model(self.provider_id, self.pk, self.provider.slug, self.model_id, month=month)

    def has_capability(self, capability: str) -> bool:
        return capability in self.capabilities

    def _make_room(self) -> Activation:
        # One activation at a time for each provider; NO KEY, as rows that refer to the provider need not wait.
        AIProvider.objects.select_for_update(no_key=True).filter(pk=self.provider_id).first()
        others = AIModel.objects.deactivate_other_models(self.provider_id, self.capabilities, exclude_id=self.pk)
        return Activation(deactivated=tuple(others), uncovered=self._uncovered_by(others))

    def _uncovered_by(self, others: Sequence[AIModel]) -> tuple[str, ...]:
        lost = {capability for other in others for capability in other.capabilities} - set(self.capabilities)
        served = ModelCapability.objects.filter(provider_id=self.provider_id, is_active=True)
        return tuple(sorted(lost - set(served.values_list("capability", flat=True))))


class ModelCapability(models.Model):
    """One row per model and capability, written by database triggers alone (`src.ai.models.triggers`).

    It makes the JSON list of capabilities searchable by an index, and its unique constraint is what no write to
    `AIModel` gets round: one active model per provider and capability.
    """

    model = models.ForeignKey(AIModel, models.CASCADE, related_name="capability_rows")
    provider = models.ForeignKey(AIProvider, models.CASCADE, related_name="+")
    capability = models.CharField(max_length=CAPABILITY_LENGTH)
    is_active = models.BooleanField()

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["model", "capability"], name="ai_capability_once_per_model"),
            models.UniqueConstraint(
                fields=["provider", "capability"], condition=Q(is_active=True), name="ai_one_active_model"
            ),
        )
        indexes = (models.Index(fields=["capability", "provider"], name="ai_capability_lookup"),)

    def __str__(self) -> str:
        return f"{self.capability} ({self.model_id})"


class AdminProviderSettings(EncryptedAPIKeyMixin, Counted, BaseModel):
    """One admin's own key and limits at one provider."""

    api_key_field = "personal_api_key"

    admin = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="ai_settings", verbose_name=_("admin")
    )
    provider = models.ForeignKey(AIProvider, models.CASCADE, related_name="admin_settings", verbose_name=_("provider"))
    personal_api_key = EncryptedTextField(_("personal API key"), blank=True, default="")
    use_shared_api = models.BooleanField(_("use the shared key"), default=True)
    monthly_limit = models.PositiveIntegerField(
        _("monthly limit"), null=True, blank=True, help_text=_("Requests a month. Empty: no limit.")
    )
    monthly_budget = models.DecimalField(
        _("monthly budget"),
        max_digits=14,
        decimal_places=6,
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text=_("US$ a month. Empty: no limit."),
    )

    monthly_usage = FromBooks(0)

    objects = CountedManager["AdminProviderSettings"]()

    class Meta:
        verbose_name = _("admin's provider settings")
        verbose_name_plural = _("admins' provider settings")
        ordering = ("provider__sort_order", "id")
        constraints = (models.UniqueConstraint(fields=["admin", "provider"], name="ai_settings_unique_per_admin"),)

    def __str__(self) -> str:
        return f"{self.admin} · {self.provider}"

    def get_personal_api_key(self) -> str:
        """The plain personal key; empty where none is set. Raises `KeyUnreadable`."""
        return _reveal(self, self.provider)

    @property
    def is_limited(self) -> bool:
        """Whether a superuser has set a limit, which these settings then protect."""
        return self.monthly_limit is not None or self.monthly_budget is not None

    @property
    def limit_reached(self) -> bool:
        return self.monthly_limit is not None and self.monthly_usage >= self.monthly_limit

    @classmethod
    def usage_match(cls) -> Mapping[str, Any]:
        return {"scope": UsagePeriod.Scope.ADMIN, "admin": OuterRef("admin"), "provider": OuterRef("provider")}

    @classmethod
    def usage_annotations(cls) -> dict[str, Any]:
        this_month = UsagePeriod.objects.filter(**cls.usage_match(), month=month_of().first)
        usage = Coalesce(Subquery(this_month.values("requests")[:1]), 0)
        return {**super().usage_annotations(), "monthly_usage": usage}

    def period(self, month: date) -> Period:
        names = (self.provider.slug, self.admin.get_username())
        return Period.of_admin(self.provider_id, self.admin_id, *names, month=month)


def _reveal(row: EncryptedAPIKeyMixin, provider: AIProvider) -> str:
    try:
        return row.reveal_api_key()
    except Undecryptable:
        raise KeyUnreadable(provider_name=str(provider)) from None
