from django.apps import AppConfig
from django.db.models.signals import post_migrate
from django.utils.translation import gettext_lazy as _


class AIConfig(AppConfig):
    name = "src.ai"
    label = "ai"
    verbose_name = _("Artificial intelligence")

    def ready(self) -> None:
        from src.ai.models.triggers import install_triggers
        from src.ai.providers.registry import AIProviderRegistry

        post_migrate.connect(install_triggers, sender=self, dispatch_uid="ai.triggers")
        AIProviderRegistry().auto_discover()
