"""`manage.py rotate_ai_keys`: keys move to the current SECRET_KEY, and nothing else does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction

from src.ai.models import AdminProviderSettings, AIProvider
from tests.commands.conftest import Run

pytestmark = pytest.mark.django_db

RunCommand = Callable[..., Run]
OLD = "the-old-secret-0123456789-abcdefghijklmnopqrstuvwxyz"
NEW = "the-new-secret-0123456789-abcdefghijklmnopqrstuvwxyz"
SHARED, PERSONAL = "sk-shared-0123456789", "sk-personal-9876543210"


@pytest.fixture
def stored(db: None, editor: User, settings: Any) -> tuple[AIProvider, AdminProviderSettings]:
    """A shared and a personal key saved under the old secret, a row without a key, and the secret changed since."""
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = OLD, []
    provider = AIProvider.objects.create(slug="alpha", name="Alpha", shared_api_key=SHARED)
    own = AdminProviderSettings.objects.create(admin=editor, provider=provider, personal_api_key=PERSONAL)
    AIProvider.objects.create(slug="beta", name="Beta")
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = NEW, [OLD]
    return provider, own


def rows() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return list(AIProvider.objects.order_by("pk").values()), list(AdminProviderSettings.objects.order_by("pk").values())


def damage(provider: AIProvider) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE ai_aiprovider SET shared_api_key = 'damaged' WHERE id = %s", [provider.pk])


def test_every_key_opens_without_the_old_secret_afterwards(
    stored: tuple[AIProvider, AdminProviderSettings], run: RunCommand, settings: Any
) -> None:
    result = run("rotate_ai_keys")
    settings.SECRET_KEY_FALLBACKS = []
    provider, own = AIProvider.objects.get(pk=stored[0].pk), AdminProviderSettings.objects.get(pk=stored[1].pk)
    assert provider.get_shared_api_key() == SHARED
    assert own.get_personal_api_key() == PERSONAL
    assert result.error is None
    assert result.out == (
        "API keys re-encrypted under the current SECRET_KEY: 2; already under it: 0; can't be read: 0.\n"
        "No API key needs SECRET_KEY_FALLBACKS any more.\n"
    )


def test_nothing_but_the_keys_is_written(stored: tuple[AIProvider, AdminProviderSettings], run: RunCommand) -> None:
    before = rows()
    run("rotate_ai_keys")
    after = rows()
    assert after[0][0].pop("shared_api_key") != before[0][0].pop("shared_api_key")
    assert after[1][0].pop("personal_api_key") != before[1][0].pop("personal_api_key")
    assert after == before


def test_rotating_again_changes_nothing(stored: tuple[AIProvider, AdminProviderSettings], run: RunCommand) -> None:
    run("rotate_ai_keys")
    before = rows()
    result = run("rotate_ai_keys")
    assert rows() == before
    assert "re-encrypted under the current SECRET_KEY: 0; already under it: 2; can't be read: 0." in result.out


def test_a_dry_run_counts_and_writes_nothing(stored: tuple[AIProvider, AdminProviderSettings], run: RunCommand) -> None:
    before = rows()
    result = run("rotate_ai_keys", dry_run=True)
    assert rows() == before
    assert "Dry run, nothing was written. API keys that would be re-encrypted: 2; already under it: 0" in result.out
    assert "Keep SECRET_KEY_FALLBACKS as it is" in result.out


def test_an_unreadable_key_is_named_and_the_rest_is_rotated(
    stored: tuple[AIProvider, AdminProviderSettings], run: RunCommand, settings: Any
) -> None:
    damage(stored[0])
    result = run("rotate_ai_keys")
    assert result.error is not None
    assert f"AI provider {stored[0].pk} (Alpha), shared API key" in str(result.error)
    assert "SECRET_KEY_FALLBACKS and run this again, or enter them anew" in str(result.error)
    assert "re-encrypted under the current SECRET_KEY: 1; already under it: 0; can't be read: 1." in result.out
    assert "No API key needs" not in result.out
    settings.SECRET_KEY_FALLBACKS = []
    assert AdminProviderSettings.objects.get(pk=stored[1].pk).get_personal_api_key() == PERSONAL


def test_an_unreadable_personal_key_says_whose_it_is(
    stored: tuple[AIProvider, AdminProviderSettings], run: RunCommand, settings: Any
) -> None:
    settings.SECRET_KEY_FALLBACKS = []
    text = str(run("rotate_ai_keys", dry_run=True).error)
    assert f"admin's provider settings {stored[1].pk} (editor · Alpha), personal API key" in text
    assert f"AI provider {stored[0].pk} (Alpha)" in text


def test_no_key_and_no_secret_is_printed(stored: tuple[AIProvider, AdminProviderSettings], run: RunCommand) -> None:
    printed = [run("rotate_ai_keys", verbosity=3, dry_run=True), run("rotate_ai_keys", verbosity=3)]
    damage(stored[0])
    printed.append(run("rotate_ai_keys", verbosity=3))
    text = "".join(result.out + result.err + str(result.error) for result in printed)
    assert "rotated: AI provider" in text
    for secret in (SHARED, PERSONAL, SHARED[-4:], PERSONAL[-4:], OLD, NEW, "gAAAA"):
        assert secret not in text


def test_a_site_without_keys_is_told_so(run: RunCommand) -> None:
    assert "No API key is stored." in run("rotate_ai_keys").out


@pytest.mark.django_db(transaction=True)
def test_a_key_entered_meanwhile_is_not_lost(stored: tuple[AIProvider, AdminProviderSettings], run: RunCommand) -> None:
    """Somebody is saving a new key and a new name while the keys are rotated."""
    done: list[Run] = []

    def rotate() -> None:
        try:
            done.append(run("rotate_ai_keys"))
        finally:
            connection.close()

    rotating = threading.Thread(target=rotate)
    with transaction.atomic():
        provider = AIProvider.objects.select_for_update().get(pk=stored[0].pk)
        provider.shared_api_key, provider.name = "sk-entered-meanwhile", "Renamed"
        provider.save()
        rotating.start()
        rotating.join(0.5)
        assert rotating.is_alive()
    rotating.join(20)
    assert done[0].error is None
    provider = AIProvider.objects.get(pk=stored[0].pk)
    assert (provider.get_shared_api_key(), provider.name) == ("sk-entered-meanwhile", "Renamed")
