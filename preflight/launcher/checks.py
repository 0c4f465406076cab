"""One run of the checks: suite and worker are started side by side, and give one result.

The caller decides what the result means: a check reports it, a start goes on with worker and socket, a round of
``--wait`` or ``--watch`` compares it with the one before.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping

from preflight.launcher.shown import Display, RunProgress, broken
from preflight.ports.activation import Inherited
from preflight.processes import children, stacks
from preflight.processes.loop import Loop
from preflight.processes.suite import RunResult, Suite
from preflight.processes.worker import Worker
from preflight.settings.model import Settings

WORTH_ANOTHER_TRY = (1, 3)
"""Exit codes of runs that may succeed if repeated: something blocks, or the check suite itself failed."""
LOOK = 0.5  # seconds between two looks at the children, if neither sends anything


class Stopped(Exception):
    """A signal asked the launcher to stop; ``number`` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Checks:
    """One run. :meth:`close` ends its children, but for a worker that :meth:`take` has handed over."""

    def __init__(
        self, settings: Settings, options: Mapping[str, object], origin: str, *, loop: Loop, display: Display
    ) -> None:
        self.settings = settings
        self.options = options
        self.origin = origin
        self.run_id = os.urandom(16).hex()
        self.on_output: Callable[[Worker], object] = Worker.read_output
        """Called when the worker has printed something, which is kept, and shown once the worker is to serve."""
        self.hanging_import: list[str] = []
        """Where the import of the application stood if it had not ended when the run was over: lines for people."""
        self._loop = loop
        self._display = display
        self._suite: Suite | None = None
        self._worker: Worker | None = None
        self._socket: socket.socket | None = None
        self._application_told = False

    def run(self, progress: RunProgress | None = None, *, inherited: Inherited | None = None) -> RunResult:
        """Run to the end, shown by ``progress`` if there is one. Raises Stopped when a signal asks to stop.

        ``inherited`` is the listening socket that a start is given, by the instance that it replaces or by systemd.
        """
        try:
            worker, suite = self._spawn(inherited)
        except OSError as error:
            reason = children.shortage(error)
            return RunResult(broken(self.settings, reason, run_id=self.run_id, origin=self.origin), 3, reason)
        for child in (worker.child, suite.child):
            child.on_signal = self._display.signalled
        self._loop.watch_child(worker.child, worker.read_channel, lambda: self.on_output(worker))
        self._loop.watch_child(suite.child, lambda: self._hear(suite, progress), suite.child.read_output)
        if not gc.isenabled():
            gc.collect()  # the parser of the command line has gone, and rich gets its memory; the children import now
        if progress is not None:
            progress.begun(self.origin)
        self._drive(suite, worker)
        self._loop.unwatch_child(suite.child)
        if self._loop.stop_follows(suite.child):
            raise Stopped(self._loop.stops[0])
        self._suite = None
        result = suite.result(self._display.terminal.redactor)
        self._socket = result.socket
        if not gc.isenabled():  # the imports are done, and the instance may serve for months
            gc.freeze()  # they stay: to look through all of them now would delay the verdict
            gc.enable()
        if progress is not None:
            self.hanging_import = self._where_it_hangs(suite, worker)
            progress.over()
        return result

    def _spawn(self, inherited: Inherited | None) -> tuple[Worker, Suite]:
        """Start both children first: whatever takes long to import is imported afterwards."""
        self._worker = worker = Worker(self.settings)
        self._suite = suite = Suite(
            self.settings,
            self.options,
            self.origin,
            run_id=self.run_id,
            inherited=inherited,
            reports=self._display.reports,
        )
        return worker, suite

    def _drive(self, suite: Suite, worker: Worker) -> None:
        told: str | None = None
        while not suite.ended():
            self._loop.turn(min(LOOK, suite.deadline - time.monotonic()))
            self._display.service.goes_on()
            if self._loop.stops:
                raise Stopped(self._loop.stops[0])
            known = worker.ended() or worker.imported or worker.error is not None
            # The application may try to listen after its import: the last word before the suite asks for it counts.
            if known and (not self._application_told or worker.error != told):
                told = worker.error
                suite.application(told, worker.fix)
                self._application_told = True
                _import_for_later(serves=self.origin == "start")

    def _hear(self, suite: Suite, progress: RunProgress | None) -> None:
        for message in suite.read_channel():
            if progress is not None:
                progress.heard(suite, message)
            if message.kind == "port":
                self._display.freed(message.data["step"], suite.child.pid)

    def _where_it_hangs(self, suite: Suite, worker: Worker) -> list[str]:
        """Where the import stands if it has lasted longer than a requirement may take; empty if it has not."""
        patience = min(self.settings.requirement_timeout, self.settings.run_timeout)
        if self._application_told or self._loop.stops or time.monotonic() - suite.begun < patience:
            return []
        return stacks.shown(stacks.gather(worker, self._loop))

    def take(self) -> tuple[Worker, socket.socket]:
        """The worker, and the listening socket that the suite held; from now on they belong to the caller."""
        if self._worker is None or self._socket is None:
            raise RuntimeError("there is nothing to serve with")
        taken = self._worker, self._socket
        self._worker = self._socket = None
        return taken

    def close(self) -> None:
        """Leave no process and no descriptor behind; may be called more than once."""
        if self._suite is not None:
            self._loop.unwatch_child(self._suite.child)
            self._suite.abandon()
            self._suite = None
        if self._worker is not None:
            self._loop.unwatch_child(self._worker.child)
            self._worker.child.close()
            self._worker = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _import_for_later(*, serves: bool) -> None:
    """Import what comes after the verdict, while the suite ends: the application has been imported, and a processor
    may be idle.
    """
    if serves:
        from preflight.launcher import supervisor  # noqa: F401
    else:
        from preflight.report import history  # noqa: F401
