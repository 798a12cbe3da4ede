"""Making rows of the default catalogue.

Only what was never seeded before is created. A row that exists is never touched, whoever made it, and what a person has
deleted does not come back: `SeededEntry` remembers what was once created. Every model is created inactive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from django.db import transaction

from src.ai.catalogue import DEFAULT_PROVIDERS, DefaultProvider
from src.ai.models import AIModel, AIProvider, SeededEntry
from src.ai.services.model_facts import facts_of, fill
from src.core.bulk import insert_missing

SORT_STEP = 10  # room between two rows for one that a person adds


@dataclass(slots=True)
class SeedReport:
    """What was created, by the providers' slugs and the models' own ids."""

    providers: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)


def seed_catalogue(*, restore: bool = False) -> SeedReport:
    """Create the default providers and models that were never created before, in one transaction.

    Args:
        restore: also create again what was deleted since.
    """
    with transaction.atomic():
        seeded = set() if restore else set(SeededEntry.objects.values_list("slug", "model_id"))
        report = SeedReport()
        report.providers = _seed_providers(seeded)
        rows = {provider.slug: provider for provider in AIProvider.objects.filter(slug__in=_slugs())}
        present = set(AIModel.objects.filter(provider__in=rows.values()).values_list("provider__slug", "model_id"))
        missing = [
            model
            for provider in DEFAULT_PROVIDERS
            if provider.slug in rows
            for model in _models(provider, rows[provider.slug])
            if (provider.slug, model.model_id) not in seeded | present
        ]
        insert_missing(AIModel, missing)
        report.models = [f"{model.provider.slug}/{model.model_id}" for model in missing]
        _remember(rows)
    return report


def _slugs() -> list[str]:
    return [provider.slug for provider in DEFAULT_PROVIDERS]


def _seed_providers(seeded: set[tuple[str, str]]) -> list[str]:
    present = set(AIProvider.objects.values_list("slug", flat=True))
    missing = [
        AIProvider(
            slug=default.slug,
            name=default.name,
            display_name=default.name,
            description=default.description,
            website=default.website,
            sort_order=place * SORT_STEP,
        )
        for place, default in enumerate(DEFAULT_PROVIDERS, start=1)
        if (default.slug, "") not in seeded and default.slug not in present
    ]
    AIProvider.objects.bulk_create(missing, ignore_conflicts=True)
    return [provider.slug for provider in missing]


def _models(default: DefaultProvider, provider: AIProvider) -> Iterator[AIModel]:
    for place, info in enumerate(default.models, start=1):
        row = AIModel(provider=provider, model_id=info.model_id, sort_order=place * SORT_STEP)
        fill(row, facts_of(info))
        yield row


def _remember(rows: dict[str, AIProvider]) -> None:
    entries = [
        SeededEntry(slug=provider.slug, model_id=model_id)
        for provider in DEFAULT_PROVIDERS
        if provider.slug in rows
        for model_id in ("", *(info.model_id for info in provider.models))
    ]
    SeededEntry.objects.bulk_create(entries, ignore_conflicts=True)
