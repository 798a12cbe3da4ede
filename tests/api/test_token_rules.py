"""What a token carries narrows what it opens: capabilities, models, rates, a budget, an end."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.utils import timezone
from rest_framework.test import APIClient

from src.ai.exceptions import TokenRateLimited
from src.ai.models import AdminProviderSettings, AIModel, AIProvider, APIToken, UsagePeriod, UsageRecord
from src.ai.services.caller import Caller, calling
from src.ai.services.token_rules import rules_of
from src.ai.services.unified_service import UnifiedAIService
from src.core.months import month_of
from tests import vendor_answers as answers
from tests.conftest import codes
from tests.ledger import books
from tests.serving import server_thread
from tests.upstream.server import HANG, Gate, Upstream, events, whole

CHAT, IMAGE, AUDIO = "/api/admin/ai/chat/send", "/api/admin/ai/image/generate", "/api/admin/ai/audio/generate"
CONTENT, TOKENS = "/api/admin/ai/content/generate", "/api/admin/auth/tokens"
HI = {"message": "Hi", "max_tokens": 5}
KEY = "sk-shared-0123456789abcdef"
STREAM = events(answers.chunk("Hel"), answers.chunk("lo!"), answers.chunk(None, "stop"))

Opens = Callable[..., APIClient]


def opened_by(token: str) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
    return client


@pytest.fixture
def api_with(editor: User) -> Opens:
    """A client of an editor's token with these rules."""

    def make(**rules: Any) -> APIClient:
        _stored, token = APIToken.objects.create(user=editor, name="ci", **rules)
        return opened_by(token)

    return make


@pytest.fixture
def vendor(make_provider: Callable[..., AIProvider], upstream: Upstream) -> Callable[..., AIProvider]:
    """Makes vendors on loopback that answer any chat, with a shared key for everyone."""
    upstream.on("POST", answers.CHAT, whole(200, answers.chat("Hello!")))  # 9 tokens in, 4 out

    def make(slug: str = "openai", **fields: Any) -> AIProvider:
        shared = {"shared_api_key": KEY, "allow_shared_for_normal_admins": True}
        return make_provider(slug, api_base_url=f"{upstream.url}/v1", **shared, **fields)

    return make


@pytest.fixture
def provider(vendor: Callable[..., AIProvider]) -> AIProvider:
    return vendor()


@pytest.fixture
def writer(provider: AIProvider, make_model: Callable[..., AIModel]) -> AIModel:
    """A dollar a token of the reply; what is asked costs nothing."""
    return make_model(provider, "chat", model_id="writer", pricing_input=0, pricing_output=1_000_000)


# -- capabilities and models -------------------------------------------------------------------------------------------


def test_a_token_opens_the_capabilities_that_it_names_and_no_others(
    api_with: Opens, provider: AIProvider, make_model: Callable[..., AIModel], upstream: Upstream
) -> None:
    make_model(provider, "chat", "content", "image", "audio")
    api = api_with(capabilities=["chat"])
    assert api.post(CHAT, HI).status_code == 200
    bodies = {IMAGE: {"prompt": "a kite"}, AUDIO: {"text": "Hello"}, CONTENT: {"topic": "Tea"}}
    for url, body in bodies.items():
        response = api.post(url, body)
        assert (response.status_code, codes(response)) == (403, ["token_not_allowed"])
    assert (
        "'ci' may not be used for 'content' with the model 'openai/model-1'" in response.json()["errors"][0]["detail"]
    )
    assert len(upstream.requests) == 1
    assert UsageRecord.objects.count() == 1


@pytest.mark.parametrize(
    ("models", "allowed"),
    [
        ([], True),
        (["openai/org/model:free"], True),
        (["groq/llama", "openai/*"], True),
        (["openai/org"], False),
        (["openai/org/*"], False),
        (["groq/*", "groq/org/model:free"], False),
    ],
)
def test_a_token_opens_the_models_that_it_names(
    models: list[str], allowed: bool, api_with: Opens, provider: AIProvider, make_model: Callable[..., AIModel]
) -> None:
    model = make_model(provider, "chat", model_id="org/model:free")
    api = api_with(models=models)
    for choice in ({}, {"model_id": model.pk}, {"provider_slug": "openai"}):
        response = api.post(CHAT, HI | choice)
        assert response.status_code == (200 if allowed else 403), response.json()
        assert allowed or codes(response) == ["token_not_allowed"]


def test_without_a_choice_the_first_model_serves_that_both_admin_and_token_may_use(
    api_with: Opens, vendor: Callable[..., AIProvider], make_model: Callable[..., AIModel], upstream: Upstream
) -> None:
    first, second, third = (vendor(slug, sort_order=order) for order, slug in enumerate(["openai", "groq", "deepseek"]))
    for provider in (first, second, third):
        make_model(provider, "chat", model_id=f"of-{provider.slug}")
    AIProvider.objects.filter(pk=second.pk).update(allow_shared_for_normal_admins=False)
    response = api_with(models=["groq/*", "deepseek/of-deepseek"]).post(CHAT, HI)
    assert response.json()["info"]["provider"] == "deepseek"
    response = api_with(models=["groq/*"]).post(CHAT, HI)
    assert (response.status_code, codes(response)) == (403, ["shared_api_not_allowed"])
    assert api_with().post(CHAT, HI).json()["info"]["provider"] == "openai"


def test_lists_tell_what_the_token_may_not_use(
    api_with: Opens, vendor: Callable[..., AIProvider], make_model: Callable[..., AIModel]
) -> None:
    make_model(vendor("openai"), "chat", "image", model_id="luna")
    make_model(vendor("groq"), "chat", model_id="llama")
    make_model(AIProvider.objects.get(slug="groq"), "chat", model_id="off", is_active=False)

    def states(api: APIClient, capability: str) -> dict[str, str]:
        rows = api.get(f"/api/admin/ai/{capability}/models").json()["results"]
        return {row["model_id"]: row["access_state"] for row in rows}

    def usable(api: APIClient, capability: str) -> dict[str, bool]:
        rows = api.get("/api/admin/ai/providers", {"capability": capability}).json()["results"]
        return {row["slug"]: row["has_access"] for row in rows}

    narrow = api_with(models=["groq/*"], capabilities=["chat"])
    assert states(narrow, "chat") == {"luna": "no_access", "llama": "available_shared", "off": "disabled"}
    assert states(narrow, "image") == {"luna": "no_access"}
    assert (usable(narrow, "chat"), usable(narrow, "image")) == ({"openai": False, "groq": True}, {"openai": False})
    wide = api_with()
    assert states(wide, "chat") == {"luna": "available_shared", "llama": "available_shared", "off": "disabled"}
    assert usable(wide, "chat") == {"openai": True, "groq": True}


def test_a_change_of_its_rules_holds_from_the_next_request(api_with: Opens, writer: AIModel) -> None:
    api = api_with(capabilities=["chat"])
    assert api.post(CHAT, HI).status_code == 200
    changes: list[tuple[dict[str, Any], str]] = [
        ({"capabilities": ["image"]}, "token_not_allowed"),
        ({"capabilities": [], "models": ["groq/*"]}, "token_not_allowed"),
        ({"models": [], "monthly_budget": 0}, "budget_exhausted"),
        ({"monthly_budget": None, "requests_per_minute": 1}, "token_rate_limited"),
    ]
    for change, code in changes:
        APIToken.objects.update(**change)
        if code == "token_rate_limited":
            assert api.post(CHAT, HI).status_code == 200
        assert codes(api.post(CHAT, HI)) == [code]
    APIToken.objects.update(requests_per_minute=None)
    assert api.post(CHAT, HI).status_code == 200


# -- rates -------------------------------------------------------------------------------------------------------------


def test_over_its_requests_per_minute_it_is_told_when_there_is_room(
    api_with: Opens, writer: AIModel, upstream: Upstream
) -> None:
    api = api_with(requests_per_minute=3)
    assert [api.post(CHAT, HI).status_code for _ in range(3)] == [200] * 3
    response = api.post(CHAT, HI)
    assert (response.status_code, codes(response)) == (429, ["token_rate_limited"])
    assert 1 <= int(response["Retry-After"]) <= 60
    assert "requests per minute: 3" in response.json()["errors"][0]["detail"]
    assert len(upstream.requests) == UsageRecord.objects.count() == 3


def test_each_token_has_rates_of_its_own(api_with: Opens, writer: AIModel) -> None:
    for api in (api_with(requests_per_minute=1), api_with(requests_per_minute=1)):
        assert [api.post(CHAT, HI).status_code for _ in range(2)] == [200, 429]
    assert api_with().post(CHAT, HI).status_code == 200


def test_a_call_counts_once_however_often_the_vendor_is_asked(
    api_with: Opens, writer: AIModel, upstream: Upstream
) -> None:
    busy = whole(503, {"error": {"message": "busy"}}, {"retry-after": "0"})
    upstream.send(busy, whole(200, answers.chat("Hello!")))
    api = api_with(requests_per_minute=2)
    assert [api.post(CHAT, HI).status_code for _ in range(3)] == [200, 200, 429]
    assert len(upstream.requests) == 3


def test_what_the_rates_refuse_counts_for_no_rate_and_no_limit(
    api_with: Opens, editor: User, writer: AIModel, upstream: Upstream
) -> None:
    own = AdminProviderSettings.objects.create(admin=editor, provider=writer.provider, monthly_limit=50)
    api = api_with(requests_per_minute=2, concurrent_requests=1)
    upstream.on("POST", answers.CHAT, STREAM)
    held = api.post(CHAT, HI | {"stream": True})
    for _ in range(5):
        response = api.post(CHAT, HI)
        assert (response.status_code, response["Retry-After"]) == (429, "1")
        assert "requests at once: 1" in response.json()["errors"][0]["detail"]
    assert b"lo!" in held.getvalue()
    upstream.on("POST", answers.CHAT, whole(200, answers.chat("Hello!")))
    assert api.post(CHAT, HI).status_code == 200
    own.refresh_from_db()
    assert own.monthly_usage == 2


@pytest.mark.parametrize("end", ["read", "failed"])
def test_a_stream_holds_its_place_until_it_ends(end: str, api_with: Opens, writer: AIModel, upstream: Upstream) -> None:
    api = api_with(concurrent_requests=1)
    parts = {"failed": [answers.chunk("Hel"), {"error": {"message": "gone"}}]}
    upstream.send(events(*parts[end]) if end in parts else STREAM)
    stream = api.post(CHAT, HI | {"stream": True})
    assert codes(api.post(CHAT, HI)) == ["token_rate_limited"]
    assert (b"event: error" in stream.getvalue()) == (end == "failed")
    assert api.post(CHAT, HI).status_code == 200


def test_a_refused_or_failed_call_gives_its_place_back(api_with: Opens, writer: AIModel, upstream: Upstream) -> None:
    api = api_with(concurrent_requests=1, monthly_budget=4)
    upstream.reply(400, {"error": {"message": "no"}})
    assert codes(api.post(CHAT, HI | {"max_tokens": 4})) == ["provider_bad_request"]
    assert codes(api.post(CHAT, HI | {"max_tokens": 5})) == ["budget_exhausted"]
    assert codes(api.post(CHAT, HI | {"max_tokens": 5, "stream": True})) == ["budget_exhausted"]
    assert api.post(CHAT, HI | {"max_tokens": 4}).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_as_many_as_have_a_place_are_served_at_once(
    editor: User, provider: AIProvider, make_model: Callable[..., AIModel], upstream: Upstream
) -> None:
    make_model(provider, "chat")
    _stored, token = APIToken.objects.create(user=editor, name="ci", concurrent_requests=2)
    gate, answer = Gate(), whole(200, answers.chat("Hello!"))
    upstream.on("POST", answers.CHAT, type(answer)(200, answer.parts, answer.headers, [gate], answer.length))
    with server_thread() as url, ThreadPoolExecutor(2) as callers:

        def chat() -> httpx.Response:
            return httpx.post(url + CHAT, json=HI, headers={"Authorization": f"Bearer {token}"}, timeout=20)

        held = [callers.submit(chat) for _ in range(2)]
        upstream.wait_for(lambda: len(upstream.requests) == 2)
        refused = chat()
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        gate.open()
        assert [call.result().status_code for call in held] == [200, 200]
        assert chat().status_code == 200
    assert len(upstream.requests) == 3


@pytest.mark.django_db(transaction=True)
def test_who_leaves_a_stream_leaves_the_place(
    editor: User, provider: AIProvider, make_model: Callable[..., AIModel], upstream: Upstream
) -> None:
    make_model(provider, "chat")
    _stored, token = APIToken.objects.create(user=editor, name="ci", concurrent_requests=1)
    upstream.on("POST", answers.CHAT, events(answers.chunk("Hel"), HANG))
    headers = {"Authorization": f"Bearer {token}"}
    with server_thread() as url:
        with httpx.stream("POST", url + CHAT, json=HI | {"stream": True}, headers=headers, timeout=20) as stream:
            coming = stream.iter_lines()
            next(coming)
            assert httpx.post(url + CHAT, json=HI, headers=headers).status_code == 429
        upstream.wait_for(lambda: upstream.open_connections == 0)
        upstream.on("POST", answers.CHAT, whole(200, answers.chat("Hello!")))
        for _attempt in range(100):  # the place is given back a moment after the vendor is left
            if httpx.post(url + CHAT, json=HI, headers=headers, timeout=20).status_code == 200:
                break
        else:
            pytest.fail("the place was never given back")


def test_the_rates_hold_for_every_way_of_the_service(
    editor: User, writer: AIModel, upstream: Upstream, transactional_db: None
) -> None:
    stored, _token = APIToken.objects.create(user=editor, name="ci", requests_per_minute=4, concurrent_requests=1)
    upstream.on("POST", answers.CHAT, STREAM)

    async def astream() -> str:
        return "".join([delta async for delta in UnifiedAIService.astream_chat("Hi", editor, **ROOM)])

    with calling(Caller(token=stored.token_key, rules=rules_of(stored))):
        assert "".join(UnifiedAIService.stream_chat("Hi", editor, **ROOM)) == "Hello!"
        assert async_to_sync(astream)() == "Hello!"
        upstream.on("POST", answers.CHAT, whole(200, answers.chat("Hello!")))
        assert UnifiedAIService.chat("Hi", editor, **ROOM) == "Hello!"
        assert async_to_sync(UnifiedAIService.achat)("Hi", editor, **ROOM) == "Hello!"
        for call in (
            lambda: UnifiedAIService.chat("Hi", editor, **ROOM),
            lambda: async_to_sync(UnifiedAIService.achat)("Hi", editor, **ROOM),
            lambda: UnifiedAIService.stream_chat("Hi", editor, **ROOM),
            lambda: async_to_sync(astream)(),
        ):
            with pytest.raises(TokenRateLimited):
                call()


@pytest.mark.parametrize("deltas", [0, 1])
def test_a_stream_that_is_left_gives_its_place_back(
    deltas: int, editor: User, writer: AIModel, upstream: Upstream, transactional_db: None
) -> None:
    stored, _token = APIToken.objects.create(user=editor, name="ci", concurrent_requests=1)
    upstream.on("POST", answers.CHAT, STREAM)
    with calling(Caller(token=stored.token_key, rules=rules_of(stored))):
        stream = UnifiedAIService.stream_chat("Hi", editor, **ROOM)
        for _ in range(deltas):
            next(stream)
        with pytest.raises(TokenRateLimited):
            UnifiedAIService.stream_chat("Hi", editor, **ROOM)
        stream.close()
        assert "".join(UnifiedAIService.stream_chat("Hi", editor, **ROOM)) == "Hello!"


ROOM: dict[str, Any] = {"max_tokens": 5}


# -- the budget --------------------------------------------------------------------------------------------------------


def test_a_tokens_budget_is_over_all_providers_and_its_own(
    api_with: Opens, writer: AIModel, vendor: Callable[..., AIProvider], make_model: Callable[..., AIModel]
) -> None:
    make_model(vendor("groq"), "chat", model_id="llama", pricing_input=0, pricing_output=1_000_000)
    api, other = api_with(monthly_budget=10), api_with(monthly_budget=10)
    assert [api.post(CHAT, HI | {"provider_slug": slug}).status_code for slug in ("openai", "groq")] == [200, 200]
    response = api.post(CHAT, HI)
    assert (response.status_code, codes(response)) == (429, ["budget_exhausted"])
    key = APIToken.objects.earliest("created").token_key
    detail = response.json()["errors"][0]["detail"]
    assert detail.startswith(f"The monthly budget of $10 for the token '{key}…' has no room for this call until")
    left = (month_of().end - timezone.now()).total_seconds()
    assert left <= int(response["Retry-After"]) <= left + 60
    assert other.post(CHAT, HI).status_code == 200
    period = UsagePeriod.objects.get(scope=UsagePeriod.Scope.TOKEN, token=key)
    assert (period.requests, period.cost, period.held_cost, period.admin_name) == (2, 8, 0, "editor")
    books.assert_true()


def test_a_budget_counts_from_when_it_is_set(api_with: Opens, writer: AIModel) -> None:
    api = api_with()
    assert api.post(CHAT, HI).status_code == 200
    APIToken.objects.update(monthly_budget=Decimal("5.5"))
    assert api.post(CHAT, HI).status_code == 200
    assert codes(api.post(CHAT, HI)) == ["budget_exhausted"]
    key = APIToken.objects.get().token_key
    assert [record.budget_token for record in books.records()] == ["", key]
    books.assert_true()


def test_with_a_budget_a_price_has_to_be_known(
    api_with: Opens, provider: AIProvider, make_model: Callable[..., AIModel]
) -> None:
    make_model(provider, "chat")
    assert codes(api_with(monthly_budget=1).post(CHAT, HI)) == ["price_unknown"]
    assert api_with().post(CHAT, HI).status_code == 200


# -- tokens over HTTP --------------------------------------------------------------------------------------------------


def test_a_token_is_made_with_rules_and_listed_with_them(editor_api: APIClient, writer: AIModel) -> None:
    rules = {
        "capabilities": ["chat"],
        "models": ["openai/writer", "groq/*"],
        "requests_per_minute": 2,
        "concurrent_requests": 1,
        "monthly_budget": "9.500000",
    }
    made = editor_api.post(TOKENS, {"name": "ci", **rules})
    assert made.status_code == 201
    (listed,) = (row for row in editor_api.get(TOKENS).json()["results"] if row["name"] == "ci")
    for row in (made.json(), listed):
        assert {name: row[name] for name in rules} == rules
    api = opened_by(made.json()["token"])
    assert [api.post(CHAT, HI).status_code for _ in range(2)] == [200, 200]
    assert codes(api.post(CHAT, HI)) == ["token_rate_limited"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("capabilities", ["chat", "chat"]),
        ("capabilities", [" "]),
        ("capabilities", "chat"),
        ("models", ["openai"]),
        ("models", ["openai/"]),
        ("models", ["/writer"]),
        ("models", ["openai/*", "openai/*"]),
        ("models", ["openai/a\nb"]),
        ("models", [f"openai/{number}" for number in range(1001)]),
        ("requests_per_minute", 0),
        ("requests_per_minute", -1),
        ("requests_per_minute", 10**7),
        ("concurrent_requests", 0),
        ("concurrent_requests", 1.5),
        ("monthly_budget", "-0.01"),
        ("monthly_budget", "much"),
    ],
)
def test_a_rule_that_means_nothing_is_refused_by_name(field: str, value: Any, editor_api: APIClient) -> None:
    response = editor_api.post(TOKENS, {"name": "ci", field: value})
    assert response.status_code == 400
    assert {error["attr"].split(".")[0] for error in response.json()["errors"]} == {field}
    assert not APIToken.objects.filter(name="ci").exists()


@pytest.mark.parametrize(
    "rules",
    [
        {"capabilities": ["chat"]},
        {"models": ["openai/*"]},
        {"requests_per_minute": 60},
        {"concurrent_requests": 1},
        {"monthly_budget": 0},
    ],
)
def test_a_token_with_rules_makes_no_tokens(rules: dict[str, Any], api_with: Opens) -> None:
    api = api_with(**rules)
    for body in ({"name": "wide"}, {"name": "same", "capabilities": ["chat"]}):
        response = api.post(TOKENS, body)
        assert (response.status_code, codes(response)) == (403, ["token_may_not_make_tokens"])
    assert APIToken.objects.count() == 1
    assert api.get(TOKENS).status_code == 200


def test_rules_end_with_their_token(api_with: Opens, writer: AIModel) -> None:
    api = api_with(capabilities=["chat"], expiry=timedelta(hours=1))
    assert api.post(CHAT, HI).status_code == 200
    APIToken.objects.update(expiry=timezone.now())
    response = api.post(CHAT, HI)
    assert (response.status_code, codes(response)) == (401, ["authentication_failed"])
