"""Server-sent events out of bytes (WHATWG HTML §9.2), however they are cut."""

from __future__ import annotations

from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.ai.providers import sse
from src.ai.providers.sse import Event, EventDecoder
from src.core.http import BodyTooLarge

CASES = {
    "one event": (b"data: a\n\n", [Event("a")]),
    "no space after the colon": (b"data:a\n\n", [Event("a")]),
    "only one space belongs to the colon": (b"data:  a\n\n", [Event(" a")]),
    "a field without a colon": (b"data\n\n", [Event("")]),
    "several lines of data": (b"data: a\ndata: b\n\n", [Event("a\nb")]),
    "a name, for its own event only": (b"event: error\ndata: a\n\ndata: b\n\n", [Event("a", "error"), Event("b")]),
    "a name without data": (b"event: ping\n\ndata: a\n\n", [Event("a")]),
    "comments": (b": OPENROUTER PROCESSING\n\n:\n\n: keep-alive\ndata: a\n\n", [Event("a")]),
    "unknown fields": (b"id: 7\nretry: 5\nother: x\ndata: a\n\n", [Event("a")]),
    "carriage returns and line feeds": (b"data: a\r\n\r\ndata: b\r\n\r\n", [Event("a"), Event("b")]),
    "carriage returns alone": (b"data: a\r\rdata: b\r\r", [Event("a"), Event("b")]),
    "all three ends of a line": (b"data: a\r\ndata: b\rdata: c\n\r\n", [Event("a\nb\nc")]),
    "a last event without its empty line": (b"data: a\n\ndata: b", [Event("a"), Event("b")]),
    "a byte order mark": (b"\xef\xbb\xbfdata: a\n\n", [Event("a")]),
    "letters of several bytes": ("data: سلام 🙂\n\n".encode(), [Event("سلام 🙂")]),
    "a character that separates lines elsewhere": (
        "data: a\u2028b\x0cc\x85\n\n".encode(),
        [Event("a\u2028b\x0cc\x85")],
    ),
    "broken UTF-8": (b"data: a\xffb\n\n", [Event("a\ufffdb")]),
    "nothing": (b"", []),
    "empty lines": (b"\n\n\r\n\r\r", []),
}


def decoded(*parts: bytes) -> list[Event]:
    decoder = EventDecoder()
    return [*(event for part in parts for event in decoder.feed(part)), *decoder.finish()]


@pytest.mark.parametrize("case", CASES)
def test_point_10_events_are_read_as_the_standard_says(case: str) -> None:
    stream, events = CASES[case]
    assert decoded(stream) == events


@pytest.mark.parametrize("case", CASES)
def test_point_10_events_may_be_split_over_reads_anywhere(case: str) -> None:
    stream, events = CASES[case]
    for cut in range(len(stream) + 1):
        assert decoded(stream[:cut], stream[cut:]) == events
    assert decoded(*(bytes([byte]) for byte in stream)) == events


@given(st.lists(st.binary(max_size=12) | st.sampled_from([b"data: ", b"\r", b"\n", b"\r\n", b"event: e", b":"])))
def test_any_bytes_give_the_same_events_however_they_are_cut(parts: list[bytes]) -> None:
    assert decoded(*parts) == decoded(b"".join(parts))


def test_an_event_is_there_as_soon_as_its_empty_line_is() -> None:
    for line_end in (b"\n", b"\r", b"\r\n"):
        assert list(EventDecoder().feed(b"data: a" + line_end * 2)) == [Event("a")]


@pytest.mark.parametrize("part", [b"x" * 1000, b": x\n" * 250, b"data: x\n" * 125, b"\n" * 1000])
def test_an_event_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch, part: bytes) -> None:
    monkeypatch.setattr(sse, "EVENT_LIMIT", 10_000)
    decoder = EventDecoder()
    with pytest.raises(BodyTooLarge):
        [list(decoder.feed(part)) for _ in range(100)]


def test_the_limit_is_of_one_event_not_of_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "EVENT_LIMIT", 100)
    assert decoded(b"data: a\n\n" * 1000, b"data: b\n\n" * 1000) == [Event("a")] * 1000 + [Event("b")] * 1000


def test_a_line_of_megabytes_does_not_hold_the_loop() -> None:
    decoder = EventDecoder()
    started = process_time()
    for _ in range(15 * 16):
        list(decoder.feed(b"x" * 65536))
    assert process_time() - started < 1
