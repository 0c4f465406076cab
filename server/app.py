"""The application: it wires what stands beside it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from preflight import __version__
from preflight.settings.model import SettingsError, load
from preflight.web import diagnostics, followers, health, history, login, metrics, pages, reruns
from preflight.web.answers import Front
from preflight.web.instance import Instance
from preflight.web.security import Access, Guard
from preflight.web.snapshot import Snapshot
from server import archive, bound, chat, logs, openapi

ROOT = Path(__file__).resolve().parent.parent


class BlockedStart(RuntimeError):
    """The preflight blocks the start; the banner has said why."""


class Lifespan:
    """Between the server and the application's start-up.

    It lets the start-up see what the server put into the lifespan's state (the launcher's worker puts
    the instance there; Starlette hands state out and not in), and makes a blocked start one line in the
    server's log instead of a traceback.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return
        scope["app"].state.instance = scope.get("state", {}).get("preflight")
        failed: list[Message] = []

        async def hold_back(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                failed.append(message)
            else:
                await send(message)

        try:
            await self.app(scope, receive, hold_back)
        except BlockedStart as blocked:
            await send({"type": "lifespan.startup.failed", "message": str(blocked)})
        except BaseException:
            for message in failed:
                await send(message)
            raise


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Behind the launcher, take its instance; started directly, run the suite here."""
    instance = app.state.instance
    if instance is None:
        host, port = bound.expected_address()
        instance = await asyncio.to_thread(examine, host, port)
        if port is None and isinstance(app, Application):
            app.learn_port(instance)
    app.state.instance = instance
    app.state.reruns = runs = reruns.Reruns(instance)
    app.state.snapshot = snapshot = Snapshot(instance)
    app.state.past = past = history.Past(instance, snapshot)
    runs.published = snapshot.accept
    app.state.followers = live = followers.Followers(instance, runs, snapshot)
    app.state.connections.rerun = runs.for_agent
    access = Access(instance.settings)
    async with app.state.connections.running(instance, snapshot, past), runs.running(), live.running():
        yield {"preflight": instance, "access": access}
    access.guesses.tell(instance)


def examine(host: str | None, port: int | None) -> Instance:
    """Run the suite for an application that was started without the launcher; its server owns the port.

    ``host`` and ``port`` are those that it has bound, or is going to bind, as far as that is known.

    Raises BlockedStart when a critical requirement blocks or a setting is wrong.
    """
    # Only here: the launcher's worker has no use for them, and its import is a start's critical path.
    from preflight.output import publishing
    from preflight.output.log import Log, LogFile, direct
    from preflight.output.terminal import Terminal
    from preflight.processes import interpreter, suite
    from preflight.redaction.redactor import Redactor
    from preflight.report import banners
    from preflight.worker import floods

    try:
        settings = load(ROOT)
    except SettingsError as error:
        raise BlockedStart(str(error)) from None
    settings = replace(settings, port=port or settings.port)
    # As the launcher gives it to a worker: the client libraries look there for proxies, certificates and headers.
    os.environ.update(interpreter.for_worker({**settings.envfile.values, **os.environ}))
    redactor = Redactor.of(settings)
    logs.redact(redactor)
    floods.bound()
    terminal = Terminal(Log(redactor), sys.stderr)
    if settings.set_aside:
        from preflight.settings import servicelinks

        terminal.line(servicelinks.described(settings.set_aside), "yellow")
    try:
        log_file = LogFile(settings.log_file) if settings.log_file else None
    except OSError as error:
        raise BlockedStart(f"the log file {settings.log_file} cannot be used: {error.strerror}") from None
    instance = Instance(settings=settings, report=None, note=direct(settings, redactor, log_file))

    def on_signal(name: str, pid: int, module: str, why: str) -> None:
        instance.audit("signal", signal=name, to=pid, name=module, why=why, result="sent")

    if settings.skip:
        terminal.show(banners.bar("PREFLIGHT SKIPPED (PREFLIGHT_SKIP): no requirement was checked", "dark_orange3"))
        return instance
    result = suite.run(replace(settings, host=host or settings.host), {}, "start", redactor, on_signal=on_signal)
    if result.exit_code == 2:
        instance.audit("refused", by="server", why=[result.reason])
        raise BlockedStart(result.reason)
    try:
        publishing.publish(result.report, settings, terminal)
    except publishing.Unpublishable as error:
        why = f"the report cannot be written: {error}"
        instance.audit("refused", by="server", why=[why], run_id=result.report.run_id)
        raise BlockedStart(why) from None
    publishing.show(result.report, terminal, reason=result.reason, output=result.output)
    if not result.may_start:
        titles = [check.title for check in result.report.blocking]
        instance.audit("refused", by="server", why=titles or [result.reason], run_id=result.report.run_id)
        raise BlockedStart(f"the preflight blocks the start: {result.reason or ', '.join(titles)}")
    instance.report = result.report
    return instance


class Application(FastAPI):
    """FastAPI with what comes before it: the whole way of a request, from the outside in."""

    def __init__(self, direct: Sequence[BaseRoute], **options: Any) -> None:
        """``direct`` are routes whose endpoints answer in raw ASGI, before the framework's own way."""
        super().__init__(**options)
        self.router.routes.extend(direct)
        self._entrance: ASGIApp = Guard(Front(super().__call__, direct))

    def learn_port(self, instance: Instance) -> None:
        """Take the port that the server has bound from the first connection that comes by it."""
        entrance = self._entrance

        async def first(scope: Scope, receive: Receive, send: Send) -> None:
            server = scope.get("server")
            if server is not None and server[1]:
                self._entrance = entrance
                instance.settings = replace(instance.settings, port=server[1])
            await entrance(scope, receive, send)

        self._entrance = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self  # as Starlette does, for those who answer before it
        await self._entrance(scope, receive, send)


async def refused(_request: Request, error: Exception) -> JSONResponse:
    """No such route, no such method: in the same shape as every other refusal."""
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def broken(_request: Request, _error: Exception) -> JSONResponse:
    """A fault of ours; the server's log says which."""
    return JSONResponse({"error": "a fault of the server; its log says more"}, 500)


def create_app() -> FastAPI:
    """The agent server: the page, health, diagnostics, metrics and chat, and the guard before them."""
    app = Application(
        [*health.routes(), *diagnostics.routes()],
        title="Agent server",
        version=__version__,
        lifespan=lifespan,
        # FastAPI's own pages load scripts from elsewhere and run them inline; its document knows none of our routes.
        openapi_url=None,
        exception_handlers={HTTPException: refused, Exception: broken},
    )
    app.state.metrics = metrics.Metrics()
    app.add_middleware(metrics.InFlight, metrics=app.state.metrics)
    app.add_middleware(Lifespan)
    app.state.connections = chat.Chat(app.state.metrics.turns.observe)
    for part in (history, reruns, followers, metrics, chat, archive, login, openapi, pages):
        app.router.routes.extend(part.routes)
    app.openapi = openapi.document  # type: ignore[method-assign]  # as FastAPI's manual says
    return app
