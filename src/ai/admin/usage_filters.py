"""Filters of the books: what they offer comes from the periods, as the records are too many to ask."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.dateparse import parse_date, parse_datetime
from django.utils.timezone import is_naive, localdate, make_aware
from django.utils.translation import gettext_lazy as _

from src.ai.models import UsagePeriod, UsageRecord
from src.ai.providers.base import OPERATIONS
from src.ai.services.access import KeySource
from src.ai.services.usage_reports import known_months, known_names, records_of_month
from src.core.months import month_name

DATES = DATE, SINCE, UNTIL = "date", "created_at__gte", "created_at__lt"


class DateFilter(admin.ListFilter):
    """Today, the past week, an accounting month, or from one moment to another."""

    title = _("date")
    template = "admin/ai/date_filter.html"

    def __init__(self, request: HttpRequest, params: Any, model: Any, model_admin: admin.ModelAdmin[Any]) -> None:
        super().__init__(request, params, model, model_admin)
        self.chosen: dict[str, str] = {name: params.pop(name)[-1] for name in DATES if name in params}
        self.months = known_months()
        self.others: list[tuple[str, str]] = []  # what else is filtered by, for the form with the two dates

    def has_output(self) -> bool:
        return True

    def expected_parameters(self) -> list[str | None]:
        return list(DATES)

    def choices(self, changelist: Any) -> Iterator[Any]:
        self.others = [
            (name, value)
            for name, value in changelist.params.items()
            if name not in DATES and name in changelist.filter_params
        ]
        named: list[tuple[str, Any]] = [("today", _("Today")), ("week", _("Past 7 days"))]
        named += [(str(month), month_name(month)) for month in self.months]
        yield {
            "selected": not self.chosen,
            "query_string": changelist.get_query_string(remove=DATES),
            "display": _("Any date"),
        }
        for value, name in named:
            yield {
                "selected": self.chosen.get(DATE) == value,
                "query_string": changelist.get_query_string({DATE: value}, DATES),
                "display": name,
            }

    @property
    def since(self) -> str:
        """The day that the form shows."""
        return self.chosen.get(SINCE, "")[:10]

    @property
    def until(self) -> str:
        return self.chosen.get(UNTIL, "")[:10]

    @property
    def month(self) -> date | None:
        """The month, where that is what was chosen."""
        try:
            return parse_date(self.chosen.get(DATE, ""))
        except ValueError as error:
            raise IncorrectLookupParameters(error) from error

    def queryset(self, request: HttpRequest, queryset: QuerySet[UsageRecord]) -> QuerySet[UsageRecord]:
        chosen = self.chosen.get(DATE, "")
        if chosen in ("today", "week"):
            days = timedelta(days=0 if chosen == "today" else 7)
            queryset = queryset.filter(created_at__gte=make_aware(datetime.combine(localdate() - days, time.min)))
        elif self.month is not None:
            queryset = records_of_month(queryset, self.month)
        elif chosen:
            raise IncorrectLookupParameters(chosen)
        typed = {name: _moment(self.chosen[name]) for name in (SINCE, UNTIL) if self.chosen.get(name)}
        return queryset.filter(**typed)


def _moment(text: str) -> datetime:
    """A day or a moment as people type it."""
    try:
        day = parse_date(text)
        moment = datetime.combine(day, time.min) if day else parse_datetime(text)
    except ValueError as error:
        raise IncorrectLookupParameters(error) from error
    if moment is None:
        raise IncorrectLookupParameters(text)
    return make_aware(moment) if is_naive(moment) else moment


class NamedFilter(admin.SimpleListFilter):
    """By one of those with usage, through their id; names may have changed."""

    scope: ClassVar[UsagePeriod.Scope]

    @property
    def pk(self) -> int | None:
        """The id that was chosen."""
        try:
            pk = None if self.value() is None else int(self.value() or "")
        except ValueError as error:
            raise IncorrectLookupParameters(error) from error
        if pk is not None and not 0 <= pk < 2**63:
            raise IncorrectLookupParameters(pk)
        return pk

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> list[tuple[str, str]]:
        return [(str(pk), name) for pk, name in known_names(self.scope, self.pk)]

    def has_output(self) -> bool:
        return True

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset if self.pk is None else queryset.filter(**{str(self.parameter_name): self.pk})


class ProviderFilter(NamedFilter):
    """By provider."""

    title = _("provider")
    parameter_name = "provider"
    scope = UsagePeriod.Scope.PROVIDER


class AdminFilter(NamedFilter):
    """By admin."""

    title = _("admin")
    parameter_name = "admin"
    scope = UsagePeriod.Scope.ADMIN


class ModelFilter(NamedFilter):
    """By model."""

    title = _("model")
    parameter_name = "model"
    scope = UsagePeriod.Scope.MODEL


class KeySourceFilter(admin.SimpleListFilter):
    """By whose key paid."""

    title = _("whose key")
    parameter_name = "key_source"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> list[tuple[str, Any]]:
        return [(source.value, KEY_SOURCES[source]) for source in KeySource]

    def queryset(self, request: HttpRequest, queryset: QuerySet[UsageRecord]) -> QuerySet[UsageRecord]:
        return queryset.filter(key_source=self.value()) if self.value() else queryset


KEY_SOURCES = {
    KeySource.PERSONAL: _("the admin's own"),
    KeySource.SHARED: _("the shared one"),
    KeySource.NONE_NEEDED: _("none needed"),
}


class BudgetTokenFilter(admin.SimpleListFilter):
    """By the token whose budget paid: by links alone, as there may be thousands."""

    title = _("token whose budget paid")
    parameter_name = "budget_token"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> list[tuple[str, str]]:
        return [(self.value() or "", f"{self.value()}…")] if self.value() else []

    def queryset(self, request: HttpRequest, queryset: QuerySet[UsageRecord]) -> QuerySet[UsageRecord]:
        return queryset.filter(budget_token=self.value()) if self.value() else queryset


class CapabilityFilter(admin.SimpleListFilter):
    """By capability, among those that carry endpoints."""

    title = _("capability")
    parameter_name = "capability"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> list[tuple[str, str]]:
        return [(name, name) for name in OPERATIONS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[UsageRecord]) -> QuerySet[UsageRecord]:
        return queryset.filter(capability=self.value()) if self.value() else queryset


class MonthFilter(admin.SimpleListFilter):
    """By accounting month."""

    title = _("month")
    parameter_name = "month"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> list[tuple[str, str]]:
        return [(str(month), month_name(month)) for month in known_months()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[UsagePeriod]) -> QuerySet[UsagePeriod]:
        try:
            month = parse_date(self.value() or "")
        except ValueError as error:
            raise IncorrectLookupParameters(error) from error
        return queryset.filter(month=month) if month else queryset
