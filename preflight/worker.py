"""The process that serves: it imports the application while the suite runs, and waits for the verdict.

The parent's side (:class:`Worker`) is light; the application, uvicorn and asyncio are in the child only.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from preflight import children, interpreter, signals, stacks
from preflight.audit import Event, Outbox
from preflight.channel import ChannelError, Message
from preflight.settings import Settings
from preflight.text import first_line

if TYPE_CHECKING:
    import asyncio

    from preflight.rerun import Ending, Heard, Steps
    from preflight.serving import Server

FLUSH = 0.5  # seconds that the last events get to reach the launcher
LEAVE = 2.0  # seconds that what is left in a process gets to end when its event loop has ended without being asked
DEAF = 2.0  # seconds for which a process may go on whose channel has closed
DEAF_EARLY = 0.25  # and before the verdict, when nothing that it answers may reach anybody
FATAL = "Fatal Python error: "
WELL_KNOWN = ("/ws/chat", "/health", "/diagnostics")
"""Routes whose addresses the launcher prints when the application has them."""


class Worker:
    """The worker, from its start to its end, as its parent sees it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # The application finds the env file's variables in its environment before it is imported.
        environ = interpreter.for_worker(settings.environment)
        self.child = children.Child("preflight.worker", settings.root, environ)
        self.imported = False
        self.error: str | None = None
        """Why the application did not import, or cannot be served; one line."""
        self.fix = ""
        """What to do about it; empty where importing the application shows more than we can say."""
        self.routes: tuple[str, ...] = ()
        self.unguarded = False
        """Whether it may have a socket that listens."""
        self.started = False
        """Whether the application's start-up is complete."""
        self.ready = False
        """Whether it accepts connections: it has said so itself, of the instance that it was handed to."""
        self.on_beat: Callable[[], object] = lambda: None
        """Called for each sign of life of its event loop."""
        self.stacks: list[str] | None = None
        """Where it stands, line by line, while it is asked for that."""
        self._instance_id = ""
        self.on_audit: Callable[[Event], object] = lambda _event: None
        """Called for each event that the application reports."""
        self.rerun = ""
        """The id of the re-run that it wants, for as long as it wants that to go on; empty while it wants none."""
        self.cancelled = 0
        """How many requests and turns it could not finish while it drained."""
        self.in_flight: int | None = None
        """How many requests and turns it said that it was busy with; None until it has answered that."""
        self.ended_for = ""
        """What it was ended for, where that was found out here."""
        self._closed_at = 0.0
        """When it was first seen that its channel has closed; 0: it has not."""
        self._events = 0
        self._reported = 0
        self._tell("application", name=settings.app, port=settings.port)

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
            self.child.kill(f"it sent {error}")
            return []
        for message in messages:
            match message.kind:
                case "imported":
                    self.imported, self.routes = True, tuple(message.data["routes"])
                case "failed":
                    self.error, self.fix = str(message.data["error"]), str(message.data["fix"])
                case "unguarded":
                    self.unguarded = True
                case "started":
                    self.started = message.data["instance_id"] == self._instance_id
                case "ready":
                    self.ready = message.data["instance_id"] == self._instance_id
                case "beat":
                    self.on_beat()
                case "audit":
                    self._events += 1
                    try:
                        self.on_audit(Event.of_message(message.data))
                    except (KeyError, TypeError, ValueError, OverflowError):
                        pass  # no event: not from our side of the channel
                case "rerun":
                    self.rerun = str(message.data["run_id"])
                case "in_flight":
                    self.in_flight = int(message.data["count"])
                case "drained":
                    self.cancelled = int(message.data["cancelled"])
                    self._reported = int(message.data["events"])
        return messages

    def read_output(self) -> list[str]:
        """The lines that it printed since, but for those that say where it stands while it is asked for that."""
        lines = self.child.read_output()
        if self.stacks is None:
            return lines
        # faulthandler puts an empty line between two threads.
        self.stacks += [line for line in lines if stacks.is_line(line)]
        return [line for line in lines if line and not stacks.is_line(line)]

    def read_rest(self) -> None:
        """Take in what is left of what it said, without waiting for more."""
        while self.child.channel.waits():
            self.read_channel()

    @property
    def lost(self) -> int:
        """How many events it had that did not come; known once it has drained."""
        return max(0, self._reported - self._events)

    def ended(self) -> bool:
        """Whether it is gone; then ``error`` is set if it was not going to serve yet."""
        if not self.child.ended() and not self._is_deaf():
            return False
        if not self.unguarded and self.error is None:
            when = " after that" if self.imported else ""
            self.error = f"the process that imported it ended{when} ({self.ended_for or self.child.ending})"
            self.child.drain_output()
            # Of the interpreter's own, for a variable that it does not take, say: importing again need not show it.
            if fatal := next((line for line in self.child.lines if line.startswith(FATAL)), ""):
                self.error += f": {first_line(fatal)}"
        return True

    def _is_deaf(self) -> bool:
        """Whether its channel has closed, and it goes on: it has become another program, and is ended for that."""
        if not self.child.channel.closed:
            return False
        now = time.monotonic()
        self._closed_at = self._closed_at or now
        if now - self._closed_at < (DEAF if self.unguarded else DEAF_EARLY):
            return False  # it ends, most likely
        self.ended_for = "it closed its channel to the launcher, as a process does that becomes another program"
        self.child.kill(self.ended_for)
        return True

    def wait_for_import(self) -> str | None:
        """Block until the application has imported or failed to; returns its error, None if it imported.

        It can have imported, and tried to listen since.
        """
        while not self.imported and self.error is None and not self.ended():
            watched: list[Any] = [] if self.child.channel.closed else [self.child.channel]
            if not self.child.output_closed:
                watched.append(self.child.output)
            for source in select.select(watched, [], [], 0.1)[0]:
                if source is self.child.output:
                    self.child.read_output()
                else:
                    self.read_channel()
        self.read_rest()
        return self.error

    def tell_verdict(self) -> None:
        """Let it know that it is going to serve; it says when it can take the socket."""
        self._tell("verdict")

    def serve(
        self,
        sock: socket.socket,
        options: Mapping[str, object],
        *,
        instance_id: str,
        on_trial: bool,
        **instance: object,
    ) -> None:
        """Hand over the listening socket; the worker serves on it.

        ``on_trial``: it starts the application, and accepts nothing until it is admitted.
        """
        self._instance_id = instance_id
        settings = self.settings.to_message()
        described = {**instance, "instance_id": instance_id, "on_trial": on_trial, "settings": settings}
        self._tell("serve", (sock.fileno(),), options=dict(options), **described)

    def ask(self, sock: socket.socket) -> None:
        """Hand over a connection of its own, on which a request has been sent."""
        self._tell("ask", (sock.fileno(),))

    def write_tasks(self) -> None:
        """Have it write to its output what its event loop waits for."""
        self._tell("write_tasks")

    def admit(self) -> None:
        """Let it accept connections, after a trial."""
        self._tell("admit")

    def rerun_goes_on(self, run_id: str, steps: Steps) -> None:
        """Tell it steps of the re-run that it wants."""
        self._tell("rerun", run_id=run_id, steps=steps)

    def rerun_is_over(self, ending: Ending) -> None:
        """Tell it what came of that re-run."""
        self.rerun = ""
        self._tell("rerun", run_id=ending.report.run_id, ending=ending.to_json())

    def count_notices(self, tally: Mapping[str, Any]) -> None:
        """Let it know what became of the notices so far."""
        self._tell("notifications", tally=dict(tally))

    def drain(self, *, replaced: bool, last: bool) -> None:
        """Ask it to finish what it is doing and end.

        ``replaced``: another worker serves the same socket already. ``last``: nobody will after this one.
        """
        self._tell("drain", replaced=replaced, last=last)

    def count_in_flight(self) -> None:
        """Ask it what it is busy with; the answer comes as ``in_flight``, unless its event loop stands still."""
        self._tell("count")


# The child's side.

OWN = os.path.dirname(__file__) + os.sep  # no place in here says anything of an application


def _why(error: BaseException, root: str) -> str:
    """The error in one line, with the place in the project's own code where it was raised."""
    try:
        said = first_line(str(error))
    except Exception:  # noqa: BLE001  # an error of the application's own that cannot be said
        said = ""
    line = f"{type(error).__name__}: {said}" if said else type(error).__name__
    places = []
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file.startswith(root) and "site-packages" not in file and not file.startswith(OWN):
            places.append(f"{os.path.relpath(file, root)}:{trace.tb_lineno}")
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename and error.filename.startswith(root):
        places = [f"{os.path.relpath(error.filename, root)}:{error.lineno}"]
        line = f"{type(error).__name__}: {error.msg}"
    return f"{line} ({places[-1]})" if places else line


def _well_known(app: Any) -> list[str]:
    """Which of the well-known routes an application has; what it calls its routes may be anything."""
    try:
        paths = [getattr(route, "path", None) for route in getattr(app, "routes", ())]
    except Exception:  # noqa: BLE001  # whatever an application's own attributes raise
        return []
    return [path for path in WELL_KNOWN if path in paths]


def _leave(code: object) -> None:
    """End this process with an exit code in a while, if it has not ended by then."""
    number = code if isinstance(code, int) else int(code is not None)
    timer = threading.Timer(LEAVE, os._exit, [number & 0xFF])
    timer.daemon = True
    timer.start()


class _Reruns:
    """Has the launcher run the suite again; a :class:`preflight.rerun.Runner`."""

    def __init__(self, say: Callable[..., None]) -> None:
        self._say = say
        self._followed: tuple[str, Heard, Callable[[Ending], object]] | None = None

    def begin(self, run_id: str, heard: Heard, over: Callable[[Ending], object]) -> None:
        """Have it begin one; both are called in the thread that hears the launcher."""
        self._followed = (run_id, heard, over)
        self._say("rerun", run_id=run_id)

    def end(self, run_id: str) -> None:
        """Have it end that one."""
        if self._followed is not None and self._followed[0] == run_id:
            self._followed = None
            self._say("rerun", run_id="")

    def hear(self, run_id: str, steps: Steps | None = None, ending: Mapping[str, Any] | None = None) -> None:
        """What the launcher says of a re-run."""
        if self._followed is None or self._followed[0] != run_id:
            return  # nobody wants to know any more
        _run_id, heard, over = self._followed
        if steps is not None:
            heard(steps)
        if ending is None:
            return
        from preflight.report import ReportError
        from preflight.rerun import Ending

        self._followed = None
        # One that cannot be read is missed in time by who waits for it; this thread has more to hear.
        with contextlib.suppress(ReportError):
            over(Ending.from_json(ending))


class _Main:
    """The worker's main thread imports and serves; a second one hears the launcher."""

    def __init__(self, descriptor: int) -> None:
        signals.leave_to_launcher()
        self._orders: dict[str, Message] = {}
        self._condition = threading.Condition()
        self._server: Server | None = None
        self._runner: asyncio.Runner | None = None
        self._pid = os.getpid()
        self._reruns = _Reruns(self._say)
        self._channel = children.attach(descriptor, self._hear, self._hung_up)
        signals.when_alone(self._hurry)

    def _hear(self, message: Message) -> None:
        if message.kind == "rerun":
            self._reruns.hear(**message.data)
            return
        if message.kind == "write_tasks":
            if self._runner is not None:
                with contextlib.suppress(RuntimeError):  # it is closed by now
                    stacks.write_tasks(self._runner.get_loop())
            return
        with self._condition:
            self._orders[message.kind] = message
            server = self._server
            self._condition.notify_all()
        if message.kind == "drain" and server is not None:
            server.drain(**message.data)
        if message.kind == "count":
            self._count(server)
        if message.kind == "ask" and server is not None:
            server.ask(socket.socket(fileno=message.descriptors[0]))
        if message.kind == "admit" and server is not None:
            server.admit()
        if message.kind == "notifications" and server is not None:
            server.instance.notifications = message.data["tally"]

    def _count(self, server: Server | None) -> None:
        def answer(count: int) -> None:
            self._say("in_flight", count=count)

        if server is None:
            answer(0)
        else:
            server.count_in_flight(answer)

    def _hung_up(self) -> None:
        """The launcher is gone: answer what is in flight, then end, whatever happens."""
        server = self._server
        if server is not None:
            # Another starter may have the socket by now.
            server.drain(replaced=False, last=False)
            time.sleep(server.instance.settings.drain_timeout + 1)
        children.end_group()

    def _hurry(self) -> bool:
        """Somebody wants the port while this drains by itself: accept nothing more, finish what is in flight."""
        if self._server is None or not self._server.started:
            return False
        self._server.drain(replaced=False, last=False)
        self._server.hurry()
        return True

    def _wait(self, kind: str) -> Message:
        with self._condition:
            self._condition.wait_for(lambda: kind in self._orders)
            return self._orders[kind]

    def _await_order(self, kind: str) -> Message:
        """Wait for an order; what an async factory has begun in the loop goes on meanwhile."""
        if self._runner is None:
            return self._wait(kind)
        import asyncio

        return self._runner.run(asyncio.to_thread(self._wait, kind))

    def _complete(self, awaitable: Awaitable[Any]) -> Any:
        """Await something in the loop that will serve: what an async factory makes may be bound to it."""

        async def complete() -> Any:
            return await awaitable

        return self._loop().run(complete())

    def _loop(self) -> asyncio.Runner:
        """The one event loop of this process."""
        if self._runner is None:
            import asyncio

            from preflight import serving

            self._runner = asyncio.Runner(loop_factory=serving.loop_factory())
        return self._runner

    @property
    def _is_copy(self) -> bool:
        """Whether this is a copy of the worker, which the application has forked: it speaks for nobody."""
        return os.getpid() != self._pid

    def _say(self, kind: str, **data: Any) -> None:
        if self._is_copy:
            return
        try:
            self._channel.send(kind, **data)
        except OSError:
            pass  # the launcher is gone, and _hung_up deals with that

    def run(self) -> int:
        order = self._wait("application")
        name: str = order.data["name"]
        root = os.getcwd()  # the application may go elsewhere
        sys.path.insert(0, root)
        # Collecting garbage during an import finds none and takes time.
        gc.disable()
        stacks.register()
        from preflight import listening
        from preflight.application import CannotBeServed, load

        guard = listening.Guard(
            name,
            order.data["port"],
            root,
            lambda attempt: self._say("failed", error=attempt, fix=listening.FIX),
        )
        guard.begin()
        try:
            application = load(name, self._complete)
            from preflight import serving
            from preflight.instance import Instance  # before the verdict, so that serving can begin at once after it
        except CannotBeServed as error:
            if not guard.attempt:  # that has been said, and is why
                self._say("failed", error=first_line(str(error)), fix=error.fix)
            return 1
        except BaseException as error:  # noqa: BLE001
            # Whatever an application raises at import is an answer: sys.exit(), a cancelled task and all.
            if not guard.attempt:
                self._say("failed", error=_why(error, root), fix="")
            return 1
        if self._is_copy:
            os._exit(0)  # an import that has forked, and lets the copy go on: a daemon's
        if not guard.imported():  # and has caught what it got for listening
            return 1
        gc.freeze()
        gc.enable()
        self._say("imported", routes=_well_known(application.app))
        serving.prepare()  # while the suite ends

        self._await_order("verdict")
        guard.end()
        # Only now: until then a socket that listens is one too many, and the guard cannot know whose it is.
        self._say("unguarded")
        order = self._await_order("serve")
        sock = socket.socket(fileno=order.descriptors[0])
        instance = Instance.of(order.data)
        outbox = Outbox(lambda event: self._say("audit", **event.to_message()))
        instance.note = outbox.put
        instance.runner = self._reruns

        def say(kind: str) -> None:
            if kind == "beat":
                with contextlib.suppress(OSError):  # the launcher is gone
                    if not self._is_copy:
                        self._channel.offer(kind)
            else:
                self._say(kind, instance_id=instance.instance_id)

        server = serving.Server(application, instance, say, on_trial=order.data["on_trial"])
        with self._condition:
            self._server = server
            drain, tally = self._orders.get("drain"), self._orders.get("notifications")
        if tally is not None:
            instance.notifications = tally.data["tally"]
        if drain is not None:
            server.drain(**drain.data)
        with self._loop() as loop:
            try:
                loop.run(server.serve(sockets=[sock]))
            except BaseException as error:
                # Nothing is served from here on, and threads of the application's may go on for ever.
                _leave(error.code if isinstance(error, SystemExit) else 1)
                raise
        outbox.flush(FLUSH)
        self._say("drained", cancelled=server.cancelled, events=outbox.taken)
        return 0 if server.started else 3


if __name__ == "__main__":
    sys.exit(_Main(int(sys.argv[1])).run())
