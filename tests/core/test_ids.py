"""Ids sort by time, and no two are the same, in forked processes either."""

from __future__ import annotations

import os
from uuid import UUID

import pytest

from src.core.ids import uuid7

CHANCE = (1 << 62) - 1  # the part of an id that no time is in


def test_an_id_is_of_version_7_and_tells_when_it_was_made() -> None:
    before, made, after = uuid7(), uuid7(), uuid7()
    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert before.int >> 80 <= made.int >> 80 <= after.int >> 80


def test_ids_of_one_moment_differ() -> None:
    assert len({uuid7() for _ in range(10_000)}) == 10_000


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_makes_others() -> None:
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(there, uuid7().bytes)
        os._exit(0)
    os.waitpid(child, 0)
    assert UUID(bytes=os.read(here, 16)).int & CHANCE != uuid7().int & CHANCE
    os.close(here)
    os.close(there)
