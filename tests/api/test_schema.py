"""Whatever the OpenAPI document allows, asked of the served site: no answer that is not in it, and none of 5xx."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from django.contrib.auth.models import User
from django.db import connections
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks

from src.ai.models import AdminProviderSettings, AIModel, AIProvider, APIToken
from tests import vendor_answers as answers
from tests.serving import server_thread, wsgi_server_thread
from tests.upstream.server import Reply, Request, Upstream, events, whole

EXAMPLES = 6  # of each operation, right ones and as many wrong ones
KEY = "sk-0123456789abcdef"
CHECKED = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
VECTORS = {"object": "list", "model": "m", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}]}


def answer_chat(request: Request) -> Reply:
    asked = request.json
    if asked.get("stream"):
        return events(answers.chunk("Hi"), answers.chunk(None, "stop"))
    return whole(200, answers.article() if "response_format" in asked else answers.chat("Hi!"))


@pytest.fixture
def vendor(upstream: Upstream) -> Upstream:
    """One that does everything, and well."""
    upstream.on("POST", answers.CHAT, answer_chat)
    upstream.on("POST", answers.IMAGES, whole(200, answers.images(answers.png())))
    upstream.on("POST", answers.SPEECH, whole(200, answers.wav(), content_type="audio/wav"))
    upstream.on("POST", "/v1/embeddings", whole(200, VECTORS))
    upstream.on("GET", "/v1/models", whole(200, {"object": "list", "data": []}))
    return upstream


@pytest.fixture
def rows(vendor: Upstream, superuser: User) -> Callable[[], dict[str, Any]]:
    """Makes what an example may have deleted or changed, and tells its ids."""

    def make() -> dict[str, Any]:
        fields = {"name": "OpenAI", "api_base_url": f"{vendor.url}/v1", "is_active": True, "config": {}}
        provider, _ = AIProvider.objects.get_or_create(slug="openai", defaults=fields)
        for name, value in fields.items():
            setattr(provider, name, value)
        provider.shared_api_key = KEY
        provider.save()
        for capability in ("chat", "content", "image", "audio", "embedding"):
            named = {"provider": provider, "model_id": f"any-{capability}"}
            model, _ = AIModel.objects.get_or_create(**named, defaults={"name": capability})
            model.capabilities, model.is_active = [capability], True
            model.save()
        own, _ = AdminProviderSettings.objects.get_or_create(admin=superuser, provider=provider)
        token, _secret = APIToken.objects.create(user=superuser, name="row")
        return {
            "ai-providers": provider.pk,
            "ai-models": model.pk,
            "ai-settings": own.pk,
            "tokens": token.token_key,
            "model": "openai/any-chat",
        }

    return make


@pytest.fixture(params=["asgi", "wsgi"])
def door(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def site(door: str, transactional_db: None) -> Iterator[str]:
    with server_thread() if door == "asgi" else wsgi_server_thread() as url:
        yield url
    connections.close_all()


@pytest.fixture
def document(site: str) -> Any:
    """The document, as it is served."""
    return schemathesis.openapi.from_url(f"{site}/api/schema", headers={"accept": "application/json"})


def operations(document: Any) -> list[Any]:
    return [found.ok() for found in document.get_all_operations()]


def asked_of_a_row(case: Any, row_ids: dict[str, Any]) -> None:
    """Ask of a row that there is."""
    for name in case.path_parameters or {}:
        kind = name if name == "model" else case.operation.path.split("/")[-2 if case.operation.path[-1] == "}" else -3]
        if kind in row_ids:
            case.path_parameters[name] = row_ids[kind]


def test_the_site_keeps_to_its_document(
    door: str, site: str, document: Any, rows: Callable[[], dict[str, Any]], superuser: User
) -> None:
    wrong: list[str] = []
    seen: set[str] = set()

    def ask(case: Any, is_real: bool) -> None:
        row_ids = rows()
        if is_real:
            asked_of_a_row(case, row_ids)
        _row, token = APIToken.objects.create(user=superuser, name="asks")
        response = case.call(base_url=site, headers={"Authorization": f"Bearer {token}"}, timeout=20)
        case.validate_response(response, checks=CHECKED)

    for operation in operations(document):
        if door == "wsgi" and not operation.path.startswith("/v1/"):
            continue  # there is but one way to Django's own views
        seen.add(operation.path)
        for mode in GenerationMode:
            try:
                run(operation.as_strategy(mode), ask)
            except BaseExceptionGroup as group:
                wrong.append(str(group))
            except AssertionError as error:
                wrong.append(str(error))
            except Unsatisfiable:
                assert mode is GenerationMode.NEGATIVE  # there is nothing that could be wrong
    assert seen >= {"/v1/chat/completions", "/v1/models/{model}"}
    assert ("/api/admin/ai/chat/send" in seen) == (door == "asgi")
    assert wrong == [], "\n\n".join(wrong)


def run(cases: Any, ask: Callable[[Any, bool], None]) -> None:
    bounds = settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    bounds(given(case=cases, is_real=st.booleans())(lambda case, is_real: ask(case, is_real)))()


def test_a_body_that_is_too_large_is_told_so(
    site: str, rows: Callable[[], dict[str, Any]], superuser: User, vendor: Upstream
) -> None:
    rows()
    _row, token = APIToken.objects.create(user=superuser, name="asks")
    headers = {"Authorization": f"Bearer {token}"}
    url = f"{site}/api/admin/ai/chat/send"
    answer = httpx.post(url, json={"message": "س" * (8 * 1024 * 1024)}, headers=headers, timeout=20)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (413, "body_too_large")
    longest = httpx.post(url, json={"message": "س" * 1_000_000}, headers=headers, timeout=20)
    assert longest.status_code == 200
