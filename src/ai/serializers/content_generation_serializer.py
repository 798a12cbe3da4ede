from __future__ import annotations

from typing import Any

from django.utils.translation import gettext_lazy as _
from rest_framework import serializers

from src.ai.serializers.base import GenerationSerializer, ResultInfoSerializer


class ContentGenerationSerializer(GenerationSerializer):
    """The body of `content/generate`."""

    topic = serializers.CharField(max_length=5_000)
    word_count = serializers.IntegerField(required=False, min_value=1, max_value=20_000)
    tone = serializers.CharField(required=False, max_length=200)
    keywords = serializers.ListField(child=serializers.CharField(max_length=200), required=False, max_length=50)
    language = serializers.CharField(
        required=False, max_length=50, help_text=_('Such as "fa" or "Persian"; by default the site\'s setting.')
    )


class ContentGenerationResponseSerializer(serializers.Serializer[Any]):
    """The article."""

    title = serializers.CharField()
    meta_title = serializers.CharField()
    meta_description = serializers.CharField()
    content = serializers.CharField()
    keywords = serializers.ListField(child=serializers.CharField())
    slug = serializers.CharField()
    info = ResultInfoSerializer()
