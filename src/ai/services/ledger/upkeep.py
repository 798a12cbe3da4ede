"""Proving, sweeping and pruning the books. Safe beside traffic, and by many processes at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, cast

from django.conf import settings
from django.db import connections, router, transaction
from django.db.models import Count, Q, QuerySet, Sum, Value
from django.db.models.functions import Coalesce
from django.utils import timezone

from src.ai.models import CostState, Period, UsageCarried, UsagePeriod, UsageRecord, UsageState, UsageText
from src.ai.services.ledger.books import SUMS, Books
from src.ai.services.ledger.entries import Settle, facts_of, periods_of

BATCH: Final = 500


# -- sweeping ----------------------------------------------------------------------------------------------------------


def sweep() -> int:
    """Turn reservations whose lease has ended into `unknown`; how many.

    `AI_CHARGE_UNKNOWN_CALLS` decides whether they are charged what was held: as one request, and at the estimate.
    """
    swept = 0
    expired = UsageRecord.objects.filter(state=UsageState.RESERVED, lease_expires_at__lte=timezone.now()).order_by("id")
    while rows := list(expired[:BATCH]):
        with transaction.atomic(using=_alias()):
            outcomes = Books(connections[_alias()]).apply([_lapsed(row) for row in rows])
        swept += sum(outcome.changed for outcome in outcomes)
    return swept


def _lapsed(row: UsageRecord) -> Settle:
    charged = settings.AI_CHARGE_UNKNOWN_CALLS
    priced = row.price_input is not None and row.price_output is not None
    return Settle(
        id=row.pk,
        facts=facts_of(row, periods_of(row)),
        held_requests=row.requests,
        state=UsageState.UNKNOWN,
        requests=row.requests if charged else 0,
        cost=row.held_cost if charged and priced else None,
        cost_state=CostState.ESTIMATED if charged and priced else CostState.UNKNOWN,
        error_code="lease_expired",
        settled_at=row.lease_expires_at,
        lapsed=True,
    )


# -- proving -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """A number of a period that is not what its records come to."""

    key: str
    name: str
    counted: Any
    recorded: Any


def reconcile(*, fix: bool = False) -> Iterator[Difference]:
    """Each number of a period that differs from its records plus what it carries over; with `fix`, put right.

    One period at a time, under its lock: exact beside traffic.
    """
    keys = set(UsagePeriod.objects.values_list("key", flat=True))
    for period in _periods_of_records():
        if period.key not in keys:
            UsagePeriod.objects.get_or_create(key=period.key, defaults=period.names)
            keys.add(period.key)
    for key in sorted(keys):
        with transaction.atomic(using=_alias()):
            row = UsagePeriod.objects.select_for_update(no_key=True).filter(key=key).first()
            if row is None:
                continue
            found = list(_differences(row))
            if fix and found:
                UsagePeriod.objects.filter(key=key).update(**{one.name: one.recorded for one in found})
        yield from found


def _differences(period: UsagePeriod) -> Iterator[Difference]:
    recorded = records_of(period).aggregate(**_sums())
    carried = UsageCarried.objects.filter(period=period).first()
    for name in SUMS:
        expected = recorded[f"all_{name}"] + (getattr(carried, name) if carried else 0)
        if getattr(period, name) != expected:
            yield Difference(period.key, name, getattr(period, name), expected)


def _periods_of_records() -> Iterator[Period]:
    """Every period that a record counts in."""
    who, what = (
        ("admin_id", "admin_name", "key_source", "budget_token"),
        ("provider_id", "provider_slug", "model_id", "model_name"),
    )
    for row in UsageRecord.objects.order_by().values_list("month", *who, *what, named=True).distinct():
        yield from periods_of(row)


def records_of(period: UsagePeriod) -> QuerySet[UsageRecord]:
    """The records that a period counts."""
    records = UsageRecord.objects.filter(month=period.month)
    if period.scope == UsagePeriod.Scope.MODEL:
        return records.filter(model=period.model_id)
    if period.scope == UsagePeriod.Scope.TOKEN:
        return records.filter(budget_token=period.token)
    records = records.filter(provider=period.provider_id)
    if period.scope == UsagePeriod.Scope.ADMIN:
        return records.filter(admin=period.admin_id)
    return records.filter(key_source="shared") if period.scope == UsagePeriod.Scope.SHARED_KEY else records


def _sums() -> dict[str, Any]:
    """The sums of records by the columns of a period, as aggregates."""
    held = Q(state=UsageState.RESERVED)
    settled = ~held

    def of(name: str, where: Q = settled) -> Any:
        nothing: Any = Value(Decimal(0), output_field=cast(Any, UsageRecord._meta.get_field(name)))
        return Coalesce(Sum(name, filter=where), nothing)

    sums = {
        "held_requests": of("requests", held),
        "held_cost": of("held_cost", held),
        "unpriced": Count("pk", filter=settled & Q(cost__isnull=True)),
    }
    return {f"all_{name}": sums.get(name) or of(name) for name in SUMS}


# -- pruning -----------------------------------------------------------------------------------------------------------


def prune(older_than: timedelta, *, batch: int = BATCH) -> int:
    """Delete the records that were made longer ago and are not open, with their texts; how many.

    Their periods keep what they counted: it is carried over in the transaction that deletes them.
    """
    before = timezone.now() - older_than
    deleted = 0
    while count := _prune_batch(before, batch):
        deleted += count
    return deleted


def _prune_batch(before: datetime, batch: int) -> int:
    old = UsageRecord.objects.filter(created_at__lt=before).exclude(state=UsageState.RESERVED)
    rows = list(old.order_by("created_at")[:batch])
    if not rows:
        return 0
    with transaction.atomic(using=_alias()):
        books = Books(connections[_alias()])
        books.lock({period.key: period for row in rows for period in periods_of(row)})
        # Another process may have been faster, and a swept call may have come back meanwhile.
        rows = list(old.filter(pk__in=[row.pk for row in rows]))
        books.carry_over(rows)
        UsageRecord.objects.filter(pk__in=[row.pk for row in rows]).delete()
        UsageText.objects.filter(pk__in=[row.pk for row in rows]).delete()
    return len(rows)


def _alias() -> str:
    return router.db_for_write(UsageRecord)
