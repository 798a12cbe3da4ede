"""What a process keeps in its memory, and how it knows that this still holds.

Database triggers change a stamp with the data. `Freshness` knows the stamp and asks for it again before a second has
passed; `Memory` keeps values under the stamp they were read under; `src.core.cache.writes` tells of this process's own
changes, so that those are seen at once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from time import monotonic
from typing import Final, Generic, NamedTuple, TypeVar
from weakref import WeakSet

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import Atomic

from src.core.database import open_connections

V = TypeVar("V")
D = TypeVar("D")

# Seconds a stamp is believed, from before it was read. A change is promised to be seen everywhere within one second.
BELIEVED_FOR: Final = 0.8


class Memory(Generic[V]):
    """Values of one kind in this process's memory: at most `size`, each for `lifetime` seconds and under its stamp.

    The oldest makes room. Its `repr` shows none of them.
    """

    def __init__(self, *, size: int, lifetime: float) -> None:
        self._size = size
        self._lifetime = lifetime
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[Hashable, tuple[str, float, V]] = {}

    def get(self, key: Hashable, stamp: str, default: D) -> V | D:
        """The value that was put under this stamp, if it is still there. It is shared: never change it."""
        entry = self._entries.get(key)
        if entry is None or entry[0] != stamp or entry[1] <= monotonic():
            return default
        return entry[2]

    def put(self, key: Hashable, stamp: str, value: V) -> None:
        with self._lock:
            self._entries.pop(key, None)
            while len(self._entries) >= self._size:
                del self._entries[next(iter(self._entries))]
            self._entries[key] = (stamp, monotonic() + self._lifetime, value)

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()


class _Known(NamedTuple):
    stamp: str | None
    read_at: float
    test: Atomic | None  # the test case whose rollback takes the stamp away again


class Freshness:
    """The current stamp, read by one small query whenever it was last read longer than `BELIEVED_FOR` ago.

    Inside a transaction of the caller's own it is read each time and kept from everybody else: what is not committed is
    seen by its transaction alone.
    """

    def __init__(self, *, read: Callable[[], str | None], using: Callable[[], str]) -> None:
        """`read` gives the stamp by a query, None where there is none yet; `using` names the database it asks."""
        self._read = read
        self._using = using
        self._memories: list[Memory[object]] = []
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._known: _Known | None = None
        self._forgotten_at = -1.0
        self._last_seen: str | None = None
        self._written: WeakSet[BaseDatabaseWrapper] = WeakSet()

    def memory(self, *, size: int, lifetime: float) -> Memory[V]:
        """A new memory, emptied when the stamp turns out to have changed."""
        memory: Memory[V] = Memory(size=size, lifetime=lifetime)
        self._memories.append(memory)  # type: ignore[arg-type]  # only ever cleared
        return memory

    def current(self) -> str | None:
        """The stamp as of less than a second ago; None where there is none, and then nothing may be cached."""
        connection = connections[self._using()]
        if _in_transaction_of_its_own(connection):
            stamp = self._read()
            self._notice(stamp)
            return stamp
        if self._written and connection in self._written:
            with self._lock:
                self._written.discard(connection)
            self.forget()
        test = connection.atomic_blocks[-1] if connection.atomic_blocks else None
        known = self._known
        if known and known.test is test and monotonic() - known.read_at < BELIEVED_FOR:
            return known.stamp
        read_at = monotonic()
        stamp = self._read()
        self._believe(_Known(stamp, read_at, test))
        return stamp

    def believed(self, *, alone: bool = False) -> str | None:
        """The stamp, where it is known without a query: for a loop, which waits for no database. None says nothing.

        `alone` says that the caller knows to be in no transaction.
        """
        if self._written:
            self._look_after_writers()
        known = self._known
        if known is None or known.test is not None or self._written or monotonic() - known.read_at >= BELIEVED_FOR:
            return None
        if not alone and any(map(_in_transaction_of_its_own, open_connections())):
            return None
        return known.stamp

    def observe(self, stamp: str | None, read_at: float) -> None:
        """Take over a committed stamp that was read in passing.

        Args:
            stamp: what was read, outside of any transaction that had changed it.
            read_at: `time.monotonic()` from before the query.
        """
        self._believe(_Known(stamp, read_at, None))

    def forget(self) -> None:
        """Have the stamp read again by whoever needs it next; a reading that is under way now does not count."""
        with self._lock:
            self._forgotten_at = monotonic()
            self._known = None

    def wrote(self, connection: BaseDatabaseWrapper) -> None:
        """Take note that a statement on `connection` may have changed the stamp."""
        self.forget()
        if connection.autocommit:
            return
        # For the writer itself, which may read again before `forget` is called: after other callbacks, or after none.
        with self._lock:
            self._written.add(connection)
        if connection.atomic_blocks and not _is_test_case(connection.atomic_blocks[0]):
            transaction.on_commit(self.forget, using=connection.alias, robust=True)

    def _look_after_writers(self) -> None:
        """Forget the stamp for those whose transaction has ended: their threads may never ask again."""
        with self._lock:
            ended = [connection for connection in self._written if not _in_transaction(connection)]
            self._written.difference_update(ended)
        if ended:
            self.forget()

    def _believe(self, known: _Known) -> None:
        with self._lock:
            if known.read_at <= self._forgotten_at or (self._known and known.read_at < self._known.read_at):
                return
            self._known = known
        self._notice(known.stamp)

    def _notice(self, stamp: str | None) -> None:
        if stamp == self._last_seen:
            return
        self._last_seen = stamp
        for memory in self._memories:
            memory.clear()


def _in_transaction_of_its_own(connection: BaseDatabaseWrapper) -> bool:
    """Whether what `connection` sees may be its own alone. A test case's transaction stands for none at all."""
    if connection.atomic_blocks:
        return not _is_test_case(connection.atomic_blocks[-1])
    return _in_transaction(connection)


def _in_transaction(connection: BaseDatabaseWrapper) -> bool:
    return connection.in_atomic_block or (connection.connection is not None and not connection.autocommit)


def _is_test_case(block: Atomic) -> bool:
    return bool(block._from_testcase)  # type: ignore[attr-defined]  # the mark that `durable` goes by as well
