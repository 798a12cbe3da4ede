"""A model's thoughts do not reach its reply, however the vendor hands them over."""

from __future__ import annotations

from itertools import pairwise
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.ai.providers.thinking import ThinkFilter, may_think_aloud, strip_thoughts

# Text, what is left of it, and what is left where the text may begin inside a thought (`hold`).
CASES = {
    "no thought": ("Hello there.", "Hello there.", "Hello there."),
    "nothing": ("", "", ""),
    "a thought": ("<think>secret</think>Hello", "Hello", "Hello"),
    "white space around it": ("\n<think>\nsecret\n</think>\n\nHello ", "Hello ", "Hello "),
    "an empty thought": ("<think></think>Hello", "Hello", "Hello"),
    "text before it": ("Well, <think>secret</think> hello", "Well, hello", "Well, hello"),
    "several": ("<think>secret</think>a <think>secret</think>b", "a b", "a b"),
    "no opening tag": ("secret</think>Hello", "secretHello", "Hello"),
    "no closing tag": ("<think>secret", "", ""),
    "no closing tag, after text": ("Write <think> first.", "Write <think> first.", "Write <think> first."),
    "nested": ("<think>secret <think>secret</think> secret</think>Hello", "Hello", "Hello"),
    "nested deeper": ("<think>s<think>s<think>s</think>s</think>s</think>Hello", "Hello", "Hello"),
    "a tag that a thought only mentions": ("<think>secret <think> secret</think>Hello", "Hello", "Hello"),
    "only a thought": ("<think>secret</think>", "", ""),
    "what looks like a tag": ("a < b <thin> </thinker> <b>c</b>", "a < b <thin> </thinker> <b>c</b>", None),
    "the beginning of a tag at the end": ("Hello <thi", "Hello <thi", "Hello <thi"),
    "the beginning of the other tag": ("<think>s</think>Hello </thin", "Hello </thin", "Hello </thin"),
}


def filtered(*parts: str, hold: bool = False) -> str:
    thoughts = ThinkFilter(hold=hold)
    return "".join(map(thoughts.feed, parts)) + thoughts.finish()


@pytest.mark.parametrize("case", CASES)
def test_thoughts_are_taken_out(case: str) -> None:
    text, shown, _ = CASES[case]
    assert filtered(text) == shown
    assert "secret" not in filtered(text) or case == "no opening tag"


@pytest.mark.parametrize("case", CASES)
def test_thoughts_that_no_tag_opens_are_taken_out(case: str) -> None:
    text, shown, held = CASES[case]
    assert filtered(text, hold=True) == strip_thoughts(text) == (shown if held is None else held)


@pytest.mark.parametrize("hold", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_a_text_may_be_cut_anywhere(case: str, hold: bool) -> None:
    text = CASES[case][0]
    whole = filtered(text, hold=hold)
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            assert filtered(text[:first], text[first:second], text[second:], hold=hold) == whole
    assert filtered(*text, hold=hold) == whole


PIECES = st.lists(st.sampled_from(["<think>", "</think>", "<", "think>", "</", "a", " ", "\n", "word"]), max_size=12)


@given(PIECES, st.booleans())
def test_any_text_is_filtered_the_same_however_it_is_cut(parts: list[str], hold: bool) -> None:
    text = "".join(parts)
    assert filtered(*parts, hold=hold) == filtered(text, hold=hold) == filtered(*text, hold=hold)


@given(PIECES)
def test_what_was_shown_is_never_taken_back(parts: list[str]) -> None:
    whole = filtered(*parts)
    thoughts = ThinkFilter()
    so_far = [""]
    for part in parts:
        so_far.append(so_far[-1] + thoughts.feed(part))
    assert all(later.startswith(earlier) for earlier, later in pairwise([*so_far, whole]))


def test_text_is_shown_at_once_where_no_tag_may_be_beginning() -> None:
    thoughts = ThinkFilter()
    assert [thoughts.feed(part) for part in ("Hel", "lo <", "b> ", "<th", "ink>s", "</think> x")] == [
        "Hel", "lo ", "<b> ", "", "", "x",
    ]  # fmt: skip


def test_held_text_is_released_once_the_vendor_shows_thoughts_elsewhere() -> None:
    thoughts = ThinkFilter(hold=True)
    assert thoughts.feed("Hello <") == ""
    assert thoughts.release() == "Hello "
    assert thoughts.release() == ""
    assert thoughts.feed("there") == "<there"


@pytest.mark.parametrize("opening", ["", "<think>", "Hello <think>"])
def test_a_long_thought_does_not_hold_the_loop(opening: str) -> None:
    thoughts = ThinkFilter(hold=not opening)
    thoughts.feed(opening)
    started = process_time()
    for _ in range(50_000):
        thoughts.feed("a bit ")
    assert process_time() - started < 1
    assert thoughts.feed("</think>Hello") == "Hello"


@pytest.mark.parametrize(
    ("model", "aloud"),
    [
        ("deepseek-ai/DeepSeek-R1", True),
        ("deepseek-r1-distill-llama-70b", True),
        ("Qwen/QwQ-32B", True),
        ("Qwen/Qwen3-32B", True),
        ("Qwen/Qwen3-235B-A22B-Thinking-2507", True),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507", False),
        ("zai-org/GLM-4.6", True),
        ("moonshotai/Kimi-K2-Thinking", True),
        ("gpt-6-luna", False),
        ("meta-llama/Llama-3.3-70B-Instruct", False),
        ("google/gemma-3-27b-it", False),
        ("", False),
    ],
)
def test_which_models_may_begin_inside_a_thought(model: str, aloud: bool) -> None:
    assert may_think_aloud(model) is aloud
