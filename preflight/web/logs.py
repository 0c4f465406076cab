"""Python's logging under another server: its output is redacted like the output that the launcher passes on."""

from __future__ import annotations

import logging

from preflight.redaction import formatter
from preflight.redaction.redactor import Redactor

WRITTEN_BY = ("", "uvicorn", "uvicorn.error", "uvicorn.access")
"""Loggers whose handlers write for people; the empty name is the root's."""


def redact(redactor: Redactor) -> None:
    """Have every handler that these loggers have now write without secrets; call it again when secrets change."""
    found = {handler for name in WRITTEN_BY for handler in logging.getLogger(name).handlers}
    if logging.lastResort is not None:
        found.add(logging.lastResort)  # writes if no logger has a handler
    for handler in found:
        formatter.redact(handler, redactor)
