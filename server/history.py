"""Past runs over HTTP: the list of them, one of them, and how one check fared in them."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from preflight import history
from preflight.history import Flip, History, Run
from preflight.instance import Instance
from server import diagnostics, paging
from server.paging import page


async def _runs(request: Request, limit: int, offset: int) -> list[tuple[Run, tuple[Flip, ...]]]:
    """A page of the runs of the address that ?address= names, or of all."""
    instance: Instance = request.state.preflight
    kept: History = request.app.state.history
    address = request.query_params.get("address")
    # What this instance knows itself counts even where the disk is full.
    latest = request.app.state.snapshot.latest(instance)
    besides = [one for one in (instance.report, latest) if one is not None]
    return await asyncio.to_thread(kept.runs, offset=offset, limit=limit, address=address, besides=besides)


async def runs(request: Request) -> JSONResponse:
    """Past runs with what flipped in each, newest first (?limit, ?offset, ?address)."""
    try:
        limit, offset = page(request.query_params)
    except ValueError as error:
        return JSONResponse({"error": str(error)}, 400)
    try:
        found = await _runs(request, limit, offset)
    except OSError as error:
        return JSONResponse({"error": f"the history cannot be read: {error.strerror}"}, 503)
    return JSONResponse([history.entry(run, flipped) for run, flipped in found])


async def run(request: Request) -> JSONResponse:
    """One past run, as /diagnostics showed it."""
    instance: Instance = request.state.preflight
    run_id: str = request.path_params["run_id"]
    latest = request.app.state.snapshot.latest(instance)
    found = next((one for one in (instance.report, latest) if one is not None and one.run_id == run_id), None)
    try:
        found = found or await asyncio.to_thread(request.app.state.history.report, run_id)
    except OSError as error:
        return JSONResponse({"error": f"the history cannot be read: {error.strerror}"}, 503)
    if found is None:
        return JSONResponse({"error": "there is no such run"}, 404)
    return JSONResponse(diagnostics.project(found, instance))


async def check(request: Request) -> JSONResponse:
    """How one check fared in the past, newest first (?limit, ?offset, ?address), and how often it flipped in all."""
    title: str = request.path_params["title"]
    try:
        limit, offset = page(request.query_params)
    except ValueError as error:
        return JSONResponse({"error": str(error)}, 400)
    try:
        found = await _runs(request, paging.LONGEST, 0)
    except OSError as error:
        return JSONResponse({"error": f"the history cannot be read: {error.strerror}"}, 503)
    past = [(one, one.checks[title]) for one, _flipped in found if title in one.checks]
    if not past:
        return JSONResponse({"error": "no run that is kept has a check of that title"}, 404)
    return JSONResponse(
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
