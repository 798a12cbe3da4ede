"""The site served by a real uvicorn: in a process of its own, or on a thread of the test's."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application
from django.db import connection

from src.ai.asgi import Gateway
from src.ai.views.on_loop import chat_on_loop
from src.core.asgi import Handler
from src.core.graceful import Graceful

ROOT = Path(__file__).resolve().parents[1]
AS_IN_README = ("--http", "config.asgi:Protocol", "--no-access-log")
WAIT = 20.0  # seconds after which a test that waits has failed


class Server:
    """A process that serves the test's own database; what it prints is read line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.printed: list[str] = []
        self.url = self.wait_for_line(r"running on (http://\S+)")

    def wait_for_line(self, pattern: str) -> str:
        """Read on until a line matches; its first group."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.printed.append(line)
            if found := re.search(pattern, line):
                return found[1] if found.groups() else found[0]
        raise AssertionError(f"the server never said {pattern!r}: {''.join(self.printed)}")

    def stop(self) -> None:
        """Ask it to stop, and wait until it has heard that."""
        self.process.send_signal(signal.SIGTERM)
        self.wait_for_line("Shutting down")

    def wait(self) -> int:
        """Wait for its end; its exit status."""
        assert self.process.stderr is not None
        self.printed += self.process.stderr.readlines()
        return self.process.wait(WAIT)


@contextmanager
def server_process(*options: str, **environment: str) -> Iterator[Server]:
    """The server of the README on the database of this test, which must not be in a transaction."""
    name = str(connection.settings_dict["NAME"])
    if connection.vendor == "sqlite":
        url = f"sqlite:///{name}"
    else:
        url = urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{name}").geturl()
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "config.asgi:application", *AS_IN_README, "--port", "0", *options],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "config.settings.test", **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Server(process)
    finally:
        process.kill()
        process.communicate()


@contextmanager
def server_thread(
    http: str = "httptools", around: Callable[[Gateway], Any] = lambda application: application, **options: Any
) -> Iterator[str]:
    """The URL of a server on a thread of this process, which sees what a test has put in the place of something.

    Args:
        http: its protocol.
        around: what it serves instead of the site, given that.
        options: more of uvicorn's.
    """
    started = threading.Event()

    class Announcing(uvicorn.Server):
        async def startup(self, *args: Any, **kwargs: Any) -> None:
            await super().startup(*args, **kwargs)
            started.set()

    application = Gateway(Graceful(Handler(chat_on_loop), at_end=lambda: None))
    quiet = {"lifespan": "on", "log_config": None, "log_level": "warning", "access_log": False}
    server = Announcing(uvicorn.Config(around(application), port=0, http=http, **{**quiet, **options}))
    thread = threading.Thread(target=server.run, name="uvicorn", daemon=True)
    thread.start()
    try:
        assert started.wait(WAIT), "the server never started"
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(WAIT)
        assert not thread.is_alive(), "the server never stopped"


@contextmanager
def wsgi_server_thread() -> Iterator[str]:
    """The same for a WSGI server, with a thread for each connection."""

    class Silent(WSGIRequestHandler):
        def log_message(self, *args: Any) -> None:
            """Nothing."""

    server = ThreadedWSGIServer(("127.0.0.1", 0), Silent, connections_override=None)
    server.set_app(get_wsgi_application())
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="wsgi", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(WAIT)
