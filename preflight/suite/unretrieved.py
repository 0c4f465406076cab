"""Errors that a pool or an event loop keeps for whoever asks for the result, where nobody asks.

``pool.map(check, hosts)`` whose results are not taken raises nothing, whatever ``check`` has found. The same goes for a
task that ends before anybody awaits it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from concurrent import futures
from concurrent.futures import _base
from contextlib import contextmanager
from typing import Any

_LOOP = logging.getLogger("asyncio")
_KEPT = "exception was never retrieved"
"""How event loops log the error of a task or future when nobody can ask for it any more."""


@contextmanager
def noticed(note: Callable[[BaseException], object]) -> Generator[None]:
    """Call ``note`` with each error that was set meanwhile, if nobody has asked for any result until the end.

    Whoever asks for some of the results, such as those until the first good one, may have seen enough.
    """

    class Future(futures.Future[Any]):
        asked = False  # for any result
        passed_on = False

        def set_exception(self, exception: BaseException | None) -> None:
            failed.append(self)
            super().set_exception(exception)

        def result(self, timeout: float | None = None) -> Any:
            Future.asked = True
            return super().result(timeout)

        def exception(self, timeout: float | None = None) -> BaseException | None:
            Future.asked = True
            return super().exception(timeout)

        def add_done_callback(self, fn: Callable[[futures.Future[Any]], object]) -> None:
            self.passed_on = True
            super().add_done_callback(fn)

    failed: list[Future] = []

    def hear(record: logging.LogRecord) -> bool:
        if _KEPT in record.msg and isinstance(record.exc_info, tuple) and record.exc_info[1] is not None:
            note(record.exc_info[1])
        return True

    before = _base.Future
    _base.Future = Future  # type: ignore[misc]  # what executors make; they have no public place for that
    _LOOP.addFilter(hear)
    try:
        yield
    finally:
        _base.Future = before  # type: ignore[misc]
        _LOOP.removeFilter(hear)
        for future in failed:
            error = None if Future.asked or future.passed_on else futures.Future.exception(future, 0)
            if error is not None:
                note(error)
