"""What a site that has been running keeps when it migrates."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from src.ai.models import AdminProviderSettings, AIModel, AIProvider
from src.core.months import month_of


@pytest.fixture
def before_the_books(transactional_db: None) -> Iterator[Any]:
    """The app's rows as they were before usage records: a registry of models."""
    call_command("migrate", "ai", "0001", verbosity=0)
    yield MigrationExecutor(connection).loader.project_state([("ai", "0001_initial")]).apps
    call_command("migrate", "ai", verbosity=0)


def test_counters_and_the_running_months_usage_survive_the_books(before_the_books: Any) -> None:
    old = before_the_books
    editor = User.objects.create_user("editor", is_staff=True)
    now, last_year = timezone.now(), timezone.now() - timedelta(days=400)
    provider = old.get_model("ai", "AIProvider").objects.create(
        slug="openai", name="OpenAI", total_requests=70, last_used_at=now
    )
    fields = {"name": "m", "capabilities": ["chat"], "total_requests": 60, "last_used_at": last_year}
    old.get_model("ai", "AIModel").objects.create(provider=provider, model_id="m", **fields)
    old.get_model("ai", "AIModel").objects.create(provider=provider, model_id="unused", name="u", capabilities=[])
    old.get_model("ai", "AdminProviderSettings").objects.create(
        admin_id=editor.pk,
        provider=provider,
        monthly_limit=9,
        monthly_usage=8,
        usage_month=month_of().first,
        total_requests=50,
        last_used_at=now,
    )
    call_command("migrate", "ai", verbosity=0)
    own = AdminProviderSettings.objects.get()
    assert (own.monthly_usage, own.total_requests, own.last_used_at) == (8, 50, now)
    assert (AIProvider.objects.get().total_requests, AIProvider.objects.get().last_used_at) == (70, now)
    assert list(AIModel.objects.order_by("model_id").values_list("model_id", "total_requests", "last_used_at")) == [
        ("m", 60, last_year),
        ("unused", 0, None),
    ]
    call_command("ai_reconcile")
