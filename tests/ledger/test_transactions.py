"""What a call leaves on the books, whatever becomes of the caller's transaction, its retries and its listeners."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.db import transaction
from django.dispatch import Signal

from src.ai.exceptions import AIError, ContentInvalid, MonthlyLimitReached, ProviderAuthFailed
from src.ai.models import AdminProviderSettings, AIModel, AIProvider, CostState, UsagePeriod, UsageState
from src.ai.providers import retry
from src.ai.services.unified_service import UnifiedAIService
from src.ai.signals import ai_call_settled, ai_key_failing, ai_limit_near
from tests import vendor_answers as answers
from tests.ledger import books
from tests.upstream.server import Upstream, events, whole

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("model")]

SetLimit = Callable[..., AdminProviderSettings]
GOOD = whole(200, answers.chat("Hello!"))
BUSY = whole(503, {"error": {"message": "try again"}})
REFUSED_KEY = whole(401, {"error": {"message": "no such key"}})


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking a vendor again needs no pause here."""
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.0)


@contextmanager
def heard(signal: Signal) -> Iterator[list[dict[str, Any]]]:
    """What the receivers of a signal are told."""
    told: list[dict[str, Any]] = []

    def hear(sender: object, **facts: Any) -> None:
        told.append(facts)

    signal.connect(hear)
    try:
        yield told
    finally:
        signal.disconnect(hear)


# -- the caller's transaction ------------------------------------------------------------------------------------------


class Undone(Exception):
    """What makes a caller roll back."""


def roll_back_around(call: Callable[[], Any]) -> None:
    with suppress(Undone), transaction.atomic():
        User.objects.create_user("never")
        call()
        raise Undone


def chat_for(admin: User) -> Callable[[], Any]:
    return lambda: UnifiedAIService.chat("Hi", admin)


def stream_for(admin: User) -> Callable[[], Any]:
    return lambda: list(UnifiedAIService.stream_chat("Hi", admin))


def async_chat_for(admin: User) -> Callable[[], Any]:
    return lambda: async_to_sync(UnifiedAIService.achat)("Hi", admin)


WAYS = [chat_for, stream_for, async_chat_for]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def call(request: pytest.FixtureRequest, superuser: User, upstream: Upstream) -> Callable[[], Any]:
    """One call, in each of the ways that a synchronous caller has."""
    if request.param is stream_for:
        frames = [answers.chunk("Hello!"), answers.chunk(None, "stop"), {**answers.chunk(None), "choices": []}]
        frames[-1]["usage"] = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
        upstream.send(events(*frames))
    way: Callable[[User], Callable[[], Any]] = request.param
    return way(superuser)


def test_what_was_spent_stays_on_the_books_when_the_caller_rolls_back(call: Callable[[], Any]) -> None:
    roll_back_around(call)
    books.assert_true()
    record = books.only_record()
    assert (record.state, record.requests, record.cost) == (UsageState.SETTLED, 1, Decimal("0.000004"))
    assert (books.period().requests, books.period().cost) == (1, Decimal("0.000004"))
    assert not User.objects.filter(username="never").exists()


def test_it_is_there_once_when_the_caller_commits(call: Callable[[], Any]) -> None:
    with transaction.atomic():
        call()
    books.assert_true()
    assert (books.only_record().state, books.period().requests) == (UsageState.SETTLED, 1)


def test_it_is_there_when_only_a_savepoint_is_rolled_back(call: Callable[[], Any]) -> None:
    with transaction.atomic():
        User.objects.create_user("stays")
        roll_back_around(call)
    books.assert_true()
    assert (books.only_record().state, books.period().requests) == (UsageState.SETTLED, 1)
    assert User.objects.filter(username="stays").exists()


def test_a_failed_call_in_a_transaction_that_is_rolled_back_holds_nothing(superuser: User, upstream: Upstream) -> None:
    upstream.send(REFUSED_KEY)

    def fail() -> None:
        with pytest.raises(ProviderAuthFailed):
            UnifiedAIService.chat("Hi", superuser)

    roll_back_around(fail)
    books.assert_true()
    assert (books.only_record().state, books.period().requests) == (UsageState.FAILED, 0)


def test_a_limit_holds_inside_a_transaction_too(superuser: User, limit: SetLimit, upstream: Upstream) -> None:
    limit(superuser, monthly_limit=2)
    with transaction.atomic():
        UnifiedAIService.chat("Hi", superuser)
        UnifiedAIService.chat("Hi", superuser)
        with pytest.raises(MonthlyLimitReached):
            UnifiedAIService.chat("Hi", superuser)
    books.assert_true()
    assert (len(upstream.requests), books.period().requests) == (2, 2)


def test_the_caller_sees_its_calls_counted_at_once(superuser: User, limit: SetLimit, provider: AIProvider) -> None:
    own = limit(superuser, monthly_limit=10)
    for number in (1, 2):
        UnifiedAIService.chat("Hi", superuser)
        for row in (own, provider, AIModel.objects.get()):
            row.refresh_from_db()
        assert (own.monthly_usage, own.total_requests, provider.total_requests) == (number, number, number)
        assert AIModel.objects.get().total_requests == number


@pytest.mark.django_db
def test_in_a_test_case_that_is_rolled_back_calls_work_and_leave_nothing(call: Callable[[], Any]) -> None:
    call()
    assert (books.only_record().state, books.period().requests) == (UsageState.SETTLED, 1)


# -- requests of one call ----------------------------------------------------------------------------------------------


def test_a_retry_is_a_record_of_its_own_and_only_the_good_one_is_charged(superuser: User, upstream: Upstream) -> None:
    upstream.send(BUSY, GOOD)
    with heard(ai_call_settled) as told:
        UnifiedAIService.chat("Hi", superuser)
    failed, good = books.records()
    assert (failed.state, failed.error_code, failed.requests, failed.cost) == (
        UsageState.FAILED,
        "provider_unavailable",
        0,
        Decimal(0),
    )
    assert (good.state, good.requests, good.cost, good.cost_state) == (
        UsageState.SETTLED,
        1,
        Decimal("0.000004"),
        CostState.EXACT,
    )
    assert failed.request_id == good.request_id
    assert [facts["call"].entry.id for facts in told] == [failed.id, good.id]
    books.assert_true()


def test_a_retry_needs_no_second_place_under_the_limit(superuser: User, limit: SetLimit, upstream: Upstream) -> None:
    limit(superuser, monthly_limit=1)
    upstream.send(BUSY, BUSY, GOOD)
    UnifiedAIService.chat("Hi", superuser)
    assert books.states() == [UsageState.FAILED, UsageState.FAILED, UsageState.SETTLED]
    with pytest.raises(MonthlyLimitReached):
        UnifiedAIService.chat("Hi", superuser)
    books.assert_true()


def test_a_call_that_fails_for_good_gives_back_all_that_it_held(
    superuser: User, limit: SetLimit, upstream: Upstream
) -> None:
    limit(superuser, monthly_limit=1, monthly_budget=Decimal("0.01"))
    upstream.send(BUSY, BUSY, BUSY)
    with pytest.raises(AIError):
        UnifiedAIService.chat("Hi", superuser)
    period = books.period()
    assert (period.requests, period.held_requests, period.cost, period.held_cost) == (0, 0, 0, 0)
    assert UnifiedAIService.chat("Hi", superuser) == "Hello!"
    books.assert_true()


def test_an_article_that_is_mended_is_two_records_and_one_request(
    superuser: User, provider: AIProvider, make_model: Callable[..., AIModel], limit: SetLimit, upstream: Upstream
) -> None:
    limit(superuser, monthly_limit=1)
    make_model(provider, "content", model_id="editor", pricing_input=Decimal(0), pricing_output=Decimal(1))
    upstream.send(whole(200, answers.chat("no JSON")), whole(200, answers.article()))
    UnifiedAIService.generate_content("Tea", superuser)
    assert [(record.state, record.requests, record.output_tokens) for record in books.records()] == [
        (UsageState.SETTLED, 1, 4),
        (UsageState.SETTLED, 0, 4),
    ]
    assert (books.period().requests, books.period().cost) == (1, Decimal("0.000008"))
    books.assert_true()


def test_an_article_that_can_not_be_mended_is_paid_for_and_not_counted(
    superuser: User, provider: AIProvider, make_model: Callable[..., AIModel], upstream: Upstream
) -> None:
    make_model(provider, "content", model_id="editor", pricing_input=Decimal(0), pricing_output=Decimal(1))
    upstream.send(whole(200, answers.chat("no JSON")), whole(200, answers.chat("again none")))
    with pytest.raises(ContentInvalid):
        UnifiedAIService.generate_content("Tea", superuser)
    assert books.states() == [UsageState.FAILED, UsageState.FAILED]
    assert (books.period().requests, books.period().cost) == (0, Decimal("0.000008"))
    books.assert_true()


def test_several_images_by_several_calls_are_as_many_records_and_one_request(
    superuser: User, make_provider: Callable[..., AIProvider], make_model: Callable[..., AIModel], upstream: Upstream
) -> None:
    base = f"{upstream.url}/v1beta"
    gemini = make_provider("gemini", api_base_url=base, shared_api_key="AIza-0123456789", sort_order=1)
    painter = make_model(gemini, "image", model_id="gemini-image")
    path = "/v1beta/models/gemini-image:generateContent"
    image = {"inlineData": {"mimeType": "image/png", "data": answers.images(answers.png())["data"][0]["b64_json"]}}
    answer = {"candidates": [{"content": {"parts": [image]}, "finishReason": "STOP"}]}
    upstream.on("POST", path, whole(200, answer))
    made = UnifiedAIService.generate_image("A kite", superuser, model_id=painter.pk, n=3)
    assert len(made.all) == 3
    assert sorted(record.requests for record in books.records()) == [0, 0, 1]
    assert books.period(provider=gemini.pk).requests == 1
    assert books.period(provider=gemini.pk).images == 3
    books.assert_true()


# -- what a vendor tells ---------------------------------------------------------------------------------------------


def test_words_that_no_database_keeps_do_not_lose_the_call(superuser: User, upstream: Upstream) -> None:
    upstream.send(whole(200, {**answers.chat("Hello!", finish_reason="st\0p"), "id": "\0" * 200}))
    assert UnifiedAIService.chat("Hi", superuser) == "Hello!"
    record = books.only_record()
    assert (record.state, record.finish_reason, record.cost) == (UsageState.SETTLED, "st\ufffdp", Decimal("0.000004"))
    books.assert_true()


@pytest.mark.parametrize("cost", [1e30, 9.3e6, "1e400"])
def test_a_cost_that_can_not_be_true_is_not_known(
    cost: Any,
    superuser: User,
    make_provider: Callable[..., AIProvider],
    make_model: Callable[..., AIModel],
    upstream: Upstream,
) -> None:
    router = make_provider("openrouter", api_base_url=f"{upstream.url}/v1", shared_api_key="sk-or-0123456789")
    model = make_model(router, "chat", model_id="acme/any")
    answer = answers.chat("Hello!")
    answer["usage"]["cost"] = cost
    upstream.send(whole(200, answer))
    assert UnifiedAIService.chat("Hi", superuser, model_id=model.pk) == "Hello!"
    record = books.only_record()
    assert (record.state, record.cost, record.cost_state) == (UsageState.SETTLED, None, CostState.UNKNOWN)
    assert (books.period().unpriced, books.period().requests) == (1, 1)
    books.assert_true()


# -- signals -----------------------------------------------------------------------------------------------------------


def test_a_receiver_that_raises_loses_nothing(superuser: User, upstream: Upstream) -> None:
    def fail(**facts: Any) -> None:
        raise RuntimeError("a bug of another app")

    ai_call_settled.connect(fail)
    try:
        with heard(ai_call_settled) as told:
            assert UnifiedAIService.chat("Hi", superuser) == "Hello!"
            assert async_to_sync(UnifiedAIService.achat)("Hi", superuser) == "Hello!"
    finally:
        ai_call_settled.disconnect(fail)
    assert len(told) == 2
    assert books.states() == [UsageState.SETTLED, UsageState.SETTLED]
    books.assert_true()


def test_a_receiver_finds_the_books_written(superuser: User) -> None:
    found: list[list[str]] = []

    def look(**facts: Any) -> None:
        found.append([*books.states(id=facts["call"].entry.id), str(books.period().requests)])

    ai_call_settled.connect(look)
    try:
        UnifiedAIService.chat("Hi", superuser)
    finally:
        ai_call_settled.disconnect(look)
    assert found == [[UsageState.SETTLED, "1"]]


def test_eighty_percent_of_a_limit_are_told_once(superuser: User, limit: SetLimit) -> None:
    limit(superuser, monthly_limit=5)
    with heard(ai_limit_near) as told:
        for number in range(1, 6):
            UnifiedAIService.chat("Hi", superuser)
            assert len(told) == int(number >= 4)
    assert (told[0]["standing"].requests, told[0]["standing"].limit.requests) == (4, 5)


def test_eighty_percent_of_a_budget_are_told_once(superuser: User, provider: AIProvider, limit: SetLimit) -> None:
    limit(superuser, monthly_budget=Decimal("0.000020"))
    AIProvider.objects.update(shared_monthly_budget=Decimal("0.000010"))
    with heard(ai_limit_near) as told:
        for _ in range(2):
            UnifiedAIService.chat("Hi", superuser, max_tokens=4)
    assert [facts["standing"].limit.period.scope for facts in told] == [UsagePeriod.Scope.SHARED_KEY]


def test_a_key_that_is_refused_is_told(superuser: User, provider: AIProvider, upstream: Upstream) -> None:
    upstream.send(REFUSED_KEY)
    with heard(ai_key_failing) as told, pytest.raises(ProviderAuthFailed):
        UnifiedAIService.chat("Hi", superuser)
    del told[0]["signal"]
    assert told == [
        {
            "provider_slug": "openai",
            "key_source": "shared",
            "admin_id": superuser.pk,
            "code": "provider_auth_failed",
        }
    ]
