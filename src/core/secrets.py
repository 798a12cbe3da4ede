"""Secrets at rest (Fernet, key derived from `SECRET_KEY`) and secrets kept out of texts."""

from __future__ import annotations

import base64
import re
from collections.abc import ItemsView
from datetime import UTC, datetime
from functools import lru_cache
from pprint import pformat
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.http import HttpRequest
from django.views.debug import SafeExceptionReporterFilter

MASK = "********"


class Undecryptable(ValueError):
    """The value was not encrypted for this context under `SECRET_KEY` or one of `SECRET_KEY_FALLBACKS`."""


def encrypt(plain: str, *, context: str) -> str:
    """A Fernet token that only `decrypt` with the same `context` opens."""
    return encrypt_bytes(plain.encode(), context=context)


def encrypt_bytes(plain: bytes, *, context: str) -> str:
    """`encrypt` for what is no text; to be opened by `decrypt_bytes`."""
    return _fernet(settings.SECRET_KEY, context).encrypt(plain).decode("ascii")


def decrypt(token: str, *, context: str) -> str:
    """The plain text of `token`.

    Raises:
        Undecryptable: damaged, made for another context, or under a `SECRET_KEY` no longer known.
    """
    return decrypt_bytes(token, context=context).decode()


def decrypt_bytes(token: str, *, context: str) -> bytes:
    """What `encrypt_bytes` made `token` of. Raises `Undecryptable`, as `decrypt` does."""
    return _open(token, context)[0]


def encrypted_at(token: str, *, context: str) -> datetime:
    """When `token` was made. Rotation keeps the date. Raises `Undecryptable`."""
    return datetime.fromtimestamp(_open(token, context)[1].extract_timestamp(token.encode()), tz=UTC)


def rotate(token: str, *, context: str) -> str:
    """`token` under today's `SECRET_KEY`; the same string where it is already. Raises `Undecryptable`."""
    plain, fernet = _open(token, context)
    current = _fernet(settings.SECRET_KEY, context)
    if fernet is current:
        return token
    return current.encrypt_at_time(plain, fernet.extract_timestamp(token.encode())).decode("ascii")


def _open(token: str, context: str) -> tuple[bytes, Fernet]:
    for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS):
        fernet = _fernet(secret, context)
        try:
            return fernet.decrypt(token.encode()), fernet
        except InvalidToken:
            continue
    raise Undecryptable(context)


@lru_cache(maxsize=512)
def _fernet(secret: str, context: str) -> Fernet:
    derived = HKDF(algorithm=SHA256(), length=32, salt=b"dynamic-ai", info=context.encode()).derive(secret.encode())
    return Fernet(base64.urlsafe_b64encode(derived))


# Shapes of the six vendors' keys and of our own tokens in a header. Vendors show parts of a key with stars in between.
_SECRET_SHAPES = re.compile(
    r"(?:sk-|gsk_|hf_|AIza|sk_|r8_)[A-Za-z0-9_*.\-]{6,}"
    r"|(?<=Bearer )\S+"
    r"|gAAAA[A-Za-z0-9_\-=]{60,}"
)


def scrub(text: str, *secrets: str) -> str:
    """`text` without the given secrets and without anything shaped like a vendor's key."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, MASK)
    return _SECRET_SHAPES.sub(MASK, text)


class ExceptionReporterFilter(SafeExceptionReporterFilter):
    """Error reports without secrets: local variables are shown with whatever looks like a key taken out."""

    hidden_settings = re.compile("API|AUTH|TOKEN|KEY|SECRET|PASS|SIGNATURE|HTTP_COOKIE|_URL|LOCATION", re.IGNORECASE)
    hidden_names = re.compile("api_?key|token|password|secret|authorization|plain", re.IGNORECASE)

    def get_traceback_frame_variables(self, request: HttpRequest | None, tb_frame: Any) -> ItemsView[str, Any]:
        variables = super().get_traceback_frame_variables(request, tb_frame)
        return {name: self._clean(name, value) for name, value in variables}.items()

    def _clean(self, name: str, value: Any) -> Any:
        if self.hidden_names.search(name):
            return MASK
        try:
            shown = pformat(value)
        except Exception:  # a repr that raises must not hide the error being reported
            return f"<{type(value).__name__}>"
        return _Shown(scrub(_HIDDEN_ITEMS.sub(rf"\1{MASK}", shown)))


# 'api_key': '…' inside a dict or a keyword argument that is being shown.
_HIDDEN_ITEMS = re.compile(
    r"""((?:api_?key|token|password|secret|authorization)['"]?\s*[:=]\s*\[?)(?:'[^']*'|"[^"]*")""", re.IGNORECASE
)


class _Shown(str):
    """A text that stands for a value's repr."""

    def __repr__(self) -> str:
        return str(self)
