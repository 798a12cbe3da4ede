"""Which model a name means, and what is listed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import openai
import pytest
from django.contrib.auth.models import User

from src.ai.models import AdminProviderSettings, AIModel, AIProvider, APIToken
from tests.gateway.conftest import HELLO, KEY
from tests.upstream.server import Upstream, whole
from tests.vendor_answers import chat

SHARED = {"shared_api_key": KEY, "allow_shared_for_normal_admins": True}


@pytest.fixture
def router(
    transactional_db: None,
    upstream: Upstream,
    make_provider: Callable[..., AIProvider],
    make_model: Callable[..., AIModel],
) -> AIProvider:
    """OpenRouter with four models, beside OpenAI's one, whose full name one of them has as its id."""
    row = make_provider("openrouter", api_base_url=f"{upstream.url}/router/v1", sort_order=5, **SHARED)
    make_model(row, "chat", model_id="openai/gpt-6-luna")
    for model_id in ("org/x:y", "gpt-6-luna"):
        make_model(row, "content", "vision", model_id=model_id, is_active=model_id == "org/x:y")
    make_model(row, "image", model_id="a/b/c")
    for path in ("/router/v1/chat/completions", "/v1/chat/completions"):
        upstream.on("POST", path, whole(200, chat("Hi!")))
    return row


@pytest.fixture
def asked(client: openai.OpenAI, chat_model: AIModel, router: AIProvider, upstream: Upstream) -> Callable[[str], Any]:
    """Which vendor is asked for which model under a name."""

    def ask(name: str) -> tuple[str, str]:
        client.chat.completions.create(model=name, messages=HELLO)  # type: ignore[call-overload]
        return upstream.last.path.split("/")[1], upstream.last.json["model"]

    return ask


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("chat", ("v1", "gpt-6-luna")),
        ("content", ("router", "org/x:y")),
        ("openai/gpt-6-luna", ("v1", "gpt-6-luna")),  # a full name comes before an id that looks the same
        ("openrouter/openai/gpt-6-luna", ("router", "openai/gpt-6-luna")),
        ("gpt-6-luna", ("v1", "gpt-6-luna")),  # OpenRouter's is not active
        ("org/x:y", ("router", "org/x:y")),
        ("openrouter/org/x:y", ("router", "org/x:y")),
    ],
)
def test_a_name_means_one_model(name: str, found: tuple[str, str], asked: Callable[[str], Any]) -> None:
    assert asked(name) == found
    assert asked(name) == found  # as well when it is known


def test_the_same_id_at_two_vendors_has_to_be_named_whole(
    asked: Callable[[str], Any], client: openai.OpenAI, router: AIProvider
) -> None:
    router.models.filter(model_id="org/x:y").update(model_id="gpt-6-luna-old")
    AIModel.objects.get(provider=router, model_id="gpt-6-luna").delete()
    router.models.filter(model_id="gpt-6-luna-old").update(model_id="gpt-6-luna")
    with pytest.raises(openai.BadRequestError) as caught:
        asked("gpt-6-luna")
    assert (caught.value.code, caught.value.param) == ("model_ambiguous", "model")
    assert "openai/gpt-6-luna, openrouter/gpt-6-luna" in caught.value.message
    assert asked("openrouter/gpt-6-luna") == ("router", "gpt-6-luna")
    assert {model.id for model in client.models.list()} >= {"openai/gpt-6-luna", "openrouter/gpt-6-luna"}


def test_of_the_same_id_twice_the_one_that_may_be_used_is_meant(
    asked: Callable[[str], Any], router: AIProvider, provider: AIProvider
) -> None:
    router.models.filter(model_id="openai/gpt-6-luna").update(model_id="gpt-6-luna-2")
    AIModel.objects.filter(provider=router, model_id="gpt-6-luna").delete()
    router.models.filter(model_id="gpt-6-luna-2").update(model_id="gpt-6-luna")
    provider.allow_shared_for_normal_admins = False
    provider.save()
    assert asked("gpt-6-luna") == ("router", "gpt-6-luna")


@pytest.mark.parametrize("name", ["gpt-4", "openai/", "/gpt-6-luna", "openai", "CHAT", "x\0", "\ufffd", "x" * 100_000])
def test_what_there_is_not_is_404(name: str, http: httpx.Client, chat_model: AIModel, upstream: Upstream) -> None:
    response = http.post("/chat/completions", json={"model": name, "messages": HELLO})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert error["type"] == "not_found_error"
    assert len(response.content) < 1000
    assert upstream.requests == []


def test_a_model_that_is_switched_off_is_gone_within_the_next_request(
    client: openai.OpenAI, asked: Callable[[str], Any], chat_model: AIModel
) -> None:
    assert asked("gpt-6-luna") == ("v1", "gpt-6-luna")
    chat_model.is_active = False
    chat_model.save()
    with pytest.raises(openai.NotFoundError):
        asked("gpt-6-luna")
    assert asked("chat") == ("router", "openai/gpt-6-luna")
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.generate(model="gpt-6-luna", prompt="x")
    assert caught.value.code == "model_not_found"


def test_a_provider_that_is_switched_off_serves_no_more(
    asked: Callable[[str], Any], client: openai.OpenAI, provider: AIProvider, router: AIProvider
) -> None:
    assert asked("chat") == ("v1", "gpt-6-luna")
    provider.is_active = False
    provider.save()
    assert asked("chat") == ("router", "openai/gpt-6-luna")
    router.is_active = False
    router.save()
    with pytest.raises(openai.NotFoundError) as caught:
        asked("chat")
    assert caught.value.code == "model_not_found"
    assert list(client.models.list()) == []


def test_the_list_names_what_the_token_may_use(
    client: openai.OpenAI, chat_model: AIModel, router: AIProvider, make_model: Callable[..., AIModel]
) -> None:
    make_model(router, "transcription", model_id="whisper")  # nothing here serves it
    rows = client.models.list().data
    assert {row.id for row in rows[1:]} == {
        "openrouter/a/b/c",
        "openrouter/openai/gpt-6-luna",
        "openrouter/org/x:y",
    }
    first = rows[0]
    assert (first.id, first.object, first.owned_by) == ("openai/gpt-6-luna", "model", "openai")
    assert first.created == int(chat_model.created_at.timestamp())


@pytest.mark.parametrize("name", ["openrouter/org/x:y", "org/x:y", "openrouter/a/b/c", "gpt-6-luna"])
def test_one_model_by_the_clients_way_and_by_hand(
    name: str, client: openai.OpenAI, http: httpx.Client, chat_model: AIModel, router: AIProvider
) -> None:
    whole_name = {"org/x:y": "openrouter/org/x:y", "gpt-6-luna": "openai/gpt-6-luna"}.get(name, name)
    row = client.models.retrieve(name)
    assert (row.id, row.owned_by) == (whole_name, whole_name.partition("/")[0])
    for path in (name, quote(name, safe=""), name + "/"):
        assert http.get(f"/models/{path}").json() == row.model_dump(exclude_unset=True)


def test_one_model_that_there_is_not(client: openai.OpenAI, chat_model: AIModel) -> None:
    for name in ("nope", "openai/nope", "a%2Fb", "نیست"):
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve(name)
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_what_nobody_pays_for_is_not_listed(
    client: openai.OpenAI, chat_model: AIModel, router: AIProvider, provider: AIProvider, editor: User
) -> None:
    provider.allow_shared_for_normal_admins = False
    provider.save()
    assert {row.owned_by for row in client.models.list()} == {"openrouter"}
    own = AdminProviderSettings(admin=editor, provider=provider, personal_api_key="sk-own-0123456789")
    own.save()
    assert {row.owned_by for row in client.models.list()} == {"openai", "openrouter"}


def test_a_tokens_rules_choose_too(
    client: openai.OpenAI, asked: Callable[[str], Any], router: AIProvider, editor: User
) -> None:
    token = APIToken.objects.get(user=editor)
    token.models = ["openrouter/*"]
    token.capabilities = ["chat", "content"]
    token.save()
    assert {row.id for row in client.models.list()} == {"openrouter/openai/gpt-6-luna", "openrouter/org/x:y"}
    assert asked("chat") == ("router", "openai/gpt-6-luna")
    with pytest.raises(openai.PermissionDeniedError) as caught:
        asked("openai/gpt-6-luna")
    assert caught.value.code == "token_not_allowed"
    with pytest.raises(openai.PermissionDeniedError):
        client.images.generate(model="a/b/c", prompt="x")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("openrouter/a/b/c")
