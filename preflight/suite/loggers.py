"""The table of loggers in ``logging``, which pytest iterates before every requirement without taking its lock."""

from __future__ import annotations

import logging
from typing import Any


def allow_changes() -> None:
    """Let threads make loggers while pytest goes through the table.

    The probes' threads import modules, which make loggers: the requirement that runs at that moment would raise
    "dictionary changed size during iteration" (catching_logs in _pytest/logging.py, pytest 9).
    """
    logging.root.manager.loggerDict = _Loggers(logging.root.manager.loggerDict)


class _Loggers(dict[str, Any]):
    def values(self) -> list[Any]:  # type: ignore[override]
        return list(super().values())
