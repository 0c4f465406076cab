"""What Python's logging writes, without secrets: a formatter around another one."""

from __future__ import annotations

import logging
from typing import Any

from preflight.redaction.redactor import Redactor


class Redacting(logging.Formatter):
    """Formats as another formatter does, tracebacks included, and takes the secrets out of the result."""

    def __init__(self, inner: logging.Formatter, redactor: Redactor) -> None:
        super().__init__()
        self.inner = inner
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> Any:
        return self._redacted(self.inner.format(record))

    def formatMessage(self, record: logging.LogRecord) -> Any:  # noqa: N802  # as logging calls it
        """Only the message: for handlers that show the rest themselves, as rich's does."""
        return self._redacted(self.inner.formatMessage(record))

    def _redacted(self, value: Any) -> Any:
        """Formatters make texts, and those of some handlers bytes or a dictionary."""
        match value:
            case str():
                return self._redactor.text(value)
            case bytes():
                text = value.decode("utf-8", "surrogateescape")
                return self._redactor.text(text).encode("utf-8", "surrogateescape")
            case dict():
                return {name: self._redacted(held) for name, held in value.items()}
            case list() | tuple():
                return [self._redacted(held) for held in value]
            case _:
                return value


def redact(handler: logging.Handler, redactor: Redactor) -> None:
    """Let a handler write without secrets; a second call updates the secrets."""
    inner = handler.formatter or logging.Formatter()
    handler.setFormatter(Redacting(inner.inner if isinstance(inner, Redacting) else inner, redactor))
