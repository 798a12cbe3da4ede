"""A serving process looks after the books by itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from time import monotonic

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from src.ai.models import AIModel, AIProvider, IdempotencyKey, UsageRecord, UsageState
from src.ai.services.unified_service import UnifiedAIService
from tests import vendor_answers as answers
from tests.serving import WAIT, server_process
from tests.upstream.server import Upstream, whole


def until(condition: Callable[[], bool]) -> None:
    """Look again and again, as the rows are another process's."""
    end = monotonic() + WAIT
    while not condition():
        assert monotonic() < end, "it never came to be"


def abandon() -> None:
    """Leave the calls as a process leaves them that was killed an hour ago."""
    an_hour_ago = timezone.now() - timedelta(hours=1)
    UsageRecord.objects.update(state=UsageState.RESERVED, requests=1, lease_expires_at=an_hour_ago)


def nothing_is_reserved() -> bool:
    return not UsageRecord.objects.filter(state=UsageState.RESERVED).exists()


@pytest.mark.django_db(transaction=True)
def test_a_serving_process_sweeps_at_its_start_and_again_and_again(
    superuser: User, make_provider: Callable[..., AIProvider], make_model: Callable[..., AIModel], upstream: Upstream
) -> None:
    upstream.on("POST", answers.CHAT, whole(200, answers.chat("Hello!")))
    make_model(make_provider(api_base_url=f"{upstream.url}/v1", shared_api_key="sk-shared-0123456789"), "chat")
    UnifiedAIService.chat(message="Hi", admin=superuser)
    IdempotencyKey.objects.create(admin=superuser, key="old", fingerprint="", expires_at=timezone.now())
    abandon()
    with server_process(AI_SWEEP_INTERVAL="0.1"):
        until(nothing_is_reserved)
        until(lambda: not IdempotencyKey.objects.exists())
        abandon()
        until(nothing_is_reserved)
    assert UsageRecord.objects.get().state == UsageState.UNKNOWN
