"""The table of loggers in ``logging``, which pytest iterates before every requirement without taking its lock."""

from __future__ import annotations

import logging
from typing import Any


def allow_changes() -> None:
    """Let threads make loggers while pytest goes through the table.

    What a thread imports makes loggers, and the probes' threads import: the requirement whose turn it was would have
    raised "dictionary changed size during iteration" (catching_logs in _pytest/logging.py, pytest 9).
    """
    logging.root.manager.loggerDict = _Loggers(logging.root.manager.loggerDict)


class _Loggers(dict[str, Any]):
    def values(self) -> list[Any]:  # type: ignore[override]
        return list(super().values())
