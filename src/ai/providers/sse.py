"""Server-sent events out of bytes (WHATWG HTML, §9.2 Server-sent events)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from src.core.http import BodyTooLarge

EVENT_LIMIT: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `data` of several lines is joined by line feeds."""

    data: str
    name: str = ""


class EventDecoder:
    """Turns bytes, cut anywhere, into events. Comments and unknown fields are skipped.

    Raises, from `feed`:
        BodyTooLarge: an event does not end within `EVENT_LIMIT` bytes.
    """

    def __init__(self) -> None:
        self._begun: list[bytes] = []  # parts of a line that has not ended
        self._after_return = False  # a line feed that comes now belongs to the line before
        self._data: list[str] = []
        self._name = ""
        self._size = 0  # bytes since the last event

    def feed(self, part: bytes) -> Iterator[Event]:
        """The events that `part` completes."""
        if self._after_return:
            part = part.removeprefix(b"\n")
        self._after_return = part.endswith(b"\r")
        for piece in part.splitlines(keepends=True):
            self._size += len(piece)
            if self._size > EVENT_LIMIT:
                raise BodyTooLarge(EVENT_LIMIT)
            self._begun.append(piece)
            if piece.endswith((b"\n", b"\r")) and (event := self._line(self._begun_line())) is not None:
                self._size = 0
                yield event

    def finish(self) -> Iterator[Event]:
        """The event that the end of the bytes completes: some vendors leave the last empty line out."""
        for line in (self._begun_line(), b""):
            if (event := self._line(line)) is not None:
                yield event

    def _begun_line(self) -> bytes:
        line, self._begun = b"".join(self._begun).rstrip(b"\r\n"), []
        return line

    def _line(self, line: bytes) -> Event | None:
        if not line:
            if not self._data:
                self._name = ""
                return None
            event = Event("\n".join(self._data), self._name)
            self._data, self._name = [], ""
            return event
        field, _, value = line.removeprefix(b"\xef\xbb\xbf").partition(b":")
        text = value.removeprefix(b" ").decode("utf-8", "replace")
        if field == b"data":
            self._data.append(text)
        elif field == b"event":
            self._name = text
        return None
