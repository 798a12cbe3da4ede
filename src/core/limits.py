"""How long a request to another host may take, and how large its answer may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import httpx

POOL_WAIT: Final = 10.0  # seconds for a turn


class BodyTooLarge(Exception):
    """A body grew beyond its limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"it is larger than {limit:,} bytes")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect, to the first byte of an answer and between two of them, and for the whole operation."""

    connect: float
    first_byte: float
    total: float

    def httpx(self) -> httpx.Timeout:
        """For one request."""
        return httpx.Timeout(self.first_byte, connect=self.connect, pool=POOL_WAIT)
