"""Processes of a benchmark: started on a core of their own, and what they use by the kernel's accounting."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"


def cores() -> tuple[int, int]:
    """The core for the server and the one for all the rest; the same one on a machine that has no other."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[-1], usable[0]


def allow_many_files() -> None:
    """Raise the limit on open files to the highest that is allowed, for this process and those that it starts."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    command: Sequence[str],
    core: int,
    log: Path,
    env: Mapping[str, str | None] | None = None,
    cwd: Path = ROOT,
    piped: bool = False,
) -> Iterator[subprocess.Popen[str]]:
    """A process on one core, which ends with the block. What it says goes to `log`; if `piped`, its errors alone.

    `env` is set beside this process's own environment; None takes a variable away.
    """
    own = os.sched_getaffinity(0)
    variables = {name: value for name, value in {**os.environ, **(env or {})}.items() if value is not None}
    with log.open("a") as errors:
        os.sched_setaffinity(0, {core})  # a child inherits it
        try:
            process = subprocess.Popen(
                list(command),
                cwd=cwd,
                env=variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if piped else errors,
                stderr=errors,
                text=True,
            )
        finally:
            os.sched_setaffinity(0, own)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@contextmanager
def upstream(core: int, log: Path, *options: str) -> Iterator[int]:
    """The vendor of `upstream.py`; gives its port."""
    with running([sys.executable, str(ROOT / "benchmarks/upstream.py"), *options], core, log, piped=True) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[str], log: Path, seconds: float = 120) -> None:
    """Until `ready`.

    Raises:
        RuntimeError: the process has ended, or the time is over; with the end of its log.
    """
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        if ready():
            return
        time.sleep(0.1)
    ended = "did not answer in time" if process.poll() is None else f"ended with status {process.returncode}"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    raise RuntimeError(f"{ended}: {lines[-1][:300] if lines else 'no word of why'}")


def answers(port: int, path: str) -> Callable[[], bool]:
    """Whether GET `path` is answered with 200."""

    def ask() -> bool:
        connection = HTTPConnection(HOST, port, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    return ask


def family(pid: int) -> list[int]:
    """The process and those that it has started."""
    found = [pid]
    for parent in found:
        with suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def cpu_of(pid: int) -> float:
    """Seconds of CPU, user and system, of all threads (those that have ended too) of the process and its children."""
    total = 0.0
    for member in family(pid):
        with suppress(OSError):
            total += time.clock_gettime((~member << 3) | 2)  # the kernel's clock of another process's CPU
    return total


def settled_cpu_of(pid: int) -> float:
    """`cpu_of` as soon as the process rests: what it still had to do for its last requests is theirs."""
    before = cpu_of(pid)
    for _ in range(40):
        time.sleep(0.1)
        after = cpu_of(pid)
        if after - before < 0.002:
            break
        before = after
    return after


def memory_of(pid: int) -> dict[str, int]:
    """Bytes: "Pss" (what the process shares counted in part) and "Rss", of the process and its children."""
    total = {"Pss": 0, "Rss": 0}
    for member in family(pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name in total:
                    total[name] += int(rest.split()[0]) * 1024
    return total
