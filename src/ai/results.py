"""What an operation returns: the documented types (`str`, `BytesIO`, `dict`) that know more.

A provider may return the bare builtin; the service then knows nothing beyond it. `None` always means "the vendor did
not say": zero is a measurement.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from io import BytesIO
from typing import Any, Self

import msgspec


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Units of one call as the vendor reported them; names follow OpenTelemetry's GenAI conventions.

    `input_tokens` includes the cached ones, `output_tokens` includes reasoning.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    reasoning_tokens: int | None = None
    images: int | None = None
    characters: int | None = None
    audio_seconds: float | None = None

    def __add__(self, other: Usage) -> Usage:
        """The sum unit by unit; a unit that neither side reported stays unknown."""
        sums: dict[str, Any] = {}
        for unit in self.__struct_fields__:
            known = [value for value in (getattr(self, unit), getattr(other, unit)) if value is not None]
            sums[unit] = sum(known) if known else None
        return Usage(**sums)


class ResultInfo(msgspec.Struct, kw_only=True):
    """The facts that come along with a result."""

    usage: Usage | None = None
    finish_reason: str | None = None
    provider: str | None = None  # the provider's slug
    model_pk: int | None = None  # the `AIModel` that served
    request_model: str | None = None  # the vendor's id that was asked for
    model: str | None = None  # the model that answered, in the vendor's words
    response_id: str | None = None
    cost: Decimal | None = None  # US$: the vendor's own figure while a call runs, what the books say after it
    dropped_params: tuple[str, ...] = ()  # what the caller asked for and this model cannot take
    placeholder: bool = False  # not made by a model
    standings: tuple[Any, ...] = ()  # of the limits that held for the call (`Standing`s), after it

    def update(self, other: ResultInfo) -> None:
        """Take over every fact that `other` knows."""
        for fact, default in zip(self.__struct_fields__, self.__struct_defaults__, strict=True):
            if (value := getattr(other, fact)) != default:
                setattr(self, fact, value)


class _Result:
    """Reads the facts of `info` as attributes of the result itself."""

    info: ResultInfo

    @property
    def usage(self) -> Usage | None:
        return self.info.usage

    @property
    def finish_reason(self) -> str | None:
        return self.info.finish_reason

    @property
    def model(self) -> str | None:
        return self.info.model

    @property
    def response_id(self) -> str | None:
        return self.info.response_id

    @property
    def cost(self) -> Decimal | None:
        return self.info.cost

    @property
    def dropped_params(self) -> tuple[str, ...]:
        return self.info.dropped_params

    @property
    def placeholder(self) -> bool:
        return self.info.placeholder


class Reply(_Result, str):
    """A text reply."""

    def __new__(cls, text: str, info: ResultInfo | None = None) -> Self:
        reply = super().__new__(cls, text)
        reply.info = info or ResultInfo()
        return reply


class Article(_Result, dict[str, Any]):
    """Structured content: title, meta_title, meta_description, content, keywords, slug."""

    def __init__(self, content: dict[str, Any], info: ResultInfo | None = None) -> None:
        super().__init__(content)
        self.info = info or ResultInfo()


class Media(_Result, BytesIO):
    """One image or one piece of audio, at position 0.

    `content_type` is the mime type of the bytes. A call that made several returns the first, and `all` holds each.
    """

    def __init__(
        self,
        data: bytes,
        content_type: str,
        info: ResultInfo | None = None,
        more: Sequence[Media] = (),
    ) -> None:
        super().__init__(data)
        self.content_type = content_type
        self.info = info or ResultInfo()
        self.more = tuple(more)

    @property
    def all(self) -> tuple[Media, ...]:
        """This one and those made by the same call, in the vendor's order."""
        return (self, *self.more)

    def base64(self) -> str:
        """The bytes in base64, for a JSON body."""
        return base64.b64encode(self.getbuffer()).decode("ascii")


@dataclass
class ReplyStream(_Result):
    """Text deltas of one reply: iterate once, with `async for`; the facts are complete when it ends.

    `text` is what has come so far, also after an error. Closing (`aclose`) closes the vendor's connection. With
    `patience`, an empty text comes whenever nothing has come for so many seconds.
    """

    deltas: AsyncIterator[str]
    info: ResultInfo = field(default_factory=ResultInfo)
    patience: float | None = None
    _parts: list[str] = field(default_factory=list, repr=False)
    _coming: asyncio.Future[str] | None = field(default=None, repr=False)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        delta = await (anext(self.deltas) if self.patience is None else self._next_in_time(self.patience))
        self._parts.append(delta)
        return delta

    async def aclose(self) -> None:
        await self._stop_waiting()
        close = getattr(self.deltas, "aclose", None)
        if close is not None:
            await close()

    async def _next_in_time(self, seconds: float) -> str:
        if self._coming is None:
            self._coming = asyncio.ensure_future(anext(self.deltas))
        try:
            await asyncio.wait((self._coming,), timeout=seconds)
        except asyncio.CancelledError:
            await self._stop_waiting()
            raise
        if not self._coming.done():
            return ""
        coming, self._coming = self._coming, None
        return coming.result()

    async def _stop_waiting(self) -> None:
        if self._coming is not None:
            self._coming.cancel()
            await asyncio.gather(self._coming, return_exceptions=True)
            self._coming = None

    @property
    def text(self) -> str:
        return "".join(self._parts)


@dataclass
class ReplyIterator(_Result):
    """`ReplyStream` for synchronous callers: iterate once, with `for`."""

    deltas: Iterator[str]
    stream: ReplyStream

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        return next(self.deltas)

    def close(self) -> None:
        """End the reply here; the vendor's connection is closed."""
        close = getattr(self.deltas, "close", None)
        if close is not None:
            close()

    @property
    def patience(self) -> float | None:
        return self.stream.patience

    @patience.setter
    def patience(self, seconds: float | None) -> None:
        self.stream.patience = seconds

    @property
    def info(self) -> ResultInfo:  # type: ignore[override]
        return self.stream.info

    @property
    def text(self) -> str:
        return self.stream.text


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """One row of a vendor's model list, normalised.

    Prices are US$ per 1M tokens: `None` is unknown, zero is free. Windows are tokens.
    """

    model_id: str
    display_name: str = ""
    description: str = ""
    capabilities: tuple[str, ...] = ()
    pricing_input: Decimal | None = None
    pricing_output: Decimal | None = None
    context_window: int | None = None
    max_tokens: int | None = None


def iter_media(result: BytesIO) -> Iterator[BytesIO]:
    """Each piece of a media result, whether a provider returned `Media` or a plain `BytesIO`."""
    yield from result.all if isinstance(result, Media) else (result,)
