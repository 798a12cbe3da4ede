"""`manage.py ai_reconcile`."""

from decimal import Decimal
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from src.ai.services.ledger.upkeep import reconcile


def _plain(number: int | Decimal) -> str:
    return str(number) if isinstance(number, int) else f"{number:f}"


class Command(BaseCommand):
    """Prove that every counter is the sum of its records."""

    help = "Compare every period with its records; the exit status is 1 where one differs and is not put right."

    def add_arguments(self, parser: CommandParser) -> None:
        """Whether to mend."""
        parser.add_argument("--fix", action="store_true", help="set the counters to what the records come to")

    def handle(self, *args: Any, fix: bool, **options: Any) -> None:
        """Print each difference, then the verdict."""
        count = 0
        for one in reconcile(fix=fix):
            count += 1
            facts = {"key": one.key, "name": one.name, "counted": _plain(one.counted), "recorded": _plain(one.recorded)}
            self.stdout.write(_("%(key)s %(name)s: counted %(counted)s, recorded %(recorded)s") % facts)
        if not count:
            self.stdout.write(self.style.SUCCESS(_("Every counter is the sum of its records.")))
            return
        if not fix:
            found = ngettext("%(count)d number differs.", "%(count)d numbers differ.", count) % {"count": count}
            raise CommandError(_("%(found)s To set it right: manage.py ai_reconcile --fix") % {"found": found})
        mended = ngettext("%(count)d number was put right.", "%(count)d numbers were put right.", count)
        self.stdout.write(self.style.SUCCESS(mended % {"count": count}))
