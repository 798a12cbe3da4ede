"""What runs in a process of its own beside the server: the bare SDK and this project's service. `gateway.py` starts it.

Reads a line of JSON, `{"target": …, "calls": N, "in_flight": N}`, makes the calls and answers with a line: CPU of this
process in µs a call, and the median of what a call takes in ms.
"""

from __future__ import annotations

import asyncio
import json
import resource
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import django
import uvloop
from machine import ROOT

sys.path.insert(0, str(ROOT))


def cpu_used() -> float:
    """Seconds of CPU of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def serve(base_url: str) -> None:
    """Measure what each line asks for."""
    from asgiref.sync import sync_to_async
    from django.contrib.auth.models import User
    from openai import AsyncOpenAI

    from src.ai.services.unified_service import UnifiedAIService

    admin = await User.objects.aget()
    sdk = AsyncOpenAI(api_key="sk-benchmark", base_url=base_url, max_retries=0)

    async def bare() -> Any:
        return await sdk.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "Hi"}])

    async def achat() -> Any:
        return await UnifiedAIService.achat(message="Hi", admin=admin)

    async def chat() -> Any:
        return await sync_to_async(UnifiedAIService.chat)(message="Hi", admin=admin)

    targets: dict[str, Callable[[], Awaitable[Any]]] = {"bare": bare, "achat": achat, "chat": chat}
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        asked = json.loads(line)
        if asked["target"] == "queries":
            found: Any = await asyncio.to_thread(count_queries)
        else:
            found = await measure(targets[asked["target"]], asked["calls"], asked["in_flight"])
        print(json.dumps(found), flush=True)


async def measure(call: Callable[[], Awaitable[Any]], calls: int, in_flight: int) -> dict[str, float]:
    """Make `calls`, so many at once."""
    latencies: list[float] = []

    async def worker() -> None:
        for _ in range(calls // in_flight):
            start = time.perf_counter()
            await call()
            latencies.append(time.perf_counter() - start)

    cpu = cpu_used()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    return {"cpu": (cpu_used() - cpu) / len(latencies) * 1e6, "p50": statistics.median(latencies) * 1e3}


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


if __name__ == "__main__":
    django.setup()
    uvloop.run(serve(sys.argv[1]))
