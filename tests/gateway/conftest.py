"""The gateway on real servers, by both of its doors, and the official client."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import openai
import pytest
from django.contrib.auth.models import User
from django.db import connections

from src.ai.models import AIModel, AIProvider, APIToken, UsageRecord
from src.ai.services.ledger.writer import writer as books_writer
from tests.serving import server_thread, wsgi_server_thread
from tests.upstream.server import Upstream

KEY = "sk-0123456789abcdef"


@pytest.fixture
def provider(transactional_db: None, make_provider: Callable[..., AIProvider], upstream: Upstream) -> AIProvider:
    return make_provider(api_base_url=f"{upstream.url}/v1", shared_api_key=KEY, allow_shared_for_normal_admins=True)


@pytest.fixture
def chat_model(provider: AIProvider, make_model: Callable[..., AIModel]) -> AIModel:
    """A dollar a token of the reply; what is asked costs nothing."""
    return make_model(provider, "chat", model_id="gpt-6-luna", pricing_input=0, pricing_output=1_000_000)


@pytest.fixture
def token(transactional_db: None, editor: User) -> str:
    _stored, token = APIToken.objects.create(user=editor, name="tests")
    return str(token)


@pytest.fixture(params=["asgi", "wsgi"])
def site(request: pytest.FixtureRequest, transactional_db: None) -> Iterator[str]:
    """The URL of the site; each test runs once for each door."""
    with server_thread() if request.param == "asgi" else wsgi_server_thread() as url:
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
def settled() -> Callable[[], UsageRecord]:
    """The record of the one call that was made, as it is at its end."""

    def wait() -> UsageRecord:
        assert books_writer.drain(10)
        return UsageRecord.objects.get()

    return wait
