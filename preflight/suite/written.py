"""What a run of plain pytest writes, and the launcher does not see.

``--log-cli-level``, ``--log-file`` and ``log_cli`` write what requirements log, ``--debug`` what every hook is called
with and returns. Its files show what a hook raised, and what fixtures record there. All else goes through Python's
standard output and standard error: pytest's terminal, what pytest says without it (wrong usage, ``pytest.exit``), and
the traceback of an exception that ends the process.
"""

from __future__ import annotations

import logging
import sys

import pytest
from _pytest._code.code import TerminalRepr
from _pytest.junitxml import xml_key

from preflight.redaction import formatter
from preflight.redaction.redactor import Redactor
from preflight.redaction.stream import redact_streams


def redact(config: pytest.Config, redactor: Redactor) -> None:
    """Redact this output from now on; a second call takes another redactor."""
    plugin = config.pluginmanager.get_plugin("logging-plugin")
    for handler in vars(plugin).values() if plugin is not None else ():
        if isinstance(handler, logging.Handler):
            formatter.redact(handler, redactor)
    trace = config.trace.root
    if (write := trace._writer) is not None:  # nothing public tells it
        trace.setwriter(lambda text: write(redactor.text(text)))
    redact_streams(redactor)


def redact_captured(config: pytest.Config, redactor: Redactor) -> None:
    """Redact what pytest has captured so far: it writes that past Python's streams if the run ends early."""
    capture = config.pluginmanager.get_plugin("capturemanager")
    if capture is None or config.known_args_namespace.capture != "fd":
        return
    out, err = capture.read_global_capture()
    capture.resume_global_capture()
    sys.stdout.write(redactor.text(out))
    sys.stderr.write(redactor.text(err))
    capture.suspend_global_capture()


def redact_properties(config: pytest.Config, redactor: Redactor) -> None:
    """Redact the properties of the whole suite, which fixtures have recorded for ``--junitxml``."""
    if (xml := config.stash.get(xml_key, None)) is not None:
        xml.global_properties = [(redactor.text(name), redactor.text(value)) for name, value in xml.global_properties]


def redact_error(error: TerminalRepr, redactor: Redactor) -> None:
    """Let what pytest shows of an error, on the terminal and in files, hold no secret."""
    shown = redactor.text(str(error))
    vars(error)["toterminal"] = lambda writer: writer.line(shown)
