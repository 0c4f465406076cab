"""Python's logging under another server: its output is redacted like the output that the launcher passes on."""

from __future__ import annotations

import logging

from preflight.redaction import formatter
from preflight.redaction.redactor import Redactor


def redact(redactor: Redactor) -> None:
    """Have every handler that a logger has now write without secrets; call it again when secrets change."""
    root = logging.getLogger()
    loggers = [root, *(one for one in list(root.manager.loggerDict.values()) if isinstance(one, logging.Logger))]
    found = {handler for one in loggers for handler in one.handlers}
    # A handler that keeps records for another one, which no logger has.
    found |= {target for one in found if isinstance(target := getattr(one, "target", None), logging.Handler)}
    if logging.lastResort is not None:
        found.add(logging.lastResort)  # writes if no logger has a handler
    for handler in found:
        formatter.redact(handler, redactor)
