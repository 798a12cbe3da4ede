"""What a vendor's failure becomes, and what is asked again."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from pytest_django import Settings

from src.ai.exceptions import (
    AIError,
    InvalidConfig,
    ProviderAuthFailed,
    ProviderBadRequest,
    ProviderInvalidResponse,
    ProviderModelNotFound,
    ProviderNoCredit,
    ProviderRateLimited,
    ProviderUnavailable,
)
from tests.providers.answers import Failure, VendorAnswers, answers_of, call, each, http_providers
from tests.upstream.server import Reply, Upstream, whole
from tests.upstream.tls import self_signed, server_context

GENERATING = ("chat", "stream", "content", "image", "audio")
STATUSES = {
    400: ProviderBadRequest,
    401: ProviderAuthFailed,
    402: ProviderNoCredit,
    403: ProviderAuthFailed,
    404: ProviderModelNotFound,
    408: ProviderUnavailable,
    409: ProviderUnavailable,
    413: ProviderBadRequest,
    418: ProviderBadRequest,
    422: ProviderBadRequest,
    429: ProviderRateLimited,
    498: ProviderRateLimited,
    500: ProviderUnavailable,
    502: ProviderUnavailable,
    503: ProviderUnavailable,
    504: ProviderUnavailable,
    529: ProviderUnavailable,
    302: ProviderInvalidResponse,
}
BODIES = {
    "json": {"error": {"message": "it went wrong"}},
    "text": {"error": "it went wrong"},
    "page": "<html><head><title>it went wrong</title></head><body>nginx</body></html>",
    "cut": '{"error": {"message": "it went',
    "empty": b"",
}


async def failing(vendor: VendorAnswers, operation: str, upstream: Upstream, reply: Reply) -> AIError:
    exchange = vendor.exchanges()[operation]
    vendor.serve(upstream, exchange, reply)
    with pytest.raises(AIError) as caught:
        await call(vendor.provider(upstream), operation, exchange.kwargs)
    return caught.value


@each(*GENERATING)
async def test_a_status_means_the_same_for_every_vendor(
    vendor: VendorAnswers, operation: str, upstream: Upstream
) -> None:
    for status, error_class in STATUSES.items():
        error = await failing(vendor, operation, upstream, whole(status, BODIES["json"]))
        assert (type(error), error.provider, error.status_code) == (error_class, vendor.name, status)
        assert "it went wrong" in str(error) or status == 302


@each("chat", "models")
async def test_an_error_is_told_shortly_whatever_its_body(
    vendor: VendorAnswers, operation: str, upstream: Upstream
) -> None:
    for name, body in BODIES.items():
        error = await failing(vendor, operation, upstream, whole(500, body))
        assert isinstance(error, ProviderUnavailable), name
        assert not set("<{") & set(str(error)), name
        assert len(str(error)) < 300, name


@each(*GENERATING)
async def test_a_success_that_carries_an_error_is_an_error(
    vendor: VendorAnswers, operation: str, upstream: Upstream
) -> None:
    error = await failing(vendor, operation, upstream, whole(200, {"error": {"message": "out of luck", "code": 429}}))
    assert "out of luck" in str(error)


FAILURES = [
    pytest.param(name, failure, id=f"{name}-{failure.name}")
    for name in http_providers()
    for failure in answers_of(name).failures
]


@pytest.mark.parametrize(("vendor", "operation"), FAILURES, indirect=["vendor"])
async def test_a_vendors_own_error_is_understood(vendor: VendorAnswers, operation: Failure, upstream: Upstream) -> None:
    failure = operation
    exchange = vendor.exchanges()[failure.operation]
    vendor.serve(upstream, exchange, failure.reply)
    kwargs = {**exchange.kwargs, **({"model": failure.facts["model"]} if "model" in failure.facts else {})}
    with pytest.raises(AIError) as caught:
        await call(vendor.provider(upstream), failure.operation, kwargs)
    error = caught.value
    assert type(error) is failure.error
    assert {name: getattr(error, name) for name in failure.facts} == failure.facts
    assert failure.says in str(error)


@each(*GENERATING)
async def test_no_part_of_the_key_is_in_an_error(vendor: VendorAnswers, operation: str, upstream: Upstream) -> None:
    ending = vendor.key[-4:]
    for reply in (vendor.bad_key, whole(401, {"error": {"message": f"The key {vendor.key} is no good."}})):
        error = await failing(vendor, operation, upstream, reply)
        assert isinstance(error, ProviderAuthFailed)
        shown: Any = f"{error} {error!r} {error.facts}"
        assert vendor.key not in shown
        assert ending not in shown


@each("chat", "stream", "content", "models")
async def test_a_temporary_failure_is_asked_again(vendor: VendorAnswers, operation: str, upstream: Upstream) -> None:
    exchange = vendor.exchanges()[operation]
    replies = iter([whole(503, {"error": {"message": "overloaded"}}), whole(429, {}, {"retry-after": "0"})])
    upstream.on(exchange.method, exchange.path, lambda _: next(replies, exchange.reply))
    for (method, path), answer in exchange.also.items():
        upstream.on(method, path, answer)
    await call(vendor.provider(upstream), operation, exchange.kwargs)
    assert sum(request.path == exchange.path for request in upstream.requests) == 3


@each("chat", "stream", "content", "models")
async def test_asking_again_ends(vendor: VendorAnswers, operation: str, upstream: Upstream) -> None:
    await failing(vendor, operation, upstream, whole(500, {}))
    path = vendor.exchanges()[operation].path
    assert sum(request.path == path for request in upstream.requests) == 3


@each("chat")
async def test_a_vendor_that_asks_for_a_long_pause_is_not_asked_again(
    vendor: VendorAnswers, operation: str, upstream: Upstream
) -> None:
    error = await failing(vendor, operation, upstream, whole(429, {}, {"retry-after": "120"}))
    assert error.retry_after == 120
    assert len(upstream.requests) == 1


@each("chat")
async def test_milliseconds_count_before_seconds(vendor: VendorAnswers, operation: str, upstream: Upstream) -> None:
    reply = whole(429, {}, {"retry-after": "7", "retry-after-ms": "61500"})
    assert (await failing(vendor, operation, upstream, reply)).retry_after == 61.5


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422])
@each("chat", "stream")
async def test_a_refusal_is_not_asked_again(
    vendor: VendorAnswers, operation: str, upstream: Upstream, status: int
) -> None:
    await failing(vendor, operation, upstream, whole(status, {"error": {"message": "no"}}))
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
@each("image", "audio")
async def test_what_costs_money_is_not_made_twice(
    vendor: VendorAnswers, operation: str, upstream: Upstream, status: int
) -> None:
    exchange = vendor.exchanges()[operation]
    await failing(vendor, operation, upstream, whole(status, {"error": {"message": "busy"}}))
    assert sum(request.path == exchange.path for request in upstream.requests) == 1


@pytest.mark.parametrize(
    ("base_url", "why"),
    [
        ("http://example.com/v1", "AI_HTTP_HOSTS"),
        ("https://10.0.0.1/v1", "not a public"),
        ("https://169.254.169.254/latest", "not a public"),
        ("https://[::1]/v1", "not a public"),
        ("ftp://127.0.0.1/v1", "https://"),
        ("https://user:pass@example.com", "user name"),
        ("https://example.com/v1?x=1", "query"),
        ("nonsense", "https://"),
    ],
)
async def test_a_base_url_into_the_network_is_refused_before_anything_is_sent(
    vendor: VendorAnswers, upstream: Upstream, settings: Settings, base_url: str, why: str
) -> None:
    provider = vendor.provider(upstream, base_url=base_url)
    with pytest.raises(InvalidConfig, match=why):
        await call(provider, "chat", vendor.chat.kwargs)


async def test_a_host_that_refuses_the_connection_is_unavailable(vendor: VendorAnswers, upstream: Upstream) -> None:
    with Upstream() as gone:
        provider = vendor.provider(gone)
    with pytest.raises(ProviderUnavailable):
        await call(provider, "chat", vendor.chat.kwargs)


@each()
async def test_a_certificate_that_nobody_vouches_for_is_told_as_the_reason(
    vendor: VendorAnswers, operation: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    certificate = self_signed(tmp_path_factory.mktemp("tls") / "both.pem")
    with Upstream(tls=server_context(certificate)) as upstream:
        provider = vendor.provider(upstream, base_url=f"https://localhost:{upstream.port}{vendor.base_path}")
        with pytest.raises(ProviderUnavailable, match=r"certificate verify failed: self-signed certificate"):
            await call(provider, operation, vendor.exchanges()[operation].kwargs)
        assert not upstream.requests


@each()
async def test_a_name_that_leads_into_the_network_is_refused_before_the_key_leaves(
    vendor: VendorAnswers, operation: str, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", upstream.port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    provider = vendor.provider(upstream, base_url=f"https://rebound.example:{upstream.port}{vendor.base_path}")
    with pytest.raises(InvalidConfig, match="not a public one"):
        await call(provider, operation, vendor.exchanges()[operation].kwargs)
    assert upstream.connections == 0


async def test_a_redirect_is_not_followed(vendor: VendorAnswers, upstream: Upstream) -> None:
    with Upstream() as elsewhere:
        reply = whole(307, b"", {"location": f"{elsewhere.url}/v1/chat/completions"})
        error = await failing(vendor, "chat", upstream, reply)
        assert isinstance(error, ProviderInvalidResponse)
        assert "redirect" in str(error)
        assert not elsewhere.requests
