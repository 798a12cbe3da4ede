"""The models of this provider: what its rows, its own list and its results call them."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Final

from django.utils.text import slugify
from django.utils.translation import gettext as _

from src.ai.results import ModelInfo
from src.ai_local import packages

BUNDLED_LLM_ID: Final = "smollm2-135m-instruct"
SPEECH_ID: Final = "espeak-ng"
IMAGE_ID: Final = "placeholder-card"

# Tokens of prompt and reply together: 2048 took a bare process to 198 MB, 4096 to 245 MB, 8192 to 337 MB.
CONTEXT_WINDOW: Final = 4096
MAX_TOKENS: Final = 2048

FREE: Final = Decimal(0)


def get_llm_id() -> str:
    """The id of the language model in use: the bundled one, or one made of the name of the file in `LOCAL_GGUF`."""
    configured = packages.configured_gguf()
    return slugify(Path(configured).stem.replace(".", "-")) or "local-gguf" if configured else BUNDLED_LLM_ID


def get_models() -> list[ModelInfo]:
    """The three models of this installation, each saying what it is."""
    return [
        _llm(),
        ModelInfo(
            model_id=SPEECH_ID,
            display_name=_("eSpeak NG (local demo, robotic voice)"),
            description=_("A formant synthesiser on this machine: clear, small and audibly a machine."),
            capabilities=("audio",),
            pricing_input=FREE,
            pricing_output=FREE,
        ),
        ModelInfo(
            model_id=IMAGE_ID,
            display_name=_("Placeholder card (no image model)"),
            description=_("Draws a card with the prompt on it. It is not a model: none is installed."),
            capabilities=("image",),
            pricing_input=FREE,
            pricing_output=FREE,
        ),
    ]


def _llm() -> ModelInfo:
    bundled = not packages.configured_gguf()
    name = _("SmolLM2 135M (tiny local demo)") if bundled else _("{id} (local file)").format(id=get_llm_id())
    description = (
        _(
            "A tiny language model on this machine, to try things without an API key. It knows little, makes things up "
            "and writes English only."
        )
        if bundled
        else _("The model in the file that LOCAL_GGUF names.")
    )
    return ModelInfo(
        model_id=get_llm_id(),
        display_name=name,
        description=description,
        capabilities=("chat", "content"),
        pricing_input=FREE,
        pricing_output=FREE,
        context_window=CONTEXT_WINDOW,
        max_tokens=MAX_TOKENS,
    )
