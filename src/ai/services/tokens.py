"""Whose a bearer token is."""

from __future__ import annotations

from copy import copy

from django.db.backends.base.base import BaseDatabaseWrapper
from knox.crypto import hash_token

from src.ai.models import APIToken
from src.ai.models.api_token import access_fields
from src.ai.models.config_stamp import freshness
from src.ai.services.token_rules import rules_of
from src.core.cache.freshness import Memory
from src.core.cache.namespaces import CacheSize, CacheTTL

_tokens: Memory[APIToken] = freshness.memory(size=CacheSize.TOKENS, lifetime=CacheTTL.AI)


def secret_in(header: bytes) -> str:
    """The token in a header `Authorization: Bearer <token>`; empty where there is none."""
    scheme, _, secret = header.partition(b" ")
    secret = secret.strip()
    return secret.decode("ascii") if scheme.lower() == b"bearer" and secret.isascii() else ""


def find_token(secret: str) -> APIToken | None:
    """The token, expired or not, with its user and its rules; None where there is none.

    Those of staff are kept in this process's memory, by digest. The caller's copy is its own to change. What is not
    kept of a user is read when it is asked for, as a deferred field is.
    """
    digest: str = hash_token(secret)
    stamp = freshness.current()
    kept = _tokens.get(digest, stamp, None) if stamp else None
    if kept is None:
        kept = _load(digest)
        if kept is None:
            return None
        rules_of(kept)  # once, for all copies
        if stamp and access_fields() and kept.user.is_staff:  # a customer's rights change without a new stamp
            _tokens.put(digest, stamp, kept)
    token = copy(kept)
    token.user = copy(kept.user)
    return token


def token_in_memory(secret: str) -> APIToken | None:
    """The token, expired or not, if it is kept; None says nothing. It is shared: never change it."""
    stamp = freshness.believed()
    return _tokens.get(hash_token(secret), stamp, None) if stamp else None


def note_use(token: APIToken) -> None:
    """Note on the row, and on what is kept of it, that the token was used now, to the minute."""
    if not token.record_use():
        return
    stamp = freshness.current()
    kept = _tokens.get(token.digest, stamp, None) if stamp else None
    if kept is not None:
        kept.last_used_at = token.last_used_at


def forget_tokens(connection: BaseDatabaseWrapper) -> None:
    """Keep none of the tokens: `connection` has written to their table."""
    _tokens.clear()
    freshness.wrote(connection)


def _load(digest: str) -> APIToken | None:
    rows = APIToken.objects.select_related("user").filter(digest=digest)
    if fields := access_fields():
        own = (field.name for field in APIToken._meta.concrete_fields)
        rows = rows.only(*own, *(f"user__{field.name}" for field in fields))
    token: APIToken | None = rows.first()
    return token
