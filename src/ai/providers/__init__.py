"""One module per vendor. Dropping a file here adds a provider: see `registry.AIProviderRegistry.auto_discover`.

The imports below are for those who want a class by name; discovery needs none of them.
"""

from src.ai.providers.base import BaseProvider
from src.ai.providers.deepseek import DeepSeekProvider
from src.ai.providers.gemini import GeminiProvider
from src.ai.providers.groq import GroqProvider
from src.ai.providers.huggingface import HuggingFaceProvider
from src.ai.providers.openai import OpenAIProvider
from src.ai.providers.openrouter import OpenRouterProvider
from src.ai.providers.registry import AIProviderRegistry, get_provider_instance

__all__ = [
    "AIProviderRegistry",
    "BaseProvider",
    "DeepSeekProvider",
    "GeminiProvider",
    "GroqProvider",
    "HuggingFaceProvider",
    "OpenAIProvider",
    "OpenRouterProvider",
    "get_provider_instance",
]
