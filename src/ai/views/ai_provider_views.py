"""Providers, models and settings over HTTP."""

from __future__ import annotations

from typing import cast

from django.contrib.auth.models import AbstractUser
from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.decorators import action
from rest_framework.permissions import IsAdminUser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ModelViewSet

from src.ai.exceptions import CapabilityRequired, NoActiveModel, NoActiveModelAnyProvider, SettingsProtected
from src.ai.models import AdminProviderSettings, AIModel, AIProvider
from src.ai.serializers.ai_provider_serializer import (
    AdminProviderSettingsSerializer,
    AIModelSerializer,
    AIProviderSerializer,
    AllowanceSerializer,
    KeyVerdictSerializer,
)
from src.ai.services.key_validation import validate_personal_key, validate_shared_key
from src.ai.services.usage import allowances
from src.ai.views.filters import AdminProviderSettingsFilter, AIModelFilter, AIProviderFilter
from src.ai.views.permissions import StaffReadsSuperuserWrites


class AIProviderViewSet(ModelViewSet[AIProvider]):
    """Providers: any admin reads, superusers write."""

    queryset = AIProvider.objects.all()
    serializer_class = AIProviderSerializer
    permission_classes = (StaffReadsSuperuserWrites,)
    filterset_class = AIProviderFilter
    search_fields = ("slug", "name", "display_name", "description")
    ordering_fields = ("id", "slug", "name", "sort_order", "total_requests", "last_used_at", "created_at")

    @extend_schema(request=None, responses=KeyVerdictSerializer)
    @action(detail=True, methods=["post"], url_path="validate-key")
    def validate_key(self, request: Request, pk: str) -> Response:
        """Ask the provider about the shared key."""
        return Response(KeyVerdictSerializer(validate_shared_key(self.get_object())).data)


class AIModelViewSet(ModelViewSet[AIModel]):
    """Models: any admin reads, superusers write. Activating one deactivates its siblings."""

    queryset = AIModel.objects.select_related("provider")
    serializer_class = AIModelSerializer
    permission_classes = (StaffReadsSuperuserWrites,)
    filterset_class = AIModelFilter
    search_fields = ("name", "display_name", "model_id", "description")
    ordering_fields = (
        "id",
        "name",
        "model_id",
        "sort_order",
        "pricing_input",
        "pricing_output",
        "context_window",
        "total_requests",
        "last_used_at",
        "created_at",
    )

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def activate(self, request: Request, pk: str) -> Response:
        """Make this the provider's active model for each of its capabilities."""
        return self._switch(is_active=True)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def deactivate(self, request: Request, pk: str) -> Response:
        """Take the model out of use."""
        return self._switch(is_active=False)

    @extend_schema(
        responses=AIModelSerializer,
        parameters=[
            OpenApiParameter("capability", str, required=True),
            OpenApiParameter("provider", str, description="Slug; without it the first active model of all providers."),
        ],
        filters=False,
    )
    @action(detail=False, pagination_class=None, filterset_class=None, search_fields=(), ordering_fields=())
    def active(self, request: Request) -> Response:
        """The model that serves a capability now."""
        capability = request.query_params.get("capability", "")
        provider = request.query_params.get("provider", "")
        if not capability:
            raise CapabilityRequired(attr="capability")
        models = AIModel.objects.active_for(capability)
        model = (models.filter(provider__slug=provider) if provider else models).first()
        if model is None and provider:
            raise NoActiveModel(provider=provider, capability=capability)
        if model is None:
            raise NoActiveModelAnyProvider(capability=capability)
        return Response(self.get_serializer(model).data)

    def _switch(self, *, is_active: bool) -> Response:
        model = self.get_object()
        model.is_active = is_active
        model.save(update_fields=("is_active", "updated_at"))
        return Response(self.get_serializer(model).data)


class AdminProviderSettingsViewSet(ModelViewSet[AdminProviderSettings]):
    """One's own settings: others' do not exist here."""

    queryset = AdminProviderSettings.objects.none()
    serializer_class = AdminProviderSettingsSerializer
    permission_classes = (IsAdminUser,)
    filterset_class = AdminProviderSettingsFilter
    search_fields = ("provider__slug", "provider__name")
    ordering_fields = ("id", "monthly_usage", "total_requests", "last_used_at", "created_at")

    def get_queryset(self) -> QuerySet[AdminProviderSettings]:
        if getattr(self, "swagger_fake_view", False):
            return super().get_queryset()
        return AdminProviderSettings.objects.filter(admin_id=self.request.user.pk).select_related("provider")

    def perform_destroy(self, instance: AdminProviderSettings) -> None:
        if instance.is_limited and not self.request.user.is_superuser:
            raise SettingsProtected()
        super().perform_destroy(instance)

    @extend_schema(responses=AllowanceSerializer(many=True), filters=False)
    @action(detail=False, pagination_class=None, filterset_class=None, search_fields=(), ordering_fields=())
    def usage(self, request: Request) -> Response:
        """What you have used this month at each provider, and what is left of your limits."""
        return Response(AllowanceSerializer(allowances(cast(AbstractUser, request.user)), many=True).data)

    @extend_schema(request=None, responses=KeyVerdictSerializer)
    @action(detail=True, methods=["post"], url_path="validate-key")
    def validate_key(self, request: Request, pk: str) -> Response:
        """Ask the provider about your own key."""
        return Response(KeyVerdictSerializer(validate_personal_key(self.get_object())).data)
