"""A serving instance: its workers are started again when they crash, drained when asked, handed over when replaced.

The listening socket stays open here from the verdict until the drain begins, so connections wait in its backlog while
there is no worker, and none is refused. Requests that a worker had accepted when it died are lost.

There is a slot for each worker. The first slot is filled from the beginning, with the worker that has imported the
application beside the suite; the others are filled once the verdict is good, so that a refused start costs no more than
with one worker. The first worker accepts connections as soon as it can; the instance is ready when all of them do.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Mapping

from preflight import times
from preflight.instances.presence import stops_within
from preflight.launcher import drain
from preflight.launcher.entry import Entry
from preflight.launcher.replacement import Replacement
from preflight.launcher.reruns import LauncherReruns
from preflight.launcher.servicestatus import ServiceStatus
from preflight.launcher.shown import Display
from preflight.launcher.slot import Slot
from preflight.launcher.telling import Telling
from preflight.launcher.workers import Workers
from preflight.processes import children, stacks
from preflight.processes.loop import Loop
from preflight.processes.rerun import Ending
from preflight.processes.restarts import after_crash
from preflight.processes.worker import Worker
from preflight.report.model import Report
from preflight.report.newest import Judged
from preflight.settings.model import Settings

TAIL = 20  # lines of a worker's output in a banner
RETRY = 1.0  # seconds between two tries to start a process, when there is no room for one


class Supervisor:
    """Serves with a worker that has imported the application, and with further workers, until asked to stop."""

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

        ``entry`` has the presence of this instance, and the instance that it replaces; it is told when this one serves.
        """
        self.announced = False
        """Whether the instance has been announced as ready."""
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
        self._telling = telling
        self._presence = entry.presence
        self._presence.listener = lambda: sock if sock.fileno() >= 0 else None
        self._presence.on_retire = self._retire
        self._presence.on_given_back = self._take_back
        self._replacement = Replacement(settings, entry.replaces, loop=loop)
        self._workers = workers = Workers(
            settings,
            options,
            loop=loop,
            display=display,
            sock=sock,
            replacement=self._replacement,
            judged=Judged(report),
        )
        workers.instance = {"instance_id": self._presence.record.instance_id, "since": self._presence.record.since}
        workers.tally = lambda: telling.tally
        workers.fleet = lambda: telling.fleet
        telling.when_tally_changes(workers.count_notices)
        self.on_output = workers.on_output
        self._reruns = LauncherReruns(
            settings, options, loop=loop, display=display, audience=lambda: workers.serving, concluded=self._conclude
        )
        self._service = ServiceStatus(settings, display)
        self._replaced_by: int | None = None
        self._in_vain = ""
        workers.fill(workers.slots[0], worker, watched=True)

    def run(self) -> int:
        """Serve; returns the command's exit code."""
        for worker in self._employed:
            self._terminal.pass_on(worker.child.lines, worker.child.pid)
        try:
            exit_code = self._serve()
        finally:
            self._end_trials()
        if exit_code is not None:
            self._loop.settle()
            return exit_code
        for worker in self._employed:
            if worker.child.channel.waits():
                worker.read_channel()  # it may have begun to serve while we were told to end
        served = self.announced or any(worker.ready for worker in self._employed)
        self._drain()
        if served or not self._loop.stops:
            self._loop.settle()
            return 0
        self._terminal.line(f"Stopped by {signal.Signals(self._loop.stops[0]).name} before the server served.")
        return 128 + self._loop.stops[0]

    def close(self) -> None:
        """End the workers, whatever their state, and let go of the socket; may be called more than once."""
        for slot in self._workers:
            self._workers.dismiss(slot)
        self._workers.close()
        self._socket.close()

    @property
    def _employed(self) -> list[Worker]:
        return [slot.worker for slot in self._workers if slot.worker is not None]

    def _end_trials(self) -> None:
        for slot in self._workers:
            slot.trial.end()

    def _serve(self) -> int | None:
        """Serve until the instance is given up (an exit code) or somebody asks to stop (None)."""
        while not self._asked_to_end():
            for slot in self._workers:
                exit_code = self._see_to(slot)
                if exit_code is not None:
                    return exit_code
                if self._asked_to_end():
                    return None
            if not self._replacement.pending or all(slot.trial.passed for slot in self._workers):
                self._admit()
            self._reruns.see_to()
            self._look_after_presence()
            left = self._telling.look_after_fleet(min(slot.left for slot in self._workers))
            self._loop.turn(self._reruns.left(left))
        return None

    def _see_to(self, slot: Slot) -> int | None:
        """Do what there is to do in one slot; returns an exit code where the instance is given up for it."""
        worker = slot.worker
        if worker is None:
            return self._fill(slot) if time.monotonic() >= slot.due else None
        if problem := slot.advance(self._workers.hand_over):
            return self._reject(problem)
        if slot.has_come_up():
            self._on_ready(slot, worker)
        ending = "" if worker.ended() else self._end_if_hung(slot, worker)
        return self._crashed(slot, worker, ending) if ending or worker.ended() else None

    def _admit(self) -> None:
        """Let the workers that have passed accept: all of them together, where another instance still serves."""
        for slot in self._workers:
            if slot.trial.passed:
                slot.admit()

    def _look_after_presence(self) -> None:
        serves = bool(self._workers.serving) and self.announced
        waits = "" if serves else next((slot.waits_for for slot in self._workers if slot.waits_for), "")
        self._presence.does(waits)
        self._presence.look_after()
        if self.announced:
            self._service.lives(slot.watchdog.sign for slot in self._workers if slot.beats)
        else:
            self._service.starts(waits)
        if self._presence.trouble != self._in_vain:
            self._in_vain = self._presence.trouble
            if self._in_vain:
                line = "Older releases cannot find this instance, because its record cannot be written again"
                self._terminal.line(f"{line}: {self._in_vain}", "yellow")

    def _asked_to_end(self) -> bool:
        return bool(self._loop.stops) or self._replaced_by is not None

    # Until it is ready.

    def _reject(self, reason: str) -> int:
        """End the workers that were to replace another instance's: one of them does not answer."""
        title = "THE NEW SERVER DOES NOT ANSWER: the old server keeps running"
        self.given_up = [reason]
        fix = "Fix: make the application answer with a status below 500, or set PREFLIGHT_READY_PATH (a path, or off)"
        self._terminal.fail(title, [reason, *self._replacement.still_served(), fix])
        self._telling.tell("failure", "The new server does not answer", reason, *self._replacement.still_served())
        self._finish(replaced=True, last=False, stops=len(self._loop.stops))
        return 4

    def _on_ready(self, slot: Slot, worker: Worker) -> None:
        self._workers.catch_up(slot)
        self._reruns.tell_late(worker)
        down = slot.down_for()
        if down is not None:
            alone = self._settings.workers == 1
            self._telling.tell(
                "success",
                "The server came back" if alone else "A worker came back",
                f"A new worker has been serving since {down:.1f} s after the crash.",
            )
        if self.announced:
            self._terminal.line(f"{slot.name} is back (PID {worker.child.pid}).")
            self._service.serves(self._workers.judged)
        elif len(self._workers.serving) == self._settings.workers:
            self._announce()

    def _announce(self) -> None:
        """All workers accept connections: tell people and other starts."""
        self.announced = True
        self._presence.came_up()
        self._replacement.forget_previous()
        # Before the banner: a person who acts on it must find the start lock free.
        self._entry.retire_previous()
        first = self._workers.serving[0]
        beside = f"{self._settings.prefix}{self._workers.login.way_in}" if first.beside else ""
        self._display.ready(self._socket, first.routes, beside)
        self._service.serves(self._workers.judged)
        self._telling.join_fleet(self._presence.record, self._workers.note_fleet)
        if not self._telling.tell_news(self._report):
            self._telling.verify()  # whether people can be told at all

    # Crashes.

    def _end_if_hung(self, slot: Slot, worker: Worker) -> str:
        waiting = slot.is_down and not self._replacement.pending and not self._workers.serving
        return slot.watchdog.end_if_hung(worker, connections_wait=waiting)

    def _crashed(self, slot: Slot, worker: Worker, ending: str = "") -> int | None:
        """A worker ended without having been asked to: have another one started, or give up with an exit code.

        ``ending`` is why the watchdog ended it, if it did.
        """
        if self._loop.stop_follows(worker.child):
            return None
        self._reruns.left_by(worker)
        drain.print_rest(worker, self._terminal)
        ending = ending or worker.ended_for or worker.child.ending
        if ending == "SIGKILL":
            ending += ", possibly because memory ran out"
        serving = [other for other in self._workers.serving if other is not worker]
        unsupervised = self._unsupervised(beside=bool(serving))
        others_serve = self.announced and bool(serving)
        delay, ends = after_crash(slot.failed(worker), others_serve=others_serve, supervised=not unsupervised)
        if ends:
            slot.last, slot.ending = worker, ending
            return self._give_up(slot, unsupervised)
        waits = [*self._replacement.still_served(), *_others(len(serving)), "Connections wait."][0]
        if delay is None:
            self._terminal.line(f"{slot.name} ended ({ending}). {unsupervised} {waits}", "yellow")
            slot.abandon(ending)
        else:
            when = "at once" if delay == 0 else f"in {delay:.1f} s"
            said = f"{slot.name} ended ({ending}); another one starts {when}."
            self._terminal.line(f"{said} {waits}", "yellow")
            self._service.restarts(f"{said} {waits}", delay, beside=bool(serving))
            headline = "The server crashed" if self._settings.workers == 1 else "A worker crashed"
            self._telling.tell("failure", headline, said)
            slot.refill_in(delay, ending)
        self._workers.dismiss(slot)
        self._workers.be_the_listener()
        self._workers.crashed(ending, times.now())
        return None

    def _fill(self, slot: Slot) -> int | None:
        """Start a slot's next worker; if there is no room for it, try for ``restart_window``, or while others serve."""
        now = time.monotonic()
        slot.short_until = slot.short_until or now + self._settings.restart_window
        try:
            self._workers.fill(slot, Worker(self._settings))
        except OSError as error:
            shortage = children.shortage(error)
            if self.announced and self._workers.serving:
                slot.short_until = now + self._settings.restart_window  # no connection waits for this one
            if now >= slot.short_until:
                slot.ending = f"{slot.ending}, and {shortage}" if slot.ending else shortage
                return self._give_up(slot, "")
            slot.due = now + RETRY
            if shortage != slot.shortage:
                slot.shortage = shortage
                self._terminal.line(f"{shortage}; the launcher tries again every {RETRY:g} s.", "yellow")
        return None

    def _unsupervised(self, *, beside: bool) -> str:
        """Why no crashed worker is started again here, for people; empty if it is.

        ``beside``: others serve, so that a service manager has no reason to restart the whole instance.
        """
        if self._settings.supervise is None:
            keeper = None if beside else self._entry.keeper
            return f"A restart is left to {keeper}." if keeper is not None else ""
        return "" if self._settings.supervise else "It is not started again: supervision is off."

    def _give_up(self, slot: Slot, unsupervised: str) -> int:
        started = "once" if slot.crashes == 0 else f"{slot.crashes + 1} times"
        if unsupervised:
            title, reason = "THE SERVER ENDED", unsupervised
        elif self.announced:
            title, reason = "THE SERVER KEEPS CRASHING: the launcher has given up", f"It was started {started}."
        else:
            title, reason = "THE SERVER DOES NOT START: the launcher has given up", f"It was started {started}."
        error = slot.last.error if slot.last is not None else None
        lines = [f"{slot.name} ended: {error or slot.ending}. {reason}"]
        self._telling.leave_fleet("given up")
        self._telling.tell_end(title, lines[0], self._presence.record.instance_id)
        self.given_up = lines[:1]
        self._service.gives_up(f"Given up: {lines[0]}")
        lines += self._replacement.still_served()
        printed = slot.last.child.lines if slot.last is not None else ()
        output = [line for line in printed if line and not stacks.is_line(line)]
        lines += ["The end of its output:", *output[-TAIL:]] if output else []
        self._terminal.fail(title, lines)
        if any(not worker.ended() for worker in self._workers.handed):  # one worker ends the start of all
            pending = self._replacement.pending
            self._finish(replaced=pending, last=self._owns_queue, stops=len(self._loop.stops))
        return 4

    # Re-runs.

    def _conclude(self, ending: Ending, counts: Worker | None) -> None:
        self._workers.conclude(ending, counts)
        self._service.serves(self._workers.judged)
        self._telling.tell_news(ending.report)

    # Being replaced.

    def _retire(self, pid: int) -> None:
        """Another instance serves in place of this one."""
        self._replaced_by = pid

    def _take_back(self) -> None:
        """A start that had our socket has gone: it may have become its listener, and this instance serves still."""
        if not self._asked_to_end():
            self._workers.be_the_listener()

    # The end.

    def _drain(self) -> None:
        """Let the workers finish what they are doing; a second signal, or their deadline, ends them at once."""
        why = f"Replaced by another start (PID {self._replaced_by}); stopping."
        if self._replaced_by is None:
            why = f"Stopping ({signal.Signals(self._loop.stops[0]).name})."
        self._terminal.line(why)
        self._service.ends(why, stops_within(self._settings))
        self._reruns.end()
        self._telling.leave_fleet("stopped" if self._replaced_by is None else "replaced")
        self._presence.drains(stops_within(self._settings))
        if not self._workers.handed:
            return
        replaced = self._replaced_by is not None
        # Counted from the signal that began the drain, not from now: a second one may have come meanwhile.
        self._finish(replaced=replaced, last=not replaced and self._owns_queue, stops=1)

    @property
    def _owns_queue(self) -> bool:
        """Whether nobody else has the socket: the instance before this one, the one after it, or systemd."""
        return not (self._entry.activated or self._presence.given or self._replacement.pending)

    def _finish(self, *, replaced: bool, last: bool, stops: int) -> None:
        """Let the workers end in order, until their deadline is over or more than ``stops`` signals ask to stop."""
        workers = self._workers.handed
        # Each worker that serves answers what waits in the queue, so that nothing depends on one that hangs.
        answers = next((worker for worker in workers if worker.ready), workers[0] if workers else None)
        # Connections wait for its start-up only where clients know of this instance.
        starts = answers if self.announced else None
        for worker in workers:
            worker.drain(replaced=replaced, last=last, starts=worker is starts)
        # The workers have the socket, and close it first of all: the port is free long before the last answer.
        self._socket.close()
        drain.wait_for_end(
            workers,
            self._settings,
            starts=starts,
            loop=self._loop,
            terminal=self._terminal,
            presence=self._presence,
            stops=stops,
        )


def _others(serving: int) -> list[str]:
    """Who serves instead of a worker that has ended, in words; nothing if nobody does."""
    if serving == 0:
        return []
    return ["1 other worker serves." if serving == 1 else f"{serving} other workers serve."]
