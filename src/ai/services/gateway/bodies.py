"""Reading and changing a request's body without losing any of it."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from src.ai.exceptions import InvalidBody, InvalidRequest
from src.ai.providers.passthrough import Fields, to_value

LONGEST_REPLY: Final = 10_000_000  # tokens: more than any model has
_decoder: Final = msgspec.json.Decoder(Fields)
_PAST_FLOATS: Final = 10**300
_WANTED: Final = {
    str: gettext_lazy("a text"),
    bool: gettext_lazy("true or false"),
    list: gettext_lazy("a list"),
    dict: gettext_lazy("an object"),
    int: gettext_lazy("a whole number"),
    float: gettext_lazy("a number"),
}


def read_fields(body: bytes) -> Fields:
    """The fields of a JSON object, each as it was sent.

    Raises:
        InvalidBody: it is none, or no UTF-8.
    """
    if not body.strip():
        raise InvalidBody(reason=_("it is empty. Send a JSON object, with Content-Type: application/json."))
    try:
        if not body.isascii():
            body.decode()
        return _decoder.decode(body)
    except UnicodeDecodeError as error:
        raise InvalidBody(reason=_("it is not in UTF-8.")) from error
    except RecursionError as error:
        raise InvalidBody(reason=_("it is nested too deeply.")) from error
    except msgspec.DecodeError as error:
        raise InvalidBody(reason=_("it is no JSON object ({error}).").format(error=error)) from error


def read_field(fields: Fields, name: str, kind: type, *, required: bool = False) -> Any:
    """One field's value; None where it is absent or null.

    Raises:
        InvalidRequest: it is of another type, or is required and absent.
    """
    value = read_any(fields, name) if name in fields else None
    if value is None and not required:
        return None
    if kind is float and isinstance(value, int) and abs(value) < _PAST_FLOATS:
        value = float(value) if not isinstance(value, bool) else value
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        wanted = _WANTED[kind]
        raise InvalidRequest(reason=_("'{name}' must be {wanted}.").format(name=name, wanted=wanted), attr=name)
    return value


def is_null(fields: Fields, name: str) -> bool:
    """Whether a field is absent or null."""
    raw = fields.get(name)
    return raw is None or bytes(raw) == b"null"


def is_list(raw: msgspec.Raw) -> bool:
    """Whether a field is a list. It is not read: it may hold megabytes of images."""
    return bytes(memoryview(raw)[:1]) == b"["


def read_any(fields: Fields, name: str) -> Any:
    """One field's value, whatever it is; None where it is absent or null.

    Raises:
        InvalidRequest: it can't be read.
    """
    raw = fields.get(name)
    try:
        return None if raw is None else to_value(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(reason=_("'{name}' can't be read.").format(name=name), attr=name) from error
