"""Providers, models and settings as the API shows and takes them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, TypeVar

from django.utils.translation import gettext_lazy as _
from rest_framework import serializers
from rest_framework.exceptions import PermissionDenied

from src.ai.exceptions import InvalidConfig, PersonalKeysNotAllowed
from src.ai.models import AdminProviderSettings, AIModel, AIProvider
from src.ai.models.ai_provider import CAPABILITY_LENGTH, validate_capabilities
from src.ai.models.encrypted_key import validate_key
from src.ai.serializers.base import ProviderField, StrictFieldsMixin
from src.ai.services.access import ModelAccessState
from src.ai.services.configuration import check_config
from src.core.models import BaseModel

M = TypeVar("M", bound=BaseModel)
V = TypeVar("V")

COUNTERS = ("total_requests", "last_used_at")
BASE = ("id", "public_id", "created_at", "updated_at")


class KeyField(serializers.CharField):
    """An API key: comes in, never goes out. Empty removes it."""

    def __init__(self) -> None:
        super().__init__(
            write_only=True,
            required=False,
            allow_blank=True,
            max_length=4096,
            validators=[validate_key],
            style={"input_type": "password"},
        )


class RowSerializer(StrictFieldsMixin, serializers.ModelSerializer[M]):
    """A row that is written field by field: what another request changed meanwhile stays."""

    total_requests = serializers.IntegerField(read_only=True, help_text=_("Charged calls, ever."))
    last_used_at = serializers.DateTimeField(read_only=True, allow_null=True)

    def update(self, instance: M, validated_data: dict[str, Any]) -> M:
        for name, value in validated_data.items():
            setattr(instance, name, value)
        instance.save(update_fields=[*validated_data, "updated_at"])
        return instance


class KeyInfoSerializer(serializers.Serializer[Any]):
    """What may be shown of a stored key."""

    state = serializers.ChoiceField(choices=["unset", "set", "key_unreadable"])
    ending = serializers.CharField(help_text=_("The last characters."))
    set_at = serializers.DateTimeField(allow_null=True)


class AIProviderSerializer(RowSerializer[AIProvider]):
    """A provider. The key is written, never read."""

    shared_api_key = KeyField()
    shared_api_key_info = KeyInfoSerializer(source="key_info", read_only=True)

    class Meta:
        model = AIProvider
        fields = (
            *BASE,
            "slug",
            "name",
            "display_name",
            "description",
            "website",
            "api_base_url",
            "shared_api_key",
            "shared_api_key_info",
            "allow_personal_keys",
            "allow_shared_for_normal_admins",
            "default_monthly_limit",
            "shared_monthly_budget",
            "is_active",
            "config",
            "sort_order",
            *COUNTERS,
        )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        slug = attrs.get("slug", getattr(self.instance, "slug", ""))
        config = attrs.get("config", getattr(self.instance, "config", {}))
        _check(slug, config)
        return attrs


class ActivationSerializer(serializers.Serializer[Any]):
    """What activating a model changed beside it."""

    deactivated = serializers.SerializerMethodField(help_text=_("Models that this one replaced."))
    uncovered_capabilities = serializers.ListField(
        source="uncovered",
        child=serializers.CharField(),
        help_text=_("Capabilities of the provider now left with no active model."),
    )

    def get_deactivated(self, activation: Any) -> list[dict[str, Any]]:
        return [{"id": model.pk, "name": str(model), "model_id": model.model_id} for model in activation.deactivated]


class AIModelSerializer(RowSerializer[AIModel]):
    """A model. Activating one deactivates its siblings; `activation` of the answer tells which."""

    provider = ProviderField()
    capabilities = serializers.ListField(
        child=serializers.CharField(max_length=CAPABILITY_LENGTH), allow_empty=False, validators=[validate_capabilities]
    )
    is_free = serializers.BooleanField(read_only=True)
    activation = ActivationSerializer(read_only=True)

    class Meta:
        model = AIModel
        fields = (
            *BASE,
            "provider",
            "name",
            "display_name",
            "model_id",
            "description",
            "capabilities",
            "is_active",
            "is_free",
            "pricing_input",
            "pricing_output",
            "context_window",
            "max_tokens",
            "config",
            "sort_order",
            "gone_since",
            "activation",
            *COUNTERS,
        )
        read_only_fields = ("gone_since",)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        provider = attrs.get("provider") or getattr(self.instance, "provider", None)
        if provider is not None:
            _check(provider.slug, attrs.get("config", getattr(self.instance, "config", {})))
        return attrs


class AdminProviderSettingsSerializer(RowSerializer[AdminProviderSettings]):
    """An admin's own settings at a provider. The key is written, never read."""

    provider = ProviderField()
    admin = serializers.HiddenField(default=serializers.CurrentUserDefault())
    personal_api_key = KeyField()
    personal_api_key_info = KeyInfoSerializer(source="key_info", read_only=True)
    monthly_usage = serializers.IntegerField(read_only=True)

    class Meta:
        model = AdminProviderSettings
        fields = (
            *BASE,
            "admin",
            "provider",
            "personal_api_key",
            "personal_api_key_info",
            "use_shared_api",
            "monthly_limit",
            "monthly_budget",
            "monthly_usage",
            "is_active",
            *COUNTERS,
        )

    def validate_provider(self, value: AIProvider) -> AIProvider:
        # Key, limit and usage belong to the provider they were entered for.
        if self.instance is not None and value != self.instance.provider:
            message = _("Settings stay with their provider: make new ones for another.")
            raise serializers.ValidationError(message, code="immutable")
        return value

    def validate_monthly_limit(self, value: int | None) -> int | None:
        return self._set_by_superuser("monthly_limit", value)

    def validate_monthly_budget(self, value: Decimal | None) -> Decimal | None:
        return self._set_by_superuser("monthly_budget", value)

    def _set_by_superuser(self, name: str, value: V) -> V:
        if value != getattr(self.instance, name, None) and not self.context["request"].user.is_superuser:
            raise PermissionDenied(_("Only a superuser can set a monthly limit or budget."))
        return value

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        provider = attrs.get("provider") or getattr(self.instance, "provider", None)
        if attrs.get("personal_api_key") and provider is not None and not provider.allow_personal_keys:
            raise PersonalKeysNotAllowed(provider_name=str(provider), attr="personal_api_key")
        return attrs


class ProviderNameSerializer(serializers.Serializer[Any]):
    """Which provider, and what it is called."""

    slug = serializers.CharField()
    name = serializers.CharField()


class AllowanceSerializer(serializers.Serializer[Any]):
    """What one has used at a provider this month, and what is left. null: nothing limits it."""

    provider = ProviderNameSerializer()
    requests = serializers.IntegerField(help_text=_("Charged requests."))
    held_requests = serializers.IntegerField(help_text=_("Requests under way."))
    monthly_limit = serializers.IntegerField(allow_null=True)
    requests_left = serializers.IntegerField(allow_null=True)
    cost = serializers.DecimalField(30, 12, help_text=_("US$."))
    held_cost = serializers.DecimalField(30, 12, help_text=_("US$ that calls under way may cost."))
    unpriced = serializers.IntegerField(help_text=_("Calls whose cost nobody knows; not in cost."))
    monthly_budget = serializers.DecimalField(14, 6, allow_null=True, help_text=_("US$."))
    budget_left = serializers.DecimalField(30, 12, allow_null=True, help_text=_("US$."))
    resets_at = serializers.DateTimeField()


class AvailableModelSerializer(serializers.Serializer[Any]):
    """A model as an admin may use it."""

    class _Pricing(serializers.Serializer[Any]):
        input = serializers.DecimalField(14, 6, allow_null=True, help_text=_("US$ per 1M tokens; null is unknown."))
        output = serializers.DecimalField(14, 6, allow_null=True, help_text=_("US$ per 1M tokens; null is unknown."))

    class _Limits(serializers.Serializer[Any]):
        max_tokens = serializers.IntegerField(allow_null=True)
        context_window = serializers.IntegerField(allow_null=True)

    id = serializers.IntegerField()
    name = serializers.CharField()
    model_id = serializers.CharField()
    provider = ProviderNameSerializer()
    capabilities = serializers.ListField(child=serializers.CharField())
    is_active = serializers.BooleanField()
    is_free = serializers.BooleanField()
    access_state = serializers.ChoiceField(choices=[state.value for state in ModelAccessState])
    pricing = _Pricing()
    limits = _Limits()


class AvailableProviderSerializer(serializers.Serializer[Any]):
    """A provider that has a capability, as an admin may use it."""

    class _ActiveModel(serializers.Serializer[Any]):
        id = serializers.IntegerField()
        name = serializers.CharField()
        model_id = serializers.CharField()

    slug = serializers.CharField()
    name = serializers.CharField()
    description = serializers.CharField()
    access_state = serializers.ChoiceField(choices=[state.value for state in ModelAccessState])
    has_access = serializers.BooleanField()
    active_model = _ActiveModel(allow_null=True)


class KeyVerdictSerializer(serializers.Serializer[Any]):
    """What the provider says of a key. `valid` is true for an accepted key alone."""

    status = serializers.ChoiceField(choices=["accepted", "refused", "unknown"])
    valid = serializers.BooleanField()
    detail = serializers.CharField()


def _check(slug: str, config: Any) -> None:
    try:
        check_config(slug, config)
    except InvalidConfig as error:
        raise serializers.ValidationError({"config": [error.message]}, code=error.code) from error
