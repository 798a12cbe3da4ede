"""The books: a record per call to a vendor, and what the records of a month add up to.

Rows here are written by `src.ai.services.ledger` alone, and point at admins, models and providers without a foreign-key
constraint: deleting one of those loses no history, and writing here waits for no lock of theirs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import date
from functools import lru_cache
from typing import Any, Self

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from src.core.fields import EncryptedTextField, FixedPointField
from src.core.ids import uuid7
from src.core.months import month_name

MONEY_PLACES = 12  # a token at a price with six places per million costs a whole number of 10⁻¹² US$


class UsageState(models.TextChoices):
    RESERVED = "reserved", _("under way")  # the vendor may be working on it now
    SETTLED = "settled", _("settled")
    FAILED = "failed", _("failed")
    UNKNOWN = "unknown", _("unknown")  # nobody came back to tell


class CostState(models.TextChoices):
    EXACT = "exact", _("exact")  # the vendor's own figure, or units it reported at a known price
    ESTIMATED = "estimated", _("estimated")  # units or price are partly our guess
    UNKNOWN = "unknown", _("unknown")


def money_field(label: Any, **options: Any) -> Any:
    """An amount in US$."""
    return FixedPointField(label, decimal_places=MONEY_PLACES, **options)


def _reference(to: str, label: Any) -> Any:
    return models.ForeignKey(
        to, models.DO_NOTHING, db_constraint=False, db_index=False, null=True, related_name="+", verbose_name=label
    )


class UsageRecord(models.Model):
    """One call to a vendor, retries being calls of their own. `None` is what nobody knows; zero is a measurement."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    created_at = models.DateTimeField(_("reserved at"))
    month = models.DateField(_("month"), help_text=_("The first day of the accounting month."))
    state = models.CharField(_("state"), max_length=8, choices=UsageState, default=UsageState.RESERVED)

    admin = _reference(settings.AUTH_USER_MODEL, _("admin"))
    admin_name = models.CharField(_("admin's name"), max_length=150)
    token = models.CharField(_("token"), max_length=25, blank=True, help_text=_("The first characters of it."))
    # What a period of a token is recomputed from: `token`, if it had a budget when the call was made.
    budget_token = models.CharField(
        _("token whose budget paid"), max_length=25, blank=True, default="", db_default="", editable=False
    )
    key_source = models.CharField(_("whose key"), max_length=12)
    provider = _reference("ai.AIProvider", _("provider"))
    provider_slug = models.CharField(_("provider's slug"), max_length=50)
    model = _reference("ai.AIModel", _("model"))
    model_name = models.CharField(_("model id"), max_length=200)
    capability = models.CharField(_("capability"), max_length=100)
    operation = models.CharField(_("operation"), max_length=100)
    request_id = models.CharField(_("request id"), max_length=128, blank=True)
    streamed = models.BooleanField(_("streamed"), default=False)

    input_tokens = models.BigIntegerField(_("input tokens"), null=True)
    output_tokens = models.BigIntegerField(_("output tokens"), null=True)
    cache_read_tokens = models.BigIntegerField(_("cached input tokens"), null=True)
    reasoning_tokens = models.BigIntegerField(_("reasoning tokens"), null=True)
    images = models.BigIntegerField(_("images"), null=True)
    characters = models.BigIntegerField(_("characters"), null=True)
    audio_seconds = FixedPointField(_("seconds of audio"), decimal_places=3, null=True)

    requests = models.SmallIntegerField(
        _("requests"), default=0, help_text=_("What it counts for in a limit; all calls of one request count once.")
    )
    cost = money_field(_("cost"), null=True, help_text=_("US$. Empty: unknown."))
    cost_state = models.CharField(
        _("certainty of the cost"), max_length=9, choices=CostState, default=CostState.UNKNOWN
    )
    held_cost = money_field(
        _("held for it"), default=0, help_text=_("US$ that were set aside before the vendor was called.")
    )
    price_input = models.DecimalField(_("input price"), max_digits=14, decimal_places=6, null=True)
    price_output = models.DecimalField(_("output price"), max_digits=14, decimal_places=6, null=True)

    latency_ms = models.IntegerField(_("latency in ms"), null=True)
    first_chunk_ms = models.IntegerField(_("first chunk after ms"), null=True)
    finish_reason = models.CharField(_("finish reason"), max_length=50, blank=True)
    error_code = models.CharField(_("error code"), max_length=50, blank=True)
    response_id = models.CharField(_("vendor's id of the answer"), max_length=128, blank=True)
    lease_expires_at = models.DateTimeField(_("lease ends"))
    settled_at = models.DateTimeField(_("settled at"), null=True)

    class Meta:
        verbose_name = _("usage record")
        verbose_name_plural = _("usage records")
        ordering = ("-id",)
        default_permissions = ("view",)
        indexes = (
            models.Index(fields=["created_at"], name="ai_usage_created"),
            models.Index(fields=["admin", "created_at"], name="ai_usage_admin"),
            models.Index(fields=["provider", "created_at"], name="ai_usage_provider"),
            models.Index(fields=["model", "created_at"], name="ai_usage_model"),
            models.Index(fields=["budget_token", "created_at"], name="ai_usage_token", condition=~Q(budget_token="")),
            models.Index(fields=["request_id"], name="ai_usage_request", condition=~Q(request_id="")),
            models.Index(fields=["state", "created_at"], name="ai_usage_open", condition=~Q(state="settled")),
        )

    def __str__(self) -> str:
        return f"{self.model_name} · {self.admin_name} · {self.created_at:%Y-%m-%d %H:%M:%S}"


class UsageText(models.Model):
    """What was asked and answered in one call, where `AI_STORE_TEXTS` says that it is kept. Encrypted."""

    public_id = models.UUIDField(primary_key=True, editable=False, help_text=_("The usage record's id."))
    prompt = EncryptedTextField(_("prompt"), blank=True)
    reply = EncryptedTextField(_("reply"), blank=True)

    class Meta:
        verbose_name = _("text of a call")
        verbose_name_plural = _("texts of calls")
        default_permissions = ("view", "delete")

    def __str__(self) -> str:
        return str(self.public_id)


class UsageSums(models.Model):
    """What records add up to. `held_…` is what calls under way may still cost."""

    requests = models.BigIntegerField(_("requests"), default=0)
    held_requests = models.BigIntegerField(_("requests under way"), default=0)
    cost = money_field(_("cost"), default=0, help_text=_("US$."))
    held_cost = money_field(_("held"), default=0, help_text=_("US$."))
    unpriced = models.BigIntegerField(_("calls of unknown cost"), default=0)
    input_tokens = models.BigIntegerField(_("input tokens"), default=0)
    output_tokens = models.BigIntegerField(_("output tokens"), default=0)
    cache_read_tokens = models.BigIntegerField(_("cached input tokens"), default=0)
    reasoning_tokens = models.BigIntegerField(_("reasoning tokens"), default=0)
    images = models.BigIntegerField(_("images"), default=0)
    characters = models.BigIntegerField(_("characters"), default=0)
    audio_seconds = FixedPointField(_("seconds of audio"), decimal_places=3, default=0)

    class Meta:
        abstract = True


class UsagePeriod(UsageSums):
    """One month of one admin at one provider, of a provider, of its shared key, of a model, or of a token.

    A new month is a new row; nothing is ever reset. `requests` counts the calls that were charged. A token's row counts
    the calls that were made while it had a budget, over all providers: it names no provider.
    """

    class Scope(models.TextChoices):
        ADMIN = "admin", _("admin at provider")
        PROVIDER = "provider", _("provider")
        SHARED_KEY = "shared_key", _("shared key of provider")
        MODEL = "model", _("model")
        TOKEN = "token", _("token with a budget")

    # "scope:id[:id]:month". The books lock rows in the order of their keys, so that no two processes wait in a circle.
    key = models.CharField(max_length=100, primary_key=True)
    scope = models.CharField(_("kind"), max_length=10, choices=Scope)
    month = models.DateField(_("month"))
    provider = _reference("ai.AIProvider", _("provider"))
    provider_slug = models.CharField(_("provider's slug"), max_length=50)
    admin = _reference(settings.AUTH_USER_MODEL, _("admin"))
    admin_name = models.CharField(_("admin's name"), max_length=150, blank=True)
    model = _reference("ai.AIModel", _("model"))
    model_name = models.CharField(_("model id"), max_length=200, blank=True)
    token = models.CharField(_("token"), max_length=25, blank=True, default="", db_default="")
    last_used_at = models.DateTimeField(_("last used at"), null=True)
    near_limit_at = models.DateTimeField(_("near its limit since"), null=True)

    class Meta:
        verbose_name = _("usage of a month")
        verbose_name_plural = _("usage by month")
        ordering = ("-month", "key")
        default_permissions = ("view",)
        indexes = (
            models.Index(fields=["scope", "provider", "admin"], name="ai_period_admin"),
            models.Index(fields=["scope", "model"], name="ai_period_model"),
            models.Index(fields=["scope", "month"], name="ai_period_month"),
        )

    def __str__(self) -> str:
        return f"{self.token or self.admin_name or self.model_name or self.provider_slug} · {month_name(self.month)}"


class Usage(UsagePeriod):
    """What one's own usage page goes by in Django admin; it has no rows of its own."""

    class Meta:
        proxy = True
        verbose_name = _("my usage")
        verbose_name_plural = _("my usage")
        default_permissions = ()


@dataclass(frozen=True, slots=True)
class Period:
    """Which row of `UsagePeriod`, and what it is called. The row may not exist yet."""

    key: str
    scope: UsagePeriod.Scope
    month: date
    provider_id: int | None
    provider_slug: str
    admin_id: int | None = None
    admin_name: str = ""
    model_id: int | None = None
    model_name: str = ""
    token: str = ""

    @property
    def names(self) -> dict[str, Any]:
        """What a new row of it is made with, beside its key."""
        return {name: value for name, value in asdict(self).items() if name != "key"}

    # Cached, as every call needs the same few.
    @classmethod
    @lru_cache(maxsize=10_000)
    def of_admin(cls, provider_id: int, admin_id: int, provider_slug: str, admin_name: str, *, month: date) -> Self:
        scope = UsagePeriod.Scope.ADMIN
        key = f"{scope.value}:{provider_id}:{admin_id}:{month}"
        return cls(key, scope, month, provider_id, provider_slug, admin_id=admin_id, admin_name=admin_name)

    @classmethod
    @lru_cache(maxsize=1_000)
    def of_provider(cls, provider_id: int, provider_slug: str, *, month: date) -> Self:
        scope = UsagePeriod.Scope.PROVIDER
        return cls(f"{scope.value}:{provider_id}:{month}", scope, month, provider_id, provider_slug)

    @classmethod
    @lru_cache(maxsize=1_000)
    def of_shared_key(cls, provider_id: int, provider_slug: str, *, month: date) -> Self:
        scope = UsagePeriod.Scope.SHARED_KEY
        return cls(f"{scope.value}:{provider_id}:{month}", scope, month, provider_id, provider_slug)

    @classmethod
    @lru_cache(maxsize=10_000)
    def of_model(cls, provider_id: int, model_id: int, provider_slug: str, model_name: str, *, month: date) -> Self:
        scope = UsagePeriod.Scope.MODEL
        key = f"{scope.value}:{model_id}:{month}"
        return cls(key, scope, month, provider_id, provider_slug, model_id=model_id, model_name=model_name)

    @classmethod
    @lru_cache(maxsize=10_000)
    def of_token(cls, token: str, admin_id: int, admin_name: str, *, month: date) -> Self:
        """Of a token by its first characters, and of the admin whose it is; over all providers."""
        scope = UsagePeriod.Scope.TOKEN
        return cls(f"{scope.value}:{token}:{month}", scope, month, None, "", admin_id, admin_name, token=token)


class UsageCarried(UsageSums):
    """The part of a period that no record backs: records that were pruned, and calls from before there were records.

    Every `UsagePeriod` equals its records plus its row here.
    """

    period = models.OneToOneField(UsagePeriod, models.CASCADE, primary_key=True, related_name="carried")

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.period_id
