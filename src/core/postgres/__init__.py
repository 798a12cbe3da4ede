"""Several statements to PostgreSQL in one message.

Past cursors: what these do beside sending and reading costs more than a small statement does. Quoting, waiting and
errors are psycopg's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import psycopg
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg.abc import PQGen
from psycopg.errors import error_from_result
from psycopg.generators import execute
from psycopg.pq import Escaping, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

_PREFIX: Final = "ai_"

SQL = tuple[str, tuple[str, ...]]  # a statement, with %s for each of its parameters, which are texts
Rows = list[list[str | None]]  # their values as texts


def send(connection: BaseDatabaseWrapper, statements: Sequence[SQL]) -> list[Rows]:
    """Execute the statements, in which no other % may be; the rows that each answers with.

    Raises:
        django.db.Error: one failed. Those after it have not been executed.
    """
    connection.ensure_connection()
    raw: psycopg.Connection[Any] = connection.connection
    with connection.wrap_database_errors:
        if not raw.autocommit and raw.pgconn.transaction_status == TransactionStatus.IDLE:
            raw.execute("")  # begins the transaction that else would begin with a cursor's next statement
        with raw.lock:
            return raw.wait(talk(raw.pgconn, statements))


def talk(session: PGconn, statements: Sequence[SQL]) -> PQGen[list[Rows]]:
    """What `send` sends and reads, for who waits for the session's socket himself, as psycopg's generators have it.

    Raises:
        psycopg.Error: as `send`.
    """
    quote = Escaping(session).escape_literal
    parts = [sql.encode() % tuple([quote(text.encode()) for text in texts]) for sql, texts in statements]
    session.send_query(b"; ".join(parts))
    results = yield from execute(session)
    return [_rows(result) for result in results]


def prepare(connection: BaseDatabaseWrapper, statements: Mapping[str, str]) -> dict[str, str]:
    """Have the session keep the statements, which are then executed by those that this gives for the same names."""
    commands, kept = [], {}
    for name, sql in statements.items():
        first, *rest = sql.split("%s")
        numbered = first + "".join(f"${number}{part}" for number, part in enumerate(rest, 1))
        commands.append((f"PREPARE {_PREFIX}{name} ({', '.join(['text'] * len(rest))}) AS {numbered}", ()))
        kept[name] = f"EXECUTE {_PREFIX}{name} ({', '.join(['%s'] * len(rest))})"
    send(connection, commands)
    return kept


def _rows(result: PGresult) -> Rows:
    if result.status == ExecStatus.FATAL_ERROR:
        raise error_from_result(result)
    value, columns = result.get_value, range(result.nfields)
    return [
        [None if (text := value(row, column)) is None else text.decode() for column in columns]
        for row in range(result.ntuples)
    ]
