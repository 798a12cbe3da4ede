"""Switching models on and off, and telling what that changed beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from django.contrib import messages
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _

from src.ai.admin.base import join_names
from src.ai.messages.messages import AI_SUCCESS
from src.ai.models import AIModel, AIProvider, ModelCapability

MOST_AT_ONCE = 200  # each is saved in turn; nobody means to activate more by hand


def activate_in_turn(request: HttpRequest, queryset: QuerySet[AIModel]) -> list[AIModel]:
    """Activate the models one after the other, so that of two which conflict the later stays; returns what changed."""
    chosen = list(queryset[: MOST_AT_ONCE + 1])
    if len(chosen) > MOST_AT_ONCE:
        messages.error(request, _("At most %(count)d models can be activated at once.") % {"count": MOST_AT_ONCE})
        return []
    idle = {model.pk: model for model in chosen if not model.is_active}
    displaced: dict[int, AIModel] = {}
    providers = {model.provider_id for model in chosen}
    try:
        with transaction.atomic(), telling_uncovered(request, providers):
            # In one order for everyone: who locks them as the list is sorted could wait for each other for ever.
            list(AIProvider.objects.select_for_update(no_key=True).filter(pk__in=providers).order_by("pk"))
            for model in chosen:
                model.is_active = True
                model.save(update_fields=("is_active", "updated_at"))
                displaced.pop(model.pk, None)
                displaced |= {other.pk: other for other in model.activation.deactivated}
            tell_activated(request, [model for model in chosen if model.pk not in displaced])
            tell_overruled(request, [model for pk, model in idle.items() if pk in displaced])
            tell_displaced(request, [model for pk, model in displaced.items() if pk not in idle])
    except IntegrityError:
        messages.error(request, _("Someone else activated a model at the same moment, so nothing changed. Try again."))
        return []
    changed = [model for pk, model in idle.items() if pk not in displaced]
    return changed + [model for pk, model in displaced.items() if pk not in idle]


def deactivate(request: HttpRequest, queryset: QuerySet[AIModel]) -> list[AIModel]:
    """Deactivate the models, whatever their number; returns those that were active."""
    chosen = list(queryset.filter(is_active=True))
    if not chosen:
        messages.info(request, _("None of the selected models was active."))
        return []
    with telling_uncovered(request, {model.provider_id for model in chosen}):
        AIModel.objects.filter(pk__in=[model.pk for model in chosen]).update(is_active=False, updated_at=timezone.now())
        tell_deactivated(request, chosen)
    return chosen


def tell_activated(request: HttpRequest, models: Sequence[AIModel]) -> None:
    """Say which models are active now."""
    if len(models) == 1:
        messages.success(request, str(AI_SUCCESS["model_activated"]).format(model=models[0]))
    elif models:
        messages.success(request, _("Now active: %(models)s.") % {"models": join_names(models)})


def tell_deactivated(request: HttpRequest, models: Sequence[AIModel]) -> None:
    """Say which models are no longer active, as was asked."""
    if len(models) == 1:
        messages.success(request, str(AI_SUCCESS["model_deactivated"]).format(model=models[0]))
    elif models:
        messages.success(request, _("No longer active: %(models)s.") % {"models": join_names(models)})


def tell_displaced(request: HttpRequest, models: Sequence[AIModel]) -> None:
    """Say which models had to make room."""
    if models:
        text = str(AI_SUCCESS["models_deactivated_instead"])
        messages.warning(request, text.format(models=join_names(models)))


def tell_overruled(request: HttpRequest, models: Sequence[AIModel]) -> None:
    """Say which of the models to activate had to make room for others of them."""
    if models:
        text = _("Not active, as another of the selected models serves the same capability: %(models)s.")
        messages.warning(request, text % {"models": join_names(models)})


@contextmanager
def telling_uncovered(request: HttpRequest, provider_ids: Iterable[int | None]) -> Iterator[None]:
    """Say which capabilities of these providers had an active model before the block and have none after it."""
    ids = {pk for pk in provider_ids if pk is not None}
    before = _served(ids)
    yield
    lost = before - _served(ids)
    for provider in AIProvider.objects.filter(pk__in={pk for pk, _capability in lost}):
        capabilities = sorted(capability for pk, capability in lost if pk == provider.pk)
        text = str(AI_SUCCESS["capabilities_uncovered"])
        messages.warning(request, text.format(provider=provider, capabilities=join_names(capabilities)))


def _served(provider_ids: set[int]) -> set[tuple[int, str]]:
    rows = ModelCapability.objects.filter(provider_id__in=provider_ids, is_active=True)
    return set(rows.values_list("provider_id", "capability"))
