"""DeepSeek (api-docs.deepseek.com, autumn 2026): chat and structured content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from src.ai.exceptions import EmptyReply
from src.ai.providers.openai_compatible import OpenAICompatible
from src.ai.providers.openai_format import SAMPLING, ChatRules
from src.ai.providers.payload import as_count, as_text
from src.ai.providers.prices import find_price
from src.ai.results import ModelInfo, Reply

NO_THINKING: Final = {"thinking": {"type": "disabled"}}
_UNKNOWN_OPTIONS: Final = frozenset({"seed", "logit_bias", "verbosity", "service_tier", "user"})


class DeepSeekProvider(OpenAICompatible):
    """DeepSeek. It thinks unless told not to; `reasoning_effort` (low, high, max) lets it."""

    default_base_url = "https://api.deepseek.com"
    default_models: ClassVar[Mapping[str, str]] = {"chat": "deepseek-flash"}

    @classmethod
    def get_provider_name(cls) -> str:
        return "deepseek"

    def chat_rules(self, model: str, options: Mapping[str, Any]) -> ChatRules:
        """`max_completion_tokens` is silently ignored, and so are the sampling fields while it thinks."""
        rules = ChatRules(json_mode="object", refused=_UNKNOWN_OPTIONS)
        if options.get("reasoning_effort") in (None, "none"):
            return ChatRules(json_mode="object", refused=_UNKNOWN_OPTIONS | {"reasoning_effort"}, extra=NO_THINKING)
        return rules.without(*SAMPLING)

    async def generate_content(self, prompt: str, **kwargs: Any) -> Reply:
        """As the base has it; an empty answer, which its JSON mode is known for, is asked for once more."""
        try:
            return await super().generate_content(prompt, **kwargs)
        except EmptyReply as error:
            if error.facts.get("finish_reason") != "stop":
                raise
        return await super().generate_content(prompt, **kwargs)

    def parse_model(self, row: Mapping[str, Any]) -> ModelInfo | None:
        """Every row is a chat model; what else a row says is optional."""
        model_id = str(row["id"])
        price = find_price(model_id, "deepseek")
        sees = "image" in (row.get("input_modalities") or ())
        return ModelInfo(
            model_id=model_id,
            display_name=as_text(row.get("name")) or price.name,
            capabilities=("chat", "content", "vision") if sees else ("chat", "content"),
            pricing_input=price.input,
            pricing_output=price.output,
            context_window=as_count(row.get("context_window")) or price.context_window,
            max_tokens=as_count(row.get("max_output_tokens")),
        )
