"""Past runs over HTTP: the list of them, one of them, and how one check fared in them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from preflight.redaction.redactor import Redactor
from preflight.report import history
from preflight.report.changes import Flip
from preflight.report.history import History, Run
from preflight.report.model import Report
from preflight.web import diagnostics, paging
from preflight.web.instance import Instance
from preflight.web.paging import page
from preflight.web.snapshot import Snapshot

T = TypeVar("T")


class Past:
    """The past runs of one application's state folder, for whoever asks in its event loop."""

    def __init__(self, instance: Instance, snapshot: Snapshot, redactor: Redactor | None = None) -> None:
        settings = instance.settings
        self._instance = instance
        self._snapshot = snapshot
        self._history = History(settings.state.history)
        # What is kept was redacted by whoever ran it, who may have known fewer secrets.
        self._redactor = redactor or Redactor.of(settings)
        self._asking = asyncio.Lock()

    async def _ask(self, question: Callable[[], T]) -> T:
        # One at a time: they read the same files, and threads are for others as well.
        async with self._asking:
            return await asyncio.to_thread(question)

    async def _known(self) -> list[Report]:
        """What this instance knows itself counts even where the disk is full."""
        await self._snapshot.look()
        return [one for one in (self._instance.report, self._snapshot.latest()) if one is not None]

    async def runs(self, limit: int, offset: int = 0, address: str | None = None) -> list[tuple[Run, tuple[Flip, ...]]]:
        """Past runs with what flipped in each, newest first; of one address, or of all. Raises OSError."""
        known = await self._known()
        return await self._ask(lambda: self._history.runs(offset=offset, limit=limit, address=address, besides=known))

    async def run(self, run_id: str) -> Report | None:
        """One past run, None where there is none of that id. Raises OSError."""
        known = next((one for one in await self._known() if one.run_id == run_id), None)
        return known or await self._ask(lambda: self._history.report(run_id))

    async def answer(self, body: Any) -> JSONResponse:
        """Such runs as they may be seen, rendered in a thread: there may be many."""
        return await self._ask(lambda: JSONResponse(self._redactor.document(body)))


def _unreadable(error: OSError) -> JSONResponse:
    return JSONResponse({"error": f"the history cannot be read: {error.strerror}"}, 503)


async def runs(request: Request) -> JSONResponse:
    """Past runs with what flipped in each, newest first (?limit, ?offset, ?address)."""
    past: Past = request.app.state.past
    try:
        limit, offset = page(request.query_params)
        found = await past.runs(limit, offset, request.query_params.get("address"))
    except ValueError as error:
        return JSONResponse({"error": str(error)}, 400)
    except OSError as error:
        return _unreadable(error)
    return await past.answer([history.entry(run, flipped) for run, flipped in found])


async def run(request: Request) -> JSONResponse:
    """One past run, as /diagnostics showed it."""
    past: Past = request.app.state.past
    try:
        found = await past.run(request.path_params["run_id"])
    except OSError as error:
        return _unreadable(error)
    if found is None:
        return JSONResponse({"error": "there is no such run"}, 404)
    return await past.answer(diagnostics.project(found, request.state.preflight))


async def check(request: Request) -> JSONResponse:
    """How one check fared in the past, newest first (?limit, ?offset, ?address), and how often it flipped in all."""
    past: Past = request.app.state.past
    title: str = request.path_params["title"]
    try:
        limit, offset = page(request.query_params)
        found = await past.runs(paging.LONGEST, 0, request.query_params.get("address"))
    except ValueError as error:
        return JSONResponse({"error": str(error)}, 400)
    except OSError as error:
        return _unreadable(error)
    fared = [(one, one.checks[title]) for one, _flipped in found if title in one.checks]
    if not fared:
        return JSONResponse({"error": "no run that is kept has a check of that title"}, 404)
    return await past.answer(
        {
            "title": title,
            "severity": fared[0][1].severity,
            "flips": sum(flip.title == title for _run, flipped in found for flip in flipped),
            "runs": [
                {
                    "run_id": one.run_id,
                    "started_at": one.started_at,
                    "origin": one.origin,
                    "address": one.address,
                    "outcome": how.outcome,
                    "message": how.message,
                    "duration_ms": round(how.duration * 1000, 3),
                }
                for one, how in fared[offset : offset + limit]
            ],
        }
    )


routes = [
    Route("/diagnostics/history", runs),
    Route("/diagnostics/history/{run_id}", run),
    Route("/diagnostics/checks/{title:path}", check),
]
