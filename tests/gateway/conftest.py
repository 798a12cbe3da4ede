"""The gateway on real servers, by both of its doors, and the official client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest
from django.contrib.auth.models import User
from django.db import connections

from src.ai.models import AIModel, AIProvider, APIToken, UsageRecord
from tests.serving import server_thread, wsgi_server_thread
from tests.upstream.server import Reply, Upstream

KEY = "sk-0123456789abcdef"
PROTOCOLS = {"uvicorn": "src.ai.protocol:Protocol", "asgi": "httptools"}
SAMPLES = Path(__file__).parent / "samples"
HELLO = [{"role": "user", "content": "Hello"}]


@dataclass(frozen=True)
class Vendor:
    """Where a vendor's rows point to, and where it is then asked."""

    slug: str
    base: str
    chat: str
    model: str


VENDORS = [
    Vendor("openai", "/v1", "/v1/chat/completions", "gpt-6-luna"),
    Vendor("gemini", "/v1beta", "/v1beta/openai/chat/completions", "gemini-3.8-flash"),
    Vendor("groq", "/openai/v1", "/openai/v1/chat/completions", "openai/gpt-oss-120b"),
    Vendor("huggingface", "/v1", "/v1/chat/completions", "Qwen/Qwen3.8-27B:fastest"),
    Vendor("deepseek", "", "/chat/completions", "deepseek-flash"),
    Vendor("openrouter", "/api/v1", "/api/v1/chat/completions", "openai/gpt-oss-120b:free"),
]


def sample(name: str) -> bytes:
    """A stream as a vendor's live service sent it, or its documentation shows it."""
    return (SAMPLES / f"{name}.sse").read_bytes()


def in_pieces(content: bytes, size: int) -> Reply:
    """A stream that comes in pieces of so many bytes."""
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    return Reply(200, pieces, {"content-type": "text/event-stream"})


@pytest.fixture
def provider(transactional_db: None, make_provider: Callable[..., AIProvider], upstream: Upstream) -> AIProvider:
    return make_provider(api_base_url=f"{upstream.url}/v1", shared_api_key=KEY, allow_shared_for_normal_admins=True)


@pytest.fixture
def chat_model(provider: AIProvider, make_model: Callable[..., AIModel]) -> AIModel:
    """A dollar a token of the reply; what is asked costs nothing."""
    return make_model(provider, "chat", model_id="gpt-6-luna", pricing_input=0, pricing_output=1_000_000)


@pytest.fixture(params=VENDORS, ids=lambda vendor: vendor.slug)
def vendor(
    request: pytest.FixtureRequest,
    transactional_db: None,
    upstream: Upstream,
    make_provider: Callable[..., AIProvider],
    make_model: Callable[..., AIModel],
) -> Vendor:
    """Each of the six in turn, with one model for chat."""
    vendor: Vendor = request.param
    row = make_provider(
        vendor.slug,
        api_base_url=f"{upstream.url}{vendor.base}",
        shared_api_key=KEY,
        allow_shared_for_normal_admins=True,
    )
    make_model(row, "chat", model_id=vendor.model, pricing_input=0, pricing_output=1_000_000)
    return vendor


@pytest.fixture
def token(transactional_db: None, editor: User) -> str:
    _stored, token = APIToken.objects.create(user=editor, name="tests")
    return str(token)


@pytest.fixture(params=["uvicorn", "asgi", "wsgi"])
def door(request: pytest.FixtureRequest) -> str:
    """By which a test comes in; each test runs once for each."""
    return str(request.param)


@pytest.fixture
def site(door: str, transactional_db: None) -> Iterator[str]:
    """The URL of the site."""
    with wsgi_server_thread() if door == "wsgi" else server_thread(PROTOCOLS[door]) as url:
        yield url
    connections.close_all()


@pytest.fixture
def http(site: str, token: str) -> Iterator[httpx.Client]:
    """A plain client, with the token."""
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=f"{site}/v1", headers=headers, timeout=20) as client:
        yield client


@pytest.fixture
def client(site: str, token: str) -> Iterator[openai.OpenAI]:
    """The official client, which asks once."""
    with openai.OpenAI(base_url=f"{site}/v1", api_key=token, max_retries=0, timeout=20) as client:
        yield client


@pytest.fixture
def settled(ended: Callable[[], UsageRecord]) -> Callable[[], UsageRecord]:
    """The record of the one call that was made, once it has ended: that may be after its client has all of it."""
    return ended
