"""`manage.py ai_prune`."""

import argparse
import re
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from src.ai.services.ledger.upkeep import prune


def days(text: str) -> timedelta:
    """`400d` or `400`: whole days, at least one."""
    found = re.fullmatch(r"(\d{1,6})d?", text)
    if not found or int(found[1]) == 0:
        raise argparse.ArgumentTypeError(_("give a number of days, such as 400d"))
    return timedelta(days=int(found[1]))


class Command(BaseCommand):
    """Delete old usage records; the counters stay."""

    help = "Delete the usage records older than so many days, in batches. Counters and limits keep what they counted."

    def add_arguments(self, parser: CommandParser) -> None:
        """How old."""
        parser.add_argument("--older-than", type=days, required=True, metavar="DAYS", help="such as 400d")

    def handle(self, *args: Any, older_than: timedelta, **options: Any) -> None:
        """Prune, and say how many."""
        count = prune(older_than)
        message = ngettext("%(count)d record deleted.", "%(count)d records deleted.", count)
        self.stdout.write(message % {"count": count})
