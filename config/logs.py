"""How a log line looks."""

import json
import logging
import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

# No format shows these, and each line would pay for them (docs.python.org, Logging HOWTO, "Optimization").
logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
PLAIN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "request", "color_message"}


def facts_of(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller passed as `extra`."""
    return {key: value for key, value in record.__dict__.items() if key not in PLAIN_FIELDS}


class FactsFormatter(logging.Formatter):
    """`time level logger: message key=value …`: what the caller passed as `extra` follows the message."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and below it a traceback if there is one."""
        clock = f"{_second(int(record.created))},{int(record.msecs):03d}"
        line = f"{clock} {record.levelname} {record.name}: {record.getMessage()}"
        lines = [" ".join([line, *[f"{key}={value!r}" for key, value in facts_of(record).items()]])]
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
            **facts_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        with suppress(UnicodeEncodeError):  # half of a surrogate pair
            if (encoded := msgspec.json.encode(line, enc_hook=str)).isascii():
                return encoded.decode("ascii")
        return json.dumps(line, default=str)
