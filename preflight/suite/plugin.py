"""One run of the suite, as a pytest plugin that `preflight.plugin` registers.

It holds requirements to what they declare (contract.py), keeps the order (the port last), holds each to its deadline,
turns pytest's outcomes into ours and publishes the report.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import threading
import time
import warnings
from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TextIO

import pytest
from _pytest.outcomes import Skipped  # pytest.skip.Exception is the same class under a name that mypy cannot follow

from preflight import project, times
from preflight.contract import LONGEST_TITLE, Declaration, Details, NotApplicable
from preflight.redaction.redactor import Redactor
from preflight.report import building
from preflight.report import model as report
from preflight.settings.model import Settings
from preflight.suite import cleanup, declarations, soundness, uncollected
from preflight.suite.applicability import left_out, named_by
from preflight.suite.claimed import told
from preflight.suite.deadlines import DeadlineExceeded, Deadlines
from preflight.suite.outcomes import outcome_of, uncollectable
from preflight.suite.sharing import Sharing
from preflight.suite.sources import Sources
from preflight.suite.witness import Witness
from preflight.text import first_line, printable

if TYPE_CHECKING:  # a launcher does the work of most in its own process, and waits for this one
    from preflight.output.log import Log
    from preflight.ports import Step
    from preflight.ports.activation import Inherited
    from preflight.processes.worker import Worker
    from preflight.suite.answers import Answers
    from preflight.suite.database import Database
    from preflight.suite.probes import Probes
    from preflight.suite.selection import Selection

RUN = "preflight-suite-run"
"""The name of the plugin that controls a run."""
LAUNCHER = "preflight-launcher"
"""What the names of the plugin that stands for the launcher begin with; how they go on, nobody can say beforehand."""


class _Loggers(dict[str, Any]):
    """logging's table of loggers, which pytest goes through before every requirement without taking logging's lock.

    What a thread imports meanwhile makes loggers, and the probes' threads import: the requirement whose turn it was
    would have raised "dictionary changed size during iteration" (catching_logs in _pytest/logging.py, pytest 9).
    """

    def values(self) -> list[Any]:  # type: ignore[override]
        return list(super().values())


class Link(Protocol):
    """The launcher's side of a run that a launcher started (preflight.suite)."""

    run_id: str
    origin: str
    takes_port: bool
    options: dict[str, object]
    settings: Settings
    inherited: Inherited | None
    met: bool
    """Whether the suite has taken it up; set from here."""

    def send(self, kind: str, descriptors: tuple[int, ...] = (), **data: object) -> None: ...

    def application(self) -> tuple[str | None, str]: ...


class SuiteRun:
    """One run of the suite, seen from inside pytest."""

    def __init__(self, config: pytest.Config, settings: Settings, link: Link | None) -> None:
        self.config = config
        self.settings = settings
        self.link = link
        self.origin = link.origin if link else "pytest"
        self.run_id = link.run_id if link else os.urandom(16).hex()
        self.redactor = Redactor.of(settings)
        self._log = _log(settings, self.redactor) if link is None else None
        """For the audit; behind a launcher that is the launcher's task."""
        logging.root.manager.loggerDict = _Loggers(logging.root.manager.loggerDict)
        self.sharing = Sharing.of(settings, self.origin)
        self._probes: Probes | None = None
        self._database: Database | None = None
        if link is not None and settings.database_url:
            self.database.start()  # at once: a start does not wait for it in the end
        self.started_at = times.now()
        self.deadlines = Deadlines(settings)
        self.declarations: dict[str, Declaration] = {}
        self.checks: dict[str, report.Check] = {}
        self._over: set[str] = set()
        self._of_port: set[str] = set()
        """Requirements that ask for the port, which come last."""
        self.details: dict[str, Details] = {}
        self.deselected: set[str] = set()
        self._chosen = _chosen(config) if link is None else None
        """What pytest's own command line asks for; behind a launcher that is everything."""
        self._lost: list[str] = []
        """Requirements that stand in the suite's files and were not collected."""
        self.sources = Sources(config)
        self.answers: Answers | None = None
        """Those of ready-made requirements' probes; None where no such requirement is asked."""
        self.scopes = settings.scopes
        self._witnesses: dict[str, Witness] = {}
        """Who sees each requirement's body run."""
        self.problems: list[str] = []
        self._misused = False
        """Whether an option or a setting is wrong: then nothing was found out, and nothing is published."""
        self.report: report.Report | None = None
        self.published: str = ""
        self.unkept: str = ""
        self.steps: list[str] = []
        """What was done to free the port, where no launcher shows it."""
        self._worker: Worker | None = None
        self._session: pytest.Session | None = None

    # What requirements and fixtures ask.

    @property
    def probes(self) -> Probes:
        """The replies of the network."""
        if self._probes is None:
            from preflight.suite.probes import Probes

            self._probes = Probes(self.settings, self.sharing)
        return self._probes

    @property
    def database(self) -> Database:
        """The answer of the fleet's database."""
        if self._database is None:
            from preflight.suite.database import Database

            self._database = Database(self.settings, starts=self.origin == "start")
        return self._database

    @property
    def blocking(self) -> list[str]:
        """What blocks the start so far: titles of critical requirements, or that the suite is broken or not whole."""
        titles = [check.title for check in self.checks.values() if check.blocks]
        titles += ["a broken suite"] if self.problems else []
        partial = self.origin == "start" and self.selection != "all"
        return [*titles, f"only a part of the suite ({self.selection})"] if partial else titles

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
        return self._over | self.deselected | self._of_port

    def application(self) -> tuple[str | None, str]:
        """Wait for the application's import; returns its error, if any, in one line, and what to do about it.

        The second is empty where importing the application shows more.
        """
        try:
            if self.link:
                return self.link.application()
            worker = self._import_application()
            return worker.wait_for_import(), worker.fix
        except DeadlineExceeded as late:
            chosen = self.settings
            fix = (
                "let the import do less, or allow more than it takes: PREFLIGHT_REQUIREMENT_TIMEOUT"
                f" (now {chosen.requirement_timeout:g} s) and PREFLIGHT_RUN_TIMEOUT (now {chosen.run_timeout:g} s)"
            )
            raise DeadlineExceeded(f"the import of {chosen.app} has not ended: it {late}", fix) from None

    def _import_application(self) -> Worker:
        """The process that imports the application, begun with the first call."""
        from preflight.processes.worker import Worker

        self._worker = self._worker or Worker(self.settings)
        return self._worker

    def on_port_step(self, step: Step) -> None:
        """Show, while it happens, what is done to free the port."""
        if self.link:
            line, stamped = told(step), told(step, when=True)
            told_step = self.redactor.document(step.to_dict())
            self.link.send("port", line=self.redactor.text(line), stamped=self.redactor.text(stamped), step=told_step)
            return
        from preflight.output import audit

        self.steps.append(self.redactor.text(told(step, when=True)))
        if self._log is not None and (event := audit.freeing(step, self.settings.address)):
            self._log.audit(event)

    def allow(self, seconds: float) -> None:
        """Move the deadlines, of the requirement that runs, of those after it and of the run, by so much."""
        if self.link:
            self.link.send("allowed", seconds=seconds)
        self.deadlines.allow(seconds)

    @property
    def selection(self) -> str:
        option = self.config.option
        chosen = [word for word in (option.markexpr, option.keyword) if word]
        if self._lost or option.deselect or (self.deselected and not chosen):
            chosen.append("a part")  # of what those words name, or of all
        return " and ".join(chosen) or "all"

    @property
    def vouches(self) -> bool:
        """Whether exit code 0 is true of this run: it has a report, and nothing in that blocks."""
        return self.report is not None and self.report.status != "broken" and not self.report.blocking

    def details_of(self, item: pytest.Item) -> Details:
        return self.details.setdefault(item.nodeid, Details())

    # Collection: ids, declarations, order, selection.

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makemodule(self, module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
        """Give a requirement the id that it has wherever its package is, and whatever folder pytest was started in.

        pytest's own begin at its root folder, at an argument, or with the path of site-packages: reports, history and
        ``ignore`` would know the same requirement by several names.
        """
        scope = next((one for one in self.scopes if module_path.is_relative_to(one.folder)), None)
        if scope is None:
            return None
        module: pytest.Module = pytest.Module.from_parent(parent, path=module_path, nodeid=scope.id_of(module_path))
        return module

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self._session = session
        if self.link is None:  # a launcher redacts whatever comes out of this process
            from preflight.suite import written

            written.redact(self.config, self.redactor)

    def pytest_keyboard_interrupt(self) -> None:
        """Ctrl-C ends it though nobody reads: pytest is about to say a lot of it, and may have been waiting for that.

        Another Ctrl-C ends it at once in any case. Behind the launcher, which reads, nothing of this is needed.
        """
        if self.link is None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if not _is_read(self.config.get_terminal_writer()._file):
                signal.raise_signal(signal.SIGINT)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        self._refuse(soundness.problems(self.config))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None]:
        self._declare(items)
        self._compare(items)
        yield
        # The application late, the port last, whatever else wanted to shuffle; else as they stand in the files.
        # The database after the application: a start does not wait for it any longer.
        items.sort(key=lambda item: [name in _fixtures(item) for name in ("port", "database", "application")])

    def _declare(self, items: list[pytest.Item]) -> None:
        self.declarations, faults = declarations.read(items, self.redactor)
        self._of_port = {item.nodeid for item in items if "port" in _fixtures(item)}
        self._refuse(faults)
        if misnamed := declarations.misnamed(self.settings, self.declarations, whole=self._collected_whole(items)):
            self._wrong_usage(misnamed)

    def _compare(self, items: list[pytest.Item]) -> None:
        """Compare what was collected with what the suite's files say."""
        sources = self.sources
        said = [(item, sources.fault(item)) for item in items]
        faults = [f"{item.nodeid}: {fault}" for item, fault in said if fault]
        sound = [item for item, fault in said if not fault]
        faults += sources.stale(self.settings.root, self.scopes, sound)
        self._witnesses = {item.nodeid: Witness(item) for item in items}
        lost = [one for scope in self.scopes for one in uncollected.lost(scope, items, sources)]
        ready = uncollected.lost_of_ready(items, self.scopes)
        self._lost = [*(said for _, said in lost), *ready]
        missed = [said for path, said in lost if self._is_asked(path)]
        missed += ready if self.link else []
        if missed and not self.problems:
            faults += [f"{lost}: was not collected" for lost in missed]
            where = "pytest.ini" if self.settings.root == project.CHECKOUT else "the plugins"
            faults.append(f"see addopts, python_files and python_functions in {where}, and the conftest.py files")
        self._refuse(faults)

    def _is_asked(self, path: Path) -> bool:
        """Whether this run is to ask all of a file: with plain pytest one may run a part, and is told so."""
        return self._chosen is None or (self._session is not None and self._chosen.asks(path, self._session))

    def _refuse(self, faults: list[str]) -> None:
        """End the run before it has begun, if there is a reason to."""
        if faults:
            faults = [self.redactor.beginning(fault, report.LONGEST_MESSAGE) for fault in faults]
            self._broken(faults)
            raise pytest.UsageError("\n".join(faults))

    def _collected_whole(self, items: list[pytest.Item]) -> bool:
        """Whether no requirement is missing: who runs a file of them may have another one's name in the settings."""
        below = [file for scope in self.scopes for file in self.sources.below(scope.folder)]
        files = {file for file in below if os.path.basename(file).startswith("test_")}
        return self.link is not None or files <= {str(item.path) for item in items}

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
        self.deselected |= {item.nodeid for item in items}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if session.config.option.collectonly or self.problems:
            return  # pytest calls this after a usage error, too
        # Whoever takes requirements out of the list without a word, and however late.
        left = self.deselected.union(item.nodeid for item in session.items)
        gone = [nodeid for nodeid in self.declarations if nodeid not in left]
        if self._chosen is not None:
            known = {nodeid: self.declarations[nodeid] for nodeid in self.deselected & self.declarations.keys()}
            gone += [nodeid for nodeid, one in known.items() if not self._chosen.leaves_out(one.severity)]
        self._refuse([f"{nodeid}: was taken out of the list: see the plugins and conftest.py files" for nodeid in gone])
        asked = [item for item in session.items if not self._left_out(self.declarations[item.nodeid])]
        if any("probes" in _fixtures(item) for item in asked):
            self.probes.start()
        if any("database" in _fixtures(item) for item in asked):
            self.database.start()
        if made := [one for item in asked if (one := uncollected.made(item)) is not None]:
            from preflight.suite.answers import Answers

            self.answers = Answers(self.settings, self.sharing)
            self.redactor = Redactor.of(self.settings, besides=self.answers.values(made))
            self.answers.start(made)
        if self.link is None and any("application" in _fixtures(item) for item in asked):
            self._import_application()
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
                self.details_of(item)["service"] = declared.service
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
            try:
                try:
                    yield
                finally:
                    if nextitem is not None and "port" in _fixtures(nextitem) and "port" not in _fixtures(item):
                        # What fixtures of the whole session raise at their end is known before the port is freed.
                        cleanup.everything(item.session)
            except Exception as error:
                cleanup.note(item, error)
                raise
            if its_own is not None:
                raise its_own

    def _deadline(self, item: pytest.Item) -> contextlib.AbstractContextManager[None]:
        # What asks for the port frees it, and that is no warning's affair alone.
        declared = self.declarations[item.nodeid]
        may_use_all = declared.severity != "warning" or "port" in _fixtures(item)
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
        witness = self._witnesses[item.nodeid]
        # What a plugin has caught on the way was raised all the same.
        caught = witness.raised if stage.when == "call" else None
        error = call.excinfo.value if call.excinfo else caught
        outcome, message = outcome_of(item, stage, error)
        if isinstance(error, DeadlineExceeded) and error.fix:
            self.details_of(item).fix = error.fix
        if caught is not None and stage.passed and outcome != "passed":
            stage.outcome = "skipped" if isinstance(caught, Skipped) else "failed"
        ignored = declared.ignorable and any(
            declarations.is_named(name, item.nodeid, declared) for name in self.settings.ignore
        )
        if ignored and outcome in ("failed", "error", "timeout", "skipped") and declared.severity == "critical":
            outcome, message = "ignored", f"ignored by {named_by(self.settings, 'ignore')}: {message}"
            stage.outcome = "skipped"
        check = self._check_after(item, outcome, message, call.duration)
        self.checks[item.nodeid] = check
        if stage.outcome != "passed":
            # Never pytest's own representation: it shows values, and shortens them so that no redactor finds them.
            shown = self.redactor.beginning(message, report.LONGEST_MESSAGE)
            stage.longrepr = (str(item.path), 0, shown) if stage.outcome == "skipped" else shown
        stage.sections = []
        stage.user_properties = [
            (self.redactor.beginning(str(name), LONGEST_TITLE), building.limited(value, self.redactor))
            for name, value in stage.user_properties
        ]
        if stage.when == "teardown":
            self._over.add(item.nodeid)
            self._judge_cleanup(item)
            if check.outcome == "passed" and not witness.entered:
                self._broken([f"{item.nodeid}: its body was not executed: leave out the plugin that prevents it"])
        if stage.when == "teardown" and self.link:
            self.link.send("checked", **building.in_brief(check, self.redactor))
        return stage

    def _judge_cleanup(self, item: pytest.Item) -> None:
        """What is raised when the last user of a fixture has gone is the affair of those that matter most, too."""
        error = cleanup.error_of(item)
        users = cleanup.users(item, item.session.items) if error is not None else []
        critical = [user for user in users if self.declarations[user.nodeid].severity == "critical"]
        if error is None or not critical or item in critical:
            return
        concerned = critical[-1]
        message = f"what it shares with others was not cleaned up: {type(error).__name__}: {first_line(str(error))}"
        self.checks[concerned.nodeid] = self._check_after(concerned, "error", message, 0.0)

    def _check_after(self, item: pytest.Item, outcome: str, message: str, duration: float) -> report.Check:
        """The requirement's check after one more stage, which ended so."""
        declared, details = self.declarations[item.nodeid], self.details_of(item)
        before = self.checks.get(item.nodeid)
        if before is not None and (outcome == "passed" or before.outcome in _ANSWERS):
            # A stage that passes, or comes after one that says no, adds its time, and what the requirement has found.
            said = details.summary if before.outcome == "passed" else before.message
            return replace(before, message=said, details=details, duration=before.duration + duration)
        return report.Check(
            id=item.nodeid,
            title=declared.title,
            requirement=declared.requirement,
            severity=declared.severity,
            outcome=outcome,
            message=message if outcome != "passed" else details.summary,
            fix="" if outcome in ("passed", "not_applicable") else details.fix or declared.fix,
            details=details,
            duration=(before.duration if before else 0.0) + duration,
            scope=declared.scope,
        )

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
            # One that was broken off after its set-up has not passed.
            tuple(check for nodeid, check in self.checks.items() if nodeid in self._over),
            redactor=self.redactor,
            run_id=self.run_id,
            origin=self.origin,
            selection=self.selection,
            address=self.settings.address,
            started_at=self.started_at,
            problems=self.problems,
        )
        # Whoever asked pytest-json-report for a file of its own gets this document as well, and not the raw one.
        json_report.clear()
        json_report.update(self.report.to_json())
        self._publish(self.report)

    def _publish(self, found: report.Report) -> None:
        session = self._session
        if session is None or session.config.option.collectonly or (self._misused and not self.link):
            return
        if self.link:
            self.link.send("report", document=found.to_json())
        elif session.exitstatus != pytest.ExitCode.INTERRUPTED or self.problems:
            # A run that somebody stopped with Ctrl-C says nothing new.
            try:
                report.publish(found, self.settings.state.report)
                self.published = str(self.settings.state.report)
                from preflight.report import history

                self.unkept = history.keep(found, self.settings)
            except OSError as error:
                session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
                self.published = f"NOT WRITTEN: {self.settings.state.report}: {error.strerror}"

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Generator[None]:
        if exitstatus == pytest.ExitCode.OK and any(check.blocks for check in self.checks.values()):
            # A skipped critical, say: green for pytest, and still no reason to start.
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        yield
        if self._worker is not None:
            self._worker.child.close()
        if self.answers is not None:
            self.answers.close()
        if self.sharing is not None:
            self.sharing.close()
        found = self.report
        if session.exitstatus == pytest.ExitCode.OK and found is not None and not session.config.option.collectonly:
            # Whoever made it up (a plugin) or did not know better (pytest, of a broken run): it is what CI goes by.
            if found.status == "broken":
                session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
            elif found.blocking:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self._log is not None and self.report is not None and not self._misused:
            from preflight.output import audit

            about = {"status": self.report.status, "may_start": self.report.may_start, "run_id": self.run_id}
            self._log.audit(audit.Event.now("run", by="command", parent=os.getppid(), origin="pytest", **about))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.report is None or self.link or self._misused or self.config.option.collectonly:
            return  # of wrong usage pytest itself says what is wrong
        terminalreporter.write_sep("-", "preflight")
        if self.settings.set_aside:
            from preflight.settings import servicelinks

            terminalreporter.write_line(printable(servicelinks.described(self.settings.set_aside)))
        for step in self.steps:
            terminalreporter.write_line(step)
        for check in (*self.report.blocking, *self.report.warnings):
            terminalreporter.write_line(f"{check.severity} {check.outcome}: {check.title}: {check.message}")
            if check.fix:
                terminalreporter.write_line(f"    fix: {check.fix}")
        if self.unkept:
            terminalreporter.write_line(self.unkept)
        if self.report.reason:
            terminalreporter.write_line(f"broken: {self.report.reason}")
        terminalreporter.write_line(f"{self.report.status}; report: {self.published or 'not written'}")


def _is_read(stream: TextIO) -> bool:
    """Whether a stream takes a line; one that is no file always does."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
    except (OSError, ValueError, AttributeError):
        return True
    return bool(poll.poll(0))


def _nothing(*_args: object, **_options: object) -> str:
    return ""


_BEGUN = pytest.StashKey[float]()
_ANSWERS = frozenset({"failed", "error", "timeout", "skipped", "ignored"})
"""Outcomes that a later stage does not take back: a tear-down that says "unknown", of what has failed."""


def _chosen(config: pytest.Config) -> Selection:
    from preflight.suite.selection import Selection

    return Selection(config)


def _log(settings: Settings, redactor: Redactor) -> Log:
    from preflight.output.log import Log, LogFile

    try:
        file = LogFile(settings.log_file) if settings.log_file else None
    except OSError as error:
        raise pytest.UsageError(f"the log file {settings.log_file} cannot be used: {error.strerror}") from None
    return Log(redactor, file, settings.log_format, trail=settings.state.audit)


def _fixtures(item: pytest.Item) -> Mapping[str, Any] | list[str]:
    names: list[str] = getattr(item, "fixturenames", [])
    return names
