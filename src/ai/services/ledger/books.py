"""The one place that writes usage records and periods.

A batch of entries is one transaction of a few statements, on PostgreSQL and SQLite alike: lock the periods in the order
of their keys, settle, reserve where there is room, add up. As every writer begins with those locks, in that
order, no two can wait for each other, and at every commit a period equals its records.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from operator import add, sub
from typing import Any, Final
from uuid import UUID

import msgspec
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from src.ai.models import ConfigStamp, Period, UsageCarried, UsagePeriod, UsageRecord, UsageState
from src.ai.models.usage import MONEY_PLACES
from src.ai.services.ledger.entries import (
    UNITS,
    Entry,
    Limit,
    Outcome,
    Reserve,
    Settle,
    Standing,
    periods_of,
    to_units,
)
from src.core import postgres
from src.core.bulk import Statement
from src.core.postgres import SQL

NEAR: Final = 80  # percent of a limit

# What a record adds to its periods, in this order: the columns of `UsageSums`.
SUMS: Final = (
    "requests",
    "held_requests",
    "cost",
    "held_cost",
    "unpriced",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "reasoning_tokens",
    "images",
    "characters",
    "audio_seconds",
)
Sums = list[int]  # in the smallest units that the columns hold
Steps = Generator[tuple[SQL, ...], list[list[Any]], list[Outcome]]

_RESERVED: Final = (
    "id",
    "created_at",
    "month",
    "admin_id",
    "admin_name",
    "token",
    "budget_token",
    "key_source",
    "provider_id",
    "provider_slug",
    "model_id",
    "model_name",
    "capability",
    "operation",
    "request_id",
    "streamed",
    "price_input",
    "price_output",
    "requests",
    "held_cost",
    "lease_expires_at",
)
_AT_FIRST: Final = {
    "state": "'reserved'",
    "cost_state": "'unknown'",
    "finish_reason": "''",
    "error_code": "''",
    "response_id": "''",
}
_SETTLED: Final = (
    "id",
    "state",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "reasoning_tokens",
    "images",
    "characters",
    "audio_seconds",
    "requests",
    "cost",
    "cost_state",
    "latency_ms",
    "first_chunk_ms",
    "finish_reason",
    "error_code",
    "response_id",
    "settled_at",
)
_COST: Final = _SETTLED.index("cost")
_PERIOD: Final = (
    "key",
    "scope",
    "month",
    "provider_id",
    "provider_slug",
    "admin_id",
    "admin_name",
    "model_id",
    "model_name",
    "token",
)
_BEGIN: Final[Mapping[str, SQL]] = {"postgresql": ("BEGIN", ()), "sqlite": ("BEGIN IMMEDIATE", ())}
_PLACES: Final = {"cost": MONEY_PLACES, "held_cost": MONEY_PLACES, "audio_seconds": 3}


@dataclass(slots=True, eq=False)
class _Balance:
    """A locked period. The first four are up to date during a batch where a limit holds for it."""

    requests: int
    held_requests: int
    cost: int
    held_cost: int
    near: bool
    added: Sums = field(default_factory=lambda: [0] * len(SUMS))
    last_used_at: datetime | None = None
    near_at: datetime | None = None

    def standing(self, limit: Limit) -> Standing:
        return Standing(limit, self.requests + self.held_requests, self.cost + self.held_cost)


@dataclass(slots=True, eq=False)
class _Account:
    """The calls of a batch that count in the same periods, which add them up together when it ends."""

    periods: Sequence[_Balance]
    limited: Sequence[_Balance]
    added: Sums = field(default_factory=lambda: [0] * len(SUMS))
    last_used_at: datetime | None = None

    def add(self, sums: Sums) -> None:
        self.added = list(map(add, self.added, sums))
        requests, held_requests, cost, held_cost, *_ = sums
        for balance in self.limited:
            balance.requests += requests
            balance.held_requests += held_requests
            balance.cost += cost
            balance.held_cost += held_cost

    def add_up(self) -> None:
        for balance in self.periods:
            balance.added = list(map(add, balance.added, self.added))
            balance.last_used_at = _later(balance.last_used_at, self.last_used_at)


class _Batch:
    """The periods that are locked for some entries, and what these add to them."""

    def __init__(self, entries: Sequence[Entry], locked: Iterable[Sequence[Any]]) -> None:
        self.balances = {
            key: _Balance(int(requests), int(held_requests), int(cost), int(held_cost), near is not None)
            for key, requests, held_requests, cost, held_cost, near, _ in locked
        }
        # By identity, as calls that are alike share both; it costs less than looking at what is in them.
        limits = {id(entry.facts.limits): entry.facts.limits for entry in entries}
        limited = {limit.period.key for some in limits.values() for limit in some}
        self._accounts = {
            id(periods): _Account(
                [self.balances[period.key] for period in periods],
                [self.balances[period.key] for period in periods if period.key in limited],
            )
            for periods in _kinds(entries)
        }
        self._limits = limits
        self._standings: dict[int, list[Standing]] = {number: [] for number in limits}

    def account(self, entry: Entry) -> _Account:
        return self._accounts[id(entry.facts.periods)]

    def standings(self, entry: Entry) -> Sequence[Standing]:
        """Where the limits of the entry stand once the batch is written: known when it has been added up."""
        return self._standings[id(entry.facts.limits)]

    def add_up(self) -> Mapping[str, _Balance]:
        """The periods with what is to be added to each."""
        for account in self._accounts.values():
            account.add_up()
        for number, limits in self._limits.items():
            self._standings[number] += [self.balances[limit.period.key].standing(limit) for limit in limits]
        return self.balances


def _kinds(entries: Iterable[Entry]) -> Iterable[tuple[Period, ...]]:
    """The different combinations of periods that the entries count in."""
    return {id(entry.facts.periods): entry.facts.periods for entry in entries}.values()


class Unusual(Exception):
    """A batch needs to know more of what is written than its own statements tell."""


class Books:
    """The books behind one database connection, on which the caller has begun a transaction."""

    def __init__(self, connection: BaseDatabaseWrapper, *, asks: bool = True) -> None:
        """`asks`: whether the ORM may be used beside `connection`, which waits for the database."""
        self.connection = connection
        self._asks = asks
        self.stamp: str | None = None  # the `ConfigStamp` that the last batch saw when it began
        records, periods = UsageRecord._meta.db_table, UsagePeriod._meta.db_table
        # As an array of one it can only be looked up by its index, so that a plan made for an empty table stays good.
        is_new = "= ANY (ARRAY[new.{}])" if connection.vendor == "postgresql" else "= new.{}"
        inserted = self._statement(UsageRecord, _RESERVED)
        insert = f"INSERT INTO {records} ({inserted.columns}, {', '.join(_AT_FIRST)}) " + inserted.select_with(
            _AT_FIRST.values()
        )
        settled = self._statement(UsageRecord, _SETTLED)
        written = ", ".join(f"{name} = new.{name}" for name in _SETTLED if name != "id")
        settle = (
            f"WITH new ({settled.columns}) AS ({settled.select}) "
            f"UPDATE {records} SET {written} FROM new "
            # By its key: an index on `state` is full of rows that have left the state, until they are vacuumed.
            f"WHERE {records}.id {is_new.format('id')} AND {records}.state || '' = %s RETURNING {records}.id"
        )
        opened = self._statement(UsagePeriod, _PERIOD)
        lock = (
            f"INSERT INTO {periods} ({opened.columns}, {', '.join(SUMS)}) "
            f"{opened.select_with(['0'] * len(SUMS))} "
            "ON CONFLICT (key) DO UPDATE SET key = excluded.key "
            "RETURNING key, requests, held_requests, cost, held_cost, near_limit_at, "
            f"(SELECT value FROM {ConfigStamp._meta.db_table} WHERE id = {ConfigStamp.ONLY_ID})"
        )
        added = self._statement(UsagePeriod, ("key", *SUMS, "last_used_at", "near_limit_at"))
        sums = ", ".join(f"{name} = {periods}.{name} + new.{name}" for name in SUMS)
        latest = "GREATEST" if connection.vendor == "postgresql" else "MAX"
        add_to = (
            f"WITH new ({added.columns}) AS ({added.select}) "
            f"UPDATE {periods} SET {sums}, "
            f"last_used_at = {latest}(COALESCE({periods}.last_used_at, new.last_used_at),"
            f" COALESCE(new.last_used_at, {periods}.last_used_at)), "
            f"near_limit_at = COALESCE({periods}.near_limit_at, new.near_limit_at) "
            f"FROM new WHERE {periods}.key {is_new.format('key')}"
        )
        self._plain = {"lock": lock, "settle": settle, "insert": insert, "add": add_to}
        self._sql: Mapping[str, str] = self._plain
        self._session: Any = None  # which keeps them prepared

    def write(self, entries: Sequence[Entry], *, again: bool = False) -> list[Outcome]:
        """`apply` as a transaction of its own, on a connection that is in none. Where it raises, close the connection.

        PostgreSQL is asked twice: to begin, lock and settle, and to write the rest and commit. Its session keeps the
        statements prepared, as it takes longer to parse and plan them than to execute them.
        """
        if self.connection.vendor == "postgresql":
            self.prepare()
        return self._run(self.steps(entries, again=again))

    def apply(self, entries: Sequence[Entry], *, again: bool = False) -> list[Outcome]:
        """Write the entries; each one's outcome, in the same order. Settlements make room before reservations take it.

        Args:
            entries: of each call one, its reservation or its settlement.
            again: some may have been written before, by an attempt whose end nobody saw; none counts twice.
        """
        return self._run(self._steps(entries, again))

    def prepare(self) -> None:
        """Have PostgreSQL's session keep the statements, if it does not yet."""
        self.connection.ensure_connection()
        if self._session is not self.connection.connection:
            self._session, self._sql = self.connection.connection, postgres.prepare(self.connection, self._plain)

    def steps(self, entries: Sequence[Entry], *, again: bool = False) -> Steps:
        """`write` for who sends what it yields himself: what is sent with one message, to be answered with its rows.

        What does not end as it mostly does, such as a settlement of what is settled, asks the database by itself.

        Raises:
            Unusual: that was needed, and is not allowed.
        """
        return self._steps(entries, again, begin=(_BEGIN[self.connection.vendor],), commit=(("COMMIT", ()),))

    def _run(self, steps: Steps) -> list[Outcome]:
        try:
            statements = next(steps)
            while True:
                statements = steps.send(self._send(*statements))
        except StopIteration as done:
            outcomes: list[Outcome] = done.value
            return outcomes

    def _steps(
        self,
        entries: Sequence[Entry],
        again: bool,
        begin: tuple[SQL, ...] = (),
        commit: tuple[SQL, ...] = (),
    ) -> Steps:
        settles = [entry for entry in entries if isinstance(entry, Settle)]
        reserves = [entry for entry in entries if isinstance(entry, Reserve)]
        rows = [self._settled_row(entry) for entry in settles]
        lock = self._lock({period.key: period for periods in _kinds(entries) for period in periods})
        locked, *written = (yield (*begin, lock, *self._settle(rows, UsageState.RESERVED)))[len(begin) :]
        self.stamp = locked[0][6]
        batch = _Batch(entries, locked)
        settled = self._count(settles, rows, written[0], batch) if settles else []
        known = self._known([entry.id for entry in reserves if again or entry.forced])
        reserved, accepted = self._reserve(reserves, known, batch)
        insert = ((self._sql["insert"], (_json(accepted),)),) if accepted else ()
        yield (*insert, *self._add(batch.add_up()), *commit)
        in_order = {Settle: iter(settled), Reserve: iter(reserved)}
        return [next(in_order[type(entry)]) for entry in entries]

    def lock(self, periods: Mapping[str, Period]) -> None:
        """Lock the periods' rows until the transaction ends, and make those that are missing."""
        self._send(self._lock(periods))

    def carry_over(self, rows: Iterable[UsageRecord]) -> None:
        """Have the periods of `rows`, which are locked, carry what these count there: they are about to be deleted."""
        carried: dict[str, Sums] = {}
        for row in rows:
            for period in periods_of(row):
                sums = carried.setdefault(period.key, [0] * len(SUMS))
                carried[period.key] = list(map(add, sums, sums_of(row)))
        for key, sums in carried.items():
            amounts = {
                name: Decimal(amount).scaleb(-_PLACES.get(name, 0)) for name, amount in zip(SUMS, sums, strict=True)
            }
            carries, _ = UsageCarried.objects.using(self.connection.alias).get_or_create(period_id=key)
            for name, amount in amounts.items():
                setattr(carries, name, getattr(carries, name) + amount)
            carries.save(using=self.connection.alias)

    # -- the parts of a batch --------------------------------------------------------------------------------------

    def _lock(self, periods: Mapping[str, Period]) -> SQL:
        rows = [
            [
                period.key,
                period.scope,
                period.month,
                period.provider_id,
                period.provider_slug,
                period.admin_id,
                period.admin_name,
                period.model_id,
                period.model_name,
                period.token,
            ]
            for _, period in sorted(periods.items())
        ]
        return self._sql["lock"], (_json(rows),)

    def _settle(self, rows: Sequence[list[Any]], before: UsageState) -> tuple[SQL, ...]:
        """Write those of `rows` whose record is in the state `before`; answers with their ids."""
        return ((self._sql["settle"], (_json(rows), before.value)),) if rows else ()

    def _count(
        self, entries: Sequence[Settle], rows: Sequence[list[Any]], written: Sequence[Sequence[Any]], batch: _Batch
    ) -> list[Outcome]:
        """Add what was settled to its periods; the outcomes. `written` are the ids of those that were open."""
        outcomes = []
        for entry, row, before in zip(entries, rows, self._counted(entries, rows, written), strict=True):
            if before is None:
                outcomes.append(Outcome(batch.standings(entry), changed=False))
                continue
            account = batch.account(entry)
            account.add(list(map(sub, _charged(entry, row[_COST] or 0), before)))
            if entry.requests:
                account.last_used_at = _later(account.last_used_at, entry.settled_at)
            near = self._near(entry, batch)
            outcomes.append(Outcome(batch.standings(entry), near=near))
        return outcomes

    def _counted(
        self, entries: Sequence[Settle], rows: Sequence[list[Any]], written: Sequence[Sequence[Any]]
    ) -> list[Sums | None]:
        """What each call has been counted with; `None` where its settlement changes nothing."""
        if len(written) == len(entries):
            return [_held(entry.held_requests, entry.facts.held_cost) for entry in entries]
        were_open = _hexes(written)
        # A call that was swept and comes back after all: what it tells is better than what was assumed.
        assumed = self._unknown([e.id for e in entries if not e.lapsed and e.id.hex not in were_open])
        if assumed:
            late = [row for entry, row in zip(entries, rows, strict=True) if entry.id in assumed]
            self._send(*self._settle(late, UsageState.UNKNOWN))
        return [
            _held(e.held_requests, e.facts.held_cost) if e.id.hex in were_open else assumed.get(e.id) for e in entries
        ]

    def _reserve(
        self, entries: Sequence[Reserve], known: Set[UUID], batch: _Batch
    ) -> tuple[list[Outcome], list[list[Any]]]:
        """The outcomes, and the rows of those that there is room for."""
        outcomes, accepted = [], []
        for entry in entries:
            held = _held(entry.requests, entry.facts.held_cost)
            is_new = entry.id not in known
            refused = self._without_room(entry, held, batch) if is_new and not entry.forced else None
            if refused is not None:
                limit, over_budget = refused
                outcomes.append(Outcome(batch.standings(entry), refused_by=limit, over_budget=over_budget))
                continue
            if is_new:
                batch.account(entry).add(held)
                accepted.append(self._reserved_row(entry, held[3]))
            outcomes.append(Outcome(batch.standings(entry)))
        return outcomes, accepted

    def _without_room(self, entry: Reserve, held: Sums, batch: _Batch) -> tuple[Limit, bool] | None:
        """The first limit that the call would pass, and whether it is the budget."""
        for limit in entry.facts.limits:
            balance = batch.balances[limit.period.key]
            if limit.requests is not None and balance.requests + balance.held_requests + held[1] > limit.requests:
                return limit, False
            if (budget := limit.budget_units) is None:
                continue
            # A budget that is used up refuses even what seems to cost nothing.
            spent = balance.cost + balance.held_cost
            if spent + held[3] > budget or (spent >= budget and not _is_free(entry)):
                return limit, True
        return None

    def _near(self, entry: Settle, batch: _Batch) -> tuple[Standing, ...]:
        near = []
        for limit in entry.facts.limits:
            balance = batch.balances[limit.period.key]
            if balance.near:
                continue
            if _is_near(balance.requests, limit.requests) or _is_near(balance.cost, limit.budget_units):
                balance.near, balance.near_at = True, entry.settled_at
                near.append(Standing(limit, balance.requests, balance.cost))
        return tuple(near)

    def _add(self, balances: Mapping[str, _Balance]) -> tuple[SQL, ...]:
        rows = [
            [key, *balance.added, self._time(balance.last_used_at), self._time(balance.near_at)]
            for key, balance in balances.items()
            if any(balance.added) or balance.near_at or balance.last_used_at
        ]
        return ((self._sql["add"], (_json(rows),)),) if rows else ()

    # -- rows ------------------------------------------------------------------------------------------------------

    def _reserved_row(self, entry: Reserve, held_cost: int) -> list[Any]:
        facts = entry.facts
        return [
            entry.id.hex,
            self._time(entry.created_at),
            facts.month,
            facts.admin_id,
            facts.admin_name,
            facts.token,
            facts.budget_token,
            facts.key_source,
            facts.provider_id,
            facts.provider_slug,
            facts.model_id,
            facts.model_name,
            facts.capability,
            facts.operation,
            facts.request_id,
            facts.streamed,
            self._price(facts.price_input),
            self._price(facts.price_output),
            entry.requests,
            held_cost,
            self._time(entry.created_at + timedelta(seconds=facts.lease_seconds)),
        ]

    def _settled_row(self, entry: Settle) -> list[Any]:
        usage = entry.usage
        return [
            entry.id.hex,
            entry.state,
            usage.input_tokens,
            usage.output_tokens,
            usage.cache_read_tokens,
            usage.reasoning_tokens,
            usage.images,
            usage.characters,
            None if usage.audio_seconds is None else round(usage.audio_seconds * 1000),
            entry.requests,
            None if entry.cost is None else to_units(entry.cost),
            entry.cost_state,
            entry.latency_ms,
            entry.first_chunk_ms,
            _text(entry.finish_reason, 50),
            _text(entry.error_code, 50),
            _text(entry.response_id, 128),
            self._time(entry.settled_at),
        ]

    def _unknown(self, ids: Sequence[UUID]) -> dict[UUID, Sums]:
        """What the records of these that were given up are counted with."""
        if not ids:
            return {}
        self._check_that_it_asks()
        rows = UsageRecord.objects.using(self.connection.alias).filter(pk__in=ids, state=UsageState.UNKNOWN)
        return {row.pk: sums_of(row) for row in rows}

    def _known(self, ids: Sequence[UUID]) -> set[UUID]:
        """Those of the calls that are on the books."""
        if not ids:
            return set()
        self._check_that_it_asks()
        return set(UsageRecord.objects.using(self.connection.alias).filter(pk__in=ids).values_list("pk", flat=True))

    def _check_that_it_asks(self) -> None:
        if not self._asks:
            raise Unusual

    # -- SQL -------------------------------------------------------------------------------------------------------

    def _statement(self, model: Any, names: Sequence[str]) -> Statement:
        fields = {field.attname: field for field in model._meta.concrete_fields}
        return Statement(model, [fields[name] for name in names], self.connection)

    def _send(self, *statements: SQL) -> list[list[Any]]:
        """Execute the statements, in one message where the database takes that; the rows that each answers with."""
        if not statements:
            return []
        if self.connection.vendor == "postgresql":
            return postgres.send(self.connection, statements)
        with self.connection.cursor() as cursor:
            return [cursor.execute(*statement).fetchall() for statement in statements]

    def _time(self, moment: datetime | None) -> datetime | str | None:
        """In the form in which Django stores it."""
        if moment is None or self.connection.vendor == "postgresql":
            return moment
        return str(timezone.make_naive(moment, UTC))

    def _price(self, price: Decimal | None) -> Decimal | float | None:
        return price if price is None or self.connection.vendor == "postgresql" else float(price)


def _json(rows: Sequence[list[Any]]) -> str:
    return msgspec.json.encode(rows).decode()


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max(one, other) if one and other else one or other


def _text(told: str, length: int) -> str:
    """As PostgreSQL can keep it."""
    return told.replace("\0", "\N{REPLACEMENT CHARACTER}")[:length]


def _is_near(used: int, limit: int | None) -> bool:
    return limit is not None and 100 * used >= NEAR * limit


def _held(requests: int, cost: Decimal) -> Sums:
    """What a reservation adds to its periods."""
    sums = [0] * len(SUMS)
    sums[1], sums[3] = requests, int(cost * UNITS)
    return sums


def _charged(entry: Settle, cost: int) -> Sums:
    """What a settled call adds to its periods. `cost` is 0 where it is not known."""
    usage = entry.usage
    return [
        entry.requests,
        0,
        cost,
        0,
        int(entry.cost is None),
        usage.input_tokens or 0,
        usage.output_tokens or 0,
        usage.cache_read_tokens or 0,
        usage.reasoning_tokens or 0,
        usage.images or 0,
        usage.characters or 0,
        round((usage.audio_seconds or 0) * 1000),
    ]


def sums_of(row: UsageRecord) -> Sums:
    """What a stored record adds to its periods."""
    if row.state == UsageState.RESERVED:
        return _held(row.requests, row.held_cost)
    return [
        row.requests,
        0,
        to_units(row.cost or Decimal(0)),
        0,
        int(row.cost is None),
        *(getattr(row, name) or 0 for name in SUMS[5:11]),
        round((row.audio_seconds or 0) * 1000),
    ]


def _is_free(entry: Reserve) -> bool:
    return entry.facts.price_input == 0 and entry.facts.price_output == 0


def _hexes(rows: Iterable[Sequence[str]]) -> set[str]:
    """Ids as hexadecimal digits, which is how SQLite keeps them."""
    return {row[0].replace("-", "") for row in rows}
