"""A scrape of /metrics without a server: the real route behind the real counter, asked in ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware

from preflight.report.model import Check, Report
from preflight.web import routes, services
from preflight.web.instance import Instance
from preflight.web.mount import InFlight
from preflight.web.services import Application, Services

MakeCheck = Callable[..., Check]
MakeReport = Callable[..., Report]
MakeInstance = Callable[..., Instance]


def made(instance: Instance, **about: Any) -> Services:
    """What is scraped: an application that has no metrics of its own but those that ``about`` says."""
    application = Application("An application", "of few parts", **about)
    return Services.made(application, routes.table(), instance)


def scrape(serving: Services, accept: str = "") -> tuple[str, str]:
    """One scrape, spoken in ASGI to the real route behind the real counter: content type and text."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    app = Starlette(routes=[route.mounted() for route in serving.table], middleware=[Middleware(InFlight)])
    headers = [(b"accept", accept.encode())]
    scope = {"type": "http", "method": "GET", "path": "/metrics", "headers": headers, "query_string": b""}
    asyncio.run(app({**scope, "state": {services.STATE: serving}}, receive, send))
    assert sent[0]["status"] == 200
    return dict(sent[0]["headers"])[b"content-type"].decode(), b"".join(one.get("body", b"") for one in sent).decode()
