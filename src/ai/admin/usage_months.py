"""The books by month."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from src.ai.admin.display import (
    NOTHING,
    below,
    code,
    exact_money,
    money,
    muted,
    number,
    room,
    with_held,
    with_under_way,
    with_unpriced,
)
from src.ai.admin.usage import BooksAdmin
from src.ai.admin.usage_filters import AdminFilter, MonthFilter, ProviderFilter
from src.ai.models import UsagePeriod
from src.ai.services import usage_reports
from src.ai.services.access import KeySource
from src.ai.services.ledger.entries import Standing
from src.core.months import month_name


class PeriodList(ChangeList):
    """The months' rows with where their limits stand."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list = list(self.result_list)
        standings = usage_reports.standings_of(self.result_list)
        for row in self.result_list:
            row.standing = standings.get(row.key)


@admin.register(UsagePeriod)
class UsagePeriodAdmin(BooksAdmin[UsagePeriod]):
    """What a month came to: of an admin at a provider, a provider, its shared key, a model, a token with a budget."""

    sortable_by = ()
    list_filter = (MonthFilter, "scope", ProviderFilter, AdminFilter)
    search_fields = ("admin_name", "model_name", "provider_slug", "token")
    search_help_text = _("Search by admin, model, provider or the first characters of a token.")
    readonly_fields = (
        "month_title",
        "whose",
        "requests_made",
        "spent",
        "held",
        "left",
        "records_link",
    )
    empty_text = _("No usage yet. What calls add up to is listed here by month.")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return PeriodList

    def get_list_display(self, request: HttpRequest) -> tuple[str, ...]:
        records = ("records_link",) if request.user.has_perm("ai.view_usagerecord") else ()
        return ("month_title", "whose", "requests_made", "spent", "tokens", "left", *records)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> UsagePeriod | None:
        row = super().get_object(request, object_id, from_field)
        if row is not None:
            row.standing = usage_reports.standings_of([row]).get(row.key)  # type: ignore[attr-defined]
        return row

    def get_fieldsets(self, request: HttpRequest, obj: UsagePeriod | None = None) -> Any:
        records = ["records_link"] if request.user.has_perm("ai.view_usagerecord") else []
        return [
            (None, {"fields": ["month_title", "whose", "provider_slug", *records]}),
            (_("Usage"), {"fields": ["requests_made", "spent", "held", "unpriced", "left", "last_used_at"]}),
            (
                _("Units"),
                {
                    "fields": [
                        ("input_tokens", "cache_read_tokens"),
                        ("output_tokens", "reasoning_tokens"),
                        ("images", "characters", "audio_seconds"),
                    ]
                },
            ),
        ]

    # -- columns ---------------------------------------------------------------------------------------------------

    @admin.display(description=_("month"))
    def month_title(self, period: UsagePeriod) -> str:
        return month_name(period.month)

    @admin.display(description=_("of"))
    def whose(self, period: UsagePeriod) -> SafeString:
        kind = capfirst(period.get_scope_display())
        if period.scope == UsagePeriod.Scope.TOKEN:
            return below(code(f"{period.token}…"), format_html("{} · <bdi>{}</bdi>", kind, period.admin_name))
        shown = period.admin_name or (code(period.model_name) if period.model_name else period.provider_slug)
        if period.scope in (UsagePeriod.Scope.ADMIN, UsagePeriod.Scope.MODEL):
            return below(shown, format_html("{} · <bdi>{}</bdi>", kind, period.provider_slug))
        return below(shown, kind)

    @admin.display(description=_("requests"))
    def requests_made(self, period: UsagePeriod) -> SafeString:
        return with_under_way(number(period.requests), period.held_requests)

    @admin.display(description=_("cost"))
    def spent(self, period: UsagePeriod) -> SafeString:
        return with_unpriced(with_held(money(period.cost), period.held_cost), period.unpriced)

    @admin.display(description=_("held"))
    def held(self, period: UsagePeriod) -> SafeString:
        return exact_money(period.held_cost)

    @admin.display(description=_("tokens, in / out"))
    def tokens(self, period: UsagePeriod) -> SafeString:
        return format_html("{} / {}", number(period.input_tokens), number(period.output_tokens))

    @admin.display(description=_("limit and what is left"))
    def left(self, period: UsagePeriod) -> SafeString:
        standing: Standing | None = period.standing  # type: ignore[attr-defined]
        return room(standing) if standing else muted(NOTHING)

    @admin.display(description=_("records"))
    def records_link(self, period: UsagePeriod) -> SafeString:
        by: dict[str, Any] = {"date": period.month, "provider": period.provider_id}
        if period.scope == UsagePeriod.Scope.ADMIN:
            by["admin"] = period.admin_id
        elif period.scope == UsagePeriod.Scope.MODEL:
            by["model"] = period.model_id
        elif period.scope == UsagePeriod.Scope.SHARED_KEY:
            by["key_source"] = KeySource.SHARED.value
        elif period.scope == UsagePeriod.Scope.TOKEN:
            by = {"date": period.month, "budget_token": period.token}
        url = f"{reverse('admin:ai_usagerecord_changelist')}?{urlencode(by)}"
        return format_html('<a href="{}">{}</a>', url, gettext("Show records"))
