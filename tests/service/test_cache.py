"""What is cached, where, and that no process works with what another has changed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.db import connection

from src.ai.models import AdminProviderSettings, AIModel, AIProvider, ConfigStamp
from src.ai.services.catalogue import Catalogue
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


def test_no_plain_key_is_cached(model: AIModel, provider: AIProvider) -> None:
    provider.shared_api_key = "sk-plain-0123456789"
    provider.save()
    Catalogue().provider("openai")
    _stamp, cached = cache.get("ai_provider_openai")
    assert "sk-plain" not in str(vars(cached))


def changes(provider: AIProvider, model: AIModel, own: AdminProviderSettings) -> dict[str, Callable[[], object]]:
    return {
        "saving a provider": provider.save,
        "updating a model": lambda: AIModel.objects.update(name="other"),
        "raw SQL": lambda: connection.cursor().execute("UPDATE ai_aiprovider SET name = 'x'"),
        "saving settings": lambda: AdminProviderSettings.objects.update(use_shared_api=False),
        "adding a provider": lambda: AIProvider.objects.create(slug="new", name="New"),
        "deleting settings": own.delete,
        "deleting a model": model.delete,
    }


def test_every_change_makes_a_new_stamp_and_counting_does_not(
    model: AIModel, provider: AIProvider, editor: User
) -> None:
    own = AdminProviderSettings.objects.create(admin=editor, provider=provider)
    seen = {ConfigStamp.objects.get().value}
    for what, change in changes(provider, model, own).items():
        change()
        stamp = ConfigStamp.objects.get().value
        assert stamp not in seen, what
        seen.add(stamp)


def test_counting_drops_nothing_from_the_cache(model: AIModel, provider: AIProvider, editor: User) -> None:
    own = AdminProviderSettings.objects.create(admin=editor, provider=provider)
    before = ConfigStamp.objects.get().value
    for row in (model, provider, own):
        row.increment_usage()
    assert ConfigStamp.objects.get().value == before


IN_ANOTHER_PROCESS = """
import django
django.setup()
from django.db import connection
connection.settings_dict["NAME"] = {name!r}
from src.ai.models import AIModel
AIModel.objects.update(is_active=False)
"""


@pytest.mark.django_db(transaction=True)
def test_a_change_in_another_process_is_seen_by_the_next_call(model: AIModel) -> None:
    assert Catalogue().active_model("openai", "chat") == model
    subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS.format(name=connection.settings_dict["NAME"])],
        check=True,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": os.environ.get("DJANGO_SETTINGS_MODULE", "config.settings.test")},
    )
    assert Catalogue().active_model("openai", "chat") is None


@pytest.mark.redis
def test_redis_holds_the_cache_where_it_is_configured(model: AIModel) -> None:
    Catalogue().active_model("openai", "chat")
    client = cache.client.get_client()  # type: ignore[attr-defined]
    keys = [key.decode() for key in client.keys("*active_model_openai_chat")]
    assert len(keys) == 1
    assert 0 < client.ttl(keys[0]) <= 300
