"""Names and lifetimes of what is cached."""

from typing import Final
from urllib.parse import quote


class CacheTTL:
    """Lifetimes in seconds."""

    SESSION_ADMIN: Final = 3 * 24 * 3600
    SESSION_USER: Final = 30 * 24 * 3600
    PERMISSIONS: Final = 5 * 60
    PROFILE: Final = 15 * 60
    DEFAULT: Final = 15 * 60
    AI: Final = 5 * 60


class CacheSize:
    """How many entries a process keeps in its own memory."""

    ROWS: Final = 20_000
    TOKENS: Final = 10_000
    PLAIN_KEYS: Final = 1_024
    COUNTS: Final = 1_024


class AICacheKeys:
    """Keys of the AI app's cached rows. A capability may hold what no key can: spaces, for one."""

    @staticmethod
    def active_model(provider_slug: str, capability: str) -> str:
        return f"active_model_{provider_slug}_{quote(capability)}"

    @staticmethod
    def provider(slug: str) -> str:
        return f"ai_provider_{slug}"

    @staticmethod
    def models_by_capability(capability: str) -> str:
        return f"ai_models_by_capability_{quote(capability)}"

    @staticmethod
    def all_active_models() -> str:
        return "ai_all_active_models"

    @staticmethod
    def model(pk: int) -> str:
        return f"ai_model_{pk}"

    @staticmethod
    def admin_settings(admin_id: int, provider_id: int) -> str:
        return f"ai_admin_settings_{admin_id}_{provider_id}"

    @staticmethod
    def all_admin_settings(admin_id: int) -> str:
        return f"ai_admin_settings_{admin_id}"
