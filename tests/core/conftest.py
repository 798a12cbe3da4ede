"""Loops, processes, names and certificates for tests of what goes over the network."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from src.core import http
from tests.upstream.tls import self_signed


def run_and_close(work: Awaitable[Any], new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """As a caller does who forgets `shutdown_asyncgens()`."""
    loop = new_loop()
    loop.run_until_complete(work)
    loop.close()


def in_child(work: Callable[[], bool]) -> bool:
    """What `work` gives in a forked child."""
    child = os.fork()
    if child == 0:
        done = False
        with suppress(BaseException):
            done = work()
        os._exit(0 if done else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@contextmanager
def silent_address() -> Iterator[tuple[str, int]]:
    """An address that takes no connection and does not refuse it: its queue is full."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(3):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """`resolve(address, …)` answers every name with these addresses; the names asked for are in what it returns."""

    def set_up(*answers: str | tuple[str, int]) -> list[str]:
        asked: list[str] = []

        def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
            asked.append(host)
            found = [(answer, port) if isinstance(answer, str) else answer for answer in answers]
            kinds = {4: socket.AF_INET, 6: socket.AF_INET6}
            return [
                (kinds[ip_address(where[0].partition("%")[0]).version], socket.SOCK_STREAM, 6, "", where)
                for where in found
            ]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return set_up


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls") / "both.pem")


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.create_default_context(cafile=certificate)
    monkeypatch.setattr(http, "ssl_context", lambda: context)
