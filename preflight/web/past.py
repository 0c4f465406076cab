"""Past runs, for code in the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.responses import JSONResponse

from preflight.redaction.redactor import Redactor
from preflight.report.changes import Flip
from preflight.report.history import History, Run
from preflight.report.model import Report
from preflight.web.instance import Instance
from preflight.web.snapshot import Snapshot

T = TypeVar("T")


class EarlierRuns:
    """The past runs of one application's state folder, for code in its event loop."""

    def __init__(self, instance: Instance, snapshot: Snapshot, redactor: Redactor | None = None) -> None:
        settings = instance.settings
        self._instance = instance
        self._snapshot = snapshot
        self._history = History(settings.state.history)
        # A kept report was redacted by the process that made it, which may have known fewer secrets.
        self._redactor = redactor or Redactor.of(settings)
        self._asking = asyncio.Lock()

    async def _ask(self, question: Callable[[], T]) -> T:
        # One at a time: they read the same files, and threads are for others as well.
        async with self._asking:
            return await asyncio.to_thread(question)

    async def _known(self) -> list[Report]:
        """The reports that this instance knows itself, which count even where the disk is full."""
        await self._snapshot.look()
        return [one for one in (self._instance.report, self._snapshot.latest()) if one is not None]

    async def runs(self, limit: int, offset: int = 0, address: str | None = None) -> list[tuple[Run, tuple[Flip, ...]]]:
        """Past runs with the changes in each, newest first; of one address, or of all. Raises OSError."""
        known = await self._known()
        return await self._ask(lambda: self._history.runs(offset=offset, limit=limit, address=address, besides=known))

    async def run(self, run_id: str) -> Report | None:
        """One past run, None if there is none of that id. Raises OSError."""
        known = next((one for one in await self._known() if one.run_id == run_id), None)
        return known or await self._ask(lambda: self._history.report(run_id))

    async def answer(self, body: Any) -> JSONResponse:
        """An answer with such runs, redacted, and rendered in a thread: there may be many."""
        return await self._ask(lambda: JSONResponse(self._redactor.document(body)))
