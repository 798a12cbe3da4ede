"""Usage records as CSV, in pieces: whatever their number, only one piece is ever in memory.

Between two pieces no database connection is held, as the reader of the file decides how long that takes.
"""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC
from decimal import Decimal
from io import StringIO
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import CharField, DateTimeField, DecimalField, QuerySet

from src.ai.models import UsageRecord
from src.core.fields import FixedPointField
from src.core.keyset import Place, older_than

BATCH: Final = 2_000
# What a spreadsheet takes for the beginning of a formula.
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")

_FIELDS: Final = UsageRecord._meta.concrete_fields
COLUMNS: Final = tuple(field.attname for field in _FIELDS)


def lines(records: QuerySet[UsageRecord]) -> Iterator[str]:
    """The names of the columns, then the records, newest first."""
    yield _written([COLUMNS])
    place: Place | None = None
    while True:
        text, place = _batch(records, place)
        yield text
        if place is None:
            return


async def alines(records: QuerySet[UsageRecord]) -> AsyncIterator[str]:
    """The asynchronous twin of `lines`."""
    yield _written([COLUMNS])
    place: Place | None = None
    while True:
        text, place = await sync_to_async(_batch)(records, place)
        yield text
        if place is None:
            return


def _batch(records: QuerySet[UsageRecord], place: Place | None) -> tuple[str, Place | None]:
    """The next records as lines, and the place of the last one; `None` at the end."""
    rows = list(older_than(records, place).values_list(*COLUMNS)[:BATCH])
    _release(connections[records.db])
    text = _written(_cells(row) for row in rows)
    if len(rows) < BATCH:
        return text, None
    last = dict(zip(COLUMNS, rows[-1], strict=True))
    return text, Place(last["created_at"], last["id"])


def _release(connection: BaseDatabaseWrapper) -> None:
    if not connection.in_atomic_block:
        connection.close_if_unusable_or_obsolete()


def _written(rows: Any) -> str:
    buffer = StringIO()
    csv.writer(buffer).writerows(rows)
    return buffer.getvalue()


def _cells(row: tuple[Any, ...]) -> list[Any]:
    return [write(value) if write and value is not None else value for write, value in zip(_WRITE, row, strict=True)]


def _text(value: str) -> str:
    return f"'{value}" if value.startswith(FORMULA) else value


def _plain(value: Decimal) -> str:
    return f"{value.normalize():f}"


def _moment(value: Any) -> str:
    return str(value.astimezone(UTC).isoformat())


def _writer(field: Any) -> Callable[[Any], str] | None:
    if isinstance(field, CharField):
        return _text
    if isinstance(field, FixedPointField | DecimalField):
        return _plain
    return _moment if isinstance(field, DateTimeField) else None


_WRITE: Final = tuple(_writer(field) for field in _FIELDS)
