"""What is told of calls outside of the books: facts, never texts or keys.

Names are those of OpenTelemetry's GenAI conventions where these have one, else those of `UsageRecord`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final

from src.ai.services.ledger.entries import CallFacts, Settle

logger = logging.getLogger("src.ai.calls")

# Where the conventions name a vendor otherwise than its slug.
PROVIDER_NAMES: Final = {"gemini": "gcp.gemini"}
_LINE: Final = {
    "name": logger.name,
    "levelno": logging.INFO,
    "levelname": logging.getLevelName(logging.INFO),
    "msg": "A request to a vendor has ended",
}


def log_calls(facts: CallFacts, entries: Iterable[Settle]) -> None:
    """One line for each request to a vendor, as it ends."""
    if logger.isEnabledFor(logging.INFO):
        for entry in entries:
            # Made here, as `logger.info` would look up the calling line, which costs as much again.
            logger.handle(logging.makeLogRecord({**_LINE, **call_attributes(facts, entry)}))


def call_attributes(facts: CallFacts, entry: Settle) -> dict[str, Any]:
    """What is known of a request; what is not is left out."""
    usage = entry.usage
    attributes = {
        "request_id": facts.request_id,
        "record": str(entry.id),
        "admin_id": facts.admin_id,
        "key_source": facts.key_source,
        "gen_ai.provider.name": PROVIDER_NAMES.get(facts.provider_slug, facts.provider_slug),
        "gen_ai.operation.name": facts.operation,
        "gen_ai.request.model": facts.model_name,
        "gen_ai.request.stream": facts.streamed,
        "state": entry.state.value,
        "error.type": entry.error_code,
        "gen_ai.response.id": entry.response_id,
        "gen_ai.response.finish_reasons": [entry.finish_reason] if entry.finish_reason else None,
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cache_read_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
        "images": usage.images,
        "characters": usage.characters,
        "audio_seconds": usage.audio_seconds,
        "cost": None if entry.cost is None else f"{entry.cost:f}",
        "cost_state": entry.cost_state.value,
        "latency_ms": entry.latency_ms,
        "first_chunk_ms": entry.first_chunk_ms,
    }
    return {name: value for name, value in attributes.items() if value not in (None, "")}
