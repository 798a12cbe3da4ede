"""Filters of lists."""

from typing import Any

import django_filters
from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _

from src.ai.models import AdminProviderSettings, AIModel, AIProvider


class AIProviderFilter(django_filters.FilterSet):  # type: ignore[misc]  # ships no types
    """`?capability=&is_active=`."""

    capability = django_filters.CharFilter(
        method="with_capability", label=_("Providers with a model that has this capability.")
    )

    class Meta:
        model = AIProvider
        fields = ("is_active",)

    def with_capability(self, queryset: QuerySet[AIProvider], _name: str, value: Any) -> QuerySet[AIProvider]:
        return queryset.filter(models__capability_rows__capability=value).distinct()


class AIModelFilter(django_filters.FilterSet):  # type: ignore[misc]  # ships no types
    """`?provider=&capability=&is_active=`."""

    provider = django_filters.CharFilter(field_name="provider__slug", label=_("Slug of a provider."))
    capability = django_filters.CharFilter(field_name="capability_rows__capability", label=_("One capability."))

    class Meta:
        model = AIModel
        fields = ("is_active",)


class AvailableModelFilter(AIModelFilter):
    """`?provider=&is_active=`, where the path names the capability."""

    capability = None


class AdminProviderSettingsFilter(django_filters.FilterSet):  # type: ignore[misc]  # ships no types
    """`?provider=&is_active=`."""

    provider = django_filters.CharFilter(field_name="provider__slug", label=_("Slug of a provider."))

    class Meta:
        model = AdminProviderSettings
        fields = ("is_active",)
