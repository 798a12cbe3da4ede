"""The same request under the same `Idempotency-Key` runs once; asked for again, it gives the first answer.

The row of (admin, key) is the lock. It is committed before the vendor is asked, so that every process sees it; inside a
transaction of the caller (`ATOMIC_REQUESTS`, for one) it is not: there a second request waits in the database for the
first one's transaction instead of being refused, and a rollback forgets the key, whatever the vendor was paid.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.db import Error, transaction
from django.utils import timezone

from src.ai.exceptions import (
    AIError,
    IdempotencyAnswerUnreadable,
    IdempotencyKeyInUse,
    IdempotencyKeyReused,
    InvalidIdempotencyKey,
)
from src.ai.models import AIModel, AIProvider, IdempotencyKey
from src.core.secrets import Undecryptable, decrypt_bytes, encrypt_bytes

logger = logging.getLogger(__name__)

KEPT_FOR: Final = timedelta(hours=24)
LEASE_MARGIN: Final = timedelta(seconds=60)  # for all but the vendor: to check, store and write down what it sent
RETRY_AFTER: Final = 5  # seconds
SWEPT: Final = 20  # expired rows that each new key takes with it

_KEY: Final = re.compile(r"[!-~]{1,255}")


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer as it went out."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def fingerprint(method: str, path: str, body: Any) -> str:
    """What makes two requests the same: method, path but for a slash at its end, and the body as parsed JSON."""
    canonical = json.dumps([method, path.rstrip("/"), body], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def claim_key(*, admin: AbstractUser, key: str, fingerprint: str) -> UUID | KeptAnswer:
    """The right to run this request, to be ended by `keep_answer` or `release_key`; or the answer it has had already.

    The right lasts as long as the longest call may take, and a margin: a process that dies leaves it to the next.

    Args:
        key: 1 to 255 visible ASCII characters.
        fingerprint: as `fingerprint` makes it.

    Raises:
        InvalidIdempotencyKey: the key has another form.
        IdempotencyKeyReused: the key stands for another request.
        IdempotencyKeyInUse: the same request is running.
        IdempotencyAnswerUnreadable: the answer was encrypted under a `SECRET_KEY` no longer known.
    """
    if not _KEY.fullmatch(key):
        raise InvalidIdempotencyKey()
    now, run = timezone.now(), uuid4()
    rows = IdempotencyKey.objects.filter(admin_id=admin.pk, key=key)
    rows.filter(expires_at__lte=now).delete()
    claim = IdempotencyKey(
        id=run, admin_id=admin.pk, key=key, fingerprint=fingerprint, expires_at=now + _longest_call() + LEASE_MARGIN
    )
    IdempotencyKey.objects.bulk_create([claim], ignore_conflicts=True)
    row = rows.first()
    if row is None:  # the other request failed at this moment
        raise IdempotencyKeyInUse(retry_after=RETRY_AFTER)
    if row.pk == run:
        _delete_expired(SWEPT)
        return run
    if row.fingerprint != fingerprint:
        raise IdempotencyKeyReused()
    if not row.answer:
        raise IdempotencyKeyInUse(retry_after=RETRY_AFTER)
    return _opened(row)


def is_final(error: Exception, status: int) -> bool:
    """Whether a failure is kept as the answer, as a success always is: where the vendor may have been paid.

    Args:
        status: of the answer that tells of it. An error that nobody foresaw (a 500) may have come at any time.
    """
    return error.may_have_cost if isinstance(error, AIError) else status >= 500


def keep_answer(run: UUID, answer: KeptAnswer) -> None:
    """Give `answer` to whoever sends the request again. Where it can't be written, that is logged and no error."""
    head = json.dumps([answer.status, dict(answer.headers)]).encode()
    token = encrypt_bytes(head + b"\n" + answer.body, context=_context(run))
    with _logged(run):
        kept = IdempotencyKey.objects.filter(pk=run).update(answer=token, expires_at=timezone.now() + KEPT_FOR)
        if not kept:
            logger.error("An answer came after the lease of its Idempotency-Key", extra={"run": str(run)})


def release_key(run: UUID) -> None:
    """Let the request be sent again under its key. Where that can't be written, that is logged and no error."""
    with _logged(run):
        IdempotencyKey.objects.filter(pk=run).delete()


def prune_idempotency_keys(*, batch_size: int = 500) -> int:
    """Delete what has expired, `batch_size` rows in a transaction; returns how many rows it were.

    Several processes may do so at once.
    """
    total = 0
    while deleted := _delete_expired(batch_size):
        total += deleted
    return total


def _longest_call() -> timedelta:
    """What no call outlasts: the settings' time-outs, or one that a provider's or model's `config` names instead."""
    named = (
        timeout
        for rows in (AIProvider.objects.all(), AIModel.objects.all())
        for timeout in rows.filter(config__has_key="timeout").values_list("config__timeout", flat=True)
        if isinstance(timeout, int | float)
    )
    return timedelta(seconds=max(settings.AI_TIMEOUT_TOTAL, settings.AI_TIMEOUT_IMAGE, *named))


def _opened(row: IdempotencyKey) -> KeptAnswer:
    try:
        head, _newline, body = decrypt_bytes(row.answer, context=_context(row.pk)).partition(b"\n")
    except Undecryptable as error:
        raise IdempotencyAnswerUnreadable() from error
    status, headers = json.loads(head)
    return KeptAnswer(status, headers, body)


def _context(run: UUID) -> str:
    return f"{IdempotencyKey._meta.label_lower}.answer:{run}"


@contextmanager
def _logged(run: UUID) -> Iterator[None]:
    """The caller gets the vendor's answer even where the database is away; the lease then frees the key."""
    try:
        yield
    except Error:
        logger.exception("An Idempotency-Key could not be settled", extra={"run": str(run)})


def _delete_expired(limit: int) -> int:
    with transaction.atomic():
        expired = IdempotencyKey.objects.filter(expires_at__lte=timezone.now()).order_by("expires_at")
        doomed = list(expired.select_for_update(skip_locked=True).values_list("pk", flat=True)[:limit])
        return IdempotencyKey.objects.filter(pk__in=doomed).delete()[0]
