"""This project as a benchmark serves it: a database made for the purpose, the rows it needs, one uvicorn process."""

from __future__ import annotations

import json
import os
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from machine import HOST, ROOT, answers, free_port, running, wait_until

sys.path.insert(0, str(ROOT))
INSIDE = "/-/inside"  # the path of `probe.py`
HTTP = "config.asgi:Protocol"  # as README has it
SERVED = "dynamic-ai-served"  # as PostgreSQL knows the sessions of the site
VENDOR_KEY = "sk-benchmark-0123456789"


@contextmanager
def configured(folder: Path) -> Iterator[None]:
    """Django set up in this process, on an empty database that goes with the block.

    DATABASE_URL names a PostgreSQL server, on which the database is made; without it, it is SQLite in `folder`. What
    this process starts uses the same, by its environment.
    """
    settings = {
        "DJANGO_SETTINGS_MODULE": "config.settings.local",
        "ENV_FILE": os.devnull,
        "LOCAL_DIR": str(folder),
        "AI_LOCAL": "0",
        "AI_HTTP_HOSTS": HOST,
        "CACHE_KEY_PREFIX": f"bench-{secrets.token_hex(4)}",
    }
    os.environ |= settings
    with database(os.environ.get("DATABASE_URL", "")) as url:
        if url:
            os.environ["DATABASE_URL"] = url
        else:
            os.environ.pop("DATABASE_URL", None)
        import django

        django.setup()
        from django.core.management import call_command
        from django.db import connection

        call_command("migrate", verbosity=0)
        try:
            yield
        finally:
            connection.close()
            if connection.vendor == "postgresql":
                connection.close_pool()  # type: ignore[attr-defined]


@contextmanager
def database(url: str) -> Iterator[str]:
    """A new database on the PostgreSQL server that `url` names, by its URL; "" for ""."""
    if not url:
        yield ""
        return
    import psycopg
    from psycopg import sql

    parts = urlsplit(url)
    name = f"bench_{secrets.token_hex(4)}"
    maintenance = urlunsplit(parts._replace(scheme="postgresql", path="/postgres"))
    with psycopg.connect(maintenance, autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield urlunsplit(parts._replace(path=f"/{name}"))
        finally:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def services() -> str:
    """The database and the cache, with their versions."""
    from django.conf import settings
    from django.db import connection

    if connection.vendor == "sqlite":
        import sqlite3

        named = f"SQLite {sqlite3.sqlite_version} (the limits are for PostgreSQL: set DATABASE_URL)"
    else:
        connection.ensure_connection()
        number = connection.pg_version  # type: ignore[attr-defined]
        named = f"PostgreSQL {number // 10000}.{number % 10000}"
    if settings.REDIS_URL:
        import redis

        named = f"Redis {redis.Redis.from_url(settings.REDIS_URL).info('server')['redis_version']}, {named}"
    return named


def commit_time() -> float:
    """Milliseconds that a transaction of one INSERT takes, median: the disk's share of what is durable."""
    from django.db import connection

    times = []
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE bench_commit (number integer)")
        for number in range(200):
            start = time.perf_counter()
            cursor.execute("INSERT INTO bench_commit VALUES (%s)", [number])
            times.append(time.perf_counter() - start)
        cursor.execute("DROP TABLE bench_commit")
    return statistics.median(times) * 1e3


def make_rows(base_url: str) -> str:
    """A vendor with a budget, a faulty one, a model for each kind of call, and an admin with limits; their token, with
    capabilities, rates and a budget of its own.
    """
    from django.contrib.auth.models import User

    from src.ai.models import AdminProviderSettings, AIModel, AIProvider, APIToken

    admin = User.objects.create_superuser("bench")
    for order, (slug, model) in enumerate((("openai", "gpt-4o-mini"), ("deepseek", "faulty-1"))):
        provider = AIProvider.objects.create(
            slug=slug,
            name=slug.title(),
            api_base_url=base_url,
            shared_api_key=VENDOR_KEY,
            shared_monthly_budget=1_000_000,
            sort_order=order,
        )
        AIModel.objects.create(
            provider=provider,
            name=model,
            model_id=model,
            capabilities=["chat"],
            is_active=True,
            pricing_input=0.15,
            pricing_output=0.6,
        )
        AdminProviderSettings.objects.create(
            admin=admin, provider=provider, monthly_limit=1_000_000_000, monthly_budget=1_000_000
        )
    AIModel.objects.create(
        provider=AIProvider.objects.get(slug="openai"),
        name="embedding",
        model_id="text-embedding-3-small",
        capabilities=["embedding"],
        is_active=True,
        pricing_input=0.02,
        pricing_output=0,
    )
    _row, token = APIToken.objects.create(
        user=admin,
        name="bench",
        capabilities=["chat", "embedding"],
        requests_per_minute=10_000_000,
        concurrent_requests=10_000,
        monthly_budget=1_000_000,
    )
    return str(token)


@dataclass
class Server:
    """A serving process."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid


def uvicorn(application: str, port: int, http: str = "httptools") -> list[str]:
    """The command that serves `application`, by one of uvicorn's protocols or the one that `http` names."""
    words = [sys.executable, "-m", "uvicorn", application, "--host", HOST, "--port", str(port), "--no-access-log"]
    return [*words, "--loop", "uvloop", "--http", http, "--backlog", "4096", "--timeout-graceful-shutdown", "5"]


@contextmanager
def served(
    folder: Path, core: int, application: str = "config.asgi:application", env: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """The site, served by one process on one core."""
    port, log = free_port(), folder / "site.log"
    paths = os.pathsep.join((str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")))
    variables = {**(env or {}), "PYTHONPATH": paths, "PGAPPNAME": SERVED}
    with running(uvicorn(application, port, HTTP), core, log, variables) as process:
        wait_until(answers(port, "/readyz"), process, log)
        yield Server(process, port, log)


def move_services(core: int) -> bool:
    """Keep PostgreSQL's and Redis's processes off the server's core; whether that was possible (or needless)."""
    from django.conf import settings
    from django.db import connection

    found: dict[int, str] = {}
    if connection.vendor != "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pid FROM pg_stat_activity")
            found |= {pid: "postgres" for (pid,) in cursor.fetchall()}
    if settings.REDIS_URL:
        import redis

        with redis.Redis.from_url(settings.REDIS_URL) as client:
            found[client.info("server")["process_id"]] = "redis-server"
    try:
        for pid, name in found.items():
            if Path(f"/proc/{pid}/comm").read_text().strip() != name:
                return False  # it runs on another machine
            with suppress(ProcessLookupError):
                os.sched_setaffinity(pid, {core})
    except (PermissionError, FileNotFoundError):
        return False
    return True


def faulty_model() -> int:
    """The primary key of the model of the vendor that has faults."""
    from src.ai.models import AIModel

    return AIModel.objects.values_list("pk", flat=True).get(model_id="faulty-1")


def sessions() -> int | None:
    """How many sessions this database has, or None with SQLite. For any thread."""
    from django.db import connection

    if connection.vendor == "sqlite":
        return None
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
            (count,) = cursor.fetchone()
    finally:
        connection.close()
    return int(count)


def cut_services() -> None:
    """End the site's sessions with PostgreSQL and all connections to Redis, as their restart does. For any thread."""
    from django.conf import settings
    from django.db import connection

    if connection.vendor != "sqlite":
        try:
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name = %s",
                    [SERVED],
                )
        finally:
            connection.close()
    if settings.REDIS_URL:
        import redis

        with redis.Redis.from_url(settings.REDIS_URL) as client:
            client.client_kill_filter(_type="normal", skipme=True)


def check_books(upstream: int) -> None:
    """Say that every period is the sum of its records, and that what the vendor on this port was asked is on them.

    Raises:
        SystemExit: the books are wrong, so that no figure is worth anything.
    """
    from src.ai.models import UsageRecord
    from src.ai.services.ledger.upkeep import reconcile

    connection = HTTPConnection(HOST, upstream, timeout=60)
    connection.request("GET", "/counts")
    asked = json.loads(connection.getresponse().read()).get(VENDOR_KEY, 0)
    connection.close()
    known = UsageRecord.objects.count()
    if differences := list(reconcile()):
        raise SystemExit(f"The books are wrong: {differences[:3]}")
    if known < asked:
        raise SystemExit(f"The books are wrong: of {asked:,} requests to the vendor they know {known:,}.")
    print(f"\nThe books are true: {asked:,} requests reached the vendor, {known:,} are on record.")
