"""A serving instance: its worker is started again when it crashes, drained when asked, handed over when replaced.

The listening socket stays open here from the verdict to the end, so connections wait in its backlog
while there is no worker, and none is refused.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from preflight import times
from preflight.instances import records as instances
from preflight.instances.presence import GOODBYE, Presence, stops_within
from preflight.launcher.proof import Proof
from preflight.notify import notices
from preflight.output.audit import Event
from preflight.processes import children, heartbeat, stacks
from preflight.processes.heartbeat import Heartbeat
from preflight.processes.loop import Loop
from preflight.processes.rerun import Ending, Rerun, broken
from preflight.processes.restarts import Restarts
from preflight.processes.worker import Worker
from preflight.report import model as report
from preflight.report.newest import Judged
from preflight.settings.model import Settings, address

if TYPE_CHECKING:
    from preflight.notify.notifier import Notifier
    from preflight.output.terminal import Terminal

TAIL = 20  # lines of a worker's output in a banner
RETRY = 1.0  # seconds between two tries to start a process, when there is no room for one
ANSWER = 1.0  # seconds that a worker which is cut short gets to say what it was busy with
SILENT_START = 5.0  # seconds of a start-up after which it is said what is waited for


class Supervisor:
    """Serves with a worker that has imported the application, until asked to stop."""

    def __init__(
        self,
        settings: Settings,
        options: Mapping[str, object],
        *,
        loop: Loop,
        terminal: Terminal,
        worker: Worker,
        sock: socket.socket,
        found: report.Report,
        presence: Presence,
        started: Callable[[], None],
        replaces: instances.Handover | None = None,
        notifier: Notifier | None = None,
        keeper: str | None = None,
    ) -> None:
        """``started`` is called once the server is ready; ``found`` is the run that let it start.

        ``presence`` is how others find this instance; it is told what becomes of it, and ended by whoever made it.
        ``replaces`` is the instance that goes on serving the same socket until this one has proven that it answers.
        ``notifier`` tells people about crashes and changes, if anybody wants to be told. ``keeper`` is who else
        restarts this process when it ends, if anybody does.
        """
        self.settings = settings
        self.options = options
        self.loop = loop
        self.terminal = terminal
        self.worker: Worker | None = worker
        self._socket = sock
        self._found = found
        self._judged = Judged(found)
        """What a worker goes by: the run that let us start, then what the re-runs found."""
        self._rerun: Rerun | None = None
        self._started = started
        self._replaces = replaces
        self._proof: Proof | None = None
        """What is asked of a worker before it may take another one's place."""
        self._notifier = notifier
        self._keeper = keeper
        if notifier is not None:
            notifier.on_change = self._count_notices
        self.record = presence.record
        self._presence = presence
        presence.listener = lambda: sock if sock.fileno() >= 0 else None
        presence.on_retire = self._retire
        self._restarts = Restarts(
            limit=settings.restart_limit, window=settings.restart_window, backoff=settings.restart_backoff
        )
        self._count = 0
        self._last_exit = ""
        self._last_exit_at = ""
        self._verdict_told = False
        self._handed = False
        self._awake = heartbeat.Awake(time.monotonic())
        self._employed_at = self._awake_at()
        """When this worker was begun to be waited for, on that clock."""
        self._waiting_told = False
        self._heartbeat: Heartbeat | None = None
        """The worker's, from the end of its start-up on."""
        self._ready_at: float | None = None
        self._crashed_at: float | None = None
        """When the first of the crashes was since which no worker was ready."""
        self.announced = False
        """Whether it has been served at all."""
        self.given_up: list[str] = []
        """Why this instance was given up, if it was."""
        self._replaced_by: int | None = None
        self._in_vain = ""
        worker.on_audit, worker.on_beat = self._reported, self._heard_beat

    def run(self) -> int:
        """Serve; returns the command's exit code."""
        if self._replaces is not None:
            self.loop.watch(self._replaces.channel, self._heard_replaced)
        if self.worker is not None:
            self.terminal.pass_on(self.worker.child.lines, self.worker.child.pid)
        try:
            exit_code = self._serve()
        finally:
            self._end_trial()
        if exit_code is not None:
            self.loop.settle()
            return exit_code
        if self.worker is not None and self.worker.child.channel.waits():
            self.worker.read_channel()  # it may have begun to serve while we were told to end
        served = self.announced or (self.worker is not None and self.worker.ready)
        self._drain()
        if served or not self.loop.stops:
            self.loop.settle()
            return 0
        self.terminal.line(f"Stopped by {signal.Signals(self.loop.stops[0]).name} before it served.")
        return 128 + self.loop.stops[0]

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
            if worker.started and self._heartbeat is None:
                self._on_started(worker)
            if self._proof is not None:
                exit_code = self._judge(worker, self._proof)
                if exit_code is not None:
                    return exit_code
            if worker.ready and self._ready_at is None:
                self._on_ready(worker)
            ending = "" if worker.ended() else self._hangs(worker)
            if ending or worker.ended():
                exit_code = self._crashed(worker, ending)
                if exit_code is not None:
                    return exit_code
                continue
            self._see_to_rerun(worker)
            self._look_after_presence(worker)
            look = self._heartbeat.look if self._heartbeat is not None else heartbeat.LOOK
            self.loop.turn(min(look, self._rerun.left) if self._rerun is not None else look)
        return None

    def _look_after_presence(self, worker: Worker) -> None:
        self._presence.does(self._waits_for(worker))
        self._presence.look_after()
        if self._presence.trouble != self._in_vain:
            self._in_vain = self._presence.trouble
            if self._in_vain:
                line = f"Older releases cannot find this instance: its record cannot be made again: {self._in_vain}"
                self.terminal.line(line, "yellow")

    def _waits_for(self, worker: Worker) -> str:
        """What there is to wait for until this worker is ready, for people; empty when it is."""
        if worker.ready:
            return ""
        if not worker.imported:
            return f"waiting for {self.settings.app} to import"
        if not worker.started:
            return f"waiting for the start-up of {self.settings.app}"
        return f"waiting for {self.settings.app} to answer {self._proof.path}" if self._proof is not None else ""

    def _awake_at(self) -> float:
        """The time on a clock that stands still while this process, or all of them, are paused."""
        return self._awake.at(time.monotonic())

    def _asked_to_end(self) -> bool:
        return bool(self.loop.stops) or self._replaced_by is not None

    def _hand_over(self, worker: Worker) -> None:
        self._handed = True
        worker.serve(
            self._socket,
            self.options,
            **self._judged.to_message(),
            instance_id=self.record.instance_id,
            on_trial=self._on_trial,
            since=self.record.since,
            restarts={"count": self._count, "last_exit": self._last_exit, "last_exit_at": self._last_exit_at},
            notifications=self._notifier.tally if self._notifier is not None else {},
        )

    # Until it is ready.

    @property
    def _on_trial(self) -> bool:
        """Whether a worker has to answer before it accepts anything: another server's clients are at stake."""
        return self._replaces is not None and bool(self.settings.readiness_path)

    def _on_started(self, worker: Worker) -> None:
        """The application's start-up is complete, and the event loop turns."""
        self._heartbeat = Heartbeat(self.settings.heartbeat, time.monotonic())
        if self._on_trial:
            self._proof = Proof(self.settings, self._awake_at())
            self.loop.watch(self._proof, self._proof.read)
            worker.ask(self._proof.theirs)
            self._proof.theirs.close()
        else:
            worker.admit()  # the one that was to be replaced has ended meanwhile

    def _judge(self, worker: Worker, proof: Proof) -> int | None:
        """Let a worker accept that has answered; an exit code if it does not, and the other instance goes on."""
        problem = proof.problem(self._awake_at())
        if proof.given or self._replaces is None:
            self._end_trial()
            worker.admit()
        elif problem:
            self._end_trial()
            return self._reject(worker, f"Asked for {proof.path}, it {problem}.")
        return None

    def _end_trial(self) -> None:
        if self._proof is not None:
            self.loop.unwatch(self._proof)
            self._proof.close()
            self._proof = None

    def _reject(self, worker: Worker, reason: str) -> int:
        """End a worker that was to replace another one and does not answer."""
        title = "THE NEW SERVER DOES NOT ANSWER: the old one goes on"
        self.given_up = [reason]
        fix = "Fix: mend what it answers, or name another path in PREFLIGHT_READY_PATH"
        self.terminal.fail(title, [reason, *self._still_served(), fix])
        self._tell("failure", "The new server does not answer", reason, *self._still_served())
        self._finish(worker, replaced=True, last=False, stops=len(self.loop.stops))
        return 4

    def _still_served(self) -> list[str]:
        """Who serves instead of this one, for people; nothing where nobody does."""
        if self._replaces is None:
            return []
        return [f"{self._replaces.record.name} is still serving {self.settings.address}."]

    def _heard_replaced(self) -> None:
        """Notice the end of the instance that was to be replaced: there is nothing to be careful of any more."""
        if self._replaces is None:
            return
        with contextlib.suppress(OSError):
            self._replaces.channel.arrived()
            if not self._replaces.channel.closed:
                return
        self._let_go_of_replaced()

    def _let_go_of_replaced(self) -> None:
        if self._replaces is not None:
            self.loop.unwatch(self._replaces.channel)
            self._replaces = None

    def _on_ready(self, worker: Worker) -> None:
        self._ready_at = time.monotonic()
        if self._crashed_at is not None:
            down = self._ready_at - self._crashed_at
            self._tell("success", "The server came back", f"Another worker serves since {down:.1f} s after the crash.")
            self._crashed_at = None
        if self.announced:
            self.terminal.line(f"The worker is back (PID {worker.child.pid}).")
            return
        self.announced = True
        self._presence.came_up()
        self._let_go_of_replaced()
        # Before the banner: who acts on it finds the way free.
        self._started()
        self._announce(worker)
        if not self._tell_news(self._found) and self._notifier is not None:
            self._notifier.verify()  # that there is a way to tell

    def _announce(self, worker: Worker) -> None:
        """The green banner."""
        from preflight import hostnames
        from preflight.report import banners

        where = address(hostnames.to_be_told(self._socket, self.settings.host), self.settings.port)
        url = f"http://{where}"
        addresses = [("Server", url)]
        addresses += [("WebSocket", f"ws://{where}{path}") for path in worker.routes if "/ws/" in path]
        addresses += [(path.strip("/").title(), url + path) for path in worker.routes if "/ws/" not in path]
        self.terminal.show(banners.ready(addresses, plain=self.terminal.plain))

    # Hanging.

    def _heard_beat(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.heard(time.monotonic())

    def _hangs(self, worker: Worker) -> str:
        """End a worker that has hung for too long; returns what it was ended for, empty if it was not."""
        if worker.started:
            return self._end_silent(worker)
        spent = self._awake_at() - self._employed_at
        limit = self.settings.startup_timeout
        what = "start-up (its lifespan)" if worker.imported else "import"
        if spent >= SILENT_START and not self._waiting_told:
            self._waiting_told = True
            rest = f"it gets {limit:g} s (startup_timeout)." if limit else "it has no deadline (startup_timeout is 0)."
            waits = "" if self._replaces is not None or self._crashed_at is None else " Connections wait."
            self.terminal.line(f"Waiting for {self.settings.app}: its {what} has not ended; {rest}{waits}", "yellow")
        if not limit or spent < limit:
            return ""
        title = "THE APPLICATION DOES NOT START"
        if self._end_hanging(worker, title, f"The {what} of {self.settings.app} has not ended within {limit:g} s."):
            return f"not started within {limit:g} s"
        self._employed_at = self._awake_at()
        return ""

    def _end_silent(self, worker: Worker) -> str:
        if self._heartbeat is None or not self._heartbeat.missed(time.monotonic()):
            return ""
        silence = f"no sign of life for {self.settings.heartbeat:g} s"
        if not self._end_hanging(worker, "THE SERVER HANGS", f"There was {silence} from its event loop."):
            self._heartbeat.heard(time.monotonic())
            return ""
        return f"hung: {silence}"

    def _end_hanging(self, worker: Worker, title: str, reason: str) -> bool:
        """Show where a worker hangs, and end it; False where a debugger holds it, and it is left alone."""
        stopped, traced = heartbeat.state(worker.child.pid)
        lines = [] if traced else stacks.gather(worker, self.loop)
        if traced or stacks.in_debugger(lines):
            self.terminal.line(f"{reason} A debugger holds the worker (PID {worker.child.pid}): it is left alone.")
            return False
        about = [f"{reason} The worker (PID {worker.child.pid}) is ended."]
        if stopped:
            about.append("It was stopped by a signal (SIGSTOP, say); it was continued to learn where it stands.")
        about += stacks.shown(lines)
        self.terminal.fail(title, about)
        worker.child.kill(reason)
        return True

    # Crashes.

    def _crashed(self, worker: Worker, ending: str = "") -> int | None:
        """The worker ended without having been asked to: start another one, or give up with an exit code.

        ``ending`` is what it was ended for, if it was.
        """
        if self.loop.stop_follows(worker.child):
            return None
        now = time.monotonic()
        self._end_rerun()
        self._end_trial()
        self._print_rest(worker)
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
        waits = self._still_served() or ["Connections wait."]
        self.terminal.line(f"The worker ended ({ending}); another one starts {when}. {waits[0]}", "yellow")
        if self._crashed_at is None:
            self._crashed_at = now
        self._tell("failure", "The server crashed", f"The worker ended ({ending}); another one starts {when}.")
        self._dismiss(worker)
        until = now + delay
        while time.monotonic() < until and not self._asked_to_end():
            self.loop.turn(until - time.monotonic())
        return self._start_another(worker, ending)

    def _start_another(self, ended: Worker, ending: str) -> int | None:
        """Start another worker. What a process needs may be short for a moment: it is tried for ``restart_window``."""
        until = time.monotonic() + self.settings.restart_window
        said = ""
        while not self._asked_to_end():
            try:
                self._employ(Worker(self.settings))
                break
            except OSError as error:
                shortage = children.shortage(error)
            if time.monotonic() >= until:
                return self._give_up(ended, f"{ending}, and {shortage}", "")
            if shortage != said:
                said = shortage
                self.terminal.line(f"{said}; tried again every {RETRY:g} s.", "yellow")
            self.loop.turn(RETRY)
        return None

    def _unsupervised(self) -> str:
        """Why no crashed worker is started again here, for people; empty where it is."""
        if self.settings.supervise is None:
            return f"Starting it again is left to {self._keeper}." if self._keeper is not None else ""
        return "" if self.settings.supervise else "It is not started again: supervision is off."

    def _give_up(self, worker: Worker, ending: str, unsupervised: str) -> int:
        started = "once" if self._count == 0 else f"{self._count + 1} times"
        if unsupervised:
            title, reason = "THE SERVER ENDED", unsupervised
        elif self.announced:
            title, reason = "THE SERVER KEEPS CRASHING: given up", f"It was started {started}."
        else:
            title, reason = "THE SERVER DOES NOT START: given up", f"It was started {started}."
        lines = [f"The worker ended: {worker.error or ending}. {reason}"]
        self._tell_end(title, lines[0])
        self.given_up = lines[:1]
        lines += self._still_served()
        output = [line for line in worker.child.lines if line and not stacks.is_line(line)]
        lines += ["The end of its output:", *output[-TAIL:]] if output else []
        self.terminal.fail(title, lines)
        return 4

    # Telling people who are not looking.

    def _tell(self, level: str, headline: str, *lines: str) -> None:
        if self._notifier is not None:
            self._notifier.tell(notices.make(self.settings, level, headline, *lines))

    def _tell_news(self, found: report.Report) -> bool:
        """Tell what a run found otherwise than people know; returns whether there was anything to tell."""
        if self._notifier is None:
            return False
        notice = notices.take_news(found, self.settings)
        if notice is not None:
            self._notifier.tell(notice)
        return notice is not None

    def _tell_end(self, title: str, reason: str) -> None:
        """The server is given up. People know that from now on, and a start that follows is told as its return."""
        if self._notifier is None:
            return
        self._tell("failure", title.capitalize(), reason)
        ended = report.broken(
            "the server ended",
            run_id=self.record.instance_id,
            origin="start",
            address=self.terminal.redactor.text(self.settings.address),
            started_at=times.now(),
            duration=0.0,
        )
        notices.know(ended, self.settings)

    def _count_notices(self) -> None:
        """Let the worker know what became of the notices, for /diagnostics."""
        if self._notifier is not None and self.worker is not None and self._handed:
            self.worker.count_notices(self._notifier.tally)

    # Workers.

    def _employ(self, worker: Worker) -> None:
        self.worker, self._ready_at, self._heartbeat = worker, None, None
        self._verdict_told = self._handed = False
        self._employed_at, self._waiting_told = self._awake_at(), False
        worker.on_audit, worker.on_beat, worker.child.on_signal = self._reported, self._heard_beat, self._signalled
        self.loop.watch_child(worker.child, worker.read_channel, lambda: self.on_output(worker))

    def _dismiss(self, worker: Worker) -> None:
        self.loop.unwatch_child(worker.child)
        worker.child.close()
        self.worker = None

    def on_output(self, worker: Worker) -> None:
        """Pass on what the worker prints, redacted."""
        self.terminal.pass_on(worker.read_output(), worker.child.pid)

    def _print_rest(self, worker: Worker) -> None:
        """Its last words and events, which may still be in the pipes when it has ended."""
        worker.read_rest()
        self.terminal.pass_on(worker.child.drain_output(), worker.child.pid)

    def _signalled(self, name: str, pid: int, module: str, why: str) -> None:
        """A worker or a re-run was sent a signal."""
        self.terminal.log.audit(Event.now("signal", signal=name, to=pid, name=module, why=why, result="sent"))

    def _reported(self, event: Event) -> None:
        """What the application reports, a failed login say, people see nowhere else."""
        self.terminal.log.audit(event, shown=False)

    # Re-runs.

    def _see_to_rerun(self, worker: Worker) -> None:
        """Begin the re-run that the worker wants, end one that it does not want any more, conclude one that is over."""
        if self._rerun is not None and self._rerun.run_id != worker.rerun:
            self._end_rerun()
        run_id = worker.rerun
        if not run_id:
            return
        try:
            if self._rerun is None:
                self._rerun = Rerun(
                    self.settings,
                    self.options,
                    run_id,
                    self.loop,
                    heard=lambda steps: worker.rerun_goes_on(run_id, steps),
                    on_signal=self._signalled,
                )
            if not self._rerun.ended():
                return
            ending = self._rerun.conclude(self.terminal.redactor)
            self._rerun = None
        except Exception as error:  # noqa: BLE001  # a re-run takes no server with it; the next one gets its chance
            self._end_rerun()
            ending = broken(self.settings, run_id, error, self.terminal.redactor)
            self.terminal.line(f"Re-run {run_id}: {ending.reason}", "yellow")
        self._conclude(worker, ending)

    def _conclude(self, worker: Worker, ending: Ending) -> None:
        self._judged = self._judged.after(ending.report, ending.reason)
        worker.rerun_is_over(ending)
        self._tell_news(ending.report)

    def _end_rerun(self) -> None:
        if self._rerun is not None:
            self._rerun.abandon()
            self._rerun = None

    # Being replaced.

    def _retire(self, pid: int) -> None:
        """Another instance serves in this one's place."""
        self._replaced_by = pid

    # The end.

    def _drain(self) -> None:
        """Let the worker finish what it is doing; a second signal, or its deadline, ends it at once."""
        if self._replaced_by is not None:
            self.terminal.line(f"Replaced by another start (PID {self._replaced_by}); stopping.")
        else:
            self.terminal.line(f"Stopping ({signal.Signals(self.loop.stops[0]).name}).")
        self._end_rerun()
        worker = self.worker
        self._presence.drains(stops_within(self.settings))
        if worker is None or not self._handed:
            return
        replaced = self._replaced_by is not None
        # Counted from what brought us here, not from now: the second signal may have come meanwhile. Of the queue
        # nothing is ours alone while another instance has the socket: the one before this, or the one after it.
        last = not replaced and not self._presence.given and self._replaces is None
        self._finish(worker, replaced=replaced, last=last, stops=0 if replaced else 1)

    def _finish(self, worker: Worker, *, replaced: bool, last: bool, stops: int) -> None:
        """Let a worker end in order, until its deadline is over or more than ``stops`` signals have asked to stop."""
        worker.drain(replaced=replaced, last=last)
        # The worker has it, and closes it first of all: the port is free long before the last answer.
        self._socket.close()
        deadline = time.monotonic() + self.settings.drain_timeout + GOODBYE
        while not worker.ended() and len(self.loop.stops) <= stops and time.monotonic() < deadline:
            self._presence.look_after()
            self.loop.turn(min(0.5, deadline - time.monotonic()))
        cut_short = len(self.loop.stops) > stops and not worker.ended()
        if cut_short:
            self._ask_in_flight(worker)
        self._print_rest(worker)
        if lost := worker.lost:
            self.terminal.log.audit(Event.now("events_lost", count=lost, worker=worker.child.pid))
        if not worker.ended() and cut_short:
            asked = f"{'second ' if stops else ''}{signal.Signals(self.loop.stops[-1]).name}"
            self.terminal.line(f"Ended at once by a {asked}: {_cut_off(worker.in_flight)}.")
            worker.child.kill(f"a {asked} asked for it")
        elif not worker.ended():
            self.terminal.line("Not everything was finished in time.", "yellow")
            worker.child.kill("it did not finish in time")
        elif worker.cancelled:
            what = "request or turn was" if worker.cancelled == 1 else "requests or turns were"
            self.terminal.line(f"{worker.cancelled} {what} not finished in time.", "yellow")

    def _ask_in_flight(self, worker: Worker) -> None:
        """Ask a worker that is about to be ended what it is busy with."""
        worker.count_in_flight()
        deadline = time.monotonic() + ANSWER
        while worker.in_flight is None and not worker.ended() and (left := deadline - time.monotonic()) > 0:
            self.loop.turn(left)


def _cut_off(in_flight: int | None) -> str:
    match in_flight:
        case None:
            return "the worker did not say what was in flight"
        case 0:
            return "nothing was in flight"
        case 1:
            return "1 request or turn was cut off"
    return f"{in_flight} requests or turns were cut off"
