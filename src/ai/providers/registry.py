"""Finds providers and builds them: a singleton registry with a factory."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, Self

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import autodiscover_modules

from src.ai.exceptions import ProviderNotRegistered
from src.ai.providers.base import BaseProvider

ENTRY_POINT_GROUP = "dynamic_ai.providers"


class AIProviderRegistry:
    """Provider classes by name. There is one registry a process: every construction returns it."""

    _instance: Self | None = None
    _classes: dict[str, type[BaseProvider]]

    def __new__(cls) -> Self:
        if cls._instance is None:
            cls._instance = super().__new__(cls)
            cls._instance._classes = {}
        return cls._instance

    def register(self, name: str, provider_class: type[BaseProvider]) -> None:
        """Register a class; the same one again is harmless.

        Raises:
            ImproperlyConfigured: another class has the name.
        """
        if not (inspect.isclass(provider_class) and issubclass(provider_class, BaseProvider)):
            raise TypeError(f"{provider_class!r} is not a subclass of BaseProvider")
        registered = self._classes.setdefault(name, provider_class)
        if _qualified(registered) != _qualified(provider_class):
            raise ImproperlyConfigured(
                f"Two providers are named '{name}': {_qualified(registered)} and {_qualified(provider_class)}."
            )

    def unregister(self, name: str) -> None:
        """Forget a name, where it is known."""
        self._classes.pop(name, None)

    def get(self, name: str) -> type[BaseProvider]:
        """The class registered under `name`.

        Raises:
            ProviderNotRegistered: a `ValueError`; there is none.
        """
        try:
            return self._classes[name]
        except KeyError:
            raise ProviderNotRegistered(name=name) from None

    def create_instance(self, name: str, api_key: str, config: Mapping[str, Any] | None = None) -> BaseProvider:
        """A provider for one call. Raises `ProviderNotRegistered` or, from a wrong `config`, `InvalidConfig`."""
        return self.get(name)(api_key, config)

    def get_registered_names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._classes)

    def auto_discover(self) -> None:
        """Register what is found, in this order: the modules of `src.ai.providers`, the `ai_providers` module of each
        installed app, and the entry points of the group `dynamic_ai.providers`. Runs at start-up; again is harmless.
        """
        package = import_module("src.ai.providers")
        for found in iter_modules(package.__path__, f"{package.__name__}."):
            self._register_module(import_module(found.name))
        for module in _app_modules("ai_providers"):
            self._register_module(module)
        for entry_point in entry_points(group=ENTRY_POINT_GROUP):
            self._register_class(entry_point.load())

    def _register_module(self, module: ModuleType) -> None:
        for _, candidate in inspect.getmembers(module, inspect.isclass):
            if candidate.__module__ == module.__name__:
                self._register_class(candidate)

    def _register_class(self, candidate: type) -> None:
        if not (issubclass(candidate, BaseProvider) and candidate.__name__.endswith("Provider")):
            return
        if not inspect.isabstract(candidate):
            self.register(candidate.get_provider_name(), candidate)


def _app_modules(name: str) -> Iterator[ModuleType]:
    """The module `name` of each installed app that has one."""
    autodiscover_modules(name)
    for app in apps.get_app_configs():
        if (path := f"{app.name}.{name}") in sys.modules:
            yield sys.modules[path]


def get_provider_instance(name: str, api_key: str, config: Mapping[str, Any] | None = None) -> BaseProvider:
    """A provider for one call, from the one registry (see `AIProviderRegistry.create_instance`)."""
    return AIProviderRegistry().create_instance(name, api_key, config)


def _qualified(provider_class: type) -> str:
    return f"{provider_class.__module__}.{provider_class.__qualname__}"
