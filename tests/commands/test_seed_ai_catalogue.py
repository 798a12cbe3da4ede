"""`manage.py seed_ai_catalogue`: a new site's providers and models, and nobody's work undone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from src.ai.catalogue import DEFAULT_PROVIDERS
from src.ai.models import AIModel, AIProvider
from src.ai.services import seeding
from tests.commands.conftest import Run, Vendor

pytestmark = pytest.mark.django_db

RunCommand = Callable[..., Run]
SIX = ["openai", "gemini", "groq", "huggingface", "deepseek", "openrouter"]
ENDPOINTS = {"chat", "content", "image", "audio"}


def everything() -> list[Any]:
    return [*AIProvider.objects.order_by("pk").values(), *AIModel.objects.order_by("pk").values()]


def test_a_new_site_gets_six_providers_and_their_models_all_inactive(run: RunCommand) -> None:
    result = run("seed_ai_catalogue")
    models = AIModel.objects.count()
    assert list(AIProvider.objects.values_list("slug", flat=True)) == SIX
    assert not AIModel.objects.filter(is_active=True).exists()
    assert not AIProvider.objects.exclude(shared_api_key="").exists()
    for provider in AIProvider.objects.all():
        assert all([provider.display_name, provider.description, provider.website.startswith("https://")])
    assert result.out == f"AI catalogue: created 6 providers and {models} models, all models inactive.\n"


def test_the_models_carry_prices_windows_and_notes(run: RunCommand) -> None:
    run("seed_ai_catalogue")
    luna = AIModel.objects.get(provider__slug="openai", model_id="gpt-6-luna")
    assert luna.capabilities == ["chat", "content", "vision"]
    assert (luna.pricing_input, luna.pricing_output) == (Decimal("0.10"), Decimal("0.50"))
    assert (luna.context_window, luna.max_tokens) == (1_050_000, 128_000)
    assert "272,000" in luna.description
    gemma = AIModel.objects.get(provider__slug="gemini", model_id="gemma-4-31b-it")
    assert gemma.is_free
    spoken = AIModel.objects.get(model_id="tts-1")
    assert (spoken.pricing_input, spoken.is_free) == (None, False)
    assert "US$ 15 per 1M characters" in spoken.description


@pytest.mark.parametrize("provider", DEFAULT_PROVIDERS, ids=lambda provider: provider.slug)
def test_the_catalogue_is_sound(provider: Any) -> None:
    ids = [model.model_id for model in provider.models]
    assert len(ids) == len(set(ids))
    for model in provider.models:
        assert model.display_name
        assert set(model.capabilities) & {*ENDPOINTS, "embedding"}
        for price in (model.pricing_input, model.pricing_output):
            assert price is None or (isinstance(price, Decimal) and 0 <= price < 100)


def test_seeding_again_changes_nothing(run: RunCommand) -> None:
    run("seed_ai_catalogue")
    before = everything()
    result = run("seed_ai_catalogue")
    assert everything() == before
    assert result.out == "AI catalogue: nothing new.\n"


def test_what_a_person_changed_or_made_is_not_touched(run: RunCommand) -> None:
    mine = AIProvider.objects.create(slug="groq", name="My Groq", shared_api_key="sk-mine-0123456789", sort_order=99)
    AIModel.objects.create(
        provider=mine, model_id="openai/gpt-oss-20b", name="Mine", capabilities=["chat"], is_active=True
    )
    run("seed_ai_catalogue")
    AIModel.objects.filter(model_id="gpt-6-luna").update(pricing_input=7, is_active=False, capabilities=["chat"])
    AIProvider.objects.filter(slug="gemini").update(is_active=False, display_name="Ours")
    before = everything()
    run("seed_ai_catalogue")
    assert everything() == before
    mine.refresh_from_db()
    assert (mine.name, mine.sort_order, mine.get_shared_api_key()) == ("My Groq", 99, "sk-mine-0123456789")
    kept = AIModel.objects.get(provider=mine, model_id="openai/gpt-oss-20b")
    assert (kept.name, kept.is_active, kept.pricing_input) == ("Mine", True, None)
    assert AIModel.objects.filter(provider=mine, model_id="openai/gpt-oss-120b").exists()


def test_what_a_person_deleted_stays_deleted_until_it_is_restored(run: RunCommand) -> None:
    run("seed_ai_catalogue")
    before = AIModel.objects.count()
    AIModel.objects.filter(model_id="gpt-4o-mini").delete()
    AIProvider.objects.filter(slug="groq").delete()
    run("seed_ai_catalogue")
    assert not AIModel.objects.filter(model_id="gpt-4o-mini").exists()
    assert not AIProvider.objects.filter(slug="groq").exists()
    result = run("seed_ai_catalogue", restore=True)
    assert AIModel.objects.count() == before
    assert "created 1 providers and 6 models" in result.out


def test_a_model_that_a_later_version_brings_is_added(run: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    older = tuple(replace(provider, models=provider.models[1:]) for provider in DEFAULT_PROVIDERS[:5])
    with monkeypatch.context() as earlier:
        earlier.setattr(seeding, "DEFAULT_PROVIDERS", older)
        run("seed_ai_catalogue")
    assert not AIModel.objects.filter(model_id="gpt-6-luna").exists()
    result = run("seed_ai_catalogue", verbosity=2)
    assert AIModel.objects.filter(model_id="gpt-6-luna").exists()
    assert "+ openrouter\n" in result.out
    assert "+ openai/gpt-6-luna\n" in result.out


def test_a_sync_updates_what_the_seed_wrote_and_keeps_what_the_vendor_does_not_say(
    vendor: Callable[..., Vendor], run: RunCommand
) -> None:
    run("seed_ai_catalogue")
    AIProvider.objects.filter(slug="openai").delete()
    openai = vendor("openai")
    run("seed_ai_catalogue", restore=True)
    openai.lists({"model_id": "gpt-6-luna", "capabilities": ["chat"], "pricing_input": "0.2"})
    result = run("sync_ai_models", provider="openai")
    luna = openai.model("gpt-6-luna")
    assert result.error is None
    assert (luna.capabilities, luna.pricing_input, luna.pricing_output) == (["chat"], Decimal("0.2"), Decimal("0.5"))
    assert (luna.context_window, luna.name) == (1_050_000, "GPT-6 Luna")
    assert openai.model("gpt-4o-mini").gone_since is not None


def test_seeding_takes_few_queries(run: RunCommand) -> None:
    with CaptureQueriesContext(connection) as queries:
        run("seed_ai_catalogue")
    assert len(queries) < 15
