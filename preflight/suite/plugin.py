"""One run of the suite, as a pytest plugin that `preflight.plugin` registers.

It holds requirements to what they declare (contract.py), keeps the order (the port last), holds each to its deadline,
turns pytest's outcomes into ours and publishes the report.
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from _pytest.outcomes import Skipped  # pytest.skip.Exception is the same class under a name that mypy cannot follow

from preflight import times
from preflight.contract import LONGEST_TITLE, Declaration, NotApplicable
from preflight.redaction.redactor import Redactor
from preflight.report import building
from preflight.report import model as report
from preflight.settings.model import Settings
from preflight.suite import cleanup, declarations, loggers, soundness
from preflight.suite.applicability import left_out, named_by
from preflight.suite.collection import Collection
from preflight.suite.deadlines import DeadlineExceeded, Deadlines
from preflight.suite.findings import Findings
from preflight.suite.inquiries import Inquiries, fixtures
from preflight.suite.outcomes import outcome_of, uncollectable
from preflight.suite.witness import Witness
from preflight.text import first_line

if TYPE_CHECKING:  # which of the two is needed, and has been imported, is known at the beginning of a run
    from preflight.ports import Step
    from preflight.suite.alone import Alone
    from preflight.suite.link import Link

RUN = "preflight-suite-run"
"""The name of the plugin that controls a run."""


class SuiteRun:
    """One run of the suite, seen from inside pytest."""

    def __init__(self, config: pytest.Config, settings: Settings, link: Link | None) -> None:
        self.config = config
        self.settings = settings
        self.link = link
        self.origin = link.origin if link else "pytest"
        self.run_id = link.run_id if link else os.urandom(16).hex()
        self.redactor = Redactor.of(settings)
        self._alone = None
        self._launcher: Link | Alone
        """The launcher, or what does its part if there is none."""
        if link is None:
            self._launcher = self._alone = _alone(settings, self.redactor)
        else:
            self._launcher = link
        loggers.allow_changes()
        self.inquiries = Inquiries(settings, self.origin, self._launcher.application)
        self.started_at = times.now()
        self.deadlines = Deadlines(settings)
        self.declarations: dict[str, Declaration] = {}
        self.findings = Findings()
        self._of_port: set[str] = set()
        """Requirements that ask for the port; they come last."""
        self.collection = Collection(config, settings, by_launcher=link is not None)
        self._witnesses: dict[str, Witness] = {}
        """The witnesses that see each requirement's body run."""
        self.problems: list[str] = []
        self._misused = False
        """Whether an option or a setting is wrong: then nothing was found out, and nothing is published."""
        self.report: report.Report | None = None
        self._session: pytest.Session | None = None

    # What is asked for the port.

    @property
    def blocking(self) -> list[str]:
        """What blocks the start so far: titles of critical requirements, or that the suite is broken or not whole."""
        titles = [check.title for check in self.findings.blocking]
        titles += ["a broken suite"] if self.problems else []
        selection = self.collection.selection
        partial = self.origin == "start" and selection != "all"
        return [*titles, f"only a part of the suite ({selection})"] if partial else titles

    def before_port(self) -> list[str]:
        """What blocks the start, now that the port is asked for: all others have to have answered by then."""
        waiting = [nodeid for nodeid in self.declarations if nodeid not in self._settled]
        if waiting and not self.problems:
            others = f" and {len(waiting) - 1} more" if len(waiting) > 1 else ""
            why = "a plugin has changed the order, or a requirement asks for it without naming it as an argument"
            self._broken([f"the port was asked for before {waiting[0]}{others} had an answer: {why}"])
        return self.blocking

    @property
    def _settled(self) -> set[str]:
        """The requirements that have answered, or have nothing to say before the port is asked for."""
        return self.findings.ended | self.collection.deselected | self._of_port

    def on_port_step(self, step: Step) -> None:
        """Show, while it happens, what is done to free the port."""
        self._launcher.on_port_step(step, self.redactor)

    def allow(self, seconds: float) -> None:
        """Move the deadlines, of the requirement that runs, of those after it and of the run, by so much."""
        if self.link:
            self.link.send("allowed", seconds=seconds)
        self.deadlines.allow(seconds)

    @property
    def vouches(self) -> bool:
        """Whether exit code 0 is true of this run: it has a report, and nothing in that blocks."""
        return self.report is not None and self.report.status != "broken" and not self.report.blocking

    # Collection: ids, declarations, order, selection.

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makemodule(self, module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
        """Give a requirement the id that it has wherever its package is, and whatever folder pytest was started in.

        pytest's own begin at its root folder, at an argument, or with the path of site-packages: reports, history and
        ``ignore`` would know the same requirement by several names.
        """
        scope = next((one for one in self.collection.scopes if module_path.is_relative_to(one.folder)), None)
        if scope is None:
            return None
        module: pytest.Module = pytest.Module.from_parent(parent, path=module_path, nodeid=scope.id_of(module_path))
        return module

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self._session = session
        if self._alone is not None:
            self._alone.redact(self.config, self.redactor)

    def pytest_keyboard_interrupt(self) -> None:
        if self._alone is not None:  # a launcher reads what pytest says
            self._alone.interrupt(self.config)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        self._refuse(soundness.problems(self.config))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> Generator[None]:
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
        """Compare what was collected with the suite's files."""
        faults = self.collection.stale(items)
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
        # A requirement that asks for the port frees it, and that concerns more than a warning.
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
        """An error after the last user of a fixture also concerns the most severe requirements that used it."""
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
        warning_message.message = self.redactor.beginning(str(warning_message.message), report.LONGEST_MESSAGE)

    # The end: the report.

    @pytest.hookimpl(optionalhook=True)
    def pytest_json_modifyreport(self, json_report: dict[str, Any]) -> None:
        self.report = building.build(
            json_report,
            self.findings.final,
            redactor=self.redactor,
            run_id=self.run_id,
            origin=self.origin,
            selection=self.collection.selection,
            address=self.settings.address,
            started_at=self.started_at,
            problems=self.problems,
        )
        # A user who asked pytest-json-report for a file gets this document in it, and not the raw one.
        json_report.clear()
        json_report.update(self.report.to_json())
        self._publish(self.report)

    def _publish(self, found: report.Report) -> None:
        session = self._session
        if session is None or session.config.option.collectonly or (self._misused and not self.link):
            return
        if self.link:
            self.link.send("report", document=found.to_json())
        elif self._alone is not None and (session.exitstatus != pytest.ExitCode.INTERRUPTED or self.problems):
            # A run that somebody stopped with Ctrl-C says nothing new.
            self._alone.publish(found, session)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Generator[None]:
        if exitstatus == pytest.ExitCode.OK and self.findings.blocking:
            # A skipped critical, say: green for pytest, and still no reason to start.
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        yield
        self.inquiries.close()
        found = self.report
        if session.exitstatus == pytest.ExitCode.OK and found is not None and not session.config.option.collectonly:
            # CI goes by the exit code, whether a plugin made it up or pytest did not know better (of a broken run).
            if found.status == "broken":
                session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
            elif found.blocking:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self._alone is not None:
            self._alone.close(None if self._misused else found)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.report is None or self._alone is None or self._misused or self.config.option.collectonly:
            return  # pytest itself reports wrong usage
        self._alone.show(self.report, terminalreporter)


def _nothing(*_args: object, **_options: object) -> str:
    return ""


_BEGUN = pytest.StashKey[float]()
_REFUSALS = frozenset({"failed", "error", "timeout", "skipped"})
"""Outcomes of a critical requirement that the settings can let go."""


def _alone(settings: Settings, redactor: Redactor) -> Alone:
    from preflight.suite.alone import Alone

    return Alone(settings, redactor)
