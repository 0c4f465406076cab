"""The fleet: its page, and the same for programs; 404 if there is no database of a fleet."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from preflight.report.model import STATES
from preflight.web import pages, services
from preflight.web.fleet import Away, FleetView, is_offered
from preflight.web.negotiation import accepted
from preflight.web.paging import page

FORMATS = {"json": "application/json", "html": "text/html"}
FILTERS = ("state", "release", "project", "check", "named")
LONGEST = 200  # characters of a condition


async def fleet(request: Request) -> Response:
    """The page; for programs the fleet at a glance, and where its database is away what was known last."""
    found = _fleet(request)
    wanted = request.query_params.get("format", accepted(request.headers.get("accept", ""), FORMATS))
    if wanted not in FORMATS:
        return JSONResponse({"error": f"format must be one of {', '.join(FORMATS)}"}, 400)
    if wanted == "html":
        return pages.page(request, pages.FLEET)
    overview, problem = await found.overview()
    body: dict[str, Any] = {
        "status": "away" if problem else "reached",
        "problem": problem,
        "generated_at": overview and overview.moment,
        "age_seconds": round(time.monotonic() - overview.at, 1) if overview else None,
        "fleet": overview and overview.body,
    }
    return await found.answer(body, 503 if problem else 200)


async def instances(request: Request) -> Response:
    """A page of the instances, the worst first (?limit, ?offset, and conditions)."""
    found = _fleet(request)
    try:
        limit, offset = page(request.query_params)
        conditions = _conditions(request.query_params)
    except ValueError as error:
        return JSONResponse({"error": str(error)}, 400)
    from preflight.fleet import queries

    which = queries.Filter(**conditions)
    return await _answered(found, lambda connection: queries.instances(connection, which, limit, offset))


async def instance(request: Request) -> Response:
    """One instance, with its newest report."""
    found = _fleet(request)
    instance_id: str = request.path_params["instance_id"]
    from preflight.fleet import queries

    try:
        row = await found.ask(lambda connection: queries.instance(connection, _text(instance_id)))
    except Away as away:
        return JSONResponse({"error": str(away)}, 503)
    except ValueError:
        row = None
    if row is None:
        return JSONResponse({"error": "there is no such instance"}, 404)
    report, problem = await found.report(row.pop("report"))
    return await found.answer({**row, "report": report, "problem": problem})


async def _answered(found: FleetView, question: Any) -> Response:
    try:
        return await found.answer(await found.ask(question))
    except Away as away:
        return JSONResponse({"error": str(away)}, 503)


def _fleet(request: Request) -> FleetView:
    serving = services.of(request.scope)
    if not is_offered(serving.instance.settings):
        raise HTTPException(404, "there is no fleet to show: PREFLIGHT_DATABASE_URL is not set")
    return serving.fleet


def _conditions(query: Mapping[str, str]) -> dict[str, str]:
    """The conditions of a request. Raises ValueError with what is allowed."""
    found = {name: _text(query.get(name, "")) for name in FILTERS}
    if "state" in query and found["state"] not in STATES:
        raise ValueError(f"state must be one of {', '.join(STATES)}")
    return found


def _text(value: str) -> str:
    """The value of a condition. Raises ValueError if PostgreSQL would not take it as a text, or it is too long."""
    if len(value) > LONGEST or "\0" in value:
        raise ValueError(f"a filter must be a text of at most {LONGEST} characters, without a NUL")
    return value
