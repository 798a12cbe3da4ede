"""Whether the process is up (`/healthz`), and whether it can serve (`/readyz`). Nobody pays for being asked."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import closing
from time import monotonic
from typing import Final
from uuid import uuid4

from django.core.cache import cache
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

logger = logging.getLogger(__name__)

TIMEOUT: Final = 2  # seconds for all checks together
OK, UNAVAILABLE, UNKNOWN, UNAPPLIED, DEGRADED = "ok", "unavailable", "unknown", "unapplied", "degraded"

Words = Mapping[str, str]


class Probe:
    """A check in a thread of its own, once at a time: while one hangs, no other is begun."""

    def __init__(self, check: Callable[[], Words], otherwise: Words) -> None:
        self.otherwise = otherwise
        self._check = check
        self._lock = threading.Lock()
        self._running: Future[Words] | None = None

    def start(self) -> Future[Words]:
        """What the check will say."""
        with self._lock:
            if self._running is None or self._running.done():
                self._running = Future()
                threading.Thread(target=self._run, args=(self._running,), name="health", daemon=True).start()
            return self._running

    def _run(self, answer: Future[Words]) -> None:
        try:
            answer.set_result(self._check())
        except Exception as error:  # whatever it is, it is the answer
            reason = type(error).__name__
            logger.warning("A health check failed", extra={"checks": [*self.otherwise], "reason": reason})
            answer.set_result(self.otherwise)


class _Migrated:
    """Whether no migration is missing: looked up until that is so, and never again."""

    seen = False

    def __call__(self, connection: BaseDatabaseWrapper) -> bool:
        if not self.seen:
            executor = MigrationExecutor(connection)
            self.seen = not executor.migration_plan(executor.loader.graph.leaf_nodes())
        return self.seen


is_migrated = _Migrated()


def check_database() -> Words:
    """Outside the pool: a site whose connections are all in use can serve."""
    connection = connections.create_connection(DEFAULT_DB_ALIAS)
    options = {name: value for name, value in connection.settings_dict["OPTIONS"].items() if name != "pool"}
    if connection.vendor == "postgresql":
        options["connect_timeout"] = TIMEOUT
    connection.settings_dict = {**connection.settings_dict, "OPTIONS": options}
    with closing(connection):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return {"database": OK, "migrations": OK if is_migrated(connection) else UNAPPLIED}


def check_cache() -> Words:
    """The site does without: what is cached can be read from the database."""
    key = f"readyz_{uuid4().hex}"
    cache.set(key, key, 10)
    kept = cache.get(key) == key
    cache.delete(key)
    return {"cache": OK if kept else DEGRADED}


PROBES: Final = (
    Probe(check_database, {"database": UNAVAILABLE, "migrations": UNKNOWN}),
    Probe(check_cache, {"cache": DEGRADED}),
)


@require_safe
@never_cache
def healthz(request: HttpRequest) -> JsonResponse:
    """The process answers. Nothing else is touched."""
    return JsonResponse({"status": OK})


@require_safe
@never_cache
def readyz(request: HttpRequest) -> JsonResponse:
    """200 where requests can be served, maybe without the cache; else 503."""
    end = monotonic() + TIMEOUT
    checks: dict[str, str] = {}
    for probe, answer in [(probe, probe.start()) for probe in PROBES]:
        try:
            checks |= answer.result(max(end - monotonic(), 0))
        except TimeoutError:
            checks |= probe.otherwise
    ready = checks["database"] == checks["migrations"] == OK
    status = UNAVAILABLE if not ready else DEGRADED if DEGRADED in checks.values() else OK
    return JsonResponse({"status": status, "checks": checks}, status=200 if ready else 503)
