"""Whose token a request carries, and what is known of that token's requests so far."""

from __future__ import annotations

import os
from collections import OrderedDict
from copy import copy
from hashlib import blake2b
from math import inf
from time import monotonic, time
from typing import TYPE_CHECKING, Final

from django.contrib.auth.models import AbstractUser

from src.ai.exceptions import InvalidAPIKey, NotStaff, TokenExpired
from src.ai.models import APIToken
from src.ai.models.api_token import LAST_USE_PRECISION
from src.ai.models.config_stamp import freshness
from src.ai.services.gateway.wire import Request
from src.ai.services.token_rules import rules_of
from src.ai.services.tokens import find_token, note_use, secret_in, token_in_memory
from src.core.cache.freshness import Memory
from src.core.cache.namespaces import CacheSize, CacheTTL

if TYPE_CHECKING:
    from src.ai.services.gateway.routing import Target

TARGETS_LIMIT: Final = 256  # of one token


class Session:
    """One token under one stamp: nothing of it changes until that does, but for what it learns.

    `targets` are the ways its requests have found, by endpoint and name.
    """

    __slots__ = ("_expires_at", "_note_at", "admin", "rules", "targets", "token")

    def __init__(self, token: APIToken) -> None:
        self.token = token
        self.admin: AbstractUser = token.user
        self.rules = rules_of(token)
        self.targets: OrderedDict[tuple[str, str], Target] = OrderedDict()
        self._expires_at = inf if token.expiry is None else token.expiry.timestamp()
        self._note_at = 0.0

    def check(self) -> None:
        """Raise where the token opens nothing."""
        if not self.admin.is_active:
            raise InvalidAPIKey()
        if self._expires_at <= time():
            raise TokenExpired()
        if not self.admin.is_staff:
            raise NotStaff()

    def is_to_be_noted(self) -> bool:
        """Whether a minute has passed since its use was noted. Who is told so notes it."""
        now = monotonic()
        if now < self._note_at:
            return False
        self._note_at = now + LAST_USE_PRECISION.total_seconds()
        return True

    def remember(self, endpoint: str, name: str, target: Target) -> None:
        """Keep a target, in the place of the oldest where there are many."""
        if len(self.targets) >= TARGETS_LIMIT:
            self.targets.popitem(last=False)
        self.targets[endpoint, name] = target


_OWN: Final = os.urandom(32)  # sessions are found by a digest that nobody else can make
_sessions: Memory[Session] = freshness.memory(size=CacheSize.TOKENS, lifetime=CacheTTL.AI)


async def open_session(request: Request) -> Session:
    """The session of the token in the header `Authorization: Bearer <token>`, expired or not.

    Raises:
        InvalidAPIKey: there is no such token.
    """
    secret = secret_in(request.headers.get(b"authorization", b""))
    key = blake2b(secret.encode(), key=_OWN).digest()
    stamp = freshness.believed(alone=request.is_alone)
    session = _sessions.get(key, stamp, None) if stamp else None
    if session is None:
        if not secret:
            raise InvalidAPIKey()
        session = await request.look_up(_open, secret, key)
    if session.is_to_be_noted():
        await request.look_up(note_use, copy(session.token))
    return session


def _open(secret: str, key: bytes) -> Session:
    stamp = freshness.current()
    token = find_token(secret)
    if token is None:
        raise InvalidAPIKey()
    kept = token_in_memory(secret)
    session = Session(kept or token)
    if kept is not None and stamp is not None:
        _sessions.put(key, stamp, session)
    return session
