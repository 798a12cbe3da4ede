"""Errors are nouns of the situation, with the facts as attributes.

    AIError
    ├── InvalidRequest, CapabilityRequired, ModelLacksCapability, OperationNotSupported, InvalidConfig
    ├── AdminRequired, SyncCallInAsyncCode
    ├── ProviderNotRegistered, ProviderNotFound, ModelNotFound, NoActiveModel, NoActiveModelAnyProvider
    ├── ModelAccessDenied
    ├── TokenNotAllowed, TokenMayNotMakeTokens, TokenRateLimited, RatesUnavailable
    ├── NoUsableKey: SharedKeyNotAllowed, NoAPIKeyAvailable, KeyUnreadable, PersonalKeysNotAllowed
    ├── UsageLimited: MonthlyLimitReached, BudgetExhausted; PriceUnknown
    ├── LedgerUnavailable
    ├── SettingsProtected, MediaNotSaved
    ├── GatewayError: InvalidAPIKey, TokenExpired, NotStaff, HTTPSRequired, UnknownURL, MethodNotAllowed, InvalidBody,
    │   BodyTooLarge, BodyTimeout, BodyIncomplete, NoSuchModel, ModelAmbiguous, UnsupportedParameter
    ├── InvalidIdempotencyKey, IdempotencyKeyInUse, IdempotencyKeyReused, IdempotencyAnswerUnreadable
    ├── IdempotencyKeyWithStream
    └── ProviderError
        ├── ProviderAuthFailed, ProviderNoCredit, ProviderRateLimited, ProviderModelNotFound, ProviderBadRequest
        ├── ProviderUnavailable, ProviderTimeout, ProviderInvalidResponse, ContentInvalid, EmptyReply
        ├── ContentBlocked
        └── StreamInterrupted

`code` is the key of the message in `src.ai.messages`; errors that mean "wrong set-up" are also `ValueError`s.
`HTTP_STATUS` is the one table from an error to its HTTP status.
"""

from __future__ import annotations

from typing import Any, ClassVar

from src.ai.messages.messages import MESSAGES


class AIError(Exception):
    """Anything this app refuses or fails at.

    Keyword arguments are the facts: they fill the message's placeholders and are readable as attributes.
    """

    code: ClassVar[str] = "provider_error"
    attr: str | None = None  # the request field at fault, where there is one
    retry_after: float | None = None  # seconds
    may_have_cost = False  # whether the vendor may have to be paid for what ended so

    def __init__(self, *, attr: str | None = None, retry_after: float | None = None, **facts: Any) -> None:
        self.attr = attr
        self.retry_after = retry_after
        self.facts = facts
        super().__init__(self.code, facts)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["facts"][name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def message(self) -> str:
        """The text for the reader, in the active language."""
        return str(MESSAGES[self.code]).format_map(_Facts(self.facts))

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), {"attr": self.attr, "retry_after": self.retry_after, **self.facts})


def _rebuild(error_class: type[AIError], facts: dict[str, Any]) -> AIError:
    return error_class(**facts)


class _Facts(dict[str, Any]):
    """A fact that is not known reads as `?` rather than breaking the message."""

    def __missing__(self, key: str) -> str:
        return "?"


class InvalidRequest(AIError, ValueError):
    """An argument is wrong; `reason` says which and what to do."""

    code = "invalid_request"


class InvalidConfig(AIError, ValueError):
    """A provider's or model's `config` has an unknown or mistyped key."""

    code = "invalid_config"


class CapabilityRequired(AIError, ValueError):
    code = "capability_required"


class ModelLacksCapability(AIError, ValueError):
    code = "model_no_capability"


class OperationNotSupported(AIError, NotImplementedError):
    code = "operation_not_supported"


class AdminRequired(AIError, ValueError):
    code = "admin_required"


class SyncCallInAsyncCode(AIError, RuntimeError):
    code = "sync_call_in_async_code"


class ProviderNotRegistered(AIError, ValueError):
    code = "provider_not_registered"


class ProviderNotFound(AIError, ValueError):
    code = "provider_not_found"


class ModelNotFound(AIError, ValueError):
    code = "model_not_found"


class NoActiveModel(AIError, ValueError):
    code = "no_active_model"


class NoActiveModelAnyProvider(NoActiveModel):
    code = "no_active_model_any_provider"


class ModelAccessDenied(AIError, PermissionError):
    code = "model_access_denied"


class TokenNotAllowed(AIError, PermissionError):
    """The token may not be used for this. Facts: token, model, capability."""

    code = "token_not_allowed"


class TokenMayNotMakeTokens(AIError, PermissionError):
    """A token that carries rules could make one without."""

    code = "token_may_not_make_tokens"


class TokenRateLimited(AIError):
    """One of the token's rates has no room for the call; `retry_after` says when it may. Facts: token, limit."""

    code = "token_rate_limited"


class RatesUnavailable(AIError):
    """The token's rates are counted in Redis, which is away."""

    code = "rates_unavailable"


class NoUsableKey(AIError, ValueError):
    """No key may pay for this call."""

    code = "no_api_key_available"


class SharedKeyNotAllowed(NoUsableKey):
    code = "shared_api_not_allowed"


class NoAPIKeyAvailable(NoUsableKey):
    code = "no_api_key_available"


class KeyUnreadable(NoUsableKey):
    code = "key_unreadable"


class PersonalKeysNotAllowed(NoUsableKey):
    code = "personal_keys_not_allowed"


class SettingsProtected(AIError):
    code = "limit_protects_settings"


class MediaNotSaved(AIError):
    code = "media_not_saved"
    may_have_cost = True


class InvalidIdempotencyKey(AIError, ValueError):
    code = "invalid_idempotency_key"


class IdempotencyKeyInUse(AIError):
    code = "idempotency_key_in_use"


class IdempotencyKeyReused(AIError):
    code = "idempotency_key_reused"


class IdempotencyAnswerUnreadable(AIError):
    code = "idempotency_answer_unreadable"


class IdempotencyKeyWithStream(AIError, ValueError):
    code = "idempotency_key_with_stream"


class UsageLimited(AIError):
    """A limit has no room for the call. Facts: provider_name, resets_at; `retry_after` says the same in seconds."""

    code = "monthly_limit_reached"


class MonthlyLimitReached(UsageLimited):
    code = "monthly_limit_reached"


class BudgetExhausted(UsageLimited):
    code = "budget_exhausted"


class PriceUnknown(AIError):
    """A budget can't be held to with a model whose price nobody has entered."""

    code = "price_unknown"


class LedgerUnavailable(AIError):
    """The database can't be used, so nothing was done: a call can't be put on the books, or its token not be read."""

    code = "ledger_unavailable"


class GatewayError(AIError):
    """A request in OpenAI's form can't be answered as it is."""


class InvalidAPIKey(GatewayError):
    code = "invalid_api_key"


class TokenExpired(InvalidAPIKey):
    code = "token_expired"


class NotStaff(GatewayError):
    code = "not_staff"


class HTTPSRequired(GatewayError):
    code = "https_required"


class UnknownURL(GatewayError):
    """Facts: method, path."""

    code = "unknown_url"


class MethodNotAllowed(GatewayError):
    """Facts: method, path, allowed."""

    code = "method_not_allowed"


class InvalidBody(GatewayError, ValueError):
    code = "invalid_body"


class BodyTooLarge(GatewayError, ValueError):
    code = "body_too_large"


class BodyTimeout(GatewayError, TimeoutError):
    code = "body_timeout"


class BodyIncomplete(GatewayError, ValueError):
    code = "body_incomplete"


class NoSuchModel(GatewayError):
    code = "no_such_model"


class ModelAmbiguous(GatewayError, ValueError):
    code = "model_ambiguous"


class UnsupportedParameter(GatewayError, ValueError):
    """Facts: model, param, hint."""

    code = "unsupported_parameter"


class ProviderError(AIError):
    """The vendor refused or broke. Facts: provider, operation, status_code, request_id, reason."""

    code = "provider_error"


class ProviderAuthFailed(ProviderError):
    code = "provider_auth_failed"


class ProviderNoCredit(ProviderError):
    code = "provider_no_credit"


class ProviderRateLimited(ProviderError):
    """The vendor asked us to slow down."""

    code = "provider_rate_limited"


class ProviderModelNotFound(ProviderError):
    code = "provider_model_not_found"


class ProviderBadRequest(ProviderError):
    code = "provider_bad_request"


class ProviderUnavailable(ProviderError, ConnectionError):
    code = "provider_unavailable"


class ProviderTimeout(ProviderError, TimeoutError):
    code = "provider_timeout"


class ProviderInvalidResponse(ProviderError):
    code = "provider_invalid_response"


class ContentInvalid(ProviderInvalidResponse):
    code = "content_invalid"


class EmptyReply(ProviderInvalidResponse):
    code = "empty_reply"


class ContentBlocked(ProviderError):
    """A refusal or a safety block; `reason` is the vendor's."""

    code = "content_blocked"


class StreamInterrupted(ProviderError):
    code = "stream_interrupted"


HTTP_STATUS: dict[type[AIError], int] = {
    AIError: 500,
    InvalidRequest: 400,
    InvalidConfig: 400,
    CapabilityRequired: 400,
    ModelLacksCapability: 400,
    OperationNotSupported: 400,
    ProviderNotRegistered: 404,
    ProviderNotFound: 404,
    ModelNotFound: 404,
    NoActiveModel: 404,
    ModelAccessDenied: 403,
    TokenNotAllowed: 403,
    TokenMayNotMakeTokens: 403,
    TokenRateLimited: 429,
    RatesUnavailable: 503,
    NoUsableKey: 403,
    SettingsProtected: 409,
    UsageLimited: 429,
    PriceUnknown: 403,
    LedgerUnavailable: 503,
    InvalidIdempotencyKey: 400,
    IdempotencyKeyInUse: 409,
    IdempotencyKeyReused: 409,
    IdempotencyAnswerUnreadable: 409,
    IdempotencyKeyWithStream: 400,
    MediaNotSaved: 503,
    GatewayError: 400,
    InvalidAPIKey: 401,
    NotStaff: 403,
    HTTPSRequired: 403,
    UnknownURL: 404,
    MethodNotAllowed: 405,
    BodyTimeout: 408,
    BodyTooLarge: 413,
    NoSuchModel: 404,
    ProviderError: 502,
    ProviderRateLimited: 429,
    ProviderModelNotFound: 404,
    ProviderTimeout: 504,
    ContentBlocked: 422,
}


def http_status(error: AIError) -> int:
    """The HTTP status of an error: that of the nearest class in `HTTP_STATUS`."""
    return next(HTTP_STATUS[base] for base in type(error).__mro__ if base in HTTP_STATUS)
