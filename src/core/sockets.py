"""What can be known of a socket without waiting."""

from __future__ import annotations

import select
from typing import Protocol


class HasDescriptor(Protocol):
    """A socket, or what has one."""

    def fileno(self) -> int:
        """The number of it."""


def has_something(item: HasDescriptor) -> bool:
    """Whether there is something to read, if only the end."""
    poll = select.poll()
    poll.register(item, select.POLLIN)
    return bool(poll.poll(0))
