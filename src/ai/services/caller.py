"""On whose behalf the running code calls: facts of the request that the books keep, where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Final

from src.ai.services.token_rules import TokenRules
from src.core.request_id import current_request_id


@dataclass(frozen=True, slots=True)
class Caller:
    """`token` is the first characters of the token that was sent, `request_id` the name of the request in logs.

    `rules` are what the token may be used for; `None` allows everything.
    `shares_connections` says that no query goes on while a vendor is asked, so that others may use the connection.
    """

    token: str = ""
    request_id: str = ""
    shares_connections: bool = False
    rules: TokenRules | None = None


NOBODY: Final = Caller()
_caller: ContextVar[Caller] = ContextVar("ai_caller", default=NOBODY)


def current_caller() -> Caller:
    """Who calls now; without facts outside a request."""
    caller = _caller.get()
    return caller if caller.request_id else replace(caller, request_id=current_request_id())


def identify(*, token: str, rules: TokenRules | None = None) -> None:
    """Say more of the caller, once more is known."""
    _caller.set(replace(_caller.get(), token=token, rules=rules))


@contextmanager
def calling(caller: Caller) -> Iterator[None]:
    """What runs inside calls on behalf of `caller`."""
    reset = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(reset)
