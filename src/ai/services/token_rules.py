"""What a token may be used for: the one place that decides it, for every way in that a token opens.

    rules_of(token)      the token's rules; None where it has none
    check()              raises what refuses a call
    allows()             the same as a question: for lists, and to choose a model

Its rates are held by `src.ai.services.rates`, its budget by the books.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from src.ai.exceptions import TokenMayNotMakeTokens, TokenNotAllowed
from src.ai.models import AIModel, APIToken

NO_RULES: Final = None  # of a token that carries none, and of whoever calls without a token
_KEPT_AS: Final = "_rules"


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What one token carries: an empty set allows all, `None` is no limit. Money is US$.

    `token` is its first characters, by which API, books and rates know it.
    """

    token: str
    name: str = ""
    capabilities: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()  # "provider-slug/model-id" or "provider-slug/*"
    requests_per_minute: int | None = None
    concurrent_requests: int | None = None
    monthly_budget: Decimal | None = None

    @property
    def has_rates(self) -> bool:
        return self.requests_per_minute is not None or self.concurrent_requests is not None

    def __str__(self) -> str:
        return self.name or self.token


def rules_of(token: APIToken) -> TokenRules | None:
    """The rules of a token, `NO_RULES` where it carries none.

    They are made once for each row in memory, and again for a row that is read anew: don't change the row in between.
    """
    try:
        rules: TokenRules | None = token.__dict__[_KEPT_AS]
    except KeyError:
        rules = token.__dict__[_KEPT_AS] = _made(token)
    return rules


def _made(token: APIToken) -> TokenRules | None:
    rates = (token.requests_per_minute, token.concurrent_requests)
    if not (token.capabilities or token.models) and (*rates, token.monthly_budget) == (None, None, None):
        return NO_RULES
    allowed = (frozenset(token.capabilities), frozenset(token.models))
    return TokenRules(token.token_key, token.name, *allowed, *rates, token.monthly_budget)


def check(rules: TokenRules | None, model: AIModel, capability: str) -> None:
    """See that the rules allow the model for the capability.

    Raises:
        TokenNotAllowed: they do not.
    """
    if not allows(rules, model, capability):
        name = f"{model.provider.slug}/{model.model_id}"
        raise TokenNotAllowed(token=str(rules), model=name, capability=capability)


def allows(rules: TokenRules | None, model: AIModel, capability: str) -> bool:
    """Whether the rules allow the model for the capability. Reads nothing but what is in memory."""
    if rules is None:
        return True
    if not allows_capability(rules, capability):
        return False
    slug = model.provider.slug
    return not rules.models or f"{slug}/*" in rules.models or f"{slug}/{model.model_id}" in rules.models


def allows_capability(rules: TokenRules | None, capability: str) -> bool:
    """Whether the rules allow the capability with any model at all."""
    return rules is None or not rules.capabilities or capability in rules.capabilities


def check_may_make_tokens(rules: TokenRules | None) -> None:
    """See that no token makes one that may do more than itself: with any rules it makes none.

    Raises:
        TokenMayNotMakeTokens: it carries rules.
    """
    if rules is not None:
        raise TokenMayNotMakeTokens(token=str(rules))
