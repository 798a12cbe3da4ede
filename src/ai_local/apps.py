from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class AILocalConfig(AppConfig):
    """A provider of its own, brought by `ai_providers.py` alone."""

    name = "src.ai_local"
    label = "ai_local"
    verbose_name = _("Local AI demo")

    def ready(self) -> None:
        from src.ai_local import checks  # noqa: F401 (registers itself)
