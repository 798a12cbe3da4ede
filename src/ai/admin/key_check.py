"""Asking providers about keys, from a list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from django.contrib import messages
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext as _

from src.ai.exceptions import AIError
from src.ai.services.key_validation import KeyStatus, KeyVerdict

M = TypeVar("M", bound=Model)

MOST_AT_ONCE = 10  # the reader waits for each answer
LEVELS = {KeyStatus.ACCEPTED: messages.SUCCESS, KeyStatus.REFUSED: messages.ERROR, KeyStatus.UNKNOWN: messages.WARNING}


def check_keys(request: HttpRequest, rows: QuerySet[M, Any], validate: Callable[[M], KeyVerdict]) -> None:
    """Ask about the key of each row, and say row by row what the provider answered."""
    chosen = list(rows[: MOST_AT_ONCE + 1])
    if len(chosen) > MOST_AT_ONCE:
        messages.error(request, _("At most %(count)d keys can be checked at once.") % {"count": MOST_AT_ONCE})
        return
    for row in chosen:
        try:
            verdict = validate(row)
        except AIError as error:
            messages.error(request, f"{row}: {error.message}")
        else:
            messages.add_message(request, LEVELS[verdict.status], f"{row}: {verdict.detail}")
