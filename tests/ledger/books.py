"""What a test asks of the books."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from src.ai.models import UsagePeriod, UsageRecord, UsageState
from src.ai.services.ledger.upkeep import reconcile
from src.ai.services.ledger.writer import writer


def assert_true(*, nothing_open: bool = True) -> None:
    """Every counter is the sum of its records, and no call is left open."""
    assert writer.drain(10)
    assert list(reconcile()) == []
    if nothing_open:
        assert not UsageRecord.objects.filter(state=UsageState.RESERVED).exists()


def records(**facts: Any) -> list[UsageRecord]:
    """The records with these facts, oldest first."""
    return list(UsageRecord.objects.filter(**facts).order_by("id"))


def states(**facts: Any) -> list[str]:
    return [record.state for record in records(**facts)]


def only_record() -> UsageRecord:
    (record,) = records()
    return record


def period(scope: UsagePeriod.Scope = UsagePeriod.Scope.ADMIN, **facts: Any) -> UsagePeriod:
    """The one period of this kind."""
    return UsagePeriod.objects.get(scope=scope, **facts)


def expire_leases() -> None:
    """As if the longest time that a call may take had gone by."""
    past = timezone.now() - timedelta(seconds=1)
    UsageRecord.objects.filter(state=UsageState.RESERVED).update(lease_expires_at=past)


@contextmanager
def locked() -> Iterator[None]:
    """While somebody else writes what every call has to write: a period or, on SQLite, anything."""
    with transaction.atomic():
        UsagePeriod.objects.select_for_update().get(scope=UsagePeriod.Scope.ADMIN)
        yield
