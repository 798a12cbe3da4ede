"""The rows of this provider: like the default catalogue's, created once and then a person's own.

Unlike there a model starts active: on a fresh site it is the only one that works without a key.
"""

from __future__ import annotations

from typing import Final

from django.db import transaction
from django.utils.translation import gettext as _

from src.ai.models import AIModel, AIProvider, SeededEntry
from src.ai.services.model_facts import facts_of, fill
from src.ai_local import catalogue, packages

LAST: Final = 1000  # after every provider that a key can be set for
SORT_STEP: Final = 10


@transaction.atomic
def seed_local(*, restore: bool = False) -> list[str]:
    """Create the provider and those of its models that were never created before, and activate these.

    Args:
        restore: also create again what was deleted since.

    Returns:
        The ids of the new models.
    """
    entries = SeededEntry.objects.filter(slug=packages.PROVIDER)
    seeded = set() if restore else set(entries.values_list("model_id", flat=True))
    provider = _seed_provider(seeded)
    if provider is None:
        return []
    present = set(provider.models.values_list("model_id", flat=True))
    infos = catalogue.get_models()
    missing = [
        AIModel(provider=provider, model_id=info.model_id, sort_order=place * SORT_STEP, is_active=True)
        for place, info in enumerate(infos, start=1)
        if info.model_id not in seeded | present
    ]
    facts = {info.model_id: facts_of(info) for info in infos}
    for model in missing:
        fill(model, facts[model.model_id])
        model.save()
    SeededEntry.objects.bulk_create(
        [SeededEntry(slug=packages.PROVIDER, model_id=model_id) for model_id in ("", *facts)], ignore_conflicts=True
    )
    return [model.model_id for model in missing]


def _seed_provider(seeded: set[str]) -> AIProvider | None:
    """The provider's row; None where a person has deleted it."""
    provider = AIProvider.objects.filter(slug=packages.PROVIDER).first()
    if provider is None and "" not in seeded:
        provider = AIProvider.objects.create(
            slug=packages.PROVIDER,
            name="Local demo",
            display_name=_("Local demo"),
            description=_(
                "Tiny models on this machine, to try everything without an API key: a very small language model, a "
                "robotic voice, and a drawn card in place of images."
            ),
            allow_shared_for_normal_admins=True,
            allow_personal_keys=False,
            sort_order=LAST,
        )
    return provider
