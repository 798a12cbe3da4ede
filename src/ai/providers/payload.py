"""JSON as vendors send it."""

from __future__ import annotations

import json
import re
from typing import Any, Final

LARGEST: Final = 2**31 - 1
_HALF: Final = re.compile(r"\\u[dD][89a-fA-F]")
# An escape: of a pair of surrogates, of half of one, or any other.
_ESCAPE: Final = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


def read_json(content: bytes | str, *, strict: bool = True) -> Any:
    """What the JSON holds. Text that no answer of ours could carry on is replaced by U+FFFD: broken UTF-8, and halves
    of surrogate pairs, which servers send that cut a stream between the two. `strict` as in `json.loads`.

    Raises:
        ValueError: it is no JSON, or is nested too deeply.
    """
    text = content.decode("utf-8-sig", "replace") if isinstance(content, bytes) else content
    if _HALF.search(text):
        text = _ESCAPE.sub(lambda escape: r"\ufffd" if escape[1] else escape[0], text)
    try:
        return json.loads(text, strict=strict)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def as_text(value: object) -> str:
    """A text; nothing where it is something else."""
    return value if isinstance(value, str) else ""


def as_count(value: object) -> int | None:
    """How many of something; `None` where it is no such number, or larger than a column of ours holds."""
    if type(value) is int:  # nearly always
        return value if 0 <= value <= LARGEST else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= LARGEST:
        return None
    return int(value)
