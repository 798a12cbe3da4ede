"""Admins' own settings: each their own, limits set by superusers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User

from src.ai.models import AdminProviderSettings, AIProvider

URL = "/admin/ai/adminprovidersettings/"
PROTECTED = "These settings carry a monthly limit set by a superuser and can't be deleted."


@pytest.fixture
def provider(make_provider: Callable[..., AIProvider]) -> AIProvider:
    return make_provider("acme")


@pytest.fixture
def limited(editor: User, provider: AIProvider) -> AdminProviderSettings:
    return AdminProviderSettings.objects.create(admin=editor, provider=provider, monthly_limit=5)


def test_a_normal_admin_makes_settings_for_no_one_else(
    as_editor: Any, editor: User, other_editor: User, provider: AIProvider
) -> None:
    assert not {"admin", "monthly_limit"} & as_editor.fields(f"{URL}add/").keys()
    forged = {"admin": other_editor.pk, "monthly_limit": 1, "monthly_usage": 7}
    as_editor.submit(f"{URL}add/", provider=provider.pk, forged=forged)
    row = AdminProviderSettings.objects.get()
    assert (row.admin, row.monthly_limit, row.monthly_usage) == (editor, None, 0)


def test_the_owner_sees_the_limit_and_cannot_change_it(as_editor: Any, limited: AdminProviderSettings) -> None:
    url = f"{URL}{limited.pk}/change/"
    assert "0 of 5" in as_editor.get(url).text
    as_editor.submit(url, use_shared_api=None, forged={"monthly_limit": "", "admin": "1"})
    limited.refresh_from_db()
    assert (limited.monthly_limit, limited.use_shared_api) == (5, False)


def test_a_superuser_sets_the_limit(as_superuser: Any, limited: AdminProviderSettings) -> None:
    as_superuser.submit(f"{URL}{limited.pk}/change/", monthly_limit="12")
    limited.refresh_from_db()
    assert limited.monthly_limit == 12


def test_a_superuser_makes_settings_for_a_staff_user_alone(
    as_superuser: Any, editor: User, visitor: User, provider: AIProvider
) -> None:
    answer = as_superuser.submit(f"{URL}add/", admin=visitor.pk, provider=provider.pk)
    assert list(answer.errors) == ["admin"]
    as_superuser.submit(f"{URL}add/", admin=editor.pk, provider=provider.pk, monthly_limit="3")
    row = AdminProviderSettings.objects.get()
    assert (row.admin, row.monthly_limit) == (editor, 3)


def test_settings_stay_with_their_admin_and_provider(
    as_superuser: Any,
    editor: User,
    superuser: User,
    limited: AdminProviderSettings,
    make_provider: Callable[..., AIProvider],
) -> None:
    url = f"{URL}{limited.pk}/change/"
    as_superuser.submit(url, forged={"provider": make_provider("other").pk, "admin": superuser.pk})
    limited.refresh_from_db()
    assert (limited.provider.slug, limited.admin) == ("acme", editor)


def test_a_second_row_for_the_same_provider_is_an_error_of_the_form(
    as_editor: Any, as_superuser: Any, editor: User, limited: AdminProviderSettings
) -> None:
    options = as_editor.get(f"{URL}add/").response.context["adminform"].form.fields["provider"].queryset
    assert limited.provider not in options
    answer = as_editor.submit(f"{URL}add/", provider=limited.provider_id)
    assert list(answer.errors) == ["provider"]
    answer = as_superuser.submit(f"{URL}add/", admin=editor.pk, provider=limited.provider_id)
    assert "already exists" in str(answer.errors)
    assert AdminProviderSettings.objects.count() == 1


def test_two_requests_at_the_same_moment_make_one_row_and_one_message(
    as_editor: Any, editor: User, provider: AIProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = AdminProviderSettings.full_clean

    def overtaken(row: AdminProviderSettings, *args: Any, **kwargs: Any) -> None:
        clean(row, *args, **kwargs)
        AdminProviderSettings.objects.bulk_create([AdminProviderSettings(admin=editor, provider=provider)])

    monkeypatch.setattr(AdminProviderSettings, "full_clean", overtaken)
    answer = as_editor.submit(f"{URL}add/", provider=provider.pk)
    assert any("at the same moment" in message for message in answer.messages)


def test_what_carries_a_limit_is_not_the_owners_to_delete(as_editor: Any, limited: AdminProviderSettings) -> None:
    assert PROTECTED in as_editor.get(f"{URL}{limited.pk}/change/").text
    assert "deletelink" not in as_editor.get(f"{URL}{limited.pk}/change/").html
    assert as_editor.post(f"{URL}{limited.pk}/delete/", post="yes").messages == [PROTECTED]
    assert as_editor.act(URL, "delete_selected", limited, post="yes").messages == [PROTECTED]
    assert AdminProviderSettings.objects.filter(pk=limited.pk).exists()


def test_settings_without_a_limit_are_the_owners_to_delete(
    as_editor: Any, editor: User, limited: AdminProviderSettings, make_provider: Callable[..., AIProvider]
) -> None:
    free = AdminProviderSettings.objects.create(admin=editor, provider=make_provider("other"))
    assert as_editor.act(URL, "delete_selected", limited, free, post="yes").messages == [PROTECTED]
    assert AdminProviderSettings.objects.count() == 2
    as_editor.act(URL, "delete_selected", free, post="yes")
    assert AdminProviderSettings.objects.get() == limited


def test_a_superuser_deletes_what_carries_a_limit(as_superuser: Any, limited: AdminProviderSettings) -> None:
    as_superuser.post(f"{URL}{limited.pk}/delete/", post="yes")
    assert not AdminProviderSettings.objects.exists()


def test_the_page_says_which_key_pays(as_editor: Any, editor: User, provider: AIProvider, plain_key: str) -> None:
    own = AdminProviderSettings.objects.create(admin=editor, provider=provider)
    url = f"{URL}{own.pk}/change/"
    assert "Shared API key is not allowed for normal admins for provider 'Acme'" in as_editor.get(url).text
    provider.allow_shared_for_normal_admins = True
    provider.shared_api_key = plain_key
    provider.save()
    assert "the shared key" in as_editor.get(url).text
    as_editor.submit(url, new_api_key=plain_key)
    assert "the admin's own key" in as_editor.get(url).text


def test_the_list_takes_the_same_number_of_queries_for_any_number_of_rows(
    as_superuser: Any, provider: AIProvider, django_assert_num_queries: Any
) -> None:
    def add(first: int, last: int) -> None:
        users = [User.objects.create_user(f"user-{n}", is_staff=True) for n in range(first, last)]
        AdminProviderSettings.objects.bulk_create(
            [AdminProviderSettings(admin=user, provider=provider, monthly_limit=9) for user in users]
        )

    add(0, 2)
    as_superuser.get(URL)
    with django_assert_num_queries(6):
        as_superuser.get(URL)
    add(2, 40)
    with django_assert_num_queries(6):
        assert len(as_superuser.get(URL).rows) == 40
