"""Pages of rows by their place instead of their number: the five-thousandth costs what the first one does.

The rows have a `created_at` and are shown newest first; their primary key decides between those of the same moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic, TypeVar

from django.core.exceptions import ValidationError
from django.db.models import Model, Q, QuerySet

M = TypeVar("M", bound=Model)

ORDER: Final = ("-created_at", "-pk")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TICK: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands."""

    created_at: datetime
    pk: Any


@dataclass(frozen=True, slots=True)
class Page(Generic[M]):
    """Some rows, and the cursors of their neighbours; empty where there are none."""

    rows: list[M]
    newer: str = ""
    older: str = ""


def older_than(rows: QuerySet[M, Any], place: Place | None) -> QuerySet[M, Any]:
    """Those of `rows` that come after the place, newest first; all of them without one."""
    if place is not None:
        # The first condition alone is what an index can begin at.
        rows = rows.filter(created_at__lte=place.created_at)
        rows = rows.filter(Q(created_at__lt=place.created_at) | Q(pk__lt=place.pk))
    return rows.order_by(*ORDER)


def newer_than(rows: QuerySet[M, Any], place: Place) -> QuerySet[M, Any]:
    """Those of `rows` that come before the place, the nearest first."""
    rows = rows.filter(created_at__gte=place.created_at)
    rows = rows.filter(Q(created_at__gt=place.created_at) | Q(pk__gt=place.pk))
    return rows.order_by("created_at", "pk")


def page_of(rows: QuerySet[M, M], cursor: str, size: int) -> Page[M]:
    """The page at the cursor, in one query, or two where that turns out to be the first. Empty: the first page.

    Raises:
        ValueError: this is no cursor.
    """
    if not cursor:
        return _page(list(older_than(rows, None)[: size + 1]), size)
    direction, place = _read(cursor, rows.model)
    if direction == "older":
        return _page(list(older_than(rows, place)[: size + 1]), size, is_first=False)
    found = list(newer_than(rows, place)[: size + 1])
    if len(found) <= size:
        return page_of(rows, "", size)
    page = found[size - 1 :: -1]
    return Page(page, newer=_cursor("newer", page[0]), older=_cursor("older", page[-1]))


def _page(found: list[M], size: int, *, is_first: bool = True) -> Page[M]:
    page = found[:size]
    newer = "" if is_first or not page else _cursor("newer", page[0])
    return Page(page, newer=newer, older=_cursor("older", page[-1]) if len(found) > size else "")


def _cursor(direction: str, row: Any) -> str:
    return f"{direction}.{(row.created_at - _EPOCH) // _TICK}.{row.pk}"


def _read(cursor: str, model: type[Model]) -> tuple[str, Place]:
    direction, _, rest = cursor.partition(".")
    moment, _, pk = rest.partition(".")
    if direction not in ("older", "newer"):
        raise ValueError(f"no cursor: {cursor!r}")
    try:
        return direction, Place(_EPOCH + int(moment) * _TICK, model._meta.pk.to_python(pk))
    except (ValidationError, OverflowError):
        raise ValueError(f"no cursor: {cursor!r}") from None
