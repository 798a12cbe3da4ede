"""A vendor with prices, admins with keys of their own, and processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection

from src.ai.models import AdminProviderSettings, AIModel, AIProvider
from src.ai.services.access import KeySource
from src.ai.services.ledger.entries import CallFacts
from src.ai.services.usage import call_facts
from tests import vendor_answers as answers
from tests.ledger.processes import Processes, this_database
from tests.upstream.server import Upstream, whole

# What only SQLite can show is collected where the suite runs on it: on another database it would be skipped.
collect_ignore = [] if connection.vendor == "sqlite" else ["test_disk_full.py"]

KEY = "sk-shared-0123456789abcdef"


@pytest.fixture
def provider(make_provider: Callable[..., AIProvider], upstream: Upstream) -> AIProvider:
    """A vendor whose shared key everyone may use."""
    upstream.on("POST", answers.CHAT, whole(200, answers.chat("Hello!")))
    return make_provider(api_base_url=f"{upstream.url}/v1", shared_api_key=KEY, allow_shared_for_normal_admins=True)


@pytest.fixture
def model(provider: AIProvider, make_model: Callable[..., AIModel]) -> AIModel:
    """A model with a price for what it writes alone: a call with `max_tokens=n` holds n millionths of a dollar."""
    return make_model(provider, "chat", model_id="writer", pricing_input=Decimal(0), pricing_output=Decimal(1))


@pytest.fixture
def limit(provider: AIProvider) -> Callable[..., AdminProviderSettings]:
    """Sets an admin's limits."""

    def set_limit(admin: User, **limits: Any) -> AdminProviderSettings:
        row, _ = AdminProviderSettings.objects.update_or_create(admin=admin, provider=provider, defaults=limits)
        return row

    return set_limit


@pytest.fixture
def facts(superuser: User, model: AIModel) -> CallFacts:
    """Those of a call of the superuser's."""
    return call_facts(
        model=model,
        admin=superuser,
        own=None,
        source=KeySource.SHARED,
        capability="chat",
        operation="chat",
        streamed=False,
        seconds=60,
        held_cost=Decimal(0),
    )


@pytest.fixture
def processes(db: None) -> Iterator[Processes]:
    """Processes on the suite's database."""
    with Processes(this_database()) as started:
        yield started
