"""The gateway's part of the OpenAPI document: OpenAI's own forms, as far as they are read here.

What else a body holds is between the caller and the vendor, so every object is open.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from src.ai.services.gateway.api import PREFIX

Schema = dict[str, Any]

TAG: Final = "v1"
_ERROR: Final = "GatewayError"
# What each status means; which operations can answer it is said at each.
_MEANINGS: Final = {
    400: gettext_lazy("The body is wrong (`param` says where), or the vendor refused it."),
    401: gettext_lazy("No token, a wrong one (`invalid_api_key`) or an expired one (`token_expired`)."),
    403: gettext_lazy(
        "Not staff, not by https, not what the token is for (`token_not_allowed`), or nobody's key may pay "
        "(`shared_api_not_allowed`, `no_api_key_available` …)."
    ),
    404: gettext_lazy("No such model (`model_not_found`), or none is active."),
    405: gettext_lazy("Another method; `Allow` names the right one."),
    408: gettext_lazy("The body came too slowly (`body_timeout`)."),
    413: gettext_lazy("The body is too large (`body_too_large`), or is for the vendor."),
    422: gettext_lazy("The vendor refused the content (`content_blocked`) or a value."),
    429: gettext_lazy(
        "Too fast (`rate_limit_exceeded`, with `Retry-After`), or a limit or budget is spent "
        "(`monthly_limit_reached`, `budget_exhausted`, with `x-should-retry: false`)."
    ),
    500: gettext_lazy("A mistake of this site's (`internal_error`)."),
    502: gettext_lazy("The vendor refused the key, broke, or answered what is no answer (`provider_…`)."),
    503: gettext_lazy(
        "Books or rates are away, and the vendor was not asked (`ledger_unavailable`, `rates_unavailable`)."
    ),
    504: gettext_lazy("The vendor did not answer in time (`provider_timeout`)."),
}
_READING: Final = (401, 403, 405, 500, 503)


def add_gateway(result: Schema, **_facts: Any) -> Schema:
    """Add the gateway's paths to the document that drf-spectacular made; one of its `POSTPROCESSING_HOOKS`."""
    result["paths"] = {**result["paths"], **_paths()}
    schemas = result.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(_schemas())
    return result


def _paths() -> Schema:
    return {
        f"{PREFIX}/chat/completions": _generation(
            "v1_chat_completions",
            _("Reply to a conversation; with `stream` as server-sent events."),
            request="GatewayChatRequest",
            answers={"application/json": _ref("GatewayChat"), "text/event-stream": {"type": "string"}},
        ),
        f"{PREFIX}/images/generations": _generation(
            "v1_images_generations",
            _("Make images."),
            request="GatewayImageRequest",
            answers={"application/json": _ref("GatewayImages"), "text/event-stream": {"type": "string"}},
        ),
        f"{PREFIX}/audio/speech": _generation(
            "v1_audio_speech",
            _("Speak a text. The bytes are the vendor's, in the format that `Content-Type` names."),
            request="GatewaySpeechRequest",
            answers={
                "audio/*": {"type": "string", "format": "binary"},
                "text/event-stream": {"type": "string"},
                "application/octet-stream": {"type": "string", "format": "binary"},
            },
        ),
        f"{PREFIX}/embeddings": _generation(
            "v1_embeddings",
            _("Make vectors of texts."),
            request="GatewayEmbeddingsRequest",
            answers={"application/json": _ref("GatewayEmbeddings")},
        ),
        f"{PREFIX}/models": {
            "get": {
                **_operation("v1_models", _("The models that this token may use.")),
                "responses": _responses({"application/json": _ref("GatewayModelList")}, _READING),
            }
        },
        f"{PREFIX}/models/{{model}}": {
            "get": {
                **_operation("v1_models_retrieve", _("One model.")),
                "parameters": [
                    {
                        "name": "model",
                        "in": "path",
                        "required": True,
                        "schema": {"type": "string", "minLength": 1},
                        "description": _("As `id` in the list, or the vendor's id. Slashes may stand as they are."),
                    }
                ],
                "responses": _responses({"application/json": _ref("GatewayModel")}, (*_READING, 404)),
            }
        },
    }


def _generation(name: str, description: str, *, request: str, answers: Mapping[str, Schema]) -> Schema:
    body = {"required": True, "content": {"application/json": {"schema": _ref(request)}}}
    return {"post": {**_operation(name, description), "requestBody": body, "responses": _responses(answers, _MEANINGS)}}


def _operation(name: str, description: str) -> Schema:
    return {"operationId": name, "description": description, "tags": [TAG], "security": [{"bearerAuth": []}]}


def _responses(answers: Mapping[str, Schema], errors: Iterable[int]) -> Schema:
    name = {"X-Request-Id": {"schema": {"type": "string"}, "description": _("The caller's, or a new one.")}}
    content = {media: {"schema": schema} for media, schema in answers.items()}
    error = {"application/json": {"schema": _ref(_ERROR)}}
    return {
        "200": {"description": "", "headers": name, "content": content},
        **{
            str(status): {"description": str(_MEANINGS[status]), "headers": name, "content": error}
            for status in sorted(errors)
        },
    }


def _schemas() -> dict[str, Schema]:
    text, number, whole = {"type": "string"}, {"type": "number"}, {"type": "integer"}
    maybe_whole, maybe_flag = {"type": ["integer", "null"]}, {"type": ["boolean", "null"]}
    maybe_text = {"type": ["string", "null"]}
    model = {
        "type": "string",
        "minLength": 1,
        "description": _("`provider/model-id`, a model's id, or `chat`, `content`, `image`, `audio`, `embedding`."),
    }
    return {
        _ERROR: _object(
            {
                "error": _object(
                    {"message": text, "type": maybe_text, "param": {}, "code": {}},
                    required=("message", "type", "param", "code"),
                )
            },
            required=("error",),
        ),
        "GatewayChatRequest": _object(
            {
                "model": model,
                "messages": {
                    "type": "array",
                    "items": _object({"role": text, "content": {}}, required=("role",)),
                    "minItems": 1,
                },
                "stream": maybe_flag,
                "stream_options": {"type": ["object", "null"], "properties": {"include_usage": maybe_flag}},
                "max_tokens": maybe_whole,
                "max_completion_tokens": maybe_whole,
                "n": maybe_whole,
            },
            required=("model", "messages"),
        ),
        "GatewayChat": _object(
            {"id": text, "object": text, "created": whole, "model": text, "choices": _list({"type": "object"})},
            required=("choices",),
        ),
        "GatewayImageRequest": _object({"model": model, "prompt": text, "stream": maybe_flag}, required=("prompt",)),
        "GatewayImages": _object({"created": whole, "data": _list({"type": "object"})}, required=("data",)),
        "GatewaySpeechRequest": _object({"model": model, "input": text, "voice": {}}, required=("model", "input")),
        "GatewayEmbeddingsRequest": _object(
            {"model": model, "input": {"type": ["string", "array"]}}, required=("model", "input")
        ),
        "GatewayEmbeddings": _object(
            {
                "data": _list(
                    _object(
                        {"index": whole, "embedding": {"oneOf": [text, _list(number)]}},
                        required=("index", "embedding"),
                    )
                )
            },
            required=("data",),
        ),
        "GatewayModel": _object(
            {"id": text, "object": {"const": "model"}, "created": whole, "owned_by": text},
            required=("id", "object", "created", "owned_by"),
        ),
        "GatewayModelList": _object(
            {"object": {"const": "list"}, "data": _list(_ref("GatewayModel"))}, required=("object", "data")
        ),
    }


def _object(properties: Mapping[str, Schema], *, required: Iterable[str]) -> Schema:
    return {"type": "object", "properties": dict(properties), "required": list(required)}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
