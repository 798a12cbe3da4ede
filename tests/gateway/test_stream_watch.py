"""What is read of a stream that passes through: the same, in whatever pieces it comes."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.ai.services.gateway import streams
from src.ai.services.gateway.streams import StreamWatch
from tests.gateway.conftest import SAMPLES, sample
from tests.vendor_answers import chunk

USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
ONLY_USAGE = {**chunk(None), "choices": [], "usage": USAGE}
PARTS: list[dict[str, Any] | bytes] = [
    chunk("Hel"),
    chunk("سلام"),
    chunk(None, "stop"),
    {**chunk("x"), "usage": {"prompt_tokens": 5, "completion_tokens": 1}},
    {**chunk(None), "x_groq": {"id": "r", "usage": {"prompt_tokens": 1, "completion_tokens": 7}}},
    {**chunk(None), "choices": [], "prompt_filter_results": []},
    {**chunk('"choices":[] "usage"')},
    {**chunk("y" * 20_000)},
    {"error": {"message": "no", "code": 502}, "choices": []},
    b": OPENROUTER PROCESSING",
    b"event: ping\ndata: {}",
    b"data: {broken",
    b"data: [1]",
    b"data: [DONE]",
    b"",
]
ENDS = [b"\n\n", b"\r\n\r\n"]


def framed(part: dict[str, Any] | bytes, *, compact: bool = True) -> bytes:
    if isinstance(part, bytes):
        return part
    separators = (",", ":") if compact else None
    return b"data: " + json.dumps(part, ensure_ascii=False, separators=separators).encode()


def cut(content: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({0, len(content), *(place % (len(content) + 1) for place in places)})
    return [content[start:end] for start, end in pairwise(ends)]


def watched(pieces: list[bytes], *, hides_usage: bool) -> tuple[bytes, Any]:
    """What is passed on, and all that is known at the end."""
    watch = StreamWatch(hides_usage=hides_usage, keeps_text=True)
    passed = b"".join([*map(watch.feed, pieces), watch.finish()])
    return passed, (watch.info, watch.error, watch.is_complete, watch.text, watch.guess(400), watch.is_whole)


events = st.lists(
    st.tuples(st.sampled_from(range(len(PARTS) + 1)), st.sampled_from(ENDS), st.booleans()), min_size=1, max_size=12
)
places = st.lists(st.integers(0, 1 << 20), max_size=30)


@settings(max_examples=120, deadline=None)
@given(events, places, st.booleans(), st.sampled_from([1, 64, 1 << 20]))
def test_pieces_make_no_difference(
    chosen: list[tuple[int, bytes, bool]], places: list[int], ends_whole: bool, read_after: int
) -> None:
    kept, everything = b"", b""
    for number, (index, end, compact) in enumerate(chosen):
        is_usage = index == len(PARTS)
        event = framed(ONLY_USAGE if is_usage else PARTS[index], compact=compact)
        end = end if ends_whole or number < len(chosen) - 1 else b""
        everything += event + end
        kept += event + end if not is_usage or not end else b""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "READ_AFTER", read_after)
        for hides, expected in ((True, kept), (False, everything)):
            at_once = watched([everything], hides_usage=hides)
            assert at_once[0] == expected
            assert watched(cut(everything, places), hides_usage=hides) == at_once
            start = everything[:4000]
            in_bytes = [bytes([byte]) for byte in start]
            assert watched(in_bytes, hides_usage=hides) == watched([start], hides_usage=hides)
        # What is hidden is counted all the same.
        hidden, shown = (watched([everything], hides_usage=hides)[1][:5] for hides in (True, False))
        assert hidden == shown


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(path.stem for path in SAMPLES.glob("*.sse"))), places, st.booleans())
def test_neither_do_they_in_what_vendors_sent(name: str, places: list[int], windows: bool) -> None:
    content = sample(name).replace(b"\n", b"\r\n") if windows else sample(name)
    for hides in (False, True):
        assert watched(cut(content, places), hides_usage=hides) == watched([content], hides_usage=hides)
    assert watched(cut(content, places), hides_usage=False)[0] == content


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), places)
def test_nothing_that_comes_breaks_it(content: bytes, places: list[int]) -> None:
    assert watched(cut(content, places), hides_usage=True) == watched([content], hides_usage=True)
    assert watched(cut(content, places), hides_usage=False)[0] == content


@pytest.mark.parametrize(
    ("name", "usage", "reason"),
    [
        ("openai_chat_stream", (78, 9), "stop"),
        ("groq_chat_stream_reasoning_raw", (21, 988), "stop"),
        ("groq_chat_stream_reasoning_parsed", (573, 1509), "stop"),
        ("huggingface_chat_stream_with_think", (10, 955), "stop"),
        ("deepseek_chat_stream_thinking", (6, 212), "stop"),
        ("openrouter_chat_stream", (43, 36), "stop"),
    ],
)
def test_every_vendors_count_is_found(name: str, usage: tuple[int, int], reason: str) -> None:
    _passed, (info, error, is_complete, *_) = watched([sample(name)], hides_usage=True)
    assert (info.usage.input_tokens, info.usage.output_tokens, info.finish_reason) == (*usage, reason)
    assert (error, is_complete) == (None, True)


def test_a_partial_event_is_known_for_one() -> None:
    watch = StreamWatch(hides_usage=False)
    seen = []
    for piece in (b"data: {}\n", b"\n", b"da", b"ta: {}\r\n\r", b"\n", b": x\n\n"):
        watch.feed(piece)
        seen.append(watch.is_whole)
    assert seen == [False, True, False, False, True, True]


def test_an_event_that_is_too_long_for_a_count_is_not_held_back() -> None:
    watch = StreamWatch(hides_usage=True)
    image = b'data: {"choices":[{"delta":{"images":["' + b"A" * 100_000
    assert watch.feed(image) == image
    assert watch.feed(b"A" * 100) == b"A" * 100
    assert watch.feed(b'"]}}]}\n') == b'"]}}]}\n'
    assert watch.feed(b"\n" + framed(ONLY_USAGE)[:20]) == b"\n"
    assert watch.feed(framed(ONLY_USAGE)[20:] + b"\n\ndata: [DONE]\n\n") == b"data: [DONE]\n\n"
    assert watch.finish() == b""
    assert watch.info.usage is not None
    assert watch.info.usage.output_tokens == 2
