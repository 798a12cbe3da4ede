"""What the books cost a call: `python benchmarks/ledger.py [--calls N] [--rounds R]`.

In turn, round by round, in one process: calls that keep no books, calls that each insert one row through the ORM when
they have ended (nothing reserved, no counters, no limits), and calls that are reserved and settled by the ledger under
a limit and a budget, once waiting for both to be durable and once, as the gateway does, for the reservation alone. A
call itself is nothing but a turn of the event loop, so that what is measured is the books.

CPU is this process's, user and system, from the kernel; PostgreSQL's own is not in it. DATABASE_URL names the server,
on which a database is made and dropped again (without it: SQLite in a temporary file). Medians over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
IN_FLIGHT = (1, 16, 64)

Call = Callable[[], Awaitable[Any]]
Figures = tuple[float, float, float]  # CPU in µs, median latency in ms, calls a second


def main() -> None:
    """Set up, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000, help="in each round at 64 in flight; fewer at fewer")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"DJANGO_SETTINGS_MODULE": "config.settings.local", "LOCAL_DIR": folder, "AI_LOCAL": "0"}
        os.environ |= {"LOG_LEVEL": "ERROR", "ENV_FILE": os.devnull}
        import django

        django.setup()
        from django.db import connection

        from src.ai.services.caller import Caller, calling

        old_name = connection.settings_dict["NAME"]
        connection.creation.create_test_db(verbosity=0, autoclobber=True)
        try:
            with calling(Caller(request_id="benchmark")):
                report(targets(), options)
            check()
        finally:
            from django.db import connections

            connections.close_all()
            if connection.vendor == "postgresql":
                end_other_sessions()
            connection.creation.destroy_test_db(old_name, verbosity=0)


def targets() -> dict[str, Call]:
    """What is measured."""
    from asgiref.sync import sync_to_async
    from django.contrib.auth.models import User
    from django.db import connections
    from django.utils import timezone

    from src.ai.models import AdminProviderSettings, AIModel, AIProvider, UsageRecord
    from src.ai.results import ResultInfo, Usage
    from src.ai.services.access import KeySource
    from src.ai.services.ledger.estimates import cost_at_most
    from src.ai.services.ledger.meter import Meter
    from src.ai.services.ledger.writer import Desk
    from src.ai.services.usage import call_facts

    admin = User.objects.create_superuser("bench")
    provider = AIProvider.objects.create(slug="openai", name="OpenAI", shared_monthly_budget=10_000)
    model = AIModel.objects.create(
        provider=provider, name="mini", model_id="mini", capabilities=["chat"], pricing_input=1, pricing_output=2
    )
    own = AdminProviderSettings.objects.create(
        admin=admin, provider=provider, monthly_limit=100_000_000, monthly_budget=10_000
    )
    provider.refresh_from_db(), own.refresh_from_db()
    info = ResultInfo(usage=Usage(input_tokens=10, output_tokens=10), finish_reason="stop", response_id="chatcmpl-1")

    def facts() -> Any:
        return call_facts(
            model=model,
            admin=admin,
            own=own,
            source=KeySource.SHARED,
            capability="chat",
            operation="chat",
            streamed=False,
            seconds=120,
            held_cost=cost_at_most(model, 100, 100),
        )

    async def none() -> None:
        await asyncio.sleep(0)

    async def insert() -> None:
        await asyncio.sleep(0)
        now = timezone.now()
        row = UsageRecord(
            created_at=now,
            month=now.date().replace(day=1),
            state="settled",
            admin_id=admin.pk,
            admin_name="bench",
            key_source="shared",
            provider_id=provider.pk,
            provider_slug="openai",
            model_id=model.pk,
            model_name="mini",
            capability="chat",
            operation="chat",
            request_id="baseline",
            input_tokens=10,
            output_tokens=10,
            requests=0,
            cost=0,
            cost_state="exact",
            lease_expires_at=now,
            settled_at=now,
        )
        await sync_to_async(save)(row)

    def save(row: UsageRecord) -> None:
        row.save(force_insert=True)
        connections["default"].close_if_unusable_or_obsolete()

    async def ledger() -> None:
        meter = Meter(facts(), Desk(), "OpenAI")
        await meter.aopen()
        await asyncio.sleep(0)
        await meter.awrite(meter.success(info))

    async def settled_soon() -> None:
        meter = Meter(facts(), Desk(), "OpenAI")
        await meter.aopen()
        await asyncio.sleep(0)
        meter.write_soon(meter.success(info))

    return {
        "no books": none,
        "ORM INSERT per call": insert,
        "ledger": ledger,
        "ledger, settled soon": settled_soon,
    }


def measure(call: Call, calls: int, in_flight: int) -> Figures:
    """Make `calls`, so many at once, until all of them are on the books."""
    from src.ai.services.ledger.writer import writer

    latencies: list[float] = []

    async def worker(count: int) -> None:
        for _ in range(count):
            start = time.perf_counter()
            await call()
            latencies.append(time.perf_counter() - start)

    async def run() -> tuple[float, float]:
        cpu, start = cpu_used(), time.perf_counter()
        await asyncio.gather(*(worker(calls // in_flight) for _ in range(in_flight)))
        await asyncio.to_thread(writer.drain, 60)
        return cpu_used() - cpu, time.perf_counter() - start

    cpu, wall = asyncio.run(run())
    done = len(latencies)
    return cpu / done * 1e6, statistics.median(latencies) * 1e3, done / wall


def cpu_used() -> float:
    """Seconds of CPU of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def report(measured: dict[str, Call], options: argparse.Namespace) -> None:
    """Measure in turn and print medians, and what each adds to no books."""
    found: dict[tuple[str, int], list[Figures]] = {}
    for number in range(options.rounds + 1):
        for in_flight in IN_FLIGHT:
            for name, call in measured.items():
                figures = measure(call, max(options.calls * in_flight // max(IN_FLIGHT), 64), in_flight)
                if number:  # the first round warms up
                    found.setdefault((name, in_flight), []).append(figures)
    print(f"{'':24}{'in flight':>10}{'CPU added µs':>14}{'median added ms':>17}{'calls/s':>10}{'noise':>8}")
    for in_flight in IN_FLIGHT:
        base = [statistics.median(column) for column in zip(*found["no books", in_flight], strict=True)]
        for name in measured:
            rounds = found[name, in_flight]
            cpu, latency, rate = (statistics.median(column) for column in zip(*rounds, strict=True))
            noise = (max(r[0] for r in rounds) - min(r[0] for r in rounds)) / cpu
            print(
                f"{name:24}{in_flight:>10}{cpu - base[0]:>14,.0f}{latency - base[1]:>17.2f}{rate:>10,.0f}{noise:>8.0%}"
            )


def check() -> None:
    """The books are true, or the figures are worth nothing."""
    from src.ai.models import UsageRecord
    from src.ai.services.ledger.upkeep import reconcile

    UsageRecord.objects.filter(request_id="baseline").delete()
    if differences := list(reconcile()):
        raise SystemExit(f"The books are wrong: {differences[:3]}")


def end_other_sessions() -> None:
    """The ledger's own connection and those of worker threads would keep the database from being dropped."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    connection.close()


if __name__ == "__main__":
    main()
