"""How the suite runs: no network, services only where they are named, and in CI no skipped test."""

import ipaddress
import os
import sys
from collections.abc import Generator
from typing import Any

import pytest

# What a developer keeps in .env must not decide what the tests see.
os.environ["ENV_FILE"] = os.devnull

SERVICES = {"postgres": ("DATABASE_URL", "postgres"), "redis": ("REDIS_URL", "redis")}


class NetworkReached(RuntimeError):
    """A test tried to leave this machine."""


def is_loopback(host: Any) -> bool:
    """Whether this is an address of this machine, or no host at all."""
    host = host.decode() if isinstance(host, bytes) else host
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def forbid_network(event: str, args: tuple[Any, ...]) -> None:
    """Refuse every look-up and connection that would leave this machine, in any thread and by any library."""
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(args[1], tuple):
        host = args[1][0]
    else:
        return
    if not is_loopback(host):
        raise NetworkReached(f"a test tried to reach {host}: only loopback addresses are allowed")


def pytest_configure() -> None:
    """An audit hook stays for the life of the process, and sees what replaced functions would miss."""
    sys.addaudithook(forbid_network)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a service that the environment does not name."""
    for marker, (variable, scheme) in SERVICES.items():
        if os.environ.get(variable, "").startswith(scheme):
            continue
        skip = pytest.mark.skip(reason=f"{variable} names no {marker} service")
        for item in items:
            if item.get_closest_marker(marker):
                item.add_marker(skip)


def fail_if_skipped(report: Any) -> None:
    """In CI a skipped test is a promise nobody checked."""
    if os.environ.get("CI_NO_SKIPS") and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI_NO_SKIPS forbids: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skipped test."""
    report = yield
    fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A skipped module."""
    report = yield
    fail_if_skipped(report)
    return report
