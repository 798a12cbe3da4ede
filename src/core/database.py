"""Database connections between queries."""

from django.db import connections


def release_connections() -> None:
    """Give this thread's pooled connections back, except in a transaction; its next query takes one again."""
    for connection in connections.all(initialized_only=True):
        if "pool" in connection.settings_dict["OPTIONS"] and not connection.in_atomic_block:
            connection.close()
