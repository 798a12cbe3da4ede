"""Tokens: log in, log out, and manage one's own."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import authenticate, logout
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, status
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied
from rest_framework.generics import GenericAPIView
from rest_framework.permissions import AllowAny, IsAdminUser, IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import SimpleRateThrottle
from rest_framework.views import APIView
from rest_framework.viewsets import GenericViewSet

from src.ai.authentication import BearerTokenAuthentication
from src.ai.models import APIToken
from src.ai.serializers.auth_serializer import LoginResponseSerializer, LoginSerializer, TokenSerializer
from src.ai.services.token_rules import check_may_make_tokens, rules_of
from src.core.cache.counting import CountingCache


class AttemptsThrottle(SimpleRateThrottle):
    """So many attempts, counted in each process by itself while Redis is away."""

    cache = CountingCache()


class LoginThrottle(AttemptsThrottle):
    """So many attempts from one address."""

    scope = "login"

    def get_cache_key(self, request: Request, view: APIView) -> str:
        return self.cache_format % {"scope": self.scope, "ident": self.get_ident(request)}


class UsernameThrottle(AttemptsThrottle):
    """So many attempts at one account, from wherever they come."""

    scope = "login"

    def get_cache_key(self, request: Request, view: APIView) -> str | None:
        body = request.data if isinstance(request.data, dict) else {}
        username = body.get("username")
        if not isinstance(username, str):
            return None
        return self.cache_format % {
            "scope": "login_username",
            "ident": username.strip().casefold().encode().hex()[:200],
        }


class LoginView(GenericAPIView[APIToken]):
    """Trade a staff user's name and password for a token."""

    serializer_class = LoginSerializer
    # The browser's session must not stand in for the password, nor ask for a CSRF token.
    authentication_classes = (BearerTokenAuthentication,)
    permission_classes = (AllowAny,)
    throttle_classes = (LoginThrottle, UsernameThrottle)

    @extend_schema(responses=LoginResponseSerializer, auth=[])
    def post(self, request: Request) -> Response:
        """Log in; the token is shown this once."""
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        asked = serializer.validated_data
        user = authenticate(request, username=asked["username"], password=asked["password"])
        if user is None:
            raise AuthenticationFailed(_("No active account has this username and password."))
        if not user.is_staff:
            raise PermissionDenied(_("Only staff may log in here."))
        stored, token = APIToken.objects.create(user=user, name=asked["name"])
        user_logged_in.send(sender=user.__class__, request=request, user=user)
        return Response(LoginResponseSerializer({"token": token, "expiry": stored.expiry, "user": user}).data)

    def perform_authentication(self, request: Request) -> None:
        """Nobody is logged in yet: a stale token in the header does not keep one from getting a new one."""


class LogoutView(APIView):
    """End this login."""

    permission_classes = (IsAuthenticated,)

    @extend_schema(request=None, responses={204: None})
    def post(self, request: Request) -> Response:
        """Revoke the token that this request carries, or end the browser's session."""
        if isinstance(request.auth, APIToken):
            request.auth.delete()
            user_logged_out.send(sender=request.user.__class__, request=request, user=request.user)
        else:
            logout(request)
        return Response(status=status.HTTP_204_NO_CONTENT)


class LogoutAllView(APIView):
    """End every login."""

    permission_classes = (IsAuthenticated,)

    @extend_schema(request=None, responses={204: None})
    def post(self, request: Request) -> Response:
        """Revoke all of one's tokens."""
        APIToken.objects.filter(user=request.user).delete()
        user_logged_out.send(sender=request.user.__class__, request=request, user=request.user)
        return Response(status=status.HTTP_204_NO_CONTENT)


class TokenViewSet(
    mixins.ListModelMixin,
    mixins.CreateModelMixin,
    mixins.RetrieveModelMixin,
    mixins.DestroyModelMixin,
    GenericViewSet[APIToken],
):
    """One's own tokens: name, last use, expiry, rules; create and revoke."""

    queryset = APIToken.objects.none()
    serializer_class = TokenSerializer
    permission_classes = (IsAdminUser,)
    lookup_field = "token_key"
    lookup_url_kwarg = "id"
    lookup_value_regex = "[A-Za-z0-9]+"
    search_fields = ("name",)
    ordering_fields = ("name", "created", "expiry", "last_used_at")

    def get_queryset(self) -> QuerySet[APIToken]:
        own: QuerySet[APIToken] = APIToken.objects.filter(user_id=self.request.user.pk or 0)
        return own

    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Make a token, with rules or without; it is shown this once."""
        if isinstance(request.auth, APIToken):
            check_may_make_tokens(rules_of(request.auth))
        return super().create(request, *args, **kwargs)
