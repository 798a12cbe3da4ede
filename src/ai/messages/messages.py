"""Every message a client can see, by its key. The key is the `code` of the error.

Placeholders are filled by the error that uses the message (`src.ai.exceptions`), which a translation may reorder.
"""

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

Messages = dict[str, Promise]

AI_ERRORS: Messages = {
    "no_active_model": _("No active model found for provider '{provider}' and capability '{capability}'"),
    "no_active_model_any_provider": _("No active model found for capability '{capability}' in any provider"),
    "model_no_capability": _("Model does not support capability '{capability}'"),
    "operation_not_supported": _("Operation '{operation}' is not supported by provider '{provider}'"),
    "capability_required": _("Capability parameter is required"),
    "model_access_denied": _("You do not have access to use this model"),
    "provider_not_registered": _("Provider '{name}' is not registered in the system"),
    "models_list_error": _("Error retrieving models list: {error}"),
    "model_not_found": _("There is no AI model with id {model_id}. List the models of this capability to choose one."),
    "provider_not_found": _("There is no AI provider '{provider}'. List the providers to choose one."),
    "admin_required": _("An AI call needs the admin it is made for: pass admin=<a saved, active staff user>."),
    "sync_call_in_async_code": _(
        "This call would block the event loop. Await its asynchronous twin instead: the same name with an 'a' in front."
    ),
    "invalid_request": _("{reason}"),
    "invalid_config": _("Configuration of provider '{provider}': {reason}"),
    "monthly_limit_reached": _(
        "Your monthly limit of {limit} requests for provider '{provider_name}' is used up until {resets_at}."
    ),
    "token_not_allowed": _(
        "The token '{token}' may not be used for '{capability}' with the model '{model}'. "
        "Choose a model that it allows, or use another token."
    ),
    "token_may_not_make_tokens": _(
        "The token '{token}' carries rules, so it can't make other tokens. "
        "Log in for one without rules, or make it in Django admin."
    ),
    "token_rate_limited": _("The token '{token}' is at its limit ({limit}). Try again in {seconds} s."),
    "rates_unavailable": _(
        "The rates of the token '{token}' can't be checked now, so the call was not made. Try again in a moment."
    ),
    "budget_exhausted": _(
        "The monthly budget of ${budget} {whose} has no room for this call until "
        "{resets_at}. A shorter message, a smaller max_tokens or another provider may fit."
    ),
    "price_unknown": _(
        "A budget holds for this call, and the price of the model '{model}' of provider '{provider_name}' is not "
        "known. Choose another model, or ask a superuser to enter its price."
    ),
    "ledger_unavailable": _("The database can't be used just now, so nothing was done. Try again in a moment."),
    "provider_error": _("The provider '{provider}' failed: {reason}"),
    "provider_auth_failed": _("The provider '{provider}' refused the API key. Check or replace the key: {reason}"),
    "provider_no_credit": _("The account at provider '{provider}' has no credit left: {reason}"),
    "provider_rate_limited": _("The provider '{provider}' asks to slow down: {reason}"),
    "provider_model_not_found": _("The provider '{provider}' does not offer the model '{model}': {reason}"),
    "provider_bad_request": _("The provider '{provider}' rejected the request: {reason}"),
    "provider_unavailable": _("The provider '{provider}' can't be reached: {reason}"),
    "provider_timeout": _("The provider '{provider}' did not answer within {seconds} seconds."),
    "provider_invalid_response": _("The provider '{provider}' sent an answer that can't be used: {reason}"),
    "content_blocked": _("The provider '{provider}' declined this content: {reason}"),
    "content_invalid": _("The model did not return the content as asked, also after one repair: {reason}"),
    "empty_reply": _(
        "The model of provider '{provider}' returned nothing (finish reason: {finish_reason}). "
        "Raise max_tokens or choose another model."
    ),
    "media_not_saved": _("The file was made but can't be stored. Ask without save_to_media to get it directly."),
    "invalid_idempotency_key": _(
        "The header Idempotency-Key must be 1 to 255 visible ASCII characters, without spaces. "
        "Make a new one for each new request, for example a UUID."
    ),
    "idempotency_key_in_use": _(
        "The first request with this Idempotency-Key is still running. Send it again later to get its answer."
    ),
    "idempotency_key_reused": _(
        "This Idempotency-Key stands for another request of the last 24 hours. Use a new key for a new request."
    ),
    "idempotency_answer_unreadable": _(
        "The answer kept for this Idempotency-Key can't be decrypted: SECRET_KEY has changed. "
        "Use a new key to run the request again."
    ),
    "idempotency_key_with_stream": _(
        "A stream can't be given a second time. Send the request without the header Idempotency-Key, or without stream."
    ),
    "stream_interrupted": _("The stream of provider '{provider}' ended before its end: {reason}"),
}

GATEWAY_ERRORS: Messages = {
    "invalid_api_key": _("Send a valid API token: 'Authorization: Bearer <token>'. Tokens are made in Django admin."),
    "token_expired": _("This API token has expired. Make a new one in Django admin."),
    "not_staff": _("The user of this API token may not use AI: only active staff may."),
    "https_required": _("Ask over https: a token must not travel in plain text."),
    "unknown_url": _("There is nothing at {method} {path}."),
    "method_not_allowed": _("{path} takes {allowed}, not {method}."),
    "invalid_body": _("The body can't be read: {reason}"),
    "body_too_large": _("The body is larger than {limit} bytes. Send a smaller one, such as smaller images."),
    "body_timeout": _("The body did not arrive within {seconds} seconds. Send the request again."),
    "body_incomplete": _("The connection was closed before the whole body had come."),
    "no_such_model": _(
        "There is no active model '{model}'. GET /v1/models lists those that you may use; 'chat', 'content', 'image', "
        "'audio' and 'embedding' stand for whichever is active."
    ),
    "model_ambiguous": _("Several providers have the model '{model}'. Name one of: {names}."),
    "unsupported_parameter": _("The model '{model}' can't take '{param}' here. {hint}"),
}

SETTINGS_ERRORS: Messages = {
    "shared_api_not_allowed": _("Shared API key is not allowed for normal admins for provider '{provider_name}'"),
    "no_api_key_available": _(
        "No API key available for provider '{provider_name}'. Please set either personal or shared API key."
    ),
    "key_unreadable": _(
        "The stored API key for provider '{provider_name}' can't be decrypted. Enter the key again, "
        "or put the SECRET_KEY that it was saved under into SECRET_KEY_FALLBACKS."
    ),
    "personal_keys_not_allowed": _("Provider '{provider_name}' does not allow personal API keys."),
    "limit_protects_settings": _(
        "These settings carry a monthly limit set by a superuser and can't be deleted. "
        "To remove only your key, empty it."
    ),
}

BUDGET_OF: Messages = {
    "admin": _("for your calls at provider '{provider_name}'"),
    "shared_key": _("for the shared key at provider '{provider_name}'"),
    "token": _("for the token '{token}…'"),
}

RATE_OF: Messages = {
    "requests_per_minute": _("requests per minute: {count}"),
    "concurrent_requests": _("requests at once: {count}"),
}

AI_SUCCESS: Messages = {
    "model_activated": _("'{model}' is now active."),
    "model_deactivated": _("'{model}' is no longer active."),
    "models_deactivated_instead": _("Deactivated: {models}."),
    "capabilities_uncovered": _("'{provider}' now has no active model for: {capabilities}."),
    "key_accepted": _("The provider accepted the key."),
    "key_refused": _("The provider refused the key."),
    "key_unknown": _("The provider could not be asked, so nothing is known about the key: {reason}"),
}

MESSAGES: Messages = {**AI_ERRORS, **GATEWAY_ERRORS, **SETTINGS_ERRORS, **AI_SUCCESS}
