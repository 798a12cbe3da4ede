"""Who is told of each request that a vendor may charge for."""

from __future__ import annotations

from typing import Any

from src.ai.results import ResultInfo


class Attempt:
    """One such request, from just before it is sent."""

    def succeeded(self, info: ResultInfo | None) -> None:
        """The vendor has answered; `info` is what this answer alone tells."""

    def failed(self, error: BaseException) -> None:
        """It has refused, or its answer could not be used."""


class Attempts:
    """The attempts of one operation. This one keeps no account of them."""

    async def begin(self) -> Attempt:
        """To be awaited before each request; where it raises, the request must not be sent."""
        return Attempt()


def info_of(result: Any) -> ResultInfo | None:
    """The facts that came along with what was read from an answer."""
    parts = result if isinstance(result, tuple) else (result,)
    for part in parts:
        info = part if isinstance(part, ResultInfo) else getattr(part, "info", None)
        if isinstance(info, ResultInfo):
            return info
    return None
