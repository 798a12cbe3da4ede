"""`manage.py rotate_ai_keys`: put every stored API key under today's `SECRET_KEY`."""

from __future__ import annotations

from collections import Counter
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.translation import gettext as _

from src.ai.services.key_rotation import Rotation, rotate_keys


class Command(BaseCommand):
    """Re-encrypt the API keys, name those that can't be read, and say whether the old SECRET_KEY may go."""

    help = (
        "Re-encrypt every stored API key (the providers' shared keys and the admins' personal ones) under the current "
        "SECRET_KEY. To change SECRET_KEY: move the old value to SECRET_KEY_FALLBACKS, set the new one, restart every "
        "process of the site, run this, then remove the old value. Exits with an error if a key can't be read."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """The rehearsal."""
        parser.add_argument("--dry-run", action="store_true", help="write nothing and say what would happen")

    def handle(self, *args: Any, dry_run: bool, verbosity: int, **options: Any) -> None:
        """Rotate all, count, and list what can't be read.

        Raises:
            CommandError: some keys can't be decrypted; the others have been rotated.
        """
        counts: Counter[Rotation] = Counter()
        unreadable = []
        for key in rotate_keys(dry_run=dry_run):
            counts[key.outcome] += 1
            if key.outcome is Rotation.UNREADABLE:
                unreadable.append(str(key))
            elif verbosity > 1:
                self.stdout.write(f"{key.outcome}: {key}")
        if verbosity and counts:
            self.stdout.write(_summary(counts, dry_run))
        if unreadable:
            raise CommandError(_failure(unreadable))
        if verbosity:
            self.stdout.write(_conclusion(counts, dry_run))


def _summary(counts: Counter[Rotation], dry_run: bool) -> str:
    text = (
        _("Dry run, nothing was written. API keys that would be re-encrypted: {rotated}; ")
        if dry_run
        else _("API keys re-encrypted under the current SECRET_KEY: {rotated}; ")
    ) + _("already under it: {current}; can't be read: {unreadable}.")
    return text.format(**{str(outcome): counts[outcome] for outcome in Rotation})


def _conclusion(counts: Counter[Rotation], dry_run: bool) -> str:
    if dry_run and counts[Rotation.ROTATED]:
        return _("Keep SECRET_KEY_FALLBACKS as it is until you have run this without --dry-run.")
    if not counts:
        return _("No API key is stored.")
    return _("No API key needs SECRET_KEY_FALLBACKS any more.")


def _failure(unreadable: list[str]) -> str:
    lines = [
        _("These API keys can't be decrypted with SECRET_KEY or SECRET_KEY_FALLBACKS, and were left as they are:"),
        *(f"  - {row}" for row in unreadable),
        _("Put the SECRET_KEY they were saved under into SECRET_KEY_FALLBACKS and run this again, or enter them anew."),
    ]
    return "\n".join(lines)
