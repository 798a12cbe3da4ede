"""`Idempotency-Key`: what runs once, what comes again, and what frees the key."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.contrib.auth.models import User
from django.db import OperationalError, connection, connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from PIL import Image
from rest_framework.test import APIClient

from src.ai.models import AdminProviderSettings, AIModel, AIProvider, GeneratedMedia, IdempotencyKey
from src.ai.services.idempotency import claim_key, fingerprint, prune_idempotency_keys
from src.ai.views.on_loop import chat_on_loop
from src.core import asgi
from src.core.asgi import Handler
from tests import vendor_answers as answers
from tests.conftest import codes
from tests.upstream.server import HANG, RESET, Gate, Reply, Upstream, whole

CHAT, CONTENT = "/api/admin/ai/chat/send", "/api/admin/ai/content/generate"
IMAGE, AUDIO = "/api/admin/ai/image/generate", "/api/admin/ai/audio/generate"
KEY = "5f0c1c3e-order-1"
HELLO = {"message": "Hi", "temperature": 1}
ENDPOINTS: dict[str, tuple[dict[str, Any], Reply]] = {
    CHAT: (HELLO, whole(200, answers.chat("سلام!"))),
    CONTENT: ({"topic": "Tea"}, whole(200, answers.article())),
    IMAGE: ({"prompt": "A kite"}, whole(200, answers.images(answers.png()))),
    AUDIO: ({"text": "Hello"}, whole(200, answers.wav(), content_type="audio/wav")),
}
MakeModel = Callable[..., AIModel]


@pytest.fixture(autouse=True)
def provider(make_provider: Callable[..., AIProvider], make_model: MakeModel, upstream: Upstream) -> AIProvider:
    provider = make_provider(
        api_base_url=f"{upstream.url}/v1", shared_api_key="sk-0123456789abcdef", allow_shared_for_normal_admins=True
    )
    make_model(provider, "chat", "content", model_id="gpt-6-luna")
    make_model(provider, "image", model_id="gpt-image-2.5-flare")
    make_model(provider, "audio", model_id="gpt-4o-mini-tts")
    return provider


def send(api: APIClient, path: str = CHAT, body: Any = None, key: str | None = KEY) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return api.post(path, HELLO if body is None else body, headers=headers)


def outcome(response: Any) -> tuple[int, list[str]]:
    return response.status_code, codes(response)


def is_replay(response: Any) -> bool:
    return bool(response.headers.get("Idempotency-Replayed") == "true")


# -- the same request again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ENDPOINTS)
def test_the_same_request_gives_the_first_answer_again_and_is_paid_once(
    path: str, editor_api: APIClient, provider: AIProvider, upstream: Upstream
) -> None:
    body, reply = ENDPOINTS[path]
    upstream.send(reply, reply)
    first, second, third = (send(editor_api, path, body) for _ in range(3))
    assert (first.status_code, is_replay(first)) == (200, False)
    for again in (second, third):
        assert (again.status_code, again.content, is_replay(again)) == (200, first.content, True)
        assert again.headers["Content-Type"] == first.headers["Content-Type"]
    provider.refresh_from_db()
    assert (len(upstream.requests), provider.total_requests) == (1, 1)


def test_the_form_of_the_json_and_a_slash_make_no_other_request(editor_api: APIClient, upstream: Upstream) -> None:
    upstream.reply(200, answers.chat("Hello!"))
    first = send(editor_api)
    other_form = json.dumps({"temperature": 1, "message": "Hi"}, indent=4)
    again = editor_api.post(CHAT + "/", other_form, content_type="application/json", headers={"Idempotency-Key": KEY})
    assert (again.content, is_replay(again), len(upstream.requests)) == (first.content, True, 1)


def test_an_answer_of_megabytes_comes_again_byte_for_byte(editor_api: APIClient, upstream: Upstream) -> None:
    buffer = BytesIO()
    Image.frombytes("RGB", (1000, 1000), os.urandom(3_000_000)).save(buffer, "PNG")
    upstream.reply(200, answers.images(buffer.getvalue()))
    first, again = (send(editor_api, IMAGE, {"prompt": "Noise"}) for _ in range(2))
    assert base64.b64decode(again.json()["base64"]) == buffer.getvalue()
    assert (again.content, is_replay(again)) == (first.content, True)


def test_a_page_for_a_browser_comes_again_as_a_page(editor_api: APIClient, upstream: Upstream) -> None:
    upstream.reply(200, answers.chat("Hello!"))
    headers = {"Idempotency-Key": KEY, "Accept": "text/html"}
    first, again = (editor_api.post(CHAT, HELLO, headers=headers) for _ in range(2))
    assert "Hello!" in first.content.decode()
    assert (again.content, again.headers["Content-Type"]) == (first.content, "text/html; charset=utf-8")


def test_a_saved_image_is_saved_once(editor_api: APIClient, upstream: Upstream) -> None:
    upstream.reply(200, answers.images(answers.png()))
    first, again = (send(editor_api, IMAGE, {"prompt": "A kite", "save_to_media": True}) for _ in range(2))
    assert again.json()["url"] == first.json()["url"]
    assert GeneratedMedia.objects.count() == 1


def test_another_admin_has_keys_of_their_own(
    editor_api: APIClient, other_editor: User, client_of: Callable[[User], APIClient], upstream: Upstream
) -> None:
    upstream.send(whole(200, answers.chat("One")), whole(200, answers.chat("Two")))
    other_api = client_of(other_editor)
    for _ in range(2):
        mine, theirs = send(editor_api), send(other_api, body={"message": "Another"})
        assert [mine.json()["reply"], theirs.json()["reply"]] == ["One", "Two"]


def test_what_is_kept_is_encrypted(editor_api: APIClient, upstream: Upstream) -> None:
    upstream.reply(200, answers.chat("A secret plan"))
    send(editor_api, body={"message": "Tell me"})
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM ai_idempotencykey")
        stored = repr(cursor.fetchall())
    assert KEY in stored
    for plain in ("secret plan", "Tell me", base64.b64encode(b"A secret plan").decode()[:12]):
        assert plain not in stored


def test_where_the_kept_answer_can_not_be_read_nothing_runs_again(
    editor_api: APIClient, upstream: Upstream, settings: Any
) -> None:
    upstream.reply(200, answers.chat("Hello!"))
    first = send(editor_api)
    old, settings.SECRET_KEY = settings.SECRET_KEY, "another"
    assert outcome(send(editor_api)) == (409, ["idempotency_answer_unreadable"])
    settings.SECRET_KEY_FALLBACKS = [old]
    assert send(editor_api).content == first.content
    assert len(upstream.requests) == 1


def test_without_the_header_nothing_changes(
    editor_api: APIClient, upstream: Upstream, django_assert_num_queries: Any
) -> None:
    upstream.on("POST", answers.CHAT, whole(200, answers.chat("Hello!")))
    send(editor_api, key=None)  # fills the cache
    with CaptureQueriesContext(connection) as queries:
        again = send(editor_api, key=None)
    assert (is_replay(again), len(upstream.requests), IdempotencyKey.objects.count()) == (False, 2, 0)
    assert [query["sql"] for query in queries if "idempotency" in query["sql"]] == []


# -- another request, or a wrong key -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [(CHAT, {"message": "Something else"}), (CHAT, {"message": "Hi"}), (CONTENT, HELLO), (CHAT, [HELLO])],
)
def test_a_key_stands_for_one_request_only(path: str, body: Any, editor_api: APIClient, upstream: Upstream) -> None:
    upstream.reply(200, answers.chat("Hello!"))
    send(editor_api)
    assert outcome(send(editor_api, path, body)) == (409, ["idempotency_key_reused"])
    assert is_replay(send(editor_api))
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("key", ["", "two words", "schlüssel", "tab\there", "x" * 256, "line\n"])
def test_a_key_of_another_form_is_refused_and_the_message_says_what_to_do(
    key: str, editor_api: APIClient, upstream: Upstream
) -> None:
    response = send(editor_api, key=key)
    assert outcome(response) == (400, ["invalid_idempotency_key"])
    assert "1 to 255 visible ASCII characters" in response.json()["errors"][0]["detail"]
    assert (upstream.requests, IdempotencyKey.objects.count()) == ([], 0)


@pytest.mark.parametrize("key", ["1", "x" * 255, "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"])
def test_any_visible_ascii_is_a_key(key: str, editor_api: APIClient, upstream: Upstream) -> None:
    upstream.reply(200, answers.chat("Hello!"))
    send(editor_api, key=key)
    assert is_replay(send(editor_api, key=key))


def test_wrong_input_consumes_no_key(editor_api: APIClient, upstream: Upstream) -> None:
    upstream.reply(200, answers.chat("Hello!"))
    assert outcome(send(editor_api, body={"message": "Hi", "temprature": 1})) == (400, ["unknown_field"])
    broken = editor_api.post(CHAT, "{", content_type="application/json", headers={"Idempotency-Key": KEY})
    assert outcome(broken) == (400, ["parse_error"])
    assert send(editor_api).status_code == 200


def test_who_may_not_generate_claims_nothing(
    anonymous_api: APIClient, visitor: User, client_of: Callable[[User], APIClient]
) -> None:
    assert send(anonymous_api).status_code == 401
    assert send(client_of(visitor)).status_code == 403
    assert not IdempotencyKey.objects.exists()


# -- failures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (whole(400, {"error": {"message": "bad"}}), "provider_bad_request"),
        (whole(401, {"error": {"message": "who?"}}), "provider_auth_failed"),
        (whole(402, {"error": {"message": "pay"}}), "provider_no_credit"),
        (whole(404, {"error": {"message": "gone", "code": "model_not_found"}}), "provider_model_not_found"),
        (whole(429, {"error": {"message": "slow down"}}, {"retry-after": "17"}), "provider_rate_limited"),
        (whole(503, {"error": {"message": "later"}}, {"retry-after": "17"}), "provider_unavailable"),
        (Reply(before=[RESET]), "provider_unavailable"),
        (whole(200, {"error": {"message": "slow down", "code": 429}}, {"retry-after": "17"}), "provider_rate_limited"),
    ],
)
def test_after_a_failure_that_cost_nothing_the_same_request_runs_again(
    reply: Reply, code: str, editor_api: APIClient, upstream: Upstream
) -> None:
    upstream.on("POST", answers.SPEECH, reply)
    upstream.on("POST", answers.CHAT, reply)
    assert codes(send(editor_api)) == [code]
    upstream.on("POST", answers.CHAT, whole(200, answers.chat("Hello!")))
    good = send(editor_api)
    assert (good.status_code, is_replay(good)) == (200, False)


@pytest.mark.parametrize("refusal", ["no key", "limit", "no model", "no connection"])
def test_after_a_refusal_of_ours_the_same_request_runs_again(
    refusal: str, editor: User, editor_api: APIClient, provider: AIProvider, upstream: Upstream
) -> None:
    own = AdminProviderSettings.objects.create(admin=editor, provider=provider)
    whose, change, undo, code = {
        "no key": (own, {"use_shared_api": False}, {"use_shared_api": True}, "no_api_key_available"),
        "limit": (own, {"monthly_limit": 0}, {"monthly_limit": None}, "monthly_limit_reached"),
        "no model": (provider, {"is_active": False}, {"is_active": True}, "no_active_model_any_provider"),
        "no connection": (
            provider,
            {"api_base_url": "http://127.0.0.1:1/v1"},
            {"api_base_url": provider.api_base_url},
            "provider_unavailable",
        ),
    }[refusal]
    rows: Any = type(whose)._default_manager.filter(pk=whose.pk)
    rows.update(**change)
    assert codes(send(editor_api)) == [code]
    rows.update(**undo)
    upstream.reply(200, answers.chat("Hello!"))
    assert send(editor_api).status_code == 200


def test_a_time_out_while_connecting_cost_nothing(
    editor_api: APIClient, provider: AIProvider, upstream: Upstream, settings: Any
) -> None:
    settings.AI_TIMEOUT_CONNECT = 0.2
    provider.api_base_url = f"https://127.0.0.1:{upstream.port}/v1"  # which never says its part of the handshake
    provider.save()
    assert codes(send(editor_api, IMAGE, {"prompt": "A kite"})) == ["provider_timeout"]
    provider.api_base_url = f"{upstream.url}/v1"
    provider.save()
    upstream.reply(200, answers.images(answers.png()))
    assert send(editor_api, IMAGE, {"prompt": "A kite"}).status_code == 200


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (whole(200, answers.chat("", "length")), "empty_reply"),
        (whole(200, "<html>proxy</html>", content_type="text/html"), "provider_invalid_response"),
        (whole(200, answers.chat("", "content_filter")), "content_blocked"),
        (Reply(200, before=[HANG]), "provider_timeout"),
        (Reply(200, [b"{", RESET], {"content-type": "application/json"}), "provider_unavailable"),
        (Reply(before=[b"HTTP/1.1 200 OK\r\nco", RESET]), "provider_unavailable"),
    ],
)
def test_a_failure_that_may_have_been_paid_is_kept(
    reply: Reply, code: str, editor_api: APIClient, upstream: Upstream, settings: Any
) -> None:
    settings.AI_TIMEOUT_TOTAL = 2.0 if code == "provider_unavailable" else 0.4
    upstream.on("POST", answers.CHAT, reply)
    first = send(editor_api)
    assert codes(first) == [code]
    asked = len(upstream.requests)
    upstream.on("POST", answers.CHAT, whole(200, answers.chat("Hello!")))
    again = send(editor_api)
    assert (again.status_code, again.content, is_replay(again)) == (first.status_code, first.content, True)
    assert len(upstream.requests) == asked
    assert send(editor_api, key="another").status_code == 200


def test_a_file_that_was_made_but_not_stored_is_paid_once(
    editor_api: APIClient, upstream: Upstream, settings: Any, tmp_path: Path
) -> None:
    (tmp_path / "ai").write_text("a file where the folder should be")
    settings.MEDIA_ROOT = tmp_path
    upstream.reply(200, answers.images(answers.png()))
    body = {"prompt": "A kite", "save_to_media": True}
    first, again = (send(editor_api, IMAGE, body) for _ in range(2))
    assert (outcome(again), is_replay(again)) == ((503, ["media_not_saved"]), True)
    assert (again.content, len(upstream.requests)) == (first.content, 1)


def test_a_call_whose_second_request_fails_has_paid_the_first(editor_api: APIClient, upstream: Upstream) -> None:
    upstream.send(
        whole(200, answers.chat("This is no article.")),
        whole(429, {"error": {"message": "slow down"}}, {"retry-after": "17"}),
    )
    first, again = (send(editor_api, CONTENT, {"topic": "Tea"}) for _ in range(2))
    assert (outcome(first), is_replay(again)) == ((429, ["provider_rate_limited"]), True)
    assert len(upstream.requests) == 2


def test_an_error_that_nobody_foresaw_is_kept(
    editor_api: APIClient, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: object, **__: object) -> None:
        raise RuntimeError("the object store's own error")

    monkeypatch.setattr("src.ai.views.generation_views_v2.save_all", break_down)
    editor_api.raise_request_exception = False
    upstream.reply(200, answers.images(answers.png()))
    first, again = (send(editor_api, IMAGE, {"prompt": "A kite", "save_to_media": True}) for _ in range(2))
    assert (first.status_code, again.status_code, is_replay(again)) == (500, 500, True)
    assert len(upstream.requests) == 1


def test_a_kept_failure_keeps_the_language_it_is_in(editor_api: APIClient, upstream: Upstream) -> None:
    upstream.reply(200, answers.chat("", "length"))
    editor_api.post(CHAT, HELLO, headers={"Idempotency-Key": KEY, "Accept-Language": "fa"})
    again = editor_api.post(CHAT, HELLO, headers={"Idempotency-Key": KEY, "Accept-Language": "en"})
    assert (is_replay(again), again.headers["Content-Language"]) == (True, "fa")


@contextmanager
def database_away_for(statement: str) -> Iterator[None]:
    """A statement about keys that begins so fails."""

    def execute(go_on: Any, sql: str, *more: Any) -> Any:
        if sql.startswith(statement) and "ai_idempotencykey" in sql:
            raise OperationalError("the database is away")
        return go_on(sql, *more)

    with connection.execute_wrapper(execute):
        yield


@pytest.mark.django_db(transaction=True)
def test_an_answer_that_can_not_be_kept_still_arrives(
    editor_api: APIClient, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.reply(200, answers.chat("Hello!"))
    with database_away_for("UPDATE"):
        assert send(editor_api).json()["reply"] == "Hello!"
    assert "An Idempotency-Key could not be settled" in caplog.text
    assert outcome(send(editor_api)) == (409, ["idempotency_key_in_use"])


@pytest.mark.django_db(transaction=True)
def test_a_failure_whose_key_can_not_be_released_still_arrives(
    editor_api: APIClient, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.reply(401, {"error": {"message": "who?"}})
    with database_away_for('DELETE FROM "ai_idempotencykey" WHERE "ai_idempotencykey"."id"'):
        assert codes(send(editor_api)) == ["provider_auth_failed"]
    assert "An Idempotency-Key could not be settled" in caplog.text


# -- time ----------------------------------------------------------------------------------------------------------


def test_an_answer_is_kept_for_24_hours(editor_api: APIClient, upstream: Upstream) -> None:
    upstream.send(whole(200, answers.chat("One")), whole(200, answers.chat("Two")))
    send(editor_api)
    kept_for = IdempotencyKey.objects.get().expires_at - timezone.now()
    assert timedelta(hours=24) - timedelta(minutes=1) < kept_for <= timedelta(hours=24)
    IdempotencyKey.objects.update(expires_at=timezone.now())
    later = send(editor_api, body={"message": "Another request"})
    assert (later.json()["reply"], is_replay(later)) == ("Two", False)


@pytest.mark.parametrize(
    ("of_provider", "of_model", "longest"),
    [({}, {}, 300), ({"timeout": 900}, {}, 900), ({}, {"timeout": 900.5}, 900.5), ({"timeout": 5}, {}, 300)],
)
def test_a_process_that_died_blocks_the_key_no_longer_than_a_call_can_take(
    of_provider: dict[str, Any],
    of_model: dict[str, Any],
    longest: float,
    editor: User,
    editor_api: APIClient,
    upstream: Upstream,
    settings: Any,
) -> None:
    settings.AI_TIMEOUT_TOTAL, settings.AI_TIMEOUT_IMAGE = 100.0, 300.0
    AIProvider.objects.update(config=of_provider)
    AIModel.objects.update(config=of_model)
    claim_key(admin=editor, key=KEY, fingerprint=fingerprint("POST", CHAT, HELLO))  # and nothing ever ends it
    blocked = send(editor_api)
    assert (outcome(blocked), blocked.headers["Retry-After"]) == ((409, ["idempotency_key_in_use"]), "5")
    assert outcome(send(editor_api, body={"message": "x"})) == (409, ["idempotency_key_reused"])
    lease = IdempotencyKey.objects.get().expires_at - timezone.now()
    assert timedelta(seconds=longest) < lease <= timedelta(seconds=longest + 60)
    IdempotencyKey.objects.update(expires_at=timezone.now())
    upstream.reply(200, answers.chat("Hello!"))
    assert send(editor_api).json()["reply"] == "Hello!"
    assert is_replay(send(editor_api))


def make_rows(admin: User, count: int, *, expired: bool) -> None:
    moment = timezone.now() + timedelta(hours=-1 if expired else 1)
    IdempotencyKey.objects.bulk_create(
        IdempotencyKey(admin=admin, key=f"{expired}-{number}", fingerprint="0" * 64, expires_at=moment)
        for number in range(count)
    )


def test_pruning_deletes_all_that_expired_and_nothing_else(editor: User) -> None:
    make_rows(editor, 7, expired=True)
    make_rows(editor, 3, expired=False)
    assert prune_idempotency_keys(batch_size=2) == 7
    assert IdempotencyKey.objects.filter(expires_at__gt=timezone.now()).count() == 3
    assert prune_idempotency_keys() == 0


def test_a_new_key_takes_some_expired_rows_with_it(
    editor_api: APIClient, other_editor: User, upstream: Upstream
) -> None:
    make_rows(other_editor, 25, expired=True)
    upstream.reply(200, answers.chat("Hello!"))
    send(editor_api)
    assert IdempotencyKey.objects.count() == 25 - 20 + 1


def test_keys_go_with_their_admin(editor: User) -> None:
    make_rows(editor, 1, expired=False)
    editor.delete()
    assert not IdempotencyKey.objects.exists()


# -- at the same time ----------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_of_eight_threads_that_send_the_same_at_once_one_runs(editor_api: APIClient, upstream: Upstream) -> None:
    gate, start = Gate(), Barrier(8)
    upstream.on("POST", answers.CHAT, Reply(200, whole(200, answers.chat("Hello!")).parts, before=[gate]))
    token = editor_api._credentials

    def run() -> Any:
        api = APIClient()
        api.credentials(**token)
        try:
            start.wait()
            return send(api)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        try:
            done = as_completed([pool.submit(run) for _ in range(8)])
            for _ in range(7):
                refused = next(done).result()
                assert (outcome(refused), refused.headers["Retry-After"]) == ((409, ["idempotency_key_in_use"]), "5")
            gate.wait_until_reached()
            assert IdempotencyKey.objects.get().answer == ""  # what other processes see before the vendor answers
        finally:
            gate.open()
        first = next(done).result()
    again = send(editor_api)
    assert (first.status_code, again.content, is_replay(again)) == (200, first.content, True)
    assert len(upstream.requests) == 1


@pytest.mark.django_db(transaction=True)
def test_an_expired_key_runs_once_too(editor: User, editor_api: APIClient, upstream: Upstream) -> None:
    make_rows(editor, 1, expired=True)
    IdempotencyKey.objects.update(key=KEY)
    test_of_eight_threads_that_send_the_same_at_once_one_runs(editor_api, upstream)


IN_ANOTHER_PROCESS = """
import json, sys, django
django.setup()
from django.db import connection, connections
connection.settings_dict["NAME"] = sys.argv[1]
import config.urls
from rest_framework.test import APIClient
api = APIClient()
api.credentials(HTTP_AUTHORIZATION=sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
response = api.post(sys.argv[3], json.loads(sys.argv[4]), headers={"Idempotency-Key": sys.argv[5]})
print(response.status_code, flush=True)
connections.close_all()
"""


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_of_three_processes_one_runs(editor_api: APIClient, upstream: Upstream) -> None:
    gate = Gate()
    upstream.on("POST", answers.CHAT, Reply(200, whole(200, answers.chat("Hello!")).parts, before=[gate]))
    arguments = [
        str(connection.settings_dict["NAME"]),
        editor_api._credentials["HTTP_AUTHORIZATION"],
        CHAT,
        json.dumps(HELLO),
        KEY,
    ]
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "config.settings.test"}
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, *arguments]
    workers = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        with ThreadPoolExecutor(3) as pool:
            done = as_completed([pool.submit(worker.communicate, "go\n", timeout=60) for worker in workers])
            try:
                assert [next(done).result()[0].strip() for _ in range(2)] == ["409", "409"]
            finally:
                gate.open()
            assert next(done).result()[0].strip() == "200"
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert is_replay(send(editor_api))
    assert len(upstream.requests) == 1


@pytest.mark.django_db(transaction=True)
async def test_the_answer_is_kept_for_a_client_that_hung_up(
    editor_api: APIClient, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asgi, "WATCH_AFTER", 0.0)
    gate = Gate()
    upstream.on("POST", answers.CHAT, Reply(200, whole(200, answers.chat("Hello!")).parts, before=[gate]))
    body = json.dumps(HELLO).encode()
    headers = {
        "authorization": editor_api._credentials["HTTP_AUTHORIZATION"],
        "content-type": "application/json",
        "content-length": str(len(body)),
        "idempotency-key": KEY,
        "host": "testserver",
    }
    scope = {
        "type": "http",
        "method": "POST",
        "path": CHAT,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    client = ApplicationCommunicator(Handler(chat_on_loop), scope)
    try:
        await client.send_input({"type": "http.request", "body": body})
        await asyncio.to_thread(gate.wait_until_reached)
        await client.send_input({"type": "http.disconnect"})
        for _ in range(20):  # turns of the loop, in which Django gives the request up
            await asyncio.sleep(0)
    finally:
        gate.open()
    await client.wait(10)
    assert client.output_queue.empty()
    again = await sync_to_async(send)(editor_api)
    await sync_to_async(connections.close_all)()
    assert (again.json()["reply"], is_replay(again), len(upstream.requests)) == ("Hello!", True, 1)


# -- documents -----------------------------------------------------------------------------------------------------


def test_the_openapi_document_shows_the_header_on_these_four_alone(anonymous_api: APIClient) -> None:
    schema = anonymous_api.get("/api/schema", headers={"accept": "application/json"}).json()
    shown = {
        path: parameter
        for path, operations in schema["paths"].items()
        for operation in operations.values()
        for parameter in operation.get("parameters", [])
        if parameter["in"] == "header"
    }
    assert set(shown) == set(ENDPOINTS)
    assert {parameter["name"] for parameter in shown.values()} == {"Idempotency-Key"}
    assert shown[CHAT]["schema"] == {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"}
    assert "required" not in shown[CHAT]
