"""The routes of this package under a prefix, beside an application that knows nothing of them.

A request below the prefix is answered here; everything else reaches the application as the server has made it, except
for the cookies of our logins. This costs one call, and no frame of its own for each message.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable
from contextlib import AsyncExitStack

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from preflight.web import routes
from preflight.web.guard import Guard
from preflight.web.instance import Instance
from preflight.web.mount import Front, broken, refused
from preflight.web.routing import direct
from preflight.web.services import STATE, Application, Services

MARK = b"_beside"
COOKIE = re.compile(rb"\s*preflight_[0-9]+_beside(_login)?\s*")
"""The names of our logins' cookies, whatever the port of the instance that has set them."""


class LoginValue:
    """Compares equal to the value of every Cookie header that may contain one of our logins."""

    __eq__ = staticmethod(re.compile(MARK).search)  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


LOGIN = (b"cookie", LoginValue())
"""Equal to the same as a header: ``LOGIN in headers`` takes a third of a loop's time, for no bytecode is executed."""

log = logging.getLogger("uvicorn.error")
ARCHITECTURE = "an ASGI application beside its preflight"


class Beside:
    """The routes beside one application. A server calls what :meth:`entrance` makes."""

    def __init__(self, app: ASGIApp, prefix: str, title: str) -> None:
        """``prefix`` begins with a slash and does not end with one; ``title`` is how people call the application."""
        self.app = app
        self._prefix = prefix
        self._application = Application(title=title, architecture=ARCHITECTURE)
        self._table = routes.table()
        own = Starlette(
            routes=[route.mounted() for route in self._table],
            exception_handlers={HTTPException: refused, Exception: broken},
        )
        self._routes = Guard(_with_a_slash(Front(own, direct(self._table))))
        self._serving: Services | None = None
        self._running: AsyncExitStack | None = None

    def entrance(self, lifespan: ASGIApp) -> ASGIApp:
        """The application that a server calls: it answers requests below the prefix, and passes on all others.

        ``lifespan`` answers the lifespan. Every request of the application's own passes here, so what looks at it first
        is a function with variables of its own, which passes on what is certainly not ours.
        """
        app, prefix = self.app, self._prefix

        def entrance(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
            try:
                headers = scope["headers"]
                ours = prefix in scope["path"] or LOGIN in headers or type(headers[0]) is not tuple
            except (KeyError, IndexError, TypeError):  # the lifespan, no headers, headers of another form
                ours = True
            return examined(scope, receive, send) if ours else app(scope, receive, send)

        def examined(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
            kind = scope["type"]
            if kind == "http" or kind == "websocket":
                if base := self._base(scope["path"], scope.get("root_path", "")):
                    return self._answer(base, scope, receive, send)
                if any(name == b"cookie" and MARK in value for name, value in scope["headers"]):
                    return app(without_logins(scope), receive, send)
            elif kind == "lifespan":
                return lifespan(scope, receive, send)
            return app(scope, receive, send)

        return entrance

    def _base(self, path: str, root: str) -> str:
        """The part of the path that leads to our routes; empty if the path is the application's.

        ``root`` is at its beginning, as ASGI has it, or is left out, as some servers do; it is there twice if the
        request did not pass the proxy that takes it off.
        """
        for base in (root + self._prefix, self._prefix, root + root + self._prefix):
            if path.startswith(base) and path[len(base) : len(base) + 1] in ("", "/"):
                return base
        return ""

    async def _answer(self, base: str, scope: Scope, receive: Receive, send: Send) -> None:
        if self._serving is None:
            raise RuntimeError("the routes beside the application are asked for before its lifespan has begun")
        whole = scope.get("root_path", "") + self._prefix
        path = whole + scope["path"][len(base) :]
        await self._routes({**scope, "path": path, "root_path": whole, "state": {STATE: self._serving}}, receive, send)

    def serving_as(self, instance: Instance) -> ASGIApp:
        """The application, as called by a server that serves it as this instance."""

        async def started(scope: Scope, receive: Receive, send: Send) -> None:
            await self.begin(instance)
            await self.lifespan(scope, receive, send)

        return self.entrance(started)

    def moved_to(self, port: int) -> None:
        """Take the port that the server has actually bound."""
        if self._serving is not None:
            self._serving.access.cookies.moved_to(port)

    # The lifespan.

    async def begin(self, instance: Instance) -> None:
        """Serve as this instance from now on."""
        stack = AsyncExitStack()
        self._serving = Services.made(self._application, self._table, instance, instance.admission)
        await stack.enter_async_context(self._serving.running())
        self._running = stack

    async def end(self) -> None:
        """End what goes on beside the application."""
        if self._running is not None:
            await self._running.aclose()
            self._running = None

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application's lifespan, as it would be without us, once :meth:`begin` was called."""
        asked = answered = False

        async def received() -> Message:
            nonlocal asked
            message = await receive()
            asked = True
            return message

        async def sent(message: Message) -> None:
            nonlocal answered
            answered = answered or message["type"].startswith("lifespan.startup.")
            await send(message)

        try:
            await self.app(scope, received, sent)
        except Exception as error:
            # An application without a lifespan, which says so by raising, is served all the same, with our routes.
            if answered:
                await self.end()
            if answered or asked:
                raise
            log.info("The application has no lifespan: it raised %s.", type(error).__name__)
        except BaseException:  # it exits: nothing is served
            await self.end()
            raise
        if answered:
            await self.end()
        else:  # it leaves the lifespan to us
            if not asked:
                await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self.end()
            await send({"type": "lifespan.shutdown.complete"})


def without_logins(scope: Scope) -> Scope:
    """The request without the cookies of our logins; a header that has others keeps those as they are."""
    headers = []
    for name, value in scope["headers"]:
        if name == b"cookie" and MARK in value:
            parts = value.split(b";")
            kept = [part for part in parts if not COOKIE.fullmatch(part.partition(b"=")[0])]
            if not kept:
                continue
            if len(kept) < len(parts):
                value = b";".join(kept).lstrip()
        headers.append((name, value))
    return {**scope, "headers": headers}


def _with_a_slash(app: ASGIApp) -> ASGIApp:
    """The prefix alone leads to the page, whose links are relative to it."""

    async def led(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == scope["root_path"]:
            query = scope["query_string"].decode("latin-1")
            to = f"{scope['root_path']}/{'?' if query else ''}{query}"
            await RedirectResponse(to, 308)(scope, receive, send)
            return
        await app(scope, receive, send)

    return led
