"""`chat/send` on an ASGI server's own loop, where nothing of the request has to be read from a database first."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from functools import cache, partial
from typing import Any, Final

from django.contrib.auth.models import AbstractUser
from django.core.handlers.asgi import ASGIRequest
from django.db import connections
from django.http.response import HttpResponseBase
from django.urls import resolve, reverse
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from src.ai.models import APIToken
from src.ai.services.tokens import secret_in, token_in_memory
from src.ai.views.generation_views_v2 import UnifiedAIGenerationViewSet
from src.core.asgi import LoopView

PAGES: Final = (b"text/html", b"text/*")  # whoever accepts these may be shown a page, which is made from the database


def chat_on_loop(scope: Mapping[str, Any]) -> LoopView | None:
    """The view for this request if it is a chat with a token that is in memory, and so on the safe side; else None.

    What is refused, kept (`Idempotency-Key`) or shown as a page is for the same view in a thread.
    """
    if scope["path"] != _path() or scope["method"] != "POST" or scope.get("query_string"):
        return None
    headers = dict(scope["headers"])
    accepted = headers.get(b"accept", b"")
    if (
        len(headers) != len(scope["headers"])
        or b"idempotency-key" in headers
        or any(page in accepted for page in PAGES)
    ):
        return None
    secret = secret_in(headers.get(b"authorization", b""))
    token = token_in_memory(secret) if secret else None
    if token is None or token.is_expired or token.use_is_to_be_noted or not token.user.is_active:
        return None
    if any(alias["ATOMIC_REQUESTS"] for alias in connections.settings.values()):
        return None
    return partial(_answer, token)


async def _answer(token: APIToken, request: ASGIRequest) -> HttpResponseBase:
    view = ChatOnLoop(**_chat().initkwargs)
    view.action_map = _chat().actions
    view.token, view.post = token, view.send_chat
    return await view.answer(request)


class Known(BaseAuthentication):
    """Whoever the request was found to be from."""

    def __init__(self, token: APIToken) -> None:
        self.token = token

    def authenticate(self, request: Request) -> tuple[AbstractUser, APIToken]:
        """The caller's user is its own to change."""
        return copy(self.token.user), self.token


class ChatOnLoop(UnifiedAIGenerationViewSet):
    """`send_chat` for one request whose token is known."""

    token: APIToken
    post: Any  # what `Allow` goes by

    def get_authenticators(self) -> list[BaseAuthentication]:
        return [Known(self.token)]

    async def answer(self, request: ASGIRequest) -> HttpResponseBase:
        """What `dispatch` does, with a handler that is awaited, and rendered."""
        with self.calling():
            self.args, self.kwargs = (), {}
            asked = self.request = self.initialize_request(request)
            self.headers = self.default_response_headers
            try:
                self.initial(asked)
                response: Any = await self.asend_chat(asked)
            except Exception as error:
                response = self.handle_exception(error)
            self.response = self.finalize_response(asked, response)
            return self.response if self.response.streaming else self.response.render()


@cache
def _path() -> str:
    return reverse("ai-send-chat").removesuffix("/")


@cache
def _chat() -> Any:
    return resolve(_path()).func
