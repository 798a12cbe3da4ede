from __future__ import annotations

from typing import Any

from django.utils.translation import gettext_lazy as _
from rest_framework import serializers

from src.ai.serializers.base import GenerationSerializer, ResultInfoSerializer, StrictFieldsMixin


class TurnSerializer(StrictFieldsMixin, serializers.Serializer[Any]):
    """One turn of a conversation."""

    role = serializers.ChoiceField(choices=["system", "user", "assistant"])
    content = serializers.CharField(allow_blank=True, trim_whitespace=False)


class ChatSerializer(GenerationSerializer):
    """The body of `chat/send`."""

    message = serializers.CharField(max_length=1_000_000, trim_whitespace=False)
    conversation_history = TurnSerializer(many=True, required=False, help_text=_("Earlier turns, oldest first."))
    system_message = serializers.CharField(required=False, allow_blank=True)
    temperature = serializers.FloatField(required=False, min_value=0, max_value=2)
    max_tokens = serializers.IntegerField(required=False, min_value=1, max_value=10_000_000)
    stream = serializers.BooleanField(
        required=False,
        allow_null=True,
        help_text=_("Answer with server-sent events. By default as `Accept` says: `text/event-stream` asks for them."),
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """The call's options: how its answer is sent is none of them."""
        return {name: value for name, value in attrs.items() if name != "stream"}


class ChatResponseSerializer(serializers.Serializer[Any]):
    """The reply."""

    reply = serializers.CharField()
    info = ResultInfoSerializer()
