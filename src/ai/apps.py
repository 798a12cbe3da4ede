from django.apps import AppConfig
from django.db.models.signals import post_migrate, pre_migrate
from django.utils.translation import gettext_lazy as _


class AIConfig(AppConfig):
    name = "src.ai"
    label = "ai"
    verbose_name = _("Artificial intelligence")

    def ready(self) -> None:
        from src.ai.models import APIToken
        from src.ai.models.config_stamp import freshness
        from src.ai.models.triggers import install_triggers, remove_triggers, watched_tables
        from src.ai.providers.registry import AIProviderRegistry
        from src.ai.services.tokens import forget_tokens
        from src.core.cache.writes import watch_writes

        watch_writes(dict.fromkeys(watched_tables(), freshness.wrote) | {APIToken._meta.db_table: forget_tokens})
        pre_migrate.connect(remove_triggers, sender=self, dispatch_uid="ai.triggers")
        post_migrate.connect(install_triggers, sender=self, dispatch_uid="ai.triggers")
        AIProviderRegistry().auto_discover()
