"""The process behind run.py: suite and worker side by side, and the verdict; then the supervisor serves.

It stays small and quick: nothing heavy is imported before both children run (rich comes after),
and the application, pydantic and asyncio never are.
"""

from __future__ import annotations

import errno
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from preflight import __version__, times
from preflight.instances import runtime
from preflight.instances.presence import Presence
from preflight.instances.runtime import RuntimeFolderError, StartLock
from preflight.output import audit, publishing
from preflight.output.publishing import Unpublishable
from preflight.output.streams import Stream
from preflight.processes import children, stacks
from preflight.processes.loop import Loop
from preflight.processes.signals import Ended
from preflight.processes.suite import Result, Suite
from preflight.processes.worker import Worker
from preflight.settings.model import Settings
from preflight.text import foreign

if TYPE_CHECKING:
    from preflight.instances.records import Handover
    from preflight.launcher.supervisor import Supervisor
    from preflight.notify.notifier import Notifier
    from preflight.output.log import Log, LogFile
    from preflight.output.terminal import Terminal
    from preflight.report.model import Report


TELLING = 10.0  # seconds that a command which ends by itself waits for notifications to be delivered
PARTING = 1.5  # and one that was asked to end
LOOK = 0.1  # seconds between two looks for a signal while somebody reads
START_UP = 60.0  # seconds that another start's server may take to come up after its checks


class Stopped(Exception):
    """A signal asked the launcher to stop; ``number`` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Launcher:
    """One start, or one check."""

    def __init__(
        self,
        settings: Settings,
        options: Mapping[str, object],
        *,
        typed_at: float,
        report_path: Path | None = None,
        output_format: str = "",
        verbose: bool = False,
        log_file: LogFile | None = None,
        patient: bool = False,
        terminal: Terminal | None = None,
        keeper: str | None = None,
    ) -> None:
        """``typed_at`` is when the command began, on the monotonic clock.

        ``patient``: somebody will try again if this blocks, so nothing is shown or published then; what was
        found is in ``result``. ``terminal`` is that of the try before; these settings' secrets are its own from now on.
        ``keeper`` is who else restarts this process when it ends, if anybody does.
        """
        self.settings = settings
        self.options = options
        self.typed_at = typed_at
        self.report_path = report_path
        self.output_format = output_format
        self.verbose = verbose
        self._log_file = log_file
        self.patient = patient
        self._keeper = keeper
        self._is_read = False
        """Whether what is shown is all that was asked for, so that its reader is waited for."""
        self.result: Result | None = None
        self.run_id = os.urandom(16).hex()
        self._terminal = terminal
        if terminal is not None:
            terminal.log = self._log()
        self._loop = Loop()
        self._lock: StartLock | None = None
        self._presence: Presence | None = None
        self._handover: Handover | None = None
        self._suite: Suite | None = None
        self._worker: Worker | None = None
        self._socket: socket.socket | None = None
        self._supervisor: Supervisor | None = None
        self._done = 0
        self._application_told = False
        self._silent = False
        self._hanging_import: list[str] = []
        """Where the application stands whose import had not ended when the run was over; lines for people."""
        self._why: list[str] = []
        """Why a start was refused, once that is known."""

    def check(self) -> int:
        """Run the checks and say what they found; start and stop nothing. Returns the exit code."""
        self._is_read = not self.patient
        try:
            with self._loop.running():
                exit_code = self._guarded("check")
                self._wait_for_reader()
                return exit_code
        finally:
            self._loop.close()

    def _wait_for_reader(self) -> None:
        """Wait until what a check has found is read, however long that takes; a signal ends that, too."""
        while isinstance(sys.stdout, Stream) and not sys.stdout.settled(LOOK):
            if self._loop.stops:
                raise Ended(128 + self._loop.stops[0])

    def examine(self) -> Result:
        """Run the checks and leave it to the caller what to say of them; start and stop nothing.

        Raises Stopped when a signal asks to stop.
        """
        self._silent = True
        try:
            with self._loop.running():
                return self._examine("check")
        finally:
            self._let_go()
            self._loop.close()

    def start(self) -> int:
        """Run the checks and, if nothing blocks, serve until asked to stop. Returns the exit code.

        Raises what a signal's handler raises (see signals.py) while another start of this address goes on.
        """
        exit_code = self._start()
        if not self.undecided:
            self.refused(exit_code)
        return exit_code

    def _start(self) -> int:
        try:
            exit_code = self._enter()
            if exit_code is not None:
                return exit_code
            with self._loop.running():
                return self._guarded("start")
        except RuntimeFolderError as error:
            return self._unsafe(error)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._let_go()  # what is said takes a descriptor, too
            self._why = [children.shortage(error)]
            self.terminal.fail("THE PREFLIGHT ITSELF BROKE: nothing was started", self._why)
            return 3
        finally:
            self._let_go()
            self._loop.close()

    @property
    def undecided(self) -> bool:
        """Whether it blocked, and somebody will try again."""
        return self.patient and self.result is not None and self.result.exit_code in (1, 3)

    def _guarded(self, origin: str) -> int:
        try:
            publishing.make_sure(self.settings)
            if self.report_path is not None:
                self._claim(self.report_path, origin)
            self.result = result = self._examine(origin)
            if self.undecided:
                return result.exit_code
            self.conclude(result)
            self._audit_run(result)
            if origin == "check":
                return result.exit_code
            if not result.may_start:
                self._tell(result)
                if self._handover is not None:
                    self.terminal.line(
                        f"{self._handover.record.name} is still serving {self.settings.address}.", "bold"
                    )
                return result.exit_code
            if self._loop.stops:
                raise Stopped(self._loop.stops[0])
            return self._serve(result)
        except Stopped as stopped:
            self.terminal.progress_over()
            self.terminal.line(f"Stopped by {stopped}; nothing was started.")
            # No exit code of our own: nothing was served, and nothing was found out.
            return 128 + stopped.number
        except Unpublishable as error:
            self.unwritten(error)
            return 3
        finally:
            self.terminal.progress_over()
            self._let_go()
            # Last of all: nobody has to wait for it.
            self._finish_telling()

    def unwritten(self, error: Unpublishable) -> None:
        """Say that a report could not be written."""
        self._why = [f"the report cannot be written: {error}"]
        self.terminal.fail(
            "THE REPORT CANNOT BE WRITTEN: nothing was started",
            [str(error), "Fix: make room or name another place"],
        )

    def _unsafe(self, error: RuntimeFolderError) -> int:
        self._why = [f"the runtime folder cannot be used: {error}"]
        title = "THE RUNTIME FOLDER CANNOT BE USED: nothing was started"
        self.terminal.fail(title, [str(error), f"Fix: {runtime.FIX}"])
        return 1

    def _let_go(self) -> None:
        """Leave no process and no descriptor behind, whatever happened."""
        if self._suite is not None:
            self._suite.abandon()
        worker = self._supervisor.worker if self._supervisor is not None else self._worker
        if worker is not None:
            self._loop.unwatch_child(worker.child)
            worker.child.close()
        if self._socket is not None:
            self._socket.close()
        if self._handover is not None:
            self._handover.close()
        if self._presence is not None:
            self._presence.end()
        if self._lock is not None:
            self._lock.release()

    # Who else is there.

    def _enter(self) -> int | None:
        """Be the only start of this port, and find a running instance; an exit code if there is nothing to do."""
        self._lock = StartLock(self.settings.port, self.settings.state_dir)
        if not self._lock.take():
            self.terminal.line(f"Another start of port {self.settings.port} is going on; waiting for it.")
            patience = self.settings.run_timeout + START_UP
            taken = self._lock.take(patience)
            if not taken and not self._is_suspended(self._lock.holder()):
                # Its application takes its time, as it may: twice, where its first worker does not come up.
                longer = 2 * self.settings.startup_timeout or math.inf
                starts = f"PID {self._lock.holder()} has been starting for more than {patience:g} s"
                self.terminal.line(f"{starts}; waiting on, for as long as an application may take.")
                patience += longer
                taken = self._lock.take(longer)
            if not taken:
                pid = self._lock.holder()
                what = f"PID {pid} has been starting on port {self.settings.port} for more than {patience:g} s."
                fix = f"Fix: see what it waits for, or end it: kill -CONT {pid}; kill {pid}"
                self._why = [f"another start does not end: {what}"]
                self.terminal.fail("ANOTHER START DOES NOT END", [what, fix])
                return 1
        # Before anything is stopped: what a start needs is there, and others can see that it goes on.
        self._presence = Presence.of(self.settings, self._loop, keeper=self._keeper or "")
        return self._meet() if self._is_taken() else None

    @staticmethod
    def _is_suspended(pid: int) -> bool:
        """Whether a process was stopped by a signal, so that waiting for it is in vain."""
        from preflight.ports import here

        process = here().process(pid)
        return process is not None and process.suspended

    def _is_taken(self) -> bool:
        """Whether somebody is on the port: a quick look, which spares most starts the import of what looks closely."""
        if sys.platform != "linux":  # elsewhere SO_REUSEADDR binds beside a listener
            return True
        host = self.settings.host
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host.encode() if host.isascii() else host, self.settings.port))
            except OSError:  # or no address of this machine: whatever it is, the close look tells
                return True
        return False

    def _meet(self) -> int | None:
        """Find an instance of ours that is in the way, and ask for its socket; an exit code if that is all."""
        from preflight.instances import neighbours

        decision = neighbours.decide(self.settings, neighbours.on_port(self.settings), self.typed_at)
        if decision is None:
            return None
        one = decision.neighbour
        serves = f"{one.name} serves {one.where}"
        if decision.refusal:
            self._why = [decision.refusal]
            self.terminal.fail("ALREADY RUNNING", [f"{decision.refusal}.", f"Fix: {decision.fix}"])
            return 1
        if one.came_up_after(self.typed_at):
            self.terminal.line(f"{serves}: it came up meanwhile. Nothing to do.")
            return 0
        if not decision.replaces:
            self.terminal.line(f"{serves}. Nothing to do.")
            return 0
        if one.record.root and Path(one.record.root) != self.settings.root:
            this = self.settings.root
            self.terminal.line(f"{serves} from {foreign(one.record.root)}; this start from {this} replaces it.")
        # If it does not answer, it is stopped like any other holder of the port: by the suite, last. So is
        # one on another address, whose socket is of no use here.
        if one.is_at(self.settings):
            self._handover = one.hand_over()
        return None

    # The checks.

    def _examine(self, origin: str) -> Result:
        # Both children first; everything that takes its time to import comes after.
        inherited = self._handover.socket if self._handover is not None else None
        try:
            self._worker = worker = Worker(self.settings)
            self._suite = suite = Suite(self.settings, self.options, origin, run_id=self.run_id, inherited=inherited)
        except OSError as error:
            reason = children.shortage(error)
            return Result(self._broken(reason, origin), 3, reason)
        for child in (worker.child, suite.child):
            child.on_signal = self._signalled
        self._loop.watch_child(worker.child, worker.read_channel, lambda: self._worker_printed(worker))
        self._loop.watch_child(suite.child, lambda: self._suite_spoke(suite), suite.child.read_output)
        if not self.output_format and not self._silent:
            self._header(origin)
        told: str | None = None
        while not suite.ended():
            self._loop.turn(min(0.5, suite.deadline - time.monotonic()))
            if self._loop.stops:
                raise Stopped(self._loop.stops[0])
            known = worker.ended() or worker.imported or worker.error is not None
            # It can have imported and then try to listen: what the suite hears last before it asks is what counts.
            if known and (not self._application_told or worker.error != told):
                told = worker.error
                suite.application(told, worker.fix)
                self._application_told = True
                _import_for_later()
        self._loop.unwatch_child(suite.child)
        if self._loop.stop_follows(suite.child):
            raise Stopped(self._loop.stops[0])
        self._suite = None
        result = suite.result(self.terminal.redactor)
        self._socket = result.socket
        patience = min(self.settings.requirement_timeout, self.settings.run_timeout)
        waited = not self._application_told and time.monotonic() - suite.begun >= patience
        if waited and not self._silent and not self._loop.stops:
            self._hanging_import = stacks.shown(stacks.gather(worker, self._loop))
        if not self._silent:
            self.terminal.progress_over()
        return result

    def _suite_spoke(self, suite: Suite) -> None:
        for message in suite.read_channel():
            if self._silent:
                continue
            match message.kind:
                case "checking":
                    title = str(message.data["title"])
                    self.terminal.progress(title, self._done, len(suite.titles))
                case "checked":
                    self._done += 1
                case "port":
                    if not self.output_format:
                        self.terminal.line(str(message.data["stamped" if self.verbose else "line"]))
                    why = f"it is in the way on {self.settings.address}"
                    if event := audit.signalled(message.data["step"], why, pid=suite.child.pid):
                        self.terminal.log.audit(event)

    def _worker_printed(self, worker: Worker) -> None:
        if self._supervisor is not None:
            self._supervisor.on_output(worker)
        else:
            worker.read_output()  # kept, and shown if it comes to serving

    def _serve(self, result: Result) -> int:
        if self._worker is None or self._socket is None or self._presence is None:
            raise RuntimeError("there is nothing to serve with")
        from preflight.launcher.supervisor import Supervisor

        self._supervisor = Supervisor(
            self.settings,
            self.options,
            loop=self._loop,
            terminal=self.terminal,
            worker=self._worker,
            sock=self._socket,
            found=result.report,
            presence=self._presence,
            started=self._started,
            replaces=self._handover,
            notifier=self.notifier,
            keeper=self._keeper,
        )
        exit_code = self._supervisor.run()
        self._why = self._supervisor.given_up
        return exit_code

    def _started(self) -> None:
        """The server answers: the old instance, if any, may go, and the next starter come."""
        if self._handover is not None:
            self._handover.retire()
            self._handover.close()
            self._handover = None
        if self._lock is not None:
            self._lock.release()

    # The audit.

    def _signalled(self, name: str, pid: int, module: str, why: str) -> None:
        """A child of ours was sent a signal."""
        event = audit.Event.now("signal", signal=name, to=pid, name=module, why=why, result="sent")
        self.terminal.log.audit(event)

    def _audit_run(self, result: Result) -> None:
        if result.exit_code == 2:  # who typed an option wrongly has run nothing
            return
        found = result.report
        about = {"origin": found.origin, "status": found.status, "may_start": result.may_start, "run_id": found.run_id}
        self.terminal.log.audit(audit.Event.now("run", by="command", parent=os.getppid(), **about))

    def give_up(self, result: Result) -> None:
        """Publish and show the run after which no other will be tried. Raises Unpublishable."""
        self.conclude(result)
        self._audit_run(result)
        self.result = result

    def refused(self, exit_code: int) -> None:
        """Record a start that came to nothing; not one that served and ended as asked, or that a signal stopped."""
        if exit_code not in (1, 2, 3, 4):
            return
        found = self.result.report if self.result is not None else None
        why = self._why
        if not why and self.result is not None:
            why = [check.title for check in self.result.report.blocking] or [self.result.reason]
        # What has served was not refused.
        served = self._supervisor is not None and self._supervisor.announced
        event = audit.refused(
            why,
            exit_code,
            kind="given_up" if served else "refused",
            address=self.settings.address,
            run_id=found.run_id if found else None,
        )
        self.terminal.log.audit(event)

    # What is shown.

    @property
    def terminal(self) -> Terminal:
        """Where everything goes that people read."""
        if self._terminal is None:
            from preflight.output.terminal import Terminal  # rich: not before both children run

            # With a format for machines, standard output is the machine's.
            stream = sys.stderr if self.output_format else sys.stdout
            self._terminal = Terminal(self._log(), stream, verbose=self.verbose, lossy=not self._is_read)
        return self._terminal

    def _log(self) -> Log:
        from preflight.output.log import Log
        from preflight.redaction.redactor import Redactor

        redactor = Redactor.of(self.settings)
        return Log(redactor, self._log_file, self.settings.log_format, trail=self.settings.state.audit, waits=False)

    @cached_property
    def notifier(self) -> Notifier | None:
        """Who tells people about changes; None where nobody is to be told."""
        if not self.settings.notify:
            return None
        from preflight.notify.notifier import Notifier

        return Notifier(
            self.settings, self._loop, self.terminal.redactor, lambda line: self.terminal.line(line, "yellow")
        )

    def tell_refused(self, result: Result, loop: Loop) -> None:
        """Tell people about a start that was given up after waiting; its own loop is closed by now."""
        self._loop = loop
        self._tell(result)
        self._finish_telling()

    def _finish_telling(self) -> None:
        if "notifier" in vars(self) and self.notifier is not None:
            self.notifier.finish(PARTING if self._loop.stops else TELLING)

    def _tell(self, result: Result) -> None:
        """Tell about a refused start; what was typed wrongly is for who typed it."""
        if self.notifier is None or result.exit_code == 2:
            return
        from preflight.notify import notices

        notice = notices.take_news(result.report, self.settings)
        if notice is not None:
            self.notifier.tell(notice)

    def _header(self, origin: str) -> None:
        from preflight.report import model as report

        profile = " · demo" if self.settings.demo else ""
        facts = f"Python {report.python()} · {times.local()} · {origin}{profile}"
        self.terminal.line(f"Preflight {__version__} · {facts}", "bold")
        self.terminal.line(self._port_status())

    def _port_status(self) -> str:
        from preflight import ports
        from preflight.redaction.keys import common_secrets

        if self._handover is not None:
            old = self._handover.record.name
            return f"{self.settings.address} is served by {old}, which goes on until this start is ready."
        secrets = common_secrets(self.settings)
        policy = ports.Policy(cleanup="never", secrets=secrets)
        plan = ports.plan(self.settings.host, self.settings.port, policy)
        if plan.free:
            return f"{self.settings.address} is available."
        if plan.holders:
            return f"{self.settings.address} is in use by {plan.holders[0].describe()}."
        return plan.problem or f"{self.settings.address} is in use."

    # The report.

    def _claim(self, path: Path, origin: str) -> None:
        """Make sure, before anything is stopped, that the report can be written, and that no old one stands there."""
        publishing.write_where_asked(self._broken("this run has not ended", origin), path)

    def _broken(self, reason: str, origin: str) -> Report:
        from preflight.report import model as report

        return report.broken(
            reason,
            run_id=self.run_id,
            origin=origin,
            address=self.settings.address,
            started_at=times.now(),
            duration=0.0,
        )

    def conclude(self, result: Result) -> None:
        """Publish a run, keep it in the history and show it. Raises Unpublishable."""
        if result.exit_code != 2:  # who typed an option wrongly has found out nothing
            self.publish(result.report)
        self._present(result)

    def publish(self, found: Report, *, keep: bool = True) -> None:
        """Write a run's report, and keep it in the history. Raises Unpublishable."""
        publishing.publish(found, self.settings, self.terminal, keep=keep)
        if self.report_path is not None:
            publishing.write_where_asked(found, self.report_path)

    def _present(self, result: Result) -> None:
        if result.exit_code == 2:
            from preflight.output import plainlines

            plainlines.error(result.reason)
            return
        if self.output_format:
            from preflight.report import formats

            text = formats.render(self.output_format, result.report, self.settings.root, os.environ)
            if sys.stdout is not None:  # closed from the beginning: nobody wants it
                # UTF-8 whatever the locale: it is what readers of these formats expect.
                sys.stdout.buffer.write(text.encode("utf-8") + b"\n")
                sys.stdout.buffer.flush()
            return
        publishing.show(result.report, self.terminal, reason=result.reason, output=result.output)
        if self._hanging_import:
            self.terminal.fail(f"{self.settings.app} DOES NOT IMPORT: it has not come to an end", self._hanging_import)


def _import_for_later() -> None:
    """Import what a verdict and serving need, while the suite ends: the application has been imported, and a
    processor may be idle.
    """
    from preflight.launcher import supervisor  # noqa: F401
