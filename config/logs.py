"""How a log line looks, and how it is written."""

import asyncio
import json
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import IO, Final

import msgspec

# No format shows these, and each line would pay for them (docs.python.org, Logging HOWTO, "Optimization").
logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
CALLS: Final = "src.ai.calls"  # the logger that has a line for each call
FLUSH_AFTER: Final = 0.01  # seconds that such a line is kept for company
ATOMIC: Final = 4096  # bytes that a pipe takes from one process without others' in between (PIPE_BUF on Linux)
# What every record has comes first in it, what the caller passed after that.
FIRST_FIELDS: Final = len(vars(logging.makeLogRecord({})))
LATER_FIELDS: Final = frozenset({"message", "asctime", "request", "color_message"})


def names_of_facts(record: logging.LogRecord) -> list[str]:
    """The attributes of a record that the caller passed as `extra`."""
    passed = list(record.__dict__)[FIRST_FIELDS:]
    return passed if LATER_FIELDS.isdisjoint(passed) else [name for name in passed if name not in LATER_FIELDS]


class FactsFormatter(logging.Formatter):
    """`time level logger: message key=value …`: what the caller passed as `extra` follows the message."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and below it a traceback if there is one."""
        clock = f"{_second(int(record.created))},{int(record.msecs):03d}"
        line = f"{clock} {record.levelname} {record.name}: {record.getMessage()}"
        fields = record.__dict__
        lines = [" ".join([line, *[f"{name}={fields[name]!r}" for name in names_of_facts(record)]])]
        if record.exc_info:
            lines.append(self.formatException(record.exc_info))
        if record.stack_info:
            lines.append(self.formatStack(record.stack_info))
        return "\n".join(lines)


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    """A moment by the local clock. Calls come by the thousand in one second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


class JSONFormatter(logging.Formatter):
    """A JSON object a line: time, level, logger, message, the `extra` attributes, a traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The object, in ASCII."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **{name: record.__dict__[name] for name in names_of_facts(record)},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        with suppress(UnicodeEncodeError):  # half of a surrogate pair
            if (encoded := msgspec.json.encode(line, enc_hook=str)).isascii():
                return encoded.decode("ascii")
        return json.dumps(line, default=str)


class Handler(logging.StreamHandler[IO[str]]):
    """Writes each record at once or, where `writes_together`, those of calls on an event loop a few at a time.

    A write costs more than a line, and a line costs less beside others. What is kept is written within `FLUSH_AFTER`
    seconds, before any other line, by `flush`, and when the process ends; that of a loop which ends before it can is
    written with the next line.
    """

    writes_together = False

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._kept: deque[logging.LogRecord] = deque()
        self._flushed_by: asyncio.AbstractEventLoop | None = None  # which will do it soon, unless it ends before

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or keep it for a moment: a call's holds nothing that changes."""
        try:
            self._kept.append(record)
            loop = asyncio._get_running_loop() if self.writes_together and record.name == CALLS else None
            if loop is None:
                self.flush()
            elif loop is not self._flushed_by:
                self._flushed_by = loop
                loop.call_later(FLUSH_AFTER, self.flush)
        except Exception:  # as in every handler of `logging`: what can't be logged fails nobody's work
            self.handleError(record)

    def flush(self) -> None:
        """Write what is kept."""
        self.acquire()
        try:
            self._flushed_by = None
            for lines in self._pieces():
                self.stream.write(lines)
            super().flush()
        finally:
            self.release()

    def _pieces(self) -> Iterator[str]:
        """The lines of what is kept, in pieces that a pipe takes whole as far as a line is not longer."""
        piece, size = "", 0
        while self._kept:
            record = self._kept.popleft()
            try:
                line = self.format(record) + self.terminator
            except Exception:  # likewise, nor does it keep other lines back
                self.handleError(record)
                continue
            length = len(line.encode("utf-8", "replace"))
            if piece and size + length > ATOMIC:
                yield piece
                piece, size = "", 0
            piece += line
            size += length
        if piece:
            yield piece
