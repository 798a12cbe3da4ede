"""The provider under test, with its real engines: each loads once per process, on first use."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.ai.providers.base import BaseProvider
from src.ai.providers.registry import get_provider_instance

ROOT = Path(__file__).resolve().parents[2]
FORKS_ARE_MEANT = "ignore:This process:DeprecationWarning"  # Python warns of them from 3.12 on

PROLOGUE = """
import asyncio, os, signal, sys, threading
import django
django.setup()
from src.ai.providers.registry import get_provider_instance
provider = get_provider_instance("local", "")
def chat(text="hello", **options):
    return asyncio.run(provider.chat(text, **{"max_tokens": 5, **options}))
"""


@pytest.fixture
def provider() -> BaseProvider:
    return get_provider_instance("local", "")


@pytest.fixture
def configured() -> Callable[..., BaseProvider]:
    """The provider with a configuration of its own."""
    return lambda **config: get_provider_instance("local", "", config)


@pytest.fixture
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run lines of Python in a process of their own, after `PROLOGUE`; one that hangs fails."""

    def run(*lines: str, before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        environ: dict[str, Any] = {**os.environ, "DJANGO_SETTINGS_MODULE": "config.settings.test", **environment}
        code = "\n".join((before, PROLOGUE, *lines))
        return subprocess.run(
            [sys.executable, "-W", FORKS_ARE_MEANT, "-c", code],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environ,
            timeout=120,
            check=False,
        )

    return run
