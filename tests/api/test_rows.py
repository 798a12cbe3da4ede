"""Providers, models and settings over HTTP: who may do what, and what they are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ObjectDoesNotExist
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from src.ai.models import AdminProviderSettings, AIModel, AIProvider
from tests.conftest import codes

PROVIDERS, MODELS, SETTINGS = "/api/admin/ai-providers", "/api/admin/ai-models", "/api/admin/ai-settings"
KEY = "sk-test-0123456789abcdefghijklmnop"
MakeProvider = Callable[..., AIProvider]
MakeModel = Callable[..., AIModel]


def names(response: Any, field: str = "name") -> list[str]:
    return [row[field] for row in response.json()["results"]]


@pytest.mark.parametrize("slash", ["", "/"])
def test_paths_work_with_and_without_the_slash(slash: str, admin_api: APIClient) -> None:
    created = admin_api.post(PROVIDERS + slash, {"slug": "openai", "name": "OpenAI"})
    assert created.status_code == 201
    assert admin_api.get(f"{PROVIDERS}/{created.json()['id']}{slash}").json()["slug"] == "openai"
    assert admin_api.get(f"/api/admin/ai/chat/models{slash}").status_code == 200


def test_any_admin_reads_and_only_superusers_write(
    admin_api: APIClient, editor_api: APIClient, make_provider: MakeProvider, make_model: MakeModel
) -> None:
    provider = make_provider()
    model = make_model(provider, "chat")
    for path in (f"{PROVIDERS}/{provider.pk}", f"{MODELS}/{model.pk}"):
        assert editor_api.get(path).status_code == 200
        for refused in (editor_api.patch(path, {"name": "mine"}), editor_api.delete(path)):
            assert (refused.status_code, codes(refused)) == (403, ["permission_denied"])
        assert admin_api.patch(path, {"name": "ours"}).json()["name"] == "ours"
    for refused in (
        editor_api.post(PROVIDERS, {"slug": "x", "name": "X"}),
        editor_api.post(MODELS, {}),
        editor_api.post(f"{MODELS}/{model.pk}/activate"),
        editor_api.post(f"{PROVIDERS}/{provider.pk}/validate-key"),
    ):
        assert refused.status_code == 403


def test_a_key_is_written_and_never_read(admin_api: APIClient, make_provider: MakeProvider) -> None:
    provider = make_provider()
    response = admin_api.patch(f"{PROVIDERS}/{provider.pk}", {"shared_api_key": KEY})
    assert response.status_code == 200
    assert KEY not in response.content.decode() + admin_api.get(PROVIDERS).content.decode()
    assert "shared_api_key" not in response.json()
    info = response.json()["shared_api_key_info"]
    assert (info["state"], info["ending"]) == ("set", "mnop")
    provider.refresh_from_db()
    assert provider.get_shared_api_key() == KEY

    admin_api.patch(f"{PROVIDERS}/{provider.pk}", {"shared_api_key": ""})
    provider.refresh_from_db()
    assert provider.get_shared_api_key() == ""


@pytest.mark.parametrize("key", ["sk-with spaces", "sk-with\nbreaks", "کلید"])
def test_what_can_be_no_key_is_refused(key: str, admin_api: APIClient, make_provider: MakeProvider) -> None:
    response = admin_api.patch(f"{PROVIDERS}/{make_provider().pk}", {"shared_api_key": key})
    assert (response.status_code, codes(response)) == (400, ["invalid_key"])


def test_a_change_does_not_undo_calls_counted_meanwhile(admin_api: APIClient, make_provider: MakeProvider) -> None:
    provider = make_provider()
    with CaptureQueriesContext(connection) as queries:
        assert admin_api.patch(f"{PROVIDERS}/{provider.pk}", {"name": "Other"}).json()["name"] == "Other"
    updates = [query["sql"] for query in queries if query["sql"].startswith('UPDATE "ai_aiprovider"')]
    assert len(updates) == 1
    assert "total_requests" not in updates[0]


def test_an_unreadable_key_is_a_state_and_no_500(
    admin_api: APIClient, make_provider: MakeProvider, settings: Any
) -> None:
    provider = make_provider(shared_api_key=KEY)
    settings.SECRET_KEY = "another"
    assert admin_api.get(f"{PROVIDERS}/{provider.pk}").json()["shared_api_key_info"]["state"] == "key_unreadable"
    response = admin_api.post(f"{PROVIDERS}/{provider.pk}/validate-key")
    assert (response.status_code, codes(response)) == (403, ["key_unreadable"])


def test_activating_tells_what_it_replaced(
    admin_api: APIClient, make_provider: MakeProvider, make_model: MakeModel
) -> None:
    provider = make_provider()
    writer = make_model(provider, "chat", "content", model_id="writer")
    talker = make_model(provider, "chat", model_id="talker", is_active=False)

    answer = admin_api.post(f"{MODELS}/{talker.pk}/activate").json()
    assert answer["is_active"] is True
    assert answer["activation"] == {
        "deactivated": [{"id": writer.pk, "name": "writer", "model_id": "writer"}],
        "uncovered_capabilities": ["content"],
    }
    assert admin_api.get(f"{MODELS}/{writer.pk}").json()["is_active"] is False
    assert admin_api.get(f"{MODELS}/active?provider=openai&capability=chat").json()["id"] == talker.pk

    assert admin_api.post(f"{MODELS}/{talker.pk}/deactivate/").json()["is_active"] is False
    nothing = admin_api.get(f"{MODELS}/active?provider=openai&capability=chat")
    assert (nothing.status_code, codes(nothing)) == (404, ["no_active_model"])
    nothing = admin_api.get(f"{MODELS}/active?capability=chat")
    assert (nothing.status_code, codes(nothing)) == (404, ["no_active_model_any_provider"])
    nameless = admin_api.get(f"{MODELS}/active")
    assert (nameless.status_code, codes(nameless)) == (400, ["capability_required"])


def test_a_model_is_created_by_its_providers_slug(admin_api: APIClient, make_provider: MakeProvider) -> None:
    make_provider()
    body = {"provider": "openai", "name": "Luna", "model_id": "gpt-6-luna", "capabilities": ["chat", "summarising"]}
    created = admin_api.post(MODELS, {**body, "pricing_input": "0.10", "pricing_output": None})
    assert created.status_code == 201
    answer = created.json()
    assert (answer["provider"], answer["is_active"], answer["is_free"]) == ("openai", False, False)
    assert (answer["pricing_input"], answer["pricing_output"]) == ("0.100000", None)


@pytest.mark.parametrize(
    ("body", "attr", "code"),
    [
        ({"capabilities": []}, "capabilities", "empty"),
        ({"capabilities": "chat"}, "capabilities", "not_a_list"),
        ({"capabilities": ["chat", "chat"]}, "capabilities", "invalid"),
        ({"capabilities": [" "]}, "capabilities.0", "blank"),
        ({"pricing_input": "-1"}, "pricing_input", "min_value"),
        ({"provider": "nobody"}, "provider", "does_not_exist"),
        ({"modle_id": "typo"}, "modle_id", "unknown_field"),
        ({"config": {"shape": "round"}}, "config", "invalid_config"),
        ({"config": []}, "config", "invalid_config"),
        ({"config": {"timeout": -5}}, "config", "invalid_config"),
        ({"config": {"timeout": 10**400}}, "config", "invalid_config"),
        ({"config": {"base_url": "http://169.254.169.254/x"}}, "config", "invalid_config"),
        ({"provider": "open\x00ai"}, "provider", "invalid"),
        ({"config": {"chat_model": "a\x00b"}}, "config", "invalid_config"),
        ({"capabilities": ["c" * 101]}, "capabilities.0", "max_length"),
        ({"model_id": "a\x00b"}, "model_id", "null_characters_not_allowed"),
    ],
)
def test_wrong_fields_are_named(
    body: dict[str, Any], attr: str, code: str, admin_api: APIClient, make_provider: MakeProvider
) -> None:
    make_provider()
    good = {"provider": "openai", "name": "Luna", "model_id": "gpt-6-luna", "capabilities": ["chat"]}
    response = admin_api.post(MODELS, {**good, **body})
    assert response.status_code == 400
    assert response.json()["type"] == "validation_error"
    assert (attr, code) in [(error["attr"], error["code"]) for error in response.json()["errors"]]
    assert not AIModel.objects.exists()


def test_a_second_row_of_the_same_name_is_a_conflict(
    admin_api: APIClient, editor_api: APIClient, make_provider: MakeProvider, make_model: MakeModel
) -> None:
    make_model(make_provider(), "chat", model_id="luna")
    again = {"provider": "openai", "name": "Luna", "model_id": "luna", "capabilities": ["chat"]}
    editor_api.post(SETTINGS, {"provider": "openai"})
    for response in (
        admin_api.post(PROVIDERS, {"slug": "openai", "name": "Again"}),
        admin_api.post(MODELS, again),
        editor_api.post(SETTINGS, {"provider": "openai"}),
    ):
        assert (response.status_code, codes(response)) == (409, ["unique"])


def test_lists_are_paginated_filtered_searched_and_ordered(
    editor_api: APIClient, make_provider: MakeProvider, make_model: MakeModel
) -> None:
    openai, gemini = make_provider(), make_provider("gemini")
    for number in range(60):
        make_model(openai, "chat", model_id=f"chat-{number:02}", is_active=False)
    make_model(openai, "image", model_id="painter")
    make_model(gemini, "chat", "vision", model_id="flash")

    first = editor_api.get(MODELS).json()
    assert (first["count"], len(first["results"]), first["previous"]) == (62, 50, None)
    assert "page=2" in first["next"]
    assert len(editor_api.get(f"{MODELS}?page=2").json()["results"]) == 12
    assert len(editor_api.get(f"{MODELS}?page_size=5").json()["results"]) == 5
    assert editor_api.get(f"{MODELS}?page=99").status_code == 404
    assert names(editor_api.get(f"{MODELS}?capability=vision")) == ["flash"]
    assert names(editor_api.get(f"{MODELS}?provider=gemini")) == ["flash"]
    assert sorted(names(editor_api.get(f"{MODELS}?is_active=true"))) == ["flash", "painter"]
    assert names(editor_api.get(f"{MODELS}?search=paint")) == ["painter"]
    assert names(editor_api.get(f"{MODELS}?ordering=-name&page_size=2")) == ["painter", "flash"]
    assert names(editor_api.get(f"{PROVIDERS}?capability=image"), "slug") == ["openai"]


def test_one_sees_and_changes_only_ones_own_settings(
    editor_api: APIClient, admin_api: APIClient, other_editor: User, make_provider: MakeProvider
) -> None:
    others = AdminProviderSettings.objects.create(admin=other_editor, provider=make_provider(), personal_api_key=KEY)
    for api in (editor_api, admin_api):
        assert api.get(SETTINGS).json()["count"] == 0
        for response in (
            api.get(f"{SETTINGS}/{others.pk}"),
            api.patch(f"{SETTINGS}/{others.pk}", {"use_shared_api": False}),
            api.delete(f"{SETTINGS}/{others.pk}"),
            api.post(f"{SETTINGS}/{others.pk}/validate-key"),
        ):
            assert (response.status_code, codes(response)) == (404, ["not_found"])
    others.refresh_from_db()
    assert others.use_shared_api is True


def test_an_admin_keeps_settings_of_their_own(editor_api: APIClient, editor: User, make_provider: MakeProvider) -> None:
    make_provider()
    created = editor_api.post(SETTINGS, {"provider": "openai", "personal_api_key": KEY})
    assert created.status_code == 201
    assert KEY not in created.content.decode()
    row = AdminProviderSettings.objects.get()
    assert (row.admin, row.get_personal_api_key()) == (editor, KEY)
    path = f"{SETTINGS}/{row.pk}"
    assert editor_api.patch(path, {"use_shared_api": False}).json()["use_shared_api"] is False
    assert AdminProviderSettings.objects.get().get_personal_api_key() == KEY
    assert editor_api.delete(path).status_code == 204


def test_only_a_superuser_sets_a_limit(editor_api: APIClient, editor: User, make_provider: MakeProvider) -> None:
    own = AdminProviderSettings.objects.create(admin=editor, provider=make_provider(), monthly_limit=5)
    path = f"{SETTINGS}/{own.pk}"
    for response in (
        editor_api.patch(path, {"monthly_limit": 500}),
        editor_api.patch(path, {"monthly_limit": None}),
    ):
        assert (response.status_code, codes(response)) == (403, ["permission_denied"])
    assert editor_api.patch(path, {"monthly_limit": 5, "use_shared_api": False}).status_code == 200
    response = editor_api.delete(path)
    assert (response.status_code, codes(response)) == (409, ["limit_protects_settings"])
    own.refresh_from_db()
    assert own.monthly_limit == 5


def test_settings_stay_with_their_provider(editor_api: APIClient, editor: User, make_provider: MakeProvider) -> None:
    own = AdminProviderSettings.objects.create(admin=editor, provider=make_provider(), monthly_limit=1)
    make_provider("groq")
    response = editor_api.patch(f"{SETTINGS}/{own.pk}", {"provider": "groq"})
    assert (response.status_code, codes(response)) == (400, ["immutable"])
    assert editor_api.patch(f"{SETTINGS}/{own.pk}", {"provider": "openai"}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        f"{MODELS}/active?capability=%00",
        f"{MODELS}/active?capability=chat&provider=%00",
        "/api/admin/ai/providers?capability=%00",
        "/api/admin/auth/tokens/%00",
        f"{MODELS}?provider=%00",
        f"{MODELS}?search=%00",
    ],
)
def test_a_null_character_in_a_path_or_query_is_no_500(path: str, editor_api: APIClient) -> None:
    assert editor_api.get(path).status_code in (200, 400, 404)


def test_a_personal_key_is_refused_where_the_provider_allows_none(
    editor_api: APIClient, make_provider: MakeProvider
) -> None:
    make_provider(allow_personal_keys=False)
    response = editor_api.post(SETTINGS, {"provider": "openai", "personal_api_key": KEY})
    assert (response.status_code, codes(response)) == (403, ["personal_keys_not_allowed"])
    assert not AdminProviderSettings.objects.exists()


def test_validating_a_key_that_is_not_set_says_so(
    editor_api: APIClient, admin_api: APIClient, editor: User, make_provider: MakeProvider
) -> None:
    provider = make_provider()
    own = AdminProviderSettings.objects.create(admin=editor, provider=provider)
    for response in (
        admin_api.post(f"{PROVIDERS}/{provider.pk}/validate-key"),
        editor_api.post(f"{SETTINGS}/{own.pk}/validate-key"),
    ):
        assert (response.status_code, codes(response)) == (403, ["no_api_key_available"])


def test_deleting_a_provider_takes_its_models_along(
    admin_api: APIClient, make_provider: MakeProvider, make_model: MakeModel
) -> None:
    provider = make_provider()
    model = make_model(provider, "chat")
    assert admin_api.delete(f"{PROVIDERS}/{provider.pk}").status_code == 204
    with pytest.raises(ObjectDoesNotExist):
        model.refresh_from_db()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("get", "/api/nothing/here", None, 404, "not_found"),
        ("get", "/api/", None, 404, "not_found"),
        ("get", f"{MODELS}/not-a-number", None, 404, "not_found"),
        ("get", f"{MODELS}/99999999999999999999999", None, 404, "not_found"),
        ("put", MODELS, "{}", 405, "method_not_allowed"),
        ("post", MODELS, "{broken", 400, "parse_error"),
        ("post", MODELS, "[]", 400, "invalid"),
        ("post", MODELS, b"\xff\xfe", 400, "parse_error"),
    ],
)
def test_every_error_has_one_shape(
    method: str, path: str, body: Any, status: int, code: str, admin_api: APIClient
) -> None:
    response = getattr(admin_api, method)(path, body, content_type="application/json")
    assert response.status_code == status
    error = response.json()
    assert set(error) == {"type", "errors"}
    assert set(error["errors"][0]) == {"code", "detail", "attr"}
    assert codes(response) == [code]


def test_another_media_type_is_refused_in_the_same_shape(admin_api: APIClient) -> None:
    response = admin_api.post(MODELS, "a=b", content_type="text/plain")
    assert (response.status_code, codes(response)) == (415, ["unsupported_media_type"])
