"""JSON as vendors send it."""

from __future__ import annotations

import json
import re
from typing import Any, Final

_HALF: Final = re.compile(r"\\u[dD][89a-fA-F]")
# An escape: of a pair of surrogates, of half of one, or any other.
_ESCAPE: Final = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


def read_json(content: bytes | str) -> Any:
    """What the JSON holds. Text that no answer of ours could carry on is replaced by U+FFFD: broken UTF-8, and halves
    of surrogate pairs, which servers send that cut a stream between the two.

    Raises:
        ValueError: it is no JSON, or is nested too deeply.
    """
    text = content.decode("utf-8-sig", "replace") if isinstance(content, bytes) else content
    if _HALF.search(text):
        text = _ESCAPE.sub(lambda escape: r"\ufffd" if escape[1] else escape[0], text)
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
