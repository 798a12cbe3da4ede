"""Who sends a request."""

from __future__ import annotations

from django.contrib.auth.base_user import AbstractBaseUser
from django.utils.translation import gettext_lazy as _
from knox.auth import TokenAuthentication
from rest_framework.exceptions import AuthenticationFailed

from src.ai.models import APIToken
from src.ai.services.tokens import find_token, note_use


class BearerTokenAuthentication(TokenAuthentication):  # type: ignore[misc]  # knox ships no types
    """`Authorization: Bearer <token>`, found by its digest; a token in use asks the database nothing."""

    def authenticate_credentials(self, token: bytes) -> tuple[AbstractBaseUser, APIToken]:
        stored = find_token(token.decode("ascii")) if token.isascii() else None
        if stored is None:
            raise AuthenticationFailed(_("Invalid token. Log in again to get a new one."))
        if stored.is_expired:
            raise AuthenticationFailed(_("This token has expired. Log in again to get a new one."))
        user, _token = self.validate_user(stored)
        note_use(stored)
        return user, stored
