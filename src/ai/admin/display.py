"""How values look in lists and on pages."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

from django.utils.formats import date_format, number_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timezone import localtime
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from src.ai.models import EncryptedAPIKeyMixin, KeyState
from src.ai.models.counted import Counted
from src.ai.services.ledger.entries import Standing

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


def phrase(text: str, **values: object) -> SafeString:
    """A text with values in it, whose direction is its own: a language that is not translated stays readable."""
    return format_html(f"<bdi>{text}</bdi>", **values)


def below(main: object, detail: object) -> SafeString:
    """A value with a smaller one under it."""
    return format_html('{}<div class="ai-below">{}</div>', main, detail)


def requests(row: Counted) -> SafeString:
    """How many calls succeeded, and when the last did."""
    if row.last_used_at is None:
        return format_html("{}", row.total_requests)
    return below(row.total_requests, muted(date_format(localtime(row.last_used_at))))


def moment(value: datetime | None) -> SafeString:
    """A date and a time."""
    return muted(NOTHING) if value is None else format_html("{}", date_format(localtime(value), "DATETIME_FORMAT"))


def number(count: int | None) -> SafeString:
    """A whole number in groups of three digits."""
    if count is None:
        return muted(NOTHING)
    return format_html("{}", number_format(count, force_grouping=True))


def money(amount: Decimal | None) -> SafeString:
    """US$, told apart from "nobody knows": to the cent, or to four digits of less than a dollar; on hover, exactly."""
    if amount is None:
        return muted(_("unknown"))
    places = 2 if amount >= 1 or not amount else max(2, 3 - amount.adjusted())
    rounded = round(amount, places)
    decimals = max(2, -int(rounded.normalize().as_tuple().exponent))
    shown = number_format(rounded, decimals, force_grouping=True)
    return format_html('<bdi dir="ltr" title="${}">${}</bdi>', f"{amount.normalize():f}", shown)


def exact_money(amount: Decimal | None) -> SafeString:
    """US$ with all its digits."""
    if amount is None:
        return muted(_("unknown"))
    decimals = max(2, -int(amount.normalize().as_tuple().exponent))
    return format_html('<bdi dir="ltr">${}</bdi>', number_format(amount, decimals, force_grouping=True))


def duration(milliseconds: int | None) -> SafeString:
    """How long something took."""
    if milliseconds is None:
        return muted(NOTHING)
    if milliseconds < 1000:
        return format_html("<bdi>{}</bdi>", _("%(count)s ms") % {"count": milliseconds})
    return format_html("<bdi>{}</bdi>", _("%(count)s s") % {"count": number_format(milliseconds / 1000, 1)})


def price(amount: Decimal | None) -> SafeString:
    """US$ per 1M tokens, told apart from "costs nothing" and from "nobody knows"."""
    if amount is None:
        return muted(_("unknown"))
    if amount == 0:
        return format_html("<bdi>{}</bdi>", _("free"))
    decimals = max(2, -int(amount.normalize().as_tuple().exponent))
    return format_html('<bdi dir="ltr">${}</bdi>', number_format(amount, decimals))


def with_under_way(shown: object, held_requests: int) -> SafeString:
    """A number of requests, and how many more are being made."""
    if not held_requests:
        return format_html("{}", shown)
    return below(shown, phrase(_("{count} under way"), count=number(held_requests)))


def with_held(shown: object, held_cost: Decimal) -> SafeString:
    """A cost, and what calls under way may come to beside it."""
    if not held_cost:
        return format_html("{}", shown)
    return below(shown, phrase(_("{amount} held"), amount=money(held_cost)))


def with_unpriced(shown: object, unpriced: int) -> SafeString:
    """A sum of costs, and how many calls are not in it because nobody knows theirs."""
    if not unpriced:
        return format_html("{}", shown)
    text = ngettext("and {count} call of unknown cost", "and {count} calls of unknown cost", unpriced)
    return below(shown, phrase(text, count=number(unpriced)))


def room(standing: Standing) -> SafeString:
    """What limits leave, calls under way counted as used."""
    lines = []
    if standing.limit.requests is not None:
        left, limit = number(standing.requests_left), number(standing.limit.requests)
        text = phrase(_("{left} of {limit} requests left"), left=left, limit=limit)
        lines.append(text if standing.requests_left else warning(text))
    if standing.limit.budget is not None:
        left, limit = money(standing.budget_left), money(standing.limit.budget)
        text = phrase(_("{left} of {limit} left"), left=left, limit=limit)
        lines.append(text if standing.budget_left else warning(text))
    return format_html_join("", "<div>{}</div>", ((line,) for line in lines)) or muted(_("no limit"))


def meter(used: float, limit: float) -> SafeString:
    """How much of a limit is used, as a bar."""
    shown = '<meter class="ai-meter" min="0" max="{}" low="{}" high="{}" optimum="0" value="{}"></meter>'
    return format_html(shown, max(limit, used, 1e-9), 0.8 * limit, 0.999 * limit, used)
