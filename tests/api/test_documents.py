"""The pages that tell about the API, and the browsable ones."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from rest_framework.test import APIClient

from src.ai.models import AIModel, AIProvider


def test_the_schema_is_valid_openapi_3_1_without_warnings(db: None, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("spectacular", "--validate", "--fail-on-warn")
    printed = capsys.readouterr()
    assert printed.out.startswith("openapi: 3.1")
    assert printed.err == ""


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_schema_names_the_contracts_paths_and_the_one_error_shape(slash: str, anonymous_api: APIClient) -> None:
    schema = anonymous_api.get(f"/api/schema{slash}", headers={"accept": "application/json"}).json()
    paths = schema["paths"]
    for path in (
        "/api/admin/ai/image/generate",
        "/api/admin/ai/content/generate",
        "/api/admin/ai/chat/send",
        "/api/admin/ai/audio/generate",
        "/api/admin/ai/{capability}/models",
        "/api/admin/ai/providers",
        "/api/admin/ai-providers",
        "/api/admin/ai-models/{id}/activate",
        "/api/admin/ai-models/active",
        "/api/admin/ai-settings/{id}/validate-key",
        "/api/admin/auth/login",
    ):
        operation = next(iter(paths[path].values()))
        error = operation["responses"]["default"]["content"]["application/json"]["schema"]
        assert error == {"$ref": "#/components/schemas/ErrorResponse"}


def test_the_documentation_page_loads_nothing_from_elsewhere(client: Client) -> None:
    page = client.get("/api/docs/").content.decode()
    links = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
    assert any("swagger-ui" in link for link in links)
    assert [link for link in links if link.startswith(("http:", "https:", "//"))] == []


def test_browsable_pages_open_for_who_is_logged_in(
    client: Client,
    superuser: User,
    make_provider: Callable[..., AIProvider],
    make_model: Callable[..., AIModel],
) -> None:
    provider = make_provider(shared_api_key="sk-secret-0123456789abcdef")
    model = make_model(provider, "chat")
    client.force_login(superuser)
    for path in (
        "/api/admin/ai-providers",
        f"/api/admin/ai-providers/{provider.pk}",
        f"/api/admin/ai-models/{model.pk}",
        "/api/admin/ai-settings",
        "/api/admin/ai/chat/models",
        "/api/admin/ai/providers?capability=chat",
        "/api/admin/auth/tokens",
    ):
        response = client.get(path, headers={"accept": "text/html"})
        assert response.status_code == 200, path
        assert "sk-secret" not in response.content.decode()
    response = client.get("/api/admin/ai/chat/send", headers={"accept": "text/html"})
    assert response.status_code == 405
    assert "Reply to a message" in response.content.decode()


def test_a_browsable_page_offers_to_log_in(client: Client, db: None) -> None:
    response = client.get("/api/admin/ai-models", headers={"accept": "text/html"})
    assert response.status_code == 401
    assert "/api-auth/login/" in response.content.decode()
    assert client.get("/api-auth/login/").status_code == 200
