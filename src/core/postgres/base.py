"""Django's backend for PostgreSQL, but for how it finds sessions that have ended in the pool.

psycopg's own check asks the server each time a connection is borrowed, and waits longer and longer between those that
it finds ended (psycopg_pool 3.3, `_getconn_with_check_loop`): after a restart of PostgreSQL, the first to come to a
pool of eight waits ten seconds and is refused.
"""

from __future__ import annotations

from typing import Any

from django.db.backends.postgresql import base
from psycopg import Connection, Error, OperationalError
from psycopg_pool import ConnectionPool

from src.core.sockets import has_something


class DatabaseWrapper(base.DatabaseWrapper):
    """Looks for ended sessions itself, when one is borrowed from the pool: CONN_HEALTH_CHECKS is not needed."""

    def get_new_connection(self, conn_params: dict[str, Any]) -> Connection[Any]:
        """A connection that works, as far as can be known without asking the server.

        Raises:
            psycopg.OperationalError: there is none, for as long as the pool waits; or all that can be had end at once.
        """
        connection: Connection[Any]
        if not self.pool:
            connection = super().get_new_connection(conn_params)
            return connection
        for _ in range(self.pool.max_size + 1):
            connection = super().get_new_connection(conn_params)
            works = False
            try:
                works = _works(connection)
            finally:
                if not works:
                    connection.close()
                    self.pool.putconn(connection)  # which opens another, at once
            if works:
                return connection
        raise OperationalError("every session of the pool has ended as soon as it was there")


def _works(connection: Connection[Any]) -> bool:
    """Whether an idle session can be used. The server is asked only where it has said something unasked."""
    try:
        if has_something(connection):
            ConnectionPool.check_connection(connection)
    except Error:
        return False
    return True
