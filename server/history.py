"""Past runs over HTTP: the list of them, one of them, and how one check fared in them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from preflight import history
from preflight.history import Flip, History, Run
from preflight.instance import Instance
from server import diagnostics

PAGE = 100  # runs in an answer, unless asked for fewer or more
LONGEST_PAGE = 1000
NO_STORE = {"Cache-Control": "no-store"}


def kept(app: Any, instance: Instance) -> History:
    """The application's one look at the history."""
    if not hasattr(app.state, "history"):
        app.state.history = History(instance.settings.state_dir / history.FOLDER)
    found: History = app.state.history
    return found


def _answer(body: Any, status: int = 200) -> JSONResponse:
    return JSONResponse(body, status, headers=NO_STORE)


def _page(query: Mapping[str, str]) -> tuple[int, int]:
    """``limit`` and ``offset``; raises ValueError with what is allowed."""
    try:
        limit, offset = int(query.get("limit", PAGE)), int(query.get("offset", 0))
    except ValueError:
        limit = offset = -1
    if not (1 <= limit <= LONGEST_PAGE and 0 <= offset < 2**31):
        raise ValueError(f"limit is from 1 to {LONGEST_PAGE}, offset from 0")
    return limit, offset


async def _runs(request: Request, limit: int, offset: int) -> list[tuple[Run, tuple[Flip, ...]]]:
    """A page of the runs of the address that ?address= names, or of all."""
    instance: Instance = request.state.preflight
    found = kept(request.app, instance)
    address = request.query_params.get("address")
    # What this instance knows itself counts even where the disk is full.
    latest = diagnostics.snapshot(request.app, instance).latest(instance)
    besides = [one for one in (instance.report, latest) if one is not None]
    return await asyncio.to_thread(found.runs, offset=offset, limit=limit, address=address, besides=besides)


async def runs(request: Request) -> JSONResponse:
    """Past runs with what flipped in each, newest first (?limit, ?offset, ?address)."""
    try:
        limit, offset = _page(request.query_params)
    except ValueError as error:
        return _answer({"error": str(error)}, 400)
    try:
        found = await _runs(request, limit, offset)
    except OSError as error:
        return _answer({"error": f"the history cannot be read: {error.strerror}"}, 503)
    return _answer([history.entry(run, flipped) for run, flipped in found])


async def run(request: Request) -> JSONResponse:
    """One past run, as /diagnostics showed it."""
    instance: Instance = request.state.preflight
    run_id: str = request.path_params["run_id"]
    latest = diagnostics.snapshot(request.app, instance).latest(instance)
    found = next((one for one in (instance.report, latest) if one is not None and one.run_id == run_id), None)
    try:
        found = found or await asyncio.to_thread(kept(request.app, instance).report, run_id)
    except OSError as error:
        return _answer({"error": f"the history cannot be read: {error.strerror}"}, 503)
    if found is None:
        return _answer({"error": "there is no such run"}, 404)
    return _answer(diagnostics.project(found, instance))


async def check(request: Request) -> JSONResponse:
    """How one check fared in the past, newest first (?limit, ?offset, ?address), and how often it flipped in all."""
    title: str = request.path_params["title"]
    try:
        limit, offset = _page(request.query_params)
    except ValueError as error:
        return _answer({"error": str(error)}, 400)
    try:
        found = await _runs(request, LONGEST_PAGE, 0)
    except OSError as error:
        return _answer({"error": f"the history cannot be read: {error.strerror}"}, 503)
    past = [(one, one.checks[title]) for one, _flipped in found if title in one.checks]
    if not past:
        return _answer({"error": "no run that is kept has a check of that title"}, 404)
    return _answer(
        {
            "title": title,
            "severity": past[0][1].severity,
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
                for one, how in past[offset : offset + limit]
            ],
        }
    )


routes = [
    Route("/diagnostics/history", runs),
    Route("/diagnostics/history/{run_id}", run),
    Route("/diagnostics/checks/{title:path}", check),
]
