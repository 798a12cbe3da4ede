"""What the books tell people: totals, names to filter by, where limits stand, an admin's months."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, TypeVar, cast

from django.contrib.auth.models import AbstractUser
from django.db.models import Count, F, Max, OuterRef, Q, QuerySet, Subquery, Sum, Value
from django.db.models.functions import Concat

from src.ai.models import (
    AdminProviderSettings,
    AIProvider,
    APIToken,
    Period,
    UsageCarried,
    UsagePeriod,
    UsageRecord,
    UsageState,
)
from src.ai.models.counted import Counted
from src.ai.services.ledger.entries import Limit, Standing, to_units
from src.ai.services.usage import limits_of_admin
from src.core.months import month_of

C = TypeVar("C", bound=Counted)
Scope = UsagePeriod.Scope

MOST_SUMMED: Final = 100_000  # records that are added up without being asked to
MOST_COUNTED: Final = 1_000
MOST_NAMES: Final = 20
MOST_MONTHS: Final = 13
SLACK: Final = timedelta(days=1)  # a retry is made a little after the moment that decided its month

_NAME_OF: Final = {Scope.ADMIN: "admin_name", Scope.PROVIDER: "provider_slug", Scope.MODEL: "model_name"}
_ID_OF: Final = {Scope.ADMIN: "admin_id", Scope.PROVIDER: "provider_id", Scope.MODEL: "model_id"}


# -- records -----------------------------------------------------------------------------------------------------------


def records_of_month(records: QuerySet[UsageRecord], first: date) -> QuerySet[UsageRecord]:
    """Those of the accounting month that begins on `first`."""
    noon = datetime.combine(first, time(12), UTC)
    begin, end = noon - timedelta(hours=12) - SLACK, month_of(noon).end + SLACK
    return records.filter(month=first, created_at__gte=begin, created_at__lt=end)


def find_records(records: QuerySet[UsageRecord], term: str) -> QuerySet[UsageRecord]:
    """Those of the request with this id, else those whose admin's or model's name has `term` in it.

    The names are looked up in the periods, which are few: each of these ways goes by an index.
    """
    if UsageRecord.objects.filter(request_id=term).exists():
        return records.filter(request_id=term)
    periods = UsagePeriod.objects.order_by()
    admins = periods.filter(scope=Scope.ADMIN, admin_name__icontains=term).values_list("admin_id", flat=True)
    models = periods.filter(scope=Scope.MODEL, model_name__icontains=term).values_list("model_id", flat=True)
    return records.filter(Q(admin__in=list(admins.distinct())) | Q(model__in=list(models.distinct())))


def count_unknown_this_month() -> int:
    """How many of this month's calls ended in a way that nobody knows, up to `MOST_COUNTED`."""
    unknown = UsageRecord.objects.filter(state=UsageState.UNKNOWN)
    return records_of_month(unknown, month_of().first)[:MOST_COUNTED].count()


# -- totals ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Totals:
    """What a set of records comes to. `records` is how many they are; `None` where that was not counted."""

    records: int | None
    requests: int
    held_requests: int
    cost: Decimal
    held_cost: Decimal
    unpriced: int
    input_tokens: int
    output_tokens: int


_SUMMED: Final = ("requests", "held_requests", "cost", "held_cost", "unpriced", "input_tokens", "output_tokens")


def totals_of_periods(
    *,
    month: date | None = None,
    provider: int | None = None,
    admin: int | None = None,
    model: int | None = None,
    shared_key: bool = False,
) -> Totals | None:
    """The totals of all records of the given month, provider … out of the periods; `None` where no periods tell them.

    What periods carry that no record backs is left out, so that they are the totals of the records there are.
    """
    scopes = [Scope.ADMIN] * (admin is not None) + [Scope.MODEL] * (model is not None) + [Scope.SHARED_KEY] * shared_key
    if len(scopes) > 1:
        return None
    of = {"month": month, "provider": provider, "admin": admin, "model": model}
    where = {"scope": (scopes or [Scope.PROVIDER])[0], **{name: value for name, value in of.items() if value}}
    all_sums = {f"all_{name}": Sum(name) for name in _SUMMED}
    counted = UsagePeriod.objects.filter(**where).aggregate(**all_sums)
    carried = UsageCarried.objects.filter(**{f"period__{name}": value for name, value in where.items()})
    without = carried.aggregate(**all_sums)
    return _totals({name: (counted[name] or 0) - (without[name] or 0) for name in all_sums})


def totals_of_records(records: QuerySet[UsageRecord], *, most: int | None = MOST_SUMMED) -> Totals | None:
    """The totals of the records themselves; `None` where there are more than `most`."""
    held = Q(state=UsageState.RESERVED)
    columns = ("pk", "state", "requests", "cost", "held_cost", "input_tokens", "output_tokens")
    chosen = records.order_by().values(*columns)
    found = (chosen if most is None else chosen[: most + 1]).aggregate(
        all_records=Count("pk"),
        all_requests=Sum("requests", filter=~held),
        all_held_requests=Sum("requests", filter=held),
        all_cost=Sum("cost", filter=~held),
        all_held_cost=Sum("held_cost", filter=held),
        all_unpriced=Count("pk", filter=~held & Q(cost__isnull=True)),
        all_input_tokens=Sum("input_tokens", filter=~held),
        all_output_tokens=Sum("output_tokens", filter=~held),
    )
    if most is not None and found["all_records"] > most:
        return None
    return _totals(found)


def _totals(found: Mapping[str, Any]) -> Totals:
    sums = {name: found[f"all_{name}"] or 0 for name in _SUMMED}
    cost, held_cost = Decimal(sums.pop("cost")), Decimal(sums.pop("held_cost"))
    return Totals(records=found.get("all_records"), cost=cost, held_cost=held_cost, **sums)


# -- names -------------------------------------------------------------------------------------------------------------


def known_months() -> list[date]:
    """The months that there is usage of, the last first."""
    months = UsagePeriod.objects.filter(scope=Scope.PROVIDER).order_by("-month").values_list("month", flat=True)
    return list(months.distinct()[:MOST_MONTHS])


def known_names(scope: UsagePeriod.Scope, chosen: int | None = None) -> list[tuple[int, str]]:
    """Those with usage by id and name: the ones used last, and `chosen` in any case."""
    pk, name = _ID_OF[scope], _NAME_OF[scope]
    periods = UsagePeriod.objects.filter(scope=scope).order_by().values_list(pk, name, "provider_slug")
    if scope is Scope.ADMIN:
        periods = UsagePeriod.objects.filter(scope=scope).order_by().values_list(pk, name)
    ranked = periods.annotate(last=Max("last_used_at")).order_by(F("last").desc(nulls_last=True))
    found = list(ranked[:MOST_NAMES])
    if chosen is not None and all(row[0] != chosen for row in found):
        found += list(ranked.filter(**{pk: chosen})[:1])
    names: dict[int, str] = {}
    for row in found:
        names.setdefault(row[0], f"{row[2]}: {row[1]}" if scope is Scope.MODEL else row[1])
    return sorted(names.items(), key=lambda item: item[1].casefold())


# -- this month and its limits -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Used:
    """What was used in a month, and what calls under way may add."""

    requests: int
    held_requests: int
    cost: Decimal
    held_cost: Decimal
    unpriced: int

    def standing(self, limit: Limit) -> Standing:
        """Where the limit stands."""
        return Standing(limit, self.requests + self.held_requests, to_units(self.cost + self.held_cost))


def with_this_month(rows: QuerySet[C]) -> QuerySet[C]:
    """The rows with what they have used this month, for `this_month`."""
    annotated: QuerySet[C] = rows.annotate(**_used("month", rows.model.usage_match()))
    return annotated


def with_shared_key(providers: QuerySet[AIProvider]) -> QuerySet[AIProvider]:
    """The providers with what their shared keys have used this month, for `this_month_of_shared_key`."""
    return providers.annotate(**_used("shared", {"scope": Scope.SHARED_KEY, "provider": OuterRef("pk")}))


def with_token_month(tokens: QuerySet[APIToken]) -> QuerySet[APIToken]:
    """The tokens with what was used this month of their budgets, for `this_month_of_token`."""
    scope, month = Scope.TOKEN.value, month_of().first
    key = Concat(Value(f"{scope}:"), OuterRef("token_key"), Value(f":{month}"))
    annotated: QuerySet[APIToken] = tokens.annotate(**_used("token", {"key": key}))
    return annotated


def this_month_of_token(token: APIToken) -> Used:
    """What was used of a token's budget this month; it comes from `with_token_month`."""
    return _read(token, "token")


def this_month(row: Counted) -> Used:
    """What a row has used this month; it comes from `with_this_month`."""
    return _read(row, "month")


def this_month_of_shared_key(provider: AIProvider) -> Used:
    """What a provider's shared key has used this month; it comes from `with_shared_key`."""
    return _read(provider, "shared")


def _used(prefix: str, match: Mapping[str, Any]) -> dict[str, Any]:
    periods = UsagePeriod.objects.filter(**match, month=month_of().first)
    return {f"{prefix}_{field.name}": Subquery(periods.values(field.name)[:1]) for field in fields(Used)}


def _read(row: Any, prefix: str) -> Used:
    used = {field.name: getattr(row, f"{prefix}_{field.name}") or 0 for field in fields(Used)}
    cost, held_cost = Decimal(used.pop("cost")), Decimal(used.pop("held_cost"))
    return Used(cost=cost, held_cost=held_cost, **used)


def standings_of(periods: Iterable[UsagePeriod]) -> dict[str, Standing]:
    """Where those of the periods stand that a limit holds for now, by their keys; in a query for each kind of limit."""
    this_month = month_of().first
    limited = (Scope.ADMIN, Scope.SHARED_KEY, Scope.TOKEN)
    current = [row for row in periods if row.month == this_month and row.scope in limited]
    tokens = [row for row in current if row.scope == Scope.TOKEN]
    return {**_standings_of_tokens(tokens), **_standings([row for row in current if row not in tokens])}


def _standings_of_tokens(current: Iterable[UsagePeriod]) -> dict[str, Standing]:
    rows = {row.token: row for row in current}
    if not rows:
        return {}
    found = APIToken.objects.filter(token_key__in=rows).values_list("token_key", "monthly_budget")
    return {rows[token].key: _standing(rows[token], None, budget) for token, budget in found if budget is not None}


def _standings(current: Sequence[UsagePeriod]) -> dict[str, Standing]:
    if not current:
        return {}
    providers = AIProvider.objects.in_bulk({row.provider_id for row in current})
    settings = AdminProviderSettings.objects.filter(
        provider__in=providers, admin__in={row.admin_id for row in current if row.admin_id}
    )
    own: dict[tuple[int | None, int | None], AdminProviderSettings] = {}
    own.update({(row.admin_id, row.provider_id): row for row in settings})
    found = {}
    for row in current:
        provider = providers.get(cast(int, row.provider_id))
        if provider is None:
            continue
        limits: tuple[int | None, Decimal | None] = (None, provider.shared_monthly_budget)
        if row.scope == Scope.ADMIN:
            limits = limits_of_admin(provider, own.get((row.admin_id, row.provider_id)))
        if limits != (None, None):
            found[row.key] = _standing(row, *limits)
    return found


def _standing(row: UsagePeriod, requests: int | None, budget: Decimal | None) -> Standing:
    limit = Limit(_period(row), requests, budget)
    return Standing(limit, row.requests + row.held_requests, to_units(row.cost + row.held_cost))


def _period(row: UsagePeriod) -> Period:
    return Period(row.key, Scope(row.scope), row.month, row.provider_id or 0, row.provider_slug, row.admin_id)


# -- an admin's own ----------------------------------------------------------------------------------------------------


def own_records(admin: AbstractUser) -> QuerySet[UsageRecord]:
    """The admin's calls."""
    return UsageRecord.objects.filter(admin=admin.pk)


def own_periods(admin: AbstractUser) -> list[UsagePeriod]:
    """What the admin used at each provider in this month and the twelve before, the last first; in one query."""
    since = (month_of().first - timedelta(days=368)).replace(day=1)
    periods = UsagePeriod.objects.filter(scope=Scope.ADMIN, admin=admin.pk, month__gte=since)
    return list(periods.order_by("-month", "provider_slug"))
