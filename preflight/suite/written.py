"""What plain pytest itself writes while requirements run, and the launcher does not see.

``--log-cli-level``, ``--log-file`` and ``log_cli`` write what requirements log, ``--debug`` what every hook is called
with and returns. Its terminal and its files show what a file of requirements raised when it was imported, and what a
hook did.
"""

from __future__ import annotations

import logging
from typing import Any, TextIO

import pytest
from _pytest._code.code import TerminalRepr

from preflight.redaction import formatter
from preflight.redaction.redactor import Redactor


def redact(config: pytest.Config, redactor: Redactor) -> None:
    """Redact this output from now on; a second call takes another redactor."""
    plugin = config.pluginmanager.get_plugin("logging-plugin")
    for handler in vars(plugin).values() if plugin is not None else ():
        if isinstance(handler, logging.Handler):
            formatter.redact(handler, redactor)
    trace = config.trace.root
    if (write := trace._writer) is not None:  # nothing public tells it
        trace.setwriter(lambda text: write(redactor.text(text)))
    if config.pluginmanager.hasplugin("terminalreporter"):
        terminal = config.get_terminal_writer()
        before = terminal._file
        terminal._file = _Redacting(before.stream if isinstance(before, _Redacting) else before, redactor)


def redact_error(error: TerminalRepr, redactor: Redactor) -> None:
    """Let what pytest shows of an error, on the terminal and in files, hold no secret."""
    shown = redactor.text(str(error))
    vars(error)["toterminal"] = lambda writer: writer.line(shown)


class _Redacting:
    """A stream that is written to without secrets."""

    def __init__(self, stream: TextIO, redactor: Redactor) -> None:
        self.stream = stream
        self._redactor = redactor

    def write(self, text: str) -> int:
        return self.stream.write(self._redactor.text(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
