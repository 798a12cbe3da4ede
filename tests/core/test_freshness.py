"""What a process keeps in memory: bounded, for a while, and under a stamp that is never believed too long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from time import monotonic

import pytest

from src.core.cache.freshness import Freshness, Memory


def reading(*stamps: str | None) -> Callable[[], str | None]:
    """A database whose stamp is another each time it is read."""
    answers: Iterator[str | None] = iter(stamps)
    return lambda: next(answers)


def freshness_of(read: Callable[[], str | None]) -> Freshness:
    return Freshness(read=read, using=lambda: "default")


def test_a_memory_holds_so_many_and_the_oldest_makes_room() -> None:
    memory: Memory[int] = Memory(size=3, lifetime=60)
    for number in range(5):
        memory.put(number, "stamp", number)
    memory.put(2, "stamp", 22)
    memory.put(5, "stamp", 5)
    assert [memory.get(number, "stamp", None) for number in range(6)] == [None, None, 22, None, 4, 5]


def test_a_value_counts_under_its_stamp_and_for_its_lifetime() -> None:
    memory: Memory[str] = Memory(size=3, lifetime=60)
    memory.put("key", "old", "value")
    assert (memory.get("key", "old", None), memory.get("key", "new", None)) == ("value", None)
    brief: Memory[str] = Memory(size=3, lifetime=0)
    brief.put("key", "old", "value")
    assert brief.get("key", "old", None) is None


def test_a_memorys_repr_shows_nothing_that_it_holds() -> None:
    memory: Memory[str] = Memory(size=3, lifetime=60)
    memory.put("key", "stamp", "sk-plain")
    assert "sk-plain" not in repr(memory)


def test_a_stamp_is_read_once_and_again_when_forgotten() -> None:
    freshness = freshness_of(reading("one", "two"))
    assert [freshness.current(), freshness.current()] == ["one", "one"]
    freshness.forget()
    assert [freshness.current(), freshness.current()] == ["two", "two"]


def test_a_stamp_is_read_again_before_it_is_a_second_old() -> None:
    freshness = freshness_of(lambda: str(monotonic()))
    read_at = float(freshness.current() or 0)
    while (current := float(freshness.current() or 0)) == read_at:
        asked = monotonic()
    assert asked - read_at < 1
    assert current - read_at > 0.5


def test_a_stamp_read_in_passing_is_taken_over_and_an_older_one_is_not() -> None:
    freshness = freshness_of(reading("one"))
    before = monotonic()
    assert freshness.current() == "one"
    freshness.observe("older", before - 1)
    assert freshness.current() == "one"
    freshness.observe("newer", monotonic())
    assert freshness.current() == "newer"


def test_a_reading_that_began_before_the_change_does_not_count() -> None:
    begun, go_on = Event(), Event()

    def slow() -> str:
        begun.set()
        assert go_on.wait(10)
        return "old"

    reads = iter([slow, lambda: "new"])
    freshness = freshness_of(lambda: next(reads)())
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(freshness.current)
        assert begun.wait(10)
        freshness.forget()
        go_on.set()
        asked.result()
    assert freshness.current() == "new"


@pytest.mark.parametrize("after", ["two", None])
def test_a_new_stamp_empties_every_memory(after: str | None) -> None:
    freshness = freshness_of(reading("one", "one", after))
    memory: Memory[str] = freshness.memory(size=3, lifetime=60)
    freshness.current()
    memory.put("key", "any", "value")
    freshness.forget()
    freshness.current()
    assert memory.get("key", "any", None) == "value"
    freshness.forget()
    freshness.current()
    assert memory.get("key", "any", None) is None
