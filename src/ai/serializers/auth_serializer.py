"""Logging in, and one's own tokens."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers

from src.ai.models import APIToken
from src.ai.models.ai_provider import CAPABILITY_LENGTH, validate_capabilities
from src.ai.models.api_token import LONGEST_MODEL, validate_token_models
from src.ai.serializers.base import StrictFieldsMixin

LONGEST_LIFE = timedelta(days=36_500)
RULES = ("capabilities", "models", "requests_per_minute", "concurrent_requests", "monthly_budget")


class LoginSerializer(StrictFieldsMixin, serializers.Serializer[Any]):
    """The body of `login`."""

    username = serializers.CharField(max_length=254)
    password = serializers.CharField(max_length=4096, trim_whitespace=False, style={"input_type": "password"})
    name = serializers.CharField(
        required=False, max_length=100, default="login", help_text=_("Where the token is used, to know it again.")
    )


class UserSerializer(serializers.Serializer[Any]):
    """Who logged in."""

    id = serializers.IntegerField(source="pk")
    username = serializers.CharField(source="get_username")
    is_superuser = serializers.BooleanField()


class TokenSerializer(StrictFieldsMixin, serializers.ModelSerializer[APIToken]):
    """A token: its secret is in the answer that creates it, and never again."""

    id = serializers.CharField(source="token_key", read_only=True, help_text=_("The token's first characters."))
    name = serializers.CharField(max_length=100)
    expiry = serializers.DateTimeField(
        required=False, allow_null=True, help_text=_("By default as long as a login's. null: it does not expire.")
    )
    capabilities = serializers.ListField(
        child=serializers.CharField(max_length=CAPABILITY_LENGTH),
        required=False,
        validators=[validate_capabilities],
        help_text=_("What it may be used for. Empty: everything."),
    )
    models = serializers.ListField(
        child=serializers.CharField(max_length=LONGEST_MODEL),
        required=False,
        validators=[validate_token_models],
        help_text=_("Each as “provider-slug/model-id”, or “provider-slug/*” for all of a provider. Empty: all."),
    )
    token = serializers.CharField(
        read_only=True, default=None, allow_null=True, help_text=_("Shown once, when it is created.")
    )

    class Meta:
        model = APIToken
        fields = ("id", "name", "created", "expiry", "last_used_at", "is_expired", *RULES, "token")
        read_only_fields = ("created", "last_used_at")

    def validate_expiry(self, value: Any) -> Any:
        if value is not None and value <= timezone.now():
            raise serializers.ValidationError(_("Give a moment in the future."), code="in_the_past")
        if value is not None and value > timezone.now() + LONGEST_LIFE:
            message = _("Give a moment in the next hundred years, or null for a token that does not expire.")
            raise serializers.ValidationError(message, code="too_late")
        return value

    def create(self, validated_data: dict[str, Any]) -> APIToken:
        lifetime = {}
        if "expiry" in validated_data:
            expiry = validated_data["expiry"]
            lifetime["expiry"] = expiry and expiry - timezone.now()
        rules = {name: validated_data[name] for name in RULES if name in validated_data}
        stored, secret = APIToken.objects.create(
            user=self.context["request"].user, name=validated_data["name"], **lifetime, **rules
        )
        token: APIToken = stored
        token.token = secret
        return token


class LoginResponseSerializer(serializers.Serializer[Any]):
    """A fresh token, shown this once."""

    token = serializers.CharField()
    expiry = serializers.DateTimeField(allow_null=True)
    user = UserSerializer()
