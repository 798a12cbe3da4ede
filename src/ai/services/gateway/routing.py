"""Which model a name means for the owner of a token, and how that model is asked."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from msgspec import Raw

from src.ai.exceptions import InvalidConfig, ModelAmbiguous, ModelLacksCapability, NoSuchModel
from src.ai.models import AIModel
from src.ai.providers.base import BaseProvider
from src.ai.providers.errors import Call
from src.ai.providers.passthrough import CHAT, EMBEDDINGS, IMAGES, SPEECH, Route, to_raw
from src.ai.services.access import ModelAccessState, choose_key_source
from src.ai.services.catalogue import Catalogue, NotInMemory
from src.ai.services.gateway.sessions import Session
from src.ai.services.gateway.wire import Request
from src.ai.services.ledger.estimates import longest_reply
from src.ai.services.token_rules import allows, check
from src.ai.services.unified_service import UnifiedAIService
from src.ai.services.usage import CallKind
from src.core.exchange import Endpoint
from src.core.http import Timeouts, timeouts

# What each endpoint serves, and what the books call its operation.
CAPABILITIES: Final[Mapping[str, tuple[str, ...]]] = {
    CHAT: ("chat", "content"),
    IMAGES: ("image",),
    SPEECH: ("audio",),
    EMBEDDINGS: ("embedding",),
}
OPERATIONS: Final[Mapping[str, str]] = {
    CHAT: "chat",
    IMAGES: "generate_image",
    SPEECH: "text_to_speech",
    EMBEDDINGS: "embeddings",
}
_HEADERS: Final = {"Content-Type": "application/json", "Accept": "*/*", "Accept-Encoding": "identity"}
NAME_SHOWN: Final = 200  # characters of a name that are repeated to who asked for it
_ALL_CAPABILITIES: Final = frozenset(name for names in CAPABILITIES.values() for name in names)


@dataclass(frozen=True, slots=True)
class Target:
    """How one token's requests to an endpoint for a model are answered. `route` is None where it is by an operation.

    `longest_reply` is the tokens that a reply may have where nobody sets a limit, `reply_limit` those of the limit that
    is set where the caller sets none: the configured one, else what a budget is held for.
    """

    endpoint: str
    model: AIModel
    capability: str
    kind: CallKind
    model_field: Raw
    longest_reply: int
    reply_limit: int | None
    provider: BaseProvider
    route: Route | None
    goes_to: Endpoint | None
    call: Call
    limits: Timeouts
    streaming_limits: Timeouts

    @property
    def operation(self) -> str:
        return OPERATIONS[self.endpoint]


async def find_target(session: Session, endpoint: str, name: str, request: Request) -> Target:
    """The way of a request of `session` for the model `name`: "provider/model-id", a model id or a capability.

    Raises:
        NoSuchModel, ModelAmbiguous, ModelLacksCapability: the name means none that can do this, or several.
        AIError: as `UnifiedAIService` has it, where the model may not be used.
    """
    if (target := session.targets.get((endpoint, name))) is not None:
        return target
    with suppress(NotInMemory):  # and no more of it: a look-up keeps the error that it is made for, with its frames
        target = _find(session, endpoint, name, Catalogue(memory_only=True))
    if target is None:
        target = await request.look_up(lambda: _find(session, endpoint, name, Catalogue()))
    session.remember(endpoint, name, target)
    return target


def model_name(model: AIModel) -> str:
    """What a model is called here."""
    return f"{model.provider.slug}/{model.model_id}"


def usable_models(session: Session, catalogue: Catalogue) -> list[AIModel]:
    """The models that the token's owner may use, in the order in which they are tried."""
    return [model for model in catalogue.all_active_models() if _is_usable(model, session, catalogue)]


def _find(session: Session, endpoint: str, name: str, catalogue: Catalogue) -> Target:
    model, capability = _choose(session, endpoint, name, catalogue)
    admin, provider_row = session.admin, model.provider
    check(session.rules, model, capability)
    UnifiedAIService._check_access(model, admin, catalogue=catalogue)
    own = catalogue.admin_settings(admin, provider_row)
    provider = UnifiedAIService._get_provider_instance(model, admin, catalogue=catalogue)
    route = provider.openai_route(endpoint, model.model_id)
    try:
        goes_to = Endpoint.of(route.url, {**_HEADERS, **route.headers}) if route else None
    except ValueError as error:
        raise InvalidConfig(provider=provider_row.slug, reason=str(error), attr="config") from error
    operation, seconds = OPERATIONS[endpoint], provider.config.get("timeout")
    source = choose_key_source(provider=provider_row, admin=admin, own=own)
    kind = CallKind(model, admin, own, source, session.rules)
    longest, reply_limit = longest_reply(model), provider.config.get("max_tokens")
    if reply_limit is None and kind.has_budget:
        reply_limit = longest
    return Target(
        endpoint=endpoint,
        model=model,
        capability=capability,
        kind=kind,
        model_field=to_raw(model.model_id),
        longest_reply=longest,
        reply_limit=reply_limit,
        provider=provider,
        route=route,
        goes_to=goes_to,
        call=Call(provider_row.slug, operation, provider.api_key, model.model_id),
        limits=timeouts(operation, seconds),
        streaming_limits=timeouts("stream_chat", seconds),
    )


def _choose(session: Session, endpoint: str, name: str, catalogue: Catalogue) -> tuple[AIModel, str]:
    """The model, and which of its capabilities serves."""
    wanted = CAPABILITIES[endpoint]
    if name in wanted:
        admin, rules = session.admin, session.rules
        return UnifiedAIService._get_active_model(name, admin=admin, catalogue=catalogue, rules=rules), name
    if name in _ALL_CAPABILITIES:
        raise ModelLacksCapability(capability=wanted[0], attr="model")
    model = _named(session, name, catalogue)
    capability = next((one for one in wanted if model.has_capability(one)), None)
    if capability is None:
        raise ModelLacksCapability(capability=wanted[0], attr="model")
    return model, capability


def _named(session: Session, name: str, catalogue: Catalogue) -> AIModel:
    active = catalogue.all_active_models()
    found = [model for model in active if model_name(model) == name] or [
        model for model in active if model.model_id == name
    ]
    if not found:
        raise NoSuchModel(model=name[:NAME_SHOWN], attr="model")
    if len(found) == 1:
        return found[0]
    usable = [model for model in found if _is_usable(model, session, catalogue)]
    if len(usable) > 1:
        raise ModelAmbiguous(model=name, names=", ".join(map(model_name, usable)), attr="model")
    return usable[0] if usable else found[0]


def _is_usable(model: AIModel, session: Session, catalogue: Catalogue) -> bool:
    if not any(allows(session.rules, model, one) for one in _ALL_CAPABILITIES.intersection(model.capabilities)):
        return False
    own = catalogue.admin_settings(session.admin, model.provider)
    return ModelAccessState.calculate(model=model, admin=session.admin, own=own).is_available
