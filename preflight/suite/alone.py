"""A run that plain pytest has started: it does itself what a launcher does for the other runs.

It imports the application, shows and audits what is done to free the port, keeps the report and shows the verdict.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from typing import TextIO

import pytest
from _pytest._code.code import TerminalRepr

from preflight.output import audit
from preflight.output.log import Log, LogFile
from preflight.ports import Step
from preflight.processes.worker import Worker
from preflight.redaction.redactor import Redactor
from preflight.report import history
from preflight.report import model as report
from preflight.settings import servicelinks
from preflight.settings.model import Settings
from preflight.suite import written
from preflight.suite.claimed import told
from preflight.suite.soundness import surroundings
from preflight.text import printable


class Alone:
    """The launcher's part in such a run."""

    def __init__(self, settings: Settings, redactor: Redactor) -> None:
        """Raises UsageError if the log file cannot be written."""
        self._settings = settings
        self._log = _log(settings, redactor)
        self._worker: Worker | None = None
        self._steps: list[str] = []
        """What was done to free the port."""
        self._published = ""
        self._unkept = ""

    def import_application(self) -> Worker:
        """The process that imports the application, begun with the first call."""
        self._worker = self._worker or Worker(self._settings)
        return self._worker

    def application(self) -> tuple[str | None, str]:
        """Wait until the application has imported; returns its error if it did not, and what to do about that."""
        worker = self.import_application()
        return worker.wait_for_import(), worker.fix

    def on_port_step(self, step: Step, redactor: Redactor) -> None:
        """Keep for the end, and audit, what is done to free the port."""
        self._steps.append(redactor.text(told(step, when=True)))
        if event := audit.freeing(step, self._settings.address):
            self._log.audit(event)

    def publish(self, found: report.Report, session: pytest.Session) -> None:
        """Write the report where the server and the history find it; if that fails, the run fails as well."""
        try:
            self._settings.state.make()
            report.publish(found, self._settings.state.report)
            self._published = str(self._settings.state.report)
            self._unkept = history.keep(found, self._settings)
        except OSError as error:
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
            self._published = f"NOT WRITTEN: {self._settings.state.report}: {error.strerror}"

    def leave_out_fixtures(self, items: list[pytest.Item]) -> None:
        """Keep what the project's own tests have in their conftest.py files out of its requirements."""
        folders = [folder for one in self._settings.scopes for folder in (one.folder, one.folder.resolve())]
        surroundings.leave_out(items, folders, self._settings.plugins)

    def redact(self, config: pytest.Config, redactor: Redactor) -> None:
        """Take the secrets out of what pytest writes: a launcher does that with all that its suite's process writes."""
        written.redact(config, redactor)

    def redact_properties(self, config: pytest.Config, redactor: Redactor) -> None:
        """The same for what fixtures have recorded for the file of ``--junitxml``."""
        written.redact_properties(config, redactor)

    def redact_error(self, error: TerminalRepr, redactor: Redactor) -> None:
        """The same for an error in a hook, which pytest shows as it is."""
        written.redact_error(error, redactor)

    def interrupt(self, config: pytest.Config) -> None:
        """End the run at once where nobody reads its output: pytest would write a lot of it, and wait for a reader.

        Another Ctrl-C ends it at once in any case.
        """
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if not _is_read(config.get_terminal_writer()._file):
                signal.raise_signal(signal.SIGINT)

    def close(self, found: report.Report | None) -> None:
        """End the import, and audit the run if it has come to a report."""
        if self._worker is not None:
            self._worker.child.close()
        if found is not None:
            about = {"status": found.status, "may_start": found.may_start, "run_id": found.run_id}
            self._log.audit(audit.Event.now("run", by="command", parent=os.getppid(), origin="pytest", **about))

    def show(self, found: report.Report, terminal: pytest.TerminalReporter) -> None:
        """The end of pytest's own summary: what blocks, what warns, and the verdict."""
        terminal.write_sep("-", "preflight")
        if self._settings.set_aside:
            terminal.write_line(printable(servicelinks.described(self._settings.set_aside)))
        for step in self._steps:
            terminal.write_line(step)
        for check in (*found.blocking, *found.warnings):
            terminal.write_line(f"{check.severity} {check.outcome}: {check.title}: {check.message}")
            if check.fix:
                terminal.write_line(f"    fix: {check.fix}")
        if self._unkept:
            terminal.write_line(self._unkept)
        if found.reason:
            terminal.write_line(f"broken: {found.reason}")
        terminal.write_line(f"{found.status}; report: {self._published or 'not written'}")


def _is_read(stream: TextIO) -> bool:
    """Whether a stream accepts a line; one that is not a file always does."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
    except (OSError, ValueError, AttributeError):
        return True
    return bool(poll.poll(0))


def _log(settings: Settings, redactor: Redactor) -> Log:
    try:
        file = LogFile(settings.log_file) if settings.log_file else None
    except OSError as error:
        raise pytest.UsageError(f"the log file {settings.log_file} cannot be used: {error.strerror}") from None
    return Log(redactor, file, settings.log_format, trail=settings.state.audit)
