"""Health: public, from memory, names only. It follows this instance's own runs and nobody else's."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from preflight import __version__
from preflight.instance import Instance

ARCHITECTURE = "LangGraph StateGraph behind FastAPI"


def status(instance: Instance) -> str:
    """ "healthy", "unhealthy" or "draining"; warnings do not make it unhealthy.

    Only a re-run can be what blocks: a start that is blocked serves nothing.
    """
    if instance.draining:
        return "draining"
    blocked = instance.settings.rerun_gates and instance.report is not None and not instance.report.may_start
    return "unhealthy" if blocked else "healthy"


async def health(request: Request) -> JSONResponse:
    """Whether this instance is well, and what troubles it by name."""
    instance: Instance = request.state.preflight
    found = instance.report
    connections = request.app.state.connections
    warnings = [check.title for check in found.warnings] if found else ["Preflight was not run"]
    if instance.rerun_problem:
        warnings.append("The last re-run broke")
    body: dict[str, Any] = {
        "status": status(instance),
        "version": __version__,
        "architecture": ARCHITECTURE,
        "critical_errors": [check.title for check in found.blocking] if found else [],
        "warnings": warnings,
        "active_connections": connections.open,
        "active_sessions": connections.sessions,
    }
    return JSONResponse(body, 200 if body["status"] == "healthy" else 503)


async def live(_request: Request) -> JSONResponse:
    """The process answers; that is all this says."""
    return JSONResponse({"status": "live"})


async def ready(request: Request) -> JSONResponse:
    """The verdict is good and the server is not draining."""
    state = status(request.state.preflight)
    if state == "healthy":
        return JSONResponse({"status": "ready"})
    return JSONResponse({"status": state}, 503)


routes = [
    Route("/health", health),
    Route("/health/live", live),
    Route("/health/ready", ready),
]
