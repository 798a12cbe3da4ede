"""What an answer says of the limits that held for it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from time import time
from typing import Final

from src.ai.models import UsagePeriod
from src.ai.services.ledger.entries import Standing
from src.core.months import month_of

_ADMIN: Final = UsagePeriod.Scope.ADMIN


def limit_headers(standings: Iterable[Standing]) -> dict[str, str]:
    """The headers for the admin's own limits; none where nothing limits them. The reset is in seconds from now."""
    headers: dict[str, str] = {}
    for standing in standings:
        limit = standing.limit
        if limit.period.scope != _ADMIN:
            continue
        if limit.requests is not None:
            headers["X-AI-Limit"] = str(limit.requests)
            headers["X-AI-Limit-Remaining"] = str(standing.requests_left)
        if limit.budget is not None:
            headers["X-AI-Budget"] = f"{limit.budget:f}"
            headers["X-AI-Budget-Remaining"] = f"{standing.budget_left:f}"
        headers["X-AI-Limit-Reset"] = str(math.ceil(month_of().ends_at - time()))
    return headers
