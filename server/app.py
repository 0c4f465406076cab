"""The application: the agent server's own routes, mounted with those that every guarded application can show."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from preflight import __version__
from preflight.web.endpoints import openapi
from preflight.web.mount import Mount
from preflight.web.services import Application
from server import about
from server.chat import metrics, routes
from server.chat.service import ChatService

PROJECT = Path(__file__).resolve().parent.parent


class AgentServer(FastAPI):
    """FastAPI behind the guard."""

    def __init__(self, mount: Mount) -> None:
        super().__init__(
            title=mount.application.title,
            version=__version__,
            routes=mount.routes,
            lifespan=mount.lifespan,
            # FastAPI's own pages load scripts from elsewhere and run them inline; its document knows only its own.
            openapi_url=None,
            exception_handlers=mount.exception_handlers,
        )
        self.openapi = partial(openapi.document, mount.application, mount.table)  # type: ignore[method-assign]  # as FastAPI's manual says
        self.web = mount
        mount.wrap(super().__call__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.web.entrance(scope, receive, send)


def create_app() -> FastAPI:
    """The agent server: the page, health, diagnostics, metrics and chat, and the guard before them."""
    turns = metrics.Histogram(metrics.BUCKETS)
    chat = ChatService(turns)
    application = Application(
        title=about.TITLE,
        architecture=about.ARCHITECTURE,
        description=about.DESCRIPTION,
        routes=routes.table(chat),
        schemas=routes.SCHEMAS,
        panel=PROJECT / "server/chat/page",
        load=chat,
        metrics=partial(metrics.collect, turns),
        running=chat.running,
    )
    return AgentServer(Mount(application, PROJECT))
