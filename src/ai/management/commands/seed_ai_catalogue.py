"""`manage.py seed_ai_catalogue`: the providers and models that a new site starts with."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils.translation import gettext as _

from src.ai.services.seeding import seed_catalogue


class Command(BaseCommand):
    """Create what is new in the default catalogue and say what that was."""

    help = (
        "Create the default providers and their models, all inactive. Safe to run again: rows that exist are never "
        "touched, and what was deleted stays deleted unless --restore is given."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Whether to bring back what was deleted."""
        parser.add_argument("--restore", action="store_true", help="also create again what was deleted since")

    def handle(self, *args: Any, restore: bool, verbosity: int, **options: Any) -> None:
        """Seed, and tell."""
        report = seed_catalogue(restore=restore)
        if not verbosity:
            return
        if not (report.providers or report.models):
            self.stdout.write(_("AI catalogue: nothing new."))
            return
        text = _("AI catalogue: created {providers} providers and {models} models, all models inactive.")
        self.stdout.write(text.format(providers=len(report.providers), models=len(report.models)))
        if verbosity > 1:
            for name in (*report.providers, *report.models):
                self.stdout.write(f"  + {name}")
