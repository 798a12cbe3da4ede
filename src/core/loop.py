"""The process's one I/O loop, for synchronous callers of asynchronous code.

One long-lived loop is what lets a synchronous caller reuse pooled connections: a loop a call, as `async_to_sync` makes
them, opens a connection a call and leaves it behind on a closed loop.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

from asgiref.sync import AsyncToSync, sync_to_async

T = TypeVar("T")


class Errands:
    """What a coroutine has the waiting thread do for it, such as to write on that thread's database connection."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self.is_served = False  # whether a thread does them

    async def ask(self, work: Callable[[], T]) -> T:
        """The result of `work`, called in the thread that waits in `LoopThread.run`, or in that of `sync_to_async`."""
        if not self.is_served:
            return await sync_to_async(work)()
        result: Future[T] = Future()
        self._waiting.put((work, result))
        return await asyncio.wrap_future(result)

    def leave(self, work: Callable[[], Any]) -> None:
        """Have `work` done without waiting for it."""
        self._waiting.put((work, Future()))

    def run_until(self, done: Future[Any]) -> None:
        """Do what is asked for until `done` is."""
        self.end_with(done)
        while self.run_next():
            pass

    def end_with(self, done: Future[Any]) -> None:
        """Have `run_next` say no once `done` is."""
        self.is_served = True
        done.add_done_callback(lambda _: self._waiting.put(None))

    def run_next(self) -> bool:
        """Wait for the next thing to do and do it; whether there was one."""
        if (errand := self._waiting.get()) is None:
            self._waiting.put(None)  # for whoever asks again
            return False
        work, result = errand
        if result.set_running_or_notify_cancel():
            try:
                result.set_result(work())
            except BaseException as error:
                result.set_exception(error)
        return True


class LoopThread:
    """An event loop on a daemon thread of its own, started by the first call and again after a fork."""

    def __init__(self) -> None:
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, coroutine: Coroutine[Any, Any, T], errands: Errands | None = None) -> T:
        """The result of `coroutine`, run on the loop thread while the caller's thread waits, or runs its `errands`.

        The caller's context variables (language, request id) are the coroutine's. Interrupting the caller cancels it.

        Raises:
            RuntimeError: the caller's thread is running a loop, which would stand still meanwhile.
        """
        if loop_is_running_here():
            coroutine.close()
            raise RuntimeError("LoopThread.run() blocks: from async code await the coroutine itself.")
        if errands is not None:
            errands.is_served = True
        future = self.start(coroutine)
        try:
            if errands is not None:
                errands.run_until(future)
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """The future of `coroutine`, which runs on the loop thread from now on, in a copy of the caller's context."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._running_loop())

    def call(self, function: Callable[[], object]) -> None:
        """Have `function` called on the loop thread."""
        self._running_loop().call_soon_threadsafe(function)

    def runs_here(self) -> bool:
        """Whether the running code is a coroutine on this loop."""
        return self._loop is not None and asyncio._get_running_loop() is self._loop

    def cancel_all(self) -> None:
        """End whatever runs; `run` raises `concurrent.futures.CancelledError` where it was waited for."""
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(_cancel_tasks)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="ai-io-loop", daemon=True).start()
            return self._loop


def _cancel_tasks() -> None:
    for task in asyncio.all_tasks():
        task.cancel()


def loop_is_running_here() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def alone_on_loop() -> bool:
    """Whether the running code is a coroutine that no thread waits for: none has a database connection for it."""
    loop = asyncio._get_running_loop()
    return loop is not None and not io_loop.runs_here() and not sync_caller_waits()


def sync_caller_waits() -> bool:
    """Whether synchronous code waits for the running coroutine (`async_to_sync`): it may be in a transaction."""
    executors = AsyncToSync.loop_thread_executors
    return bool(getattr(AsyncToSync.executors, "current", None)) or asyncio._get_running_loop() in executors


io_loop = LoopThread()
