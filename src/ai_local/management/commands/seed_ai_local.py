"""`manage.py seed_ai_local`: the rows of the local provider."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils.translation import gettext as _

from src.ai_local.seeding import seed_local


class Command(BaseCommand):
    """Create what is new and say what that was."""

    help = (
        "Create the local demo provider with its models, and activate these. Safe to run again: rows that exist are "
        "never touched, and what was deleted stays deleted unless --restore is given."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Whether to bring back what was deleted."""
        parser.add_argument("--restore", action="store_true", help="also create again what was deleted since")

    def handle(self, *args: Any, restore: bool, verbosity: int, **options: Any) -> None:
        """Seed, and tell."""
        created = seed_local(restore=restore)
        if not verbosity:
            return
        if created:
            self.stdout.write(_("Local demo: created and activated {models}.").format(models=", ".join(created)))
        else:
            self.stdout.write(_("Local demo: nothing new."))
