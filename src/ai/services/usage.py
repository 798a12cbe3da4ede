"""Limits, and what is told of usage."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import uuid4

from django.contrib.auth.models import AbstractUser
from django.db import Error
from django.dispatch import Signal

from src.ai.exceptions import ProviderAuthFailed, ProviderNoCredit
from src.ai.models import AdminProviderSettings, AIModel, AIProvider, Period, UsagePeriod, UsageText
from src.ai.services.access import KeySource
from src.ai.services.caller import current_caller
from src.ai.services.ledger.entries import CallFacts, Limit, Standing
from src.ai.services.ledger.estimates import highest_cost
from src.ai.services.ledger.meter import Settled
from src.ai.services.token_rules import TokenRules
from src.ai.signals import ai_call_settled, ai_key_failing, ai_limit_near
from src.core.months import Month, month_of

logger = logging.getLogger(__name__)

LEASE_MARGIN: Final = 60.0  # seconds beyond the longest time that a call may take
KEY_FAILURES: Final = frozenset({ProviderAuthFailed.code, ProviderNoCredit.code})


def limits_of(
    *,
    provider: AIProvider,
    admin: AbstractUser,
    own: AdminProviderSettings | None,
    source: KeySource,
    month: Month,
    rules: TokenRules | None = None,
) -> tuple[Limit, ...]:
    """The limits that hold for a call of `admin`, their own first.

    What the shared key pays for has its budget too, and so may the token have by which the call is made.
    """
    period = Period.of_admin(provider.pk, admin.pk, provider.slug, admin.get_username()[:150], month=month.first)
    limits = [Limit(period, *limits_of_admin(provider, own))]
    if source is KeySource.SHARED and provider.shared_monthly_budget is not None:
        shared = Period.of_shared_key(provider.pk, provider.slug, month=month.first)
        limits.append(Limit(shared, None, provider.shared_monthly_budget))
    if rules is not None and rules.monthly_budget is not None:
        token = Period.of_token(rules.token, admin.pk, period.admin_name, month=month.first)
        limits.append(Limit(token, None, rules.monthly_budget))
    return tuple(limit for limit in limits if limit.requests is not None or limit.budget is not None)


def limits_of_admin(provider: AIProvider, own: AdminProviderSettings | None) -> tuple[int | None, Decimal | None]:
    """An admin's limit on requests and their budget; without settings they have the provider's default limit."""
    return (provider.default_monthly_limit, None) if own is None else (own.monthly_limit, own.monthly_budget)


def call_facts(
    *,
    model: AIModel,
    admin: AbstractUser,
    own: AdminProviderSettings | None,
    source: KeySource,
    capability: str,
    operation: str,
    streamed: bool,
    seconds: float,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> CallFacts:
    """What the books are to know of a call. `seconds` is the longest that it may take."""
    provider, month, caller = model.provider, month_of(), current_caller()
    admin_period = Period.of_admin(provider.pk, admin.pk, provider.slug, admin.get_username()[:150], month=month.first)
    periods = [
        admin_period,
        Period.of_model(provider.pk, model.pk, provider.slug, model.model_id, month=month.first),
        Period.of_provider(provider.pk, provider.slug, month=month.first),
    ]
    if source is KeySource.SHARED:
        periods.append(Period.of_shared_key(provider.pk, provider.slug, month=month.first))
    rules = caller.rules
    budget_token = rules.token if rules is not None and rules.monthly_budget is not None else ""
    if budget_token:
        periods.append(Period.of_token(budget_token, admin.pk, admin_period.admin_name, month=month.first))
    return CallFacts(
        month=month.first,
        admin_id=admin.pk,
        admin_name=admin_period.admin_name,
        token=caller.token,
        budget_token=budget_token,
        key_source=source.value,
        provider_id=provider.pk,
        provider_slug=provider.slug,
        model_id=model.pk,
        model_name=model.model_id,
        capability=capability,
        operation=operation,
        request_id=caller.request_id or uuid4().hex,
        streamed=streamed,
        price_input=model.pricing_input,
        price_output=model.pricing_output,
        held_cost=highest_cost(model, capability, args, kwargs) or Decimal(0),
        lease_seconds=seconds + LEASE_MARGIN,
        periods=tuple(periods),
        limits=limits_of(provider=provider, admin=admin, own=own, source=source, month=month, rules=rules),
    )


# -- telling the application -------------------------------------------------------------------------------------------


def somebody_listens() -> bool:
    """Whether any receiver is told of calls."""
    return bool(ai_call_settled.receivers or ai_limit_near.receivers or ai_key_failing.receivers)


def announce(settled: Sequence[Settled]) -> None:
    """Send the signals of what was settled. Never raises."""
    for signal, facts in _signals(settled):
        signal.send_robust(sender=None, **facts)


async def aannounce(settled: Sequence[Settled]) -> None:
    """The asynchronous twin of `announce`."""
    for signal, facts in _signals(settled):
        await signal.asend_robust(sender=None, **facts)


def _signals(settled: Iterable[Settled]) -> Iterator[tuple[Signal, dict[str, Any]]]:
    for call in settled:
        if not call.outcome.changed:
            continue
        if ai_call_settled.receivers:
            yield ai_call_settled, {"call": call}
        if ai_limit_near.receivers:
            for standing in call.outcome.near:
                yield ai_limit_near, {"standing": standing, "call": call}
        if ai_key_failing.receivers and call.entry.error_code in KEY_FAILURES:
            facts = call.facts
            about = {"provider_slug": facts.provider_slug, "key_source": facts.key_source, "admin_id": facts.admin_id}
            yield ai_key_failing, {**about, "code": call.entry.error_code}


def keep_texts(settled: Sequence[Settled], prompt: str, reply: str) -> None:
    """Keep what was asked and answered beside the last record of a call, encrypted. Never raises."""
    if not settled:
        return
    try:
        UsageText.objects.create(public_id=settled[-1].entry.id, prompt=prompt, reply=reply)
    except Error:
        logger.exception("The texts of a call could not be kept")


# -- telling the admin -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Allowance:
    """What an admin has used at one provider this month and what is left; `None` where nothing limits it."""

    provider: dict[str, str]  # slug, name
    requests: int
    held_requests: int
    cost: Decimal
    held_cost: Decimal
    unpriced: int
    monthly_limit: int | None
    requests_left: int | None
    monthly_budget: Decimal | None
    budget_left: Decimal | None
    resets_at: datetime


def allowances(admin: AbstractUser) -> list[Allowance]:
    """The admin's month at each active provider, in three queries."""
    month = month_of()
    own = {row.provider_id: row for row in AdminProviderSettings.objects.filter(admin_id=admin.pk)}
    used = {
        row.provider_id: row
        for row in UsagePeriod.objects.filter(scope=UsagePeriod.Scope.ADMIN, admin=admin.pk, month=month.first)
    }
    return [
        _allowance(provider, admin, own.get(provider.pk), used.get(provider.pk) or UsagePeriod(), month)
        for provider in AIProvider.objects.filter(is_active=True)
    ]


def _allowance(
    provider: AIProvider, admin: AbstractUser, own: AdminProviderSettings | None, used: UsagePeriod, month: Month
) -> Allowance:
    period = Period.of_admin(provider.pk, admin.pk, provider.slug, admin.get_username(), month=month.first)
    limits = limits_of(provider=provider, admin=admin, own=own, source=KeySource.PERSONAL, month=month)
    limit = limits[0] if limits else Limit(period)
    standing = Standing(limit, used.requests + used.held_requests, Decimal(used.cost) + Decimal(used.held_cost))
    return Allowance(
        provider={"slug": provider.slug, "name": str(provider)},
        requests=used.requests,
        held_requests=used.held_requests,
        cost=Decimal(used.cost),
        held_cost=Decimal(used.held_cost),
        unpriced=used.unpriced,
        monthly_limit=limit.requests,
        requests_left=standing.requests_left,
        monthly_budget=limit.budget,
        budget_left=standing.budget_left,
        resets_at=month.end,
    )
