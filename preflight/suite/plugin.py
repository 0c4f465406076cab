"""One run of the suite, as plugins of pytest: `preflight.plugin` has them registered when the run begins.

`collection` holds the requirements to what they declare, and keeps the order (the port last). `stages` holds each to
its deadline, and turns pytest's outcomes into ours. :class:`Reporting` makes the report and publishes it.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from preflight.processes import modules, signals
from preflight.report import building
from preflight.report.model import LONGEST_MESSAGE, Report
from preflight.settings.model import Settings
from preflight.suite.collection import Collection
from preflight.suite.run import RUN, SuiteRun
from preflight.suite.stages import Stages

if TYPE_CHECKING:
    from _pytest._code.code import ExceptionRepr

    from preflight.suite.link import Link


def register(config: pytest.Config, settings: Settings, link: Link | None) -> None:
    """Register the plugins of a run, which begins now. Raises UsageError if one of them is kept out."""
    signals.learn_how_children_end()  # plain pytest's parent, or that of the server around guard(), may ignore it
    run = SuiteRun(config, settings, link)
    plugins = {
        RUN: run,
        f"{RUN}-collection": Collection(config, run),
        f"{RUN}-stages": Stages(run),
        f"{RUN}-report": Reporting(config, run),
    }
    for name, plugin in plugins.items():
        if config.pluginmanager.register(plugin, name) is None:
            raise pytest.UsageError(f"-p no:{name} keeps out the plugin that controls the run: leave it out")


class Reporting:
    """The report of a run, and what pytest's own output and exit code have to do with it."""

    def __init__(self, config: pytest.Config, run: SuiteRun) -> None:
        self._config = config
        self._run = run
        self._session: pytest.Session | None = None

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self._session = session
        if self._run.alone is not None:
            self._run.alone.redact(self._config, self._run.redactor)

    def pytest_keyboard_interrupt(self) -> None:
        if self._run.alone is not None:  # a launcher reads what pytest says
            self._run.alone.interrupt(self._config)

    @pytest.hookimpl(tryfirst=True)
    def pytest_internalerror(self, excrepr: ExceptionRepr) -> None:
        if self._run.alone is not None:
            self._run.alone.redact_error(excrepr, self._run.redactor)

    @pytest.hookimpl(tryfirst=True)
    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage) -> None:
        # For pytest's own summary of warnings.
        shown = self._run.redactor.beginning(str(warning_message.message), LONGEST_MESSAGE)
        warning_message.message = shown

    @pytest.hookimpl(optionalhook=True)
    def pytest_json_modifyreport(self, json_report: dict[str, Any]) -> None:
        run = self._run
        run.report = building.build(
            json_report,
            run.findings.final,
            redactor=run.redactor,
            run_id=run.run_id,
            origin=run.origin,
            selection=run.selection,
            address=run.settings.address,
            started_at=run.started_at,
            problems=run.problems,
        )
        # A user who asked pytest-json-report for a file gets this document in it, and not the raw one.
        json_report.clear()
        json_report.update(run.report.to_json())
        self._publish(run.report)

    def _publish(self, report: Report) -> None:
        run, session = self._run, self._session
        if session is None or self._config.option.collectonly or (run.misused and not run.link):
            return
        if run.link:
            if not run.takes_port:  # another server's processes, which start later, ask whether anything has changed
                run.link.send("imported", stamps=modules.stamps(modules.imported(run.settings.root)))
            run.link.send("report", document=report.to_json())
        elif run.alone is not None and (session.exitstatus != pytest.ExitCode.INTERRUPTED or run.problems):
            # A run that somebody stopped with Ctrl-C says nothing new.
            run.alone.publish(report, session)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Generator[None]:
        run = self._run
        if run.findings.ended:
            run.notice_unheard()
        if exitstatus == pytest.ExitCode.OK and run.findings.blocking:
            # A skipped critical, say: green for pytest, and still no reason to start.
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if run.alone is not None:
            run.alone.redact_properties(self._config, run.redactor)
        yield
        run.inquiries.close()
        report = run.report
        if session.exitstatus == pytest.ExitCode.OK and report is not None and not self._config.option.collectonly:
            # CI goes by the exit code: a plugin may have changed it, and pytest does not know that a run is broken.
            if report.status == "broken":
                session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
            elif report.blocking:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if run.alone is not None:
            run.alone.close(None if run.misused else report)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        run = self._run
        if run.report is None or run.alone is None or run.misused or self._config.option.collectonly:
            return  # pytest itself reports wrong usage
        run.alone.show(run.report, terminalreporter)
