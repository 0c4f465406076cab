"""Re-runs over HTTP: ask for one, and ask how far it is."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse

from preflight.text import address
from preflight.web import services
from preflight.web.reruns import REMEMBERED, Draining, TooSoon


async def run(request: Request) -> JSONResponse:
    """Begin a re-run, or join the one that goes on."""
    reruns = services.of(request.scope).reruns
    peer = address(*request.client) if request.client else "unknown"
    try:
        begun = reruns.start(peer)
    except TooSoon as soon:
        body = {"error": str(soon), "retry_after": soon.retry_after}
        return JSONResponse(body, 429, headers={"Retry-After": str(soon.retry_after)})
    except Draining as draining:
        return JSONResponse({"error": str(draining)}, 503)
    location = request.scope.get("root_path", "") + begun.path
    return JSONResponse(begun.document(), 202, headers={"Location": location})


async def state(request: Request) -> JSONResponse:
    """How far a re-run is, or how it ended."""
    found = services.of(request.scope).reruns.find(request.path_params["run_id"])
    if found is None:
        return JSONResponse({"error": f"no such run; the last {REMEMBERED} of this process are known"}, 404)
    return JSONResponse(found.document())
