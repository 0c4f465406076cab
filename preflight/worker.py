"""The process that serves: it imports the application while the suite runs, and waits for the verdict.

The parent's side (:class:`Worker`) is light; the application, uvicorn and asyncio are in the child only.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflight import children, report
from preflight.channel import ChannelError, Message
from preflight.settings import Settings

if TYPE_CHECKING:
    import uvicorn

WELL_KNOWN = ("/ws/chat", "/health", "/diagnostics")
"""Routes whose addresses the launcher prints when the application has them."""


@dataclass(slots=True)
class Instance:
    """What an application can know of the instance it runs in.

    It is in the lifespan's and every request's state as ``preflight`` (ASGI: ``scope["state"]``).
    """

    report: report.Report | None
    """The run that let this instance start, None where no suite ran."""
    settings: Settings
    instance_id: str
    since: str
    restarts: int = 0
    draining: bool = False


class Worker:
    """The worker, from its start to its end, as its parent sees it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # The application finds the env file's variables in its environment before it is imported.
        self.child = children.Child("preflight.worker", settings.root, settings.environment)
        self.imported = False
        self.error: str | None = None
        """Why the application did not import, or did not start; one line."""
        self.routes: tuple[str, ...] = ()
        self.ready = False
        self._tell("application", name=settings.app)

    def _tell(self, kind: str, descriptors: tuple[int, ...] = (), **data: Any) -> None:
        try:
            self.child.channel.send(kind, descriptors, **data)
        except OSError:
            pass  # it has died, which the next look at it tells

    def read_channel(self) -> list[Message]:
        """Take in what the worker says."""
        try:
            messages = self.child.channel.arrived()
        except ChannelError as error:
            self.error = f"the worker sent {error}"
            self.child.kill()
            return []
        for message in messages:
            match message.kind:
                case "imported":
                    self.imported, self.routes = True, tuple(message.data["routes"])
                case "failed":
                    self.error = str(message.data["error"])
                case "ready":
                    self.ready = True
        return messages

    def ended(self) -> bool:
        """Whether it is gone; then ``error`` is set if the application had not imported."""
        if not self.child.ended():
            return False
        if not self.imported and self.error is None:
            self.error = f"the process that imported it ended ({self.child.ending})"
        return True

    def wait_for_import(self) -> str | None:
        """Block until the application has imported or failed to; returns its error, None if it imported."""
        while not self.imported and self.error is None and not self.ended():
            watched: list[Any] = (
                [self.child.channel] if self.child.channel.closed else [self.child.channel, self.child.output]
            )
            for source in select.select(watched, [], [], 0.1)[0]:
                if source is self.child.output:
                    self.child.read_output()
                else:
                    self.read_channel()
        return None if self.imported else self.error

    def serve(self, sock: socket.socket, options: Mapping[str, object], **instance: object) -> None:
        """Hand over the listening socket; the worker serves on it."""
        self._tell("serve", (sock.fileno(),), options=dict(options), **instance)

    def drain(self) -> None:
        """Ask it to finish what it is doing and end."""
        self._tell("drain")


# The child's side.


def load(name: str) -> Any:
    """Import the application named ``module:attribute``; a function without parameters is called to make it.

    Raises whatever the import raises, and AttributeError for an attribute that is not there.
    """
    module, _, attribute = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise AttributeError(f"module {module!r} has no attribute {attribute!r}")
        found = getattr(found, part)
    if inspect.isfunction(found) and not inspect.iscoroutinefunction(found):
        needed = [
            parameter
            for parameter in inspect.signature(found).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        ]
        if not needed:
            found = found()
    if not callable(found):
        raise TypeError(f"{name} is no ASGI application: it cannot be called")
    return found


def _why(error: BaseException, root: str) -> str:
    """The error in one line, with the place in the project's own code where it was raised."""
    said = report.first_line(str(error))
    line = f"{type(error).__name__}: {said}" if said else type(error).__name__
    places = []
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file.startswith(root) and "site-packages" not in file and file != __file__:
            places.append(f"{os.path.relpath(file, root)}:{trace.tb_lineno}")
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename and error.filename.startswith(root):
        places = [f"{os.path.relpath(error.filename, root)}:{error.lineno}"]
        line = f"{type(error).__name__}: {error.msg}"
    return f"{line} ({places[-1]})" if places else line


def _server(app: Any, settings: Settings, instance: Instance, on_ready: Any) -> uvicorn.Server:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            self.lifespan.state["preflight"] = instance
            await super().startup(sockets)
            if self.started:
                on_ready()

    config = uvicorn.Config(
        app,
        log_level="warning",  # the launcher says what happens; a line for each request would halve the speed
        access_log=False,
        ws_per_message_deflate=False,  # its memory is most of an idle connection's
        proxy_headers=False,  # trust follows the socket's peer
        server_header=False,
        timeout_graceful_shutdown=max(1, int(settings.graceful_timeout)),
    )
    return Server(config)


class _Main:
    """The worker's main thread imports and serves; a second one hears the launcher."""

    def __init__(self, descriptor: int) -> None:
        self._orders: dict[str, Message] = {}
        self._condition = threading.Condition()
        self._serving: tuple[uvicorn.Server, Instance] | None = None
        self._channel = children.attach(descriptor, self._hear, self._hung_up)

    def _hear(self, message: Message) -> None:
        with self._condition:
            self._orders[message.kind] = message
            self._condition.notify_all()
        if message.kind == "drain":
            self._drain()

    def _drain(self) -> None:
        if self._serving is not None:
            server, instance = self._serving
            instance.draining = True
            server.should_exit = True

    def _hung_up(self) -> None:
        """The launcher is gone: answer what is in flight, then end, whatever happens."""
        if self._serving is not None:
            self._drain()
            time.sleep(self._serving[1].settings.graceful_timeout + 1)
        children.end_group()

    def _wait(self, kind: str) -> Message:
        with self._condition:
            self._condition.wait_for(lambda: kind in self._orders)
            return self._orders[kind]

    def _say(self, kind: str, **data: Any) -> None:
        try:
            self._channel.send(kind, **data)
        except OSError:
            pass  # the launcher is gone, and _hung_up deals with that

    def run(self) -> int:
        # Ctrl-C in a terminal is the launcher's; it drains us in order.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        name = self._wait("application").data["name"]
        sys.path.insert(0, os.getcwd())
        # Collecting garbage during an import finds none and takes time.
        gc.disable()
        try:
            app = load(name)
            import uvicorn  # noqa: F401  # before the verdict, so that serving can begin at once after it
        except (Exception, SystemExit) as error:  # noqa: BLE001
            # Whatever an application raises at import is an answer, sys.exit() included.
            self._say("failed", error=_why(error, os.getcwd()))
            return 1
        gc.freeze()
        gc.enable()
        routes = {getattr(route, "path", None) for route in getattr(app, "routes", ())}
        self._say("imported", routes=[path for path in WELL_KNOWN if path in routes])
        return self._serve(app, self._wait("serve"))

    def _serve(self, app: Any, order: Message) -> int:
        from preflight import settings as settings_module

        sock = socket.socket(fileno=order.descriptors[0])
        data = order.data
        settings = settings_module.load(Path.cwd(), options=data["options"])
        instance = Instance(
            report=report.Report.from_json(data["report"]),
            settings=settings,
            instance_id=data["instance_id"],
            since=data["since"],
            restarts=data["restarts"],
        )
        server = _server(app, settings, instance, lambda: self._say("ready"))
        self._serving = server, instance
        if "drain" in self._orders:
            self._drain()
        server.run(sockets=[sock])
        return 0 if server.started else 3


if __name__ == "__main__":
    sys.exit(_Main(int(sys.argv[1])).run())
