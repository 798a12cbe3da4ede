"""Limits and budgets, and what is told of them, over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from src.ai.models import AdminProviderSettings, AIModel, AIProvider, APIToken, UsagePeriod, UsageRecord, UsageText
from src.core.months import month_name, month_of
from tests import vendor_answers as answers
from tests.conftest import codes
from tests.upstream.server import Upstream, whole

CHAT, IMAGE = "/api/admin/ai/chat/send", "/api/admin/ai/image/generate"
SETTINGS, USAGE = "/api/admin/ai-settings", "/api/admin/ai-settings/usage"
KEY = "sk-shared-0123456789abcdef"


@pytest.fixture
def provider(make_provider: Callable[..., AIProvider], upstream: Upstream) -> AIProvider:
    upstream.on("POST", answers.CHAT, whole(200, answers.chat("Hello!")))  # 9 tokens in, 4 out
    return make_provider(api_base_url=f"{upstream.url}/v1", shared_api_key=KEY, allow_shared_for_normal_admins=True)


@pytest.fixture
def writer(provider: AIProvider, make_model: Callable[..., AIModel]) -> AIModel:
    """A dollar a token of the reply; what is asked costs nothing."""
    return make_model(provider, "chat", model_id="writer", pricing_input=0, pricing_output=1_000_000)


def limited(admin: User, provider: AIProvider, **limits: Any) -> AdminProviderSettings:
    return AdminProviderSettings.objects.create(admin=admin, provider=provider, **limits)


# -- what is on the books -------------------------------------------------------------------------------------------


def test_a_call_is_on_the_books_with_everything_that_is_known(
    editor: User, editor_api: APIClient, provider: AIProvider, writer: AIModel
) -> None:
    response = editor_api.post(CHAT, {"message": "Hi", "max_tokens": 5})
    assert response.json()["info"]["cost"] == "4.000000000000"
    record = UsageRecord.objects.get()
    token = APIToken.objects.get()
    who = (record.admin, record.admin_name, record.token, record.key_source)
    assert who == (editor, "editor", token.token_key, "shared")
    what = (record.provider, record.provider_slug, record.model, record.model_name, record.capability, record.operation)
    assert what == (provider, "openai", writer, "writer", "chat", "chat")
    units = (record.input_tokens, record.output_tokens, record.cache_read_tokens, record.reasoning_tokens)
    assert units == (9, 4, None, None)
    money = (record.cost, record.cost_state, record.held_cost, record.price_input, record.price_output)
    assert money == (4, "exact", 5, 0, 1_000_000)
    end = (record.state, record.requests, record.finish_reason, record.error_code, record.response_id, record.streamed)
    assert end == ("settled", 1, "stop", "", "chatcmpl-1", False)
    assert record.latency_ms is not None
    assert record.request_id
    assert record.month == month_of().first


def test_an_unknown_price_is_an_unknown_cost_and_never_0(
    editor_api: APIClient, provider: AIProvider, make_model: Callable[..., AIModel]
) -> None:
    make_model(provider, "chat")
    assert editor_api.post(CHAT, {"message": "Hi"}).json()["info"]["cost"] is None
    record = UsageRecord.objects.get()
    assert (record.cost, record.cost_state) == (None, "unknown")
    assert editor_api.get(USAGE).json()[0]["unpriced"] == 1


def test_a_refused_call_costs_nothing_and_says_why(editor_api: APIClient, writer: AIModel, upstream: Upstream) -> None:
    upstream.on("POST", answers.CHAT, whole(400, {"error": {"message": "no"}}))
    editor_api.post(CHAT, {"message": "Hi"})
    record = UsageRecord.objects.get()
    assert (record.state, record.requests, record.cost, record.cost_state) == ("failed", 0, 0, "exact")
    assert record.error_code == "provider_bad_request"


def test_an_answer_that_could_not_be_used_is_paid_for_and_counts_for_no_request(
    editor: User, editor_api: APIClient, provider: AIProvider, writer: AIModel, upstream: Upstream
) -> None:
    own = limited(editor, provider, monthly_limit=1, monthly_budget=100)
    upstream.on("POST", answers.CHAT, whole(200, answers.chat("", "length")))
    response = editor_api.post(CHAT, {"message": "Hi", "max_tokens": 5})
    assert codes(response) == ["empty_reply"]
    record = UsageRecord.objects.get()
    assert (record.state, record.requests, record.cost, record.error_code) == ("failed", 0, 4, "empty_reply")
    own.refresh_from_db()
    assert own.monthly_usage == 0
    assert editor_api.get(USAGE).json()[0]["budget_left"] == "96.000000000000"


def test_what_is_asked_and_answered_is_kept_only_where_a_setting_says_so(
    editor_api: APIClient, writer: AIModel, settings: Any
) -> None:
    editor_api.post(CHAT, {"message": "A secret?"})
    assert not UsageText.objects.exists()
    settings.AI_STORE_TEXTS = True
    editor_api.post(CHAT, {"message": "A secret?"})
    text = UsageText.objects.get()
    fields = [UsageText._meta.get_field(name) for name in ("prompt", "reply")]
    prompt, reply = (field.reveal(text) for field in fields)  # type: ignore[union-attr]
    assert "A secret?" in prompt
    assert reply == "Hello!"
    assert "secret" not in text.prompt
    assert text.pk == UsageRecord.objects.first().pk  # type: ignore[union-attr]  # the newest


def test_names_outlive_whom_they_name(
    editor: User, editor_api: APIClient, provider: AIProvider, writer: AIModel
) -> None:
    editor_api.post(CHAT, {"message": "Hi"})
    provider.delete()
    editor.delete()
    record = UsageRecord.objects.get()
    assert (record.admin_name, record.provider_slug, record.model_name) == ("editor", "openai", "writer")


# -- limits ---------------------------------------------------------------------------------------------------------


def test_an_answer_says_what_is_left(
    editor: User, editor_api: APIClient, provider: AIProvider, writer: AIModel
) -> None:
    limited(editor, provider, monthly_limit=3, monthly_budget=20)
    response = editor_api.post(CHAT, {"message": "Hi", "max_tokens": 5})
    assert (response["X-AI-Limit"], response["X-AI-Limit-Remaining"]) == ("3", "2")
    assert (Decimal(response["X-AI-Budget"]), Decimal(response["X-AI-Budget-Remaining"])) == (20, 16)
    assert 0 < int(response["X-AI-Limit-Reset"]) <= 31 * 24 * 3600


def test_without_a_limit_nothing_is_said(editor_api: APIClient, writer: AIModel) -> None:
    response = editor_api.post(CHAT, {"message": "Hi"})
    assert not [name for name in response.headers if name.lower().startswith("x-ai-")]


def test_a_budget_refuses_what_might_pass_it_and_lets_a_smaller_call_through(
    editor: User, editor_api: APIClient, provider: AIProvider, writer: AIModel, upstream: Upstream
) -> None:
    limited(editor, provider, monthly_budget=10)
    assert editor_api.post(CHAT, {"message": "Hi", "max_tokens": 10}).status_code == 200  # costs 4
    refused = editor_api.post(CHAT, {"message": "Hi", "max_tokens": 7})
    assert (refused.status_code, codes(refused)) == (429, ["budget_exhausted"])
    assert int(refused["Retry-After"]) > 0
    assert Decimal(refused["X-AI-Budget-Remaining"]) == 6
    assert f"{month_of().end:%Y}" in refused.json()["errors"][0]["detail"]
    assert editor_api.post(CHAT, {"message": "Hi", "max_tokens": 6}).status_code == 200
    assert len(upstream.requests) == 2
    assert UsageRecord.objects.count() == 2


def test_without_max_tokens_the_models_own_maximum_is_held(
    editor: User, editor_api: APIClient, provider: AIProvider, writer: AIModel, settings: Any
) -> None:
    limited(editor, provider, monthly_budget=50)
    settings.AI_DEFAULT_MAX_TOKENS = 51
    assert codes(editor_api.post(CHAT, {"message": "Hi"})) == ["budget_exhausted"]
    AIModel.objects.update(max_tokens=50)
    assert editor_api.post(CHAT, {"message": "Hi"}).status_code == 200


def test_the_shared_keys_budget_is_one_for_all_who_use_it(
    editor: User,
    editor_api: APIClient,
    admin_api: APIClient,
    superuser: User,
    provider: AIProvider,
    writer: AIModel,
) -> None:
    AIProvider.objects.update(shared_monthly_budget=10)
    assert admin_api.post(CHAT, {"message": "Hi", "max_tokens": 5}).status_code == 200
    assert editor_api.post(CHAT, {"message": "Hi", "max_tokens": 5}).status_code == 200
    refused = editor_api.post(CHAT, {"message": "Hi", "max_tokens": 5})
    assert (refused.status_code, codes(refused)) == (429, ["budget_exhausted"])
    assert "shared key" in refused.json()["errors"][0]["detail"]
    limited(editor, provider, personal_api_key="sk-own-0123456789abcdef")
    assert editor_api.post(CHAT, {"message": "Hi", "max_tokens": 5}).status_code == 200


def test_admins_without_settings_have_the_providers_default_limit(
    editor: User, editor_api: APIClient, provider: AIProvider, writer: AIModel
) -> None:
    AIProvider.objects.update(default_monthly_limit=1)
    assert editor_api.post(CHAT, {"message": "Hi"})["X-AI-Limit-Remaining"] == "0"
    assert codes(editor_api.post(CHAT, {"message": "Hi"})) == ["monthly_limit_reached"]
    limited(editor, provider)
    assert editor_api.post(CHAT, {"message": "Hi"}).status_code == 200


def test_a_setting_decides_whether_a_budget_may_meet_an_unknown_price(
    editor: User, editor_api: APIClient, provider: AIProvider, make_model: Callable[..., AIModel], settings: Any
) -> None:
    make_model(provider, "chat", model_id="unpriced")
    limited(editor, provider, monthly_budget=10, monthly_limit=1)
    refused = editor_api.post(CHAT, {"message": "Hi"})
    assert (refused.status_code, codes(refused)) == (403, ["price_unknown"])
    assert "unpriced" in refused.json()["errors"][0]["detail"]
    settings.AI_BUDGET_ALLOWS_UNKNOWN_PRICE = True
    assert editor_api.post(CHAT, {"message": "Hi"}).status_code == 200
    assert codes(editor_api.post(CHAT, {"message": "Hi"})) == ["monthly_limit_reached"]


def test_a_used_up_budget_lets_a_free_model_through(
    editor: User, editor_api: APIClient, provider: AIProvider, make_model: Callable[..., AIModel]
) -> None:
    make_model(provider, "chat", pricing_input=0, pricing_output=0)
    limited(editor, provider, monthly_budget=0)
    assert editor_api.post(CHAT, {"message": "Hi"}).status_code == 200


# -- what one sees of them ------------------------------------------------------------------------------------------


def test_an_admin_sees_their_own_usage_and_what_is_left(
    editor: User, editor_api: APIClient, admin_api: APIClient, provider: AIProvider, writer: AIModel
) -> None:
    limited(editor, provider, monthly_limit=3, monthly_budget=20)
    editor_api.post(CHAT, {"message": "Hi", "max_tokens": 5})
    admin_api.post(CHAT, {"message": "Hi"})
    (own,) = editor_api.get(USAGE).json()
    assert own == {
        "provider": {"slug": "openai", "name": "Openai"},
        "requests": 1,
        "held_requests": 0,
        "monthly_limit": 3,
        "requests_left": 2,
        "cost": "4.000000000000",
        "held_cost": "0.000000000000",
        "unpriced": 0,
        "monthly_budget": "20.000000",
        "budget_left": "16.000000000000",
        "resets_at": own["resets_at"],
    }
    assert datetime.fromisoformat(own["resets_at"]) == month_of().end


def test_usage_is_three_queries_however_many_providers(
    editor_api: APIClient, make_provider: Callable[..., AIProvider], django_assert_max_num_queries: Any
) -> None:
    for number in range(5):
        make_provider(f"vendor-{number}")
    editor_api.get(USAGE)
    with django_assert_max_num_queries(3 + 1):  # and the token
        assert len(editor_api.get(USAGE).json()) == 5


def test_only_a_superuser_sets_a_budget(
    editor_api: APIClient, admin_api: APIClient, editor: User, superuser: User, provider: AIProvider
) -> None:
    own, other = limited(editor, provider), limited(superuser, provider)
    refused = editor_api.patch(f"{SETTINGS}/{own.pk}", {"monthly_budget": "5"})
    assert (refused.status_code, codes(refused)) == (403, ["permission_denied"])
    assert admin_api.patch(f"{SETTINGS}/{other.pk}", {"monthly_budget": "5"}).json()["monthly_budget"] == "5.000000"
    assert admin_api.patch(f"{SETTINGS}/{other.pk}", {"monthly_budget": "-1"}).status_code == 400


def test_a_budget_protects_the_settings_it_is_in(editor: User, editor_api: APIClient, provider: AIProvider) -> None:
    own = limited(editor, provider, monthly_budget=5)
    refused = editor_api.delete(f"{SETTINGS}/{own.pk}")
    assert (refused.status_code, codes(refused)) == (409, ["limit_protects_settings"])


# -- months ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calendar", "zone", "moment", "first", "end", "name"),
    [
        ("gregorian", "UTC", "2026-11-23T21:00Z", "2026-11-01", "2026-12-01T00:00+00:00", "November 2026"),
        ("gregorian", "UTC", "2028-02-29T12:00Z", "2028-02-01", "2028-03-01T00:00+00:00", "February 2028"),
        ("gregorian", "Asia/Tehran", "2026-11-30T20:29Z", "2026-11-01", "2026-12-01T00:00+03:30", "November 2026"),
        ("gregorian", "Asia/Tehran", "2026-11-30T20:30Z", "2026-12-01", "2027-01-01T00:00+03:30", "December 2026"),
        ("jalali", "Asia/Tehran", "2026-11-23T21:00Z", "2026-11-22", "2026-12-22T00:00+03:30", "آذر 1405"),
        ("jalali", "Asia/Tehran", "2027-03-20T12:00Z", "2027-02-20", "2027-03-21T00:00+03:30", "اسفند 1405"),
    ],
)
def test_a_month_is_that_of_the_settings_calendar_and_time_zone(
    calendar: str, zone: str, moment: str, first: str, end: str, name: str, settings: Any
) -> None:
    settings.AI_MONTH_CALENDAR, settings.AI_MONTH_TIME_ZONE = calendar, zone
    month = month_of(datetime.strptime(moment, "%Y-%m-%dT%H:%MZ").replace(tzinfo=UTC))
    assert (str(month.first), month.end) == (first, datetime.fromisoformat(end))
    assert month_name(month.first) == name


def test_a_new_month_is_a_new_row(editor_api: APIClient, writer: AIModel, settings: Any) -> None:
    editor_api.post(CHAT, {"message": "Hi"})
    settings.AI_MONTH_CALENDAR = "jalali"
    editor_api.post(CHAT, {"message": "Hi"})
    rows = UsagePeriod.objects.filter(scope="admin").values_list("requests", flat=True)
    assert list(rows) == [1, 1]
