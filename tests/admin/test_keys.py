"""Keys go in and never come out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client, override_settings
from django.views.debug import ExceptionReporter

from src.ai.models import AdminProviderSettings, AIProvider
from src.ai.providers.base import BaseProvider
from src.ai.providers.registry import AIProviderRegistry

PROVIDERS = "/admin/ai/aiprovider/"
SETTINGS = "/admin/ai/adminprovidersettings/"


@pytest.fixture
def provider(make_provider: Callable[..., AIProvider]) -> AIProvider:
    return make_provider("acme")


def stored(provider: AIProvider) -> AIProvider:
    return AIProvider.objects.get(pk=provider.pk)


def test_a_key_is_typed_in_once_and_shown_only_by_its_ending(
    as_superuser: Any, provider: AIProvider, plain_key: str
) -> None:
    url = f"{PROVIDERS}{provider.pk}/change/"
    answer = as_superuser.submit(url, new_api_key=f"  {plain_key}\n")
    assert stored(provider).get_shared_api_key() == plain_key
    for page in (answer, as_superuser.get(url), as_superuser.get(PROVIDERS), as_superuser.get(f"{url[:-7]}history/")):
        assert plain_key not in page.html
        assert str(stored(provider).shared_api_key) not in page.html
    for page in (as_superuser.get(url), as_superuser.get(PROVIDERS)):
        assert str(stored(provider).key_info) in page.text
        assert "ends …wxyz" in page.text


def test_the_key_field_is_a_password_that_no_browser_fills_in(as_superuser: Any, provider: AIProvider) -> None:
    form = as_superuser.get(f"{PROVIDERS}{provider.pk}/change/").html
    field = form[form.index('name="new_api_key"') - 40 :].split(">")[0]
    assert 'type="password"' in field
    assert 'autocomplete="new-password"' in field
    assert "value=" not in field


def test_saving_with_the_key_left_empty_keeps_it(as_superuser: Any, provider: AIProvider, plain_key: str) -> None:
    provider.shared_api_key = plain_key
    provider.save()
    before = str(stored(provider).shared_api_key)
    as_superuser.submit(f"{PROVIDERS}{provider.pk}/change/", name="Renamed")
    assert stored(provider).name == "Renamed"
    assert str(stored(provider).shared_api_key) == before


def test_a_key_is_removed_by_ticking_the_box(as_superuser: Any, provider: AIProvider, plain_key: str) -> None:
    url = f"{PROVIDERS}{provider.pk}/change/"
    assert "remove_api_key" not in as_superuser.fields(url)
    provider.shared_api_key = plain_key
    provider.save()
    as_superuser.submit(url, remove_api_key="on")
    assert stored(provider).shared_api_key == ""
    assert "not set" in as_superuser.get(url).text


def test_a_new_key_and_removing_it_exclude_each_other(as_superuser: Any, provider: AIProvider, plain_key: str) -> None:
    provider.shared_api_key = plain_key
    provider.save()
    url = f"{PROVIDERS}{provider.pk}/change/"
    answer = as_superuser.submit(url, new_api_key="another-key-0123456789", remove_api_key="on")
    assert answer.errors == {"new_api_key": ["Either enter a new key or remove the stored one."]}
    assert stored(provider).get_shared_api_key() == plain_key


def test_a_form_with_an_error_does_not_send_the_key_back(
    as_superuser: Any, provider: AIProvider, plain_key: str
) -> None:
    answer = as_superuser.submit(f"{PROVIDERS}{provider.pk}/change/", new_api_key=plain_key, name="")
    assert list(answer.errors) == ["name"]
    assert plain_key not in answer.html
    assert "wxyz" not in answer.html
    assert "not set" in answer.text
    assert stored(provider).shared_api_key == ""


def test_an_unreadable_key_is_a_state_on_every_page(
    as_superuser: Any, provider: AIProvider, plain_key: str, superuser: User
) -> None:
    provider.shared_api_key = plain_key
    provider.save()
    own = AdminProviderSettings.objects.create(admin=superuser, provider=provider, personal_api_key=plain_key)
    with override_settings(SECRET_KEY="another", SECRET_KEY_FALLBACKS=[]):
        # Sessions are signed with the secret key too, so the user logs in anew.
        as_superuser.client.force_login(superuser)
        for url in (PROVIDERS, f"{PROVIDERS}{provider.pk}/change/", SETTINGS, f"{SETTINGS}{own.pk}/change/"):
            assert "can't be decrypted: enter it again" in as_superuser.get(url).text
        as_superuser.submit(f"{PROVIDERS}{provider.pk}/change/", new_api_key="a-key-entered-again-1234")
        assert stored(provider).get_shared_api_key() == "a-key-entered-again-1234"


def test_the_history_names_no_key(as_superuser: Any, provider: AIProvider, plain_key: str) -> None:
    as_superuser.submit(f"{PROVIDERS}{provider.pk}/change/", new_api_key=plain_key)
    (entry,) = LogEntry.objects.all()
    assert "New key" in entry.get_change_message()
    assert plain_key not in entry.change_message + entry.object_repr


@pytest.mark.parametrize("lookup", ["shared_api_key__startswith", "shared_api_key", "shared_api_key__isnull"])
def test_no_query_string_can_probe_for_a_key(as_editor: Any, provider: AIProvider, plain_key: str, lookup: str) -> None:
    provider.shared_api_key = plain_key
    provider.save()
    assert as_editor.client.get(PROVIDERS, {lookup: "gAAAA"}).status_code == 400


def test_an_error_report_of_a_failed_save_has_no_key(
    superuser: User, provider: AIProvider, plain_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the database is gone")

    monkeypatch.setattr(AIProvider, "save", fail)
    client = Client(raise_request_exception=False)
    client.force_login(superuser)
    data = {"name": "Acme", "slug": "acme", "config": "{}", "sort_order": "0", "new_api_key": plain_key}
    response = client.post(f"{PROVIDERS}{provider.pk}/change/", data)
    assert response.status_code == 500
    html = ExceptionReporter(response.wsgi_request, *response.exc_info).get_traceback_html()
    assert plain_key not in html


def test_a_personal_key_is_refused_where_the_provider_allows_none(
    as_editor: Any, make_provider: Callable[..., AIProvider], plain_key: str
) -> None:
    provider = make_provider("acme", allow_personal_keys=False)
    answer = as_editor.submit(f"{SETTINGS}add/", provider=provider.pk, new_api_key=plain_key)
    assert answer.errors == {"new_api_key": ["Provider 'Acme' does not allow personal API keys."]}
    assert plain_key not in answer.html
    assert not AdminProviderSettings.objects.exists()


def test_a_key_that_is_no_longer_allowed_can_be_removed(
    as_editor: Any, editor: User, make_provider: Callable[..., AIProvider], plain_key: str
) -> None:
    provider = make_provider("acme", allow_personal_keys=False)
    own = AdminProviderSettings.objects.create(admin=editor, provider=provider, personal_api_key=plain_key)
    url = f"{SETTINGS}{own.pk}/change/"
    assert "not used: the provider allows no own keys" in as_editor.get(url).text
    assert list(as_editor.submit(url, new_api_key="another-0123456789-key").errors) == ["new_api_key"]
    as_editor.submit(url, remove_api_key="on")
    own.refresh_from_db()
    assert own.personal_api_key == ""


def test_a_provider_is_asked_about_the_keys_from_the_list(
    as_superuser: Any,
    as_editor: Any,
    editor: User,
    provider: AIProvider,
    make_provider: Callable[..., AIProvider],
    plain_key: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    async def validate(vendor: BaseProvider) -> bool:
        asked.append(vendor.api_key)
        return False

    monkeypatch.setattr(AIProviderRegistry().get("acme"), "validate_api_key", validate)
    provider.shared_api_key = plain_key
    provider.save()
    unknown = make_provider("nobody")
    assert as_superuser.act(PROVIDERS, "check_key", provider, unknown).messages == [
        "Acme: The provider refused the key.",
        "Nobody: Provider 'nobody' is not registered in the system",
    ]
    own = AdminProviderSettings.objects.create(admin=editor, provider=provider, personal_api_key="own-key")
    assert as_editor.act(SETTINGS, "check_key", own).messages == ["editor · Acme: The provider refused the key."]
    as_editor.act(PROVIDERS, "check_key", provider)
    assert asked == [plain_key, "own-key"]


def test_saving_settings_does_not_undo_calls_counted_meanwhile(
    as_editor: Any, editor: User, provider: AIProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = AdminProviderSettings.objects.create(admin=editor, provider=provider)
    save = AdminProviderSettings.save

    def save_late(row: AdminProviderSettings, *args: Any, **kwargs: Any) -> None:
        own.increment_usage()
        save(row, *args, **kwargs)

    monkeypatch.setattr(AdminProviderSettings, "save", save_late)
    as_editor.submit(f"{SETTINGS}{own.pk}/change/", new_api_key="a-key-of-mine-0123456789")
    own.refresh_from_db()
    assert (own.monthly_usage, own.total_requests) == (1, 1)
    assert own.get_personal_api_key() == "a-key-of-mine-0123456789"


def test_what_the_database_keeps_is_no_plain_key(as_editor: Any, provider: AIProvider, plain_key: str) -> None:
    as_editor.submit(f"{SETTINGS}add/", provider=provider.pk, new_api_key=plain_key)
    with connection.cursor() as cursor:
        cursor.execute("SELECT personal_api_key FROM ai_adminprovidersettings")
        ((value,),) = cursor.fetchall()
    assert plain_key not in value
    assert AdminProviderSettings.objects.get().get_personal_api_key() == plain_key
