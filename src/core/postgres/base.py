"""Django's backend for PostgreSQL, but for how it finds sessions that have ended in the pool.

psycopg's own check asks the server each time a connection is borrowed, and waits longer and longer between those that
it finds ended (psycopg_pool 3.3, `_getconn_with_check_loop`): after a restart of PostgreSQL, the first to come to a
pool of eight waits ten seconds and is refused.
"""

from __future__ import annotations

import select
from typing import Any

from django.db.backends.postgresql import base
from psycopg import Connection
from psycopg_pool import ConnectionPool


class DatabaseWrapper(base.DatabaseWrapper):
    """Whose pool needs no CONN_HEALTH_CHECKS: no connection that was found to have ended is given to anybody."""

    def get_new_connection(self, conn_params: dict[str, Any]) -> Connection[Any]:
        """A connection that works, as far as can be known without asking the server.

        Raises:
            psycopg.OperationalError: there is none, for as long as the pool waits.
        """
        connection: Connection[Any] = super().get_new_connection(conn_params)
        while self.pool and _has_ended(connection):
            connection.close()
            self.pool.putconn(connection)  # which opens another, at once
            connection = super().get_new_connection(conn_params)
        return connection


def _has_ended(connection: Connection[Any]) -> bool:
    """Whether an idle connection can't be used. The server is asked only where it has said something unasked."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if not poll.poll(0):
        return False
    try:
        ConnectionPool.check_connection(connection)
    except connection.Error:
        return True
    return False
