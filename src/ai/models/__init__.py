from src.ai.models.ai_provider import (
    Activation,
    AdminProviderSettings,
    AIModel,
    AIModelManager,
    AIProvider,
    ModelCapability,
)
from src.ai.models.api_token import APIToken
from src.ai.models.config_stamp import ConfigStamp
from src.ai.models.encrypted_key import EncryptedAPIKeyMixin, KeyInfo, KeyState
from src.ai.models.generated_media import GeneratedMedia
from src.ai.models.idempotency_key import IdempotencyKey
from src.ai.models.seeded_entry import SeededEntry
from src.ai.models.usage import (
    CostState,
    Period,
    Usage,
    UsageCarried,
    UsagePeriod,
    UsageRecord,
    UsageState,
    UsageText,
)

__all__ = [
    "AIModel",
    "AIModelManager",
    "AIProvider",
    "APIToken",
    "Activation",
    "AdminProviderSettings",
    "ConfigStamp",
    "CostState",
    "EncryptedAPIKeyMixin",
    "GeneratedMedia",
    "IdempotencyKey",
    "KeyInfo",
    "KeyState",
    "ModelCapability",
    "Period",
    "SeededEntry",
    "Usage",
    "UsageCarried",
    "UsagePeriod",
    "UsageRecord",
    "UsageState",
    "UsageText",
]
