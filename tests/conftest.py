"""People, clients and rows that tests of every way in share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from logging.handlers import QueueHandler
from queue import Queue
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.db import connection
from pytest_django import DjangoDbBlocker
from rest_framework.test import APIClient

from src.ai.models import AIModel, AIProvider, APIToken, UsageRecord
from src.ai.services.ledger.writer import writer as books_writer
from tests.upstream.server import Upstream


@pytest.fixture(autouse=True)
def _empty_cache() -> Iterator[None]:
    """No test sees what another cached."""
    cache.clear()
    yield
    cache.clear()


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """The test database, which PostgreSQL drops only when the threads of asynchronous tests have let go of it."""
    yield
    if connection.vendor == "postgresql":
        with django_db_blocker.unblock(), connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )


@pytest.fixture
def superuser(db: None) -> User:
    return User.objects.create_superuser("admin", password="admin-password")


@pytest.fixture
def editor(db: None) -> User:
    """A normal admin."""
    return User.objects.create_user("editor", password="editor-password", is_staff=True)


@pytest.fixture
def other_editor(db: None) -> User:
    return User.objects.create_user("other", password="other-password", is_staff=True)


@pytest.fixture
def visitor(db: None) -> User:
    """A user who is no staff."""
    return User.objects.create_user("visitor", password="visitor-password")


@pytest.fixture
def client_of() -> Callable[[User], APIClient]:
    """An API client that sends a token of the user."""

    def make(user: User) -> APIClient:
        _stored, token = APIToken.objects.create(user=user, name="tests")
        client = APIClient()
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
        return client

    return make


@pytest.fixture
def admin_api(superuser: User, client_of: Callable[[User], APIClient]) -> APIClient:
    return client_of(superuser)


@pytest.fixture
def editor_api(editor: User, client_of: Callable[[User], APIClient]) -> APIClient:
    return client_of(editor)


@pytest.fixture
def anonymous_api() -> APIClient:
    return APIClient()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """A vendor on loopback."""
    with Upstream() as server:
        yield server


@pytest.fixture
def make_provider(db: None) -> Callable[..., AIProvider]:
    """A provider row; by default a registered one."""

    def make(slug: str = "openai", **fields: Any) -> AIProvider:
        return AIProvider.objects.create(slug=slug, **{"name": slug.title(), **fields})

    return make


@pytest.fixture
def make_model() -> Callable[..., AIModel]:
    """A model row, active unless said otherwise."""

    def make(provider: AIProvider, *capabilities: str, model_id: str = "model-1", **fields: Any) -> AIModel:
        return AIModel.objects.create(
            **{
                "provider": provider,
                "name": model_id,
                "model_id": model_id,
                "capabilities": list(capabilities) or ["chat"],
                "is_active": True,
                **fields,
            }
        )

    return make


@pytest.fixture
def ended() -> Iterator[Callable[[], UsageRecord]]:
    """Waits until a call has come to its end, and gives its record as it then is."""
    lines: Queue[logging.LogRecord] = Queue()
    handler = QueueHandler(lines)
    calls = logging.getLogger("src.ai.calls")
    calls.addHandler(handler)
    calls.setLevel(logging.INFO)

    def wait() -> UsageRecord:
        lines.get(timeout=10)
        assert books_writer.drain(10)
        return UsageRecord.objects.get()

    yield wait
    calls.removeHandler(handler)
    calls.setLevel(logging.NOTSET)


def codes(response: Any) -> list[str]:
    """The codes of an error answer."""
    return [error["code"] for error in response.json()["errors"]]
