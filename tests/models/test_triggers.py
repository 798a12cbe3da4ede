"""The triggers on tables that are not the AI app's own: they come, go, and stay out of the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection, models
from django.test.utils import isolate_apps
from django.utils import timezone

from src.ai.models import APIToken, ConfigStamp, api_token
from src.ai.models.triggers import install_triggers


def triggers_of(table: str) -> int:
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND tbl_name = %s", [table])
        else:
            cursor.execute("SELECT count(*) FROM pg_trigger WHERE tgrelid = %s::regclass AND NOT tgisinternal", [table])
        return int(cursor.fetchone()[0])


@pytest.fixture
def without_the_app(transactional_db: None) -> Iterator[None]:
    call_command("migrate", "ai", "zero", verbosity=0)
    yield
    call_command("migrate", verbosity=0)


def test_without_the_apps_tables_users_are_saved_as_before(without_the_app: None) -> None:
    assert triggers_of("auth_user") == 0
    admin = User.objects.create_user("admin", is_staff=True)
    admin.is_active = False
    admin.save()


def test_the_triggers_come_back_with_the_tables(without_the_app: None) -> None:
    call_command("migrate", verbosity=0)
    admin = User.objects.create_user("admin", is_staff=True)
    User.objects.filter(pk=admin.pk).update(is_active=False)
    before = ConfigStamp.objects.get().value
    User.objects.filter(pk=admin.pk).update(is_active=True)
    assert ConfigStamp.objects.get().value != before


@isolate_apps("tests")
def test_a_user_model_without_staff_is_left_alone(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Person(AbstractBaseUser):
        email = models.EmailField(unique=True)
        USERNAME_FIELD = "email"

        class Meta:
            app_label = "tests"
            db_table = "auth_user"

    assert triggers_of("auth_user") > 0
    monkeypatch.setattr(api_token, "get_user_model", lambda: Person)
    install_triggers()
    assert triggers_of("auth_user") == 0


@pytest.mark.parametrize(
    "change",
    [
        {"capabilities": ["chat"]},
        {"models": ["openai/*"]},
        {"requests_per_minute": 1},
        {"concurrent_requests": 1},
        {"monthly_budget": 1},
        {"expiry": None},
    ],
)
def test_a_change_of_a_tokens_rules_makes_a_new_stamp(change: dict[str, Any], editor: User) -> None:
    APIToken.objects.create(user=editor, name="ci")
    before = ConfigStamp.objects.get().value
    APIToken.objects.update(last_used_at=timezone.now())
    assert ConfigStamp.objects.get().value == before
    APIToken.objects.update(**change)
    assert ConfigStamp.objects.get().value != before


@pytest.mark.postgres
def test_a_trigger_that_went_with_its_table_is_made_again(db: None) -> None:
    before = triggers_of("auth_user")
    with connection.cursor() as cursor:
        cursor.execute("SELECT tgname FROM pg_trigger WHERE tgrelid = 'auth_user'::regclass AND NOT tgisinternal")
        for (name,) in cursor.fetchall():
            cursor.execute(f"DROP TRIGGER {name} ON auth_user")
    install_triggers()
    assert triggers_of("auth_user") == before > 0


@pytest.mark.postgres
def test_a_column_of_the_users_table_can_still_be_altered_and_dropped(db: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE auth_user ALTER COLUMN username TYPE varchar(200)")
        cursor.execute("ALTER TABLE auth_user DROP COLUMN is_superuser")
        cursor.execute("UPDATE auth_user SET is_staff = true")
