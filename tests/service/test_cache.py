"""What is cached, where, and that no process works with what another has changed."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from src.ai.exceptions import KeyUnreadable
from src.ai.models import AdminProviderSettings, AIModel, AIProvider, APIToken, ConfigStamp
from src.ai.models.config_stamp import freshness
from src.ai.services.catalogue import Catalogue
from src.core import secrets
from src.core.cache.namespaces import CacheTTL

MakeModel = Callable[..., AIModel]


@pytest.fixture
def provider(make_provider: Callable[..., AIProvider]) -> AIProvider:
    return make_provider()


@pytest.fixture
def model(provider: AIProvider, make_model: MakeModel) -> AIModel:
    return make_model(provider, "chat")


def test_lifetimes_are_those_of_the_contract() -> None:
    lifetimes = {name: value for name, value in vars(CacheTTL).items() if name.isupper()}
    assert {name: lifetimes[name] for name in lifetimes if name != "AI"} == {
        "SESSION_ADMIN": 3 * 86400,
        "SESSION_USER": 30 * 86400,
        "PERMISSIONS": 300,
        "PROFILE": 900,
        "DEFAULT": 900,
    }
    assert lifetimes["AI"] == 300


@pytest.mark.django_db(transaction=True)
def test_a_loop_goes_by_memory_again_after_another_threads_change(model: AIModel) -> None:
    async def believed() -> str | None:
        return freshness.believed()

    def rename() -> None:
        with transaction.atomic():
            AIModel.objects.update(name="renamed")

    before = freshness.current()
    with ThreadPoolExecutor(1) as pool:  # a thread that asks for nothing more after it
        pool.submit(rename).result()
        asked = [(freshness.current(), asyncio.run(believed())) for _ in range(2)]
        pool.submit(connections.close_all).result()
    assert asked[1] == (asked[0][0], asked[0][0])
    assert asked[1][0] not in (None, before)


def test_rows_are_kept_under_the_contracts_keys(model: AIModel, editor: User) -> None:
    catalogue = Catalogue()
    catalogue.provider("openai")
    catalogue.active_model("openai", "chat")
    catalogue.active_models("chat")
    catalogue.admin_settings(editor, model.provider)
    for key in (
        "ai_provider_openai",
        "active_model_openai_chat",
        "ai_models_by_capability_chat",
        f"ai_admin_settings_{editor.pk}_{model.provider_id}",
    ):
        assert cache.get(key) is not None, key


def test_a_warm_look_up_asks_the_database_for_nothing(
    model: AIModel, editor: User, django_assert_num_queries: Callable[[int], object]
) -> None:
    Catalogue().active_model("openai", "chat")
    Catalogue().admin_settings(editor, model.provider)
    catalogue = Catalogue()
    with django_assert_num_queries(0):  # type: ignore[attr-defined]
        assert catalogue.active_model("openai", "chat") == model
        assert catalogue.admin_settings(editor, model.provider) is None


def test_a_capability_of_any_name_is_cached(provider: AIProvider, make_model: MakeModel) -> None:
    model = make_model(provider, "text to چت")
    for _ in range(2):
        assert Catalogue().active_model("openai", "text to چت") == model
        assert Catalogue().active_models("text to چت") == [model]


def test_the_process_remembers_when_the_shared_cache_has_forgotten(
    model: AIModel, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Callable[[int], Any]
) -> None:
    monkeypatch.setattr("src.core.cache.freshness.BELIEVED_FOR", 60)
    Catalogue().active_models("chat")
    cache.clear()
    with django_assert_num_queries(0):
        assert Catalogue().active_models("chat") == [model]


def test_a_process_takes_from_the_shared_cache_what_another_has_read(model: AIModel, provider: AIProvider) -> None:
    stamp = ConfigStamp.objects.get().value
    cache.set("ai_provider_openai", (stamp, provider))
    with CaptureQueriesContext(connection) as queries:
        assert Catalogue().provider("openai") == provider
    assert "ai_aiprovider" not in str(queries.captured_queries)


def test_a_plain_key_leaves_the_process_in_no_cache_copy_or_pickle(model: AIModel, provider: AIProvider) -> None:
    provider.shared_api_key = "sk-plain-0123456789"
    provider.save()
    kept = Catalogue().provider("openai")
    assert kept is not None
    assert kept.get_shared_api_key() == "sk-plain-0123456789"
    _stamp, cached = cache.get("ai_provider_openai")
    for row in (kept, cached):
        assert "sk-plain" not in str(vars(row)) + repr(row)
        assert b"sk-plain" not in pickle.dumps(row)


def test_a_key_is_decrypted_once_for_each_change_and_each_secret_key(
    provider: AIProvider, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    decrypted = []
    decrypt = secrets.decrypt
    monkeypatch.setattr(secrets, "decrypt", lambda token, **bound: decrypted.append(token) or decrypt(token, **bound))

    def key() -> str:
        row = Catalogue().provider("openai")
        assert row is not None
        return row.get_shared_api_key()

    for number in range(2):
        provider.shared_api_key = f"sk-{number}-0123456789abcdef"
        provider.save()
        decrypted.clear()
        assert [key(), key(), key()] == [f"sk-{number}-0123456789abcdef"] * 3
        assert len(decrypted) == 1
    AIProvider.objects.create(slug="new", name="New")
    assert (key(), len(decrypted)) == ("sk-1-0123456789abcdef", 2)
    settings.SECRET_KEY = "another"
    with pytest.raises(KeyUnreadable):
        key()


def changes(provider: AIProvider, model: AIModel, own: AdminProviderSettings) -> dict[str, Callable[[], object]]:
    return {
        "saving a provider": provider.save,
        "updating a model": lambda: AIModel.objects.update(name="other"),
        "raw SQL": lambda: connection.cursor().execute("UPDATE ai_aiprovider SET name = 'x'"),
        "saving settings": lambda: AdminProviderSettings.objects.update(use_shared_api=False),
        "adding a provider": lambda: AIProvider.objects.create(slug="new", name="New"),
        "deleting settings": own.delete,
        "deleting a model": model.delete,
        "turning an admin off": lambda: User.objects.filter(username="editor").update(is_active=False),
        "making somebody staff": lambda: User.objects.filter(username="visitor").update(is_staff=True),
        "making an admin a superuser": lambda: User.objects.filter(username="visitor").update(is_superuser=True),
        "renaming an admin": lambda: User.objects.filter(username="visitor").update(username="renamed"),
        "a token's end": lambda: APIToken.objects.update(expiry=None),
        "revoking a token": lambda: APIToken.objects.all().delete(),
        "deleting an admin": lambda: connection.cursor().execute("DELETE FROM auth_user WHERE username = 'renamed'"),
    }


def test_every_change_makes_a_new_stamp_and_counting_does_not(
    model: AIModel, provider: AIProvider, editor: User, visitor: User
) -> None:
    APIToken.objects.create(user=editor)
    own = AdminProviderSettings.objects.create(admin=editor, provider=provider)
    seen = {ConfigStamp.objects.get().value}
    for what, change in changes(provider, model, own).items():
        change()
        stamp = ConfigStamp.objects.get().value
        assert stamp not in seen, what
        seen.add(stamp)


def test_what_customers_do_and_a_log_in_drop_nothing_from_the_cache(
    provider: AIProvider, editor: User, visitor: User
) -> None:
    before = ConfigStamp.objects.get().value
    visitor.first_name = "Ann"
    visitor.save()
    User.objects.filter(username="visitor").update(is_active=False, username="customer")
    User.objects.filter(username="customer").delete()
    editor.last_login = timezone.now()
    editor.email = "editor@example.com"
    editor.save()
    token, _secret = APIToken.objects.create(user=editor, name="log-in")
    token.record_use()
    assert ConfigStamp.objects.get().value == before


def test_counting_drops_nothing_from_the_cache(model: AIModel, provider: AIProvider, editor: User) -> None:
    own = AdminProviderSettings.objects.create(admin=editor, provider=provider)
    before = ConfigStamp.objects.get().value
    for row in (model, provider, own):
        row.increment_usage()
    assert ConfigStamp.objects.get().value == before


ANOTHER_PROCESS = """
import sys, django
django.setup()
from django.db import connection
connection.settings_dict["NAME"] = {name!r}
connection.ensure_connection()
print("ready", flush=True)
for line in sys.stdin:
    connection.cursor().execute(line)
    print("done", flush=True)
"""


@pytest.fixture
def another_process(transactional_db: None) -> Iterator[Callable[[str], None]]:
    """Runs one statement after the other, each in a transaction of its own."""
    environment = {"DJANGO_SETTINGS_MODULE": "config.settings.test", **os.environ}
    code = ANOTHER_PROCESS.format(name=connection.settings_dict["NAME"])
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin
        assert process.stdout
        told, heard = process.stdin, process.stdout
        assert heard.readline() == "ready\n"

        def run(statement: str) -> None:
            told.write(statement + "\n")
            told.flush()
            assert heard.readline() == "done\n"

        yield run
        told.close()


def last_use_of(old: Any, ask: Callable[[], Any]) -> float:
    """Seconds from now to the start of the last asking that was still answered `old`."""
    start = last = monotonic()
    while monotonic() < start + 10:
        asked = monotonic()
        if ask() != old:
            return last - start
        last = asked
    raise AssertionError(f"still {old!r}")


def test_what_another_process_changes_is_used_for_less_than_a_second(
    model: AIModel, provider: AIProvider, another_process: Callable[[str], None]
) -> None:
    def name() -> str | None:
        found = Catalogue().active_model("openai", "chat")
        return found and found.name

    for statement in ("UPDATE ai_aimodel SET name = 'new'", "UPDATE ai_aiprovider SET is_active = false"):
        old = name()
        another_process(statement)
        assert last_use_of(old, name) < 1
    assert name() is None


@pytest.mark.parametrize(
    ("statement", "status"),
    [
        ("UPDATE auth_user SET is_active = false", 401),
        ("UPDATE auth_user SET is_staff = false", 403),
        ("UPDATE ai_apitoken SET expiry = '2020-01-01 00:00:00+00'", 401),
        ("DELETE FROM ai_apitoken", 401),
    ],
)
def test_access_that_another_process_takes_ends_within_a_second(
    statement: str,
    status: int,
    transactional_db: None,
    editor_api: APIClient,
    provider: AIProvider,
    another_process: Callable[[str], None],
) -> None:
    def answer() -> int:
        return editor_api.get("/api/admin/ai/chat/models").status_code

    assert answer() == 200
    another_process(statement)
    assert last_use_of(200, answer) < 1
    assert answer() == status


def elsewhere(ask: Callable[[], Any]) -> Any:
    """What another thread of this process is answered."""

    def ask_and_leave() -> Any:
        try:
            return ask()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(ask_and_leave).result()


def name_of_openai() -> str:
    found = Catalogue().provider("openai")
    assert found is not None
    return found.name


def many(sql: str, rows: list[list[Any]]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(sql, rows)


STATEMENTS: dict[str, Callable[[], object]] = {
    "update": lambda: AIProvider.objects.update(name="new"),
    "bulk_update": lambda: AIProvider.objects.bulk_update(
        [AIProvider(pk=AIProvider.objects.get().pk, name="new")], ["name"]
    ),
    "raw SQL": lambda: connection.cursor().execute("update AI_AIPROVIDER set name = 'new'"),
    "executemany": lambda: many("UPDATE ai_aiprovider SET name = %s WHERE slug = %s", [["new", "openai"]]),
    "a CTE": lambda: connection.cursor().execute(
        "WITH wanted AS (SELECT 'new' AS name) UPDATE ai_aiprovider SET name = (SELECT name FROM wanted)"
    ),
}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_change_by_any_statement_is_seen_at_once_by_every_thread_of_its_process(
    statement: str, provider: AIProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.core.cache.freshness.BELIEVED_FOR", 60)
    assert name_of_openai() == elsewhere(name_of_openai) == "Openai"
    STATEMENTS[statement]()
    assert elsewhere(name_of_openai) == "new"
    assert name_of_openai() == "new"


@pytest.mark.django_db(transaction=True)
def test_a_transaction_sees_its_own_changes_alone_until_it_ends(
    provider: AIProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.core.cache.freshness.BELIEVED_FOR", 60)
    seen_by_callbacks = []
    for name, keep in (("never", False), ("new", True)):
        before = name_of_openai()
        with transaction.atomic():
            transaction.on_commit(lambda: seen_by_callbacks.append(name_of_openai()))
            AIProvider.objects.update(name=name)
            assert name_of_openai() == name
            assert elsewhere(name_of_openai) == before
            transaction.set_rollback(not keep)
        expected = name if keep else before
        assert elsewhere(name_of_openai) == name_of_openai() == expected
    assert seen_by_callbacks == ["new"]  # though it was registered before the change


@pytest.mark.django_db(transaction=True)
def test_other_threads_see_a_transactions_changes_when_it_is_committed(
    provider: AIProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.core.cache.freshness.BELIEVED_FOR", 60)
    with transaction.atomic():
        AIProvider.objects.update(name="new")
        assert elsewhere(name_of_openai) == "Openai"
    assert elsewhere(name_of_openai) == "new"


@pytest.mark.django_db(transaction=True)
def test_a_transaction_begun_by_hand_keeps_its_changes_to_itself_too(
    provider: AIProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.core.cache.freshness.BELIEVED_FOR", 60)
    assert name_of_openai() == "Openai"
    transaction.set_autocommit(False)
    try:
        AIProvider.objects.update(name="new")
        assert name_of_openai() == "new"
        assert elsewhere(name_of_openai) == "Openai"
        transaction.commit()
    finally:
        transaction.set_autocommit(True)
    assert name_of_openai() == "new"


@pytest.mark.parametrize("turn", ["first", "second"])
def test_what_one_test_case_made_the_next_does_not_see(
    turn: str, db: None, make_provider: Callable[..., AIProvider], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.core.cache.freshness.BELIEVED_FOR", 60)
    assert Catalogue().provider("openai") is None
    made = make_provider()
    assert Catalogue().provider("openai") == made


@pytest.mark.redis
def test_redis_holds_the_cache_where_it_is_configured(model: AIModel) -> None:
    Catalogue().active_model("openai", "chat")
    client = cache.client.get_client()  # type: ignore[attr-defined]
    keys = [key.decode() for key in client.keys("*active_model_openai_chat")]
    assert len(keys) == 1
    assert 0 < client.ttl(keys[0]) <= 300
