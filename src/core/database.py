"""Database connections."""

from __future__ import annotations

from collections.abc import Iterable

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from src.core.loop import alone_on_loop


def open_connections() -> Iterable[BaseDatabaseWrapper]:
    """The connections that the running code could be in a transaction on. On a loop there are none, and none is made.

    Looking them up costs 10 µs there (asgiref 3.13, `Local`), which is why it is not done.
    """
    return () if alone_on_loop() else connections.all(initialized_only=True)


def lend_connections() -> None:
    """Give this thread's connections back to their pools until they are next needed, for others to use meanwhile.

    For who is about to wait. A connection in a transaction stays; so would one without a pool, as it costs to open.
    Not to be called where anything else outlives a statement, such as a server-side cursor of an iterator.
    """
    for connection in connections.all(initialized_only=True):
        idle = connection.connection is not None and not connection.in_atomic_block and connection.get_autocommit()
        if idle and getattr(connection, "pool", None) is not None:
            connection.close()
