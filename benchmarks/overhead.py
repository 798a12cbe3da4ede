"""What this project adds to a chat: `python benchmarks/overhead.py [--calls N] [--rounds R]`.

One vendor on loopback that answers at once, and in turn, round by round: the bare `openai` SDK,
`UnifiedAIService.achat`, `UnifiedAIService.chat`, and `POST chat/send` at a uvicorn process. One call at a time. CPU is
that of the process that does the work (user and system, from the kernel): the vendor's and the HTTP client's are not in
it. Medians over the rounds; the ratio is to the bare SDK of the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
TICK = os.sysconf("SC_CLK_TCK")


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with the block."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, **pipes)  # type: ignore[call-overload]  # noqa: S603
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / TICK


def measure(call: Callable[[], Any], calls: int, pid: int) -> tuple[float, float]:
    """CPU and wall time of one call, in microseconds."""
    cpu, start = cpu_of(pid), time.perf_counter()
    for _ in range(calls):
        call()
    return (cpu_of(pid) - cpu) / calls * 1e6, (time.perf_counter() - start) / calls * 1e6


def main() -> None:
    """Set up, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running("benchmarks/upstream.py") as vendor:
        assert vendor.stdout is not None  # noqa: S101 - narrows the type
        base_url = f"http://127.0.0.1:{int(vendor.stdout.readline())}/v1"
        os.environ |= {"DJANGO_SETTINGS_MODULE": "config.settings.local", "LOCAL_DIR": folder, "AI_LOCAL": "0"}
        os.environ |= {"LOG_LEVEL": "ERROR"}
        token = prepare(base_url)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        serve = ("-m", "uvicorn", "config.asgi:application", "--port", str(port), "--log-level", "error")
        serve += ("--timeout-keep-alive", "600")  # while the others are measured
        with running(*serve) as server:
            report(targets(base_url, port, token, server.pid), options)


def prepare(base_url: str) -> str:
    """A database with one provider, one model and one admin; returns the admin's token."""
    import django

    django.setup()
    from django.contrib.auth.models import User
    from django.core.management import call_command

    from src.ai.models import AIModel, AIProvider, APIToken

    call_command("migrate", verbosity=0)
    provider = AIProvider.objects.create(
        slug="openai", name="OpenAI", api_base_url=base_url, shared_api_key="sk-benchmark-0123456789"
    )
    AIModel.objects.create(
        provider=provider, name="mini", model_id="gpt-4o-mini", capabilities=["chat"], is_active=True
    )
    admin = User.objects.create_superuser("bench")
    _stored, token = APIToken.objects.create(user=admin, name="bench")
    return str(token)


def targets(base_url: str, port: int, token: str, server: int) -> dict[str, tuple[Callable[[], Any], int]]:
    """What is measured, and whose CPU counts."""
    from django.contrib.auth.models import User
    from openai import AsyncOpenAI

    from src.ai.services.unified_service import UnifiedAIService

    admin = User.objects.get()
    loop = asyncio.new_event_loop()
    sdk = AsyncOpenAI(api_key="sk-benchmark", base_url=base_url, max_retries=0)
    body, headers = '{"message": "Hi"}', {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection = HTTPConnection("127.0.0.1", port)

    def bare() -> Any:
        messages = [{"role": "user", "content": "Hi"}]
        return loop.run_until_complete(sdk.chat.completions.create(model="gpt-4o-mini", messages=messages))  # type: ignore[call-overload]

    def post() -> None:
        connection.request("POST", "/api/admin/ai/chat/send", body, headers)
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(response.read())
        response.read()

    wait_for(port)
    return {
        "bare openai SDK": (bare, os.getpid()),
        "UnifiedAIService.achat": (
            lambda: loop.run_until_complete(UnifiedAIService.achat(message="Hi", admin=admin)),
            os.getpid(),
        ),
        "UnifiedAIService.chat": (lambda: UnifiedAIService.chat(message="Hi", admin=admin), os.getpid()),
        "POST chat/send": (post, server),
    }


def wait_for(port: int) -> None:
    """Until the server listens."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError("the server did not start")


def count_queries() -> int:
    """SQL queries of one warm POST, the token's look-up included."""
    from django.contrib.auth.models import User
    from django.db import connection
    from django.test.utils import CaptureQueriesContext
    from rest_framework.test import APIClient

    from src.ai.models import APIToken

    _stored, token = APIToken.objects.create(user=User.objects.get(), name="queries")
    client = APIClient(headers={"authorization": f"Bearer {token}", "host": "127.0.0.1"})
    for _ in range(2):
        with CaptureQueriesContext(connection) as queries:
            client.post("/api/admin/ai/chat/send", {"message": "Hi"}, format="json")
    return len(queries)


def report(found: dict[str, tuple[Callable[[], Any], int]], options: argparse.Namespace) -> None:
    """Measure each target in turn and print the table."""
    for call, pid in found.values():
        measure(call, 50, pid)
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    for _ in range(options.rounds):
        for name, (call, pid) in found.items():
            rounds[name].append(measure(call, options.calls, pid))
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in rounds.items()}
    base_cpu, base_wall = medians["bare openai SDK"]
    print(f"{options.rounds} rounds of {options.calls} calls, one at a time; medians\n")
    print(f"{'':24} {'CPU µs':>8} {'ratio':>6} {'wall µs':>8} {'added µs':>9}")
    for name, (cpu, wall) in medians.items():
        print(f"{name:24} {cpu:8.0f} {cpu / base_cpu:6.2f} {wall:8.0f} {wall - base_wall:9.0f}")
    print(f"\nSQL queries of a warm POST chat/send: {count_queries()}")


if __name__ == "__main__":
    main()
