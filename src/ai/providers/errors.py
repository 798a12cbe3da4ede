"""What a vendor's failure means: one mapping from (status, headers, body), or from an exception, to our errors.

Sources: the vendors' error pages and recorded bodies, 2026-11-23.
Classified by status first, by words only for 400 and 422.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx

from src.ai.exceptions import (
    AIError,
    ContentBlocked,
    InvalidConfig,
    ProviderAuthFailed,
    ProviderBadRequest,
    ProviderError,
    ProviderInvalidResponse,
    ProviderModelNotFound,
    ProviderNoCredit,
    ProviderRateLimited,
    ProviderTimeout,
    ProviderUnavailable,
)
from src.ai.providers.payload import read_json
from src.ai.providers.successors import find_successor
from src.core.exchange import AnswerBroken
from src.core.http import BodyTooLarge, Timeouts
from src.core.net_guard import UrlRefused
from src.core.secrets import MASK, scrub

REASON_LENGTH: Final = 500

_REFUSED_KEY: Final = frozenset({"invalid_api_key", "API_KEY_INVALID", "authentication_error"})
_NO_CREDIT: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_MODEL_GONE: Final = frozenset({"model_not_found", "model_decommissioned", "model_not_supported", "model_deprecated"})
_BLOCKED: Final = frozenset({"moderation_blocked", "content_policy_violation", "content_filter"})
_BLOCKED_WORDS: Final = re.compile("Content Exists Risk|safety system|content (?:management )?policy", re.IGNORECASE)
_MODEL_WORDS: Final = re.compile(
    r"\bmodels?\b.*\b(?:deprecated|decommissioned|retired|shut ?down|no longer|does not exist|not exist|not found|"
    r"not a valid|invalid|unknown|not supported by any provider)\b|\b(?:unknown|invalid|no such|not a valid) model\b",
    re.IGNORECASE | re.DOTALL,
)
_TRY_AGAIN: Final = re.compile(r"(?:try again|retry) in ((?:\d{1,9}(?:\.\d+)?(?:ms|s|m|h))+)", re.IGNORECASE)
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d+)?)(ms|s|m|h)")
_NUMBER: Final = re.compile(r"\d{1,9}(?:\.\d+)?", re.ASCII)
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
# A vendor shows part of the key with stars in its place: "Your api key: ****0000 is invalid" (DeepSeek, 2026-11).
_STARRED: Final = re.compile(r"[\w.\-]*\*{3,}[\w.\-*]*")
_TITLE: Final = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]+")
_WORDS_LIMIT: Final = 2000  # characters that are searched for words: the patterns are quadratic at worst
_REQUEST_ID: Final = ("x-request-id", "request-id", "x-generation-id", "x-groq-request-id")


@dataclass(frozen=True, slots=True)
class Call:
    """What an error has to say about the call that failed."""

    provider: str
    operation: str
    api_key: str = ""
    model: str | None = None


@dataclass(frozen=True, slots=True)
class VendorError:
    """An error object as read from a body, whichever vendor's shape it has."""

    message: str = ""
    code: str = ""
    kind: str = ""
    param: str = ""
    status: int | None = None  # the status inside the body, where it has one
    retry_after: float | None = None
    spent: bool = False  # a quota that does not come back within minutes
    moderated: bool = False


def parse_error(content: bytes | str) -> VendorError:
    """The error in a body: `{"error": {…}}`, `{"error": "text"}`, a list of those, a page, or nothing readable."""
    text = content.decode("utf-8", "replace") if isinstance(content, bytes) else content
    try:
        return read_error(read_json(text))
    except ValueError:
        return VendorError(message=_page_as_text(text))


def read_error(data: object) -> VendorError:
    """`parse_error` for a body that has been read: OpenAI's, Google's, OpenRouter's and the Hub's shapes."""
    if isinstance(data, list):
        data = data[0] if data else {}
    if not isinstance(data, dict):
        return VendorError(message=str(data))
    error = data.get("error", data)
    if not isinstance(error, dict):
        return VendorError(message=_text(error), kind=_text(data.get("error_type")))
    metadata: dict[str, Any] = error["metadata"] if isinstance(error.get("metadata"), dict) else {}
    details = _dicts(error.get("details"))
    code = error.get("code")
    reason = next((_text(item["reason"]) for item in details if "reason" in item), "")
    message = _text(error.get("message")) or _text(data.get("message")) or _text(data.get("detail"))
    if raw := parse_error(_text(metadata.get("raw"))).message:  # the upstream's own body, often JSON in a string
        message = f"{message}: {raw}" if message else raw
    return VendorError(
        message=message,
        code=reason or (_text(code) if isinstance(code, str) else ""),
        kind=_text(error.get("type")) or _text(error.get("status")),
        param=_text(error.get("param")),
        status=next((s for s in (error.get("status_code"), code) if isinstance(s, int) and 400 <= s < 600), None),
        retry_after=_google_retry_delay(details) or _retry_after_words(message),
        spent=any("PerDay" in _text(quota) for item in details for quota in _quota_ids(item)),
        moderated=bool({"reasons", "flagged_input", "patterns"} & set(metadata)),
    )


def from_response(call: Call, status: int, headers: Mapping[str, str], content: bytes) -> ProviderError:
    """The error that an answer with this status is."""
    error = parse_error(content)
    if 300 <= status < 400:
        message = f"it redirects to {headers.get('location', 'another URL')}, and a key must not follow a redirect"
        return _build(ProviderInvalidResponse, call, VendorError(message=message), status, headers)
    return _build(_classify(status, error, call), call, error, status, headers)


def from_body(call: Call, data: object, headers: Mapping[str, str]) -> ProviderError:
    """The error inside an answer that began as a success: the status is the body's own, where it has one."""
    error = read_error(data)
    if error.status:
        return _build(_classify(error.status, error, call), call, error, error.status, headers)
    by_code = {"rate_limit_exceeded": ProviderRateLimited, "server_error": ProviderUnavailable}.get(error.code)
    return _build(_by_words(error, call) or by_code or ProviderError, call, error, None, headers)


def from_exception(call: Call, error: Exception, timeouts: Timeouts, *, answered: bool = False) -> AIError:
    """The error that an exception of the transport is. What it does not know comes back as a `ProviderError`.

    Its fact `unanswered` says that the vendor had not begun to answer (`answered`) and is not still at work.
    """
    cause = _transport_cause(error)
    facts: dict[str, Any] = {"provider": call.provider, "operation": call.operation, "model": call.model}
    if isinstance(cause, UrlRefused):
        return InvalidConfig(provider=call.provider, reason=f"the base URL is refused: {cause}", attr="base_url")
    if isinstance(cause, httpx.ConnectTimeout):
        return ProviderTimeout(**facts, seconds=_round(timeouts.connect), unanswered=True)
    if isinstance(cause, httpx.PoolTimeout):
        return ProviderUnavailable(**facts, reason="all connections are in use")
    if isinstance(cause, httpx.TimeoutException):
        return ProviderTimeout(**facts, seconds=_round(timeouts.first_byte))
    if isinstance(cause, TimeoutError):
        return ProviderTimeout(**facts, seconds=_round(timeouts.total))
    if isinstance(cause, httpx.DecodingError | httpx.RemoteProtocolError | BodyTooLarge):
        return ProviderInvalidResponse(**facts, reason=_clean(str(cause), call.api_key))
    if isinstance(cause, httpx.TransportError | ssl.SSLError | OSError):
        unanswered = not answered and not isinstance(cause, AnswerBroken)
        return ProviderUnavailable(**facts, reason=_clean(_name_cause(cause), call.api_key), unanswered=unanswered)
    return ProviderError(**facts, reason=_clean(f"{type(cause).__name__}: {cause}", call.api_key))


def invalid_response(call: Call, reason: str) -> ProviderInvalidResponse:
    """An answer that can't be used, and why."""
    return ProviderInvalidResponse(
        provider=call.provider, operation=call.operation, model=call.model, reason=_clean(reason, call.api_key)
    )


def without_key(text: str, api_key: str) -> str:
    """The text without the key, and without what a vendor shows of it around stars."""

    def mask(found: re.Match[str]) -> str:
        head, tail = found[0].split("*", 1)[0], found[0].rsplit("*", 1)[1]
        shows = (head and api_key.startswith(head)) or (tail and api_key.endswith(tail))
        return MASK if api_key and shows else found[0]

    return _STARRED.sub(mask, scrub(text, api_key))


# -- classification ----------------------------------------------------------------------------------------------------


def _classify(status: int, error: VendorError, call: Call) -> type[ProviderError]:
    if status in (400, 422):
        return _by_words(error, call) or ProviderBadRequest
    if status == 403 and error.moderated:
        return ContentBlocked
    if status in (401, 403):
        return ProviderAuthFailed
    if status == 402:
        return ProviderNoCredit
    if status == 404:
        return ProviderModelNotFound if call.model else ProviderBadRequest
    if status == 429:
        spent = error.spent or {error.code, error.kind} & _NO_CREDIT
        return ProviderNoCredit if spent else ProviderRateLimited
    if status == 498:
        return ProviderRateLimited
    if status in (408, 409, 425) or status >= 500:
        return ProviderUnavailable
    return ProviderBadRequest


def _by_words(error: VendorError, call: Call) -> type[ProviderError] | None:
    words = {error.code, error.kind}
    if words & _REFUSED_KEY:
        return ProviderAuthFailed
    if words & _NO_CREDIT:
        return ProviderNoCredit
    if words & _BLOCKED or _BLOCKED_WORDS.search(error.message, 0, _WORDS_LIMIT):
        return ContentBlocked
    if words & _MODEL_GONE:
        return ProviderModelNotFound
    names_model = error.param == "model" or (call.model and call.model in error.message)
    if call.model and names_model and _MODEL_WORDS.search(error.message, 0, _WORDS_LIMIT):
        return ProviderModelNotFound
    return None


def _build(
    error_class: type[ProviderError], call: Call, error: VendorError, status: int | None, headers: Mapping[str, str]
) -> ProviderError:
    reason = _clean(error.message, call.api_key) or f"HTTP {status} without an explanation"
    facts: dict[str, Any] = {"model": call.model}
    if error_class is ProviderModelNotFound and (successor := find_successor(call.provider, call.model)):
        facts["successor"] = successor
        reason = f"{reason} Use '{successor}' instead."
    if error_class in (ProviderRateLimited, ProviderUnavailable):
        facts["retry_after"] = _retry_after(status, headers, error)
    return error_class(
        provider=call.provider,
        operation=call.operation,
        status_code=status,
        request_id=next((headers[name] for name in _REQUEST_ID if name in headers), None),
        reason=reason,
        vendor_code=error.code or error.kind or None,
        param=error.param or None,
        **facts,
    )


# -- reading -----------------------------------------------------------------------------------------------------------


def _retry_after(status: int | None, headers: Mapping[str, str], error: VendorError) -> float | None:
    """Seconds to wait. The Hub sends the header on good answers too, so it counts on 429 and 503 only."""
    if status in (429, 498, 503):
        if (milliseconds := _number(headers.get("retry-after-ms", ""))) is not None:
            return milliseconds / 1000
        if (seconds := _header_seconds(headers.get("retry-after", ""))) is not None:
            return seconds
    return error.retry_after


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text.strip()) else None


def _header_seconds(value: str) -> float | None:
    if (seconds := _number(value)) is not None:
        return seconds
    try:
        moment = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max((moment - datetime.now(UTC)).total_seconds(), 0.0)


def _retry_after_words(message: str) -> float | None:
    found = _TRY_AGAIN.search(message)
    return _duration(found[1]) if found else None


def _duration(text: str) -> float:
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(text))


def _google_retry_delay(details: list[dict[str, Any]]) -> float | None:
    """`{"@type": "…RetryInfo", "retryDelay": "23s"}`: Gemini sends no header."""
    return next((_duration(_text(item["retryDelay"])) for item in details if "retryDelay" in item), None)


def _quota_ids(detail: dict[str, Any]) -> list[object]:
    return [item.get("quotaId") for item in _dicts(detail.get("violations"))]


def _dicts(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _page_as_text(text: str) -> str:
    text = text.strip()
    if not text.startswith("<"):
        return "" if text.startswith(("{", "[")) else text
    title = _TITLE.search(text, 0, _WORDS_LIMIT)
    return f"a web page instead of an answer: {title[1].strip()}" if title else "a web page instead of an answer"


def _clean(text: str, api_key: str) -> str:
    """One line for a reader, without the key and without what a vendor repeats of it."""
    shown = scrub(" ".join(_CONTROL.sub(" ", text).split()), api_key)
    shown = _STARRED.sub(MASK, shown[: 2 * REASON_LENGTH])
    return shown if len(shown) <= REASON_LENGTH else f"{shown[:REASON_LENGTH]}…"


def _text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _round(seconds: float) -> float:
    return round(seconds, 1)


def _transport_cause(error: BaseException) -> BaseException:
    """An SDK wraps the transport's exception in one of its own that says less."""
    known = (httpx.TransportError, httpx.DecodingError, UrlRefused, BodyTooLarge, ssl.SSLError, OSError)
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, known):
            return seen
        seen = seen.__cause__
    return error


def _name_cause(error: BaseException) -> str:
    return str(error) or ("the connection was reset" if isinstance(error, httpx.ReadError) else type(error).__name__)
