"""What the serializers share."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from django.utils.translation import gettext_lazy as _
from rest_framework import serializers

from src.ai.models import AIProvider
from src.ai.results import ResultInfo


@cache
def shared(serializer_class: type[serializers.Serializer[Any]]) -> serializers.Serializer[Any]:
    """One serializer of this class for all requests, as making its fields costs more than they do.

    For `to_representation`, and for `run_validation` as far as that succeeds: what its errors say is in the language of
    whoever met them first.
    """
    return serializer_class()


class StrictFieldsMixin:
    """Refuses fields that the serializer does not have, by name."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            unknown = [name for name in data if name not in self.fields]  # type: ignore[attr-defined]
            if unknown:
                known = ", ".join(name for name, field in self.fields.items() if not field.read_only)  # type: ignore[attr-defined]
                message = _("Unknown field. Known fields: {fields}.").format(fields=known)
                raise serializers.ValidationError({name: [message] for name in unknown}, code="unknown_field")
        return super().to_internal_value(data)  # type: ignore[misc]


class GenerationSerializer(StrictFieldsMixin, serializers.Serializer[Any]):
    """What every generation request may say: which model or provider; with neither, the first that may be used."""

    model_id = serializers.IntegerField(
        required=False, allow_null=True, min_value=1, max_value=2**63 - 1, help_text=_("Id of an AI model.")
    )
    provider_slug = serializers.SlugField(
        required=False, allow_null=True, max_length=50, help_text=_("Use this provider's active model.")
    )


class UsageSerializer(serializers.Serializer[Any]):
    """Units as the vendor reported them; null is unknown."""

    input_tokens = serializers.IntegerField(allow_null=True)
    output_tokens = serializers.IntegerField(allow_null=True)
    cache_read_tokens = serializers.IntegerField(allow_null=True)
    reasoning_tokens = serializers.IntegerField(allow_null=True)
    images = serializers.IntegerField(allow_null=True)
    characters = serializers.IntegerField(allow_null=True)
    audio_seconds = serializers.FloatField(allow_null=True)


class ResultInfoSerializer(serializers.Serializer[ResultInfo]):
    """Which model served, and what the call used."""

    provider = serializers.CharField(help_text=_("The provider's slug."))
    model_id = serializers.IntegerField(source="model_pk", help_text=_("Id of the AI model that served."))
    request_model = serializers.CharField(help_text=_("The provider's id of that model."))
    response_model = serializers.CharField(source="model", allow_null=True, help_text=_("As the provider answered."))
    response_id = serializers.CharField(allow_null=True)
    finish_reason = serializers.CharField(allow_null=True)
    usage = UsageSerializer(allow_null=True)
    cost = serializers.DecimalField(30, 12, allow_null=True, help_text=_("US$; null where nobody knows."))
    dropped_params = serializers.ListField(
        child=serializers.CharField(), help_text=_("What was asked for and this model can't take.")
    )


class MediaFileSerializer(serializers.Serializer[Any]):
    """One image or piece of audio: a URL where it was saved, base64 where not."""

    url = serializers.CharField(allow_null=True)
    base64 = serializers.CharField(allow_null=True)
    media_id = serializers.UUIDField(allow_null=True, help_text=_("Public id of the saved media."))
    content_type = serializers.CharField()
    size = serializers.IntegerField(help_text=_("Bytes."))


class MediaResponseSerializer(MediaFileSerializer):
    """What an image or audio request answers."""

    placeholder = serializers.BooleanField(help_text=_("True where no model made it."))
    info = ResultInfoSerializer()


class ProviderField(serializers.SlugRelatedField[AIProvider]):
    """A provider: its slug, or on the way in its id."""

    def __init__(self, **kwargs: Any) -> None:
        if not kwargs.get("read_only"):
            kwargs.setdefault("queryset", AIProvider.objects.all())
        super().__init__(slug_field="slug", **kwargs)

    def to_internal_value(self, data: Any) -> AIProvider:
        if isinstance(data, int) and not isinstance(data, bool):
            found = AIProvider.objects.filter(pk=data).first()
            if found is not None:
                return found
        if not isinstance(data, str) or not data.isprintable():
            self.fail("invalid")
        return super().to_internal_value(data)
