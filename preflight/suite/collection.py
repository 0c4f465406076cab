"""The collection of a run, as a plugin of pytest: ids, declarations, order, selection.

It ends the run before it has begun unless pytest has collected the requirements of the suite's files, each of them
declares what it must, and no more is left out than was asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from preflight import project
from preflight.contract import Declaration
from preflight.project import Scope
from preflight.settings.model import Settings
from preflight.suite import uncollected
from preflight.suite.sources import Sources
from preflight.suite.witness import Witness
from preflight.text import first_line

if TYPE_CHECKING:
    from preflight.suite.selection import Selection


class Collection:
    """The collection of one run."""

    def __init__(self, config: pytest.Config, run: SuiteRun) -> None:
        self._config = config
        self._settings = settings
        self._by_launcher = by_launcher
        self.scopes = settings.scopes
        self._chosen = None if by_launcher else _chosen(config, self.scopes)
        """What pytest's own command line asks for."""
        self._sources = Sources(config)
        self._declarations: dict[str, Declaration] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makemodule(self, module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
        """Give a requirement the id that it has wherever its package is, and whatever folder pytest was started in.

        pytest's own begin at its root folder, at an argument, or with the path of site-packages: reports, history and
        ``ignore`` would know the same requirement by several names.
        """
        scope = next((scope for scope in self._scopes if module_path.is_relative_to(scope.folder)), None)
        if scope is None:
            return None
        module: pytest.Module = pytest.Module.from_parent(parent, path=module_path, nodeid=scope.id_of(module_path))
        return module

    def missing(self, session: pytest.Session, items: list[pytest.Item]) -> list[str]:
        """For people: what this run is to ask, and has not collected."""
        lost = [one for scope in self.scopes for one in uncollected.lost(scope, items, self._sources)]
        lost += uncollected.lost_of_ready(items, self.scopes)
        self._lost = [said for _, said in lost]
        missed = [said for path, said in lost if self._is_asked(path, session)]
        if not missed:
            return []
        where = "pytest.ini" if self._settings.root == project.CHECKOUT else "the plugins"
        hint = f"see addopts, python_files and python_functions in {where}, and the conftest.py files"
        return [*(f"{requirement}: was not collected" for requirement in missed), hint]

    def _taken_out(self, items: list[pytest.Item]) -> list[str]:
        """Which requirements somebody took out of the list without a word, and however late."""
        declared, deselected = self._declarations, self._run.deselected
        left = deselected.union(item.nodeid for item in items)
        gone = [nodeid for nodeid in declared if nodeid not in left]
        if self._chosen is not None:
            known = deselected & declared.keys()
            gone += [nodeid for nodeid in known if not self._chosen.leaves_out(declared[nodeid].severity)]
        return [f"{nodeid}: was removed from the list: see the plugins and conftest.py files" for nodeid in gone]

    def _is_asked(self, path: Path, session: pytest.Session) -> bool:
        """Whether this run is to ask all of a file: with plain pytest one may run a part, and is told so."""
        return self._chosen is None or self._chosen.asks(path, session)

    def strange(self, items: list[pytest.Item]) -> list[str]:
        """For people: what is no part of this project's suite, but of a package that is called like one of them."""
        files = {item.path for item in items}
        own = [folder for one in self.scopes for folder in (one.folder, one.folder.resolve())]
        strange = [file for file in files if not any(map(file.is_relative_to, own))]
        return [f"{file}: is no requirement of {self._settings.root}: name the folder instead" for file in strange]

    def is_whole(self, items: list[pytest.Item]) -> bool:
        """Whether no requirement is missing: who runs a file of them may have another one's name in the settings."""
        below = [file for scope in self._scopes for file in self._sources.below(scope.folder)]
        files = {file for file in below if os.path.basename(file).startswith("test_")}
        return self._by_launcher or files <= {str(item.path) for item in items}


def _chosen(config: pytest.Config, scopes: Iterable[Scope]) -> Selection:
    from preflight.suite.selection import Selection

    return Selection(config, scopes)
