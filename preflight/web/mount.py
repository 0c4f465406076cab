"""Mounting the routes of this package beside an application's own, and the guard before all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from preflight.web import routes, services
from preflight.web.guard import Guard
from preflight.web.instance import BlockedStart, Instance
from preflight.web.routing import direct
from preflight.web.services import Application, Services

Handler = Callable[[Request, Any], Coroutine[Any, Any, Response]]


class Mount:
    """The routes and the guard of one application.

    The framework's application takes :attr:`routes`, :meth:`lifespan` and :attr:`exception_handlers`; a server calls
    :attr:`entrance`, which :meth:`wrap` makes.
    """

    def __init__(self, application: Application, project: Path) -> None:
        """``project``: the folder whose settings count where no launcher stands behind the server."""
        self.application = application
        self.table = routes.table(application.routes)
        self.exception_handlers: dict[int | type[Exception], Handler] = {HTTPException: refused, Exception: broken}
        self.entrance: ASGIApp = self._not_wrapped
        self._project = project
        self._launched: Instance | None = None

    @property
    def routes(self) -> list[BaseRoute]:
        """The routes for Starlette's router."""
        return [route.mounted() for route in self.table]

    def wrap(self, app: ASGIApp) -> None:
        """Make the entrance: the way of a request from the outside in, which ends at ``app``."""
        self.entrance = Guard(Front(InFlight(self._lifespan_seen(app)), direct(self.table)))

    @staticmethod
    async def _not_wrapped(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError("wrap() the application first")

    def _lifespan_seen(self, app: ASGIApp) -> ASGIApp:
        """The application, with what the framework does not do with the messages of the lifespan.

        The start-up learns what the server has put into the lifespan's state (the launcher's worker puts the instance
        there; Starlette hands state out and not in), and a blocked start is one line in the server's log instead of a
        traceback.
        """

        async def seen(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "lifespan":
                await app(scope, receive, send)
                return
            self._launched = scope.get("state", {}).get("preflight")
            failed: list[Message] = []

            async def hold_back(message: Message) -> None:
                if message["type"] == "lifespan.startup.failed":
                    failed.append(message)
                else:
                    await send(message)

            try:
                await app(scope, receive, hold_back)
            except BlockedStart as blocked:
                await send({"type": "lifespan.startup.failed", "message": str(blocked)})
            except BaseException:
                for message in failed:
                    await send(message)
                raise

        return seen

    @asynccontextmanager
    async def lifespan(self, _app: object) -> AsyncIterator[dict[str, Any]]:
        """Behind the launcher, take its instance; started directly, run the suite here."""
        instance, port_is_known = self._launched, True
        if instance is None:
            # Only here: a start behind the launcher waits for none of it.
            from preflight.web import bound, start

            host, port = bound.expected_address()
            instance = await asyncio.to_thread(start.examine, self._project, host, port)
            port_is_known = port is not None
        serving = Services.made(self.application, self.table, instance)
        if not port_is_known:
            self._learn_port(instance, serving)
        async with serving.running():
            yield {"preflight": instance, services.STATE: serving}

    def _learn_port(self, instance: Instance, serving: Services) -> None:
        from preflight.web import bound

        entrance = self.entrance

        def learn(port: int) -> None:
            self.entrance = entrance
            instance.settings = replace(instance.settings, port=port)
            serving.access.cookies.moved_to(port)

        self.entrance = bound.until_known(entrance, learn)


class Front:
    """Answers GET and HEAD of some paths itself, before the framework's routing; all else is the framework's.

    This gives four times as many answers a second. The framework has the same routes, for the other methods.
    """

    def __init__(self, app: ASGIApp, endpoints: Mapping[str, ASGIApp]) -> None:
        self.app = app
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            endpoint = self._endpoints.get(scope["path"].removeprefix(scope.get("root_path", "")))
            if endpoint is not None:
                await endpoint(scope, receive, send)
                return
        await self.app(scope, receive, send)


class InFlight:
    """Counts the HTTP requests that are being answered.

    It stands behind :class:`Front`, whose answers are over before anybody could look.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        metrics = services.of(scope).metrics
        metrics.in_flight += 1
        try:
            await self.app(scope, receive, send)
        finally:
            metrics.in_flight -= 1


async def refused(_request: Request, error: Exception) -> JSONResponse:
    """No such route, no such method: in the same shape as every other refusal."""
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def broken(_request: Request, _error: Exception) -> JSONResponse:
    """A fault of ours; the server's log says which."""
    return JSONResponse({"error": "a fault of the server; its log says more"}, 500)
