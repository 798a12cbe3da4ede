"""How values look in lists and on pages."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from django.utils.formats import date_format, number_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timezone import localtime
from django.utils.translation import gettext as _

from src.ai.models import EncryptedAPIKeyMixin, KeyState
from src.ai.models.counted import Counted

NOTHING = "–"  # noqa: RUF001 (a dash, as the admin's own empty value)


def code(value: object) -> SafeString:
    """A technical value: left to right in every language."""
    return format_html('<code dir="ltr" class="ai-code">{}</code>', value)


def badges(values: Iterable[object], kind: str = "") -> SafeString:
    """Short values side by side."""
    shown = format_html_join(" ", '<bdi class="ai-badge {}">{}</bdi>', ((kind, value) for value in values))
    return shown or muted(NOTHING)


def muted(text: object) -> SafeString:
    return format_html('<span class="ai-muted">{}</span>', text)


def warning(text: object) -> SafeString:
    return format_html('<span class="ai-warning">{}</span>', text)


def key_state(row: EncryptedAPIKeyMixin) -> SafeString:
    """What may be shown of the row's key."""
    info = row.key_info
    if info.state is KeyState.UNREADABLE:
        return warning(info)
    if info.state is KeyState.UNSET:
        return muted(info)
    return format_html('<span class="ai-key">{}</span>', info)


def below(main: object, detail: object) -> SafeString:
    """A value with a smaller one under it."""
    return format_html('{}<div class="ai-below">{}</div>', main, detail)


def requests(row: Counted) -> SafeString:
    """How many calls succeeded, and when the last did."""
    if row.last_used_at is None:
        return format_html("{}", row.total_requests)
    return below(row.total_requests, muted(date_format(localtime(row.last_used_at))))


def price(amount: Decimal | None) -> SafeString:
    """US$ per 1M tokens, told apart from "costs nothing" and from "nobody knows"."""
    if amount is None:
        return muted(_("unknown"))
    if amount == 0:
        return format_html("<bdi>{}</bdi>", _("free"))
    decimals = max(2, -int(amount.normalize().as_tuple().exponent))
    return format_html('<bdi dir="ltr">${}</bdi>', number_format(amount, decimals))
