"""Logging in and out, and one's own tokens."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from time import monotonic
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from knox.crypto import hash_token
from rest_framework.test import APIClient

from src.ai.models import APIToken
from src.ai.services.tokens import find_token
from tests.conftest import codes

LOGIN = "/api/admin/auth/login"
TOKENS = "/api/admin/auth/tokens"
ANY_PAGE = "/api/admin/ai-providers"
Clients = Callable[[User], APIClient]


def with_token(token: str) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
    return client


def test_a_login_gives_a_token_that_works(anonymous_api: APIClient, editor: User) -> None:
    response = anonymous_api.post(LOGIN, {"username": "editor", "password": "editor-password"})
    assert response.status_code == 200
    body = response.json()
    assert body["user"] == {"id": editor.pk, "username": "editor", "is_superuser": False}
    assert with_token(body["token"]).get(ANY_PAGE).status_code == 200


@pytest.mark.parametrize(
    ("username", "password", "status", "code"),
    [
        ("editor", "wrong", 401, "authentication_failed"),
        ("nobody", "wrong", 401, "authentication_failed"),
        ("visitor", "visitor-password", 403, "permission_denied"),
    ],
)
def test_who_may_not_log_in_is_told(
    username: str, password: str, status: int, code: str, anonymous_api: APIClient, editor: User, visitor: User
) -> None:
    response = anonymous_api.post(LOGIN, {"username": username, "password": password})
    assert (response.status_code, codes(response)) == (status, [code])
    assert not APIToken.objects.exists()


def test_an_inactive_admin_can_neither_log_in_nor_use_a_token(editor: User, editor_api: APIClient) -> None:
    User.objects.update(is_active=False)
    assert editor_api.get(ANY_PAGE).status_code == 401
    response = APIClient().post(LOGIN, {"username": "editor", "password": "editor-password"})
    assert response.status_code == 401


@pytest.mark.parametrize(
    "body",
    [
        '{"username": "\\ud800", "password": "x"}',
        '{"\\ud800": "x", "password": "x"}',
        "[" * 100_000,
        '{"a":' * 60_000,
    ],
)
def test_json_that_nobody_can_store_or_show_is_refused(body: str, anonymous_api: APIClient, db: None) -> None:
    response = anonymous_api.post(LOGIN, body, content_type="application/json")
    assert (response.status_code, codes(response)) == (400, ["parse_error"])


def test_a_stale_token_does_not_keep_one_from_logging_in(editor: User) -> None:
    response = with_token("0" * 64).post(LOGIN, {"username": "editor", "password": "editor-password"})
    assert response.status_code == 200


def test_attempts_at_one_account_are_throttled_with_retry_after(editor: User) -> None:
    for attempt in range(10):
        client = APIClient(REMOTE_ADDR=f"10.0.0.{attempt}")
        assert client.post(LOGIN, {"username": "editor", "password": "wrong"}).status_code == 401
    response = APIClient(REMOTE_ADDR="10.0.0.99").post(LOGIN, {"username": "Editor", "password": "editor-password"})
    assert (response.status_code, codes(response)) == (429, ["throttled"])
    assert 0 < int(response["Retry-After"]) <= 60


def test_attempts_from_one_address_are_throttled(editor: User) -> None:
    statuses = [
        APIClient().post(LOGIN, {"username": f"name-{attempt}", "password": "wrong"}).status_code
        for attempt in range(11)
    ]
    assert statuses == [401] * 10 + [429]


def test_no_token_is_401_and_no_staff_is_403(anonymous_api: APIClient, visitor: User, client_of: Clients) -> None:
    response = anonymous_api.get(ANY_PAGE)
    assert (response.status_code, codes(response)) == (401, ["not_authenticated"])
    assert response["WWW-Authenticate"] == "Bearer"
    response = client_of(visitor).get(ANY_PAGE)
    assert (response.status_code, codes(response)) == (403, ["permission_denied"])


@pytest.mark.parametrize("token", ["nonsense", "0" * 64, "é", "a" * 10_000])
def test_a_wrong_token_is_401(token: str, db: None) -> None:
    response = APIClient().get(ANY_PAGE, HTTP_AUTHORIZATION=f"Bearer {token}".encode().decode("latin-1"))
    assert (response.status_code, codes(response)) == (401, ["authentication_failed"])


def test_an_expired_token_is_401(editor: User) -> None:
    _stored, token = APIToken.objects.create(user=editor, name="old", expiry=timedelta(seconds=-1))
    response = with_token(token).get(ANY_PAGE)
    assert (response.status_code, codes(response)) == (401, ["authentication_failed"])
    assert "expired" in response.json()["errors"][0]["detail"]


def test_a_token_is_not_stored_in_plain(editor: User) -> None:
    stored, token = APIToken.objects.create(user=editor, name="tests")
    assert token not in {str(value) for value in vars(stored).values()}
    assert len(stored.digest) == 128


def test_its_last_use_is_noted_to_the_minute(editor: User, editor_api: APIClient) -> None:
    editor_api.get(ANY_PAGE)
    first = APIToken.objects.get().last_used_at
    assert first is not None
    editor_api.get(ANY_PAGE)
    assert APIToken.objects.get().last_used_at == first
    APIToken.objects.update(last_used_at=first - timedelta(minutes=2))
    editor_api.get(ANY_PAGE)
    assert APIToken.objects.get().last_used_at >= first


def test_a_token_that_is_in_use_ends_when_it_expires(editor: User) -> None:
    _stored, token = APIToken.objects.create(user=editor, name="brief", expiry=timedelta(seconds=2))
    client, deadline = with_token(token), monotonic() + 20
    assert client.get(ANY_PAGE).status_code == 200
    while client.get(ANY_PAGE).status_code == 200:
        assert monotonic() < deadline
    assert timezone.now() >= APIToken.objects.get().expiry


def test_what_a_request_does_to_its_user_stays_in_the_request(editor: User) -> None:
    _stored, secret = APIToken.objects.create(user=editor, name="tests")
    first = find_token(secret)
    assert first is not None
    first.name = "changed"
    first.user.is_superuser = True
    second = find_token(secret)
    assert second is not None
    assert (second.name, second.user.is_superuser, second.user == editor) == ("tests", False, True)


def test_what_is_not_kept_of_a_user_is_read_when_it_is_asked_for(
    editor: User, django_assert_num_queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.core.cache.freshness.BELIEVED_FOR", 60)
    _stored, secret = APIToken.objects.create(user=editor, name="tests")
    find_token(secret)
    User.objects.update(email="new@example.com")
    find_token(secret)
    with django_assert_num_queries(0):
        token = find_token(secret)
        assert token is not None
        assert (token.user.pk, token.user.username, token.user.is_staff) == (editor.pk, "editor", True)
    with django_assert_num_queries(1):
        assert token.user.email == "new@example.com"


def test_customers_and_unknown_tokens_are_kept_nowhere(
    visitor: User, db: None, django_assert_num_queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.core.cache.freshness.BELIEVED_FOR", 60)
    _stored, customers = APIToken.objects.create(user=visitor, name="tests")
    for secret in (customers, "0" * 64):
        find_token(secret)
        with django_assert_num_queries(1):
            find_token(secret)


def test_a_token_works_from_the_moment_it_is_made(editor: User) -> None:
    secret = "a" * 64
    assert with_token(secret).get(ANY_PAGE).status_code == 401
    stored, _secret = APIToken.objects.create(user=editor, name="tests")
    APIToken.objects.filter(pk=stored.pk).update(digest=hash_token(secret))
    assert with_token(secret).get(ANY_PAGE).status_code == 200


def test_logout_revokes_this_token_and_logoutall_the_rest(editor: User, client_of: Clients) -> None:
    here, there, elsewhere = client_of(editor), client_of(editor), client_of(editor)
    assert here.post("/api/admin/auth/logout").status_code == 204
    assert (here.get(ANY_PAGE).status_code, there.get(ANY_PAGE).status_code) == (401, 200)
    assert there.post("/api/admin/auth/logoutall/").status_code == 204
    assert elsewhere.get(ANY_PAGE).status_code == 401


def test_one_creates_lists_and_revokes_ones_own_tokens(editor_api: APIClient) -> None:
    created = editor_api.post(TOKENS, {"name": "laptop"})
    assert created.status_code == 201
    token = created.json()
    client = with_token(token["token"])
    assert client.get(ANY_PAGE).status_code == 200

    listed = {row["name"]: row for row in client.get(TOKENS).json()["results"]}
    assert set(listed) == {"laptop", "tests"}
    assert listed["laptop"]["token"] is None
    assert listed["laptop"]["last_used_at"]

    assert editor_api.delete(f"{TOKENS}/{token['id']}").status_code == 204
    assert client.get(ANY_PAGE).status_code == 401


def test_a_token_may_live_as_long_as_one_asks(editor_api: APIClient) -> None:
    assert editor_api.post(TOKENS, {"name": "forever", "expiry": None}).json()["expiry"] is None
    until = timezone.now() + timedelta(days=400)
    chosen = editor_api.post(TOKENS, {"name": "long", "expiry": until.isoformat()}).json()["expiry"]
    assert chosen.startswith(until.date().isoformat())
    response = editor_api.post(TOKENS, {"name": "gone", "expiry": "2020-01-01T00:00:00Z"})
    assert (response.status_code, codes(response)) == (400, ["in_the_past"])
    response = editor_api.post(TOKENS, {"name": "late", "expiry": "9999-12-31T23:59:59.999999Z"})
    assert (response.status_code, codes(response)) == (400, ["too_late"])


def test_others_tokens_do_not_exist(editor_api: APIClient, superuser: User, client_of: Clients) -> None:
    client_of(superuser)
    others = APIToken.objects.get(user=superuser)
    assert editor_api.delete(f"{TOKENS}/{others.token_key}").status_code == 404
    assert [row["id"] for row in editor_api.get(TOKENS).json()["results"]] != [others.token_key]


def test_a_browsers_session_works_too_and_is_protected_against_csrf(editor: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(editor)
    assert client.get(ANY_PAGE).status_code == 200
    response = client.post(TOKENS, {"name": "x"}, content_type="application/json")
    assert (response.status_code, codes(response)) == (403, ["permission_denied"])
