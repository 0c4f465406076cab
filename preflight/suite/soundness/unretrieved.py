"""Errors that a pool or an event loop keeps for whoever asks for the result, where nobody asks.

``pool.map(check, hosts)`` whose results are not taken raises nothing, whatever ``check`` has found. The same goes for a
task that ends before anybody awaits it.
"""

from __future__ import annotations

import logging
from concurrent import futures
from concurrent.futures import _base
from typing import Any

from preflight.suite.soundness import hearing

_KEPT = "exception was never retrieved"
"""How event loops log the error of a task or future when nobody can ask for it any more."""


class _Future(futures.Future[Any]):
    """What a pool has been given, and whose it is."""

    def __init__(self) -> None:
        super().__init__()
        self._hearing = hearing.current()
        self._passed_on = False

    def set_exception(self, exception: BaseException | None) -> None:
        if self._hearing is not None:
            self._hearing.keep(lambda: None if self._passed_on else exception)
        super().set_exception(exception)

    def result(self, timeout: float | None = None) -> Any:
        self._is_asked()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._is_asked()
        return super().exception(timeout)

    def add_done_callback(self, fn: Any) -> None:
        self._passed_on = True
        super().add_done_callback(fn)

    def _is_asked(self) -> None:
        if self._hearing is not None:
            self._hearing.asked = True


def begin() -> None:
    """Hear, from here on, of errors that pools and event loops of this process keep."""
    _base.Future = _Future  # type: ignore[misc]  # what executors make; they have no public place for that
    logging.getLogger("asyncio").addFilter(_hear)


def _hear(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if _KEPT in str(record.msg) and isinstance(record.exc_info, tuple) else None
    if error is not None and (one := hearing.current()):
        one.note(error)
    return True
