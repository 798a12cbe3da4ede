"""Redis going away and coming back: nothing breaks, nobody waits twice, nothing is restarted."""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from pytest_django import Settings
from rest_framework.test import APIClient

from src.ai.models import AIModel, AIProvider
from src.core.cache.backend import Outage
from tests import vendor_answers as answers
from tests.conftest import codes
from tests.upstream.server import Upstream, whole

pytestmark = pytest.mark.redis

SECONDS_TO_ANSWER = 0.2


class Server:
    """A Redis of this test's own."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"],  # noqa: S607
            stdout=subprocess.DEVNULL,
        )
        until(self._answers)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """From now on it takes connections and answers nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(5) == b"+PONG"
        except OSError:
            return False


def until(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + 20
    while not condition():
        assert monotonic() < deadline, "it did not come to pass"


def works() -> bool:
    """Whether the cache keeps what it is given."""
    cache.set("works", True)
    return bool(cache.get("works"))


@pytest.fixture
def server(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("src.core.cache.backend.RETRY_AFTER", 0.1)
    server = Server()
    url = f"redis://127.0.0.1:{server.port}/0"
    settings.CACHES = {
        "default": {
            "BACKEND": settings.CACHES["default"]["BACKEND"],
            "LOCATION": url,
            "OPTIONS": {"SOCKET_CONNECT_TIMEOUT": SECONDS_TO_ANSWER, "SOCKET_TIMEOUT": SECONDS_TO_ANSWER},
        }
    }
    yield server
    server.kill()
    Outage.of(url).is_on = False  # ends the thread that would try it for ever


def test_while_redis_is_away_a_read_finds_nothing_and_a_write_does_nothing(server: Server) -> None:
    cache.set_many({"a": 1, "b": 2})
    assert cache.get_many(["a", "b"]) == {"a": 1, "b": 2}
    assert cache.incr("a") == 2
    server.kill()
    assert cache.get("a") is None
    assert cache.get("a", "default") == "default"
    assert cache.get_many(["a"]) == {}
    assert cache.get_or_set("a", lambda: "made") == "made"
    assert "a" not in cache
    assert (cache.add("a", 1), cache.set("a", 1), cache.touch("a"), cache.delete("a")) == (False,) * 4
    assert cache.set_many({"a": 1, "b": 2}) == ["a", "b"]
    cache.delete_many(["a"])
    cache.clear()
    for count in (cache.incr, cache.decr, cache.incr_version):
        with pytest.raises(ValueError, match="'a' not found"):
            count("a")


@pytest.mark.parametrize("operation", ["get", "set", "add", "touch", "delete", "has_key", "get_many", "clear", "incr"])
def test_whichever_operation_meets_the_outage_first_breaks_nothing(operation: str, server: Server) -> None:
    assert works()
    server.kill()
    arguments: dict[str, Any] = {"set": ("a", 1), "add": ("a", 1), "get_many": (["a"],), "clear": ()}
    try:
        assert not getattr(cache, operation)(*arguments.get(operation, ("a",)))
    except ValueError:
        assert operation == "incr"


def test_redis_is_used_again_when_it_is_back_and_each_outage_is_told_once(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "src.core.cache.backend")
    for outage in (1, 2):
        until(works)
        server.kill()
        assert not any([works() for _ in range(50)])
        server.start()
        until(works)
        told = [record.message for record in caplog.records]
        assert told == ["Redis is away, going on without", "Redis is back"] * outage


def test_a_redis_that_answers_nothing_is_waited_for_once(server: Server) -> None:
    assert works()
    server.freeze()
    start = monotonic()
    assert not any(cache.get("works") for _ in range(200))
    assert monotonic() - start < 20 * SECONDS_TO_ANSWER  # of 200
    server.thaw()
    until(works)


def test_one_thread_alone_tries_it_again(server: Server) -> None:
    def trying() -> int:
        return [thread.name for thread in threading.enumerate()].count("redis-outage")

    assert works()
    before = trying()
    server.kill()
    with ThreadPoolExecutor(16) as pool:
        assert not any(pool.map(lambda _: cache.get("works"), range(64)))
    assert trying() == before + 1
    server.start()
    until(works)


def test_a_redis_that_can_not_write_is_away_too(server: Server) -> None:
    assert works()
    client = cache.client.get_client()  # type: ignore[attr-defined]
    client.config_set("maxmemory", "1")
    assert not works()
    client.config_set("maxmemory", "0")
    until(works)


def test_calls_go_on_without_redis_and_see_changes(
    server: Server,
    editor_api: APIClient,
    make_provider: Callable[..., AIProvider],
    make_model: Callable[..., AIModel],
    upstream: Upstream,
) -> None:
    upstream.on("POST", answers.CHAT, whole(200, answers.chat("Hello!")))
    provider = make_provider(
        api_base_url=f"{upstream.url}/v1", shared_api_key="sk-0123456789abcdef", allow_shared_for_normal_admins=True
    )
    make_model(provider, "chat", model_id="luna")

    def model_that_serves() -> str:
        response = editor_api.post("/api/admin/ai/chat/send", {"message": "Hi"})
        assert response.status_code == 200
        return str(upstream.last.json["model"])

    assert model_that_serves() == "luna"
    server.kill()
    for name in ("stella", "sol"):
        AIModel.objects.update(model_id=name)
        assert model_that_serves() == name
        assert editor_api.get("/api/admin/ai/chat/models").json()["results"][0]["model_id"] == name
    server.start()
    until(works)
    assert model_that_serves() == "sol"


def test_attempts_to_log_in_are_counted_without_redis_too(server: Server, editor: User) -> None:
    server.kill()
    body = {"username": "editor", "password": "wrong"}
    statuses = [APIClient().post("/api/admin/auth/login", body).status_code for _ in range(10)]
    response = APIClient().post("/api/admin/auth/login", body)
    assert (statuses, response.status_code, codes(response)) == ([401] * 10, 429, ["throttled"])
