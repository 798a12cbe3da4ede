"""`manage.py sync_ai_models`: bring the models in the database in line with what the providers list."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TextIO, cast

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.translation import gettext as _
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from src.ai.exceptions import OperationNotSupported, ProviderNotRegistered
from src.ai.messages.messages import AI_ERRORS
from src.ai.models import AIProvider
from src.ai.providers.registry import AIProviderRegistry
from src.ai.services.model_sync import OPERATION, SyncReport, can_list_models, sync_models

SHOWN = 20  # lines of each kind and provider, unless -v 2 asks for all
PLAIN_WIDTH = 120


class Command(BaseCommand):
    """Ask every active provider for its models and say what became of them."""

    help = (
        "Ask each active provider for its models, and create and update the rows. New models are inactive. What was "
        "set by hand (active, order, names, descriptions, capabilities, prices, windows) stays. Models that are no "
        "longer listed are marked, never switched off. Exits with an error if a provider failed; the others are synced."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """What to limit it to, and the rehearsal."""
        parser.add_argument("--provider", metavar="SLUG", help="only this provider, for example openai")
        parser.add_argument("--capability", metavar="NAME", help="only models with this capability, for example image")
        parser.add_argument("--dry-run", action="store_true", help="write nothing and say what would happen")

    def handle(
        self,
        *args: Any,
        provider: str | None,
        capability: str | None,
        dry_run: bool,
        verbosity: int,
        no_color: bool = False,
        **options: Any,
    ) -> None:
        """Sync, with progress on a terminal and plain lines elsewhere.

        Raises:
            CommandError: the provider named does not exist or can't be synced; or a provider failed, which the message
                names, after the others were synced.
        """
        targets = [_find(provider)] if provider else _all_active()
        self.stdout.ending = ""
        console = Console(
            file=cast(TextIO, self.stdout),
            no_color=no_color or None,
            width=None if self.stdout.isatty() else PLAIN_WIDTH,
            quiet=verbosity == 0,
            markup=False,
            highlight=False,
            emoji=False,
        )
        reports = []
        with _progress(console) as progress:
            bar = progress.add_task(_("Syncing"), total=len(targets))
            for report in sync_models(targets, capability=capability, dry_run=dry_run):
                reports.append(report)
                progress.advance(bar)
                for line in _lines(report, everything=verbosity > 1, details=dry_run or verbosity > 1):
                    console.print(line, soft_wrap=True)
        places = {provider.slug: place for place, provider in enumerate(targets)}
        reports.sort(key=lambda report: places[report.provider])
        console.print(_table(reports, dry_run))
        if capability and not any(report.unchanged or report.new or report.updated for report in reports):
            console.print(_("No listed model has the capability '{name}'.").format(name=capability), soft_wrap=True)
        self._warn(reports)
        _fail_if_any(reports)

    def _warn(self, reports: Iterable[SyncReport]) -> None:
        for report in reports:
            for model_id in report.gone_active:
                warning = _(
                    "WARNING: {provider} no longer lists '{model}', which is ACTIVE here. It was not switched off: "
                    "calls to it may fail. Activate another model."
                )
                self.stderr.write(warning.format(provider=report.provider, model=model_id))


def _find(slug: str) -> AIProvider:
    provider = AIProvider.objects.filter(slug=slug).first()
    if provider is None:
        known = ", ".join(AIProvider.objects.values_list("slug", flat=True)) or _("none; run seed_ai_catalogue")
        raise CommandError(_("There is no AI provider '{slug}'. Known: {known}.").format(slug=slug, known=known))
    if not provider.is_active:
        raise CommandError(_("The provider '{slug}' is switched off. Activate it, then sync.").format(slug=slug))
    if slug not in AIProviderRegistry().get_registered_names():
        raise CommandError(str(ProviderNotRegistered(name=slug)))
    if not can_list_models(provider):
        raise CommandError(str(OperationNotSupported(operation=OPERATION, provider=slug)))
    return provider


def _all_active() -> list[AIProvider]:
    targets = [provider for provider in AIProvider.objects.filter(is_active=True) if can_list_models(provider)]
    if not targets:
        raise CommandError(
            _("No active provider can list its models. `manage.py seed_ai_catalogue` adds the usual ones.")
        )
    return targets


def _progress(console: Console) -> Progress:
    """A bar on a terminal; nothing elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _lines(report: SyncReport, *, everything: bool, details: bool) -> Iterable[str]:
    """One provider's outcome: a line, and under it what needs a look or was asked for."""
    if report.error:
        yield _("{provider}: FAILED: {error}").format(provider=report.provider, error=report.error)
        return
    if report.missing_key:
        yield _("{provider}: not synced: {reason}").format(provider=report.provider, reason=report.missing_key)
        return
    yield _("{provider}: {new} new, {updated} updated, {unchanged} unchanged, {gone} gone upstream").format(
        provider=report.provider,
        new=len(report.new),
        updated=len(report.updated),
        unchanged=report.unchanged,
        gone=len(report.gone),
    )
    limit = None if everything else SHOWN
    if details:
        yield from _some("  + {}", report.new, limit)
        changes = [f"{model_id} ({'; '.join(changes)})" for model_id, changes in report.updated.items()]
        yield from _some("  ~ {}", changes, limit)
    yield from _some(_("  - {} (no longer listed)"), report.newly_gone, limit)
    yield from _some("  ! {}", report.notes, limit)


def _some(form: str, items: list[str], limit: int | None) -> Iterable[str]:
    yield from (form.format(item) for item in items[:limit])
    if limit is not None and len(items) > limit:
        yield _("    and {count} more (-v 2 lists all)").format(count=len(items) - limit)


def _table(reports: Iterable[SyncReport], dry_run: bool) -> Table:
    table = Table(title=_("Dry run: nothing was written") if dry_run else None, title_justify="left")
    table.add_column(_("provider"))
    for name in (_("new"), _("updated"), _("unchanged"), _("gone upstream")):
        table.add_column(name, justify="right")
    table.add_column(_("failed"))
    for report in reports:
        counts = (len(report.new), len(report.updated), report.unchanged, len(report.gone))
        figures = [str(count) for count in counts] if report.done else ["-"] * len(counts)
        outcome = _("failed") if report.error else _("no key") if report.missing_key else ""
        table.add_row(report.provider, *figures, outcome)
    return table


def _fail_if_any(reports: list[SyncReport]) -> None:
    """A provider without a key counts as a failure only where nothing else was synced."""
    failed = [report for report in reports if report.error]
    if not any(report.done for report in reports):
        failed = [report for report in reports if not report.done]
    if failed:
        causes = "; ".join(f"{report.provider}: {report.error or report.missing_key}" for report in failed)
        raise CommandError(str(AI_ERRORS["models_list_error"]).format(error=causes))
