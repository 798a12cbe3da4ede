"""The endpoints: who asks, for what, and who answers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from django.utils.translation import gettext as _

from src.ai.exceptions import (
    AIError,
    HTTPSRequired,
    InvalidRequest,
    MethodNotAllowed,
    NoSuchModel,
    UnknownURL,
)
from src.ai.models import AIModel
from src.ai.providers.passthrough import CHAT, EMBEDDINGS, IMAGES, SPEECH, Fields
from src.ai.services.caller import Caller, calling
from src.ai.services.catalogue import Catalogue, NotInMemory
from src.ai.services.gateway.bodies import is_list, read_field, read_fields
from src.ai.services.gateway.options import options
from src.ai.services.gateway.passing import Passage
from src.ai.services.gateway.routing import CAPABILITIES, NAME_SHOWN, find_target, model_name, usable_models
from src.ai.services.gateway.sessions import Session, open_session
from src.ai.services.gateway.translating import translate
from src.ai.services.gateway.wire import JSON, ErrorAnswer, Request, Responder, error_answer, server_error, to_json

logger = logging.getLogger(__name__)

PREFIX: Final = "/v1"
MODELS: Final = "models"
# What a body must have; the rest is between the caller and the vendor.
_REQUIRED: Final[Mapping[str, tuple[str, type | None]]] = {
    CHAT: ("messages", list),
    IMAGES: ("prompt", str),
    SPEECH: ("input", str),
    EMBEDDINGS: ("input", None),
}


async def answer(request: Request, responder: Responder) -> None:
    """Answer a request, whatever becomes of it."""
    try:
        await _answer(request, responder)
    except AIError as error:
        await _refuse(responder, error_answer(error, request))
    except Exception:
        logger.exception("A request to the gateway failed", extra={"path": request.path})
        await _refuse(responder, server_error())


async def _refuse(responder: Responder, refused: ErrorAnswer) -> None:
    if responder.has_begun:
        responder.break_off()
    else:
        await responder.send(refused.status, refused.headers, refused.body)


async def _answer(request: Request, responder: Responder) -> None:
    if options().https_only and not request.is_secure:
        raise HTTPSRequired()
    session = await open_session(request)
    session.check()
    endpoint = request.path
    if endpoint in CAPABILITIES:
        _check_method(request, "POST")
        await _generate(session, endpoint, request, responder)
    elif endpoint == MODELS:
        _check_method(request, "GET")
        models = await _usable(session, request)
        await _send(responder, {"object": "list", "data": [_describe(model) for model in models]})
    elif endpoint.startswith(f"{MODELS}/"):
        _check_method(request, "GET")
        name = endpoint.removeprefix(f"{MODELS}/")
        await _send(responder, _describe(_find(await _usable(session, request), name)))
    else:
        raise UnknownURL(method=request.method, path=f"{PREFIX}/{endpoint}")


async def _generate(session: Session, endpoint: str, request: Request, responder: Responder) -> None:
    body = await request.read_body()
    fields = read_fields(body)
    _check_required(endpoint, fields)
    name = read_field(fields, "model", str)
    if name is None and endpoint == IMAGES:
        name = "image"  # OpenAI's own default is a model of its own
    if not name:
        raise InvalidRequest(reason=_("Name the 'model'. GET /v1/models lists them."), attr="model")
    target = await find_target(session, endpoint, name, request)
    if target.route is None or target.goes_to is None:
        caller = Caller(session.token.token_key, request.request_id, shares_connections=True, rules=session.rules)
        with calling(caller):
            await translate(session, target, fields, request, responder)
    else:
        passage = Passage(session, target, target.route, target.goes_to, fields, request, responder, len(body))
        del body, fields  # they may be megabytes, and an answer may take minutes
        await passage.run()


def _check_required(endpoint: str, fields: Fields) -> None:
    name, kind = _REQUIRED[endpoint]
    if kind is list:
        if name not in fields or not is_list(fields[name]):
            raise InvalidRequest(reason=_("'{name}' must be a list.").format(name=name), attr=name)
    elif kind is not None:
        read_field(fields, name, kind, required=True)
    elif name not in fields:
        raise InvalidRequest(reason=_("'{name}' is missing.").format(name=name), attr=name)


def _check_method(request: Request, allowed: str) -> None:
    if request.method != allowed:
        raise MethodNotAllowed(method=request.method, path=f"{PREFIX}/{request.path}", allowed=allowed)


# -- models ------------------------------------------------------------------------------------------------------------


async def _usable(session: Session, request: Request) -> list[AIModel]:
    with suppress(NotInMemory):
        return usable_models(session, Catalogue(memory_only=True))
    return await request.look_up(lambda: usable_models(session, Catalogue()))


def _find(models: list[AIModel], name: str) -> AIModel:
    found = [model for model in models if name in (model_name(model), model.model_id)]
    if not found:
        raise NoSuchModel(model=name[:NAME_SHOWN], attr="model")
    return next((model for model in found if model_name(model) == name), found[0])


def _describe(model: AIModel) -> dict[str, Any]:
    created = int(model.created_at.timestamp())
    return {"id": model_name(model), "object": "model", "created": created, "owned_by": model.provider.slug}


async def _send(responder: Responder, answer: Mapping[str, Any]) -> None:
    await responder.send(200, [JSON], to_json(answer))
