"""Accounting months: in a time zone and a calendar of the settings' choosing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from django.conf import settings
from django.utils.formats import date_format

CALENDARS = ("gregorian", "jalali")


@dataclass(frozen=True, slots=True)
class Month:
    """`first` is its first day in the Gregorian calendar, whichever calendar cut it; `end` the moment it is over."""

    first: date
    end: datetime

    def __str__(self) -> str:
        return month_name(self.first)


def month_of(moment: datetime | None = None) -> Month:
    """The month of `moment` (aware; now, if none is given), by `AI_MONTH_TIME_ZONE` and `AI_MONTH_CALENDAR`."""
    zone = ZoneInfo(settings.AI_MONTH_TIME_ZONE)
    local = moment.astimezone(zone) if moment else datetime.now(zone)
    return _month(local.date(), settings.AI_MONTH_CALENDAR, zone)


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
    return Month(first, datetime.combine(following, time.min, zone))
