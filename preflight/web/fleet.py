"""The fleet, as this instance shows it: questions to its database, and without the database what was known last.

Nothing of `preflight.fleet` is imported before somebody asks. The event loop waits for no answer longer than
`preflight.fleet.reading.DEADLINE`; a database that has just not answered is not asked again at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

from starlette.responses import JSONResponse

from preflight import times
from preflight.redaction.redactor import Redactor
from preflight.report.model import Report, ReportError, is_overlong
from preflight.settings.model import Settings
from preflight.text import plain
from preflight.web.instance import Instance
from preflight.web.projection import of_check

T = TypeVar("T")

FRESH = 1.0  # seconds for which an overview is sent to others, too
PAUSE = 2.0  # seconds after a question without an answer for which the database is not asked again
AT_ONCE = 2  # questions; more wait for their turn, within the same deadline


def is_offered(settings: Settings) -> bool:
    """Whether there is a fleet to show."""
    return bool(settings.database_url)


class Away(Exception):
    """The database does not answer, or cannot be used; the message is for people."""


class Overview(NamedTuple):
    """The fleet at a glance, as it was known at a time."""

    body: dict[str, Any]
    at: float
    """On the monotonic clock."""
    moment: str
    """The same time, as reports write it."""


class FleetView:
    """What one instance knows about its fleet. In the event loop only."""

    def __init__(self, instance: Instance) -> None:
        self._settings = instance.settings
        self._asking = asyncio.Semaphore(AT_ONCE)
        self._looking = asyncio.Lock()
        self._last: Overview | None = None
        self._problem = ""
        self._away_until = 0.0
        self._redactor: Redactor | None = None

    async def ask(self, question: Callable[[Any], Awaitable[T]]) -> T:
        """What a question of `preflight.fleet.queries` finds. Raises Away."""
        from preflight.fleet import reading
        from preflight.fleet.database import Unavailable, UnusableDatabase

        if time.monotonic() < self._away_until:
            raise Away(self._problem)
        try:
            async with asyncio.timeout(reading.DEADLINE), self._asking:
                return await reading.ask(self._settings.database_url or "", self._settings.environment, question)
        except (Unavailable, UnusableDatabase, TimeoutError) as error:
            self._problem = str(error) or f"the database cannot be reached: no answer within {reading.DEADLINE:g} s"
            self._away_until = time.monotonic() + PAUSE
            raise Away(self._problem) from None

    async def overview(self) -> tuple[Overview | None, str]:
        """The fleet at a glance, and why it is not up to date; empty if it is."""
        from preflight.fleet import queries

        async with self._looking:  # one request asks, the others wait for its answer
            if self._last is not None and time.monotonic() < self._last.at + FRESH:
                return self._last, ""
            try:
                body = await self.ask(queries.overview)
            except Away as away:
                return self._last, str(away)
            self._last = Overview(body, time.monotonic(), times.now())
            return self._last, ""

    async def answer(self, body: Any, status: int = 200) -> JSONResponse:
        """An answer with contents of the tables, redacted; made in a thread, because they may be large."""
        return await asyncio.to_thread(lambda: JSONResponse(plain(self._clean(body)), status))

    async def report(self, document: object) -> tuple[dict[str, Any] | None, str]:
        """A report from the tables as /diagnostics shows one, or why it is none."""
        if document is None or is_overlong(document):
            return None, "no report of this instance is kept, or its report is too large"
        try:
            found = await asyncio.to_thread(lambda: Report.from_json(self._clean(document)))
        except (ReportError, RecursionError):
            return None, "its report cannot be read: another release, or another program, has written it"
        return _projected(found), ""

    def _clean(self, value: Any) -> Any:
        self._redactor = self._redactor or Redactor.of(self._settings)
        return self._redactor.document(value)


def _projected(found: Report) -> dict[str, Any]:
    return {
        "status": found.status,
        "run_id": found.run_id,
        "origin": found.origin,
        "generated_at": found.started_at,
        "reason": found.reason,
        "summary": found.summary,
        "checks": {check.title: of_check(check, found.started_at) for check in found.checks},
    }
