"""The same through the service, for an admin without any key."""

from __future__ import annotations

import wave

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from PIL import Image

from src.ai.models import AIProvider
from src.ai.services.unified_service import UnifiedAIService

pytestmark = pytest.mark.local


@pytest.fixture(autouse=True)
def _seeded(db: None) -> None:
    call_command("seed_ai_local", verbosity=0)


def test_a_normal_admin_chats_without_a_key(editor: User) -> None:
    reply = UnifiedAIService.chat("Say hello.", admin=editor, max_tokens=12)
    assert reply.strip()
    assert AIProvider.objects.get(slug="local").total_requests == 1


def test_a_stream_through_the_service_is_the_reply(editor: User) -> None:
    stream = UnifiedAIService.stream_chat("Tell me about rain.", admin=editor, provider_slug="local", max_tokens=12)
    deltas = list(stream)
    assert len(deltas) > 2
    assert "".join(deltas) == stream.text


def test_content_has_six_keys(editor: User) -> None:
    article = UnifiedAIService.generate_content("green tea", admin=editor, word_count=20, tone="friendly")
    assert sorted(article) == ["content", "keywords", "meta_description", "meta_title", "slug", "title"]
    assert all(article.values())


def test_speech_plays(editor: User) -> None:
    media = UnifiedAIService.text_to_speech("Hello from the service.", admin=editor, voice="alloy", speed=1.0)
    assert media.content_type == "audio/wav"
    with wave.open(media) as file:
        assert file.getnframes() / file.getframerate() > 0.5


def test_an_image_is_a_png_and_owns_up_to_being_none(editor: User) -> None:
    media = UnifiedAIService.generate_image("a harbour", admin=editor, size="320x200", n=2)
    assert Image.open(media).size == (320, 200)
    assert media.placeholder is True
    assert len(media.all) == 2
