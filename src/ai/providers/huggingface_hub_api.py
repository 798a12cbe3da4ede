"""What HuggingFace's lists, mappings and keys say: JSON in, our types out. No transport.

Sources: huggingface/hub-docs, docs/inference-providers (2026-08-22), and `huggingface_hub` 2.4.0.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlsplit

from src.ai.providers.huggingface_forms import Route
from src.ai.providers.openai_format import parse_decimal
from src.ai.providers.prices import FREE
from src.ai.results import ModelInfo

# The Hub's task, and the capability of a model that does it.
TASKS: Final = {"text-to-image": "image", "text-to-speech": "audio", "feature-extraction": "embedding"}
# The suffixes of a model id that let the router choose.
POLICIES: Final = frozenset({"fastest", "cheapest", "preferred", "auto"})
INFERENCE: Final = "inference.serverless.write"  # "Make calls to Inference Providers"
_NEXT: Final = re.compile(r'<([^>]*)>[^<]*;\s*rel="?next\b')


# -- where a model is served -------------------------------------------------------------------------------------------


def parse_routes(model: str, data: Any) -> tuple[Route, ...]:
    """Where the Hub says that `model` is served, in its order: a list of entries, or an object by host.

    Raises:
        ValueError: it is no answer about a model.
    """
    if not isinstance(data, dict):
        raise ValueError("it says nothing of a model")
    mapping = data.get("inferenceProviderMapping") or []
    if isinstance(mapping, dict):
        mapping = [{**entry, "provider": host} for host, entry in mapping.items() if isinstance(entry, dict)]
    return tuple(
        Route(
            host=entry["provider"],
            model=model,
            host_model=entry["providerId"],
            task=entry.get("task") or "",
            status=entry.get("status") or "",
            weights=entry.get("adapterWeightsPath") or "",
        )
        for entry in mapping
        if isinstance(entry, dict) and entry.get("provider") and entry.get("providerId")
    )


def choose_route(routes: Sequence[Route], task: str, spoken: Collection[str], host: str | None) -> Route:
    """The first live route for `task` at a host whose form is known; with `host`, at that one.

    Raises:
        LookupError: there is none; the message says why.
    """
    live = live_routes(routes, task)
    chosen = next((route for route in live if route.host in spoken and host in (None, route.host)), None)
    if chosen is not None:
        return chosen
    hosts = ", ".join(route.host for route in live)
    if not hosts:
        raise LookupError(f"no host serves it for {task} at the moment.")
    if host and host not in hosts.split(", "):
        raise LookupError(f"the host '{host}' does not serve it for {task} at the moment; it is live at: {hosts}.")
    raise LookupError(
        f"it is live at {host or hosts}, whose form for {task} is not documented. Known are: {', '.join(spoken)}."
    )


def live_routes(routes: Sequence[Route], task: str) -> list[Route]:
    """Those that answer now and do `task`."""
    return [route for route in routes if route.status == "live" and route.task in ("", task)]


def split_host(model: str) -> tuple[str, str | None]:
    """`org/name:host` in its parts; a policy of the router is no host."""
    name, _, suffix = model.partition(":")
    return name, None if suffix in POLICIES or not suffix else suffix


# -- lists -------------------------------------------------------------------------------------------------------------


def parse_chat_model(row: Mapping[str, Any]) -> ModelInfo | None:
    """A row of the router's list, as its live hosts offer it; `None` where none of its hosts is live.

    The price is that of the cheapest host that names both numbers, zero where a host is free.
    """
    hosts = [host for host in row.get("providers") or () if isinstance(host, dict)]
    live = [host for host in hosts if host.get("status") == "live"]
    if hosts and not live:
        return None
    offers = sorted((offer for host in live if (offer := _offer(host))), key=lambda offer: sum(offer[0]))
    (price_in, price_out), window = offers[0] if offers else ((None, None), None)
    architecture = row.get("architecture")
    reads = architecture.get("input_modalities") if isinstance(architecture, dict) else None
    return ModelInfo(
        model_id=str(row["id"]),
        capabilities=("chat", "content", "vision") if "image" in (reads or ()) else ("chat", "content"),
        pricing_input=price_in,
        pricing_output=price_out,
        context_window=window or max((_window(host) or 0 for host in live), default=0) or None,
    )


def _offer(host: Mapping[str, Any]) -> tuple[tuple[Decimal, Decimal], int | None] | None:
    if host.get("is_free") is True:
        return (FREE, FREE), _window(host)
    listed = host.get("pricing")
    pricing: Mapping[str, Any] = listed if isinstance(listed, dict) else {}
    price_in, price_out = parse_decimal(pricing.get("input")), parse_decimal(pricing.get("output"))
    return None if price_in is None or price_out is None else ((price_in, price_out), _window(host))


def _window(host: Mapping[str, Any]) -> int | None:
    window = host.get("context_length")
    return window if type(window) is int and window > 0 else None


def parse_hub_models(data: Any, task: str, spoken: Collection[str] | None) -> list[ModelInfo]:
    """The models of one page of the Hub's list that can be asked for `task`: live, and at a host of `spoken`.

    They have this one capability: an active model serves all it has, and no other model beside it.

    Raises:
        ValueError: it is no list.
    """
    if not isinstance(data, list):
        raise ValueError("it is no list of models")
    return [
        ModelInfo(model_id=row["id"], capabilities=(TASKS[task],))
        for row in data
        if isinstance(row, dict) and isinstance(row.get("id"), str) and _can_ask(row, task, spoken)
    ]


def _can_ask(row: Mapping[str, Any], task: str, spoken: Collection[str] | None) -> bool:
    return any(spoken is None or route.host in spoken for route in live_routes(parse_routes(row["id"], row), task))


def next_query(headers: Mapping[str, str]) -> str | None:
    """The query of the next page, of a `Link` header. Its host is not taken over: the key goes to ours only."""
    found = _NEXT.search(headers.get("link", ""))
    return (urlsplit(found[1]).query or None) if found else None


# -- keys --------------------------------------------------------------------------------------------------------------


def may_infer(whoami: Any) -> bool:
    """Whether a key that the Hub knows may call Inference Providers. One that does not say is taken to.

    Raises:
        ValueError: it is no answer about a key.
    """
    if not isinstance(whoami, dict):
        raise ValueError("it says nothing of a key")
    token = (whoami.get("auth") or {}).get("accessToken") or {}
    if token.get("role") != "fineGrained":
        return True
    return INFERENCE in _permissions(token.get("fineGrained") or {})


def _permissions(granted: Mapping[str, Any]) -> Iterator[str]:
    yield from granted.get("global") or ()
    for scope in granted.get("scoped") or ():
        yield from scope.get("permissions") or ()
