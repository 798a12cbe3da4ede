"""One thread that runs blocking calls in turn: engines that are not thread-safe, callers that must not block."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

EXIT_PATIENCE: Final = 10.0  # seconds that the exit of the process waits for a call that was told to stop


@dataclass(eq=False, slots=True)
class Job(Generic[T]):
    """One call. `work` is handed `stop`: once that is set nobody waits for the result, and it should end soon."""

    work: Callable[[threading.Event], T]
    stop: threading.Event = field(default_factory=threading.Event)
    future: Future[T] = field(default_factory=Future)

    def run(self) -> None:
        """Do the work, unless it was cancelled while it waited."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.work(self.stop)
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class SerialWorker:
    """Runs calls one after another, in the order they came, in a thread of its own that starts with the first.

    Make one per engine, at import time, and keep it. A forked child starts with an empty queue and, on its first call,
    a thread of its own. At exit the call that runs is told to stop.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._reset()
        os.register_at_fork(after_in_child=self._reset)
        atexit.register(self._close)

    async def run(self, work: Callable[[threading.Event], T]) -> T:
        """The result of `work`, awaited. Cancelling takes it out of the queue or, where it runs, tells it to stop."""
        job = Job(work)
        self._submit(job)
        try:
            return await asyncio.wrap_future(job.future)
        finally:
            job.stop.set()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._current: Job[Any] | None = None
        self._thread: threading.Thread | None = None

    def _submit(self, job: Job[Any]) -> None:
        with self._lock:
            if self._thread is None:
                # A daemon: interpreters wait for all others at exit, before they tell anyone to stop.
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
        self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._current = job
            job.run()
            self._current = job = None  # an idle worker keeps no result alive

    def _close(self) -> None:
        thread, current = self._thread, self._current
        if thread is None:
            return
        if current is not None:
            current.stop.set()
        self._jobs.put(None)
        thread.join(EXIT_PATIENCE)
