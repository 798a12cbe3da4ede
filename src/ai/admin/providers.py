"""Providers: which there are, how they are set up, and their shared keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import Count, IntegerField, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from src.ai.admin.base import CountedColumns, ReferenceAdmin
from src.ai.admin.display import (
    badges,
    below,
    code,
    key_state,
    money,
    muted,
    number,
    room,
    warning,
    with_held,
    with_under_way,
    with_unpriced,
)
from src.ai.admin.fields import ConfigField, KeyForm, check_config_of
from src.ai.admin.key_check import check_keys
from src.ai.exceptions import ProviderNotRegistered
from src.ai.models import AdminProviderSettings, AIModel, AIProvider, ModelCapability, Period
from src.ai.providers.registry import AIProviderRegistry
from src.ai.services import usage_reports
from src.ai.services.key_validation import validate_shared_key
from src.ai.services.ledger.entries import Limit
from src.core.months import month_of


class ProviderForm(KeyForm[AIProvider]):
    """A provider; its configuration is checked by the class that will read it."""

    config = ConfigField(
        label=_("Configuration"),
        help_text=_('JSON, for example {"chat_model": "…", "tts": {"voice": "…", "speed": 1.0}}.'),
    )

    class Meta:
        model = AIProvider
        fields = ("config",)  # the page says which others
        help_texts: ClassVar = {
            "is_active": _("Of an inactive provider no model serves."),
            "sort_order": _("Where a call names neither model nor provider, lower is tried first."),
        }

    def clean(self) -> dict[str, Any] | None:
        data = super().clean()
        check_config_of(self, self.cleaned_data.get("slug", ""))
        return data


@admin.register(AIProvider)
class AIProviderAdmin(CountedColumns, ReferenceAdmin[AIProvider]):
    """Every staff user reads, superusers write; the shared key is written and never read."""

    form = ProviderForm
    list_display = (
        "title",
        "is_active",
        "key",
        "shared_for_all",
        "own_keys",
        "models_link",
        "requests",
    )
    list_filter = ("is_active", "allow_shared_for_normal_admins", "allow_personal_keys")
    search_fields = ("slug", "name", "display_name", "description")
    readonly_fields = (
        "provider_class",
        "key",
        "active_models",
        "models_link",
        "this_month",
        "shared_key_used",
        "total_requests",
        "last_used",
        "created_at",
        "updated_at",
    )
    actions = ("check_key",)
    hidden_lookups = ("shared_api_key",)
    empty_text = _("No providers yet. Add one: its slug is the name that its class is registered under.")

    def get_queryset(self, request: HttpRequest) -> QuerySet[AIProvider]:
        models = AIModel.objects.filter(provider=OuterRef("pk")).order_by().values("provider")
        count = Subquery(models.annotate(count=Count("pk")).values("count"), output_field=IntegerField())
        rows = super().get_queryset(request).annotate(models_count=Coalesce(count, 0))
        return usage_reports.with_shared_key(usage_reports.with_this_month(rows))

    def get_list_display(self, request: HttpRequest) -> tuple[str, ...]:
        return (*self.list_display, *(["month"] if sees_costs(request) else []))

    def get_fieldsets(self, request: HttpRequest, obj: AIProvider | None = None) -> Any:
        key: list[str] = ["key"] if obj else []
        if self.has_change_permission(request, obj):
            key += ["new_api_key", "remove_api_key"] if obj and obj.shared_api_key else ["new_api_key"]
        known = ["provider_class"] if obj else []
        fieldsets: list[tuple[Any, dict[str, Any]]] = [
            (
                None,
                {"fields": ["name", "display_name", "slug", *known, "is_active", "sort_order"]},
            ),
            (
                _("Keys"),
                {
                    "fields": [*key, "allow_shared_for_normal_admins", "allow_personal_keys"],
                    "description": _(
                        "The shared key pays for superusers, and for normal admins where that is allowed. "
                        "An admin's own key, where one is set and allowed, comes before it."
                    ),
                },
            ),
            (_("Limits"), {"fields": ["default_monthly_limit", "shared_monthly_budget"]}),
            (_("Connection"), {"fields": ["api_base_url", "config"]}),
            (_("About"), {"fields": ["description", "website"]}),
        ]
        if obj:
            costs = ["this_month", "shared_key_used"] if sees_costs(request) else []
            usage = [*costs, "total_requests", "last_used", "created_at", "updated_at"]
            fieldsets.insert(1, (_("Models"), {"fields": ["active_models", "models_link"]}))
            fieldsets.append((_("Usage"), {"fields": usage}))
        return fieldsets

    def get_form(self, request: HttpRequest, obj: AIProvider | None = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        if "slug" in form.base_fields:
            names = ", ".join(AIProviderRegistry().get_registered_names())
            hint = gettext("The name the provider's class is registered under. Registered: %(names)s.")
            form.base_fields["slug"].help_text = hint % {"names": names or gettext("none")}
        return form

    def count_dependents(self, rows: Sequence[AIProvider]) -> dict[str, int]:
        return {
            str(kind._meta.verbose_name_plural): count
            for kind in (AIModel, AdminProviderSettings)
            if (count := kind._default_manager.filter(provider__in=rows).count())
        }

    @admin.action(description=_("Check the shared keys with the providers"), permissions=["change"])
    def check_key(self, request: HttpRequest, queryset: QuerySet[AIProvider]) -> None:
        check_keys(request, queryset, validate_shared_key)

    @admin.display(description=_("provider"), ordering="name")
    def title(self, provider: AIProvider) -> SafeString:
        shown = below(provider, code(provider.slug))
        registered = provider.slug in AIProviderRegistry().get_registered_names()
        return shown if registered else below(shown, warning(_("not registered")))

    @admin.display(description=_("shared with normal admins"), ordering="allow_shared_for_normal_admins", boolean=True)
    def shared_for_all(self, provider: AIProvider) -> bool:
        return provider.allow_shared_for_normal_admins

    @admin.display(description=_("own keys"), ordering="allow_personal_keys", boolean=True)
    def own_keys(self, provider: AIProvider) -> bool:
        return provider.allow_personal_keys

    @admin.display(description=_("provider class"))
    def provider_class(self, provider: AIProvider) -> SafeString:
        try:
            found = AIProviderRegistry().get(provider.slug)
        except ProviderNotRegistered as error:
            hint = gettext("Its calls fail until the slug is corrected or an app brings a class of this name.")
            return below(warning(error), hint)
        return code(f"{found.__module__}.{found.__qualname__}")

    @admin.display(description=_("shared key"))
    def key(self, provider: AIProvider) -> SafeString:
        return key_state(provider)

    @admin.display(description=_("active models"))
    def active_models(self, provider: AIProvider) -> SafeString:
        rows = ModelCapability.objects.filter(provider=provider, is_active=True).select_related("model")
        lines = (
            (
                badges([row.capability], "ai-on"),
                reverse("admin:ai_aimodel_change", args=[row.model_id]),
                row.model,
            )
            for row in rows.order_by("capability")
        )
        return format_html_join("", '<div>{} <a href="{}">{}</a></div>', lines) or muted(
            gettext("None: calls to this provider fail until a model is activated.")
        )

    @admin.display(description=_("models"), ordering="models_count")
    def models_link(self, provider: AIProvider) -> SafeString:
        count: int = provider.models_count  # type: ignore[attr-defined]
        text = ngettext("%(count)d model", "%(count)d models", count) % {"count": count}
        url = reverse("admin:ai_aimodel_changelist")
        return format_html('<a href="{}?provider__id__exact={}">{}</a>', url, provider.pk, text)

    @admin.display(description=_("this month"))
    def month(self, provider: AIProvider) -> SafeString:
        used = usage_reports.this_month(provider)
        return below(number(used.requests), money(used.cost))

    @admin.display(description=_("this month"))
    def this_month(self, provider: AIProvider) -> SafeString:
        return _used(usage_reports.this_month(provider))

    @admin.display(description=_("of it by the shared key"))
    def shared_key_used(self, provider: AIProvider) -> SafeString:
        used = usage_reports.this_month_of_shared_key(provider)
        if provider.shared_monthly_budget is None:
            return _used(used)
        key = Period.of_shared_key(provider.pk, provider.slug, month=month_of().first)
        return below(_used(used), room(used.standing(Limit(key, None, provider.shared_monthly_budget))))


def sees_costs(request: HttpRequest) -> bool:
    """Whether they may know what everyone's calls cost; one's own are on one's own pages."""
    return request.user.has_perm("ai.view_usageperiod")


def _used(used: usage_reports.Used) -> SafeString:
    cost = with_unpriced(with_held(money(used.cost), used.held_cost), used.unpriced)
    return format_html("{}<div>{}</div>", with_under_way(number(used.requests), used.held_requests), cost)
