"""``guard(app)``: an application that is checked before it starts, and has our routes beside it, under any ASGI server.

The server is not ours: no port is claimed, and nothing is supervised. The application's start-up runs the suite, once
for all processes of the server, and fails if a requirement blocks. Behind our own launcher, which has done all that,
the application is left alone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import warnings
from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

from preflight.web import interfaces

if TYPE_CHECKING:
    from preflight.project import Project
    from preflight.web.asgi import App, Receive, Scope, Send
    from preflight.web.beside import Beside
    from preflight.web.instance import Instance

UNASKED = "the requirements could not be checked: "
UNCHECKED = b"the requirements of this server have not been checked: it has to run the application's lifespan"


def guard(app: App) -> Guarded:
    """The application, guarded by the requirements of the project in whose folder the server is started.

    Name what this returns where the server asks for an application::

        app = guard(app)

    :param app: an ASGI 3 application; not a factory, and not WSGI.
    :raises TypeError: for an object that its arguments or its class show to be something else.
    """
    try:
        interfaces.must_be_asgi3(app, "what it was given")
    except interfaces.CannotBeServed as error:
        of_names = error.fix in (interfaces.NEEDED, interfaces.WITHOUT_ARGUMENTS)
        advice = f": {error.fix}" if not of_names else ""
        raise TypeError(f"guard() takes an ASGI application, and {error}{advice}") from None
    caller = sys._getframe(1)
    module = caller.f_globals
    guarded = Guarded(app, module.get("__name__", "__main__"), module.get("__file__"))
    guarded.made_at = caller.f_code, caller.f_lineno
    return guarded


class Guarded:
    """An application behind the requirements of its project."""

    def __init__(self, app: App, module: str, file: str | None = None) -> None:
        """``module`` is where the application is, for messages; ``file`` is that module's."""
        self.app = app
        self._name = f"{module}:app"
        self._file = file
        self._way: App | None = None
        """What answers, once the lifespan has begun."""
        self.made_at: tuple[CodeType, int] | None = None
        """The code that has called :func:`guard`, and its line."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, for an ASGI server."""
        await (self._way or self._not_begun)(scope, receive, send)

    def __del__(self) -> None:
        dropper, (code, line) = sys._getframe().f_back, self.made_at or (None, 0)
        if dropper is not None and dropper.f_code is code and dropper.f_lineno == line and self._way is None:
            what = "the result of guard() is not used, so nothing is guarded: write app = guard(app)"
            warnings.warn(what, RuntimeWarning, stacklevel=2)

    async def _not_begun(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._live if scope["type"] == "lifespan" else _unchecked
        await answer(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "preflight" in scope.get("state", {}):  # the launcher's worker has put it there
            self._way = self.app
            await self.app(scope, receive, send)
            return
        from preflight.processes import signals
        from preflight.web import bound, start
        from preflight.web.instance import BlockedStart

        ignored = signals.learn_how_children_end()  # the suite is one
        host, port = bound.expected_address()
        try:
            found = _project(self._file)
            instance = await asyncio.to_thread(start.examine_once, found, host, port, self._name)
        except Exception as error:  # noqa: BLE001  # servers take any other for an application that has no lifespan
            why = str(error) if isinstance(error, BlockedStart) else f"{UNASKED}{type(error).__name__}: {error}"
            await receive()
            await send({"type": "lifespan.startup.failed", "message": why})
            if "asgi" not in scope:  # Starlette's test client: it takes a return for a good start, and waits for ever
                raise BlockedStart(why) from None
            return
        finally:
            if ignored:  # by the application, say, for children of its own
                signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        beside = _beside(self.app, instance)
        if beside is None:
            self._way = self._first(self._without_routes, instance)
            await self.app(scope, receive, send)
            return
        entrance = beside.entrance(self._live)
        way = entrance if port is not None else self._until_port_is_known(entrance, beside, instance)
        self._way = self._first(way, instance)
        await beside.begin(instance)
        await beside.lifespan(scope, _draining(receive, instance), send)

    async def _without_routes(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._live if scope["type"] == "lifespan" else self.app
        await answer(scope, receive, send)

    def _first(self, way: App, instance: Instance) -> App:
        """Before the first request, redact what the server's loggers write: some servers make them when they serve."""

        async def first(scope: Scope, receive: Receive, send: Send) -> None:
            from preflight.redaction.redactor import Redactor
            from preflight.web import logs

            self._way = way
            logs.redact(Redactor.of(instance.settings))
            await way(scope, receive, send)

        return first

    def _until_port_is_known(self, entrance: App, beside: Beside, instance: Instance) -> App:
        from preflight.web import bound

        def learn(port: int) -> None:
            self._way = entrance
            instance.settings = replace(instance.settings, port=port)
            beside.moved_to(port)

        return bound.until_known(entrance, learn)


def _project(file: str | None) -> Project:
    """The project of the folder where the server was started; ``file`` has the application.

    Raises BlockedStart where the requirements are those of the application's own folder, and would not be asked.
    """
    from preflight import project
    from preflight.web.instance import BlockedStart

    here = Path.cwd()
    found = project.find(here)
    if file is not None and not project.has_its_own(found):
        there = project.find(Path(os.path.abspath(file)).parent)
        if not there.problem and project.has_its_own(there):
            where = f"the application's requirements are in {there.root}, but the server was started in {here}"
            raise BlockedStart(f"{where}: start it in {there.root}")
    return found


def _beside(app: App, instance: Instance) -> Beside | None:
    """What serves our routes; None if they are off, and, with a line that says why, where they cannot be served."""
    prefix = instance.settings.prefix
    if not prefix:
        return None
    from preflight.web import extra

    if lacking := extra.lacking(prefix):
        os.write(2, f"{lacking}\n".encode())
    if extra.missing(extra.ROUTES):
        return None
    from preflight.web.beside import Beside

    return Beside(app, prefix, instance.settings.app)


def _draining(receive: Receive, instance: Instance) -> Receive:
    """``receive``, which begins the drain as soon as the server says that it stops."""

    async def received() -> MutableMapping[str, Any]:
        message = await receive()
        if message["type"] == "lifespan.shutdown":
            instance.start_draining()
        return message

    return received


async def _unchecked(scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
    """The answer to everything until the requirements have been checked: none of them is taken for granted."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1013, "reason": "not checked"})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(UNCHECKED))]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": UNCHECKED})
