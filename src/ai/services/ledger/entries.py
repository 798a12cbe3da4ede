"""What is written on the books, and what they answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec

from src.ai.models import CostState, Period, UsageState
from src.ai.models.usage import MONEY_PLACES
from src.ai.results import Usage

NO_USAGE: Final = Usage()
UNITS: Final = Decimal(10) ** MONEY_PLACES


def to_units(amount: Decimal) -> int:
    """US$ in the smallest units that the columns hold."""
    return round(amount * UNITS)


@dataclass(frozen=True, slots=True)
class Limit:
    """What one period may come to; `None` is no limit."""

    period: Period
    requests: int | None = None
    budget: Decimal | None = None
    budget_units: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.budget is not None:
            object.__setattr__(self, "budget_units", to_units(self.budget))


class CallFacts(msgspec.Struct, kw_only=True, eq=False):
    """What is known of a call before it is made, the same for each of its attempts. Times are aware; money is US$."""

    month: date
    admin_id: int
    admin_name: str
    token: str
    budget_token: str  # the token, if it has a budget
    key_source: str
    provider_id: int
    provider_slug: str
    model_id: int
    model_name: str
    capability: str
    operation: str
    request_id: str
    streamed: bool
    price_input: Decimal | None
    price_output: Decimal | None
    held_cost: Decimal
    lease_seconds: float
    periods: tuple[Period, ...]
    limits: tuple[Limit, ...]
    needs_price: bool = False  # it has a budget, and a price that is not known


class Reserve(msgspec.Struct, kw_only=True, eq=False):
    """A call that is about to be made. `forced` writes it down whatever the limits say: it has been made already."""

    id: UUID
    facts: CallFacts
    created_at: datetime
    requests: int = 1  # what it holds of a limit on requests
    forced: bool = False


class Settle(msgspec.Struct, kw_only=True, eq=False):
    """How a call ended. `lapsed` says that nobody knows: only a reservation is changed by it."""

    id: UUID
    facts: CallFacts
    state: UsageState
    held_requests: int = 1  # as in its reservation
    requests: int = 0
    usage: Usage = NO_USAGE
    cost: Decimal | None = None
    cost_state: CostState = CostState.UNKNOWN
    latency_ms: int | None = None
    first_chunk_ms: int | None = None
    finish_reason: str = ""
    error_code: str = ""
    response_id: str = ""
    settled_at: datetime = msgspec.field(default_factory=lambda: datetime.now(UTC))
    lapsed: bool = False


Entry = Reserve | Settle


def total_cost(entries: Iterable[Settle]) -> Decimal | None:
    """What a call cost in all, in US$; `None` where one of its requests has no known cost."""
    total = Decimal(0)
    for entry in entries:
        if entry.cost is None:
            return None
        total += entry.cost
    return total


class Standing(NamedTuple):
    """Where a limited period stands, calls under way included."""

    limit: Limit
    requests: int
    cost_units: int

    @property
    def cost(self) -> Decimal:
        return Decimal(self.cost_units).scaleb(-MONEY_PLACES)

    @property
    def requests_left(self) -> int | None:
        return None if self.limit.requests is None else max(self.limit.requests - self.requests, 0)

    @property
    def budget_left(self) -> Decimal | None:
        units = self.limit.budget_units
        return None if units is None else Decimal(max(units - self.cost_units, 0)).scaleb(-MONEY_PLACES)


class Outcome(NamedTuple):
    """What became of an entry.

    `standings` are those of its call's limits once all that was written together is on the books. `refused_by` is the
    limit without room for a reservation, and `over_budget` which of its two numbers. `changed` says whether a
    settlement was the first of its call; `near` are the limits of which 80 % were used up just now.
    """

    standings: Sequence[Standing] = ()
    refused_by: Limit | None = None
    over_budget: bool = False
    changed: bool = True
    near: tuple[Standing, ...] = ()


def facts_of(row: Any, periods: tuple[Period, ...]) -> CallFacts:
    """The facts of a stored `UsageRecord`."""
    return CallFacts(
        month=row.month,
        admin_id=row.admin_id,
        admin_name=row.admin_name,
        token=row.token,
        budget_token=row.budget_token,
        key_source=row.key_source,
        provider_id=row.provider_id,
        provider_slug=row.provider_slug,
        model_id=row.model_id,
        model_name=row.model_name,
        capability=row.capability,
        operation=row.operation,
        request_id=row.request_id,
        streamed=row.streamed,
        price_input=row.price_input,
        price_output=row.price_output,
        held_cost=row.held_cost,
        lease_seconds=0,
        periods=periods,
        limits=(),
    )


def periods_of(row: Any) -> tuple[Period, ...]:
    """The periods that a `UsageRecord`, or its `CallFacts`, counts in."""
    provider, month = (row.provider_id, row.provider_slug), row.month
    periods = [
        Period.of_admin(row.provider_id, row.admin_id, row.provider_slug, row.admin_name, month=month),
        Period.of_model(row.provider_id, row.model_id, row.provider_slug, row.model_name, month=month),
        Period.of_provider(*provider, month=month),
    ]
    if row.key_source == "shared":
        periods.append(Period.of_shared_key(*provider, month=month))
    if row.budget_token:
        periods.append(Period.of_token(row.budget_token, row.admin_id, row.admin_name, month=month))
    return tuple(periods)
