"""Vendors on loopback, each with a provider class and a row, and the commands run as a person would."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import httpx
import pytest
from django.core.management import CommandError, call_command

from src.ai.exceptions import ProviderError
from src.ai.models import AIModel, AIProvider
from src.ai.providers.base import BaseProvider
from src.ai.providers.registry import AIProviderRegistry
from src.ai.results import ModelInfo


@dataclass
class Vendor:
    """One vendor on the loopback server, and the row that points to it."""

    row: AIProvider
    models: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200
    keys: list[str | None] = field(default_factory=list)  # the Authorization of each request
    before_answer: Callable[[], Any] = lambda: None

    def lists(self, *models: dict[str, Any] | str) -> None:
        """From now on the vendor lists these; a bare id is a chat model."""
        self.models = [
            {"model_id": model, "capabilities": ["chat"]} if isinstance(model, str) else model for model in models
        ]

    def model(self, model_id: str) -> AIModel:
        return AIModel.objects.get(provider=self.row, model_id=model_id)

    def ids(self) -> set[str]:
        return set(AIModel.objects.filter(provider=self.row).values_list("model_id", flat=True))


class LoopbackProvider(BaseProvider):
    """Asks `{base_url}/models`, whose rows are the fields of `ModelInfo`; prices are texts."""

    name: ClassVar[str]

    @classmethod
    def get_provider_name(cls) -> str:
        return cls.name

    async def get_available_models(self) -> list[ModelInfo]:
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        async with httpx.AsyncClient(timeout=30) as client:
            response = await client.get(f"{self.config['base_url']}/models", headers=headers)
        if response.status_code != 200:
            raise ProviderError(provider=self.name, reason=f"HTTP {response.status_code} for key {self.api_key}")
        return [self._info(row) for row in response.json()]

    def _info(self, row: dict[str, Any]) -> ModelInfo:
        prices = {name: Decimal(row[name]) for name in ("pricing_input", "pricing_output") if row.get(name) is not None}
        return ModelInfo(**{**row, **prices, "capabilities": tuple(row.get("capabilities", ()))})


@pytest.fixture
def upstream() -> Iterator[tuple[str, dict[str, Vendor]]]:
    """A server that answers `/{slug}/models` for each vendor in the dict."""
    vendors: dict[str, Vendor] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            vendor = vendors[self.path.split("/")[1]]
            vendor.keys.append(self.headers.get("Authorization"))
            vendor.before_answer()
            body = json.dumps(vendor.models).encode()
            self.send_response(vendor.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: Any) -> None:
            """A client that hangs up is part of the tests."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", vendors
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def vendor(db: None, upstream: tuple[str, dict[str, Vendor]]) -> Iterator[Callable[..., Vendor]]:
    """Makes a vendor: a class registered in place of any that has the name, and an active row with a shared key."""
    url, vendors = upstream
    registry = AIProviderRegistry()
    replaced = {name: registry.get(name) for name in registry.get_registered_names()}

    def make(slug: str = "alpha", *, class_attributes: dict[str, Any] | None = None, **fields: Any) -> Vendor:
        registry.unregister(slug)
        registry.register(slug, type("AnyLoopback", (LoopbackProvider,), {"name": slug, **(class_attributes or {})}))
        fields = {"shared_api_key": f"key-of-{slug}-0123456789", "name": slug.title(), **fields}
        vendors[slug] = Vendor(AIProvider.objects.create(slug=slug, api_base_url=f"{url}/{slug}", **fields))
        return vendors[slug]

    yield make
    for slug in vendors:
        registry.unregister(slug)
        if slug in replaced:
            registry.register(slug, replaced[slug])


@dataclass
class Run:
    """What a command printed, and the error it ended with."""

    out: str
    err: str
    error: CommandError | None


@pytest.fixture
def run() -> Callable[..., Run]:
    """Runs a command and tells what came out; `error` is what makes the exit status non-zero."""

    def run(*arguments: Any, **options: Any) -> Run:
        out, err = io.StringIO(), io.StringIO()
        error = None
        try:
            call_command(*arguments, stdout=out, stderr=err, **options)
        except CommandError as raised:
            error = raised
        return Run(out.getvalue(), err.getvalue(), error)

    return run
