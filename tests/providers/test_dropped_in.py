"""A provider is added by one file, in this project or in anyone's app, and works through every way in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.test import modify_settings
from rest_framework.test import APIClient

from src.ai import providers
from src.ai.models import AIModel, AIProvider
from src.ai.providers.registry import AIProviderRegistry
from src.ai.services.unified_service import UnifiedAIService
from tests.providers.answers import completion
from tests.upstream.server import Upstream, whole

OPENAI_SHAPED = '''
"""A vendor that speaks OpenAI's format."""

from src.ai.providers.openai_compatible import OpenAICompatible


class AcmeProvider(OpenAICompatible):
    default_base_url = "https://api.acme.example/v1"

    @classmethod
    def get_provider_name(cls):
        return "acme"
'''
FORM_OF_ITS_OWN = '''
"""A vendor of its own kind, which returns plain builtins."""

from io import BytesIO

from src.ai.providers.base import BaseProvider

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8cfc000000301010018dd8db0"
    "0000000049454e44ae426082"
)


class AcmeProvider(BaseProvider):
    config_types = {"greeting": (str,)}

    @classmethod
    def get_provider_name(cls):
        return "acme"

    async def chat(self, message, conversation_history=None, **kwargs):
        return f"{self.config['greeting']}, {message}! ({self.api_key}, {kwargs['model']})"

    async def generate_image(self, prompt, **kwargs):
        return BytesIO(PNG)
'''


@pytest.fixture
def forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for modules, which are forgotten afterwards together with the provider `acme`."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    AIProviderRegistry().unregister("acme")
    for name in set(sys.modules) - before:
        if "acme" in name:
            del sys.modules[name]


@pytest.fixture
def acme_app(forgotten: Path) -> Iterator[Callable[[str], None]]:
    """An installed app whose `ai_providers` module holds this text."""
    installed = modify_settings(INSTALLED_APPS={"append": "acme_app"})

    def install(text: str) -> None:
        (forgotten / "acme_app").mkdir()
        (forgotten / "acme_app" / "__init__.py").touch()
        (forgotten / "acme_app" / "ai_providers.py").write_text(text)
        installed.enable()

    yield install
    installed.disable()


@pytest.fixture
def acme_file(forgotten: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A file of this text among the modules of `src.ai.providers`."""
    monkeypatch.setattr(providers, "__path__", [*providers.__path__, str(forgotten)])

    def add(text: str) -> None:
        (forgotten / "acme.py").write_text(text)
        AIProviderRegistry().auto_discover()

    return add


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("way", ["acme_app", "acme_file"])
def test_an_openai_shaped_vendor_is_a_dozen_lines(
    request: pytest.FixtureRequest,
    way: str,
    upstream: Upstream,
    make_provider: Callable[..., AIProvider],
    make_model: Callable[..., AIModel],
    superuser: User,
    admin_api: APIClient,
) -> None:
    assert "acme" not in AIProviderRegistry().get_registered_names()
    request.getfixturevalue(way)(OPENAI_SHAPED)
    upstream.on("POST", "/v1/chat/completions", whole(200, completion("Hello from Acme.")))
    row = make_provider("acme", shared_api_key="acme-key-0123456789", api_base_url=f"{upstream.url}/v1")
    make_model(row, "chat", model_id="acme-1")

    assert UnifiedAIService.chat("Hi", superuser, provider_slug="acme") == "Hello from Acme."
    response = admin_api.post("/api/admin/ai/chat/send", {"message": "Hi", "provider_slug": "acme"})
    assert (response.status_code, response.json()["reply"]) == (200, "Hello from Acme.")
    assert upstream.last.headers["authorization"] == "Bearer acme-key-0123456789"
    assert upstream.last.json == {"model": "acme-1", "messages": [{"role": "user", "content": "Hi"}]}
    listed = admin_api.get("/api/admin/ai/providers?capability=chat").json()["results"]
    assert [provider["slug"] for provider in listed] == ["acme"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("way", ["acme_app", "acme_file"])
def test_a_vendor_of_its_own_kind_may_return_plain_builtins(
    request: pytest.FixtureRequest,
    way: str,
    make_provider: Callable[..., AIProvider],
    make_model: Callable[..., AIModel],
    superuser: User,
    admin_api: APIClient,
) -> None:
    request.getfixturevalue(way)(FORM_OF_ITS_OWN)
    row = make_provider("acme", shared_api_key="acme-key-0123456789", config={"greeting": "Salaam"})
    make_model(row, "chat", "image", model_id="acme-1")

    reply = UnifiedAIService.chat("world", superuser, provider_slug="acme")
    assert reply == "Salaam, world! (acme-key-0123456789, acme-1)"
    response = admin_api.post("/api/admin/ai/chat/send", {"message": "world", "provider_slug": "acme"})
    assert (response.status_code, response.json()["reply"]) == (200, reply)
    response = admin_api.post("/api/admin/ai/image/generate", {"prompt": "A dot", "save_to_media": False})
    assert (response.status_code, response.json()["content_type"]) == (200, "image/png")
    row.config = {"greting": "Salaam"}
    row.save()
    response = admin_api.post("/api/admin/ai/chat/send", {"message": "world", "provider_slug": "acme"})
    assert (response.status_code, response.json()["errors"][0]["code"]) == (400, "invalid_config")
    assert "greeting" in response.json()["errors"][0]["detail"]


def test_a_name_that_is_taken_stops_the_start(acme_file: Callable[[str], None]) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"acme\.AcmeProvider") as caught:
        acme_file(OPENAI_SHAPED.replace('"acme"', '"openai"'))
    assert "src.ai.providers.openai.OpenAIProvider" in str(caught.value)


def test_what_is_no_provider_is_not_registered(acme_file: Callable[[str], None]) -> None:
    acme_file(OPENAI_SHAPED.replace("AcmeProvider", "AcmeBase"))
    assert "acme" not in AIProviderRegistry().get_registered_names()
