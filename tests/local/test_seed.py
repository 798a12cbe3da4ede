"""The rows of the local provider."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import call_command

from src.ai.models import AIModel, AIProvider

pytestmark = [pytest.mark.local, pytest.mark.django_db]


def seed(**options: object) -> str:
    out = StringIO()
    call_command("seed_ai_local", stdout=out, **options)
    return out.getvalue()


def test_a_fresh_site_gets_three_active_models() -> None:
    assert "smollm2-135m-instruct, espeak-ng, placeholder-card" in seed()
    provider = AIProvider.objects.get(slug="local")
    assert (provider.name, provider.allow_shared_for_normal_admins, provider.shared_api_key) == ("Local demo", True, "")
    assert {model.model_id: (model.capabilities, model.is_active) for model in provider.models.all()} == {
        "smollm2-135m-instruct": (["chat", "content"], True),
        "espeak-ng": (["audio"], True),
        "placeholder-card": (["image"], True),
    }
    for capability in ("chat", "content", "audio", "image"):
        assert AIModel.objects.get_active_model("local", capability) is not None
    assert all(model.is_free for model in provider.models.all())


def test_again_it_does_nothing() -> None:
    seed()
    before = list(AIModel.objects.order_by("id").values())
    assert seed() == "Local demo: nothing new.\n"
    assert list(AIModel.objects.order_by("id").values()) == before


def test_what_a_person_changed_stays() -> None:
    seed()
    AIProvider.objects.filter(slug="local").update(display_name="Ours", is_active=False, sort_order=-1)
    AIModel.objects.filter(model_id="espeak-ng").update(is_active=False, display_name="Voice")
    AIModel.objects.get(model_id="placeholder-card").delete()
    seed()
    provider = AIProvider.objects.get(slug="local")
    assert (provider.display_name, provider.is_active, provider.sort_order) == ("Ours", False, -1)
    voice = AIModel.objects.get(model_id="espeak-ng")
    assert (voice.is_active, voice.display_name) == (False, "Voice")
    assert not AIModel.objects.filter(model_id="placeholder-card").exists()


def test_a_deleted_provider_comes_back_only_when_asked_for() -> None:
    seed()
    AIProvider.objects.get(slug="local").delete()
    assert seed() == "Local demo: nothing new.\n"
    assert not AIProvider.objects.filter(slug="local").exists()
    seed(restore=True)
    assert AIModel.objects.filter(provider__slug="local", is_active=True).count() == 3


def test_a_model_file_of_ones_own_gets_a_row_and_takes_over(settings: object) -> None:
    seed()
    settings.LOCAL_GGUF = "/models/Qwen3-0.6B-Q8_0.gguf"  # type: ignore[attr-defined]
    assert "qwen3-0-6b-q8_0" in seed()
    active = AIModel.objects.get_active_model("local", "chat")
    assert active is not None
    assert active.model_id == "qwen3-0-6b-q8_0"
    assert AIModel.objects.get(model_id="smollm2-135m-instruct").is_active is False
