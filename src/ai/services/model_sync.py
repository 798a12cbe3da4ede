"""Bringing our model rows in line with what each provider lists.

Ask (network, all providers at once) → reconcile (one short transaction for each provider, as its answer arrives). What
a person set by hand survives: `src.ai.services.model_facts` has the rule for names, descriptions, capabilities, prices
and windows; whether a model is active, its order and its configuration are never touched at all. New models are
inactive. A model that is no longer listed is marked (`gone_since`) and otherwise left alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from src.ai.catalogue import default_model
from src.ai.exceptions import AIError, ProviderInvalidResponse
from src.ai.models import AIModel, AIProvider
from src.ai.providers.base import BaseProvider
from src.ai.providers.registry import AIProviderRegistry, get_provider_instance
from src.ai.results import ModelInfo
from src.ai.services import execution
from src.ai.services.model_facts import (
    FIELDS,
    ID_LENGTH,
    PRICES,
    WINDOWS,
    Facts,
    facts_of,
    fill,
    fit_text,
    is_set_by_hand,
    remember,
)
from src.core.bulk import insert_missing, update_rows
from src.core.loop import io_loop
from src.core.secrets import scrub

OPERATION: Final = "get_available_models"
CHUNK: Final = 1000  # rows read at a time
WRITTEN: Final = (*FIELDS, "gone_since", "synced", "updated_at")

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class SyncReport:
    """What one provider's sync did, or on a dry run would have done. Models are named by the provider's own ids."""

    provider: str
    new: list[str] = field(default_factory=list)
    updated: dict[str, list[str]] = field(default_factory=dict)  # id → what changed
    unchanged: int = 0
    gone: list[str] = field(default_factory=list)  # not listed, since now or earlier
    newly_gone: list[str] = field(default_factory=list)
    gone_active: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing_key: str = ""  # not asked, as no key is set: what to do
    error: str = ""

    @property
    def done(self) -> bool:
        return not (self.error or self.missing_key)


def can_list_models(provider: AIProvider) -> bool:
    """Whether the provider's class can ask for its models."""
    registry = AIProviderRegistry()
    return provider.slug in registry.get_registered_names() and registry.get(provider.slug).supports(OPERATION)


def sync_models(
    providers: Collection[AIProvider], *, capability: str | None = None, dry_run: bool = False
) -> Iterator[SyncReport]:
    """Sync the models of `providers`, asked at the same time; yields each report as soon as it is known.

    Args:
        providers: rows whose class can list models.
        capability: sync only the models that have it; the others are neither updated nor marked as gone.
        dry_run: write nothing.

    A provider's failure is in its report and stops no other.
    """
    instances: dict[int, BaseProvider] = {}
    for provider in providers:
        report = SyncReport(provider=provider.slug)
        try:
            key = _choose_key(provider)
            if key is None:
                report.missing_key = _missing_key(provider)
            else:
                instances[provider.pk] = get_provider_instance(provider.slug, key, provider.config_for())
        except Exception as error:
            report.error = _describe(error, provider, "")
        if not report.done:
            yield report
    by_pk = {provider.pk: provider for provider in providers}
    for pk, answer in _ask(instances):
        provider = by_pk[pk]
        try:
            if isinstance(answer, AIError):
                raise answer
            report = _reconcile(provider, answer, capability, dry_run)
        except Exception as error:
            report = SyncReport(provider=provider.slug, error=_describe(error, provider, instances[pk].api_key))
        yield report


def _describe(error: Exception, provider: AIProvider, api_key: str) -> str:
    """What went wrong at one provider, in words that hold no key; it must not stop the others."""
    if isinstance(error, AIError):
        return scrub(str(error), api_key)
    logger.error("A provider's models could not be synced", exc_info=error, extra={"provider": provider.slug})
    return scrub(f"{type(error).__name__}: {error}", api_key)


# -- asking --------------------------------------------------------------------------------------------------------


def _choose_key(provider: AIProvider) -> str | None:
    """The shared key; empty where the list is open to all; None where a key is needed and not set."""
    if key := provider.get_shared_api_key():
        return key
    provider_class = AIProviderRegistry().get(provider.slug)
    return None if provider_class.requires_api_key and not provider_class.public_model_list else ""


def _missing_key(provider: AIProvider) -> str:
    return _(
        "no key. Set the shared API key of '{slug}' in Django admin (AI providers, {name}), then sync again."
    ).format(slug=provider.slug, name=provider)


def _ask(instances: Mapping[int, BaseProvider]) -> Iterator[tuple[int, list[ModelInfo] | AIError]]:
    """The answer of each provider, as it arrives."""
    pending = io_loop.run(_start(instances))
    try:
        while pending:
            done, pending = io_loop.run(_wait(pending))
            for task in done:
                yield task.result()
    finally:
        if pending:  # the caller stopped, with Ctrl-C or by not asking on
            io_loop.run(_cancel(pending))


Answer = asyncio.Task[tuple[int, "list[ModelInfo] | AIError"]]


async def _start(instances: Mapping[int, BaseProvider]) -> set[Answer]:
    return {asyncio.create_task(_answer(pk, instance)) for pk, instance in instances.items()}


async def _wait(tasks: set[Answer]) -> tuple[set[Answer], set[Answer]]:
    return await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


async def _cancel(tasks: set[Answer]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _answer(pk: int, instance: BaseProvider) -> tuple[int, list[ModelInfo] | AIError]:
    try:
        return pk, await execution.execute(OPERATION, instance)
    except AIError as error:
        return pk, error


# -- reconciling ---------------------------------------------------------------------------------------------------


def _reconcile(provider: AIProvider, answer: Iterable[ModelInfo], capability: str | None, dry_run: bool) -> SyncReport:
    report = SyncReport(provider=provider.slug)
    plan = _Plan(provider, _merge(provider.slug, answer, report), capability, report)
    if dry_run:
        for changes in (plan.changed(provider.models.order_by("pk")), plan.new()):
            deque(changes, maxlen=0)
        return report
    with transaction.atomic():
        # The provider first, as whoever activates a model does: two such transactions then can't block each other.
        AIProvider.objects.select_for_update(no_key=True).only("pk").get(pk=provider.pk)
        rows = provider.models.select_for_update(no_key=True).order_by("pk")
        update_rows(AIModel, plan.changed(rows), WRITTEN)
        insert_missing(AIModel, plan.new())
    return report


def _merge(slug: str, answer: Iterable[ModelInfo], report: SyncReport) -> dict[str, ModelInfo]:
    """The listed models by id; one that is listed twice is merged. Ids that can't be stored are noted and left out."""
    merged: dict[str, ModelInfo] = {}
    unfit = 0
    for info in answer:
        if not isinstance(info, ModelInfo):
            reason = f"a list of models with {type(info).__name__} in it instead of ModelInfo"
            raise ProviderInvalidResponse(provider=slug, operation=OPERATION, reason=reason)
        model_id = fit_text(info.model_id)
        if not model_id or len(model_id) > ID_LENGTH:
            unfit += 1
            continue
        merged[model_id] = _merge_two(merged[model_id], info) if model_id in merged else info
    if unfit:
        note = _("left out {count} whose id is empty or longer than {limit} characters")
        report.notes.append(note.format(count=unfit, limit=ID_LENGTH))
    return merged


def _merge_two(first: ModelInfo, second: ModelInfo) -> ModelInfo:
    """What either of two entries says, the first before the second; the capabilities of both."""
    facts: dict[str, Any] = {"capabilities": (*first.capabilities, *second.capabilities)}
    for name in ("display_name", "description"):
        facts[name] = getattr(first, name) or getattr(second, name)
    for name in (*PRICES, *WINDOWS):
        value = getattr(first, name)
        facts[name] = getattr(second, name) if value is None else value
    return replace(first, **facts)


@dataclass(slots=True)
class _Plan:
    """What is to become of one provider's rows. Rows pass through one by one, as there may be many."""

    provider: AIProvider
    listed: Mapping[str, ModelInfo]
    capability: str | None
    report: SyncReport
    now: datetime = field(default_factory=timezone.now)
    known: set[str] = field(default_factory=set)
    holders: dict[str, AIModel] = field(default_factory=dict)  # capability → the active model that serves it

    def changed(self, rows: QuerySet[AIModel]) -> Iterator[AIModel]:
        """Those of the provider's rows that are to be written, with their new values. To be used up before `new`.

        Raises:
            ProviderInvalidResponse: nothing at all is listed where there was something before.
        """
        if not self.listed and rows.exists():
            reason = _("its list of models is empty. Nothing was changed.")
            raise ProviderInvalidResponse(provider=self.provider.slug, operation=OPERATION, reason=reason)
        for row in self.provider.models.filter(is_active=True):
            self.holders.update(dict.fromkeys(row.capabilities, row))
        for row in rows.iterator(CHUNK):
            self.known.add(row.model_id)
            info = self.listed.get(row.model_id)
            if info is None:
                write = self._in_scope(row.capabilities) and self._mark_gone(row)
            else:
                facts = self._facts(row.model_id, info)
                in_scope = self._in_scope(row.capabilities) or self._in_scope(facts["capabilities"])
                write = in_scope and self._update(row, facts)
            if write:
                row.updated_at = self.now
                yield row

    def new(self) -> Iterator[AIModel]:
        """A row for each listed model that has none."""
        for model_id, info in self.listed.items():
            facts = {} if model_id in self.known else self._facts(model_id, info)
            if facts and self._in_scope(facts["capabilities"]):
                row = AIModel(provider=self.provider, model_id=model_id)
                fill(row, facts)
                self.report.new.append(model_id)
                yield row

    def _facts(self, model_id: str, info: ModelInfo) -> Facts:
        return facts_of(info, default_model(self.provider.slug, model_id))

    def _in_scope(self, capabilities: Collection[str]) -> bool:
        return self.capability is None or self.capability in capabilities

    def _update(self, row: AIModel, facts: Facts) -> bool:
        changes: list[str] = []
        for name in FIELDS:
            current, wanted = getattr(row, name), facts[name]
            if current == wanted or is_set_by_hand(row, name):
                continue
            if name == "capabilities":
                wanted = self._free(row, wanted)
                if set(wanted) == set(current):
                    continue
            setattr(row, name, wanted)
            remember(row, name)
            changes.append(_change(name, current, wanted))
        if row.gone_since:
            row.gone_since = None
            changes.append(_("listed again"))
        if changes:
            self.report.updated[row.model_id] = changes
        else:
            self.report.unchanged += 1
        return bool(changes)

    def _free(self, row: AIModel, wanted: list[str]) -> list[str]:
        """Those of `wanted` that the model may have: an active one can't take what an active sibling serves."""
        if not row.is_active:
            return wanted
        free = []
        for capability in wanted:
            # What a sibling gives up in this very sync is free from the next on: the order of the writes is open.
            holder = self.holders.setdefault(capability, row)
            if holder.pk == row.pk:
                free.append(capability)
                continue
            note = _("{model} can do '{capability}' too, but {holder} is the active model for it and stays so")
            self.report.notes.append(note.format(model=row.model_id, capability=capability, holder=holder.model_id))
        return free

    def _mark_gone(self, row: AIModel) -> bool:
        self.report.gone.append(row.model_id)
        if row.is_active:
            self.report.gone_active.append(row.model_id)
        if row.gone_since:
            return False
        row.gone_since = self.now
        self.report.newly_gone.append(row.model_id)
        return True


def _change(name: str, old: Any, new: Any) -> str:
    """A change in one line; a long text is only named."""
    return name if name == "description" else f"{name}: {_shown(old)} -> {_shown(new)}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return "none" if value is None or value == "" else str(value)
