"""How a log line looks."""

import logging

PLAIN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "request", "color_message"}


class FactsFormatter(logging.Formatter):
    """`time level logger: message key=value …`: what the caller passed as `extra` follows the message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, with one `key=value` per extra attribute."""
        facts = [f"{key}={value!r}" for key, value in vars(record).items() if key not in PLAIN_FIELDS]
        return " ".join([super().formatMessage(record), *facts])
