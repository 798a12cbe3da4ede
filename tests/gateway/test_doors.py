"""What comes in before a model is asked: who, how, where to, in which words; the same at both doors."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from django.contrib.auth.models import User

from src.ai.models import AIModel, APIToken, UsageRecord
from tests.gateway.conftest import HELLO
from tests.upstream.server import Upstream, events, whole
from tests.vendor_answers import chat, chunk

PATHS = ["chat/completions", "images/generations", "audio/speech", "embeddings"]
ASKED = {"model": "chat", "messages": HELLO}
PERSIAN = "مدل"


@pytest.fixture
def served(chat_model: AIModel, upstream: Upstream) -> Upstream:
    upstream.on("POST", "/v1/chat/completions", whole(200, chat("Hi!")))
    return upstream


# -- who -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["models", "chat/completions", "nothing/here", "", "models/x"])
@pytest.mark.parametrize("header", [None, "Bearer", "Bearer nonsense", "Basic eDp5", "Bearer ü", "x" * 5000])
def test_whoever_has_no_token_is_told_so_even_where_there_is_nothing(path: str, header: str | None, site: str) -> None:
    headers = {} if header is None else {"Authorization": header.encode()}
    for method in ("GET", "POST", "PUT"):
        response = httpx.request(method, f"{site}/v1/{path}", headers=headers)
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["type"]) == (401, "invalid_api_key", "authentication_error")
        assert error["message"]


def test_the_client_raises_for_a_wrong_token(site: str) -> None:
    with openai.OpenAI(base_url=f"{site}/v1", api_key="nonsense") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_an_expired_token(http: httpx.Client, editor: User, served: Upstream) -> None:
    assert http.get("/models").status_code == 200
    row = APIToken.objects.get()
    row.expiry = row.created - timedelta(seconds=1)
    row.save()
    response = http.get("/models")
    assert (response.status_code, response.json()["error"]["code"]) == (401, "token_expired")


def test_a_revoked_token_and_a_user_who_is_gone(http: httpx.Client, editor: User) -> None:
    assert http.get("/models").status_code == 200
    editor.is_active = False
    editor.save()
    assert http.get("/models").json()["error"]["code"] == "invalid_api_key"
    editor.is_active = True
    editor.save()
    assert http.get("/models").status_code == 200
    APIToken.objects.all().delete()
    assert http.get("/models").status_code == 401


def test_staff_only(site: str, visitor: User, editor: User, http: httpx.Client) -> None:
    _stored, token = APIToken.objects.create(user=visitor, name="x")
    response = httpx.get(f"{site}/v1/models", headers={"Authorization": f"Bearer {token}"})
    assert (response.status_code, response.json()["error"]["type"]) == (403, "permission_error")
    assert http.get("/models").status_code == 200
    editor.is_staff = False
    editor.save()
    assert http.get("/models").status_code == 403


def test_a_session_of_the_admins_is_no_token(site: str, editor: User, client: openai.OpenAI) -> None:
    """Nothing that a browser sends by itself opens it."""
    response = httpx.get(f"{site}/v1/models", cookies={"sessionid": "x"})
    assert response.status_code == 401


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer  "])
def test_the_schemes_name_is_written_in_any_way(scheme: str, site: str, token: str) -> None:
    assert httpx.get(f"{site}/v1/models", headers={"Authorization": f"{scheme} {token}"}).status_code == 200


# -- https ---------------------------------------------------------------------------------------------------------


def test_plain_http_is_refused_and_not_redirected(
    http: httpx.Client, served: Upstream, settings: Any, client: openai.OpenAI
) -> None:
    settings.SECURE_SSL_REDIRECT = True
    for path in ("models", "chat/completions", "nothing"):
        response = http.post(path, json=ASKED)
        assert (response.status_code, response.json()["error"]["code"]) == (403, "https_required")
    with pytest.raises(openai.PermissionDeniedError):
        client.models.list()
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    assert http.get("/models", headers={"X-Forwarded-Proto": "https"}).status_code == 200
    assert http.get("/models", headers={"X-Forwarded-Proto": "http"}).status_code == 403
    assert served.requests == []


# -- where to ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "nothing", "chat", "completions", "chat/completions/x", "responses", "files/1"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_unknown_path(path: str, method: str, http: httpx.Client) -> None:
    response = http.request(method, f"/{path}")
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["type"]) == (404, "unknown_url", "not_found_error")
    assert f"{method} /v1/{path}" in error["message"]


def test_beside_it_is_the_rest_of_the_site(site: str, http: httpx.Client) -> None:
    assert httpx.get(f"{site}/v1x").status_code == 404
    assert "text/html" in httpx.get(f"{site}/v1x").headers["content-type"]
    assert httpx.get(f"{site}/v1").json()["error"]["code"] == "invalid_api_key"
    assert httpx.get(f"{site}/healthz").status_code == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("path", PATHS)
def test_other_methods(path: str, method: str, http: httpx.Client) -> None:
    response = http.request(method, f"/{path}")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    if method == "HEAD":
        assert response.content == b""
    else:
        assert response.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("method", ["POST", "PUT", "HEAD"])
@pytest.mark.parametrize("path", ["models", "models/openai/gpt-6-luna"])
def test_lists_are_read_only(path: str, method: str, http: httpx.Client) -> None:
    response = http.request(method, f"/{path}")
    assert (response.status_code, response.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize("path", ["/chat/completions", "/chat/completions/", "//chat/completions"])
def test_a_slash_more_or_less_is_no_redirect(path: str, site: str, token: str, served: Upstream) -> None:
    response = httpx.post(f"{site}/v1{path}", json=ASKED, headers={"Authorization": f"Bearer {token}"})
    assert response.json() == chat("Hi!")


def test_a_query_string_is_ignored(http: httpx.Client, served: Upstream) -> None:
    assert http.post("/chat/completions?api-version=2026-01-01", json=ASKED).status_code == 200
    assert served.last.query == ""


# -- headers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", [None, "application/octet-stream", "text/event-stream", "text/html", "x", "*/*;q=0"])
@pytest.mark.parametrize("content_type", [None, "text/plain", "application/json; charset=utf-8", "multipart/form-data"])
def test_no_accept_and_no_content_type_is_refused(
    accept: str | None, content_type: str | None, http: httpx.Client, served: Upstream
) -> None:
    named = {"accept": accept, "content-type": content_type}
    headers = {name: value for name, value in named.items() if value is not None}
    response = http.post("/chat/completions", content=json.dumps(ASKED), headers=headers)
    assert (response.status_code, response.json()) == (200, chat("Hi!"))


def test_every_answer_carries_the_requests_name(
    http: httpx.Client, client: openai.OpenAI, served: Upstream, settled: Callable[[], UsageRecord]
) -> None:
    name = "panel:req_1.7-a"
    for method, path, body in (("GET", "models", None), ("GET", "x", None), ("POST", "chat/completions", {})):
        response = http.request(method, f"/{path}", json=body, headers={"X-Request-Id": name})
        assert response.headers.get_list("x-request-id") == [name]
    raw = client.chat.completions.with_raw_response.create(  # type: ignore[call-overload]
        model="chat", messages=HELLO, extra_headers={"X-Request-Id": name}
    )
    assert raw.headers["x-request-id"] == name
    assert settled().request_id == name
    for odd in ("a b", "x" * 129, "ü".encode(), "{}"):
        given = http.get("/models", headers={"X-Request-Id": odd}).headers["x-request-id"]
        assert given.isalnum()
        assert len(given) == 32


def test_a_vendor_never_sees_what_is_not_its_own(http: httpx.Client, served: Upstream) -> None:
    headers = {
        "Cookie": "sessionid=secret",
        "X-Forwarded-For": "10.0.0.1",
        "X-Request-Id": "mine",
        "OpenAI-Organization": "org-other",
        "User-Agent": "OpenAI/Python 3.54.0",
        "OpenAI-Beta": "x",
        "X-Stainless-Lang": "python",
    }
    http.post("/chat/completions", json=ASKED, headers=headers).raise_for_status()
    sent = served.last.headers
    assert sent["user-agent"] == "OpenAI/Python 3.54.0"
    assert sent["openai-beta"] == "x"
    assert {"cookie", "x-forwarded-for", "openai-organization"}.isdisjoint(sent)
    assert sent["authorization"] == "Bearer sk-0123456789abcdef"
    assert sent["content-length"] == str(len(served.last.body))


def test_a_folded_header_brings_no_line_of_its_own_along(site: str, token: str, served: Upstream) -> None:
    where = urlsplit(site)
    head = [
        "POST /v1/chat/completions HTTP/1.1",
        f"Host: {where.netloc}",
        f"Authorization: Bearer {token}",
        "X-Title: one\r\n two",
        "Connection: close",
    ]
    body = json.dumps(ASKED)
    with socket.create_connection((where.hostname or "", where.port or 0), 10) as connection:
        connection.sendall("\r\n".join([*head, f"Content-Length: {len(body)}", "", body]).encode())
        while connection.recv(1 << 16):
            pass
    for request in served.requests:  # a server may refuse it instead
        assert request.headers["x-title"] == "one  two"


def test_a_vendors_headers_come_along_but_for_those_of_its_connection(
    http: httpx.Client, upstream: Upstream, chat_model: AIModel
) -> None:
    headers = {
        "x-ratelimit-remaining-requests": "9",
        "openai-version": "2020-10-01",
        "set-cookie": "a=b",
        "server": "cloudflare",
        "cf-ray": "x",
        "strict-transport-security": "max-age=1",
        "access-control-allow-origin": "*",
        "x-request-id": "req_1",
        "te": "trailers",
    }
    upstream.reply(200, chat("Hi!"), headers)
    response = http.post("/chat/completions", json=ASKED)
    assert response.headers["x-ratelimit-remaining-requests"] == "9"
    assert response.headers["openai-version"] == "2020-10-01"
    assert response.headers["x-provider-request-id"] == "req_1"
    assert response.headers["x-request-id"] != "req_1"
    assert response.headers.get("server", "") != "cloudflare"
    gone = {"set-cookie", "cf-ray", "strict-transport-security", "access-control-allow-origin", "te"}
    assert gone.isdisjoint(response.headers)


@pytest.mark.parametrize("language", ["fa", "fa-IR,en;q=0.5", "xx", "*", "fa;q=x", "a" * 1000, "ü".encode()])
def test_errors_speak_the_readers_language(language: str, http: httpx.Client, served: Upstream) -> None:
    headers = {"Accept-Language": language}
    response = http.post("/chat/completions", json={**ASKED, "model": "nope"}, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
    assert http.post("/chat/completions", json=ASKED, headers=headers).json() == chat("Hi!")


def test_a_stream_after_its_head_says_no_length_and_no_cache(
    http: httpx.Client, upstream: Upstream, chat_model: AIModel
) -> None:
    upstream.send(events(chunk("Hi"), chunk(None, "stop")).replace_headers(cache_control="public"))
    response = http.post("/chat/completions", json={**ASKED, "stream": True})
    assert "content-length" not in response.headers
    assert response.headers.get_list("cache-control") == ["no-cache"]


# -- the doors -----------------------------------------------------------------------------------------------------


def test_the_door_before_django_stays_small() -> None:
    root = Path(__file__).resolve().parents[2]
    for door, most in (("src/ai/asgi.py", 200), ("src/ai/views/gateway_views.py", 200), ("src/ai/protocol.py", 330)):
        lines = (root / door).read_text().splitlines()
        assert len(lines) <= most
        imported = [line.split()[1] for line in lines if line.startswith("from src.ai.")]
        known = (
            "src.ai.asgi",
            "src.ai.exceptions",
            "src.ai.services.gateway",
            *(f"src.ai.services.gateway.{name}" for name in ("options", "routing", "wire")),
        )
        assert set(imported) <= set(known), "a door only carries: what is answered is said behind it"
