"""Providers are found, registered once, and built by name."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

import src.ai.providers
from src.ai.exceptions import InvalidConfig, ProviderNotRegistered
from src.ai.providers import AIProviderRegistry, get_provider_instance
from src.ai.providers.base import BaseProvider

SIX = {"gemini", "openai", "openrouter", "groq", "huggingface", "deepseek"}


class ParrotProvider(BaseProvider):
    @classmethod
    def get_provider_name(cls) -> str:
        return "parrot"

    async def chat(self, message: str, conversation_history: Any = None, **kwargs: Any) -> str:
        return message


@pytest.fixture
def registry() -> Iterator[AIProviderRegistry]:
    registry = AIProviderRegistry()
    yield registry
    registry.unregister("parrot")


def test_there_is_one_registry(registry: AIProviderRegistry) -> None:
    assert AIProviderRegistry() is registry


def test_the_six_vendors_are_found_and_another_apps_provider_too(registry: AIProviderRegistry) -> None:
    assert set(registry.get_registered_names()) == SIX | {"local"}
    assert registry.get("local").__module__ == "src.ai_local.ai_providers"


@pytest.mark.parametrize("name", sorted(SIX))
def test_every_vendors_class_can_be_imported_from_the_package(name: str) -> None:
    provider_class = AIProviderRegistry().get(name)
    assert getattr(src.ai.providers, provider_class.__name__) is provider_class


def test_discovering_again_is_harmless(registry: AIProviderRegistry) -> None:
    before = {name: registry.get(name) for name in registry.get_registered_names()}
    registry.auto_discover()
    importlib.import_module("src.ai.providers.openai")
    assert {name: registry.get(name) for name in registry.get_registered_names()} == before


def test_a_provider_is_registered_and_built_by_name(registry: AIProviderRegistry) -> None:
    registry.register("parrot", ParrotProvider)
    registry.register("parrot", ParrotProvider)
    instance = registry.create_instance("parrot", "key", {"chat_model": "grey"})
    assert isinstance(instance, ParrotProvider)
    assert (instance.api_key, instance.config) == ("key", {"chat_model": "grey"})
    assert isinstance(get_provider_instance("parrot", ""), ParrotProvider)


def test_an_unknown_name_is_a_value_error_that_names_it(registry: AIProviderRegistry) -> None:
    for look_up in (registry.get, lambda name: registry.create_instance(name, "key", {})):
        with pytest.raises(ValueError, match=r"^Provider 'x' is not registered in the system$") as error:
            look_up("x")
        assert isinstance(error.value, ProviderNotRegistered)


def test_two_classes_under_one_name_are_refused_naming_both(registry: AIProviderRegistry) -> None:
    class OtherProvider(ParrotProvider):
        pass

    registry.register("parrot", ParrotProvider)
    with pytest.raises(ImproperlyConfigured, match=r"ParrotProvider and .*OtherProvider"):
        registry.register("parrot", OtherProvider)


def test_what_is_no_provider_is_refused(registry: AIProviderRegistry) -> None:
    with pytest.raises(TypeError, match="BaseProvider"):
        registry.register("parrot", dict)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"chat_modle": "x"}, r"unknown key 'chat_modle'\. Known keys: .*chat_model"),
        ({"temperature": "warm"}, "'temperature' must be int or float, not str"),
        ({"max_tokens": True}, "'max_tokens' must be int, not bool"),
    ],
)
def test_a_wrong_configuration_is_refused_with_what_is_known(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        ParrotProvider("key", config)


def test_what_a_provider_can_do_is_derived_from_what_it_implements() -> None:
    can = {
        name
        for name in ("chat", "stream_chat", "generate_image", "generate_seo_content")
        if ParrotProvider.supports(name)
    }
    assert can == {"chat", "stream_chat"}


async def test_a_provider_without_streaming_streams_its_whole_reply() -> None:
    stream = ParrotProvider("key").stream_chat("Hello")
    assert [delta async for delta in stream] == ["Hello"]
