"""What is read out of answers and errors of any shape: pure functions."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.ai.exceptions import ProviderBadRequest, ProviderRateLimited
from src.ai.providers import errors
from src.ai.providers.errors import Call
from src.ai.providers.openai_format import Part, parse_chat, parse_decimal
from src.ai.providers.payload import read_json
from src.ai.results import Usage
from tests.providers.answers import chunk, completion

CALL = Call("openai", "chat", "sk-proj-0123456789abcdefghijklmn", "gpt-6-luna")
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
UNREADABLE = (ValueError, KeyError, TypeError, IndexError, AttributeError)

# -- JSON --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b'\n\n\n  {"a": 1}\n', {"a": 1}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        ('"سلام 🙂"'.encode(), "سلام 🙂"),
        (rb'"\ud83d\ude42"', "🙂"),
        (rb'"\uD83D\uDE42 \ud83d"', "🙂 \ufffd"),
        (rb'"\ude42\ud83d"', "\ufffd\ufffd"),
        (rb'"\ud83d\ud83d\ude42"', "\ufffd🙂"),
        (rb'"\\ud83d"', r"\ud83d"),
        (rb'"\\\ud83d"', "\\\ufffd"),
        (b'"a\xffb"', "a\ufffdb"),
        (b'"\xed\xa0\xbd"', "\ufffd\ufffd\ufffd"),
    ],
)
def test_json_is_read_as_text_that_can_be_passed_on(sent: bytes, read: Any) -> None:
    assert read_json(sent) == read


@given(st.text(st.characters(codec=None)) | st.text("\\ud83DeEC042 \ud83d\ude42"))
def test_no_text_out_of_json_breaks_an_answer_of_ours(text: str) -> None:
    for sent in (json.dumps(text), f'"{text}"', json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass")):
        try:
            read = read_json(sent)
        except ValueError:
            continue
        if isinstance(sent, bytes) or sent.isascii():
            str(read).encode()


@pytest.mark.parametrize(
    "sent", [b"", b"nonsense", b'{"a": 1', b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"<p>"]
)
def test_what_is_no_json_is_a_value_error(sent: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (json's own text)
        read_json(sent)


# -- answers -----------------------------------------------------------------------------------------------------------


def positions(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in `data` something could be different."""
    items: Any = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(found for key, value in items for found in positions(value, (*path, key)))]


def replaced(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = data.copy()
    copy[path[0]] = replaced(data[path[0]], path[1:], value)
    return copy


USAGE = {
    "prompt_tokens": 1,
    "prompt_tokens_details": {"cached_tokens": 1},
    "completion_tokens_details": {"reasoning_tokens": 1},
    "cost": 0.5,
}
ANSWERS = [
    completion("Hello", usage=USAGE, message={"refusal": "no", "reasoning": "x"}),
    chunk("Hello", usage=USAGE, x_groq={"usage": USAGE}, delta={"content": [{"type": "text", "text": "Hello"}]}),
]


@given(st.data())
def test_a_chat_completion_of_any_shape_is_read_or_refused(data: st.DataObject) -> None:
    answer = data.draw(st.sampled_from(ANSWERS))
    answer = replaced(answer, data.draw(st.sampled_from(positions(answer))), data.draw(ANYTHING))
    try:
        part = parse_chat(answer)
    except UNREADABLE:
        return
    assert [type(part.text), type(part.refusal)] == [str, str]
    for fact in (part.finish_reason, part.model, part.response_id):
        assert fact is None or (type(fact) is str and fact)
    for number in (*vars_of(part.usage), part.cost):
        assert number is None or (number >= 0 and Decimal(number).is_finite())


def vars_of(usage: Usage | None) -> list[Any]:
    return [getattr(usage, name) for name in Usage.__slots__] if usage else []


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage(input_tokens=0, output_tokens=0)),
        ({"prompt_tokens": 3.0}, Usage(input_tokens=3)),
        ({"prompt_tokens": -1}, None),
        ({"prompt_tokens": True}, None),
        ({"prompt_tokens": "12"}, None),
        ({"prompt_tokens": float("inf"), "completion_tokens": float("nan")}, None),
        ({"prompt_tokens": None, "input_tokens": 5}, Usage(input_tokens=5)),
        ({}, None),
        ([], None),
        ("lots", None),
    ],
)
def test_point_09_what_a_vendor_does_not_say_of_usage_stays_unknown(sent: Any, read: Usage | None) -> None:
    assert parse_chat({"choices": [], "usage": sent}).usage == read


@pytest.mark.parametrize(
    "place",
    [
        {"choices": [], "usage": {"prompt_tokens": 12}},
        {"usage": {"prompt_tokens": 12}},
        chunk("Hello", usage={"prompt_tokens": 12}),
        chunk(finish="stop", x_groq={"id": "req", "usage": {"prompt_tokens": 12}}),
    ],
    ids=["no choice", "no choices", "beside a choice", "x_groq"],
)
def test_point_09_usage_is_read_from_any_chunk(place: dict[str, Any]) -> None:
    assert parse_chat(place).usage == Usage(input_tokens=12)


@pytest.mark.parametrize(
    ("sent", "price"),
    [
        ("0.00000015", Decimal("0.00000015")),
        (0.79, Decimal("0.79")),
        ("0", Decimal(0)),
        (0, Decimal(0)),
        ("-1", None),
        (-1, None),
        ("", None),
        ("free", None),
        (None, None),
        (True, None),
        ("NaN", None),
        (float("inf"), None),
        ([], None),
    ],
)
def test_point_13_prices_are_decimals_and_varying_ones_unknown(sent: Any, price: Decimal | None) -> None:
    assert parse_decimal(sent) == price


# -- errors ------------------------------------------------------------------------------------------------------------


@given(ANYTHING, st.sampled_from([400, 401, 403, 404, 422, 429, 500, 503]))
def test_an_error_of_any_shape_is_an_error_of_ours(body: Any, status: int) -> None:
    for data in (body, {"error": body}, {"error": {"message": "x", "details": body}}, {"error": {"metadata": body}}):
        error = errors.from_response(CALL, status, {}, json.dumps(data).encode())
        str(error).encode()
        assert errors.from_body(CALL, data, {}).provider == "openai"


KEY_SHAPES = ["{}", "Bearer {}", "key={};", '"{}"', "sk-proj-****************klmn", "****klmn", "sk-...*****klmn"]


@given(st.lists(st.sampled_from([*KEY_SHAPES, " ", "\n" * 400, "word " * 90, "*", "é" * 300]), max_size=30))
def test_no_part_of_a_key_is_shown_wherever_it_stands(pieces: list[str]) -> None:
    text = "".join(pieces).format(*[CALL.api_key] * len(pieces))
    shown = str(errors.from_response(CALL, 500, {}, text.encode()))
    assert "0123" not in shown
    assert "klmn" not in shown


@pytest.mark.parametrize(
    "text",
    [
        "a" * 65536,
        "model " * 10_000,
        "<title>" * 9_000,
        "*" * 65536,
        "a*" * 30_000,
        "sk-" * 20_000,
        "retry in 9" * 6_000,
    ],
    ids=["letters", "models", "titles", "stars", "masks", "keys", "waits"],
)
@pytest.mark.parametrize("form", ["{}", '{{"error": {{"message": "{}", "param": "model"}}}}'], ids=["bare", "json"])
def test_a_long_error_does_not_hold_the_loop(text: str, form: str) -> None:
    started = process_time()
    error = errors.from_response(CALL, 400, {}, form.format(text).encode())
    assert process_time() - started < 0.3
    assert len(str(error)) < 700


def test_an_error_is_one_line_without_control_characters() -> None:
    error = errors.from_response(CALL, 500, {}, b"first\r\n\x1b[31msecond\x00\tthird")
    assert str(error).endswith(": first [31msecond third")


@pytest.mark.parametrize(
    ("status", "headers", "message", "seconds"),
    [
        (429, {"retry-after": "7"}, "", 7),
        (429, {"retry-after": " 1.5 "}, "", 1.5),
        (429, {"retry-after": "0"}, "", 0),
        (429, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, "", 0),
        (429, {"retry-after": "Wed, 21 Oct 2015 07:28:00"}, "", 0),
        (429, {"retry-after": "7", "retry-after-ms": "61500"}, "", 61.5),
        (429, {"retry-after": "7", "retry-after-ms": "soon"}, "", 7),
        (429, {}, "Please try again in 21m6.5s.", 1266.5),
        (429, {}, "Retry in 120ms", 0.12),
        (429, {}, "Try again in 1h2m3s", 3723),
        (429, {"retry-after": "7"}, "Please try again in 20s.", 7),
        (429, {"retry-after": "later"}, "Please try again in 20s.", 20),
        (503, {"retry-after": "7"}, "", 7),
        (500, {"retry-after": "7"}, "", None),  # the Hub sends it on every answer
        (429, {}, "Slow down.", None),
        *(
            (429, {"retry-after": odd}, "", None)
            for odd in ("nan", "inf", "-inf", "1e400", "-5", "1_0", "٣", "9" * 400)
        ),
        *((429, {"retry-after-ms": odd}, "", None) for odd in ("nan", "inf", "-5")),
        (429, {}, f"Try again in {'9' * 400}s", None),
    ],
)
def test_how_long_to_wait_is_read_in_every_form(
    status: int, headers: dict[str, str], message: str, seconds: float | None
) -> None:
    error = errors.from_response(CALL, status, headers, json.dumps({"error": {"message": message}}).encode())
    assert error.retry_after == seconds


def test_a_date_to_wait_for_is_seconds_from_now() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True)
    error = errors.from_response(CALL, 429, {"retry-after": later}, b"")
    assert error.retry_after == pytest.approx(600, abs=30)


def test_googles_retry_delay_is_read_too() -> None:
    body = {"error": {"code": 429, "message": "quota", "details": [{"@type": "RetryInfo", "retryDelay": "23.5s"}]}}
    error = errors.from_response(CALL, 429, {}, json.dumps(body).encode())
    assert (type(error), error.retry_after) == (ProviderRateLimited, 23.5)


def test_point_11_a_pause_is_looked_for_in_refusals_only() -> None:
    assert errors.from_response(CALL, 400, {"retry-after": "7"}, b"").retry_after is None
    assert type(errors.from_response(CALL, 400, {"retry-after": "7"}, b"")) is ProviderBadRequest


def test_a_part_of_nothing_says_nothing() -> None:
    assert parse_chat({"choices": []}) == Part()
