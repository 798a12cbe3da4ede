"""What an admin is shown of models and providers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib.auth.models import AbstractUser
from django.db.models import Exists, OuterRef, QuerySet

from src.ai.exceptions import CapabilityRequired
from src.ai.models import AdminProviderSettings, AIModel, AIProvider, ModelCapability
from src.ai.services.access import ModelAccessState
from src.ai.services.caller import current_caller
from src.ai.services.catalogue import Catalogue
from src.ai.services.token_rules import allows, allows_capability


def models_with(capability: str) -> QuerySet[AIModel]:
    """All models that have the capability: active ones first, then in the order in which they are tried.

    Raises:
        CapabilityRequired: none is named.
    """
    if not capability:
        raise CapabilityRequired(attr="capability")
    return (
        AIModel.objects.filter(capability_rows__capability=capability)
        .select_related("provider")
        .order_by("-is_active", "provider__sort_order", "sort_order", "id")
    )


def providers_with(capability: str) -> QuerySet[AIProvider]:
    """The active providers that have a model with the capability.

    Raises:
        CapabilityRequired: none is named.
    """
    if not capability:
        raise CapabilityRequired(attr="capability")
    rows = ModelCapability.objects.filter(provider=OuterRef("pk"), capability=capability)
    return AIProvider.objects.filter(Exists(rows), is_active=True)


def describe_models(models: Iterable[AIModel], admin: AbstractUser, capability: str) -> list[dict[str, Any]]:
    """Each model as this admin sees it, with the token that is used, for the capability."""
    own = Catalogue().all_admin_settings(admin)
    return [_describe_model(model, admin, own.get(model.provider_id), capability) for model in models]


def describe_providers(providers: Iterable[AIProvider], admin: AbstractUser, capability: str) -> list[dict[str, Any]]:
    """Each provider, whether this admin may use it, and its active model for the capability."""
    catalogue = Catalogue()
    own = catalogue.all_admin_settings(admin)
    active = {model.provider_id: model for model in catalogue.active_models(capability)}
    return [_describe_provider(row, admin, own.get(row.pk), active.get(row.pk), capability) for row in providers]


def _describe_model(
    model: AIModel, admin: AbstractUser, own: AdminProviderSettings | None, capability: str
) -> dict[str, Any]:
    state = ModelAccessState.calculate(model=model, admin=admin, own=own)
    return {
        "id": model.pk,
        "name": str(model),
        "model_id": model.model_id,
        "provider": {"slug": model.provider.slug, "name": str(model.provider)},
        "capabilities": model.capabilities,
        "is_active": model.is_active,
        "is_free": model.is_free,
        "access_state": _with_token(state, allows(current_caller().rules, model, capability)),
        "pricing": {"input": model.pricing_input, "output": model.pricing_output},
        "limits": {"max_tokens": model.max_tokens, "context_window": model.context_window},
    }


def _describe_provider(
    provider: AIProvider,
    admin: AbstractUser,
    own: AdminProviderSettings | None,
    active: AIModel | None,
    capability: str,
) -> dict[str, Any]:
    rules = current_caller().rules
    allowed = allows(rules, active, capability) if active else allows_capability(rules, capability)
    state = _with_token(ModelAccessState.of_provider(provider=provider, admin=admin, own=own), allowed)
    return {
        "slug": provider.slug,
        "name": str(provider),
        "description": provider.description,
        "access_state": state,
        "has_access": state.is_available,
        "active_model": active and {"id": active.pk, "name": str(active), "model_id": active.model_id},
    }


def _with_token(state: ModelAccessState, allowed: bool) -> ModelAccessState:
    """What is left of the admin's access with a token that allows it or does not."""
    return state if allowed or not state.is_available else ModelAccessState.NO_ACCESS
