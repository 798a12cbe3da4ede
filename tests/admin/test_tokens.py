"""Bearer tokens: made, shown once, revoked."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.test import APIRequestFactory

from src.ai.authentication import BearerTokenAuthentication
from src.ai.models import APIToken

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


def test_a_token_is_not_changed_afterwards(as_editor: Any, editor: User) -> None:
    token, _text = APIToken.objects.create(user=editor, name="Laptop")
    answer = as_editor.client.post(f"{URL}{token.pk}/change/", {"name": "Phone", "lifetime": ""})
    assert answer.status_code == 403
    token.refresh_from_db()
    assert token.name == "Laptop"


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
