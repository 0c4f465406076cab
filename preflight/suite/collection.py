"""The collection of a run, as a plugin of pytest: ids, declarations, order, selection.

It ends the run before it has begun unless pytest has collected the requirements of the suite's files, each of them
declares what it must, and no more is left out than was asked for.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from preflight import project
from preflight.contract import Declaration
from preflight.project import Scope
from preflight.report import model as report
from preflight.suite import declarations
from preflight.suite.inquiries import fixtures
from preflight.suite.outcomes import uncollectable
from preflight.suite.run import SuiteRun
from preflight.suite.soundness import execution, uncollected
from preflight.suite.soundness.sources import Sources, is_collected
from preflight.suite.soundness.witness import Witness
from preflight.text import first_line

if TYPE_CHECKING:
    from preflight.suite.selection import Selection


class Collection:
    """The collection of one run."""

    def __init__(self, config: pytest.Config, run: SuiteRun) -> None:
        self._config = config
        self._run = run
        self._settings = run.settings
        self._scopes = run.settings.scopes
        self._by_launcher = run.link is not None
        """Whether a launcher has started the run: it asks for everything."""
        self._chosen = None if self._by_launcher else _chosen(config, self._scopes)
        """What pytest's own command line asks for."""
        self._sources = Sources(config)
        self._declarations: dict[str, Declaration] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makemodule(self, module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
        """Give a requirement the id that it has wherever its package is, and whatever folder pytest was started in.

        pytest's own ids begin at its root folder, at an argument, or with the path of site-packages: reports, history
        and ``ignore`` would know the same requirement by several names.
        """
        scope = next((scope for scope in self._scopes if module_path.is_relative_to(scope.folder)), None)
        if scope is None:
            return None
        module: pytest.Module = pytest.Module.from_parent(parent, path=module_path, nodeid=scope.id_of(module_path))
        return module

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        self._refuse(execution.problems(self._config))

    @pytest.hookimpl(tryfirst=True)
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        redacted = self._run.redactor.text
        if report.skipped:
            file, line, why = report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, str(report.longrepr))
            self._run.broken([f"{report.nodeid}: left out as a whole: {first_line(why)}"])
            report.longrepr = (file, line, redacted(why))
        if report.failed:
            lines = [line.removeprefix("E").strip() for line in str(report.longrepr).splitlines() if line.strip()]
            self._run.broken([f"{report.nodeid}: cannot be collected: {uncollectable(lines)}"])
            report.longrepr = redacted(str(report.longrepr))  # pytest shows it, and writes it to files

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> Generator[None]:
        if self._run.alone is not None:
            self._leave_out_others(session, items)
            self._run.alone.leave_out_fixtures(items)
        self._declare(items)
        self._compare(session, items)
        yield
        # Last come the application, the database and the port, whatever a plugin has shuffled; the rest stays in order.
        # The database comes after the application: a start waits no longer for it than for that.
        items.sort(key=lambda item: [name in fixtures(item) for name in ("port", "database", "application")])

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self._run.deselected |= {item.nodeid for item in items}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        run = self._run
        run.declarations = self._declarations  # where this is not called, no requirement can run
        if session.config.option.collectonly or run.problems:
            return  # pytest calls this after a usage error, too
        self._refuse(self._taken_out(session.items))
        asked = [item for item in session.items if not run.left_out(item.nodeid)]
        if run.alone is not None and any("application" in fixtures(item) for item in asked):
            run.alone.import_application()
        if values := run.inquiries.start(asked):
            run.redactor = run.redactor_of(values)
            if run.alone is not None:
                run.alone.redact(session.config, run.redactor)
        if run.link:
            run.link.send("collected", titles=[run.title(item.nodeid) for item in session.items])

    def _leave_out_others(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Leave out what other plugins make of the files: doctests, or what linters say (``--ruff`` in addopts)."""
        others = [item for item in items if _is_anothers(item)]
        if others:
            items[:] = [item for item in items if not _is_anothers(item)]
            session.config.hook.pytest_deselected(items=others)
            self._run.deselected -= {item.nodeid for item in others}  # they are no part of the suite

    # These end the run before it has begun.

    def _declare(self, items: list[pytest.Item]) -> None:
        self._declarations, faults = declarations.read(items, self._run.redactor)
        self._run.of_port = {item.nodeid for item in items if "port" in fixtures(item)}
        self._refuse(faults)
        if misnamed := declarations.misnamed(self._settings, self._declarations, whole=self._is_whole(items)):
            self._wrong_usage(misnamed)

    def _compare(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Compare what was collected with the suite's files."""
        faults = self._strange(items) or self._stale(items)
        self._run.witnesses = {item.nodeid: Witness(item, self._scopes) for item in items}
        missing = self._missing(session, items)
        self._refuse(faults + (missing if not self._run.problems else []))

    def _refuse(self, faults: list[str]) -> None:
        if faults:
            faults = [self._run.redactor.beginning(fault, report.LONGEST_MESSAGE) for fault in faults]
            self._run.broken(faults)
            raise pytest.UsageError("\n".join(faults))

    def _wrong_usage(self, message: str) -> NoReturn:
        self._run.problems.append(message)
        self._run.misused = True
        if self._run.link:
            self._run.link.send("usage", message=message)
        raise pytest.UsageError(message)

    # These say, for people, what is wrong with the collection.

    def _strange(self, items: list[pytest.Item]) -> list[str]:
        files = {item.path for item in items}
        own = [folder for scope in self._scopes for folder in (scope.folder, scope.folder.resolve())]
        strange = [file for file in files if not any(map(file.is_relative_to, own))]
        root = self._settings.root
        return [
            f"{file} is not part of the suite of {root}: name a folder of the suite instead of this file"
            for file in strange
        ]

    def _stale(self, items: list[pytest.Item]) -> list[str]:
        """Each requirement whose code is not that of its file, or that would not judge."""
        faults = {item: self._sources.fault(item) for item in items}
        sound = [item for item, fault in faults.items() if not fault]
        stale = self._sources.stale(self._settings.root, self._scopes, sound)
        return [f"{item.nodeid}: {fault}" for item, fault in faults.items() if fault] + stale

    def _missing(self, session: pytest.Session, items: list[pytest.Item]) -> list[str]:
        """Requirements that this run should ask, and that were not collected."""
        lost = [place for scope in self._scopes for place in uncollected.lost(scope, items, self._sources)]
        lost += uncollected.lost_of_ready(items, self._scopes)
        # In plain pytest, somebody may have left out the only file of a part (--ignore).
        there = [] if self._by_launcher else [scope for scope in self._scopes if self._has_files(scope)]
        lost += uncollected.empty(items, [scope for scope in self._scopes if scope not in there])
        self._run.lost = [requirement for _, requirement in lost]
        missed = [requirement for path, requirement in lost if self._is_asked(path, session)]
        if not missed:
            return []
        where = "pytest.ini" if self._settings.root == project.CHECKOUT else "the plugins"
        hint = f"see addopts, python_files and python_functions in {where}, and the conftest.py files"
        return [*(f"{requirement}: not collected" for requirement in missed), hint]

    def _taken_out(self, items: list[pytest.Item]) -> list[str]:
        """Which requirements a plugin has removed from the list, however late, without deselecting them."""
        declared, deselected = self._declarations, self._run.deselected
        left = deselected.union(item.nodeid for item in items)
        gone = [nodeid for nodeid in declared if nodeid not in left]
        if self._chosen is not None:
            known = deselected & declared.keys()
            gone += [nodeid for nodeid in known if not self._chosen.leaves_out(declared[nodeid].severity)]
        return [
            f"{nodeid} was removed after pytest had collected it: see the plugins and conftest.py files"
            for nodeid in gone
        ]

    def _is_asked(self, path: Path, session: pytest.Session) -> bool:
        """Whether this run is to ask all of a file: plain pytest may run a part, and says so."""
        return self._chosen is None or self._chosen.asks(path, session)

    def _has_files(self, scope: Scope) -> bool:
        return any(map(is_collected, self._sources.below(scope.folder)))

    def _is_whole(self, items: list[pytest.Item]) -> bool:
        """Whether no requirement is missing: in a run of one file, the settings may name requirements of others."""
        below = [file for scope in self._scopes for file in self._sources.below(scope.folder)]
        files = {file for file in below if is_collected(file)}
        return self._by_launcher or files <= {str(item.path) for item in items}


def _is_anothers(item: pytest.Item) -> bool:
    """Whether another plugin has made it of a file of Python, and nobody has marked it as a requirement."""
    marked = any(item.get_closest_marker(severity) for severity in report.SEVERITIES)
    return not isinstance(item, pytest.Function) and item.path.suffix == ".py" and not marked


def _chosen(config: pytest.Config, scopes: Iterable[Scope]) -> Selection:
    from preflight.suite.selection import Selection

    return Selection(config, scopes)
