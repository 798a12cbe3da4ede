"""This process's own writes to watched tables are noticed, whatever the statement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.db import connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import IntegrityError

from src.core.cache.writes import bookkeeping, watch_writes


@pytest.fixture
def seen(db: None, monkeypatch: pytest.MonkeyPatch) -> list[BaseDatabaseWrapper]:
    """The connections that have written to the table of groups, once for each statement."""
    monkeypatch.setattr("src.core.cache.writes._reactions", {})
    monkeypatch.setattr(connections["default"], "execute_wrappers", [])
    written: list[BaseDatabaseWrapper] = []
    watch_writes({"auth_group": written.append})
    return written


def execute(sql: Any, *, many: bool = False) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(sql, [["a"], ["b"]]) if many else cursor.execute(sql)


def composed() -> None:
    from psycopg import sql

    execute(sql.SQL("DELETE FROM {}").format(sql.Identifier("auth_group")))


@pytest.mark.parametrize(
    "write",
    [
        lambda: Group.objects.create(name="a"),
        lambda: Group.objects.update(name="a"),
        lambda: Group.objects.bulk_create([Group(name="a"), Group(name="b")]),
        lambda: Group.objects.filter(name="a")._raw_delete("default"),
        lambda: execute("Delete From AUTH_GROUP"),
        lambda: execute("/* a remark */ DELETE FROM auth_group"),
        lambda: execute("INSERT INTO auth_group (name) VALUES (%s)", many=True),
        pytest.param(composed, marks=pytest.mark.postgres),
    ],
)
def test_each_statement_that_writes_is_noticed(write: Callable[[], object], seen: list[BaseDatabaseWrapper]) -> None:
    write()
    assert seen
    assert set(map(id, seen)) == {id(connections["default"])}


def test_reading_writing_elsewhere_and_bookkeeping_are_not(seen: list[BaseDatabaseWrapper]) -> None:
    list(Group.objects.all())
    execute("DELETE FROM django_session")
    with bookkeeping():
        Group.objects.update(name="a")
    assert seen == []


def test_a_statement_that_fails_counts_as_one_that_wrote(seen: list[BaseDatabaseWrapper]) -> None:
    with pytest.raises(IntegrityError):
        execute("INSERT INTO auth_group (name) VALUES (NULL)")
    assert len(seen) == 1


def test_a_wrapper_of_somebody_elses_takes_only_itself_away(
    seen: list[BaseDatabaseWrapper], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections["default"], "execute_wrappers", [])
    with connection.execute_wrapper(lambda execute, *statement: execute(*statement)):
        watch_writes({})
    Group.objects.update(name="a")
    assert len(seen) == 1
