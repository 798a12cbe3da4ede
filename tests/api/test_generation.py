"""The four ways to generate, over HTTP: what is sent to the vendor, what comes back, and how it fails."""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any
from wave import open as open_wave

import pytest
from django.contrib.auth.models import User
from django.core.files.storage import default_storage
from django.db import connection
from django.test.utils import CaptureQueriesContext
from PIL import Image
from rest_framework.test import APIClient

from src.ai.models import AdminProviderSettings, AIModel, AIProvider, GeneratedMedia
from tests import vendor_answers as answers
from tests.conftest import codes
from tests.upstream.server import HANG, Reply, Upstream, whole

CHAT, CONTENT = "/api/admin/ai/chat/send", "/api/admin/ai/content/generate"
IMAGE, AUDIO = "/api/admin/ai/image/generate", "/api/admin/ai/audio/generate"
SHARED, PERSONAL = "sk-shared-0123456789abcdef", "sk-personal-0123456789abcdef"
MakeModel = Callable[..., AIModel]


@pytest.fixture
def provider(make_provider: Callable[..., AIProvider], upstream: Upstream) -> AIProvider:
    return make_provider(api_base_url=f"{upstream.url}/v1", shared_api_key=SHARED, allow_shared_for_normal_admins=True)


@pytest.fixture
def writer(provider: AIProvider, make_model: MakeModel) -> AIModel:
    return make_model(provider, "chat", "content", model_id="gpt-6-luna")


@pytest.fixture
def painter(provider: AIProvider, make_model: MakeModel) -> AIModel:
    return make_model(provider, "image", model_id="gpt-image-2.5-flare")


@pytest.fixture
def speaker(provider: AIProvider, make_model: MakeModel) -> AIModel:
    return make_model(provider, "audio", model_id="gpt-4o-mini-tts")


# -- chat ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_message_gets_a_reply(slash: str, editor_api: APIClient, writer: AIModel, upstream: Upstream) -> None:
    upstream.reply(200, answers.chat("Hello!"))
    response = editor_api.post(CHAT + slash, {"message": "Hi"})
    assert response.status_code == 200
    body = response.json()
    assert body["reply"] == "Hello!"
    assert body["info"] == {
        "provider": "openai",
        "model_id": writer.pk,
        "request_model": "gpt-6-luna",
        "response_model": "gpt-6-luna-2026-10-01",
        "response_id": "chatcmpl-1",
        "finish_reason": "stop",
        "usage": {
            "input_tokens": 9,
            "output_tokens": 4,
            "cache_read_tokens": None,
            "reasoning_tokens": None,
            "images": None,
            "characters": None,
            "audio_seconds": None,
        },
        "cost": None,
        "dropped_params": [],
    }
    assert upstream.last.headers["authorization"] == f"Bearer {SHARED}"


def test_history_and_system_message_reach_the_vendor_in_order(
    editor_api: APIClient, writer: AIModel, upstream: Upstream
) -> None:
    upstream.reply(200, answers.chat("Four."))
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    editor_api.post(
        CHAT,
        {"message": "2+2?", "conversation_history": history, "system_message": "Be brief.", "max_tokens": 50},
    )
    sent = upstream.last.json
    assert sent["model"] == "gpt-6-luna"
    assert [turn["content"] for turn in sent["messages"]] == ["Be brief.", "Hi", "Hello", "2+2?"]
    assert sent["messages"][-1] == {"role": "user", "content": "2+2?"}
    assert sent["max_completion_tokens"] == 50


@pytest.mark.parametrize(
    ("body", "attr", "code"),
    [
        ({}, "message", "required"),
        ({"message": ""}, "message", "blank"),
        ({"message": "   "}, "message", "invalid_request"),
        ({"message": None}, "message", "null"),
        ({"message": {"text": "hi"}}, "message", "invalid"),
        ({"message": "hi", "temperature": 3}, "temperature", "max_value"),
        ({"message": "hi", "temperature": "warm"}, "temperature", "invalid"),
        ({"message": "hi", "max_tokens": 0}, "max_tokens", "min_value"),
        ({"message": "hi", "model_id": "gpt-4"}, "model_id", "invalid"),
        ({"message": "hi", "conversation_history": "earlier"}, "conversation_history.non_field_errors", "not_a_list"),
        (
            {"message": "hi", "conversation_history": [{"role": "robot", "content": "x"}]},
            "conversation_history.0.role",
            "invalid_choice",
        ),
        (
            {"message": "hi", "conversation_history": [{"role": "user", "content": "x", "mood": "good"}]},
            "conversation_history.0.mood",
            "unknown_field",
        ),
        ({"message": "hi", "temprature": 1}, "temprature", "unknown_field"),
    ],
)
def test_wrong_input_is_named_and_reaches_no_vendor(
    body: dict[str, Any], attr: str, code: str, editor_api: APIClient, writer: AIModel, upstream: Upstream
) -> None:
    response = editor_api.post(CHAT, body)
    assert response.status_code == 400
    assert (attr, code) in [(error["attr"], error["code"]) for error in response.json()["errors"]]
    assert upstream.requests == []


# -- which model, which provider --------------------------------------------------------------------------------------


def test_a_model_may_be_chosen_by_id(
    editor_api: APIClient, provider: AIProvider, writer: AIModel, make_model: MakeModel, upstream: Upstream
) -> None:
    painter = make_model(provider, "image", model_id="painter")
    upstream.reply(200, answers.chat("Hello!"))
    assert editor_api.post(CHAT, {"message": "hi", "model_id": writer.pk}).status_code == 200

    unable = editor_api.post(CHAT, {"message": "hi", "model_id": painter.pk})
    assert (unable.status_code, codes(unable)) == (400, ["model_no_capability"])
    unknown = editor_api.post(CHAT, {"message": "hi", "model_id": 999_999})
    assert (unknown.status_code, codes(unknown)) == (404, ["model_not_found"])


def test_an_inactive_model_or_provider_can_not_be_used(
    editor_api: APIClient, provider: AIProvider, writer: AIModel, upstream: Upstream
) -> None:
    AIProvider.objects.update(is_active=False)
    off = editor_api.post(CHAT, {"message": "hi", "model_id": writer.pk})
    assert (off.status_code, codes(off)) == (403, ["model_access_denied"])
    AIProvider.objects.update(is_active=True)
    AIModel.objects.update(is_active=False)
    off = editor_api.post(CHAT, {"message": "hi", "model_id": writer.pk})
    assert (off.status_code, codes(off)) == (403, ["model_access_denied"])
    assert upstream.requests == []


def test_without_an_active_model_the_message_says_of_what(editor_api: APIClient, provider: AIProvider) -> None:
    response = editor_api.post(CHAT, {"message": "hi", "provider_slug": "openai"})
    assert (response.status_code, codes(response)) == (404, ["no_active_model"])
    assert "'openai' and capability 'chat'" in response.json()["errors"][0]["detail"]
    response = editor_api.post(CHAT, {"message": "hi"})
    assert (response.status_code, codes(response)) == (404, ["no_active_model_any_provider"])
    response = editor_api.post(CHAT, {"message": "hi", "provider_slug": "nobody"})
    assert (response.status_code, codes(response)) == (404, ["provider_not_found"])


def test_a_provider_that_is_not_installed_is_no_500(
    editor_api: APIClient, make_provider: Callable[..., AIProvider], make_model: MakeModel
) -> None:
    model = make_model(make_provider("acme"), "chat")
    for body in ({"message": "hi"}, {"message": "hi", "model_id": model.pk}):
        response = editor_api.post(CHAT, body)
        assert (response.status_code, codes(response)) == (404, ["provider_not_registered"])


def test_the_first_model_that_this_admin_may_use_serves(
    admin_api: APIClient,
    editor_api: APIClient,
    make_provider: Callable[..., AIProvider],
    make_model: MakeModel,
    upstream: Upstream,
) -> None:
    base = {"api_base_url": f"{upstream.url}/v1", "shared_api_key": SHARED}
    make_model(make_provider(sort_order=1, **base), "chat", model_id="first")
    make_model(
        make_provider("deepseek", sort_order=2, allow_shared_for_normal_admins=True, **base), "chat", model_id="second"
    )
    for api, served in ((admin_api, "first"), (editor_api, "second")):
        upstream.reply(200, answers.chat("Hello!"))
        assert api.post(CHAT, {"message": "hi"}).json()["info"]["request_model"] == served


# -- whose key pays -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "personal", "shared_allowed", "expected"),
    [
        ("superuser", False, False, SHARED),
        ("superuser", False, True, SHARED),
        ("superuser", True, False, PERSONAL),
        ("editor", True, False, PERSONAL),
        ("editor", True, True, PERSONAL),
        ("editor", False, False, "shared_api_not_allowed"),
        ("editor", False, True, SHARED),
    ],
)
def test_the_access_table_row_by_row(
    who: str,
    personal: bool,
    shared_allowed: bool,
    expected: str,
    request: pytest.FixtureRequest,
    client_of: Callable[[User], APIClient],
    provider: AIProvider,
    writer: AIModel,
    upstream: Upstream,
) -> None:
    user: User = request.getfixturevalue(who)
    api = client_of(user)
    provider.allow_shared_for_normal_admins = shared_allowed
    provider.save()
    if personal:
        AdminProviderSettings.objects.create(admin=user, provider=provider, personal_api_key=PERSONAL)
    upstream.reply(200, answers.chat("Hello!"))

    response = api.post(CHAT, {"message": "hi"})
    state = api.get("/api/admin/ai/chat/models").json()["results"][0]["access_state"]

    if expected == "shared_api_not_allowed":
        assert (response.status_code, codes(response)) == (403, [expected])
        assert (upstream.requests, state) == ([], "no_access")
    else:
        assert response.status_code == 200
        assert upstream.last.headers["authorization"] == f"Bearer {expected}"
        assert state == ("available_personal" if expected == PERSONAL else "available_shared")


@pytest.mark.parametrize(
    ("own", "of_provider", "code"),
    [
        ({"use_shared_api": False}, {}, "no_api_key_available"),
        ({"personal_api_key": PERSONAL}, {"allow_personal_keys": False, "shared_api_key": ""}, "no_api_key_available"),
        ({"personal_api_key": PERSONAL, "is_active": False}, {"shared_api_key": ""}, "no_api_key_available"),
        ({}, {"shared_api_key": ""}, "no_api_key_available"),
    ],
)
def test_where_no_key_may_pay_the_call_is_refused(
    own: dict[str, Any],
    of_provider: dict[str, Any],
    code: str,
    editor: User,
    editor_api: APIClient,
    provider: AIProvider,
    writer: AIModel,
    upstream: Upstream,
) -> None:
    AdminProviderSettings.objects.create(admin=editor, provider=provider, **own)
    for name, value in of_provider.items():
        setattr(provider, name, value)
    provider.save()
    response = editor_api.post(CHAT, {"message": "hi"})
    assert (response.status_code, codes(response)) == (403, [code])
    assert upstream.requests == []


def test_a_key_that_can_not_be_decrypted_is_refused_by_name(
    editor_api: APIClient, writer: AIModel, settings: Any, upstream: Upstream
) -> None:
    settings.SECRET_KEY = "another"
    response = editor_api.post(CHAT, {"message": "hi"})
    assert (response.status_code, codes(response)) == (403, ["key_unreadable"])
    assert upstream.requests == []


def test_validating_a_key_tells_accepted_refused_and_unknown_apart(
    admin_api: APIClient, editor: User, editor_api: APIClient, provider: AIProvider, upstream: Upstream
) -> None:
    own = AdminProviderSettings.objects.create(admin=editor, provider=provider, personal_api_key=PERSONAL)
    upstream.on("GET", "/v1/models", whole(200, {"object": "list", "data": []}))
    accepted = editor_api.post(f"/api/admin/ai-settings/{own.pk}/validate-key").json()
    assert (accepted["status"], accepted["valid"]) == ("accepted", True)
    assert upstream.last.headers["authorization"] == f"Bearer {PERSONAL}"

    refusal = {"error": {"message": f"Incorrect API key provided: {SHARED}", "code": "invalid_api_key"}}
    upstream.on("GET", "/v1/models", whole(401, refusal))
    refused = admin_api.post(f"/api/admin/ai-providers/{provider.pk}/validate-key")
    assert (refused.json()["status"], refused.json()["valid"]) == ("refused", False)
    assert SHARED not in refused.content.decode()

    upstream.on("GET", "/v1/models", whole(503, {"error": {"message": "overloaded"}}))
    unknown = admin_api.post(f"/api/admin/ai-providers/{provider.pk}/validate-key/").json()
    assert (unknown["status"], unknown["valid"]) == ("unknown", False)


# -- limits and counters ----------------------------------------------------------------------------------------------


def test_each_successful_call_is_counted_three_times(
    editor: User, editor_api: APIClient, provider: AIProvider, writer: AIModel, upstream: Upstream
) -> None:
    own = AdminProviderSettings.objects.create(admin=editor, provider=provider)
    upstream.reply(200, answers.chat("Hello!"))
    editor_api.post(CHAT, {"message": "hi"})
    upstream.reply(400, {"error": {"message": "no"}})
    editor_api.post(CHAT, {"message": "hi"})
    for row in (provider, writer, own):
        row.refresh_from_db()
        assert row.total_requests == 1
        assert row.last_used_at is not None
    assert own.monthly_usage == 1


def test_at_the_monthly_limit_the_vendor_is_not_asked_until_the_next_month(
    editor: User, editor_api: APIClient, provider: AIProvider, writer: AIModel, upstream: Upstream, settings: Any
) -> None:
    own = AdminProviderSettings.objects.create(admin=editor, provider=provider, monthly_limit=2)
    for _ in range(2):
        upstream.reply(200, answers.chat("Hello!"))
        assert editor_api.post(CHAT, {"message": "hi"}).status_code == 200
    response = editor_api.post(CHAT, {"message": "hi"})
    assert (response.status_code, codes(response)) == (429, ["monthly_limit_reached"])
    assert 0 < int(response["Retry-After"]) <= 31 * 24 * 3600
    assert len(upstream.requests) == 2

    settings.AI_MONTH_CALENDAR = "jalali"  # its month began on another day
    upstream.reply(200, answers.chat("Hello!"))
    assert editor_api.post(CHAT, {"message": "hi"}).status_code == 200
    own.refresh_from_db()
    assert own.monthly_usage == 1


# -- content ----------------------------------------------------------------------------------------------------------


def test_an_article_has_all_six_keys(editor_api: APIClient, writer: AIModel, upstream: Upstream) -> None:
    upstream.reply(200, answers.article())
    response = editor_api.post(CONTENT, {"topic": "Tea", "word_count": 300, "tone": "warm", "keywords": ["tea"]})
    assert response.status_code == 200
    body = response.json()
    assert {name: body[name] for name in answers.ARTICLE} == answers.ARTICLE
    asked = upstream.last.json["messages"][-1]["content"]
    for part in ("Tea", "300", "warm"):
        assert part in asked


def test_content_is_asked_for_in_a_language_and_its_slug_keeps_persian_letters(
    editor_api: APIClient, writer: AIModel, upstream: Upstream, settings: Any
) -> None:
    settings.AI_CONTENT_LANGUAGE = "de"
    upstream.reply(200, answers.article(title="چای ایرانی", slug="چای‌های ایرانی"))
    body = editor_api.post(CONTENT, {"topic": "Tea", "language": "fa"}).json()
    assert body["slug"] == "چای-های-ایرانی"
    assert "fa" in upstream.last.json["messages"][-1]["content"].split()
    upstream.reply(200, answers.article())
    editor_api.post(CONTENT, {"topic": "Tea"})
    assert "de" in upstream.last.json["messages"][-1]["content"].split()


def test_an_answer_that_is_no_json_is_repaired_once(editor_api: APIClient, writer: AIModel, upstream: Upstream) -> None:
    upstream.reply(200, answers.chat("Tea is a drink."))
    upstream.reply(200, answers.article())
    body = editor_api.post(CONTENT, {"topic": "Tea"}).json()
    assert body["title"] == "Tea"
    assert "Tea is a drink." in upstream.last.json["messages"][-1]["content"]
    assert body["info"]["usage"]["input_tokens"] == 18  # both requests


def test_after_one_repair_the_error_says_what_is_wrong(
    editor_api: APIClient, writer: AIModel, upstream: Upstream
) -> None:
    for _ in range(2):
        upstream.reply(200, answers.article(content=""))
    response = editor_api.post(CONTENT, {"topic": "Tea"})
    assert (response.status_code, codes(response)) == (502, ["content_invalid"])
    assert "'content' is missing or empty" in response.json()["errors"][0]["detail"]
    assert len(upstream.requests) == 2


# -- images and audio ----------------------------------------------------------------------------------------------


def test_an_image_comes_as_base64(editor_api: APIClient, painter: AIModel, upstream: Upstream) -> None:
    upstream.reply(200, answers.images(answers.png(4, 3)))
    body = editor_api.post(IMAGE, {"prompt": "A kite", "size": "1024x1024", "quality": "hd"}).json()
    with Image.open(BytesIO(base64.b64decode(body["base64"]))) as image:
        assert image.size == (4, 3)
    assert (body["url"], body["content_type"], body["placeholder"], body["more"]) == (None, "image/png", False, [])
    assert not GeneratedMedia.objects.exists()


def test_a_saved_image_has_a_url_and_a_row(
    editor: User, editor_api: APIClient, painter: AIModel, upstream: Upstream
) -> None:
    upstream.reply(200, answers.images(answers.png(), answers.png()))
    body = editor_api.post(
        IMAGE, {"prompt": "A kite", "n": 2, "save_to_media": True, "title": "Kite", "alt_text": "A red kite"}
    ).json()
    assert body["base64"] is None
    assert len(body["more"]) == 1
    rows = {str(row.public_id): row for row in GeneratedMedia.objects.all()}
    row = rows[body["media_id"]]
    assert set(rows) == {body["media_id"], body["more"][0]["media_id"]}
    assert (row.kind, row.owner, row.model, row.model_name) == (
        "image",
        editor,
        painter,
        "openai/gpt-image-2.5-flare",
    )
    assert (row.prompt, row.title, row.alt_text, row.mime_type, row.size) == (
        "A kite",
        "Kite",
        "A red kite",
        "image/png",
        len(answers.png()),
    )
    with default_storage.open(row.file.name) as stored:
        assert stored.read() == answers.png()
    with closing(editor_api.get(body["url"])) as served:
        assert b"".join(served) == answers.png()


def test_what_is_no_image_is_no_result(editor_api: APIClient, painter: AIModel, upstream: Upstream) -> None:
    upstream.reply(200, answers.images(b"<svg>not what it claims</svg>"))
    response = editor_api.post(IMAGE, {"prompt": "A kite", "save_to_media": True})
    assert (response.status_code, codes(response)) == (502, ["provider_invalid_response"])
    assert not GeneratedMedia.objects.exists()


def test_an_image_that_is_cut_off_is_no_result(editor_api: APIClient, painter: AIModel, upstream: Upstream) -> None:
    whole_file = answers.png(200, 200)
    for broken in (whole_file[: len(whole_file) // 2], answers.png(30_000, 30_000, rows=1)):
        upstream.reply(200, answers.images(broken))
        response = editor_api.post(IMAGE, {"prompt": "A kite"})
        assert (response.status_code, codes(response)) == (502, ["provider_invalid_response"])


def test_where_storing_fails_nothing_is_left_behind(
    editor_api: APIClient, painter: AIModel, upstream: Upstream, settings: Any, tmp_path: Path
) -> None:
    (tmp_path / "ai").write_text("a file where the folder should be")
    settings.MEDIA_ROOT = tmp_path
    upstream.reply(200, answers.images(answers.png()))
    response = editor_api.post(IMAGE, {"prompt": "A kite", "save_to_media": True})
    assert (response.status_code, codes(response)) == (503, ["media_not_saved"])
    assert not GeneratedMedia.objects.exists()


def test_audio_comes_as_a_file_that_plays(editor_api: APIClient, speaker: AIModel, upstream: Upstream) -> None:
    upstream.reply(200, answers.wav(0.6), content_type="audio/wav")
    body = editor_api.post(AUDIO, {"text": "Hello", "voice": "alloy", "speed": 1.0}).json()
    with open_wave(BytesIO(base64.b64decode(body["base64"]))) as wav:
        assert wav.getnframes() / wav.getframerate() == pytest.approx(0.6)
    assert (body["content_type"], body["url"]) == ("audio/wav", None)
    assert upstream.last.json["input"] == "Hello"


def test_saved_audio_has_a_url_and_a_row(editor_api: APIClient, speaker: AIModel, upstream: Upstream) -> None:
    upstream.reply(200, answers.wav(), content_type="audio/wav")
    body = editor_api.post(AUDIO, {"text": "Hello", "save_to_media": True, "title": "Greeting"}).json()
    row = GeneratedMedia.objects.get()
    assert (row.kind, row.title, row.prompt, row.mime_type) == ("audio", "Greeting", "Hello", "audio/wav")
    assert body["url"].endswith(row.file.url)


def test_what_is_no_audio_is_no_result(editor_api: APIClient, speaker: AIModel, upstream: Upstream) -> None:
    for data in (b"hello, I am text", answers.wav(0)):
        upstream.reply(200, data, content_type="audio/wav")
        response = editor_api.post(AUDIO, {"text": "Hello"})
        assert (response.status_code, codes(response)) == (502, ["provider_invalid_response"])


# -- vendors that fail ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (whole(400, {"error": {"message": "bad"}}), 502, "provider_bad_request"),
        (whole(401, {"error": {"message": f"Incorrect API key provided: {SHARED}"}}), 502, "provider_auth_failed"),
        (whole(402, {"error": {"message": "pay"}}), 502, "provider_no_credit"),
        (whole(404, {"error": {"message": "gone", "code": "model_not_found"}}), 404, "provider_model_not_found"),
        (whole(429, {"error": {"message": "slow down"}}, {"retry-after": "17"}), 429, "provider_rate_limited"),
        (whole(500, {"error": {"message": "oops"}}), 502, "provider_unavailable"),
        (whole(200, answers.chat("", "length")), 502, "empty_reply"),
        (whole(200, "<html>proxy</html>", content_type="text/html"), 502, "provider_invalid_response"),
        (whole(200, answers.chat("", "content_filter")), 422, "content_blocked"),
    ],
)
def test_a_vendors_failure_has_its_own_status_and_code(
    reply: Reply, status: int, code: str, editor_api: APIClient, writer: AIModel, upstream: Upstream
) -> None:
    upstream.on("POST", answers.CHAT, reply)
    response = editor_api.post(CHAT, {"message": "hi"})
    assert (response.status_code, codes(response)) == (status, [code])
    assert SHARED not in response.content.decode()
    if status == 429:
        assert response["Retry-After"] == "17"


def test_a_vendor_that_does_not_answer_is_a_504(
    editor_api: APIClient, writer: AIModel, upstream: Upstream, settings: Any
) -> None:
    settings.AI_TIMEOUT_TOTAL = 0.3
    upstream.on("POST", answers.CHAT, Reply(200, before=[HANG]))
    response = editor_api.post(CHAT, {"message": "hi"})
    assert (response.status_code, codes(response)) == (504, ["provider_timeout"])


# -- lists ------------------------------------------------------------------------------------------------------------


def test_the_list_of_models_says_what_one_needs_to_choose(
    editor_api: APIClient, provider: AIProvider, make_model: MakeModel
) -> None:
    make_model(
        provider,
        "chat",
        model_id="gpt-6-luna",
        pricing_input="0.1",
        pricing_output="0.5",
        context_window=1_050_000,
        max_tokens=128_000,
    )
    make_model(provider, "chat", "image", model_id="off", is_active=False)
    body = editor_api.get("/api/admin/ai/chat/models").json()
    assert [row["model_id"] for row in body["results"]] == ["gpt-6-luna", "off"]
    first, second = body["results"]
    assert set(first) == {
        "id",
        "name",
        "model_id",
        "provider",
        "capabilities",
        "is_active",
        "is_free",
        "access_state",
        "pricing",
        "limits",
    }
    assert first["provider"] == {"slug": "openai", "name": "Openai"}
    assert first["pricing"] == {"input": "0.100000", "output": "0.500000"}
    assert first["limits"] == {"max_tokens": 128_000, "context_window": 1_050_000}
    assert (first["access_state"], second["access_state"]) == ("available_shared", "disabled")
    assert editor_api.get("/api/admin/ai/chat/models?is_active=true&search=luna").json()["count"] == 1
    assert editor_api.get("/api/admin/ai/video/models").status_code == 404


def test_the_list_of_providers_says_which_may_be_used(
    editor_api: APIClient, admin_api: APIClient, provider: AIProvider, writer: AIModel, painter: AIModel
) -> None:
    AIProvider.objects.update(allow_shared_for_normal_admins=False)
    mine = editor_api.get("/api/admin/ai/providers?capability=image").json()["results"]
    theirs = admin_api.get("/api/admin/ai/providers/?capability=image").json()["results"]
    assert [(row["slug"], row["has_access"], row["access_state"]) for row in mine] == [("openai", False, "no_access")]
    assert [(row["has_access"], row["active_model"]["id"]) for row in theirs] == [(True, painter.pk)]
    assert editor_api.get("/api/admin/ai/providers?capability=audio").json()["results"] == []
    response = editor_api.get("/api/admin/ai/providers")
    assert (response.status_code, codes(response)) == (400, ["capability_required"])


@pytest.mark.parametrize("path", ["/api/admin/ai/chat/models", "/api/admin/ai/providers?capability=chat"])
def test_lists_cost_the_same_queries_at_any_size(
    path: str,
    editor_api: APIClient,
    make_provider: Callable[..., AIProvider],
    make_model: MakeModel,
    django_assert_max_num_queries: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fill(start: int, end: int) -> None:
        for number in range(start, end):
            provider = make_provider(f"p-{number}")
            for other in range(3):
                make_model(provider, "chat", model_id=f"m-{other}", is_active=other == 0)

    monkeypatch.setattr("src.core.cache.freshness.BELIEVED_FOR", 60)  # once a second there is one query more
    for start, end in ((0, 2), (2, 12), (12, 70)):
        fill(start, end)
        editor_api.get(path)  # the token's last use is noted once a minute, and what changed is read again
        with django_assert_max_num_queries(1):
            assert editor_api.get(path).json()["count"] == end * (3 if "models" in path else 1)
        with django_assert_max_num_queries(1):
            editor_api.get(f"{path}{'&' if '?' in path else '?'}page_size=500")


@pytest.mark.parametrize("path", ["/api/admin/ai/chat/models", "/api/admin/ai/providers?capability=chat"])
def test_lists_cost_the_same_queries_with_any_number_of_admins(
    path: str,
    editor_api: APIClient,
    provider: AIProvider,
    writer: AIModel,
    client_of: Callable[[User], APIClient],
    django_assert_max_num_queries: Any,
) -> None:
    for number in range(20):
        admin = User.objects.create_user(f"admin-{number}", is_staff=True)
        AdminProviderSettings.objects.create(admin=admin, provider=provider, use_shared_api=number % 2 == 0)
        api = client_of(admin)
        api.get(path)
        with django_assert_max_num_queries(2):
            state = api.get(path).json()["results"][0]["access_state"]
        assert state == ("available_shared" if number % 2 == 0 else "no_access")


@pytest.mark.parametrize("asked", ["", "&ordering=-name", "&search=m-1", "&provider=p-1&ordering=model_id"])
def test_the_pages_together_are_the_whole_list_in_order(
    asked: str, editor_api: APIClient, make_provider: Callable[..., AIProvider], make_model: MakeModel
) -> None:
    for provider in (make_provider("p-1", sort_order=2), make_provider("p-2", sort_order=1)):
        for number in range(15):
            make_model(provider, "chat", "vision", model_id=f"m-{number:02}", is_active=number == 7)
    path = f"/api/admin/ai/chat/models?page_size={{}}&page={{}}{asked}"
    whole_list = editor_api.get(path.format(500, 1)).json()
    pages = [editor_api.get(path.format(4, page)).json() for page in range(1, -(-whole_list["count"] // 4) + 1)]
    assert [row["id"] for page in pages for row in page["results"]] == [row["id"] for row in whole_list["results"]]
    assert {page["count"] for page in pages} == {len(whole_list["results"])}
    assert len(whole_list["results"]) in (30, 10, 15)
    assert editor_api.get(path.format(4, 99)).status_code == 404


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("choice", [{}, {"model_id": "writer"}, {"provider_slug": "openai"}])
@pytest.mark.parametrize("key", ["shared", "personal"])
def test_a_warm_call_reads_nothing_from_the_database(
    choice: dict[str, Any],
    key: str,
    editor: User,
    editor_api: APIClient,
    provider: AIProvider,
    writer: AIModel,
    upstream: Upstream,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("src.core.cache.freshness.BELIEVED_FOR", 60)
    upstream.on("POST", answers.CHAT, whole(200, answers.chat("Hello!")))
    if key == "personal":
        AdminProviderSettings.objects.create(admin=editor, provider=provider, personal_api_key=PERSONAL)
    body = {"message": "Hi", **choice, **({"model_id": writer.pk} if "model_id" in choice else {})}
    assert editor_api.post(CHAT, body).status_code == 200
    with CaptureQueriesContext(connection) as queries:
        assert editor_api.post(CHAT, body).status_code == 200
    assert [query["sql"] for query in queries] == []
    assert upstream.last.headers["authorization"] == f"Bearer {PERSONAL if key == 'personal' else SHARED}"


def test_what_is_wrong_is_said_in_each_clients_language(editor_api: APIClient) -> None:
    wrong = {"message": "Hi", "temperature": 3, "max_tokens": 0}
    said = [
        [
            error["detail"]
            for error in editor_api.post(CHAT, wrong, headers={"Accept-Language": language}).json()["errors"]
        ]
        for language in ("en", "fa", "en")
    ]
    assert said[0] == said[2]
    assert not {*said[0]} & {*said[1]}
