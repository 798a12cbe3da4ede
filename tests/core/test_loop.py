"""Synchronous callers share one loop, from any thread and after a fork."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import pytest

from src.core.loop import io_loop


async def where() -> tuple[int, int]:
    return id(asyncio.get_running_loop()), threading.get_ident()


def test_every_thread_is_served_by_one_loop_on_a_thread_of_its_own() -> None:
    with ThreadPoolExecutor(8) as pool:
        served = set(pool.map(lambda _: io_loop.run(where()), range(32)))
    assert len(served) == 1
    assert served.pop()[1] != threading.get_ident()


def test_what_the_coroutine_raises_is_raised_here() -> None:
    async def fail() -> None:
        raise LookupError("not there")

    with pytest.raises(LookupError, match="not there"):
        io_loop.run(fail())


def test_context_variables_of_the_caller_are_seen() -> None:
    language: ContextVar[str] = ContextVar("language")
    language.set("fa")

    async def read() -> str:
        return language.get()

    assert io_loop.run(read()) == "fa"


async def test_running_it_where_a_loop_runs_is_refused_and_does_not_hang() -> None:
    with pytest.raises(RuntimeError, match="await"):
        io_loop.run(where())


def test_running_it_from_its_own_thread_is_refused_and_does_not_hang() -> None:
    async def again() -> None:
        io_loop.run(where())

    with pytest.raises(RuntimeError, match="await"):
        io_loop.run(again())


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_gets_a_loop_of_its_own() -> None:
    io_loop.run(where())
    child = os.fork()
    if child == 0:
        served = io_loop.run(where())[1] != threading.get_ident()
        os._exit(0 if served else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
