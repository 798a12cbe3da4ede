"""Models: which there are, and which of them serve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timezone import localtime
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from src.ai.admin import activation
from src.ai.admin.base import CountedColumns, ReferenceAdmin
from src.ai.admin.display import NOTHING, badges, below, code, muted, price, warning
from src.ai.admin.fields import CapabilitiesField, ConfigField, check_config_of
from src.ai.admin.generic import ModelForm
from src.ai.models import AIModel, ModelCapability
from src.ai.providers.base import OPERATIONS


class ModelEntryForm(ModelForm[AIModel]):
    """A model, its capabilities typed with commas."""

    capabilities = CapabilitiesField(
        label=_("Capabilities"),
        widget=forms.TextInput(attrs={"class": "vTextField", "dir": "ltr", "spellcheck": "false"}),
    )
    config = ConfigField(
        label=_("Configuration"),
        help_text=_("JSON that goes over the provider's own configuration, for this model alone."),
    )

    class Meta:
        model = AIModel
        fields: ClassVar = "__all__"
        help_texts: ClassVar = {"sort_order": _("Among the provider's active models, lower is tried first.")}

    def clean(self) -> dict[str, Any] | None:
        data = super().clean()
        provider = self.cleaned_data.get("provider")
        check_config_of(self, provider.slug if provider else "")
        return data


class CapabilityFilter(admin.SimpleListFilter):
    """By capability, through the index of `ModelCapability`."""

    title = _("capability")
    parameter_name = "capability"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> list[tuple[str, str]]:
        names = ModelCapability.objects.order_by("capability").values_list("capability", flat=True).distinct()
        return [(name, name) for name in names]

    def queryset(self, request: HttpRequest, queryset: QuerySet[AIModel]) -> QuerySet[AIModel]:
        return queryset.filter(capability_rows__capability=self.value()) if self.value() else queryset


class ListedFilter(admin.SimpleListFilter):
    """Models that the provider's own list still has, and those that it has no longer."""

    title = _("the provider's list")
    parameter_name = "listed"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> list[tuple[str, Any]]:
        return [("no", _("no longer has it"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[AIModel]) -> QuerySet[AIModel]:
        return queryset.filter(gone_since__isnull=False) if self.value() == "no" else queryset


@admin.register(AIModel)
class AIModelAdmin(CountedColumns, ReferenceAdmin[AIModel]):
    """Every staff user reads, superusers write and switch; each switch tells what it changed beside."""

    form = ModelEntryForm
    list_display = (
        "title",
        "provider",
        "is_active",
        "serves_now",
        "can",
        "prices",
        "requests",
    )
    list_display_links = ("title",)
    list_select_related = ("provider",)
    list_filter = ("is_active", CapabilityFilter, "provider", ListedFilter)
    search_fields = ("name", "display_name", "model_id")
    search_help_text = _("Search by name or model id.")
    actions = ("activate", "deactivate")
    readonly_fields = ("serves_now", "total_requests", "last_used", "created_at", "updated_at", "gone_since")
    empty_text = _(
        'No models yet. Fetch them from the providers with the command "python manage.py sync_ai_models", '
        "or add one by hand."
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[AIModel]:
        active = ModelCapability.objects.filter(is_active=True).order_by("capability")
        return super().get_queryset(request).prefetch_related(Prefetch("capability_rows", active, to_attr="serving"))

    def get_fieldsets(self, request: HttpRequest, obj: AIModel | None = None) -> Any:
        serving = ["is_active", "serves_now"] if obj else ["is_active"]
        fieldsets: list[tuple[Any, dict[str, Any]]] = [
            (None, {"fields": ["provider", "model_id", "name", "display_name"]}),
            (
                _("Serving"),
                {
                    "fields": ["capabilities", *serving, "sort_order"],
                    "description": _(
                        "Each provider has at most one active model per capability: activating this one deactivates "
                        "the provider's others that share a capability with it."
                    ),
                },
            ),
            (_("Prices"), {"fields": [("pricing_input", "pricing_output")]}),
            (_("Limits and configuration"), {"fields": [("context_window", "max_tokens"), "config"]}),
            (_("About"), {"fields": ["description"]}),
        ]
        if obj:
            usage = ["total_requests", "last_used", "created_at", "updated_at"]
            usage += ["gone_since"] if obj.gone_since else []
            fieldsets.append((_("Usage"), {"fields": usage}))
        return fieldsets

    def get_form(self, request: HttpRequest, obj: AIModel | None = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        if "capabilities" in form.base_fields:
            known = {*OPERATIONS, *ModelCapability.objects.values_list("capability", flat=True).distinct()}
            hint = gettext("Separated by commas. %(endpoints)s carry endpoints; any other name may be listed.")
            others = sorted(known - set(OPERATIONS))
            if others:
                hint += " " + gettext("In use: %(others)s.")
            names = {"endpoints": ", ".join(OPERATIONS), "others": ", ".join(others)}
            form.base_fields["capabilities"].help_text = hint % names
        return form

    # -- switching -------------------------------------------------------------------------------------------------

    @admin.action(description=_("Activate selected models"), permissions=["change"])
    def activate(self, request: HttpRequest, queryset: QuerySet[AIModel]) -> None:
        self.log_switch(request, activation.activate_in_turn(request, queryset))

    @admin.action(description=_("Deactivate selected models"), permissions=["change"])
    def deactivate(self, request: HttpRequest, queryset: QuerySet[AIModel]) -> None:
        self.log_switch(request, activation.deactivate(request, queryset))

    def log_switch(self, request: HttpRequest, switched: Sequence[AIModel]) -> None:
        """Note it in each model's history."""
        for model in switched:
            self.log_change(request, model, [{"changed": {"fields": ["Active"]}}])

    def save_model(self, request: HttpRequest, obj: AIModel, form: ModelForm[AIModel], change: bool) -> None:
        """Save and tell what that switched."""
        switched = "is_active" in form.changed_data
        with activation.telling_uncovered(request, {form.initial.get("provider"), obj.provider_id}):
            super().save_model(request, obj, form, change)
            if obj.is_active and switched:
                activation.tell_activated(request, [obj])
            elif change and switched:
                activation.tell_deactivated(request, [obj])
            activation.tell_displaced(request, obj.activation.deactivated)
        self.log_switch(request, obj.activation.deactivated)

    def delete_model(self, request: HttpRequest, obj: AIModel) -> None:
        with activation.telling_uncovered(request, {obj.provider_id}):
            super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[AIModel]) -> None:
        provider_ids = set(queryset.order_by().values_list("provider_id", flat=True).distinct())
        with activation.telling_uncovered(request, provider_ids):
            super().delete_queryset(request, queryset)

    # -- columns ---------------------------------------------------------------------------------------------------

    @admin.display(description=_("model"), ordering="name")
    def title(self, model: AIModel) -> SafeString:
        shown = below(model, code(model.model_id))
        if model.gone_since is None:
            return shown
        gone = gettext("not listed since %(date)s") % {"date": date_format(localtime(model.gone_since))}
        return below(shown, warning(gone))

    @admin.display(description=_("serves now"))
    def serves_now(self, model: AIModel) -> SafeString:
        served = [row.capability for row in model.serving]  # type: ignore[attr-defined]
        if not served:
            return muted(NOTHING)
        if not model.provider.is_active:
            return warning(_("nothing: the provider is inactive"))
        return badges(served, "ai-on")

    @admin.display(description=_("capabilities"))
    def can(self, model: AIModel) -> SafeString:
        return badges(model.capabilities)

    @admin.display(description=_("$ per 1M tokens, in / out"), ordering="pricing_input")
    def prices(self, model: AIModel) -> SafeString:
        shown = price(model.pricing_input), price(model.pricing_output)
        return shown[0] if shown[0] == shown[1] else format_html("{} / {}", *shown)
