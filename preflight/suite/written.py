"""What plain pytest itself writes while requirements run, and the launcher does not see: its logs and its trace.

``--log-cli-level``, ``--log-file`` and ``log_cli`` write what requirements log, ``--debug`` what every hook is called
with and returns.
"""

from __future__ import annotations

import logging

import pytest

from preflight.redaction import formatter
from preflight.redaction.redactor import Redactor


def redact(config: pytest.Config, redactor: Redactor) -> None:
    """Redact this output from now on."""
    plugin = config.pluginmanager.get_plugin("logging-plugin")
    for handler in vars(plugin).values() if plugin is not None else ():
        if isinstance(handler, logging.Handler):
            formatter.redact(handler, redactor)
    trace = config.trace.root
    if (write := trace._writer) is not None:  # nothing public tells it
        trace.setwriter(lambda text: write(redactor.text(text)))
