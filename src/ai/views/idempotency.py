"""The `Idempotency-Key` header."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Final, TypeVar, cast

from django.contrib.auth.models import AbstractUser
from django.http import HttpResponse
from django.utils.translation import get_language
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from src.ai.services.idempotency import KeptAnswer, claim_key, fingerprint, is_final, keep_answer, release_key

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotency-Replayed"

View = TypeVar("View", bound=APIView)

_PARAMETER: Final = OpenApiParameter(
    HEADER,
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    OpenApiParameter.HEADER,
    description=_("The same key and body run once and give the first answer again, for 24 hours."),
)


def idempotent(action: Callable[[View, Request], Response]) -> Callable[[View, Request], HttpResponse]:
    """An action that runs once for each `Idempotency-Key`, and documents the header. Stands above `@action`.

    Requests without the header go straight through. See `src.ai.services.idempotency` for `ATOMIC_REQUESTS`.
    """

    @wraps(action)
    def run_once(view: View, request: Request) -> HttpResponse:
        key = request.headers.get(HEADER)
        if key is None:
            return action(view, request)
        asked = fingerprint(str(request.method), request.path, request.data)
        claimed = claim_key(admin=cast(AbstractUser, request.user), key=key, fingerprint=asked)
        if isinstance(claimed, KeptAnswer):
            return HttpResponse(claimed.body, status=claimed.status, headers={**claimed.headers, REPLAYED: "true"})
        try:
            response = action(view, request)
        except Exception as error:
            response = view.handle_exception(error)
            if not is_final(error, response.status_code):
                release_key(claimed)
                return response
        # Here and not later: under ASGI nothing is rendered any more for a client that has hung up.
        view.finalize_response(request, response)
        response.render()
        keep_answer(claimed, KeptAnswer(response.status_code, _kept_headers(response), response.content))
        return response

    documented: Callable[[View, Request], HttpResponse] = extend_schema(parameters=[_PARAMETER])(run_once)
    return documented


def _kept_headers(response: Response) -> dict[str, str]:
    return {"Content-Type": response["Content-Type"], "Content-Language": get_language() or ""}
