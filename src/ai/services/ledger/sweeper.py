"""What a serving process does beside serving, at its start and every minute: sweep the books, forget old answers."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Final

from django.conf import settings
from django.db import Error, connections

from src.ai.services.idempotency import prune_idempotency_keys
from src.ai.services.ledger.upkeep import sweep

logger = logging.getLogger(__name__)

CHORES: Final[tuple[Callable[[], int], ...]] = (sweep, prune_idempotency_keys)


class Sweeper:
    """A daemon thread, started once a process and again after a fork."""

    def __init__(self) -> None:
        self._started = False
        os.register_at_fork(after_in_child=self._restart)

    def start(self) -> None:
        """Begin, unless that has been done, or `AI_SWEEP_INTERVAL` leaves it to somebody else."""
        if settings.AI_SWEEP_INTERVAL and not self._started:
            self._started = True
            threading.Thread(target=self._run, name="ai-sweeper", daemon=True).start()

    def _restart(self) -> None:
        if self._started:
            self._started = False
            self.start()

    def _run(self) -> None:
        wait = threading.Event()
        while True:
            for chore in CHORES:
                try:
                    chore()
                except Error:  # the database is away: a minute later it may be back
                    logger.warning("A chore of the books has to wait", extra={"chore": chore.__name__})
                except Exception:
                    logger.exception("A chore of the books failed", extra={"chore": chore.__name__})
            connections.close_all()
            wait.wait(settings.AI_SWEEP_INTERVAL)


sweeper = Sweeper()
