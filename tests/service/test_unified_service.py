"""`UnifiedAIService` as other Django apps call it: from a view, an async view, a thread, a worker after a fork."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from threading import Event
from typing import Any, cast

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import AnonymousUser, User
from django.db import connections, transaction
from django.http import HttpRequest, JsonResponse
from django.test import AsyncClient, override_settings
from django.urls import path
from django.utils.functional import SimpleLazyObject

from src.ai.exceptions import (
    AdminRequired,
    InvalidRequest,
    ModelNotFound,
    NoActiveModel,
    OperationNotSupported,
    ProviderUnavailable,
    SharedKeyNotAllowed,
    StreamInterrupted,
    SyncCallInAsyncCode,
)
from src.ai.models import AIModel, AIProvider
from src.ai.results import Article, Media, Reply
from src.ai.services.access import ModelAccessState
from src.ai.services.unified_service import UnifiedAIService
from tests import vendor_answers as answers
from tests.upstream.server import CLOSE, Gate, Upstream, events, whole
from tests.upstream.server import Reply as Answer

KEY = "sk-shared-0123456789abcdef"
MakeModel = Callable[..., AIModel]


@pytest.fixture
def provider(make_provider: Callable[..., AIProvider], upstream: Upstream) -> AIProvider:
    upstream.on("POST", answers.CHAT, whole(200, answers.chat("Hello!")))
    upstream.on("POST", answers.IMAGES, whole(200, answers.images(answers.png())))
    upstream.on("POST", answers.SPEECH, whole(200, answers.wav(), content_type="audio/wav"))
    return make_provider(api_base_url=f"{upstream.url}/v1", shared_api_key=KEY, allow_shared_for_normal_admins=True)


@pytest.fixture(autouse=True)
def models(provider: AIProvider, make_model: MakeModel) -> dict[str, AIModel]:
    return {
        "writer": make_model(provider, "chat", "content", model_id="gpt-6-luna"),
        "painter": make_model(provider, "image", model_id="gpt-image-2.5-flare"),
        "speaker": make_model(provider, "audio", model_id="gpt-4o-mini-tts"),
    }


def test_the_results_are_what_the_contract_names_and_know_more(editor: User, upstream: Upstream) -> None:
    reply = UnifiedAIService.chat(message="Hi", admin=editor)
    assert isinstance(reply, str)
    assert (reply, reply.finish_reason, reply.info.provider) == ("Hello!", "stop", "openai")

    image = UnifiedAIService.generate_image(prompt="A kite", admin=editor)
    assert isinstance(image, BytesIO)
    assert (image.read(), image.content_type) == (answers.png(), "image/png")

    speech = UnifiedAIService.text_to_speech(text="Hello", admin=editor)
    assert isinstance(speech, BytesIO)
    assert (speech.read(), speech.content_type) == (answers.wav(), "audio/wav")

    upstream.send(whole(200, answers.article()))
    article = UnifiedAIService.generate_content(topic="Tea", admin=editor, word_count=100)
    assert isinstance(article, dict)
    assert article == answers.ARTICLE

    models = UnifiedAIService.get_available_models("image", editor)
    assert [(model["model_id"], model["access_state"]) for model in models] == [
        ("gpt-image-2.5-flare", ModelAccessState.AVAILABLE_SHARED)
    ]


def test_arguments_may_be_positional_as_the_contract_writes_them(
    editor: User, models: dict[str, AIModel], upstream: Upstream
) -> None:
    assert UnifiedAIService.chat("Hi", editor, models["writer"].pk) == "Hello!"
    assert UnifiedAIService.chat("Hi", editor, None, "openai") == "Hello!"


@pytest.mark.parametrize("admin", [None, AnonymousUser(), User(username="unsaved", is_staff=True), "visitor"])
def test_without_an_admin_the_call_is_refused(
    admin: Any, request: pytest.FixtureRequest, upstream: Upstream, db: None
) -> None:
    if isinstance(admin, str):
        admin = request.getfixturevalue(admin)
    with pytest.raises(AdminRequired, match="admin=") as refusal:
        UnifiedAIService.chat(message="Hi", admin=admin)
    assert isinstance(refusal.value, ValueError)
    with pytest.raises(AdminRequired):
        UnifiedAIService.get_available_models("chat", admin)
    assert upstream.requests == []


@pytest.mark.parametrize("text", ["", "  ", None, 7])
def test_an_empty_text_is_refused_before_anything_else(text: Any, editor: User) -> None:
    with pytest.raises(InvalidRequest, match="message"):
        UnifiedAIService.chat(message=text, admin=editor)


@pytest.mark.parametrize("history", ["earlier", ["a"], [{"role": "robot", "content": "x"}], [{"role": "user"}]])
def test_a_history_of_another_form_is_refused(history: Any, editor: User) -> None:
    with pytest.raises(InvalidRequest, match="conversation_history"):
        UnifiedAIService.chat(message="Hi", admin=editor, conversation_history=history)


def test_keywords_may_be_one_text_with_commas(editor: User, upstream: Upstream) -> None:
    upstream.send(whole(200, answers.article()))
    UnifiedAIService.generate_content(topic="Tea", admin=editor, keywords="black tea, cups")  # type: ignore[arg-type]
    assert "black tea, cups" in upstream.last.json["messages"][-1]["content"]


def test_wrong_set_up_is_a_value_error(editor: User, provider: AIProvider) -> None:
    with pytest.raises(ValueError, match="no AI model with id 999999999"):
        UnifiedAIService.chat(message="Hi", admin=editor, model_id=999_999_999)
    AIModel.objects.update(is_active=False)
    with pytest.raises(ValueError, match="No active model found for provider 'openai'") as error:
        UnifiedAIService.chat(message="Hi", admin=editor, provider_slug="openai")
    assert isinstance(error.value, NoActiveModel)
    with pytest.raises(ValueError, match="in any provider"):
        UnifiedAIService.chat(message="Hi", admin=editor)
    assert issubclass(ModelNotFound, ValueError)


def test_the_steps_can_be_called_one_by_one(editor: User, provider: AIProvider, models: dict[str, AIModel]) -> None:
    model = UnifiedAIService._get_active_model("chat", "openai")
    assert model == models["writer"]
    assert UnifiedAIService._check_access(model, editor) is ModelAccessState.AVAILABLE_SHARED
    assert UnifiedAIService._get_api_key(provider, editor) == KEY
    instance = UnifiedAIService._get_provider_instance(model, editor)
    assert asyncio.run(UnifiedAIService.execute_async("chat", instance, "Hi", model=model.model_id)) == "Hello!"
    UnifiedAIService._increment_usage(model, editor)
    model.refresh_from_db()
    assert model.total_requests == 1

    AIProvider.objects.update(allow_shared_for_normal_admins=False)
    with pytest.raises(SharedKeyNotAllowed, match="not allowed for normal admins for provider 'Openai'"):
        UnifiedAIService._get_api_key(AIProvider.objects.get(), editor)


def test_what_a_provider_lacks_is_one_clear_error(
    editor: User, make_provider: Callable[..., AIProvider], make_model: MakeModel
) -> None:
    deepseek = make_provider("deepseek", shared_api_key=KEY, allow_shared_for_normal_admins=True)
    painter = make_model(deepseek, "image", model_id="painter")
    with pytest.raises(OperationNotSupported, match="'generate_image' is not supported by provider 'deepseek'"):
        UnifiedAIService.generate_image(prompt="A kite", admin=editor, model_id=painter.pk)


@pytest.mark.django_db(transaction=True)
def test_a_warm_call_asks_the_database_for_nothing_on_its_own_connection(
    editor: User, django_assert_num_queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.core.cache.freshness.BELIEVED_FOR", 60)
    UnifiedAIService.chat(message="Hi", admin=editor)
    with django_assert_num_queries(0):
        UnifiedAIService.chat(message="Hi", admin=editor)


def test_a_change_by_any_statement_is_seen_by_the_next_call(
    editor: User, provider: AIProvider, make_model: MakeModel, upstream: Upstream
) -> None:
    def served() -> str:
        UnifiedAIService.chat(message="Hi", admin=editor)
        return str(upstream.last.json["model"])

    assert served() == "gpt-6-luna"
    AIModel.objects.filter(model_id="gpt-6-luna").update(model_id="renamed")
    assert served() == "renamed"
    make_model(provider, "chat", model_id="next")
    assert served() == "next"
    provider.shared_api_key = "sk-another-0123456789abcdef"
    provider.save()
    served()
    assert upstream.last.headers["authorization"] == "Bearer sk-another-0123456789abcdef"
    AIModel.objects.filter(model_id="next").delete()
    with pytest.raises(NoActiveModel):
        served()


def test_a_change_that_is_rolled_back_is_not_served(editor: User, upstream: Upstream) -> None:
    with transaction.atomic():
        AIModel.objects.filter(model_id="gpt-6-luna").update(model_id="never")
        UnifiedAIService.chat(message="Hi", admin=editor)
        transaction.set_rollback(True)
    UnifiedAIService.chat(message="Hi", admin=editor)
    assert [request.json["model"] for request in upstream.requests] == ["never", "gpt-6-luna"]


# -- streams ----------------------------------------------------------------------------------------------------------

STREAM = events(answers.chunk("Hel"), answers.chunk("lo!"), answers.chunk(None, "stop"))


def test_a_stream_yields_deltas_and_counts_when_it_ends(
    editor: User, models: dict[str, AIModel], upstream: Upstream
) -> None:
    upstream.send(STREAM)
    stream = UnifiedAIService.stream_chat(message="Hi", admin=editor)
    assert list(stream) == ["Hel", "lo!"]
    assert (stream.text, stream.finish_reason, stream.info.provider) == ("Hello!", "stop", "openai")
    models["writer"].refresh_from_db()
    assert models["writer"].total_requests == 1


@pytest.mark.parametrize("patience", [None, 0.01])
def test_a_patient_stream_tells_of_silence_with_empty_texts(
    patience: float | None, editor: User, upstream: Upstream
) -> None:
    gate = Gate()
    upstream.send(Answer(200, [STREAM.parts[0], gate, *STREAM.parts[1:]], STREAM.headers))
    stream = UnifiedAIService.stream_chat(message="Hi", admin=editor)
    assert next(stream) == "Hel"
    stream.patience = patience
    if patience:
        assert [next(stream), next(stream)] == ["", ""]
    gate.open()
    assert [delta for delta in stream if delta] == ["lo!"]
    assert stream.text == "Hello!"


def test_deltas_come_as_the_vendor_sends_them(editor: User, upstream: Upstream) -> None:
    gate = Gate()
    frames = STREAM.parts
    upstream.send(Answer(200, [frames[0], gate, *frames[1:]], STREAM.headers))
    stream = UnifiedAIService.stream_chat(message="Hi", admin=editor)
    assert next(stream) == "Hel"  # while the vendor still holds the rest
    gate.open()
    assert list(stream) == ["lo!"]


def test_closing_a_stream_early_closes_the_vendors_connection_and_counts(
    editor: User, models: dict[str, AIModel], upstream: Upstream
) -> None:
    gate = Gate()
    upstream.send(Answer(200, [STREAM.parts[0], gate, *STREAM.parts[1:]], STREAM.headers))
    stream = UnifiedAIService.stream_chat(message="Hi", admin=editor)
    next(stream)
    stream.close()
    gate.open()
    upstream.wait_for(lambda: upstream.open_connections == 0)
    models["writer"].refresh_from_db()
    assert (stream.text, models["writer"].total_requests) == ("Hel", 1)


def test_a_stream_that_breaks_keeps_what_had_come_and_does_not_count(
    editor: User, models: dict[str, AIModel], upstream: Upstream
) -> None:
    upstream.send(Answer(200, [STREAM.parts[0], CLOSE], STREAM.headers))
    stream = UnifiedAIService.stream_chat(message="Hi", admin=editor)
    assert next(stream) == "Hel"
    with pytest.raises(StreamInterrupted):
        next(stream)
    models["writer"].refresh_from_db()
    assert (stream.text, models["writer"].total_requests) == ("Hel", 0)


def test_a_stream_is_refused_before_it_starts_where_a_call_would_be(editor: User) -> None:
    AIProvider.objects.update(allow_shared_for_normal_admins=False)
    with pytest.raises(SharedKeyNotAllowed):
        UnifiedAIService.stream_chat(message="Hi", admin=editor)


# -- callers of every kind --------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
async def test_the_async_twins_do_the_same(superuser: User, models: dict[str, AIModel], upstream: Upstream) -> None:
    admin = superuser
    assert isinstance(await UnifiedAIService.achat(message="Hi", admin=admin), Reply)
    assert isinstance(await UnifiedAIService.agenerate_image(prompt="A kite", admin=admin), Media)
    assert isinstance(await UnifiedAIService.atext_to_speech(text="Hello", admin=admin), Media)
    upstream.send(whole(200, answers.article()))
    assert isinstance(await UnifiedAIService.agenerate_content(topic="Tea", admin=admin), Article)
    assert len(await UnifiedAIService.aget_available_models("chat", admin)) == 1
    upstream.send(STREAM)
    stream = UnifiedAIService.astream_chat(message="Hi", admin=admin)
    assert [delta async for delta in stream] == ["Hel", "lo!"]
    assert (stream.finish_reason, stream.info.model_pk) == ("stop", models["writer"].pk)
    await models["writer"].arefresh_from_db()
    assert models["writer"].total_requests == 3  # chat, content, stream


@pytest.mark.django_db(transaction=True)
async def test_an_async_stream_that_is_left_closes_the_vendors_connection(
    superuser: User, models: dict[str, AIModel], upstream: Upstream
) -> None:
    gate = Gate()
    upstream.send(Answer(200, [STREAM.parts[0], gate, *STREAM.parts[1:]], STREAM.headers))
    stream = UnifiedAIService.astream_chat(message="Hi", admin=superuser)
    assert await anext(stream) == "Hel"
    await stream.aclose()
    gate.open()
    await asyncio.to_thread(upstream.wait_for, lambda: upstream.open_connections == 0)
    await models["writer"].arefresh_from_db()
    assert models["writer"].total_requests == 1


@pytest.mark.django_db(transaction=True)
async def test_a_warm_asynchronous_call_waits_for_no_thread(superuser: User, upstream: Upstream) -> None:
    async def calls() -> list[str]:
        upstream.send(whole(200, answers.chat("Hello!")), STREAM)
        reply = await UnifiedAIService.achat(message="Hi", admin=superuser)
        return [reply, *[text async for text in UnifiedAIService.astream_chat(message="Hi", admin=superuser)]]

    for _ in range(5):  # a machine that stands still for a second makes a call cold again
        warmed, go_on = await calls(), Event()
        occupied = asyncio.create_task(sync_to_async(go_on.wait)(30))  # the thread of all synchronous code
        waiting = asyncio.create_task(calls())
        done, _others = await asyncio.wait((waiting,), timeout=5)
        go_on.set()
        assert await occupied
        assert await waiting == warmed == ["Hello!", "Hel", "lo!"]
        if done:
            return
    raise AssertionError("each call waited for a thread")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("kind", ["lazy", "deferred"])
async def test_an_admin_who_has_to_be_read_first_is_read_in_a_thread(superuser: User, kind: str) -> None:
    for _ in range(2):
        await UnifiedAIService.achat(message="Hi", admin=superuser)
        partial = await User.objects.only("pk").aget(pk=superuser.pk)
        unread = SimpleLazyObject(lambda: User.objects.get(pk=superuser.pk))
        admin = cast(User, unread) if kind == "lazy" else partial
        assert await UnifiedAIService.achat(message="Hi", admin=admin) == "Hello!"


def test_async_code_that_sync_code_runs_stays_in_its_transaction(
    editor: User, models: dict[str, AIModel], upstream: Upstream
) -> None:
    async def call() -> list[str]:
        async with asyncio.timeout(10):
            await UnifiedAIService.achat(message="Hi", admin=editor)
            return [delta async for delta in UnifiedAIService.astream_chat(message="Hi", admin=editor)]

    upstream.send(whole(200, answers.chat("Hello!")), STREAM)
    assert async_to_sync(call)() == ["Hel", "lo!"]
    models["writer"].refresh_from_db()
    assert models["writer"].total_requests == 2


async def test_a_synchronous_call_in_async_code_is_refused_with_the_way_out(db: None) -> None:
    with pytest.raises(SyncCallInAsyncCode, match="'a' in front"):
        UnifiedAIService.chat(message="Hi", admin=User(pk=1))
    with pytest.raises(SyncCallInAsyncCode):
        UnifiedAIService.stream_chat(message="Hi", admin=User(pk=1))


async def reply_of_an_async_view(request: HttpRequest) -> JsonResponse:
    admin = await User.objects.aget(username="admin")
    return JsonResponse({"reply": await UnifiedAIService.achat(message="Hi", admin=admin)})


urlpatterns = [path("async-view", reply_of_an_async_view)]


@pytest.mark.django_db(transaction=True)
@override_settings(ROOT_URLCONF=__name__)
async def test_an_async_view_can_await_it(superuser: User) -> None:
    response = await AsyncClient().get("/async-view")
    assert response.json() == {"reply": "Hello!"}


@pytest.mark.django_db(transaction=True)
def test_eight_threads_share_at_most_eight_connections(superuser: User, upstream: Upstream) -> None:
    def call(_: int) -> str:
        try:
            return UnifiedAIService.chat(message="Hi", admin=superuser)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(call, range(40))) == ["Hello!"] * 40
    assert len(upstream.requests) == 40
    assert upstream.connections <= 8


def test_one_caller_uses_one_connection(editor: User, upstream: Upstream) -> None:
    for _ in range(20):
        UnifiedAIService.chat(message="Hi", admin=editor)
    assert upstream.connections == 1


def work_after_fork(admin_pk: int, outcome: Any) -> None:
    connections.close_all()
    outcome.put(str(UnifiedAIService.chat(message="Hi", admin=User.objects.get(pk=admin_pk))))
    connections.close_all()


@pytest.mark.django_db(transaction=True)
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_worker_forked_after_use_works_on(superuser: User, upstream: Upstream) -> None:
    assert UnifiedAIService.chat(message="Hi", admin=superuser) == "Hello!"  # pool and loop exist before the fork
    connections.close_all()
    context = multiprocessing.get_context("fork")
    outcome: Any = context.Queue()
    worker = context.Process(target=work_after_fork, args=(superuser.pk, outcome))
    worker.start()
    assert outcome.get(timeout=20) == "Hello!"
    worker.join(20)
    assert worker.exitcode == 0
    assert UnifiedAIService.chat(message="Hi", admin=superuser) == "Hello!"
    assert len({request.connection for request in upstream.requests}) == 2


def test_a_vendor_that_is_down_is_named(editor: User, provider: AIProvider) -> None:
    provider.api_base_url = "http://127.0.0.1:1/v1"
    provider.save()
    with pytest.raises(ProviderUnavailable, match="openai") as error:
        UnifiedAIService.chat(message="Hi", admin=editor)
    assert isinstance(error.value, ConnectionError)
