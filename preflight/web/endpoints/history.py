"""Past runs over HTTP: their list, one run, and the outcomes of one check in them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse

from preflight.report import history
from preflight.web import paging, services
from preflight.web.paging import page
from preflight.web.projection import project


def _unreadable(error: OSError) -> JSONResponse:
    return JSONResponse({"error": f"the history cannot be read: {error.strerror}"}, 503)


async def runs(request: Request) -> JSONResponse:
    """Past runs with the changes in each, newest first (?limit, ?offset, ?address)."""
    past = services.of(request.scope).past
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
    past = services.of(request.scope).past
    try:
        found = await past.run(request.path_params["run_id"])
    except OSError as error:
        return _unreadable(error)
    if found is None:
        return JSONResponse({"error": "there is no such run"}, 404)
    return await past.answer(project(found, services.of(request.scope).instance))


async def check(request: Request) -> JSONResponse:
    """The past outcomes of one check, newest first (?limit, ?offset, ?address), and how often it changed in total."""
    past = services.of(request.scope).past
    title: str = request.path_params["title"]
    try:
        limit, offset = page(request.query_params)
        runs = await past.runs(paging.LONGEST, 0, request.query_params.get("address"))
    except ValueError as error:
        return JSONResponse({"error": str(error)}, 400)
    except OSError as error:
        return _unreadable(error)
    fared = [(run, run.checks[title]) for run, _flipped in runs if title in run.checks]
    if not fared:
        return JSONResponse({"error": "no run that is kept has a check of that title"}, 404)
    return await past.answer(
        {
            "title": title,
            "severity": fared[0][1].severity,
            "flips": sum(flip.title == title for _run, flipped in runs for flip in flipped),
            "runs": [
                {
                    "run_id": run.run_id,
                    "started_at": run.started_at,
                    "origin": run.origin,
                    "address": run.address,
                    "outcome": how.outcome,
                    "message": how.message,
                    "duration_ms": round(how.duration * 1000, 3),
                }
                for run, how in fared[offset : offset + limit]
            ],
        }
    )
