"""Processes of one test: forked from a warm server process, and gone when the test ends."""

from __future__ import annotations

import http.client
import json
import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from time import monotonic, sleep
from typing import Any, Final, Self

from django.db import connection

from tests.ledger import child

WAIT: Final = 30.0  # seconds after which a test that waits for a process has failed
# Set by `make prove`: the same tests, longer.
PROVE: Final = bool(os.environ.get("PROVE"))

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.ledger.warm"])


def this_database() -> dict[str, Any]:
    """The suite's database, as another process connects to it; on PostgreSQL with few connections."""
    settings = {name: connection.settings_dict[name] for name in child.DATABASE_NAMES}
    options = dict(settings["OPTIONS"])
    if "pool" in options:
        options["pool"] = {**options["pool"], "min_size": 1, "max_size": 12}
    return {**settings, "OPTIONS": options}


@dataclass
class Processes:
    """Starts processes on a database, and ends those that are left."""

    database: Mapping[str, Any]
    changes: dict[str, Any] = field(default_factory=dict)  # of settings
    started: list[BaseProcess] = field(default_factory=list)

    def start(self, work: Callable[..., Any], *args: Any) -> BaseProcess:
        process = _context.Process(target=work, args=args, daemon=True)
        process.start()
        self.started.append(process)
        return process

    def serve(self, listener: socket.socket, step: str = "") -> BaseProcess:
        """The site on `listener`; see `child.serve`."""
        return self.start(child.serve, listener, self.database, self.changes, step)

    def callers(self, number: int, *, asynchronous: bool = False) -> Callers:
        """`number` callers in a process of their own."""
        ours, theirs = _context.Pipe()
        return Callers(ours, self.start(child.call, theirs, self.database, self.changes, number, asynchronous))

    def manage(self, command: str, *arguments: str) -> BaseProcess:
        """A management command in a process of its own."""
        return self.start(child.manage, self.database, self.changes, command, *arguments)

    def ask(self, work: Callable[..., Any], *args: Any) -> Any:
        """What a process answers, which is over then."""
        ours, theirs = _context.Pipe()
        process = self.start(work, theirs, self.database, self.changes, *args)
        assert ours.poll(WAIT), "a process never answered"
        answer = ours.recv()
        assert self.wait_for_end(process) == 0
        return answer

    def load(self, admin_pk: int, callers: int) -> Callable[[], list[dict[str, Any]]]:
        """`callers` callers who chat without end; call what is returned to stop them and learn how each call ended."""
        ours, theirs = _context.Pipe()
        process = self.start(child.load, theirs, self.database, self.changes, admin_pk, callers)

        def stop() -> list[dict[str, Any]]:
            ours.send(None)
            assert ours.poll(WAIT), "the callers never came back"
            ended, written = ours.recv()
            assert self.wait_for_end(process) == 0
            assert written, "the books are still behind"
            return list(ended)

        return stop

    def kill(self, process: BaseProcess) -> None:
        """SIGKILL, and wait until it is gone."""
        process.kill()
        self.wait_for_end(process)

    def wait_for_end(self, process: BaseProcess) -> int | None:
        """Its exit code; a signal's number, negative, where one ended it."""
        process.join(WAIT)
        assert not process.is_alive(), "a process did not end"
        self.started.remove(process)
        return process.exitcode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in list(self.started):
            self.kill(process)


@dataclass
class Callers:
    """Callers in another process who all call at once when told to."""

    orders: Connection
    process: BaseProcess

    def call(self, admin_pk: int, **options: Any) -> None:
        """Have each of them chat with these options. `outcomes` tells how that went."""
        self.orders.send((admin_pk, options))

    def outcomes(self) -> list[dict[str, Any]]:
        assert self.orders.poll(WAIT), "the callers never came back"
        outcomes: list[dict[str, Any]] = self.orders.recv()
        return outcomes


@dataclass(frozen=True)
class Client:
    """One who asks the site on this port for a reply."""

    port: int
    token: str

    def post(self, path: str = "chat/send", **body: Any) -> tuple[int, Mapping[str, str], Any]:
        """Status, headers and body of the answer. Raises `OSError` or `HTTPException` where the connection is lost."""
        server = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        try:
            headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
            server.request("POST", f"/api/admin/ai/{path}", json.dumps(body), headers)
            response = server.getresponse()
            return response.status, response.headers, json.load(response)
        finally:
            server.close()

    def chat(self, max_tokens: int) -> str:
        """How it went: `served`, the code of a refusal, or `lost`."""
        try:
            status, _, answer = self.post(message="Hi", max_tokens=max_tokens)
        except (OSError, http.client.HTTPException):
            return "lost"
        return "served" if status == 200 else str(answer["errors"][0]["code"])


@contextmanager
def listening() -> Iterator[tuple[socket.socket, int]]:
    """A socket for servers, and its port: what connects while none serves waits for the next one."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        yield listener, listener.getsockname()[1]


def until(condition: Callable[[], bool]) -> None:
    """Wait for what only asking tells."""
    end = monotonic() + WAIT
    while not condition():
        assert monotonic() < end, "it never came to this"
        sleep(0.005)
