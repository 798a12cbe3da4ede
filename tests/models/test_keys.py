"""Keys at rest: encrypted once, bound to their row, readable only on purpose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import FieldError
from django.core.management import call_command
from django.db import connection, transaction
from django.views.debug import ExceptionReporter
from pytest_django import Settings

from src.ai.exceptions import KeyUnreadable
from src.ai.models import AdminProviderSettings, AIProvider, KeyState

KEY = "sk-test-0123456789abcdefghijklmnop"
MakeProvider = Callable[..., AIProvider]


def stored(provider: AIProvider) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT shared_api_key FROM ai_aiprovider WHERE id = %s", [provider.pk])
        return str(cursor.fetchone()[0])


def reread(provider: AIProvider) -> AIProvider:
    return AIProvider.objects.get(pk=provider.pk)


def test_a_plain_key_is_encrypted_when_saved_and_given_back_on_purpose(make_provider: MakeProvider) -> None:
    provider = make_provider(shared_api_key=KEY)
    assert KEY not in stored(provider)
    assert reread(provider).get_shared_api_key() == provider.get_shared_api_key() == KEY
    assert KEY not in repr(provider) + str(vars(provider))


def test_saving_twice_does_not_encrypt_twice(make_provider: MakeProvider) -> None:
    provider = make_provider(shared_api_key=KEY)
    before = stored(provider)
    provider.save()
    reread(provider).save()
    assert stored(provider) == before
    assert reread(provider).get_shared_api_key() == KEY


def test_a_plain_key_that_looks_like_a_fernet_token_is_still_encrypted(make_provider: MakeProvider) -> None:
    lookalike = stored(make_provider("gemini", shared_api_key=KEY))
    provider = make_provider(shared_api_key=lookalike)
    assert stored(provider) != lookalike
    assert reread(provider).get_shared_api_key() == lookalike


def test_no_key_is_an_empty_key(make_provider: MakeProvider) -> None:
    provider = make_provider()
    assert provider.get_shared_api_key() == ""
    assert provider.key_info.state is KeyState.UNSET


def test_a_ciphertext_copied_to_another_row_does_not_decrypt_there(make_provider: MakeProvider) -> None:
    source, target = make_provider(shared_api_key=KEY), make_provider("gemini")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE ai_aiprovider SET shared_api_key = %s WHERE id = %s", [stored(source), target.pk])
    assert reread(target).key_info.state is KeyState.UNREADABLE
    with pytest.raises(KeyUnreadable):
        reread(target).get_shared_api_key()


def test_a_key_saved_under_an_old_secret_is_read_through_the_fallbacks(
    make_provider: MakeProvider, settings: Settings
) -> None:
    provider = make_provider(shared_api_key=KEY)
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "new-secret"
    assert reread(provider).get_shared_api_key() == KEY
    settings.SECRET_KEY_FALLBACKS = []
    assert reread(provider).key_info.state is KeyState.UNREADABLE


def test_what_may_be_shown_is_the_ending_and_the_date(make_provider: MakeProvider) -> None:
    info = reread(make_provider(shared_api_key=KEY)).key_info
    assert (info.state, info.ending, info.set_at is not None) == (KeyState.SET, "mnop", True)
    assert str(info).startswith("set · ends …mnop · set on ")
    assert reread(make_provider("gemini", shared_api_key="short")).key_info.ending == ""


def test_a_key_can_not_be_written_without_its_row(make_provider: MakeProvider) -> None:
    provider = make_provider()
    with pytest.raises(FieldError, match="save"), transaction.atomic():
        AIProvider.objects.filter(pk=provider.pk).update(shared_api_key=KEY)
    assert reread(provider).get_shared_api_key() == ""


def test_dumped_rows_load_again_with_their_keys(make_provider: MakeProvider, tmp_path: Path) -> None:
    provider = make_provider(shared_api_key=KEY)
    dump = tmp_path / "dump.json"
    call_command("dumpdata", "ai.aiprovider", output=str(dump), verbosity=0)
    provider.delete()
    call_command("loaddata", str(dump), verbosity=0)
    assert AIProvider.objects.get().get_shared_api_key() == KEY


def test_personal_keys_are_bound_to_their_row_too(make_provider: MakeProvider, editor: User) -> None:
    own = AdminProviderSettings.objects.create(admin=editor, provider=make_provider(), personal_api_key=KEY)
    assert AdminProviderSettings.objects.get(pk=own.pk).get_personal_api_key() == KEY


def test_an_error_report_does_not_show_keys(make_provider: MakeProvider) -> None:
    provider = make_provider(shared_api_key=KEY)

    def fail(api_key: str) -> None:
        headers = {"Authorization": f"Bearer {api_key}"}
        body = {"shared_api_key": api_key}
        raise RuntimeError(f"{len(headers)}{len(body)}")

    try:
        fail(provider.get_shared_api_key())
    except RuntimeError as error:
        reporter = ExceptionReporter(None, type(error), error, error.__traceback__)
        report = reporter.get_traceback_html() + reporter.get_traceback_text()
    assert "RuntimeError" in report
    assert KEY not in report.replace("fail(provider", "")
