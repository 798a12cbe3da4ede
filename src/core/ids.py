"""Identifiers. None is a secret: they can be guessed."""

import os
import random
import time
import uuid

# Seeded by the system, in each process. To ask the system for each id would cost more than all the rest, and have
# threads change places, as it is asked without holding the interpreter.
_chance = random.Random()  # noqa: S311 (an id is no secret)
os.register_at_fork(after_in_child=_chance.seed)


def uuid7() -> uuid.UUID:
    """A UUID of version 7 (RFC 9562, §5.7): 48 bits of milliseconds since 1970, then chance.

    Python has its own from 3.14 on.
    """
    value = (time.time_ns() // 1_000_000 & 0xFFFF_FFFF_FFFF) << 80 | _chance.getrandbits(80)
    return uuid.UUID(int=value & ~(0xF000 << 64) & ~(0xC000 << 48) | 0x7000 << 64 | 0x8000 << 48)


def new_id() -> str:
    """128 bits of chance, in hexadecimal."""
    return f"{_chance.getrandbits(128):032x}"
