"""Detects and ends a worker that hangs: in its import, in its start-up, or with its event loop standing still."""

from __future__ import annotations

import time

from preflight.output.terminal import Terminal
from preflight.processes import heartbeat, stacks
from preflight.processes.heartbeat import Heartbeat
from preflight.processes.loop import Loop
from preflight.processes.worker import Worker
from preflight.settings.model import Settings

SILENT_START = 5.0  # seconds of a start-up after which people are told what it waits for


class Watchdog:
    """Watches one worker after the other."""

    def __init__(self, settings: Settings, *, loop: Loop, terminal: Terminal) -> None:
        self._settings = settings
        self._loop = loop
        self._terminal = terminal
        self._awake = heartbeat.Awake(time.monotonic())
        self._heartbeat: Heartbeat | None = None
        self.sign = 0.0
        """When the worker gave its last sign of life, on the monotonic clock; 0: none yet."""
        self.watch_another()

    def watch_another(self) -> None:
        """Another worker has been started: wait for its import and its start-up from now on."""
        self._heartbeat = None
        self.sign = 0.0
        self._employed_at = self.now()
        self._waiting_told = False

    def listen(self) -> None:
        """The worker's start-up is complete, and its event loop turns."""
        self.sign = time.monotonic()
        self._heartbeat = Heartbeat(self._settings.heartbeat, self.sign)

    @property
    def listens(self) -> bool:
        """Whether signs of life are expected of this worker."""
        return self._heartbeat is not None

    def now(self) -> float:
        """The time on a clock that stands still while this process, or all of them, are paused."""
        return self._awake.at(time.monotonic())

    @property
    def look(self) -> float:
        """Seconds until the next look at the latest."""
        return self._heartbeat.look if self._heartbeat is not None else heartbeat.LOOK

    def heard_beat(self) -> None:
        """The worker gave a sign of life."""
        if self._heartbeat is not None:
            self.sign = time.monotonic()
            self._heartbeat.heard(self.sign)

    def end_if_hung(self, worker: Worker, *, connections_wait: bool) -> str:
        """End a worker that has hung for too long; returns what it was ended for, empty if it was not.

        ``connections_wait``: connections wait that only this worker is going to serve.
        """
        if worker.started:
            return self._end_if_silent(worker)
        spent = self.now() - self._employed_at
        limit, app = self._settings.startup_timeout, self._settings.app
        what = "start-up (its lifespan)" if worker.imported else "import"
        if spent >= SILENT_START and not self._waiting_told:
            self._waiting_told = True
            rest = (
                f"its deadline is {limit:g} s (startup_timeout)."
                if limit
                else "it has no deadline (startup_timeout is 0)."
            )
            waits = " Connections wait." if connections_wait else ""
            self._terminal.line(f"Waiting for {app}: its {what} has not ended; {rest}{waits}", "yellow")
        if not limit or spent < limit:
            return ""
        title = "THE APPLICATION DOES NOT START"
        fix = "Fix: make the application start faster, or set PREFLIGHT_STARTUP_TIMEOUT to a longer time."
        if self._end(worker, title, f"The {what} of {app} has not ended within {limit:g} s.", fix):
            return f"not started within {limit:g} s"
        self._employed_at = self.now()
        return ""

    def _end_if_silent(self, worker: Worker) -> str:
        if self._heartbeat is None or not self._heartbeat.missed(time.monotonic()):
            return ""
        silence = f"no heartbeat for {self._settings.heartbeat:g} s"
        if not self._end(worker, "THE SERVER HANGS", f"The application's event loop has sent {silence}."):
            self.heard_beat()
            return ""
        return f"hung: {silence}"

    def _end(self, worker: Worker, title: str, reason: str, fix: str = "") -> bool:
        """Show where a worker hangs, and end it; False if a debugger holds it, and it is left alone."""
        stopped, traced = heartbeat.state(worker.child.pid)
        lines = [] if traced else stacks.gather(worker, self._loop)
        if traced or stacks.in_debugger(lines):
            self._terminal.line(f"{reason} A debugger holds the worker (PID {worker.child.pid}): it is left alone.")
            return False
        about = [f"{reason} The worker (PID {worker.child.pid}) is being killed.", *([fix] if fix else [])]
        if stopped:
            about.append("A signal such as SIGSTOP had stopped it; it was continued so that its stacks could be read.")
        about += stacks.shown(lines)
        self._terminal.fail(title, about)
        worker.child.kill(reason)
        return True
