"""Whose key pays, and what holds a token back: limits, budgets, rates."""

from __future__ import annotations

import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import openai
import pytest
from django.contrib.auth.models import User

from src.ai.models import AdminProviderSettings, AIModel, AIProvider, APIToken, UsageRecord
from src.ai.services.ledger.writer import writer as books_writer
from tests.gateway.conftest import HELLO, KEY
from tests.upstream.server import Gate, Reply, Upstream, events, whole
from tests.vendor_answers import chat, chunk

OWN = "sk-own-0123456789abcd"
ASKED = {"model": "chat", "messages": HELLO}


@pytest.fixture(autouse=True)
def served(chat_model: AIModel, upstream: Upstream) -> Upstream:
    upstream.on("POST", "/v1/chat/completions", whole(200, chat("Hi!")))
    return upstream


@pytest.fixture
def retrying(site: str, token: str) -> Any:
    """The official client, which asks up to three times."""
    with openai.OpenAI(base_url=f"{site}/v1", api_key=token, max_retries=2, timeout=20) as client:
        yield client


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[httpx.Request]:
    """What the official client has sent."""
    sent: list[Any] = []
    send = openai.OpenAI.__mro__[1]._prepare_request  # type: ignore[attr-defined]

    def noting(self: Any, request: Any) -> Any:
        sent.append(request)
        return send(self, request)

    monkeypatch.setattr(openai.OpenAI, "_prepare_request", noting)
    return sent


def ask(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(model="openai/gpt-6-luna", messages=HELLO, **more)  # type: ignore[call-overload]


# -- keys ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_superuser", [False, True])
@pytest.mark.parametrize("has_own", [False, True])
@pytest.mark.parametrize("allowed", [False, True])
def test_the_contracts_table(
    is_superuser: bool,
    has_own: bool,
    allowed: bool,
    client: openai.OpenAI,
    editor: User,
    provider: AIProvider,
    upstream: Upstream,
    settled: Callable[[], UsageRecord],
) -> None:
    editor.is_superuser = is_superuser
    editor.save()
    provider.allow_shared_for_normal_admins = allowed
    provider.save()
    if has_own:
        AdminProviderSettings(admin=editor, provider=provider, personal_api_key=OWN).save()
    if not (is_superuser or has_own or allowed):
        with pytest.raises(openai.PermissionDeniedError) as caught:
            ask(client)
        assert caught.value.code == "shared_api_not_allowed"
        assert upstream.requests == []
        return
    ask(client)
    key, source = (OWN, "personal") if has_own else (KEY, "shared")
    assert upstream.last.headers["authorization"] == f"Bearer {key}"
    assert settled().key_source == source


def test_a_key_is_exchanged_within_the_next_request(
    client: openai.OpenAI, editor: User, provider: AIProvider, upstream: Upstream
) -> None:
    for key in (KEY, "sk-another-0123456789"):
        provider.shared_api_key = key
        provider.save()
        ask(client)
        assert upstream.last.headers["authorization"] == f"Bearer {key}"
    provider.shared_api_key = ""
    provider.save()
    with pytest.raises(openai.PermissionDeniedError) as caught:
        ask(client)
    assert caught.value.code == "no_api_key_available"
    assert "retry-after" not in caught.value.response.headers


def test_a_key_that_nobody_can_read(http: httpx.Client, provider: AIProvider, settings: Any) -> None:
    settings.SECRET_KEY = "another-0123456789-abcdefghijklmnopqrstuvwxyz-ABCDEFG"
    AIProvider.objects.filter(pk=provider.pk).update(sort_order=9)  # and so is read anew
    response = http.post("/chat/completions", json=ASKED)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "key_unreadable")
    assert response.headers["x-should-retry"] == "false"


# -- limits and budgets --------------------------------------------------------------------------------------------


def test_a_spent_limit_is_asked_for_exactly_once(
    retrying: openai.OpenAI, asked: list[Any], editor: User, provider: AIProvider, upstream: Upstream
) -> None:
    AdminProviderSettings(admin=editor, provider=provider, monthly_limit=1).save()
    raw = retrying.chat.completions.with_raw_response.create(model="chat", messages=HELLO)  # type: ignore[call-overload]
    assert (raw.headers["x-ai-limit"], raw.headers["x-ai-limit-remaining"]) == ("1", "0")
    books_writer.drain(10)
    for stream in (False, True):
        asked.clear()
        with pytest.raises(openai.RateLimitError) as caught:
            ask(retrying, stream=stream)
        assert len(asked) == 1
        assert (caught.value.code, caught.value.type) == ("monthly_limit_reached", "insufficient_quota")
        headers = caught.value.response.headers
        assert (headers["x-should-retry"], headers["x-ai-limit-remaining"]) == ("false", "0")
        assert int(headers["retry-after"]) > 0
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("whose", ["admin", "token", "shared key"])
def test_a_budget_is_not_overdrawn(
    whose: str, retrying: openai.OpenAI, asked: list[Any], editor: User, provider: AIProvider, upstream: Upstream
) -> None:
    """A dollar a token of the reply: ten are asked for, four are given."""
    if whose == "admin":
        AdminProviderSettings(admin=editor, provider=provider, monthly_budget=15).save()
    elif whose == "token":
        APIToken.objects.update(monthly_budget=15)
        APIToken.objects.get().save()
    else:
        provider.shared_monthly_budget = Decimal(15)
        provider.save()
    ask(retrying, max_tokens=10)
    books_writer.drain(10)
    ask(retrying, max_tokens=11)
    books_writer.drain(10)
    asked.clear()
    with pytest.raises(openai.RateLimitError) as caught:
        ask(retrying, max_tokens=8)
    assert (caught.value.code, caught.value.type) == ("budget_exhausted", "insufficient_quota")
    assert len(asked) == 1
    ask(retrying, max_tokens=7)
    assert len(upstream.requests) == 3


@pytest.mark.parametrize(
    "trick",
    [
        {"max_tokens": -1_000_000},
        {"max_tokens": 0},
        {"max_tokens": 10**30},
        {"max_tokens": None, "max_completion_tokens": None},
        {"max_completion_tokens": 1, "max_tokens": 1000},
        {"max_tokens": 1, "n": 100},
        {"max_tokens": 1, "n": 10**30},
        {"max_tokens": -5, "n": -5},
    ],
)
def test_what_is_held_can_not_be_talked_down(
    trick: dict[str, Any],
    http: httpx.Client,
    editor: User,
    provider: AIProvider,
    chat_model: AIModel,
    upstream: Upstream,
) -> None:
    chat_model.max_tokens = 50
    chat_model.save()
    AdminProviderSettings(admin=editor, provider=provider, monthly_budget=20).save()
    response = http.post("/chat/completions", json={**ASKED, **trick})
    assert (response.status_code, response.json()["error"]["code"]) == (429, "budget_exhausted")
    assert upstream.requests == []


def test_who_has_a_budget_and_names_no_limit_gets_the_one_that_was_held(
    http: httpx.Client, editor: User, provider: AIProvider, chat_model: AIModel, upstream: Upstream
) -> None:
    chat_model.max_tokens = 50
    chat_model.save()
    AdminProviderSettings(admin=editor, provider=provider, monthly_budget=60).save()
    for unsaid in ({}, {"max_tokens": None}):
        http.post("/chat/completions", json={**ASKED, **unsaid}).raise_for_status()
        assert upstream.last.json["max_completion_tokens"] == 50
        books_writer.drain(10)


def test_a_price_that_nobody_knows(
    client: openai.OpenAI, editor: User, provider: AIProvider, chat_model: AIModel
) -> None:
    chat_model.pricing_output = None
    chat_model.save()
    AdminProviderSettings(admin=editor, provider=provider, monthly_budget=60).save()
    with pytest.raises(openai.PermissionDeniedError) as caught:
        ask(client)
    assert caught.value.code == "price_unknown"


# -- rates ---------------------------------------------------------------------------------------------------------


def test_over_its_rate_a_token_is_told_when_to_come_back(http: httpx.Client, upstream: Upstream) -> None:
    token = APIToken.objects.get()
    token.requests_per_minute = 2
    token.save()
    statuses = [http.post("/chat/completions", json={**ASKED, "stream": False}).status_code for _ in range(2)]
    assert statuses == [200, 200]
    response = http.post("/chat/completions", json=ASKED)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (429, "rate_limit_error", "rate_limit_exceeded")
    assert 0 < int(response.headers["retry-after"]) <= 60
    assert "x-should-retry" not in response.headers
    assert len(upstream.requests) == 2
    assert http.get("/models").status_code == 200


@pytest.mark.parametrize("streamed", [False, True])
def test_a_place_is_held_until_the_answer_has_ended(streamed: bool, http: httpx.Client, upstream: Upstream) -> None:
    token = APIToken.objects.get()
    token.concurrent_requests = 1
    token.save()
    gate = Gate()
    held = (
        events(chunk("a"), gate, chunk(None, "stop"))
        if streamed
        else Reply(200, [gate, b'{"id": "x", "choices": []}'], {"content-type": "application/json"})
    )
    upstream.send(held)
    first: list[int] = []
    asking = {**ASKED, "stream": streamed}
    headers = dict(http.headers)
    thread = threading.Thread(
        target=lambda: first.append(
            httpx.post(f"{http.base_url}chat/completions", json=asking, headers=headers, timeout=20).status_code
        )
    )
    thread.start()
    gate.wait_until_reached()
    refused = http.post("/chat/completions", json=ASKED)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    gate.open()
    thread.join(20)
    assert first == [200]
    assert http.post("/chat/completions", json=ASKED).status_code == 200


def test_who_asks_in_turn_is_never_too_many(client: openai.OpenAI, upstream: Upstream) -> None:
    token = APIToken.objects.get()
    token.concurrent_requests = 1
    token.save()
    for _ in range(10):
        ask(client)
        upstream.send(events(chunk("a"), chunk(None, "stop")))
        assert len(list(ask(client, stream=True))) == 2
