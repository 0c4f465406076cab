"""The process that serves: it imports the application while the suite runs, and waits for the verdict."""

from __future__ import annotations

import gc

gc.disable()  # collecting garbage while modules are imported finds none and takes time

import contextlib
import errno
import os
import socket
import sys
import threading
from collections.abc import Awaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflight.output.audit import EventOutbox
from preflight.processes import children, interpreter, signals, stacks
from preflight.processes.channel import Message
from preflight.processes.worker import CLOSED, LISTENING_FIX, WELL_KNOWN
from preflight.text import first_line
from preflight.worker.orphaned import outlive_the_reader
from preflight.worker.reruns import LauncherRunner

if TYPE_CHECKING:
    import asyncio

    from preflight.processes.board import Board
    from preflight.web.beside import Beside
    from preflight.web.instance import Instance
    from preflight.web.logins import Admission
    from preflight.worker.application import LoadedApplication
    from preflight.worker.listening import ListeningGuard
    from preflight.worker.serving import Server

NEWS = 0.1  # seconds that news for the other workers waits for another message
FLUSH = 0.5  # seconds that the last events get to reach the launcher
LEAVE = 2.0  # seconds that the rest of a process gets to end when its event loop has ended without being asked
NOTED = ("notifications", "fleet", "restarts", "logout", "news")  # messages about the instance
OWN = os.path.dirname(os.path.dirname(__file__)) + os.sep  # a place in this package says nothing about an application


def _why(error: BaseException, root: str) -> str:
    """The error in one line, with the place in the project's own code where it was raised."""
    try:
        said = first_line(str(error))
    except Exception:  # noqa: BLE001  # an exception of the application's own whose text cannot be had
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
    """Which of the well-known routes an application has; the names of its other routes may be anything."""
    try:
        paths = [getattr(route, "path", None) for route in getattr(app, "routes", ())]
    except Exception:  # noqa: BLE001  # whatever an application's own attributes raise
        return []
    return [path for path in WELL_KNOWN if path in paths]


def _beside(application: LoadedApplication, prefix: str, name: str) -> Beside | None:
    """What serves our routes under the prefix; None if nothing can. A line says what is missing."""
    if not prefix:
        return None
    from preflight.web import extra

    lacking = extra.lacking(prefix)
    try:
        from preflight.web.beside import Beside
    except ImportError as error:
        lacking = lacking or f"{prefix} is not served: {type(error).__name__}: {first_line(str(error))}"
        Beside = None  # type: ignore[assignment, misc]  # noqa: N806
    if lacking:
        os.write(2, f"{lacking}\n".encode())
    return Beside(application.asgi3, prefix, name) if Beside is not None else None


def _leave(code: object) -> None:
    """End this process with an exit code after a while, if it has not ended by then."""
    number = code if isinstance(code, int) else int(code is not None)
    timer = threading.Timer(LEAVE, os._exit, [number & 0xFF])
    timer.daemon = True
    timer.start()


class _Main:
    """The worker's main thread imports and serves; a second one hears the launcher."""

    def __init__(self, descriptor: int) -> None:
        signals.leave_to_launcher()
        self._orders: dict[str, Message] = {}
        self._condition = threading.Condition()
        self._server: Server | None = None
        self._runner: asyncio.Runner | None = None
        self._early: list[Message] = []
        """Messages about the instance that came before the worker knew the instance."""
        self._pid = os.getpid()
        self._reruns = LauncherRunner(self._say)
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
        if server is not None:
            self._note(server.instance, message)
        elif message.kind in NOTED:
            self._early.append(message)

    @staticmethod
    def _note(instance: Instance, message: Message) -> None:
        """Take in what has happened to the instance since this worker was handed the socket."""
        match message.kind:
            case "notifications":
                instance.notifications = message.data["tally"]
            case "fleet":
                instance.fleet = message.data["state"]
            case "restarts":
                instance.restarts = message.data
            case "logout":
                instance.ended_logins[message.data["session"]] = message.data["expires"]
                instance.fellows.hear("logout", message.data)
            case "news":
                instance.fellows.hear(message.data["topic"], message.data["data"])

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
        try:
            if server is not None:
                # Another starter may have the socket by now.
                server.drain(replaced=False, last=False)
                outlive_the_reader(server.instance.settings.drain_timeout + 1)
        finally:
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

            from preflight.worker import serving

            self._runner = asyncio.Runner(loop_factory=serving.loop_factory())
        return self._runner

    @property
    def _is_copy(self) -> bool:
        """Whether this is a copy of the worker that the application has forked: it sends no messages."""
        return os.getpid() != self._pid

    def _say(self, kind: str, **data: Any) -> None:
        if self._is_copy:
            return
        try:
            self._channel.send(kind, **data)
        except OSError as error:
            self._unheard(error)

    def _offer(self, kind: str, patience: float = 0.0, **data: Any) -> bool:
        """Say something in the event loop that may be lost, where the launcher is stopped and hears nothing.

        Returns whether it was said; what would go to a launcher that is gone counts as said.
        """
        if self._is_copy:
            return True
        try:
            return self._channel.offer(kind, patience, **data)
        except OSError as error:
            self._unheard(error)
        return True

    def _tell(self, kind: str, **data: Any) -> None:
        """Say something in the event loop that must be heard: a thread waits for a launcher that is stopped."""
        if not self._offer(kind, **data):
            threading.Thread(target=self._say, args=(kind,), kwargs=data, daemon=True).start()

    def _unheard(self, error: OSError) -> None:
        """The launcher is gone, which :meth:`_hung_up` deals with, or it is there and can be told nothing any more."""
        if error.errno in (
            errno.EBADF,
            errno.ENOTSOCK,
        ):  # the hearing thread keeps the socket open, so the launcher does not notice
            os.write(2, f"{CLOSED}.\n".encode())
            os._exit(1)

    def _admission(self, board: Board, token: str, code: str, *, is_made: bool, **_ended: object) -> Admission:
        from preflight.web.logins import Admission, OwnLogins

        return Admission(token, is_made, OwnLogins(code, lambda: self._tell("code_spent"), board.claim))

    def _join(self, order: Message) -> Instance:
        """The instance that the launcher describes, and what connects this worker with it, and with the others."""
        from preflight.processes.board import Board
        from preflight.web.fellows import Fellows
        from preflight.web.instance import Instance

        instance = Instance.of(order.data)
        instance.runner = self._reruns
        instance.ended_logins = order.data["login"]["ended"]
        instance.end_login = lambda session, expires: self._tell("logout", session=session, expires=expires)
        workers = instance.settings.workers
        if workers > 1:
            instance.board = Board.attached(order.descriptors[1], order.data["number"], workers)
            instance.fellows = Fellows(lambda topic, data: self._offer("news", NEWS, topic=topic, data=data))
        return instance

    def run(self) -> int:
        """Import the application, wait for the verdict, and serve; returns the exit code."""
        order = self._wait("application")
        name: str = order.data["name"]
        root = os.getcwd()  # the application may go elsewhere
        stacks.register()
        import preflight.processes.board
        import preflight.web.fellows
        import preflight.web.instance
        import preflight.worker.application  # all our modules before the project's modules can be found
        from preflight.worker import listening, serving

        if order.data["prefix"]:
            with contextlib.suppress(ImportError):  # which is said where they would be served
                import preflight.web.beside
                import preflight.web.extra  # noqa: F401
        interpreter.put_first(Path(root))

        guard = listening.ListeningGuard(
            name,
            order.data["port"],
            root,
            lambda attempt: self._say("failed", error=attempt, fix=LISTENING_FIX),
        )
        guard.begin()
        application = self._imported(name, root, guard)
        if application is None:
            return 1
        self._say("imported", routes=_well_known(application.app))
        serving.prepare()  # while the suite ends
        beside = _beside(application, order.data["prefix"], name)
        gc.freeze()
        gc.enable()

        self._await_order("verdict")
        guard.end()
        # Only now: until then a socket that listens is one too many, and the guard cannot know whose it is.
        self._say("unguarded")
        return self._serve(application, beside)

    def _imported(self, name: str, root: str, guard: ListeningGuard) -> LoadedApplication | None:
        """The application; None if it cannot be imported or served, of which the launcher has been told."""
        from preflight.web.interfaces import CannotBeServed
        from preflight.worker.application import load

        try:
            application = load(name, self._complete)
        except CannotBeServed as error:
            if not guard.attempt:  # else the attempt to listen has been reported, and is the reason
                self._say("failed", error=first_line(str(error)), fix=error.fix)
            return None
        except BaseException as error:  # noqa: BLE001
            # Whatever an application raises at import is an answer: sys.exit(), a cancelled task and all.
            if not guard.attempt:
                self._say("failed", error=_why(error, root), fix="")
            return None
        if self._is_copy:
            os._exit(0)  # the import has forked, and let the copy go on, as a daemon does
        return application if guard.imported() else None  # else it has caught the error that it got for listening

    def _serve(self, application: LoadedApplication, beside: Beside | None) -> int:
        """Serve until the launcher, or what happens, ends it; returns the exit code."""
        from preflight.worker import serving
        from preflight.worker.application import LoadedApplication

        order = self._await_order("serve")
        sock = socket.socket(fileno=order.descriptors[0])
        # A copy of this process that the application forks does not serve, and would keep the port in use after us.
        os.register_at_fork(after_in_child=lambda: os.close(sock.detach()) if sock.fileno() >= 0 else None)
        instance = self._join(order)
        outbox = EventOutbox(lambda event: self._say("audit", **event.to_message()))
        instance.note = outbox.put
        application = application.behind_proxies(instance.settings.forwarders)
        if beside is not None:
            beside.app = application.asgi3
            instance.admission = self._admission(instance.board, **order.data["login"])
            application = LoadedApplication(beside.serving_as(instance), "asgi3")

        def say(kind: str) -> None:
            if kind == "beat":
                self._offer("beat")
            else:
                self._say(kind, instance_id=instance.instance_id, beside=beside is not None)

        beat, on_trial = order.data["beat"], order.data["on_trial"]
        server = serving.Server(application, instance, say, beat=beat, on_trial=on_trial)
        self._begin(server)
        with self._loop() as loop:
            try:
                loop.run(server.serve(sockets=[sock]))
                if beside is not None:
                    loop.run(beside.end())  # an application that has broken off its lifespan has not ended ours
            except BaseException as error:
                # Nothing is served from here on, and threads of the application's may go on for ever.
                _leave(error.code if isinstance(error, SystemExit) else 1)
                raise
        outbox.flush(FLUSH)
        self._say("drained", cancelled=server.cancelled, events=outbox.taken)
        return 0 if server.started else 3

    def _begin(self, server: Server) -> None:
        """Pass the launcher's messages to the server from now on, and at once those that came before it."""
        with self._condition:
            self._server = server
            drain, early = self._orders.get("drain"), self._early
        for message in early:
            self._note(server.instance, message)
        if drain is not None:
            server.drain(**drain.data)


if __name__ == "__main__":
    sys.exit(_Main(int(sys.argv[1])).run())
