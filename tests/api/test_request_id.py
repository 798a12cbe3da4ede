"""The name of a request: in its answer, in the log, on the books; and the line that each call leaves in the log."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.test import AsyncClient, Client
from rest_framework.test import APIClient

from config.logs import FactsFormatter, JSONFormatter
from src.ai.models import AIModel, AIProvider, UsageRecord
from src.ai.services.unified_service import UnifiedAIService
from src.ai.signals import ai_call_settled
from src.core.request_id import RequestIdFilter, current_request_id
from tests import vendor_answers as answers
from tests.upstream.server import Upstream, events, whole

CHAT, KEY = "/api/admin/ai/chat/send", "sk-shared-0123456789abcdef"
NAME = "panel:req_1.7-a"


@pytest.fixture
def writer(make_provider: Callable[..., AIProvider], make_model: Callable[..., AIModel], upstream: Upstream) -> AIModel:
    provider = make_provider(api_base_url=f"{upstream.url}/v1", shared_api_key=KEY, allow_shared_for_normal_admins=True)
    return make_model(provider, "chat", model_id="gpt-6-luna", pricing_input=1, pricing_output=1_000_000)


@pytest.fixture
def log() -> Iterator[StringIO]:
    """What the site's log would hold, in JSON."""
    text = StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(JSONFormatter())
    handler.addFilter(RequestIdFilter())
    root, calls = logging.getLogger(), logging.getLogger("src.ai.calls")
    root.addHandler(handler)
    calls.setLevel(logging.INFO)
    yield text
    root.removeHandler(handler)
    calls.setLevel(logging.NOTSET)


def lines(log: StringIO, logger: str = "src.ai.calls") -> list[dict[str, Any]]:
    return [line for line in map(json.loads, log.getvalue().splitlines()) if line["logger"] == logger]


# -- the name --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [NAME, "x", "7" * 128])
def test_a_sane_name_is_kept(sent: str, client: Client) -> None:
    assert client.get("/healthz", headers={"X-Request-Id": sent})["X-Request-Id"] == sent


@pytest.mark.parametrize("sent", [None, "", " ", "7" * 129, "a b", "a,b", "a/b", "naïve", "a\nb", "١٢٣"])
def test_any_other_is_replaced_by_a_new_one(sent: str | None, client: Client) -> None:
    headers = {} if sent is None else {"X-Request-Id": sent}
    first, second = (client.get("/healthz", headers=headers)["X-Request-Id"] for _ in range(2))
    assert first != second
    assert all(len(name) == 32 and set(name) <= set("0123456789abcdef") for name in (first, second))


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nowhere", 404),
        ("/api/nowhere", 404),
        ("/api/admin/ai-models", 401),
        ("/admin/", 302),
        ("/admin/login/", 200),
        ("/api/schema", 200),
    ],
)
def test_every_answer_carries_it(path: str, status: int, client: Client, db: None) -> None:
    response = client.get(path, headers={"X-Request-Id": NAME})
    assert (response.status_code, response["X-Request-Id"]) == (status, NAME)


def test_a_server_error_and_what_middleware_answers_carry_it(
    client: Client, db: None, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.raise_request_exception = False
    wrong_host = client.get("/admin/login/", headers={"X-Request-Id": NAME, "host": "elsewhere"})
    assert (wrong_host.status_code, wrong_host["X-Request-Id"]) == (400, NAME)
    settings.SECURE_SSL_REDIRECT = True
    redirect = Client().get("/admin/login/", headers={"X-Request-Id": NAME})
    assert (redirect.status_code, redirect["X-Request-Id"]) == (301, NAME)
    settings.SECURE_SSL_REDIRECT = False
    monkeypatch.setattr("django.contrib.admin.sites.AdminSite.get_app_list", lambda *_: 1 / 0)
    broken = client.get("/admin/login/", headers={"X-Request-Id": NAME})
    assert (broken.status_code, broken["X-Request-Id"]) == (500, NAME)


def test_a_name_ends_with_its_request(client: Client) -> None:
    client.get("/healthz", headers={"X-Request-Id": NAME})
    assert current_request_id() == ""


# -- where it is found again -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_it_is_found_again_in_the_log_and_on_the_books(
    stream: bool, editor_api: APIClient, writer: AIModel, upstream: Upstream, log: StringIO
) -> None:
    plain = whole(200, answers.chat("Hello!"))
    upstream.send(events(answers.chunk("Hello!"), answers.chunk(None, "stop")) if stream else plain)
    response = editor_api.post(CHAT, {"message": "Hi", "stream": stream}, headers={"X-Request-Id": NAME})
    assert b"Hello!" in (response.getvalue() if stream else response.content)
    assert response["X-Request-Id"] == NAME
    assert UsageRecord.objects.get().request_id == NAME
    (line,) = lines(log)
    assert line["request_id"] == NAME


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("stream", [False, True])
async def test_under_asgi_it_is_found_again_too(
    stream: bool, editor_api: APIClient, writer: AIModel, upstream: Upstream, log: StringIO
) -> None:
    plain = whole(200, answers.chat("Hello!"))
    upstream.send(events(answers.chunk("Hello!"), answers.chunk(None, "stop")) if stream else plain)
    headers = {"X-Request-Id": NAME, "authorization": editor_api._credentials["HTTP_AUTHORIZATION"]}
    response = await AsyncClient().post(CHAT, {"message": "Hi", "stream": stream}, "application/json", headers=headers)
    assert b"Hello!" in (b"".join([part async for part in response]) if stream else response.content)
    assert response["X-Request-Id"] == NAME
    assert (await UsageRecord.objects.aget()).request_id == NAME
    assert [line["request_id"] for line in lines(log)] == [NAME]
    await sync_to_async(connections.close_all)()


def test_what_django_logs_of_a_request_names_it(client: Client, db: None, log: StringIO) -> None:
    client.get("/nowhere", headers={"X-Request-Id": NAME})
    assert [line["request_id"] for line in lines(log, "django.request")] == [NAME]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_async", [False, True])
async def test_what_is_logged_while_a_stream_is_sent_names_its_request(
    is_async: bool, editor_api: APIClient, writer: AIModel, upstream: Upstream, log: StringIO
) -> None:
    def note(**_: Any) -> None:
        logging.getLogger("src.elsewhere").error("settled")

    def read() -> Any:
        return editor_api.post(CHAT, body, headers=headers).getvalue()

    upstream.send(events(answers.chunk("Hello!"), answers.chunk(None, "stop")))
    body = {"message": "Hi", "stream": True}
    headers = {"X-Request-Id": NAME, "authorization": editor_api._credentials["HTTP_AUTHORIZATION"]}
    ai_call_settled.connect(note)
    try:
        if is_async:
            async for _part in await AsyncClient().post(CHAT, body, "application/json", headers=headers):
                pass
        else:
            await sync_to_async(read)()
    finally:
        ai_call_settled.disconnect(note)
    assert [line["request_id"] for line in lines(log, "src.elsewhere")] == [NAME]
    await sync_to_async(connections.close_all)()


def test_outside_of_a_request_the_books_make_a_name_and_log_lines_have_none(
    superuser: Any, writer: AIModel, upstream: Upstream, log: StringIO
) -> None:
    upstream.reply(200, answers.chat("Hello!"))
    UnifiedAIService.chat("Hi", superuser)
    logging.getLogger("src.elsewhere").error("outside")
    assert lines(log)[0]["request_id"] == UsageRecord.objects.get().request_id != ""
    assert "request_id" not in lines(log, "src.elsewhere")[0]


# -- the line of a call ----------------------------------------------------------------------------------------------


def test_a_call_leaves_one_line_with_its_facts(
    editor_api: APIClient, writer: AIModel, upstream: Upstream, log: StringIO
) -> None:
    upstream.reply(200, answers.chat("A secret answer"))
    editor_api.post(CHAT, {"message": "A secret question"})
    record = UsageRecord.objects.get()
    (line,) = lines(log)
    assert line.pop("time").endswith("+00:00")
    assert line.pop("latency_ms") == record.latency_ms
    assert line == {
        "level": "INFO",
        "logger": "src.ai.calls",
        "message": "A request to a vendor has ended",
        "request_id": record.request_id,
        "record": str(record.pk),
        "admin_id": record.admin_id,
        "key_source": "shared",
        "gen_ai.provider.name": "openai",
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-6-luna",
        "gen_ai.request.stream": False,
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 9,
        "gen_ai.usage.output_tokens": 4,
        "state": "settled",
        "cost": "4.000009",
        "cost_state": "exact",
    }
    assert "secret" not in log.getvalue()
    assert KEY not in log.getvalue()


def test_a_stream_says_when_its_first_piece_came(
    editor_api: APIClient, writer: AIModel, upstream: Upstream, log: StringIO
) -> None:
    upstream.send(events(answers.chunk("Hello!"), answers.chunk(None, "stop")))
    editor_api.post(CHAT, {"message": "Hi", "stream": True}).getvalue()
    (line,) = lines(log)
    assert line["gen_ai.request.stream"] is True
    assert 0 <= line["first_chunk_ms"] <= line["latency_ms"]


def test_each_request_to_the_vendor_has_its_line_and_says_how_it_failed(
    editor_api: APIClient, writer: AIModel, upstream: Upstream, log: StringIO
) -> None:
    for status in (500, 500, 500):
        upstream.reply(status, {"error": {"message": f"no, not with {KEY}"}})
    editor_api.post(CHAT, {"message": "Hi"})
    assert [(line["state"], line["error.type"]) for line in lines(log)] == [("failed", "provider_unavailable")] * 3
    assert {line["record"] for line in lines(log)} == {str(record.pk) for record in UsageRecord.objects.all()}
    assert KEY not in log.getvalue()


# -- how a line looks --------------------------------------------------------------------------------------------------


def test_a_json_line_is_one_line_whatever_is_in_it() -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError as error:
        record = logging.LogRecord("src.x", logging.ERROR, __file__, 1, "it %s", ("brôke\nhere",), None)
        record.exc_info = (type(error), error, error.__traceback__)
    record.fact, record.thing = "\udc80", object
    text = JSONFormatter().format(record)
    assert "\n" not in text
    assert text.isascii()
    line = json.loads(text)
    assert (line["level"], line["logger"], line["message"]) == ("ERROR", "src.x", "it brôke\nhere")
    assert line["exception"].endswith("ValueError: first\nsecond")
    assert (line["fact"], line["thing"]) == ("\udc80", str(object))


def test_a_text_line_has_the_facts_after_the_message() -> None:
    record = logging.LogRecord("src.x", logging.INFO, __file__, 1, "done", (), None)
    record.request_id = NAME
    assert FactsFormatter().format(record).endswith(f"INFO src.x: done request_id='{NAME}'")
