"""Every operation of every vendor over the HTTP API, for a superuser on the shared key and an admin on their own."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from src.ai.models import AdminProviderSettings, AIModel, AIProvider
from tests.providers.answers import VendorAnswers, each
from tests.upstream.server import Reply, Upstream, whole
from tests.vendor_answers import ARTICLE

pytestmark = pytest.mark.django_db

POSTS = {
    "chat": ("chat/send", {"message": "Hello"}, "reply"),
    "content": ("content/generate", {"topic": "Tea"}, "content"),
    "image": ("image/generate", {"prompt": "A cat"}, "base64"),
    "audio": ("audio/generate", {"text": "Hello there."}, "base64"),
}


def with_article(reply: Reply) -> Reply:
    """The vendor's answer with a whole article in place of its small JSON."""
    body = b"".join(part for part in reply.parts if isinstance(part, bytes))
    small, article = ('{"title": "T"}', json.dumps(ARTICLE))
    assert json.dumps(small)[1:-1].encode() in body
    return whole(200, body.replace(json.dumps(small)[1:-1].encode(), json.dumps(article)[1:-1].encode()), reply.headers)


@each("chat", "content", "image", "audio")
@pytest.mark.parametrize("who", ["superuser", "editor"])
def test_it_works_over_http_and_the_right_key_pays(
    vendor: VendorAnswers,
    operation: str,
    who: str,
    request: pytest.FixtureRequest,
    client_of: Callable[[User], APIClient],
    upstream: Upstream,
) -> None:
    user: User = request.getfixturevalue(who)
    exchange = vendor.exchanges()[operation]
    shared, personal = (f"{vendor.key[:-6]}{ending}" for ending in ("111111", "222222"))
    provider = AIProvider.objects.create(
        slug=vendor.name,
        name=vendor.name,
        api_base_url=f"{upstream.url}{vendor.base_path}",
        shared_api_key=shared,
        config=dict(vendor.config),
    )
    AIModel.objects.create(
        provider=provider,
        name="model",
        model_id=exchange.kwargs.get("model", "some-model"),
        capabilities=[operation],
        is_active=True,
    )
    if who == "editor":
        AdminProviderSettings.objects.create(admin=user, provider=provider, personal_api_key=personal)
    vendor.serve(upstream, exchange, with_article(exchange.reply) if operation == "content" else None)

    path, body, result = POSTS[operation]
    response = client_of(user).post(f"/api/admin/ai/{path}", body)

    assert response.status_code == 200, response.content
    assert response.json()[result]
    assert response.json()["info"]["provider"] == vendor.name
    paid = {vendor.key_in(asked) for asked in upstream.requests if vendor.key_header in asked.headers}
    assert paid == {shared if who == "superuser" else personal}
