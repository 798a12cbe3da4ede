"""Writing any number of rows in one statement.

`bulk_create` on SQLite sends a statement for every few dozen rows (at most 999 variables each), and `bulk_update` sends
a CASE whose work grows with the square of the rows on every database. Here all rows travel as one JSON value that the
database takes apart. Rows may come from a generator: none is kept once it is part of that value. No signals are sent.
SQLite 3.33 or newer, or PostgreSQL.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

from django.db import connections, router
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Field, Model

AnyField: TypeAlias = "Field[Any, Any]"
M = TypeVar("M", bound=Model)


def insert_missing(model: type[M], rows: Iterable[M]) -> None:
    """Insert `rows`; one that breaks a unique constraint is left out. Their primary keys stay unknown."""
    statement = Statement(model, [field for field in model._meta.concrete_fields if not field.primary_key])
    statement.run(
        f"INSERT INTO {statement.table} ({statement.columns}) {statement.select} ON CONFLICT DO NOTHING",
        rows,
        lambda field, row: field.pre_save(row, add=True),
    )


def update_rows(model: type[M], rows: Iterable[M], field_names: Sequence[str]) -> None:
    """Write the named fields of `rows` to those with the same primary keys: the values as they are, no `auto_now`."""
    fields = [field for field in model._meta.concrete_fields if field.primary_key or field.name in field_names]
    statement = Statement(model, fields)
    table, key = statement.table, statement.key
    written = ", ".join(f"{name} = new.{name}" for name in map(statement.column, fields) if name != key)
    statement.run(
        f"WITH new ({statement.columns}) AS ({statement.select}) "  # noqa: S608 (names of columns, no values)
        f"UPDATE {table} SET {written} FROM new WHERE {table}.{key} = new.{key}",
        rows,
        lambda field, row: getattr(row, field.attname),
    )


class Statement:
    """The parts of a statement over many rows; `select` yields `fields` of each out of one JSON parameter."""

    def __init__(
        self, model: type[Model], fields: Sequence[AnyField], connection: BaseDatabaseWrapper | None = None
    ) -> None:
        self.fields = fields
        self.connection = connection or connections[router.db_for_write(model)]
        self.table = self.connection.ops.quote_name(model._meta.db_table)
        self.key = next(self.column(field) for field in model._meta.concrete_fields if field.primary_key)
        self.columns = ", ".join(map(self.column, fields))
        self.on_postgresql = self.connection.vendor == "postgresql"
        self.select = self.select_with(())

    def select_with(self, constants: Iterable[str]) -> str:
        """`select`, followed by the same SQL expressions for each row."""
        values = ", ".join([*(self._value(field, place) for place, field in enumerate(self.fields)), *constants])
        source = "jsonb_array_elements(%s::jsonb) AS item(value)" if self.on_postgresql else "json_each(%s)"
        # "WHERE true": without it SQLite reads the ON of ON CONFLICT as that of a join.
        return f"SELECT {values} FROM {source} WHERE true"  # noqa: S608 (names of columns, no values)

    def column(self, field: AnyField) -> str:
        return self.connection.ops.quote_name(field.column or field.name)

    def _value(self, field: AnyField, place: int) -> str:
        if not self.on_postgresql:
            return f"json_extract(value, '$[{place}]')"
        # Without its length, as a cast to varchar(200) would cut what is too long instead of refusing it.
        kind = (field.db_type(self.connection) or "").partition("(")[0]
        return f"(value {'->' if kind == 'jsonb' else '->>'} {place})::{kind}"

    def run(self, sql: str, rows: Iterable[Model], read: Callable[[AnyField, Model], Any]) -> None:
        """Execute, with what `read` gives for each field of each row; without rows do nothing."""
        parts = ["["]
        for row in rows:
            parts += (self._json(row, read), ",")
        if len(parts) == 1:
            return
        parts[-1] = "]"
        text = "".join(parts)  # one copy of what may be many megabytes, and the parts go before it is sent
        del parts
        with self.connection.cursor() as cursor:
            cursor.execute(sql, [text])

    def _json(self, row: Model, read: Callable[[AnyField, Model], Any]) -> str:
        values = [self._plain(field, read(field, row)) for field in self.fields]
        return json.dumps(values, default=str)

    def _plain(self, field: AnyField, value: Any) -> Any:
        """The value as JSON can carry it and the column's type can read it."""
        return field.get_prep_value(value) if self.on_postgresql else field.get_db_prep_save(value, self.connection)
