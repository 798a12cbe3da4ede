"""Database connections."""

from __future__ import annotations

from django.db import connections


def lend_connections() -> None:
    """Give this thread's connections back to their pools until they are next needed, for others to use meanwhile.

    For who is about to wait. A connection in a transaction stays; so would one without a pool, as it costs to open.
    Not to be called where anything else outlives a statement, such as a server-side cursor of an iterator.
    """
    for connection in connections.all(initialized_only=True):
        idle = connection.connection is not None and not connection.in_atomic_block and connection.get_autocommit()
        if idle and getattr(connection, "pool", None) is not None:
            connection.close()
