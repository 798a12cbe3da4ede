"""The one place where an exception becomes an answer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.db import DataError, IntegrityError, InterfaceError, OperationalError
from django.utils.translation import gettext_lazy as _
from drf_standardized_errors import handler
from rest_framework import exceptions
from rest_framework.response import Response

from src.ai.exceptions import AIError, http_status
from src.ai.services.limit_headers import limit_headers


class ExceptionHandler(handler.ExceptionHandler):
    """Gives `AIError`s their status, code and `Retry-After`; the library does the rest."""

    def convert_known_exceptions(self, exc: Exception) -> Exception:
        if isinstance(exc, IntegrityError):
            return _answer(409, _("Another request got in between. Try again."), "conflict")
        if isinstance(exc, DataError):
            return exceptions.ValidationError(_("A value does not fit: it is too long, or holds a null character."))
        if isinstance(exc, InterfaceError | OperationalError):
            return _answer(503, _("The database can't be used just now. Try again."), "database_unavailable", 1)
        if isinstance(exc, RequestDataTooBig):
            return _answer(413, _("The body is too large."), "body_too_large")
        if isinstance(exc, exceptions.ValidationError) and set(_codes(exc.get_codes())) == {"unique"}:
            exc.status_code = 409
        if not isinstance(exc, AIError):
            return super().convert_known_exceptions(exc)
        status = http_status(exc)
        if status == 400:
            detail = {exc.attr: [exc.message]} if exc.attr else [exc.message]
            return exceptions.ValidationError(detail, code=exc.code)
        return _answer(status, exc.message, exc.code, exc.retry_after)

    def get_headers(self, exc: exceptions.APIException) -> dict[str, str]:
        headers: dict[str, str] = super().get_headers(exc)
        standings = self.exc.facts.get("standings", ()) if isinstance(self.exc, AIError) else ()
        return {**headers, **limit_headers(standings)}

    def report_exception(self, exc: exceptions.APIException, response: Response) -> None:
        """A vendor's failure is no error of this site's: it is not reported as one."""
        if not isinstance(self.exc, AIError):
            super().report_exception(exc, response)


def _answer(status: int, detail: Any, code: str, retry_after: float | None = None) -> exceptions.APIException:
    answer = exceptions.APIException(detail, code)
    answer.status_code = status
    if retry_after is not None:
        answer.wait = math.ceil(retry_after)  # type: ignore[attr-defined]  # as DRF's `Throttled` has it
    return answer


def _codes(codes: Any) -> Iterator[str]:
    """Every code in DRF's nested error codes."""
    if isinstance(codes, str):
        yield codes
    else:
        for inner in codes.values() if isinstance(codes, dict) else codes:
            yield from _codes(inner)
