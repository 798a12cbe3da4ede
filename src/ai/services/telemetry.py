"""What is told of calls outside of the books: facts, never texts or keys.

Names are those of OpenTelemetry's GenAI conventions where these have one, else those of `UsageRecord`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import structs

from src.ai.services.ledger.entries import CallFacts, Settle

logger = logging.getLogger("src.ai.calls")

# Where the conventions name a vendor otherwise than its slug.
PROVIDER_NAMES: Final = {"gemini": "gcp.gemini"}
# The fields of `Usage`, in their order.
_UNITS: Final = (
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.output_tokens",
    "gen_ai.usage.cache_read.input_tokens",
    "gen_ai.usage.reasoning.output_tokens",
    "images",
    "characters",
    "audio_seconds",
)
_LINE: Final[Mapping[str, Any]] = {
    **vars(logging.makeLogRecord({})),
    "name": logger.name,
    "levelno": logging.INFO,
    "levelname": logging.getLevelName(logging.INFO),
    "msg": "A request to a vendor has ended",
}


def log_calls(facts: CallFacts, entries: Iterable[Settle]) -> None:
    """One line for each request to a vendor, as it ends."""
    if logger.isEnabledFor(logging.INFO):
        for entry in entries:
            logger.handle(_record(call_attributes(facts, entry)))


def _record(attributes: Mapping[str, Any]) -> logging.LogRecord:
    """Made here, as `logger.info` would look up the calling line, the thread and the process, which costs more."""
    record = logging.LogRecord.__new__(logging.LogRecord)
    now = time.time()
    since_start = _LINE["relativeCreated"] + (now - _LINE["created"]) * 1000
    fields = record.__dict__
    fields.update(_LINE)
    fields.update(attributes)
    fields["created"], fields["msecs"], fields["relativeCreated"] = now, now % 1 * 1000, since_start
    return record


def call_attributes(facts: CallFacts, entry: Settle) -> dict[str, Any]:
    """What is known of a request; what is not is left out."""
    usage, provider = entry.usage, facts.provider_slug
    known: dict[str, Any] = {
        "request_id": facts.request_id,
        "record": str(entry.id),
        "admin_id": facts.admin_id,
        "key_source": facts.key_source,
        "gen_ai.provider.name": PROVIDER_NAMES.get(provider, provider),
        "gen_ai.operation.name": facts.operation,
        "gen_ai.request.model": facts.model_name,
        "gen_ai.request.stream": facts.streamed,
        "state": entry.state.value,
    }
    if entry.error_code:
        known["error.type"] = entry.error_code
    if entry.response_id:
        known["gen_ai.response.id"] = entry.response_id
    if entry.finish_reason:
        known["gen_ai.response.finish_reasons"] = [entry.finish_reason]
    for name, units in zip(_UNITS, structs.astuple(usage), strict=True):
        if units is not None:
            known[name] = units
    if entry.cost is not None:
        known["cost"] = f"{entry.cost:f}"
    known["cost_state"] = entry.cost_state.value
    if entry.latency_ms is not None:
        known["latency_ms"] = entry.latency_ms
    if entry.first_chunk_ms is not None:
        known["first_chunk_ms"] = entry.first_chunk_ms
    return known
