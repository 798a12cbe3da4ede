"""What runs in processes of its own. A warm server process forks them, so that starting one takes milliseconds."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any, Final

import uvicorn
from django.conf import settings
from django.contrib.auth.models import User
from django.core.cache import caches
from django.core.management import call_command
from django.db import connections

from src.ai.exceptions import AIError
from src.ai.models import AIModel, AIProvider, UsageRecord
from src.ai.services.ledger.meter import Meter
from src.ai.services.ledger.writer import writer
from src.ai.services.unified_service import UnifiedAIService
from src.ai.signals import ai_call_settled

DATABASE_NAMES: Final = ("ENGINE", "NAME", "HOST", "PORT", "USER", "PASSWORD", "OPTIONS")

Settings = Mapping[str, Any]


def prepare(database: Settings, changes: Settings) -> None:
    """Work on this database, with these settings."""
    connections.settings["default"].update(database)
    caches.settings.update(changes.get("CACHES", {}))
    for name, value in changes.items():
        setattr(settings, name, value)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# -- a server ----------------------------------------------------------------------------------------------------------


def serve(listener: socket.socket, database: Settings, changes: Settings, step: str = "") -> None:
    """The site on this socket. With `step`, it dies when a call comes to that step."""
    prepare(database, changes)
    if step:
        STEPS[step]()
    from config.asgi import application

    uvicorn.Server(uvicorn.Config(application, log_level="error", lifespan="off")).run(sockets=[listener])


def _before_the_reservation() -> None:
    def open_(meter: Meter) -> None:
        die()

    Meter.open = open_  # type: ignore[method-assign]


def _before_the_vendor_is_asked() -> None:
    begin = Meter.begin

    async def begun(meter: Meter) -> Any:
        await begin(meter)
        die()

    Meter.begin = begun  # type: ignore[method-assign]


def _before_the_settlement() -> None:
    def success(meter: Meter, info: Any) -> Any:
        die()

    Meter.success = success  # type: ignore[method-assign]


def _when_it_is_settled() -> None:
    ai_call_settled.connect(lambda **_: die(), weak=False)


STEPS: Final[Mapping[str, Callable[[], None]]] = {
    "before the reservation is submitted": _before_the_reservation,
    "reserved, before the vendor is asked": _before_the_vendor_is_asked,
    "answered, before the settlement is submitted": _before_the_settlement,
    "settled, before the answer is sent": _when_it_is_settled,
}

# -- callers -----------------------------------------------------------------------------------------------------------


def outcome_of(call: Callable[[], Any]) -> dict[str, Any]:
    """How a call ended: its text, or its error's code and facts; and when."""
    began = perf_counter()
    try:
        ended: dict[str, Any] = {"text": str(call())}
    except AIError as error:
        ended = {"code": error.code, "retry_after": error.retry_after}
    except Exception as error:
        ended = {"code": type(error).__name__, "detail": str(error)}
    return {**ended, "seconds": perf_counter() - began}


def call(orders: Connection, database: Settings, changes: Settings, callers: int, asynchronous: bool) -> None:
    """`callers` callers who wait for orders: for each (admin's pk, options of the chat) all call at once."""
    prepare(database, changes)
    while (order := orders.recv()) is not None:
        admin_pk, options = order
        admin = User.objects.get(pk=admin_pk)
        all_call = _all_async if asynchronous else _all
        orders.send(all_call(admin, options, callers))
    orders.send(writer.drain(10))


def _all(admin: User, options: Mapping[str, Any], callers: int) -> list[dict[str, Any]]:
    start = threading.Barrier(callers)
    ended: list[dict[str, Any]] = []

    def call() -> None:
        try:
            start.wait(10)
            ended.append(outcome_of(lambda: UnifiedAIService.chat(admin=admin, **options)))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ended


def _all_async(admin: User, options: Mapping[str, Any], callers: int) -> list[dict[str, Any]]:
    async def call() -> dict[str, Any]:
        try:
            return {"text": str(await UnifiedAIService.achat(admin=admin, **options))}
        except AIError as error:
            return {"code": error.code, "retry_after": error.retry_after}

    async def all_calls() -> list[dict[str, Any]]:
        return list(await asyncio.gather(*(call() for _ in range(callers))))

    return asyncio.run(all_calls())


def load(orders: Connection, database: Settings, changes: Settings, admin_pk: int, callers: int) -> None:
    """`callers` threads that chat again and again, until they are told to stop; then how each call ended."""
    prepare(database, changes)
    admin, over = User.objects.get(pk=admin_pk), threading.Event()
    ended: list[dict[str, Any]] = []

    def call_on() -> None:
        while not over.is_set():
            ended.append(outcome_of(lambda: UnifiedAIService.chat("Hi", admin)))
        connections.close_all()

    threads = [threading.Thread(target=call_on) for _ in range(callers)]
    for thread in threads:
        thread.start()
    orders.recv()
    over.set()
    for thread in threads:
        thread.join()
    written = writer.drain(10)
    orders.send((ended, written))


# -- another database than the suite's ---------------------------------------------------------------------------------


def furnish(answers: Connection, database: Settings, changes: Settings, url: str, key: str) -> None:
    """The tables, a provider at `url` with a model, and an admin, whose primary key is the answer."""
    prepare(database, changes)
    call_command("migrate", verbosity=0)
    admin = User.objects.create_superuser("admin")
    provider = AIProvider.objects.create(slug="openai", name="OpenAI", api_base_url=url, shared_api_key=key)
    AIModel.objects.create(provider=provider, name="writer", model_id="writer", capabilities=["chat"], is_active=True)
    answers.send(admin.pk)


def states(answers: Connection, database: Settings, changes: Settings) -> None:
    """How many records are in each state."""
    prepare(database, changes)
    answers.send(Counter(UsageRecord.objects.values_list("state", flat=True)))


def manage(database: Settings, changes: Settings, command: str, *arguments: str) -> None:
    """Run a management command; the process's exit code is its own."""
    prepare(database, changes)
    call_command(command, *arguments, stdout=open(os.devnull, "w"))  # noqa: SIM115 (the process ends)
