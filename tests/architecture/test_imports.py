"""The arrows between the layers, read off the imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.ai.providers.registry import AIProviderRegistry

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path.relative_to(ROOT) for path in (ROOT / "src").rglob("*.py") if "migrations" not in path.parts)

# What the modules under a path may not import, and why not.
FORBIDDEN = {
    "src/core": (["src.ai", "src.ai_local"], "the house is not about AI"),
    "src/ai/providers": (
        [
            "src.ai.models",
            "src.ai.services",
            "src.ai.views",
            "src.ai.serializers",
            "django.db",
            "django.conf",
            "rest_framework",
        ],
        "a provider knows neither rows nor settings nor HTTP views",
    ),
    "src/ai/services": (
        ["src.ai.views", "src.ai.serializers", "src.ai.admin", "rest_framework", "src.ai_local"],
        "the ways in call services, not the other way round",
    ),
    "src/ai/models": (
        ["src.ai.services", "src.ai.views", "src.ai.serializers", "src.ai.providers", "rest_framework"],
        "rows keep their invariants alone",
    ),
    "src/ai": (["src.ai_local"], "the local provider is one of those that come from outside"),
}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def breaks(name: str, forbidden: list[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in forbidden)


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_arrows_point_one_way(folder: str) -> None:
    forbidden, reason = FORBIDDEN[folder]
    modules = [path for path in MODULES if path.as_posix().startswith(f"{folder}/")]
    assert modules, f"no module under {folder}"
    wrong = [f"{path} imports {name}" for path in modules for name in imported(path) if breaks(name, forbidden)]
    assert not wrong, f"{reason}: {wrong}"


def test_nothing_but_the_registry_knows_a_concrete_provider() -> None:
    registry = AIProviderRegistry()
    concrete = [registry.get(name).__module__ for name in registry.get_registered_names()]
    ways_in = [path for path in MODULES if path.as_posix().startswith("src/ai/") and "providers" not in path.parts]
    assert [(path, name) for path in ways_in for name in imported(path) if breaks(name, concrete)] == []
