"""Bearer tokens: made, shown once, revoked."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.test import APIClient, APIRequestFactory

from src.ai.authentication import BearerTokenAuthentication
from src.ai.models import AIModel, AIProvider, APIToken
from tests import vendor_answers as answers
from tests.upstream.server import Upstream, whole

URL = "/admin/ai/apitoken/"


def shown_token(page: Any) -> str:
    """The token on the page."""
    found = re.search(r'id="new-token">([^<]+)</code>', page.html)
    return found[1] if found else ""


def test_a_new_token_is_shown_once_and_never_again(as_editor: Any, editor: User) -> None:
    first = as_editor.submit(f"{URL}add/", name="Laptop")
    token = shown_token(first)
    stored = APIToken.objects.get()
    assert token.startswith(stored.token_key)
    assert len(first.messages) == 1
    for url in (URL, "/admin/", f"{URL}{stored.pk}/change/", f"{URL}{stored.pk}/history/"):
        assert token not in as_editor.get(url).html
    assert (stored.user, stored.name) == (editor, "Laptop")


def test_a_new_token_opens_the_api(as_editor: Any, editor: User) -> None:
    token = shown_token(as_editor.submit(f"{URL}add/", name="Laptop"))
    request = APIRequestFactory().get("/", HTTP_AUTHORIZATION=f"Bearer {token}")
    user, _stored = BearerTokenAuthentication().authenticate(Request(request))
    assert user == editor


@pytest.mark.parametrize(("lifetime", "days"), [("7", 7), ("365", 365), ("", None)])
def test_its_life_is_chosen(as_editor: Any, lifetime: str, days: int | None) -> None:
    as_editor.submit(f"{URL}add/", name="Laptop", lifetime=lifetime)
    expiry = APIToken.objects.get().expiry
    if days is None:
        assert expiry is None
        assert "never" in as_editor.get(URL).text
    else:
        assert expiry is not None
        assert abs(expiry - timezone.now() - timedelta(days=days)) < timedelta(minutes=1)


def test_a_token_has_a_name(as_editor: Any) -> None:
    assert list(as_editor.submit(f"{URL}add/", name=" ").errors) == ["name"]
    assert not APIToken.objects.exists()


def test_nobody_makes_a_token_for_another(as_superuser: Any, superuser: User, editor: User) -> None:
    as_superuser.submit(f"{URL}add/", name="Laptop", forged={"user": editor.pk, "digest": "x", "token_key": "y"})
    token = APIToken.objects.get()
    assert token.user == superuser
    assert token.digest != "x"


def test_whose_a_token_is_and_how_long_it_lives_is_not_changed(as_editor: Any, editor: User, superuser: User) -> None:
    token, _text = APIToken.objects.create(user=editor, name="Laptop")
    forged = {"lifetime": "", "user": superuser.pk, "token_key": "x", "expiry": "", "digest": "x"}
    as_editor.submit(f"{URL}{token.pk}/change/", name="Phone", forged=forged)
    kept = APIToken.objects.get()
    assert kept.name == "Phone"
    facts = ("digest", "token_key", "user_id", "expiry")
    assert [getattr(kept, name) for name in facts] == [getattr(token, name) for name in facts]


def test_nobody_changes_the_tokens_of_others_but_superusers(
    as_other_editor: Any, as_superuser: Any, editor: User
) -> None:
    token, _text = APIToken.objects.create(user=editor, name="Laptop")
    url = f"{URL}{token.pk}/change/"
    as_other_editor.client.post(url, {"name": "Mine"})
    assert APIToken.objects.get().name == "Laptop"
    as_superuser.submit(url, requests_per_minute="5")
    assert APIToken.objects.get().requests_per_minute == 5


def test_rules_are_chosen_when_it_is_made_and_changed_afterwards(
    as_editor: Any, make_provider: Callable[..., AIProvider], make_model: Callable[..., AIModel]
) -> None:
    make_model(make_provider("openai"), "chat", "vision", model_id="luna")
    page = as_editor.get(f"{URL}add/")
    assert "chat, content, image, audio, vision" in page.text
    for choice in ("openai/*", "openai/luna"):
        assert f'<option value="{choice}">' in page.html
    made = as_editor.submit(
        f"{URL}add/",
        name="CI",
        capabilities="Chat, vision",
        models=["openai/luna"],
        requests_per_minute="60",
        concurrent_requests="4",
        monthly_budget="12.5",
    )
    token = APIToken.objects.get()
    assert shown_token(made).startswith(token.token_key)
    assert (token.capabilities, token.models) == (["chat", "vision"], ["openai/luna"])
    assert (token.requests_per_minute, token.concurrent_requests, token.monthly_budget) == (60, 4, Decimal("12.5"))
    row = as_editor.get(URL).text
    for shown in ("vision", "openai/luna", "60 requests per minute", "4 requests at once"):
        assert shown in re.sub("<[^>]+>", "", row)

    AIModel.objects.all().delete()  # what it names stays, though it is no choice any more
    url = f"{URL}{token.pk}/change/"
    as_editor.submit(url, monthly_budget="", concurrent_requests="")
    token.refresh_from_db()
    assert (token.models, token.requests_per_minute) == (["openai/luna"], 60)
    assert (token.monthly_budget, token.concurrent_requests) == (None, None)
    as_editor.submit(url, models=["openai/*"], capabilities="", requests_per_minute="")
    token.refresh_from_db()
    assert (token.models, token.capabilities, token.requests_per_minute) == (["openai/*"], [], None)


@pytest.mark.parametrize(
    ("field", "typed"),
    [
        ("requests_per_minute", "0"),
        ("concurrent_requests", "-1"),
        ("monthly_budget", "-1"),
        ("models", ["openai/unknown"]),
        ("capabilities", "x" * 101),
    ],
)
def test_a_rule_that_means_nothing_is_refused_beside_its_field(as_editor: Any, field: str, typed: Any) -> None:
    assert list(as_editor.submit(f"{URL}add/", name="CI", **{field: typed}).errors) == [field]
    assert not APIToken.objects.exists()


def test_the_page_shows_what_is_used_of_the_budget_this_month(
    as_editor: Any,
    as_superuser: Any,
    editor: User,
    make_provider: Callable[..., AIProvider],
    make_model: Callable[..., AIModel],
    upstream: Upstream,
) -> None:
    upstream.on("POST", answers.CHAT, whole(200, answers.chat("Hello!")))  # 4 tokens, a dollar each
    provider = make_provider(
        api_base_url=f"{upstream.url}/v1", shared_api_key="sk-0123456789abcdef", allow_shared_for_normal_admins=True
    )
    make_model(provider, "chat", pricing_input=0, pricing_output=1_000_000)
    token, text = APIToken.objects.create(user=editor, name="CI", monthly_budget=9)
    APIToken.objects.create(user=editor, name="Other", monthly_budget=7)
    headers = {"HTTP_AUTHORIZATION": f"Bearer {text}"}
    assert APIClient().post("/api/admin/ai/chat/send", {"message": "Hi", "max_tokens": 4}, **headers).status_code == 200
    shown = re.sub("<[^>]+>", "", as_editor.get(URL).text)
    assert "$4.00 of $9.00" in shown
    assert "$0.00 of $7.00" in shown
    assert "$4.00 of $9.00" in re.sub("<[^>]+>", "", as_editor.get(f"{URL}{token.pk}/change/").text)

    months = as_superuser.get("/admin/ai/usageperiod/", scope__exact="token", q=token.token_key)
    (period,) = months.rows
    told = re.sub("<[^>]+>", "", months.text)
    for part in (f"{token.token_key}…", "Token with a budget · editor", "$5.00 of $9.00 left"):
        assert part in told
    page = as_superuser.get(f"/admin/ai/usageperiod/{period.pk}/change/")
    (link,) = re.findall(r'href="(/admin/ai/usagerecord/\?[^"]+)"', page.text)
    (record,) = as_superuser.get(link).rows
    assert (record.token, record.budget_token) == (token.token_key, token.token_key)


def test_users_revoke_their_own_tokens_and_superusers_any(as_editor: Any, as_superuser: Any, editor: User) -> None:
    one, two = (APIToken.objects.create(user=editor, name=name)[0] for name in ("One", "Two"))
    as_editor.act(URL, "delete_selected", one, post="yes")
    assert list(APIToken.objects.all()) == [two]
    as_superuser.post(f"{URL}{two.pk}/delete/", post="yes")
    assert not APIToken.objects.exists()


def test_the_list_tells_expired_tokens_from_valid_ones(as_editor: Any, editor: User) -> None:
    expired, _text = APIToken.objects.create(user=editor, name="Old", expiry=timedelta(days=-1))
    forever, _text = APIToken.objects.create(user=editor, name="Forever", expiry=None)
    valid, _text = APIToken.objects.create(user=editor, name="New")
    assert as_editor.get(URL, validity="expired").rows == [expired]
    assert set(as_editor.get(URL, validity="valid").rows) == {forever, valid}
    assert len(as_editor.get(URL).rows) == 3
