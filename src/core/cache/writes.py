"""Noticing what this process itself writes to certain tables, by whatever statement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

Reaction = Callable[[BaseDatabaseWrapper], None]

_reactions: dict[str, Reaction] = {}
_is_bookkeeping: ContextVar[bool] = ContextVar("is_bookkeeping", default=False)


def watch_writes(reactions: Mapping[str, Reaction]) -> None:
    """From now on, on every connection, call the table's reaction after each statement that may have changed the table.

    "May": any but a SELECT that names it. What the database does unasked (a trigger, a function) goes unnoticed.

    Args:
        reactions: what to call, by the table's name. It is given the connection.
    """
    _reactions.update({table.lower(): reaction for table, reaction in reactions.items()})
    connection_created.connect(_install, dispatch_uid="core.writes")
    for connection in connections.all(initialized_only=True):
        _install(connection=connection)


@contextmanager
def bookkeeping() -> Iterator[None]:
    """What is written in here (counters, dates of last use) is nothing that anybody caches: no reaction."""
    token = _is_bookkeeping.set(True)
    try:
        yield
    finally:
        _is_bookkeeping.reset(token)


def _install(*, connection: BaseDatabaseWrapper, **_signal: Any) -> None:
    if _watch not in connection.execute_wrappers:
        # In front: `connection.execute_wrapper()` takes the last one off again.
        connection.execute_wrappers.insert(0, _watch)


def _watch(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: dict[str, Any]) -> Any:
    if isinstance(sql, str) and sql.startswith("SELECT"):
        return execute(sql, params, many, context)
    try:
        return execute(sql, params, many, context)
    finally:
        text = str(sql).lower()
        for table, reaction in _reactions.items():
            if table in text and not _is_bookkeeping.get():
                reaction(context["connection"])
