"""Accounting months: in a time zone and a calendar of the settings' choosing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from time import time as clock
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.utils.formats import date_format

CALENDARS = ("gregorian", "jalali")


@dataclass(frozen=True, slots=True)
class Month:
    """`first` is its first day in the Gregorian calendar, whichever calendar cut it; `end` the moment it is over.

    The same moments in seconds since 1970 are `begins_at` and `ends_at`.
    """

    first: date
    begin: datetime
    end: datetime
    begins_at: float
    ends_at: float

    def __str__(self) -> str:
        return month_name(self.first)


def month_of(moment: datetime | None = None) -> Month:
    """The month of `moment` (aware; now, if none is given), by `AI_MONTH_TIME_ZONE` and `AI_MONTH_CALENDAR`."""
    if moment is not None:
        return _month_at(moment)
    global _current
    if _current is None or not _current.begins_at <= clock() < _current.ends_at:
        _current = _month_at(datetime.now(UTC))
    return _current


def month_name(first: date) -> str:
    """How people call the month that begins on `first`: "November 2026", "آذر 1405"."""
    if settings.AI_MONTH_CALENDAR == "jalali":
        import jdatetime

        return str(jdatetime.date.fromgregorian(date=first, locale="fa_IR").strftime("%B %Y"))
    return date_format(first, "F Y")


@lru_cache(maxsize=64)
def _month(day: date, calendar: str, zone: ZoneInfo) -> Month:
    if calendar == "jalali":
        import jdatetime  # most sites don't need it

        start = jdatetime.date.fromgregorian(date=day).replace(day=1)
        first, following = start.togregorian(), (start + timedelta(days=31)).replace(day=1).togregorian()
    else:
        first = day.replace(day=1)
        following = (first + timedelta(days=31)).replace(day=1)
    begin, end = (datetime.combine(day, time.min, zone).astimezone(UTC) for day in (first, following))
    return Month(first, begin, end, begin.timestamp(), end.timestamp())


_current: Month | None = None  # what it was when it was last asked for


def _month_at(moment: datetime) -> Month:
    zone = ZoneInfo(settings.AI_MONTH_TIME_ZONE)
    return _month(moment.astimezone(zone).date(), settings.AI_MONTH_CALENDAR, zone)


@receiver(setting_changed)
def _forget(*, setting: str, **_: Any) -> None:
    global _current
    if setting.startswith("AI_MONTH_"):
        _current = None
