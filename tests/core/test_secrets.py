"""Texts leave without secrets in them."""

from __future__ import annotations

import pytest

from src.core.secrets import MASK, Undecryptable, decrypt, encrypt, scrub


@pytest.mark.parametrize(
    "key",
    [
        "sk-proj-abc123DEF456",
        "sk-or-v1-0123456789abcdef",
        "sk-abcd*****************wxyz",
        "gsk_0123456789abcdef",
        "hf_AbCdEfGhIjKl",
        "AIzaSyA0123456789",
    ],
)
def test_vendors_keys_are_taken_out_of_texts(key: str) -> None:
    assert scrub(f"Incorrect API key provided: {key} (see …)") == f"Incorrect API key provided: {MASK} (see …)"


def test_the_key_in_use_is_taken_out_whatever_it_looks_like() -> None:
    assert scrub("refused: hunter2!", "hunter2!") == f"refused: {MASK}"


def test_ordinary_words_stay() -> None:
    text = "The task-force asked for a risk-free sketch of half_life."
    assert scrub(text) == text


def test_a_value_opens_only_in_its_own_context() -> None:
    token = encrypt("secret", context="row 1")
    assert decrypt(token, context="row 1") == "secret"
    with pytest.raises(Undecryptable):
        decrypt(token, context="row 2")
