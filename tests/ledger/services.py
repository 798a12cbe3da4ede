"""Services of one test, which may be stopped, restarted and thrown away."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final, Self

import redis

from tests.ledger.processes import WAIT, until

POSTGRES_USER: Final = "postgres"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def postgres_program(name: str) -> str:
    """Where PostgreSQL's own programs are; Debian keeps them off the path."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    found = shutil.which(name) or (places and str(places[-1]))
    assert found, f"{name} of PostgreSQL is not installed"
    return found


class Postgres:
    """A cluster of its own, as durable as one in production."""

    def __enter__(self) -> Self:
        self.directory = Path(mkdtemp(prefix="dynamic-ai-postgres-"))
        self.directory.chmod(0o711)
        self.data = self.directory / "data"
        self.data.mkdir()
        if os.getuid() == 0:
            shutil.chown(self.data, POSTGRES_USER)
        self.port = free_port()
        self._run(
            "initdb", "--no-sync", "-U", POSTGRES_USER, "-A", "trust", "--encoding", "UTF8", "--locale", "C.UTF-8"
        )
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self) -> None:
        options = f"-p {self.port} -k {self.data} -c listen_addresses=127.0.0.1"
        self._run("pg_ctl", "-l", str(self.data / "log"), "-w", "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-m", "immediate", "-w", "stop")

    def restart(self, mode: str) -> None:
        """`fast` ends all sessions; `immediate` pulls the plug, and the log has to be replayed."""
        self._run("pg_ctl", "-m", mode, "-w", "-l", str(self.data / "log"), "restart")

    def database(self, options: dict[str, Any]) -> dict[str, Any]:
        """How Django connects to it."""
        address = {"HOST": "127.0.0.1", "PORT": self.port, "USER": POSTGRES_USER, "PASSWORD": ""}
        return {"ENGINE": "src.core.postgres", "NAME": "postgres", **address, "OPTIONS": options}

    def _run(self, program: str, *arguments: str) -> None:
        as_postgres = ["runuser", "-u", POSTGRES_USER, "--"] if os.getuid() == 0 else []
        command = [*as_postgres, postgres_program(program), "-D", str(self.data), *arguments]
        done = subprocess.run(command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=WAIT)
        assert done.returncode == 0, done.stderr


class Redis:
    """A Redis of its own, that keeps nothing. `options` are more of its own."""

    def __init__(self, *options: str) -> None:
        self._options = options

    def __enter__(self) -> Self:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        program = shutil.which("redis-server")
        assert program, "redis-server is not installed"
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen([program, *options, *self._options], stdout=subprocess.DEVNULL)
        until(self.answers)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(WAIT)

    def answers(self) -> bool:
        try:
            with redis.Redis(port=self.port) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False
