"""The default catalogue: the providers and models that a new site starts with, and what is known of those models.

Plain data, changed by editing `defaults.py`. `seed_ai_catalogue` makes rows of it; `sync_ai_models` takes from it what
a vendor's own list does not say.
"""

from typing import Final

from src.ai.catalogue.defaults import DEFAULT_PROVIDERS
from src.ai.catalogue.entries import DefaultProvider
from src.ai.results import ModelInfo

__all__ = ["DEFAULT_PROVIDERS", "DefaultProvider", "default_model"]

_BY_ID: Final = {(provider.slug, entry.model_id): entry for provider in DEFAULT_PROVIDERS for entry in provider.models}


def default_model(slug: str, model_id: str) -> ModelInfo | None:
    """What the default catalogue says of a provider's model, if it has it."""
    return _BY_ID.get((slug, model_id))
