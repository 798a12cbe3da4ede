"""Counters that rows show and the books hold."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any, Generic, TypeVar

from django.db import models, transaction
from django.db.models import F, Max, Subquery, Sum
from django.db.models.functions import Coalesce
from django.utils import timezone

from src.ai.models.usage import Period, UsageCarried, UsagePeriod
from src.core.months import month_of

C = TypeVar("C", bound="Counted")


class FromBooks:
    """An attribute that a query has annotated or, where it has not, one that is asked for when it is read."""

    def __init__(self, default: Any) -> None:
        self.default = default

    def __set_name__(self, owner: type[Counted], name: str) -> None:
        self.name = name

    def __get__(self, row: Counted | None, owner: type[Counted]) -> Any:
        if row is None:
            return self
        found = owner._default_manager.filter(pk=row.pk).values_list(self.name, flat=True).first()
        value = row.__dict__[self.name] = self.default if found is None else found
        return value


class CountedManager(models.Manager[C], Generic[C]):
    """Rows with their counters, which can be filtered and ordered by."""

    def get_queryset(self) -> models.QuerySet[C]:
        rows: models.QuerySet[C] = super().get_queryset().annotate(**self.model.usage_annotations())
        return rows


class Counted(models.Model):
    """A row whose charged calls are counted in `UsagePeriod`: no call ever writes to the row itself."""

    total_requests = FromBooks(0)
    last_used_at = FromBooks(None)

    class Meta:
        abstract = True

    @classmethod
    def usage_match(cls) -> Mapping[str, Any]:
        """Which of `UsagePeriod` are this row's, as a filter of a subquery."""
        raise NotImplementedError

    @classmethod
    def usage_annotations(cls) -> dict[str, Any]:
        """The counters as expressions, by their names."""
        periods = UsagePeriod.objects.filter(**cls.usage_match()).order_by().values("scope")
        return {
            "total_requests": Coalesce(Subquery(periods.annotate(all=Sum("requests")).values("all")), 0),
            "last_used_at": Subquery(periods.annotate(last=Max("last_used_at")).values("last")),
        }

    def period(self, month: date) -> Period:
        """This row's period."""
        raise NotImplementedError

    def increment_usage(self) -> None:
        """Count one call that went past the books, safely under concurrency."""
        period = self.period(month_of().first)
        with transaction.atomic():
            UsagePeriod.objects.get_or_create(key=period.key, defaults=period.names)
            one_more = {"requests": F("requests") + 1}
            UsagePeriod.objects.filter(key=period.key).update(**one_more, last_used_at=timezone.now())
            UsageCarried.objects.get_or_create(period_id=period.key)
            UsageCarried.objects.filter(period_id=period.key).update(**one_more)

    def refresh_from_db(self, using: str | None = None, fields: Any = None, from_queryset: Any = None) -> None:
        """Read again, the counters too."""
        counters = self.usage_annotations().keys()
        columns = None if fields is None else [name for name in fields if name not in counters]
        if columns is None or columns:
            super().refresh_from_db(using, columns, from_queryset)
        if wanted := counters if fields is None else counters & set(fields):
            self.__dict__.update(type(self)._default_manager.filter(pk=self.pk).values(*wanted).get())
