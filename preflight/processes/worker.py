"""A worker as its parent sees it; what runs in it is in preflight/worker/."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from preflight import times
from preflight.output.audit import Event
from preflight.processes import children, interpreter, stacks
from preflight.processes.channel import ChannelError, Message
from preflight.settings.model import Settings
from preflight.text import first_line

if TYPE_CHECKING:
    from preflight.processes.rerun import Ending, Steps

DEAF = 2.0  # seconds for which a process may go on whose channel has closed
DEAF_EARLY = 0.25  # the same before the verdict, when nothing that it answers may reach anybody
FATAL = "Fatal Python error: "
CLOSED = "The application has closed the channel to the launcher, which it had not opened"
LISTENING_FIX = 'move that call under `if __name__ == "__main__":`, or into the application\'s lifespan'
WELL_KNOWN = ("/ws/chat", "/health", "/diagnostics")
"""Routes whose addresses the launcher prints when the application has them."""


class Worker:
    """The worker, from its start to its end, as its parent sees it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # The application finds the env file's variables in its environment before it is imported.
        environ = interpreter.for_worker(settings.environment)
        self.child = children.Child("preflight.worker", settings.folder, environ)
        self.imported = False
        self.error: str | None = None
        """Why the application did not import, or cannot be served, in one line."""
        self.fix = ""
        """What to do about it; empty if importing the application by hand shows more."""
        self.routes: tuple[str, ...] = ()
        self.unguarded = False
        """Whether it may have a socket that listens."""
        self.started = False
        """Whether the application's start-up is complete."""
        self.ready = False
        """Whether it accepts connections, as it has said itself for the instance that it serves."""
        self.beside = False
        """Whether it serves our routes beside the application."""
        self.on_code_spent: Callable[[], object] = lambda: None
        """Called when somebody has logged in with the one-time code."""
        self.on_logout: Callable[[str, int], object] = lambda _session, _expires: None
        """Called when somebody has ended a login."""
        self.on_news: Callable[[str, dict[str, Any]], object] = lambda _topic, _data: None
        """Called with what it has to tell the other workers of its instance."""
        self.on_beat: Callable[[], object] = lambda: None
        """Called for each sign of life of its event loop."""
        self.stacks: list[str] | None = None
        """The lines that say where it stands, while it is asked for that."""
        self._instance_id = ""
        self.on_audit: Callable[[Event], object] = lambda _event: None
        """Called for each event that the application reports."""
        self.rerun = ""
        """The id of the re-run that it asks for, as long as it wants that to go on; empty while it asks for none."""
        self.cancelled = 0
        """How many requests and turns it could not finish while it drained."""
        self.in_flight: int | None = None
        """How many requests and turns it said that it was busy with; None until it has answered that."""
        self.ended_for = ""
        """Why it was ended, if the launcher ended it."""
        self._closed_at = 0.0
        """When its channel was first seen to be closed, on the monotonic clock; 0: it is open."""
        self._events = 0
        self._reported = 0
        self.child.channel.tell("application", name=settings.app, port=settings.port, prefix=settings.prefix)

    def read_channel(self) -> list[Message]:
        """Take in what the worker says."""
        try:
            messages = self.child.channel.arrived()
        except ChannelError as error:
            self.error = f"the worker sent {error}"
            self.child.kill(f"it sent {error}")
            return []
        try:
            for message in messages:
                self._take(message)
        except (KeyError, TypeError, ValueError, OverflowError):
            self.error = f'the worker sent "{message.kind}", which is not a message'
            self.child.kill("it sent something that is not a message")
            return []
        return messages

    def _take(self, message: Message) -> None:
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
                self.beside = bool(message.data["beside"])
            case "code_spent":
                self.on_code_spent()
            case "logout":
                self.on_logout(str(message.data["session"]), int(message.data["expires"]))
            case "news":
                self.on_news(str(message.data["topic"]), dict(message.data["data"]))
            case "beat":
                self.on_beat()
            case "audit":
                self._events += 1
                try:
                    self.on_audit(Event.of_message(message.data))
                except (KeyError, TypeError, ValueError, OverflowError):
                    pass  # not an event, so not from our own code
            case "rerun":
                self.rerun = str(message.data["run_id"])
            case "in_flight":
                self.in_flight = int(message.data["count"])
            case "drained":
                self.cancelled = int(message.data["cancelled"])
                self._reported = int(message.data["events"])

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
        """How many of its events did not arrive; known once it has drained."""
        return max(0, self._reported - self._events)

    def ended(self) -> bool:
        """Whether the worker has ended; if it ended before it was told to serve, ``error`` is set."""
        if not self.child.ended() and not self._is_deaf():
            return False
        if not self.unguarded and self.error is None:
            when = " after that" if self.imported else ""
            self.error = f"the process that imported it ended{when} ({self.ended_for or self.child.ending})"
            self.child.drain_output()
            # An error of the interpreter itself, about a variable say, which importing by hand need not show.
            if fatal := next((line for line in self.child.lines if line.startswith((FATAL, CLOSED))), ""):
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
        self.ended_for = "it closed its channel to the launcher, as a process does when it becomes another program"
        self.child.kill(self.ended_for)
        return True

    def wait_for_import(self) -> str | None:
        """Block until the application has imported or failed to; returns its error, None if it imported.

        An application that has imported, and has tried to listen since, has failed.
        """
        while not self.imported and self.error is None and not self.ended():
            watched = select.poll()  # select() knows no descriptors beyond 1023
            if not self.child.channel.closed:
                watched.register(self.child.channel, select.POLLIN)
            if not self.child.output_closed:
                watched.register(self.child.output, select.POLLIN)
            for descriptor, _events in watched.poll(100):
                if descriptor == self.child.output:
                    self.child.read_output()
                else:
                    self.read_channel()
        self.read_rest()
        return self.error

    def tell_verdict(self) -> None:
        """Tell it that it is going to serve; it says when it can take the socket."""
        self.child.channel.tell("verdict")

    def serve(
        self,
        sock: socket.socket,
        options: Mapping[str, object],
        *,
        instance_id: str,
        on_trial: bool,
        beat: float,
        board: int | None = None,
        **instance: object,
    ) -> None:
        """Hand over the listening socket; the worker serves on it.

        ``on_trial``: it starts the application, and accepts nothing until it is admitted. ``beat``: seconds between two
        signs of life of its event loop, 0: it gives none. ``board``: the descriptor of what the workers of the instance
        count in together, if there are several.
        """
        self._instance_id = instance_id
        settings = self.settings.to_message()
        described = {**instance, "instance_id": instance_id, "on_trial": on_trial, "beat": beat, "settings": settings}
        descriptors = (sock.fileno(),) if board is None else (sock.fileno(), board)
        self.child.channel.tell("serve", descriptors, options=dict(options), **described)

    def ask(self, sock: socket.socket) -> None:
        """Hand over a connection of its own, on which a request has been sent."""
        self.child.channel.tell("ask", (sock.fileno(),))

    def write_tasks(self) -> None:
        """Have it write to its output what its event loop waits for."""
        self.child.channel.tell("write_tasks")

    def admit(self) -> None:
        """Let it accept connections, after a trial."""
        self.child.channel.tell("admit")

    def rerun_began_elsewhere(self, run_id: str) -> None:
        """Tell it of a re-run that another worker has asked for: its followers are told the steps of that, too."""
        self.child.channel.tell("rerun", run_id=run_id, began=times.now())

    def rerun_joins(self, other: str) -> None:
        """Tell it that another one goes on instead of the re-run that it wants."""
        asked, self.rerun = self.rerun, other
        self.child.channel.tell("rerun", run_id=asked, joins=other)

    def rerun_goes_on(self, run_id: str, steps: Steps) -> None:
        """Tell it steps of a re-run that it has been told of, or wants."""
        self.child.channel.tell("rerun", run_id=run_id, steps=steps)

    def rerun_is_over(self, ending: Ending, *, elsewhere: bool = False) -> None:
        """Tell it the result of that re-run; ``elsewhere``: another worker counts it."""
        self.rerun = ""
        self.child.channel.tell("rerun", run_id=ending.report.run_id, ending=ending.to_json(), elsewhere=elsewhere)

    def rerun_was_ended(self, run_id: str) -> None:
        """Tell it that this re-run has been ended without a result."""
        self.rerun = ""
        self.child.channel.tell("rerun", run_id=run_id, ended=True)

    def log_out(self, session: str, expires: int) -> None:
        """Tell it that a login is no longer valid."""
        self.child.channel.tell("logout", session=session, expires=expires)

    def pass_on(self, topic: str, data: Mapping[str, Any]) -> None:
        """Tell it what another worker of the instance has to say, unless it does not read at the moment."""
        with contextlib.suppress(OSError):  # it has died, which the next look at it tells
            self.child.channel.offer("news", topic=topic, data=dict(data))

    def count_restarts(self, restarts: Mapping[str, Any]) -> None:
        """Tell it how often workers of its instance were started again."""
        self.child.channel.tell("restarts", **restarts)

    def count_notices(self, tally: Mapping[str, Any]) -> None:
        """Tell it what became of the notices so far."""
        self.child.channel.tell("notifications", tally=dict(tally))

    def note_fleet(self, state: Mapping[str, Any]) -> None:
        """Tell it the state of the fleet's database."""
        self.child.channel.tell("fleet", state=dict(state))

    def drain(self, *, replaced: bool, last: bool, starts: bool) -> None:
        """Ask it to finish what it is doing and end.

        ``replaced``: another worker serves the same socket already. ``last``: nobody will after this one. ``starts``:
        it completes a start-up that goes on first.
        """
        self.child.channel.tell("drain", replaced=replaced, last=last, starts=starts)

    def count_in_flight(self) -> None:
        """Ask it what it is busy with; the answer comes as ``in_flight``, unless its event loop stands still."""
        self.child.channel.tell("count")
