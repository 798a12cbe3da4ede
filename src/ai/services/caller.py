"""On whose behalf the running code calls: facts of the request that the books keep, where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class Caller:
    """`token` is the first characters of the token that was sent, `request_id` the name of the request in logs."""

    token: str = ""
    request_id: str = ""


NOBODY: Final = Caller()
_caller: ContextVar[Caller] = ContextVar("ai_caller", default=NOBODY)


def current_caller() -> Caller:
    """Who calls now; without facts outside a request."""
    return _caller.get()


def serves_request() -> bool:
    """Whether the running code answers an HTTP request to this app, and is not called by other code of the site."""
    return _caller.get() is not NOBODY


def identify(**facts: str) -> None:
    """Say more of the caller, once more is known."""
    _caller.set(replace(_caller.get(), **facts))


@contextmanager
def calling(caller: Caller) -> Iterator[None]:
    """What runs inside calls on behalf of `caller`."""
    reset = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(reset)
