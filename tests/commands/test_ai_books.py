"""`manage.py ai_reconcile`, `ai_sweep` and `ai_prune`: the books are proved, swept and pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import ManagementUtility
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from src.ai.exceptions import MonthlyLimitReached
from src.ai.models import (
    AdminProviderSettings,
    AIModel,
    AIProvider,
    UsageCarried,
    UsagePeriod,
    UsageRecord,
    UsageState,
    UsageText,
)
from src.ai.services.ledger import upkeep
from src.ai.services.unified_service import UnifiedAIService
from tests import vendor_answers as answers
from tests.commands.conftest import Run
from tests.upstream.server import Upstream, whole

pytestmark = pytest.mark.django_db

RunCommand = Callable[..., Run]
ADMIN = UsagePeriod.Scope.ADMIN


@pytest.fixture
def call(
    superuser: User, make_provider: Callable[..., AIProvider], make_model: Callable[..., AIModel]
) -> Iterator[Callable[[], Any]]:
    """One good call of four output tokens, at a dollar a million of them."""
    with Upstream() as server:
        server.on("POST", answers.CHAT, whole(200, answers.chat("Hello!")))
        provider = make_provider(api_base_url=f"{server.url}/v1", shared_api_key="sk-shared-0123456789")
        make_model(provider, "chat", pricing_input=Decimal(0), pricing_output=Decimal(1))
        yield lambda: UnifiedAIService.chat("Hi", superuser, max_tokens=50)


@pytest.fixture
def lost(call: Callable[[], Any], superuser: User) -> Iterator[Callable[..., UsageRecord]]:
    """A call that is reserved and of which nobody tells more; with its lease at an end, or not yet."""

    def lose(*, expired: bool = True) -> UsageRecord:
        stream = UnifiedAIService.stream_chat("Hi", superuser, max_tokens=50)
        kept.append(stream)
        record = UsageRecord.objects.get(pk=UsageRecord.objects.latest("id").pk)
        if expired:
            record.lease_expires_at = timezone.now() - timedelta(seconds=1)
            record.save()
        return record

    kept: list[Any] = []
    yield lose
    for stream in kept:
        stream.close()


def admin_period() -> UsagePeriod:
    return UsagePeriod.objects.get(scope=ADMIN)


def grow_old(*records: UsageRecord, days: int = 401) -> None:
    UsageRecord.objects.filter(pk__in=[record.pk for record in records]).update(
        created_at=timezone.now() - timedelta(days=days)
    )


# -- ai_reconcile ------------------------------------------------------------------------------------------------------


def test_true_books_are_called_true(call: Callable[[], Any], lost: Callable[..., UsageRecord], run: RunCommand) -> None:
    call()
    lost()
    result = run("ai_reconcile")
    assert (result.out, result.error) == ("Every counter is the sum of its records.\n", None)


def test_empty_books_are_true(run: RunCommand) -> None:
    assert run("ai_reconcile").error is None


def add_a_request() -> None:
    UsagePeriod.objects.filter(scope=ADMIN).update(requests=7)


def change_a_cost() -> None:
    UsagePeriod.objects.filter(scope=ADMIN).update(cost=Decimal("0.000000000001"))


def leave_something_held() -> None:
    UsagePeriod.objects.filter(scope=ADMIN).update(held_requests=1, held_cost=Decimal(1))


def delete_a_record() -> None:
    UsageRecord.objects.all().delete()


def lose_a_settlement() -> None:
    UsageRecord.objects.update(state=UsageState.RESERVED)


def delete_the_periods() -> None:
    UsagePeriod.objects.all().delete()


def carry_what_was_not() -> None:
    UsageCarried.objects.create(period=admin_period(), images=1)


@pytest.mark.parametrize(
    ("tamper", "names"),
    [
        (add_a_request, [" requests: counted 7, recorded 1"]),
        (change_a_cost, ["cost: counted 0.000000000001, recorded 0.000004000000"]),
        (leave_something_held, ["held_requests: counted 1, recorded 0", "held_cost: counted 1"]),
        (delete_a_record, ["requests: counted 1, recorded 0", "output_tokens: counted 4, recorded 0"]),
        (lose_a_settlement, ["requests: counted 1, recorded 0", "held_requests: counted 0, recorded 1"]),
        (delete_the_periods, ["requests: counted 0, recorded 1"]),
        (carry_what_was_not, ["images: counted 0, recorded 1"]),
    ],
)
def test_what_was_tampered_with_is_found_and_mended(
    tamper: Callable[[], None], names: list[str], call: Callable[[], Any], run: RunCommand
) -> None:
    call()
    tamper()
    before = list(UsagePeriod.objects.order_by("key").values())
    found = run("ai_reconcile")
    assert found.error is not None
    assert "ai_reconcile --fix" in str(found.error)
    for name in names:
        assert name in found.out
    if tamper is not delete_the_periods:  # where there is none, one has to be made to say what it lacks
        assert list(UsagePeriod.objects.order_by("key").values()) == before
    mended = run("ai_reconcile", fix=True)
    assert mended.error is None
    assert "put right" in mended.out
    assert run("ai_reconcile").out == "Every counter is the sum of its records.\n"


@pytest.mark.django_db(transaction=True)
def test_the_exit_status_tells(call: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> None:
    call()
    ManagementUtility(["manage.py", "ai_reconcile"]).execute()
    add_a_request()
    with pytest.raises(SystemExit) as end:
        ManagementUtility(["manage.py", "ai_reconcile"]).execute()
    assert end.value.code == 1
    ManagementUtility(["manage.py", "ai_reconcile", "--fix"]).execute()
    ManagementUtility(["manage.py", "ai_reconcile"]).execute()
    assert admin_period().requests == 1


# -- ai_sweep ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("charge", "requests", "cost"), [(True, 1, Decimal("0.000050")), (False, 0, None)])
def test_a_call_that_nobody_came_back_from_is_charged_by_policy(
    charge: bool, requests: int, cost: Decimal | None, lost: Callable[..., UsageRecord], run: RunCommand, settings: Any
) -> None:
    settings.AI_CHARGE_UNKNOWN_CALLS = charge
    record = lost()
    assert (admin_period().held_requests, admin_period().held_cost) == (1, Decimal("0.000050"))
    assert run("ai_sweep").out == "1 call is now unknown.\n"
    record.refresh_from_db()
    assert (record.state, record.error_code, record.requests, record.cost) == (
        UsageState.UNKNOWN,
        "lease_expired",
        requests,
        cost,
    )
    period = admin_period()
    assert (period.held_requests, period.held_cost, period.requests) == (0, 0, requests)
    assert (period.cost, period.unpriced) == (cost or 0, int(cost is None))
    assert run("ai_reconcile").error is None


def test_calls_under_way_and_calls_that_ended_are_left_alone(
    call: Callable[[], Any], lost: Callable[..., UsageRecord], run: RunCommand
) -> None:
    call()
    lost(expired=False)
    UsageRecord.objects.filter(state=UsageState.SETTLED).update(lease_expires_at=timezone.now() - timedelta(days=1))
    assert run("ai_sweep").out == "0 calls are now unknown.\n"
    assert set(UsageRecord.objects.values_list("state", flat=True)) == {UsageState.SETTLED, UsageState.RESERVED}


def test_sweeping_again_finds_nothing(lost: Callable[..., UsageRecord], run: RunCommand) -> None:
    lost()
    lost()
    assert run("ai_sweep").out == "2 calls are now unknown.\n"
    assert run("ai_sweep").out == "0 calls are now unknown.\n"


# -- ai_prune ----------------------------------------------------------------------------------------------------------


def test_old_records_go_and_the_counters_stay(
    call: Callable[[], Any], lost: Callable[..., UsageRecord], run: RunCommand
) -> None:
    for _ in range(3):
        call()
    grow_old(*UsageRecord.objects.all())
    call()
    young = UsageRecord.objects.latest("id")
    grow_old(young, days=399)
    still_open = lost(expired=False)
    grow_old(still_open)
    for record in UsageRecord.objects.all():
        UsageText.objects.create(public_id=record.pk, prompt="Hi")
    before = list(UsagePeriod.objects.order_by("key").values())
    assert run("ai_prune", "--older-than", "400d").out == "3 records deleted.\n"
    assert set(UsageRecord.objects.values_list("id", flat=True)) == {young.pk, still_open.pk}
    assert set(UsageText.objects.values_list("public_id", flat=True)) == {young.pk, still_open.pk}
    assert list(UsagePeriod.objects.order_by("key").values()) == before
    assert run("ai_reconcile").error is None
    assert run("ai_prune", "--older-than", "400").out == "0 records deleted.\n"


def test_a_limit_holds_for_what_was_pruned(call: Callable[[], Any], superuser: User, run: RunCommand) -> None:
    AdminProviderSettings.objects.create(admin=superuser, provider=AIProvider.objects.get(), monthly_limit=2)
    call()
    grow_old(*UsageRecord.objects.all())
    run("ai_prune", "--older-than", "400d")
    call()
    with pytest.raises(MonthlyLimitReached):
        call()
    assert run("ai_reconcile").error is None


def test_pruning_goes_by_batches(call: Callable[[], Any], run: RunCommand) -> None:
    for _ in range(5):
        call()
    grow_old(*UsageRecord.objects.all())
    with CaptureQueriesContext(connection) as queries:
        assert upkeep.prune(timedelta(days=400), batch=2) == 5
    deletions = [query["sql"] for query in queries if query["sql"].startswith('DELETE FROM "ai_usagerecord"')]
    assert len(deletions) == 3
    assert run("ai_reconcile").error is None


@pytest.mark.parametrize("age", ["0d", "-1d", "soon", "400h", ""])
def test_an_age_that_is_none_is_refused(age: str, call: Callable[[], Any], run: RunCommand) -> None:
    call()
    result = run("ai_prune", f"--older-than={age}")
    assert "give a number of days, such as 400d" in str(result.error)
    assert UsageRecord.objects.count() == 1
