"""Django's backend for PostgreSQL, but for how it finds sessions that have ended in the pool.

psycopg's own check asks the server each time a connection is borrowed, and waits longer and longer between those that
it finds ended (psycopg_pool 3.3, `_getconn_with_check_loop`): after a restart of PostgreSQL, the first to come to a
pool of eight waits ten seconds and is refused.
"""

from __future__ import annotations

import select
from typing import Any

from django.db.backends.postgresql import base
from psycopg import Connection, Error, OperationalError
from psycopg_pool import ConnectionPool


class DatabaseWrapper(base.DatabaseWrapper):
    """Looks for ended sessions itself, when one is borrowed from the pool: CONN_HEALTH_CHECKS is not needed."""

    def get_new_connection(self, conn_params: dict[str, Any]) -> Connection[Any]:
        """A connection that works, as far as can be known without asking the server.

        Raises:
            psycopg.OperationalError: there is none, for as long as the pool waits; or all that can be had end at once.
        """
        tries = self.pool.max_size + 1 if self.pool else 1
        for _ in range(tries):
            connection: Connection[Any] = super().get_new_connection(conn_params)
            if not self.pool or not self._has_ended(connection):
                return connection
            self._give_back(connection)  # the pool opens another, at once
        raise OperationalError("every session of the pool has ended as soon as it was there")

    def _has_ended(self, connection: Connection[Any]) -> bool:
        """Whether an idle session can't be used. The server is asked only where it has said something unasked."""
        try:
            poll = select.poll()
            poll.register(connection.fileno(), select.POLLIN)
            if poll.poll(0):
                ConnectionPool.check_connection(connection)
        except Error:
            return True
        except BaseException:
            self._give_back(connection)
            raise
        return False

    def _give_back(self, connection: Connection[Any]) -> None:
        connection.close()
        self.pool.putconn(connection)
