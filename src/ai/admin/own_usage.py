"""One's own usage: what is left of the limits, one's calls, the months before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from django import forms
from django.contrib import admin
from django.contrib.admin.views.main import PAGE_VAR
from django.contrib.auth.models import AbstractUser
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.timezone import localtime
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from src.ai.admin.base import is_staff
from src.ai.admin.display import (
    below,
    duration,
    meter,
    moment,
    money,
    muted,
    number,
    phrase,
    warning,
    with_held,
    with_under_way,
    with_unpriced,
)
from src.ai.admin.usage import BooksAdmin, cost_of, model_of, state_of, units_of
from src.ai.models import Usage, UsagePeriod, UsageRecord, UsageState
from src.ai.services import usage_reports
from src.ai.services.usage import Allowance, allowances
from src.core.keyset import page_of
from src.core.months import month_name, month_of

OWN_CALLS: Final = 25  # on a page


class CallsForm(forms.Form):
    """Which of one's own calls to list."""

    provider = forms.ChoiceField(label=_("Provider"), required=False)
    state = forms.ChoiceField(label=_("State"), required=False)

    def __init__(self, data: Any, providers: Iterable[tuple[int, str]]) -> None:
        super().__init__(data)
        anything = [("", _("All"))]
        fields = cast(dict[str, forms.ChoiceField], self.fields)
        fields["provider"].choices = [*anything, *((str(pk), name) for pk, name in providers)]
        fields["state"].choices = [*anything, *UsageState.choices]

    @property
    def chosen(self) -> dict[str, str]:
        """What is filtered by; what is no choice filters nothing."""
        self.is_valid()
        return {name: value for name, value in self.cleaned_data.items() if value}


@admin.register(Usage)
class OwnUsageAdmin(BooksAdmin[Usage]):
    """One page: the limits and the calls of whoever opens it."""

    def has_view_permission(self, request: HttpRequest, obj: Usage | None = None) -> bool:
        return is_staff(request.user)

    def get_urls(self) -> list[URLPattern]:
        return [path("", self.admin_site.admin_view(self.changelist_view), name="ai_usage_changelist")]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        user = cast(AbstractUser, request.user)
        periods = usage_reports.own_periods(user)
        own = allowances(user)
        names = {allowance.provider["slug"]: allowance.provider["name"] for allowance in own}
        providers = {row.provider_id or 0: names.get(row.provider_slug, row.provider_slug) for row in periods}
        form = CallsForm(request.GET, providers.items())
        records = usage_reports.own_records(user).filter(**form.chosen)
        try:
            page = page_of(records, request.GET.get(PAGE_VAR, ""), OWN_CALLS)
        except ValueError:
            return HttpResponseRedirect(request.path)
        month = month_of()
        context = {
            **self.admin_site.each_context(request),
            "title": gettext("My usage"),
            "opts": self.opts,
            "media": self.media,
            "month": month,
            "resets_at": localtime(month.end),
            "allowances": _allowances_table(own),
            "form": form,
            "calls": _calls_table(page.rows),
            "newest_url": f"?{urlencode(form.chosen)}" if page.newer else "",
            "newer_url": f"?{urlencode({**form.chosen, PAGE_VAR: page.newer})}" if page.newer else "",
            "older_url": f"?{urlencode({**form.chosen, PAGE_VAR: page.older})}" if page.older else "",
            "before": _months_table([row for row in periods if row.month != month.first], providers),
        }
        return TemplateResponse(request, "admin/ai/usage/change_list.html", context)


@dataclass(frozen=True, slots=True)
class Table:
    """What a table of a page shows."""

    heads: Sequence[object]
    rows: Sequence[Sequence[object]]


def _allowances_table(own: Iterable[Allowance]) -> Table:
    heads = (_("Provider"), _("Requests"), _("Left"), _("Cost"), _("Left of the budget"))
    return Table(heads, [_allowance_row(allowance) for allowance in own])


def _allowance_row(own: Allowance) -> Sequence[object]:
    requests = budget = muted(_("no limit"))
    if own.monthly_limit is not None:
        bar = meter(own.requests + own.held_requests, own.monthly_limit)
        requests = _left(number(own.requests_left), number(own.monthly_limit), bar, is_over=not own.requests_left)
    if own.monthly_budget is not None:
        bar = meter(float(own.cost + own.held_cost), float(own.monthly_budget))
        budget = _left(money(own.budget_left), money(own.monthly_budget), bar, is_over=not own.budget_left)
    return (
        own.provider["name"],
        with_under_way(number(own.requests), own.held_requests),
        requests,
        with_unpriced(with_held(money(own.cost), own.held_cost), own.unpriced),
        budget,
    )


def _left(left: SafeString, limit: SafeString, bar: SafeString, *, is_over: bool) -> SafeString:
    text = phrase(gettext("{left} of {limit}"), left=left, limit=limit)
    return below(warning(text) if is_over else text, bar)


def _calls_table(records: Iterable[UsageRecord]) -> Table:
    heads = (_("When"), _("Model"), _("State"), _("Tokens, in / out"), _("Cost"), _("Time"))
    rows = [
        (
            moment(record.created_at),
            model_of(record),
            state_of(record),
            units_of(record),
            cost_of(record, money(record.cost)),
            duration(record.latency_ms),
        )
        for record in records
    ]
    return Table(heads, rows)


def _months_table(periods: Iterable[UsagePeriod], providers: Mapping[int, str]) -> Table:
    heads = (_("Month"), _("Provider"), _("Requests"), _("Cost"), _("Tokens, in / out"))
    rows = [
        (
            month_name(row.month),
            providers[row.provider_id or 0],
            number(row.requests),
            with_unpriced(money(row.cost), row.unpriced),
            format_html("{} / {}", number(row.input_tokens), number(row.output_tokens)),
        )
        for row in periods
    ]
    return Table(heads, rows)
