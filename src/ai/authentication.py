"""Who sends a request."""

from __future__ import annotations

from django.contrib.auth.base_user import AbstractBaseUser
from django.utils.translation import gettext_lazy as _
from knox.auth import TokenAuthentication
from knox.crypto import hash_token
from rest_framework.exceptions import AuthenticationFailed

from src.ai.models import APIToken


class BearerTokenAuthentication(TokenAuthentication):  # type: ignore[misc]  # knox ships no types
    """`Authorization: Bearer <token>`, found by its digest in one query."""

    def authenticate_credentials(self, token: bytes) -> tuple[AbstractBaseUser, APIToken]:
        stored = self._find(token)
        if stored is None:
            raise AuthenticationFailed(_("Invalid token. Log in again to get a new one."))
        if stored.is_expired:
            raise AuthenticationFailed(_("This token has expired. Log in again to get a new one."))
        user, _token = self.validate_user(stored)
        stored.record_use()
        return user, stored

    @staticmethod
    def _find(secret: bytes) -> APIToken | None:
        try:
            digest = hash_token(secret.decode("ascii"))
        except UnicodeDecodeError:
            return None
        token: APIToken | None = APIToken.objects.select_related("user").filter(digest=digest).first()
        return token
