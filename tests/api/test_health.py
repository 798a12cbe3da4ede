"""`/healthz` and `/readyz`, as a load balancer asks them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.cache import caches
from django.db import connections
from django.test import AsyncClient, Client

from src.core import health
from tests.shell.test_settings import PRODUCTION, python

READY = {"status": "ok", "checks": {"database": "ok", "migrations": "ok", "cache": "ok"}}


@pytest.fixture(autouse=True)
def _nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "is_migrated", health._Migrated())


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Looking into the database takes for ever; what has begun to."""
    begun: list[int] = []
    end = threading.Event()

    def hang() -> Any:
        begun.append(1)
        end.wait(20)
        return {}

    monkeypatch.setattr(health, "TIMEOUT", 0.2)
    monkeypatch.setattr(health.PROBES[0], "_check", hang)
    yield begun
    end.set()
    health.PROBES[0].start().result(5)


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_process_that_is_up_says_so_without_looking(slash: str, client: Client) -> None:
    response = client.get(f"/healthz{slash}")  # this test has no access to the database
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert "no-store" in response["Cache-Control"]


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_site_that_can_serve_is_ready(slash: str, client: Client, db: None) -> None:
    response = client.get(f"/readyz{slash}")
    assert (response.status_code, response.json()) == (200, READY)
    assert "no-store" in response["Cache-Control"]


async def test_both_answer_under_asgi(db: None) -> None:
    client = AsyncClient()
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    assert (await client.get("/readyz")).json() == READY


def test_without_the_database_it_is_not_ready(client: Client, db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings["default"], "NAME", "/nowhere/there-is-no-such-database")
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["checks"] == {"database": "unavailable", "migrations": "unknown", "cache": "ok"}
    assert response.json()["status"] == "unavailable"
    assert "nowhere" not in response.content.decode()


def test_a_database_that_hangs_makes_it_not_ready_in_time_and_is_asked_once(client: Client, hanging: list[int]) -> None:
    for _ in range(3):
        response = client.get("/readyz")
        assert (response.status_code, response.json()["checks"]["database"]) == (503, "unavailable")
    assert len(hanging) == 1


def test_with_a_migration_missing_it_is_not_ready_until_that_is_applied(
    client: Client, db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan: list[Any] = ["0099_missing"]
    asked: list[int] = []

    def migration_plan(*_: Any) -> list[Any]:
        asked.append(1)
        return plan

    monkeypatch.setattr("django.db.migrations.executor.MigrationExecutor.migration_plan", migration_plan)
    response = client.get("/readyz")
    assert (response.status_code, response.json()["checks"]["migrations"]) == (503, "unapplied")
    plan.clear()
    for _ in range(3):
        assert client.get("/readyz").json() == READY
    assert len(asked) == 2  # what is applied stays applied


def test_without_the_cache_it_is_ready_but_says_so(client: Client, db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("redis://:password@cache")

    for name in ("set", "get"):
        with monkeypatch.context() as patch:
            patch.setattr(type(caches["default"]), name, refuse)
            response = client.get("/readyz")
        assert (response.status_code, response.json()["status"]) == (200, "degraded")
        assert response.json()["checks"] == {**READY["checks"], "cache": "degraded"}  # type: ignore[dict-item]
        assert "password" not in response.content.decode()


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_they_are_only_read(path: str, client: Client) -> None:
    assert client.post(path).status_code == 405


def test_in_production_they_answer_plain_http_while_all_else_is_sent_to_https() -> None:
    code = (
        "import django; django.setup(); from django.test import Client;"
        "client = Client(headers={'host': 'example.com'});"
        "print([client.get(path).status_code for path in ('/healthz', '/readyz', '/api/docs')])"
    )
    result = python("-c", code, **PRODUCTION, DATABASE_URL="sqlite:////nowhere/none", STATIC_COLLECTED="false")
    assert result.stdout.strip() == "[200, 503, 301]", result.stderr


def test_another_host_is_refused_as_everywhere(client: Client) -> None:
    assert client.get("/healthz", headers={"host": "10.0.0.7"}).status_code == 400
