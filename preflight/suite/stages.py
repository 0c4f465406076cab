"""Each requirement's three stages, set-up, call and tear-down, as a plugin of pytest.

A requirement that does not apply is left out, each stage is held to its deadline, and what pytest says of it becomes an
outcome of ours.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator
from typing import Any

import pytest
from _pytest.outcomes import Skipped  # pytest.skip.Exception is the same class under a name that mypy cannot follow

from preflight import project
from preflight.contract import LONGEST_TITLE, NotApplicable
from preflight.report import building
from preflight.report import model as report
from preflight.suite import declarations
from preflight.suite.applicability import named_by
from preflight.suite.deadlines import DeadlineExceeded
from preflight.suite.inquiries import fixtures
from preflight.suite.outcomes import outcome_of
from preflight.suite.run import SuiteRun
from preflight.suite.soundness import cleanup, hearing
from preflight.text import first_line

_BEGUN = pytest.StashKey[float]()
_REFUSALS = frozenset({"failed", "error", "timeout", "skipped"})
"""Outcomes of a critical requirement that the settings can ignore."""

_OF_DJANGO = "pytest_django.fixtures"
_TEST_DATABASE = (
    "pytest-django would ask a new, empty database and not the project's: use django_db_blocker.unblock(), or define a"
    " fixture django_db_setup of the suite's own"
)


class Stages:
    """The stages of the requirements of one run."""

    def __init__(self, run: SuiteRun) -> None:
        self._run = run
        # Requirements of ours use nothing of another project's.
        self._shared = cleanup.Shared([] if run.settings.root == project.CHECKOUT else [project.PACKAGE])
        self._item: pytest.Item | None = None
        """The requirement whose turn it is."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._item = item
        with self._shared.used_by(item):
            return (yield)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if self._run.link:
            self._run.link.send("checking", title=self._run.title(nodeid))

    # Inside all other wrappers: those have to see the beginning of a stage whose end they will see.
    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None]:
        reason = self._run.left_out(item.nodeid)
        if reason:
            declared = self._run.declarations[item.nodeid]
            if declared.service.casefold() in self._run.settings.unused:
                self._run.findings.details_of(item)["service"] = declared.service
            raise NotApplicable(reason)
        item.stash[_BEGUN] = time.monotonic()
        with self._shared.set_up(item), self._deadline(item), self._run.witnesses[item.nodeid].hearing(pools=False):
            yield

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        """Judge what a fixture, or a function such as ``setup_module``, has started, when the fixture ends.

        Until then, whoever uses it may ask a pool for results.
        """
        if fixturedef.argname == "django_db_setup" and getattr(fixturedef.func, "__module__", "") == _OF_DJANGO:
            raise RuntimeError(_TEST_DATABASE)
        with hearing.heard(self._run.folders, pools=False) as heard:
            fixturedef.addfinalizer(heard.answer)  # the first to be added is called last
            value = yield
            if heard.failed:  # in a thread that it has waited for, say
                raise heard.failed.pop()
            return value

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None]:
        with self._deadline(item), self._run.witnesses[item.nodeid].watching(item):
            yield

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_teardown(self, item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
        with self._deadline(item), self._run.witnesses[item.nodeid].hearing():
            its_own = cleanup.own(item)
            before_port = nextitem is not None and "port" in fixtures(nextitem) and "port" not in fixtures(item)
            with self._shared.cleaned_up(item, None if before_port else nextitem):
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
        declared = self._run.declarations[item.nodeid]
        may_use_all = declared.severity != "warning" or "port" in fixtures(item)
        begun = item.stash.get(_BEGUN, time.monotonic())
        return self._run.deadlines.kept(begun, own=declared.timeout, may_use_all=may_use_all)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        # pytest's own representation is thrown away below; making that of 50 MB takes minutes and gigabytes.
        vars(item).update(repr_failure=_nothing, _repr_failure_py=_nothing)
        stage = yield
        declared = self._run.declarations[item.nodeid]
        # What a plugin has caught on the way was raised all the same.
        caught = self._run.witnesses[item.nodeid].raised if stage.when == "call" else None
        error = call.excinfo.value if call.excinfo else caught
        outcome, message = outcome_of(item, stage, error)
        if isinstance(error, DeadlineExceeded) and error.fix:
            self._run.findings.details_of(item).fix = error.fix
        if caught is not None and stage.passed and outcome != "passed":
            stage.outcome = "skipped" if isinstance(caught, Skipped) else "failed"
        outcome, message = self._unless_ignored(item, outcome, message)
        if outcome == "ignored":
            stage.outcome = "skipped"
        check = self._run.findings.add(item, declared, outcome, message, call.duration)
        self._redact(stage, item, message)
        if stage.when == "teardown":
            self._end(item, check)
        return stage

    def _redact(self, stage: pytest.TestReport, item: pytest.Item, message: str) -> None:
        redactor = self._run.redactor
        if stage.outcome != "passed":
            # Never pytest's own representation: it shows values, and shortens them so that no redactor finds them.
            shown = redactor.beginning(message, report.LONGEST_MESSAGE)
            stage.longrepr = (str(item.path), 0, shown) if stage.outcome == "skipped" else shown
        stage.sections = []
        stage.user_properties = [
            (redactor.beginning(str(name), LONGEST_TITLE), building.limited(value, redactor))
            for name, value in stage.user_properties
        ]

    def _end(self, item: pytest.Item, check: report.Check) -> None:
        """End a requirement that has been torn down; ``check`` is its result."""
        self._run.findings.ended.add(item.nodeid)
        self._judge_cleanup(item)
        if check.outcome == "passed" and not self._run.witnesses[item.nodeid].entered:
            self._run.broken([f"{item.nodeid}: its body was not executed: leave out the plugin that prevents it"])
        self._tell(check)

    def _tell(self, check: report.Check) -> None:
        if self._run.link:
            self._run.link.send("checked", **building.in_brief(check, self._run.redactor))

    def _unless_ignored(self, item: pytest.Item, outcome: str, message: str) -> tuple[str, str]:
        """Outcome and message, or those of an ignored requirement if the settings ignore this one."""
        settings = self._run.settings
        ignorable = declarations.is_ignored(item.nodeid, self._run.declarations[item.nodeid], settings)
        if outcome not in _REFUSALS or not ignorable:
            return outcome, message
        return "ignored", f"ignored by {named_by(settings, 'ignore')}: {message}"

    def _judge_cleanup(self, item: pytest.Item) -> None:
        """An error at the end of a fixture also concerns the critical requirements that used it and have passed."""
        for error, users in self._shared.faults(item):
            raised = f"{type(error).__name__}: {first_line(str(error))}"
            for user in users:
                declared = self._run.declarations[user.nodeid]
                if user is item or declared.severity != "critical" or not self._run.findings.has_passed(user.nodeid):
                    continue
                message = f"a fixture that it shares with other requirements failed while it was cleaned up: {raised}"
                outcome, message = self._unless_ignored(user, "error", message)
                self._tell(self._run.findings.add(user, declared, outcome, message))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # pytest puts the reason there after makereport.
        if hasattr(report, "wasxfail"):
            report.wasxfail = self._run.redactor.text(str(report.wasxfail))
        item = self._item
        # A part of a requirement (subtests) has a report of its own, of another class.
        if type(report) is pytest.TestReport and item is not None and item.nodeid == report.nodeid:
            self._accept(report, item)

    def _accept(self, stage: pytest.TestReport, item: pytest.Item) -> None:
        """Accept that another plugin has judged after us: one that collects failures, as pytest-check does."""
        findings, nodeid = self._run.findings, item.nodeid
        if stage.passed or not findings.has_passed(nodeid):
            return
        said = getattr(getattr(stage.longrepr, "reprcrash", None), "message", stage.longrepr)
        message = first_line(str(said).strip()) or "another pytest plugin changed the outcome and gave no reason"
        outcome, message = self._unless_ignored(item, "skipped" if stage.skipped else "failed", message)
        check = findings.add(item, self._run.declarations[nodeid], outcome, message)
        self._redact(stage, item, message)
        if nodeid in findings.ended:
            self._tell(check)


def _nothing(*_args: object, **_options: object) -> str:
    return ""
