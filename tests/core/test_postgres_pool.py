"""The pool of connections to PostgreSQL, when the server ends sessions or is away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest
from django.db import OperationalError, connection
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import load_backend

from config.settings import database
from tests.ledger.processes import until
from tests.ledger.services import Postgres

pytestmark = [pytest.mark.postgres, pytest.mark.django_db]

SESSIONS: Final = 8


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as postgres:
        yield postgres


class Site:
    """Connections as the settings have them, to a server that the test may stop."""

    def __init__(self) -> None:
        self._settings = {**connection.settings_dict, **database()}

    def connection(self) -> BaseDatabaseWrapper:
        connection: BaseDatabaseWrapper = load_backend(self._settings["ENGINE"]).DatabaseWrapper(self._settings, "site")
        return connection


@pytest.fixture
def site(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("DATABASE_URL", f"postgres://postgres@127.0.0.1:{postgres.port}/postgres")
    monkeypatch.setenv("DATABASE_POOL_MAX_SIZE", str(SESSIONS))
    monkeypatch.setenv("DATABASE_POOL_TIMEOUT", "1")
    site = Site()
    yield site
    pooled: Any = site.connection()
    pooled.close_pool()


def ask(connection: BaseDatabaseWrapper, sql: str = "SELECT pg_backend_pid()") -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


def fill(site: Site) -> set[int]:
    """The sessions of a pool that is as large as it may get, none of them in use."""
    connections = [site.connection() for _ in range(SESSIONS)]
    sessions = {ask(connection) for connection in connections}
    for one in connections:
        one.close()
    assert len(sessions) == SESSIONS
    return sessions


def test_when_the_server_has_restarted_nobody_waits_or_is_refused(site: Site, postgres: Postgres) -> None:
    before = fill(site)
    postgres.restart("fast")
    assert fill(site).isdisjoint(before)


def test_a_session_that_has_something_to_say_is_used_on(site: Site) -> None:
    listening, other = site.connection(), site.connection()
    for one, sql in ((listening, "LISTEN news"), (other, "SELECT 1")):
        with one.cursor() as cursor:
            cursor.execute(sql)
    session = ask(listening)
    listening.close()
    with other.cursor() as cursor:
        cursor.execute("NOTIFY news")
    other.close()
    assert session in fill(site)


def test_when_the_server_is_back_it_is_used_at_once(site: Site, postgres: Postgres) -> None:
    """However long it was away."""
    fill(site)
    postgres.stop()
    for _ in range(4):
        with pytest.raises(OperationalError):
            ask(site.connection())
    postgres.start()
    fill(site)


def test_sessions_that_are_ended_one_by_one_are_replaced(site: Site, postgres: Postgres) -> None:
    before = fill(site)
    other = site.connection()
    mine = ask(other)
    for session in before - {mine}:
        ask(other, f"SELECT pg_terminate_backend({session})")
    until(lambda: ask(other, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'") == 1)
    other.close()
    assert fill(site) & before == {mine}
