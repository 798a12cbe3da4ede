"""Keeps a reasoning model's thoughts out of its reply, where a vendor leaves them in the text."""

from __future__ import annotations

import re
from typing import Final

OPEN: Final = "<think>"
CLOSE: Final = "</think>"
_TAG: Final = re.compile(f"{OPEN}|{CLOSE}")

# Models that are known to think inside the text, at some vendors without the opening tag (HuggingFace, 2026-01).
_THINKERS: Final = re.compile(
    r"(?:^|[-/_.])r1\b|qwq|think|reason|magistral|minimax-m|nemotron|qwen3|glm-4\.[5-9]|glm-5|kimi-k2", re.IGNORECASE
)


def may_think_aloud(model: str) -> bool:
    """Whether this model's text may begin with thoughts that no opening tag announces."""
    return bool(_THINKERS.search(model)) and "instruct" not in model.lower()


class ThinkFilter:
    """Removes `<think>…</think>` from a text that comes in parts, cut anywhere.

    Thoughts that open the text and never end are dropped; elsewhere an opening tag without its end is text. After a
    thought that holds further opening tags, as many closing ones are waited for.

    Args:
        hold: keep everything back until `</think>` has come, or the end: the text may begin inside a thought. Call
            `release()` once the vendor has shown that it puts thoughts elsewhere.
    """

    def __init__(self, *, hold: bool = False) -> None:
        self._tail = ""  # what may be the beginning of a tag
        self._kept: list[str] = []  # a thought, or what is held back
        self._held_for = int(hold)  # closing tags
        self._thinking = False
        self._nested = 0
        self._at_start = True
        self._trim = True  # white space at the start, and after a thought, belongs to the thought

    def feed(self, part: str) -> str:
        """What of the text so far may be shown now and has not been."""
        text = self._tail + part
        shown = ""
        start = 0
        for tag in _TAG.finditer(text):
            shown += self._take(text[start : tag.start()])
            shown += self._open() if tag[0] == OPEN else self._close()
            start = tag.end()
        end = len(text) - _tag_started(text[start:])
        self._tail = text[end:]
        return shown + self._take(text[start:end])

    def release(self) -> str:
        """Stop holding back; what may be shown now."""
        self._held_for = 0
        return "" if self._thinking else self._show(self._kept_text())

    def finish(self) -> str:
        """The rest, at the end of the text."""
        if self._thinking and self._at_start:
            return ""
        opening = OPEN if self._thinking else ""
        return self._show(opening + self._kept_text() + self._tail)

    def _take(self, text: str) -> str:
        """Text without a tag; what of it may be shown."""
        if self._thinking or self._held_for:
            if not (self._thinking and self._at_start):
                self._kept.append(text)
            return ""
        return self._show(text)

    def _open(self) -> str:
        if self._thinking:
            self._nested += 1
            self._kept.append(OPEN)
            return ""
        held = self._show(self._kept_text())
        self._thinking, self._held_for = True, 0
        return held

    def _close(self) -> str:
        if self._thinking:
            self._held_for, self._nested = self._nested, 0
        elif self._held_for:
            self._held_for -= 1
        self._kept_text()
        self._thinking, self._trim = False, True
        return ""

    def _kept_text(self) -> str:
        kept, self._kept = "".join(self._kept), []
        return kept

    def _show(self, text: str) -> str:
        if self._trim:
            text = text.lstrip()
            self._trim = not text
        if text:
            self._at_start = False
        return text


def strip_thoughts(text: str) -> str:
    """A whole text without its thoughts."""
    if CLOSE not in text and OPEN not in text:
        return text
    thoughts = ThinkFilter(hold=True)
    return thoughts.feed(text) + thoughts.finish()


def _tag_started(text: str) -> int:
    """How many characters at the end of `text` may be the beginning of a tag."""
    start = text.rfind("<", -len(CLOSE) + 1)
    beginning = text[start:] if start >= 0 else ""
    return len(beginning) if OPEN.startswith(beginning) or CLOSE.startswith(beginning) else 0
