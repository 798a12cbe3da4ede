from __future__ import annotations

from django.utils.translation import gettext_lazy as _
from rest_framework import serializers

from src.ai.serializers.base import GenerationSerializer, MediaResponseSerializer


class AudioGenerationSerializer(GenerationSerializer):
    """The body of `audio/generate`."""

    text = serializers.CharField(max_length=100_000)
    voice = serializers.CharField(required=False, max_length=100)
    speed = serializers.FloatField(
        required=False, min_value=0.25, max_value=4, help_text=_("1.0 is the voice's own pace.")
    )
    save_to_media = serializers.BooleanField(required=False, default=False)
    title = serializers.CharField(required=False, max_length=255, allow_blank=True, default="")


class AudioGenerationResponseSerializer(MediaResponseSerializer):
    """The audio."""
