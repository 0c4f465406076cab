"""One run of the suite, as plugins that pytest has for as long as the run takes: `preflight.plugin` asks for them.

`collection` holds the requirements to what they declare, and keeps the order (the port last). `stages` holds each to
its deadline, and turns pytest's outcomes into ours. What is here makes the report and publishes it.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from preflight.report import building
from preflight.report.model import LONGEST_MESSAGE, Report
from preflight.settings.model import Settings
from preflight.suite.collection import Collection
from preflight.suite.run import RUN, SuiteRun
from preflight.suite.stages import Stages

if TYPE_CHECKING:
    from preflight.suite.link import Link


def register(config: pytest.Config, settings: Settings, link: Link | None) -> None:
    """Let pytest have the plugins of a run, which begins now. Raises UsageError if one of them is kept out."""
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
        if self._alone is not None:  # a launcher reads what pytest says
            self._alone.interrupt(self.config)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        self._refuse(soundness.problems(self.config))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> Generator[None]:
        if self._alone is not None:
            self._alone.leave_out_fixtures(items)
        self._declare(items)
        self._compare(session, items)
        yield
        # The application late, the port last, whatever else wanted to shuffle; else as they stand in the files.
        # The database after the application: a start does not wait for it any longer.
        items.sort(key=lambda item: [name in fixtures(item) for name in ("port", "database", "application")])

    def _declare(self, items: list[pytest.Item]) -> None:
        self.declarations, faults = declarations.read(items, self.redactor)
        self._of_port = {item.nodeid for item in items if "port" in fixtures(item)}
        self._refuse(faults)
        if misnamed := declarations.misnamed(self.settings, self.declarations, whole=self.collection.is_whole(items)):
            self._wrong_usage(misnamed)

    def _compare(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Compare what was collected with what the suite's files say."""
        faults = self.collection.strange(items) or self.collection.stale(items)
        self._witnesses = {item.nodeid: Witness(item) for item in items}
        missing = self.collection.missing(session, items)
        self._refuse(faults + (missing if not self.problems else []))

    def _refuse(self, faults: list[str]) -> None:
        """End the run before it has begun, if there is a reason to."""
        if faults:
            faults = [self.redactor.beginning(fault, report.LONGEST_MESSAGE) for fault in faults]
            self._broken(faults)
            raise pytest.UsageError("\n".join(faults))

    def _wrong_usage(self, message: str) -> NoReturn:
        self.problems.append(message)
        self._misused = True
        if self.link:
            self.link.send("usage", message=message)
        raise pytest.UsageError(message)

    def _broken(self, problems: list[str]) -> None:
        problems = [self.redactor.beginning(problem, report.LONGEST_MESSAGE) for problem in problems]
        self.problems += problems
        if self.link:
            self.link.send("broken", problems=problems)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self._broken([f"{report.nodeid}: left out as a whole: {first_line(why)}"])
        if report.failed:
            lines = [line.removeprefix("E").strip() for line in str(report.longrepr).splitlines() if line.strip()]
            self._broken([f"{report.nodeid}: cannot be collected: {uncollectable(lines)}"])

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self.collection.deselected |= {item.nodeid for item in items}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if session.config.option.collectonly or self.problems:
            return  # pytest calls this after a usage error, too
        self._refuse(self.collection.taken_out(session.items, self.declarations))
        asked = [item for item in session.items if not self._left_out(self.declarations[item.nodeid])]
        if self._alone is not None and any("application" in fixtures(item) for item in asked):
            self._alone.import_application()
        if values := self.inquiries.start(asked):
            self.redactor = Redactor.of(self.settings, besides=values)
        if self.link:
            self.link.send("collected", titles=[self._title(item.nodeid) for item in session.items])

    def _title(self, nodeid: str) -> str:
        return report.shown(self.declarations[nodeid].title, self.redactor)

    # Each requirement: applicability, deadline, outcome.

    def _left_out(self, declared: Declaration) -> str:
        return left_out(declared, self.settings, takes_port=self.link is None or self.link.takes_port)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if self.link:
            self.link.send("checking", title=self._title(nodeid))

    # Inside all other wrappers: those have to see the beginning of a stage whose end they will see.
    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None]:
        declared = self.declarations[item.nodeid]
        reason = self._left_out(declared)
        if reason:
            if declared.service.casefold() in self.settings.unused:
                self.findings.details_of(item)["service"] = declared.service
            raise NotApplicable(reason)
        item.stash[_BEGUN] = time.monotonic()
        with self._deadline(item), self._witnesses[item.nodeid].hearing():
            yield

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None]:
        with self._deadline(item), self._witnesses[item.nodeid].watching(item):
            yield

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_teardown(self, item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
        with self._deadline(item), self._witnesses[item.nodeid].hearing():
            its_own = cleanup.own(item)
            before_port = nextitem is not None and "port" in fixtures(nextitem) and "port" not in fixtures(item)
            with cleanup.of_shared(item, None if before_port else nextitem):
                try:
                    yield
                finally:
                    if before_port:
                        # What fixtures of the whole session raise at their end is known before the port is freed.
                        cleanup.everything(item.session)
            if its_own is not None:
                raise its_own

    def _deadline(self, item: pytest.Item) -> contextlib.AbstractContextManager[None]:
        # What asks for the port frees it, and that is no warning's affair alone.
        declared = self.declarations[item.nodeid]
        may_use_all = declared.severity != "warning" or "port" in fixtures(item)
        begun = item.stash.get(_BEGUN, time.monotonic())
        return self.deadlines.kept(begun, own=declared.timeout, may_use_all=may_use_all)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        # Its own representation is thrown away below; of a message of 50 MB it takes minutes and gigabytes.
        vars(item).update(repr_failure=_nothing, _repr_failure_py=_nothing)
        stage = yield
        declared = self.declarations[item.nodeid]
        # What a plugin has caught on the way was raised all the same.
        caught = self._witnesses[item.nodeid].raised if stage.when == "call" else None
        error = call.excinfo.value if call.excinfo else caught
        outcome, message = outcome_of(item, stage, error)
        if isinstance(error, DeadlineExceeded) and error.fix:
            self.findings.details_of(item).fix = error.fix
        if caught is not None and stage.passed and outcome != "passed":
            stage.outcome = "skipped" if isinstance(caught, Skipped) else "failed"
        outcome, message = self._unless_ignored(item, outcome, message)
        if outcome == "ignored":
            stage.outcome = "skipped"
        check = self.findings.add(item, declared, outcome, message, call.duration)
        self._redact(stage, item, message)
        if stage.when == "teardown":
            self._end(item, check)
        return stage

    def _redact(self, stage: pytest.TestReport, item: pytest.Item, message: str) -> None:
        if stage.outcome != "passed":
            # Never pytest's own representation: it shows values, and shortens them so that no redactor finds them.
            shown = self.redactor.beginning(message, report.LONGEST_MESSAGE)
            stage.longrepr = (str(item.path), 0, shown) if stage.outcome == "skipped" else shown
        stage.sections = []
        stage.user_properties = [
            (self.redactor.beginning(str(name), LONGEST_TITLE), building.limited(value, self.redactor))
            for name, value in stage.user_properties
        ]

    def _end(self, item: pytest.Item, check: report.Check) -> None:
        """The requirement has been torn down, and this is its check."""
        self.findings.ended.add(item.nodeid)
        self._judge_cleanup(item)
        if check.outcome == "passed" and not self._witnesses[item.nodeid].entered:
            self._broken([f"{item.nodeid}: its body was not executed: leave out the plugin that prevents it"])
        self._tell(check)

    def _tell(self, check: report.Check) -> None:
        if self.link:
            self.link.send("checked", **building.in_brief(check, self.redactor))

    def _unless_ignored(self, item: pytest.Item, outcome: str, message: str) -> tuple[str, str]:
        """Outcome and message, as the settings have it that let some critical requirements go."""
        ignorable = declarations.is_ignored(item.nodeid, self.declarations[item.nodeid], self.settings)
        if outcome not in _REFUSALS or not ignorable:
            return outcome, message
        return "ignored", f"ignored by {named_by(self.settings, 'ignore')}: {message}"

    def _judge_cleanup(self, item: pytest.Item) -> None:
        """What is raised when the last user of a fixture has gone is the affair of those that matter most, too."""
        fault = cleanup.fault_of(item)
        if fault is None:
            return
        said = f"{type(fault.error).__name__}: {first_line(str(fault.error))}"
        for user in cleanup.users(item, fault, item.session.items):
            declared = self.declarations[user.nodeid]
            if user is item or declared.severity != "critical" or not self.findings.has_passed(user):
                continue
            message = f"what it shares with others was not cleaned up: {said}"
            outcome, message = self._unless_ignored(user, "error", message)
            self._tell(self.findings.add(user, declared, outcome, message))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # pytest puts the reason there after makereport.
        if hasattr(report, "wasxfail"):
            report.wasxfail = self.redactor.text(str(report.wasxfail))

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
            run.link.send("report", document=report.to_json())
        elif run.alone is not None and (session.exitstatus != pytest.ExitCode.INTERRUPTED or run.problems):
            # A run that somebody stopped with Ctrl-C says nothing new.
            run.alone.publish(report, session)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Generator[None]:
        run = self._run
        if exitstatus == pytest.ExitCode.OK and run.findings.blocking:
            # A skipped critical, say: green for pytest, and still no reason to start.
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        yield
        run.inquiries.close()
        report = run.report
        if session.exitstatus == pytest.ExitCode.OK and report is not None and not self._config.option.collectonly:
            # CI goes by the exit code, whether a plugin made it up or pytest did not know better (of a broken run).
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
