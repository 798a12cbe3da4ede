"""Counting calls and holding limits."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.contrib.auth.models import AbstractUser
from django.db import transaction
from django.utils import timezone

from src.ai.exceptions import MonthlyLimitReached
from src.ai.models import AdminProviderSettings, AIModel, AIProvider


def check_monthly_limit(*, provider: AIProvider, own: AdminProviderSettings | None) -> None:
    """Refuse the call that would pass the admin's monthly limit.

    Raises:
        MonthlyLimitReached: with `retry_after`, the seconds until the next month.
    """
    if own is None or own.monthly_limit is None:
        return
    own.refresh_from_db(fields=("monthly_limit", "monthly_usage", "usage_month"))
    if own.limit_reached:
        wait = seconds_to_next_month(timezone.localtime())
        raise MonthlyLimitReached(limit=own.monthly_limit, provider_name=str(provider), retry_after=wait)


def count_success(*, model: AIModel, admin: AbstractUser) -> None:
    """Add one to the counters of the provider, the model and, where there is a row, the admin's settings."""
    with transaction.atomic():
        model.provider.increment_usage()
        model.increment_usage()
        for own in AdminProviderSettings.objects.filter(admin_id=admin.pk, provider_id=model.provider_id):
            own.increment_usage()


def seconds_to_next_month(now: datetime) -> int:
    """Whole seconds from `now` to the first moment of the next calendar month, rounded up."""
    first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    next_month = (first + timedelta(days=32)).replace(day=1)
    return int((next_month - now).total_seconds()) + 1
