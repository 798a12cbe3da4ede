"""The upstream, the vendors' answers, and clocks that tests need not wait for."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest
from pytest_django import Settings

from src.ai.providers import retry
from tests.providers.answers import VendorAnswers, answers_of, http_providers
from tests.upstream.server import Upstream

# The same examples every time, and no clock on a machine that others use too.
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None)
hypothesis.settings.load_profile("steady")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `vendor` runs for every registered HTTP provider."""
    named = any("vendor" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "vendor" in metafunc.fixturenames and not named:
        metafunc.parametrize("vendor", http_providers(), indirect=True)


@pytest.fixture
def vendor(request: pytest.FixtureRequest) -> VendorAnswers:
    return answers_of(request.param)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_waiting_between_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.0)


@pytest.fixture
def short_timeouts(settings: Settings) -> float:
    """Every time-out is this many seconds."""
    for name in ("CONNECT", "FIRST_BYTE", "TOTAL", "IMAGE"):
        setattr(settings, f"AI_TIMEOUT_{name}", 0.4)
    return 0.4
