"""`manage.py ai_sweep`."""

from typing import Any

from django.core.management.base import BaseCommand
from django.utils.translation import ngettext

from src.ai.services.ledger.upkeep import sweep


class Command(BaseCommand):
    """Close the calls that nobody came back from. A serving process does the same at its start and every minute."""

    help = "Turn reservations whose lease has ended into 'unknown'. Safe at any time, by many processes at once."

    def handle(self, *args: Any, **options: Any) -> None:
        """Sweep, and say how many."""
        count = sweep()
        message = ngettext("%(count)d call is now unknown.", "%(count)d calls are now unknown.", count)
        self.stdout.write(message % {"count": count})
