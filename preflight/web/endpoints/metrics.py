"""GET /metrics."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from preflight.web import services
from preflight.web.metrics import State


async def metrics(request: Request) -> Response:
    """One scrape."""
    serving = services.of(request.scope)
    snapshot = serving.snapshot
    await snapshot.look()
    state = State(serving.instance, snapshot.latest(), snapshot.trusted(), dict(serving.reruns.endings))
    body, content_type = await serving.metrics.scrape(state, request.headers.get("accept", ""))
    return Response(body, headers={"Content-Type": content_type})
