"""Streams through both doors: the vendor's bytes, their end, and what goes wrong in between."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from src.ai.asgi import ASGIResponder
from src.ai.models import AIModel, AIProvider, UsageRecord
from src.ai.services.gateway import keep_alive, passing
from tests.gateway.conftest import HELLO, Vendor, in_pieces, sample
from tests.ledger.processes import until
from tests.upstream.server import CLOSE, HANG, RESET, Gate, Reply, Upstream, events, whole
from tests.vendor_answers import chat, chunk

ASKED = {"model": "chat", "messages": HELLO, "stream": True}
WITH_USAGE = {**ASKED, "stream_options": {"include_usage": True}}
EVENT_STREAM = {"content-type": "text/event-stream"}
SENT = {
    "openai": ("openai_chat_stream", (78, 9)),
    "gemini": ("openrouter_chat_stream", (43, 36)),  # its layer that speaks OpenAI's form counts in each chunk, too
    "groq": ("groq_chat_stream_reasoning_parsed", (573, 1509)),
    "huggingface": ("huggingface_chat_stream_with_think", (10, 955)),
    "deepseek": ("deepseek_chat_stream_thinking", (6, 212)),
    "openrouter": ("openrouter_chat_stream", (43, 36)),
}
Settled = Callable[[], UsageRecord]


def told(response: httpx.Response) -> list[Any]:
    """The data of each event; a comment is its text."""
    found: list[Any] = []
    for line in response.text.splitlines():
        if line.startswith("data: "):
            found.append(line[6:] if line.endswith("[DONE]") else json.loads(line[6:]))
        elif line.startswith(":"):
            found.append(line)
    return found


@pytest.fixture
def quick_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep_alive, "KEEP_ALIVE_AFTER", 0.02)


@pytest.mark.usefixtures("chat_model")
def test_a_stream_that_has_ended_leaves_no_garbage_to_collect(http: httpx.Client, upstream: Upstream) -> None:
    def left() -> list[object]:
        return [found for found in gc.get_objects() if type(found) in (ASGIResponder, passing.Passage)]

    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            upstream.send(events(chunk("Hello!"), chunk(None, "stop")))
            assert http.post("/chat/completions", json=ASKED).status_code == 200
        until(lambda: not left())
    finally:
        gc.enable()


# -- the vendor's bytes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("windows", [False, True], ids=["lf", "crlf"])
@pytest.mark.parametrize("size", [7, 1 << 20])
def test_every_vendors_stream_comes_byte_for_byte_and_is_counted(
    windows: bool, size: int, http: httpx.Client, upstream: Upstream, vendor: Vendor, settled: Settled
) -> None:
    name, usage = SENT[vendor.slug]
    content = sample(name).replace(b"\n", b"\r\n") if windows else sample(name)
    upstream.send(in_pieces(content, size))
    response = http.post("/chat/completions", json={**WITH_USAGE, "model": f"{vendor.slug}/{vendor.model}"})
    assert (response.status_code, response.content) == (200, content)
    assert response.headers["content-type"] == "text/event-stream"
    assert (response.headers["cache-control"], response.headers["x-accel-buffering"]) == ("no-cache", "no")
    assert upstream.last.path == vendor.chat
    assert upstream.last.headers["authorization"] == "Bearer sk-0123456789abcdef"
    assert upstream.last.json == {**WITH_USAGE, "model": vendor.model}
    record = settled()
    assert (record.state, record.input_tokens, record.output_tokens) == ("settled", *usage)
    assert (record.streamed, record.finish_reason, record.provider_slug) == (True, "stop", vendor.slug)


def test_who_does_not_ask_for_the_count_gets_no_event_without_choices(
    client: openai.OpenAI, upstream: Upstream, chat_model: AIModel, settled: Settled
) -> None:
    upstream.send(in_pieces(sample("openai_chat_stream"), 100))
    with client.chat.completions.create(model="chat", messages=HELLO, stream=True) as stream:
        assert all(one.choices for one in stream)
    assert settled().output_tokens == 9


@pytest.mark.usefixtures("chat_model")
async def test_the_asynchronous_client_streams_too(site: str, token: str, upstream: Upstream) -> None:
    upstream.send(in_pieces(sample("openai_chat_stream"), 100))
    async with openai.AsyncOpenAI(base_url=f"{site}/v1", api_key=token, max_retries=0) as client:
        asked = {"model": "chat", "messages": HELLO, "stream_options": {"include_usage": True}}
        stream = await client.chat.completions.create(**asked, stream=True)
        chunks = [one async for one in stream]
    assert chunks[-1].usage is not None
    assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], 87)


@pytest.mark.usefixtures("chat_model")
def test_an_event_arrives_before_the_vendor_has_finished(client: openai.OpenAI, upstream: Upstream) -> None:
    gate = Gate()
    upstream.send(events(chunk("Hel"), gate, chunk("lo"), chunk(None, "stop")))
    with client.chat.completions.create(model="chat", messages=HELLO, stream=True) as stream:
        assert next(stream).choices[0].delta.content == "Hel"
        gate.wait_until_reached()
        gate.open()
        assert [one.choices[0].delta.content for one in stream] == ["lo", None]


@pytest.mark.usefixtures("chat_model")
def test_a_vendor_that_answers_at_once_though_a_stream_was_asked_for(http: httpx.Client, upstream: Upstream) -> None:
    upstream.reply(200, chat("Hi!"))
    response = http.post("/chat/completions", json=ASKED)
    assert (response.headers["content-type"], response.json()) == ("application/json", chat("Hi!"))


def test_tools_in_a_stream(client: openai.OpenAI, upstream: Upstream, chat_model: AIModel) -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "rain", "arguments": ""}}
    first, second, last = chunk(None), chunk(None), chunk(None, "tool_calls")
    first["choices"][0]["delta"] = {"role": "assistant", "content": None, "tool_calls": [call]}
    more = {"index": 0, "function": {"arguments": '{"city": "Shiraz"}'}}
    second["choices"][0]["delta"] = {"tool_calls": [more]}
    upstream.send(events(first, second, last))
    tools: Any = [{"type": "function", "function": {"name": "rain", "parameters": {"type": "object"}}}]
    with client.chat.completions.stream(model="chat", messages=HELLO, tools=tools) as stream:
        message = stream.get_final_completion().choices[0].message
    assert upstream.last.json["tools"] == tools
    assert message.tool_calls is not None
    assert message.tool_calls[0].function.arguments == '{"city": "Shiraz"}'


def test_images_stream_as_they_are_made(
    client: openai.OpenAI,
    upstream: Upstream,
    provider: AIProvider,
    make_model: Callable[..., AIModel],
    settled: Settled,
) -> None:
    make_model(provider, "image", model_id="gpt-image-2", pricing_input=0, pricing_output=1_000_000)
    upstream.send(in_pieces(sample("openai_image_stream"), 33))
    stream = client.images.generate(model="image", prompt="A kite", stream=True, partial_images=1)
    assert [event.type for event in stream] == ["image_generation.partial_image", "image_generation.completed"]
    assert upstream.last.json == {"model": "gpt-image-2", "prompt": "A kite", "stream": True, "partial_images": 1}
    record = settled()
    assert (record.state, record.images, record.output_tokens, record.cost) == ("settled", 1, 50, 50)


# -- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("chat_model")
@pytest.mark.parametrize("name", ["groq_chat_stream_error", "openrouter_chat_stream_error"])
def test_a_vendors_own_error_event_goes_through_and_the_client_raises_it(
    name: str, http: httpx.Client, client: openai.OpenAI, upstream: Upstream, settled: Settled
) -> None:
    upstream.send(in_pieces(sample(name), 50), in_pieces(sample(name), 50))
    response = http.post("/chat/completions", json=WITH_USAGE)
    assert response.content == sample(name)
    assert settled().state == "failed"
    with pytest.raises(openai.APIError) as caught, client.chat.completions.create(**ASKED) as stream:
        list(stream)
    assert caught.value.message


@pytest.mark.usefixtures("chat_model")
@pytest.mark.parametrize("ending", [(), (CLOSE,), (RESET,), (b'data: {"choices":[{"del', CLOSE)])
def test_a_stream_that_is_cut_ends_with_an_event_that_says_so(
    ending: tuple[Any, ...], http: httpx.Client, upstream: Upstream, settled: Settled
) -> None:
    upstream.send(events(chunk("Hel"), *ending, done=False))
    response = http.post("/chat/completions", json=ASKED)
    assert response.status_code == 200
    *_, last = response.text.strip().split("\n\n")
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (error["code"], error["type"], error["param"]) == ("stream_interrupted", "server_error", None)
    assert "openai" in error["message"].lower()
    record = settled()
    assert (record.state, record.error_code, record.cost_state) == ("failed", "stream_interrupted", "estimated")
    assert record.cost == 1


@pytest.mark.usefixtures("chat_model")
def test_the_client_raises_where_a_stream_is_cut(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.send(events(chunk("Hel"), CLOSE, done=False))
    with client.chat.completions.create(model="chat", messages=HELLO, stream=True) as stream:
        assert next(stream).choices[0].delta.content == "Hel"
        with pytest.raises(openai.APIError) as caught:
            next(stream)
    assert caught.value.code == "stream_interrupted"


@pytest.mark.usefixtures("chat_model")
def test_a_vendor_that_falls_silent_within_a_stream(
    http: httpx.Client, upstream: Upstream, settings: Any, settled: Settled
) -> None:
    settings.AI_TIMEOUT_FIRST_BYTE = 0.3
    upstream.send(events(chunk("Hel"), HANG))
    response = http.post("/chat/completions", json=ASKED)
    assert told(response)[-1]["error"]["code"] == "stream_interrupted"
    assert settled().error_code == "stream_interrupted"
    upstream.wait_for(lambda: upstream.open_connections == 0)


@pytest.mark.usefixtures("chat_model")
@pytest.mark.parametrize(("status", "raised"), [(429, openai.RateLimitError), (400, openai.BadRequestError)])
def test_what_goes_wrong_before_the_first_byte_has_a_status_of_its_own(
    status: int, raised: type[openai.APIStatusError], client: openai.OpenAI, upstream: Upstream
) -> None:
    error = {"message": "no", "type": "t", "param": None, "code": "c"}
    upstream.reply(status, {"error": error}, headers={"retry-after": "30"})
    with pytest.raises(raised) as caught:
        client.chat.completions.create(model="chat", messages=HELLO, stream=True)
    assert caught.value.body == error


@pytest.mark.usefixtures("chat_model")
def test_half_a_surrogate_pair_in_a_vendors_error_is_no_error_of_ours(http: httpx.Client, upstream: Upstream) -> None:
    broken = b'{"error": {"message": "\\ud83d no", "code": 400}}'
    upstream.reply(400, broken.decode(), content_type="application/json")
    assert http.post("/chat/completions", json=ASKED).status_code == 400
    upstream.send(events(chunk("a"), b"data: " + broken + b"\n\n", done=False))
    assert http.post("/chat/completions", json=ASKED).text.endswith(broken.decode() + "\n\n")


# -- silence -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("chat_model", "quick_comments")
def test_a_silent_line_is_kept_open_by_comments_and_never_within_an_event(
    client: openai.OpenAI, http: httpx.Client, upstream: Upstream
) -> None:
    first, second = Gate(), Gate()
    event = events(chunk("lo"), done=False).parts[0]
    assert isinstance(event, bytes)
    upstream.send(events(chunk("Hel"), first, event[:20], second, event[20:], chunk(None, "stop")))
    text = ""
    with http.stream("POST", "/chat/completions", json=WITH_USAGE) as response:
        for piece in response.iter_text():
            text += piece
            if text.count(": keep-alive\n\n") == 3:
                first.open()
            if second._reached.is_set():
                threading.Timer(0.1, second.open).start()
    assert (
        text.replace(": keep-alive\n\n", "")
        == b"".join(events(chunk("Hel"), chunk("lo"), chunk(None, "stop")).parts).decode()
    )  # type: ignore[arg-type]
    assert text.count(": keep-alive\n\n") >= 3


# -- who leaves ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("chat_model", "quick_comments")
def test_who_leaves_within_a_stream_ends_the_vendors_and_pays_for_what_had_come(
    http: httpx.Client, upstream: Upstream, settled: Settled
) -> None:
    upstream.send(events(chunk("Hel"), HANG))
    with http.stream("POST", "/chat/completions", json=ASKED) as response:
        assert "Hel" in next(response.iter_lines())
    upstream.wait_for(lambda: upstream.open_connections == 0)
    record = settled()
    assert (record.state, record.error_code, record.cost_state) == ("settled", "client_disconnected", "estimated")
    assert record.cost == 1


@pytest.mark.usefixtures("chat_model")
@pytest.mark.parametrize("door", ["uvicorn", "asgi"], indirect=True)
def test_who_leaves_before_the_first_byte_ends_the_vendors_work(
    http: httpx.Client, upstream: Upstream, settled: Settled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WSGI does not tell whether a client is still there before something is written."""
    monkeypatch.setattr(passing, "WATCH_AFTER", 0.01)
    upstream.send(Reply(200, before=[HANG]))
    with pytest.raises(httpx.ReadTimeout):
        http.post("/chat/completions", json=ASKED, timeout=httpx.Timeout(10, read=0.5))
    upstream.wait_for(lambda: upstream.open_connections == 0)
    record = settled()
    assert (record.state, record.error_code, record.requests) == ("failed", "client_disconnected", 0)


@pytest.mark.usefixtures("chat_model")
def test_a_reader_who_takes_his_time_gets_it_all(http: httpx.Client, upstream: Upstream, settled: Settled) -> None:
    text = "x" * 2_000
    upstream.send(events(*[chunk(text)] * 1_000, chunk(None, "stop")))
    size = 0
    with http.stream("POST", "/chat/completions", json=ASKED) as response:
        for line in response.iter_lines():
            size += len(line.rpartition('"content": "')[2].partition('"')[0]) if "content" in line else 0
    assert size == 2_000_000
    assert settled().state == "settled"


def test_a_stream_that_nobody_asked_to_be_one(http: httpx.Client, upstream: Upstream, chat_model: AIModel) -> None:
    """A page in the place of an answer is no stream."""
    upstream.send(whole(200, "<html><title>Gateway</title></html>", content_type="text/html"))
    response = http.post("/chat/completions", json=ASKED)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "provider_invalid_response")
