"""A serving instance: its worker is started again when it crashes, drained when asked, handed over when replaced.

The listening socket stays open here from the verdict until the drain begins, so connections wait in its backlog
while there is no worker, and none is refused. Requests that a worker had accepted when it died are lost.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Mapping

from preflight import times
from preflight.instances import socketfiles
from preflight.instances.presence import stops_within
from preflight.launcher import drain
from preflight.launcher.entry import Entry
from preflight.launcher.login import Login
from preflight.launcher.replacement import Replacement
from preflight.launcher.reruns import Reruns
from preflight.launcher.shown import Display
from preflight.launcher.telling import Telling
from preflight.launcher.watchdog import Watchdog
from preflight.output.audit import Event
from preflight.processes import children, stacks
from preflight.processes.loop import Loop
from preflight.processes.rerun import Ending
from preflight.processes.restarts import Restarts
from preflight.processes.worker import Worker
from preflight.report.model import Report
from preflight.report.newest import Judged
from preflight.settings.model import Settings

TAIL = 20  # lines of a worker's output in a banner
RETRY = 1.0  # seconds between two tries to start a process, when there is no room for one


class Supervisor:
    """Serves with a worker that has imported the application, until asked to stop."""

    def __init__(
        self,
        settings: Settings,
        options: Mapping[str, object],
        *,
        loop: Loop,
        display: Display,
        entry: Entry,
        telling: Telling,
        worker: Worker,
        sock: socket.socket,
        report: Report,
    ) -> None:
        """``worker`` and ``sock`` belong to this instance from now on; ``report`` is the run that let it start.

        ``entry`` has what others know of it, and the instance that it replaces. It is told when this one serves.
        """
        self.worker: Worker | None = worker
        self.announced = False
        """Whether it has been served at all."""
        self.given_up: list[str] = []
        """Why this instance was given up, if it was."""
        self._settings = settings
        self._options = options
        self._loop = loop
        self._terminal = display.terminal
        self._display = display
        self._entry = entry
        self._socket = sock
        self._report = report
        self._judged = Judged(report)
        """What a worker goes by: the run that let us start, then what the re-runs found."""
        self._telling = telling
        telling.when_tally_changes(self._count_notices)
        self._presence = entry.presence
        self._record = entry.presence.record
        self._presence.listener = lambda: sock if sock.fileno() >= 0 else None
        self._presence.on_retire = self._retire
        self._watchdog = Watchdog(settings, loop=loop, terminal=display.terminal)
        self._replacement = Replacement(settings, entry.replaces, loop=loop, now=self._watchdog.now)
        self._reruns = Reruns(settings, options, loop=loop, display=display, concluded=self._conclude)
        self._restarts = Restarts(
            limit=settings.restart_limit, window=settings.restart_window, backoff=settings.restart_backoff
        )
        self._count = 0
        self._last_exit = ""
        self._last_exit_at = ""
        self._verdict_told = False
        self._handed = False
        self._ready_at: float | None = None
        self._crashed_at: float | None = None
        """When the first of the crashes was since which no worker was ready."""
        self._replaced_by: int | None = None
        self._in_vain = ""
        self._login = Login.of(settings)
        self._be_the_listener()
        self._listen_to(worker)

    def run(self) -> int:
        """Serve; returns the command's exit code."""
        if self.worker is not None:
            self._terminal.pass_on(self.worker.child.lines, self.worker.child.pid)
        try:
            exit_code = self._serve()
        finally:
            self._replacement.end_trial()
        if exit_code is not None:
            self._loop.settle()
            return exit_code
        if self.worker is not None and self.worker.child.channel.waits():
            self.worker.read_channel()  # it may have begun to serve while we were told to end
        served = self.announced or (self.worker is not None and self.worker.ready)
        self._drain()
        if served or not self._loop.stops:
            self._loop.settle()
            return 0
        self._terminal.line(f"Stopped by {signal.Signals(self._loop.stops[0]).name} before it served.")
        return 128 + self._loop.stops[0]

    def close(self) -> None:
        """End the worker, however that stands, and let go of the socket; more than once does no harm."""
        if self.worker is not None:
            self._dismiss(self.worker)
        self._socket.close()

    def _serve(self) -> int | None:
        """Serve until the worker is given up (an exit code) or somebody asks to stop (None)."""
        while not self._asked_to_end():
            worker = self.worker
            if worker is None:
                raise RuntimeError("there is no worker to serve with")
            if worker.imported and not self._verdict_told:
                self._verdict_told = True
                worker.tell_verdict()
            if worker.unguarded and not self._handed:
                self._hand_over(worker)
            if worker.started and not self._watchdog.listens:
                self._watchdog.listen()
                self._replacement.admit_or_ask(worker)
            if problem := self._replacement.judge(worker):
                return self._reject(worker, problem)
            if worker.ready and self._ready_at is None:
                self._on_ready(worker)
            ending = "" if worker.ended() else self._end_if_hung(worker)
            if ending or worker.ended():
                exit_code = self._crashed(worker, ending)
                if exit_code is not None:
                    return exit_code
                continue
            self._reruns.see_to(worker)
            self._look_after_presence(worker)
            self._loop.turn(self._reruns.left(self._watchdog.look))
        return None

    def _look_after_presence(self, worker: Worker) -> None:
        self._presence.does(self._waits_for(worker))
        self._presence.look_after()
        if self._presence.trouble != self._in_vain:
            self._in_vain = self._presence.trouble
            if self._in_vain:
                line = "Older releases cannot find this instance, because its record cannot be written again"
                self._terminal.line(f"{line}: {self._in_vain}", "yellow")

    def _waits_for(self, worker: Worker) -> str:
        """What there is to wait for until this worker is ready, for people; empty when it is."""
        if worker.ready:
            return ""
        if not worker.imported:
            return f"waiting for {self._settings.app} to import"
        if not worker.started:
            return f"waiting for the start-up of {self._settings.app}"
        path = self._replacement.asked_path
        return f"waiting for {self._settings.app} to answer {path}" if path else ""

    def _asked_to_end(self) -> bool:
        return bool(self._loop.stops) or self._replaced_by is not None

    def _hand_over(self, worker: Worker) -> None:
        self._handed = True
        worker.serve(
            self._socket,
            self._options,
            **self._judged.to_message(),
            instance_id=self._record.instance_id,
            on_trial=self._replacement.wants_proof,
            since=self._record.since,
            restarts={"count": self._count, "last_exit": self._last_exit, "last_exit_at": self._last_exit_at},
            notifications=self._telling.tally,
            login=self._login.to_message(),
        )

    # Until it is ready.

    def _reject(self, worker: Worker, reason: str) -> int:
        """End a worker that was to replace another one and does not answer."""
        title = "THE NEW SERVER DOES NOT ANSWER: the old server keeps running"
        self.given_up = [reason]
        fix = "Fix: make the application answer with a status below 500, or set PREFLIGHT_READY_PATH to another path"
        self._terminal.fail(title, [reason, *self._replacement.still_served(), fix])
        self._telling.tell("failure", "The new server does not answer", reason, *self._replacement.still_served())
        self._finish(worker, replaced=True, last=False, stops=len(self._loop.stops))
        return 4

    def _on_ready(self, worker: Worker) -> None:
        self._ready_at = time.monotonic()
        if self._crashed_at is not None:
            down = self._ready_at - self._crashed_at
            self._telling.tell(
                "success", "The server came back", f"A new worker has been serving since {down:.1f} s after the crash."
            )
            self._crashed_at = None
        if self.announced:
            self._terminal.line(f"The worker is back (PID {worker.child.pid}).")
            return
        self.announced = True
        self._presence.came_up()
        if self._settings.uds is not None:
            socketfiles.permit(
                self._settings.uds, int(self._settings.uds_mode, 8)
            )  # that of the one before was its own
        self._replacement.forget_previous()
        # Before the banner: who acts on it finds the way free.
        self._entry.retire_previous()
        beside = f"{self._settings.prefix}{self._login.way_in}" if worker.beside else ""
        self._display.ready(self._socket, worker.routes, beside)
        if not self._telling.tell_news(self._report):
            self._telling.verify()  # that there is a way to tell

    # Crashes.

    def _end_if_hung(self, worker: Worker) -> str:
        waiting = self._crashed_at is not None and not self._replacement.pending
        return self._watchdog.end_if_hung(worker, connections_wait=waiting)

    def _crashed(self, worker: Worker, ending: str = "") -> int | None:
        """The worker ended without having been asked to: start another one, or give up with an exit code.

        ``ending`` is what it was ended for, if it was.
        """
        if self._loop.stop_follows(worker.child):
            return None
        now = time.monotonic()
        self._reruns.end()
        self._replacement.end_trial()
        drain.print_rest(worker, self._terminal)
        ready_for = None if self._ready_at is None else now - self._ready_at
        if ready_for is None and worker.ready:
            ready_for = 0.0  # it said so while we were busy: it has served, however short that was
        ending = ending or worker.ended_for
        if not ending:
            ending = worker.child.ending
            if ending == "SIGKILL":
                ending += ", possibly because memory ran out"
        delay = self._restarts.failed(now, ready_for)
        unsupervised = self._unsupervised()
        if unsupervised or delay is None:
            return self._give_up(worker, ending, unsupervised)
        self._count += 1
        self._last_exit, self._last_exit_at = ending, times.now()
        when = "at once" if delay == 0 else f"in {delay:.1f} s"
        waits = self._replacement.still_served() or ["Connections wait."]
        self._terminal.line(f"The worker ended ({ending}); another one starts {when}. {waits[0]}", "yellow")
        if self._crashed_at is None:
            self._crashed_at = now
        self._telling.tell("failure", "The server crashed", f"The worker ended ({ending}); another one starts {when}.")
        self._dismiss(worker)
        until = now + delay
        while time.monotonic() < until and not self._asked_to_end():
            self._loop.turn(until - time.monotonic())
        return self._start_another(worker, ending)

    def _start_another(self, ended: Worker, ending: str) -> int | None:
        """Start another worker. What a process needs may be short for a moment: it is tried for ``restart_window``."""
        until = time.monotonic() + self._settings.restart_window
        said = ""
        while not self._asked_to_end():
            try:
                self._employ(Worker(self._settings))
                break
            except OSError as error:
                shortage = children.shortage(error)
            if time.monotonic() >= until:
                return self._give_up(ended, f"{ending}, and {shortage}", "")
            if shortage != said:
                said = shortage
                self._terminal.line(f"{said}; the launcher tries again every {RETRY:g} s.", "yellow")
            self._loop.turn(RETRY)
        return None

    def _unsupervised(self) -> str:
        """Why no crashed worker is started again here, for people; empty where it is."""
        if self._settings.supervise is None:
            return f"A restart is left to {self._entry.keeper}." if self._entry.keeper is not None else ""
        return "" if self._settings.supervise else "It is not started again: supervision is off."

    def _give_up(self, worker: Worker, ending: str, unsupervised: str) -> int:
        started = "once" if self._count == 0 else f"{self._count + 1} times"
        if unsupervised:
            title, reason = "THE SERVER ENDED", unsupervised
        elif self.announced:
            title, reason = "THE SERVER KEEPS CRASHING: given up", f"It was started {started}."
        else:
            title, reason = "THE SERVER DOES NOT START: given up", f"It was started {started}."
        lines = [f"The worker ended: {worker.error or ending}. {reason}"]
        self._telling.tell_end(title, lines[0], self._record.instance_id)
        self.given_up = lines[:1]
        lines += self._replacement.still_served()
        output = [line for line in worker.child.lines if line and not stacks.is_line(line)]
        lines += ["The end of its output:", *output[-TAIL:]] if output else []
        self._terminal.fail(title, lines)
        return 4

    def _count_notices(self) -> None:
        """Let the worker know what became of the notices, for /diagnostics."""
        if self.worker is not None and self._handed:
            self.worker.count_notices(self._telling.tally)

    # Workers.

    def _employ(self, worker: Worker) -> None:
        self.worker, self._ready_at = worker, None
        self._verdict_told = self._handed = False
        self._be_the_listener()
        self._watchdog.watch_another()
        self._listen_to(worker)
        worker.child.on_signal = self._display.signalled
        self._loop.watch_child(worker.child, worker.read_channel, lambda: self.on_output(worker))

    def _listen_to(self, worker: Worker) -> None:
        worker.on_audit, worker.on_beat = self._reported, self._watchdog.heard_beat
        worker.on_code_spent = self._login.spend

    def _be_the_listener(self) -> None:
        """Be found at a Unix socket's path, as long as no worker of this instance is, nor the instance before it."""
        if self._settings.uds is not None and not self._replacement.pending:
            socketfiles.adopt(self._socket)

    def _dismiss(self, worker: Worker) -> None:
        self._loop.unwatch_child(worker.child)
        worker.child.close()
        self.worker = None

    def on_output(self, worker: Worker) -> None:
        """Pass on what the worker prints, redacted."""
        self._terminal.pass_on(worker.read_output(), worker.child.pid)

    def _reported(self, event: Event) -> None:
        """What the application reports, a failed login say, people see nowhere else."""
        self._terminal.log.audit(event, shown=False)

    # Re-runs.

    def _conclude(self, worker: Worker, ending: Ending) -> None:
        self._judged = self._judged.after(ending.report, ending.reason)
        worker.rerun_is_over(ending)
        self._telling.tell_news(ending.report)

    # Being replaced.

    def _retire(self, pid: int) -> None:
        """Another instance serves in this one's place."""
        self._replaced_by = pid

    # The end.

    def _drain(self) -> None:
        """Let the worker finish what it is doing; a second signal, or its deadline, ends it at once."""
        if self._replaced_by is not None:
            self._terminal.line(f"Replaced by another start (PID {self._replaced_by}); stopping.")
        else:
            self._terminal.line(f"Stopping ({signal.Signals(self._loop.stops[0]).name}).")
        self._reruns.end()
        worker = self.worker
        self._presence.drains(stops_within(self._settings))
        if worker is None or not self._handed:
            return
        replaced = self._replaced_by is not None
        # Counted from what brought us here, not from now: the second signal may have come meanwhile. Of the queue
        # nothing is ours alone while another instance has the socket: the one before this, or the one after it.
        last = not replaced and not self._presence.given and not self._replacement.pending
        self._finish(worker, replaced=replaced, last=last, stops=0 if replaced else 1)

    def _finish(self, worker: Worker, *, replaced: bool, last: bool, stops: int) -> None:
        """Let a worker end in order, until its deadline is over or more than ``stops`` signals have asked to stop."""
        worker.drain(replaced=replaced, last=last)
        # The worker has it, and closes it first of all: the port is free long before the last answer.
        self._socket.close()
        drain.wait_for_end(
            worker, self._settings, loop=self._loop, terminal=self._terminal, presence=self._presence, stops=stops
        )
