"""GET /metrics."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from preflight.web import extra, services
from preflight.web.metrics import InstanceState


async def metrics(request: Request) -> Response:
    """One scrape."""
    serving = services.of(request.scope)
    instance, snapshot = serving.instance, serving.snapshot
    if extra.missing(extra.METRICS):
        return JSONResponse({"error": "prometheus-client is not installed (the extra web)"}, 501)
    await snapshot.look()
    state = InstanceState(
        instance,
        snapshot.latest(),
        snapshot.trusted(),
        serving.reruns.endings,
        None
        if serving.admission is not None and instance.requests is None
        else serving.in_flight + instance.board.others("requests"),
    )
    body, content_type = await serving.metrics.scrape(state, request.headers.get("accept", ""))
    return Response(body, headers={"Content-Type": content_type})
