"""What the OpenAPI document can't see for itself."""

from typing import Any

from django.utils.translation import gettext_lazy as _
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema as BaseAutoSchema
from drf_spectacular.utils import Direction
from rest_framework import serializers


class ErrorSerializer(serializers.Serializer[Any]):
    """One thing that is wrong."""

    code = serializers.CharField(help_text=_("Stable: the key of the message."))
    detail = serializers.CharField(help_text=_("For the reader, in the reader's language."))
    attr = serializers.CharField(allow_null=True, help_text=_("The field at fault, where there is one."))


class ErrorResponseSerializer(serializers.Serializer[Any]):
    """The one shape of every error."""

    type = serializers.ChoiceField(choices=["validation_error", "client_error", "server_error"])
    errors = ErrorSerializer(many=True)  # type: ignore[assignment]  # a field of this name takes no part of the class


class AutoSchema(BaseAutoSchema):
    """Documents, beside what an operation answers, that whatever else it answers is an error of the one shape."""

    def _get_response_bodies(self, direction: Direction = "response") -> dict[str, Any]:
        responses: dict[str, Any] = super()._get_response_bodies(direction)
        errors = self._get_response_for_code(ErrorResponseSerializer, "default", ["application/json"])  # type: ignore[no-untyped-call]
        return {**responses, "default": errors}

    def map_renderers(self, attribute: str) -> list[Any]:
        """Media types and formats, without a format that no `?format=` can name."""
        found: list[Any] = super().map_renderers(attribute)
        return [name for name in found if name]


class BearerTokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Tokens go into the Authorization header."""

    target_class = "src.ai.authentication.BearerTokenAuthentication"
    name = "bearerAuth"

    def get_security_definition(self, auto_schema: BaseAutoSchema) -> dict[str, Any]:
        return {"type": "http", "scheme": "bearer"}


def without_trailing_slash(endpoints: list[tuple[str, str, str, Any]]) -> list[tuple[str, str, str, Any]]:
    """Document each path as the contract writes it; with the slash it works too."""
    return [(path.rstrip("/"), regex, method, callback) for path, regex, method, callback in endpoints]
