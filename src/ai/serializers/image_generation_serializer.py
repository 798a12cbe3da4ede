from __future__ import annotations

from django.utils.translation import gettext_lazy as _
from rest_framework import serializers

from src.ai.serializers.base import GenerationSerializer, MediaFileSerializer, MediaResponseSerializer


class ImageGenerationSerializer(GenerationSerializer):
    """The body of `image/generate`."""

    prompt = serializers.CharField(max_length=32_000)
    size = serializers.RegexField(
        r"^(auto|[1-9]\d{1,4}x[1-9]\d{1,4})$", required=False, help_text=_('Pixels, such as "1024x1024".')
    )
    quality = serializers.CharField(required=False, max_length=20, help_text=_('Such as "standard" or "hd".'))
    style = serializers.CharField(  # type: ignore[assignment]  # a field of this name takes no part of the class
        required=False, max_length=100, help_text=_('Such as "vivid" or "natural".')
    )
    n = serializers.IntegerField(required=False, min_value=1, max_value=10, help_text=_("How many images."))
    save_to_media = serializers.BooleanField(required=False, default=False)
    title = serializers.CharField(required=False, max_length=255, allow_blank=True, default="")
    alt_text = serializers.CharField(required=False, max_length=500, allow_blank=True, default="")


class ImageGenerationResponseSerializer(MediaResponseSerializer):
    """The first image, and with `n` > 1 the others in `more`."""

    more = MediaFileSerializer(many=True)
