"""Admins' own settings at the providers: their key, which key pays, their limit."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected
from django.contrib.auth import get_user_model
from django.db.models import ForeignKey, Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from src.ai.admin.base import CountedColumns, OwnedAdmin, is_superuser
from src.ai.admin.display import (
    below,
    key_state,
    money,
    muted,
    number,
    phrase,
    room,
    warning,
    with_held,
    with_under_way,
    with_unpriced,
)
from src.ai.admin.fields import KeyForm
from src.ai.admin.key_check import check_keys
from src.ai.exceptions import AIError, PersonalKeysNotAllowed
from src.ai.models import AdminProviderSettings, AIProvider
from src.ai.services import usage_reports
from src.ai.services.access import KeySource, choose_key_source
from src.ai.services.key_validation import validate_personal_key
from src.ai.services.ledger.entries import Limit
from src.core.months import month_of

WHO_PAYS = {
    KeySource.PERSONAL: _("the admin's own key"),
    KeySource.SHARED: _("the shared key"),
    KeySource.NONE_NEEDED: _("nobody: this provider needs no key"),
}
PROTECTED = _("These settings carry a monthly limit set by a superuser and can't be deleted.")


class SettingsForm(KeyForm[AdminProviderSettings]):
    """One admin's settings; whose they are is the field's for superusers and given for everyone else."""

    owner: Any = None  # set on the form class of a request

    class Meta:
        model = AdminProviderSettings
        fields: ClassVar = "__all__"
        help_texts: ClassVar = {
            "is_active": _("Off: the own key is not used."),
            "use_shared_api": _("Off: where no own key can pay, a call is refused rather than paid by the shared one."),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.admin_id is None and "admin" not in self.fields:
            self.instance.admin = self.owner

    def clean(self) -> dict[str, Any] | None:
        data = super().clean()
        provider = self.cleaned_data.get("provider") or getattr(self.instance, "provider", None)
        if self.cleaned_data.get("new_api_key") and provider and not provider.allow_personal_keys:
            refusal = PersonalKeysNotAllowed(provider_name=str(provider))
            self.add_error("new_api_key", forms.ValidationError(refusal.message, code=refusal.code))
        return data


@admin.register(AdminProviderSettings)
class AdminProviderSettingsAdmin(CountedColumns, OwnedAdmin[AdminProviderSettings]):
    """Admins see and change their own settings; superusers see all and set the limits."""

    form = SettingsForm
    owner_field = "admin"
    list_select_related = ("admin", "provider")
    search_fields = ("provider__name", "provider__slug", "admin__username")
    actions = ("check_key", "delete_selected")
    hidden_lookups = ("personal_api_key",)
    empty_text = _(
        "No settings yet. Add some to use a key of your own at a provider, or to choose whether the shared key may pay."
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[AdminProviderSettings]:
        return usage_reports.with_this_month(super().get_queryset(request))

    def get_list_display(self, request: HttpRequest) -> tuple[str, ...]:
        columns = ("is_active", "key", "pays", "usage", "requests")
        return ("provider", "admin", *columns) if is_superuser(request.user) else ("provider", *columns)

    def get_list_filter(self, request: HttpRequest) -> tuple[Any, ...]:
        own = ("is_active", "use_shared_api", "provider")
        return (*own, ("admin", admin.RelatedOnlyFieldListFilter)) if is_superuser(request.user) else own

    def get_search_fields(self, request: HttpRequest) -> tuple[str, ...]:
        return self.search_fields if is_superuser(request.user) else self.search_fields[:2]

    def get_fieldsets(self, request: HttpRequest, obj: AdminProviderSettings | None = None) -> Any:
        whose = ["admin"] if is_superuser(request.user) else []
        key = ["new_api_key"]
        if obj:
            key = ["key", "new_api_key", *(["remove_api_key"] if obj.personal_api_key else []), "pays"]
        limits = ["monthly_limit", "monthly_budget"] if is_superuser(request.user) else ["limits"]
        usage = ["usage", "total_requests", "last_used", "created_at", "updated_at"] if obj else []
        return [
            (None, {"fields": [*whose, "provider", "is_active"]}),
            (
                _("Key"),
                {
                    "fields": [*key, "use_shared_api"],
                    "description": _("An own key comes before the shared one, where the provider allows own keys."),
                },
            ),
            *([(_("Limits and usage"), {"fields": [*limits, *usage]})] if obj or whose else []),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: AdminProviderSettings | None = None) -> tuple[str, ...]:
        shown = ("key", "pays", "usage", "limits", "total_requests", "last_used", "created_at", "updated_at")
        # A key stays with whom and where it was entered for: elsewhere it would be sent to a stranger.
        return ("admin", "provider", *shown) if obj else shown

    def get_form(
        self, request: HttpRequest, obj: AdminProviderSettings | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        form: Any = super().get_form(request, obj, change, **kwargs)
        form.owner = request.user
        for name in form.base_fields.keys() & {"admin", "provider"}:
            widget = form.base_fields[name].widget
            widget.can_add_related = widget.can_change_related = widget.can_delete_related = False
        if "provider" in form.base_fields and not is_superuser(request.user):
            taken = AdminProviderSettings.objects.filter(admin=request.user.pk).values("provider")
            form.base_fields["provider"].help_text = gettext("Those that you have no settings for yet.")
            form.base_fields["provider"].queryset = AIProvider.objects.exclude(pk__in=taken)
        return form

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"admin": request.user.pk, **super().get_changeform_initial_data(request)}

    def formfield_for_foreignkey(
        self, db_field: ForeignKey[Any, Any], request: HttpRequest, **kwargs: Any
    ) -> forms.ModelChoiceField[Model] | None:
        if db_field.name == "admin":
            kwargs["queryset"] = get_user_model()._default_manager.filter(is_staff=True)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    @admin.action(description=_("Check the own keys with the providers"), permissions=["change"])
    def check_key(self, request: HttpRequest, queryset: QuerySet[AdminProviderSettings]) -> None:
        check_keys(request, queryset, validate_personal_key)

    # -- what a limit protects -------------------------------------------------------------------------------------

    def has_delete_permission(self, request: HttpRequest, obj: AdminProviderSettings | None = None) -> bool:
        protected = obj is not None and obj.is_limited and not is_superuser(request.user)
        return not protected and super().has_delete_permission(request, obj)

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is not None and self.may_touch(request, row) and not self.has_delete_permission(request, row):
            self.message_user(request, PROTECTED, messages.ERROR)
            return HttpResponseRedirect(reverse("admin:ai_adminprovidersettings_change", args=[row.pk]))
        return super().delete_view(request, object_id, extra_context)

    @admin.action(description=_("Delete selected settings"), permissions=["delete"])
    def delete_selected(self, request: HttpRequest, queryset: QuerySet[AdminProviderSettings]) -> HttpResponse | None:
        if not all(self.has_delete_permission(request, row) for row in queryset):
            self.message_user(request, PROTECTED, messages.ERROR)
            return None
        return delete_selected(self, request, queryset)

    # -- columns ---------------------------------------------------------------------------------------------------

    @admin.display(description=_("own key"))
    def key(self, row: AdminProviderSettings) -> SafeString:
        if row.personal_api_key and not row.provider.allow_personal_keys:
            note = warning(_("not used: the provider allows no own keys"))
            return below(key_state(row), note)
        return key_state(row)

    @admin.display(description=_("who pays"))
    def pays(self, row: AdminProviderSettings) -> SafeString | str:
        try:
            return str(WHO_PAYS[choose_key_source(provider=row.provider, admin=row.admin, own=row)])
        except AIError as error:
            return warning(error)

    @admin.display(description=_("used this month"))
    def usage(self, row: AdminProviderSettings) -> SafeString:
        used = usage_reports.this_month(row)
        requests, cost = number(used.requests), money(used.cost)
        if row.monthly_limit is not None:
            requests = phrase(gettext("{used} of {limit}"), used=requests, limit=number(row.monthly_limit))
            requests = warning(requests) if row.limit_reached else requests
        if row.monthly_budget is not None:
            cost = phrase(gettext("{used} of {limit}"), used=cost, limit=money(row.monthly_budget))
            cost = warning(cost) if used.cost >= row.monthly_budget else cost
        cost = with_unpriced(with_held(cost, used.held_cost), used.unpriced)
        return format_html("{}<div>{}</div>", with_under_way(requests, used.held_requests), cost)

    @admin.display(description=_("monthly limits"))
    def limits(self, row: AdminProviderSettings) -> SafeString:
        if not row.is_limited:
            return muted(_("no limit"))
        limit = Limit(row.period(month_of().first), row.monthly_limit, row.monthly_budget)
        return below(room(usage_reports.this_month(row).standing(limit)), PROTECTED)
