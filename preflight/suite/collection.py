"""Whether pytest has collected the requirements of the suite's files, and leaves out no more than was asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from preflight import project
from preflight.contract import Declaration
from preflight.settings.model import Settings
from preflight.suite import uncollected
from preflight.suite.sources import Sources

if TYPE_CHECKING:
    from preflight.suite.selection import Selection


class Collection:
    """The collection of one run."""

    def __init__(self, config: pytest.Config, settings: Settings, *, by_launcher: bool) -> None:
        """``by_launcher``: a launcher has started the run, and asks for everything."""
        self._config = config
        self._settings = settings
        self._by_launcher = by_launcher
        self.scopes = settings.scopes
        self._chosen = None if by_launcher else _chosen(config)
        """What pytest's own command line asks for."""
        self._sources = Sources(config)
        self._lost: list[str] = []
        """Requirements that stand in the suite's files and were not collected."""
        self.deselected: set[str] = set()

    @property
    def selection(self) -> str:
        """Which part of the suite runs, for people; "all" if all of it does."""
        option = self._config.option
        chosen = [word for word in (option.markexpr, option.keyword) if word]
        if self._lost or option.deselect or (self.deselected and not chosen):
            chosen.append("a part")  # of what those words name, or of all
        return " and ".join(chosen) or "all"

    def stale(self, items: list[pytest.Item]) -> list[str]:
        """For people: each requirement whose code is not that of its file, or that would not judge."""
        said = [(item, self._sources.fault(item)) for item in items]
        faults = [f"{item.nodeid}: {fault}" for item, fault in said if fault]
        sound = [item for item, fault in said if not fault]
        return faults + self._sources.stale(self._settings.root, self.scopes, sound)

    def missing(self, session: pytest.Session, items: list[pytest.Item]) -> list[str]:
        """For people: requirements that this run should ask, and that were not collected."""
        lost = [one for scope in self.scopes for one in uncollected.lost(scope, items, self._sources)]
        ready = uncollected.lost_of_ready(items, self.scopes)
        self._lost = [*(said for _, said in lost), *ready]
        missed = [said for path, said in lost if self._is_asked(path, session)]
        missed += ready if self._by_launcher else []
        if not missed:
            return []
        where = "pytest.ini" if self._settings.root == project.CHECKOUT else "the plugins"
        hint = f"see addopts, python_files and python_functions in {where}, and the conftest.py files"
        return [*(f"{said}: was not collected" for said in missed), hint]

    def _is_asked(self, path: Path, session: pytest.Session) -> bool:
        """Whether this run is to ask all of a file: with plain pytest one may run a part, and is told so."""
        return self._chosen is None or self._chosen.asks(path, session)

    def is_whole(self, items: list[pytest.Item]) -> bool:
        """Whether no requirement is missing: who runs a file of them may have another one's name in the settings."""
        below = [file for scope in self.scopes for file in self._sources.below(scope.folder)]
        files = {file for file in below if os.path.basename(file).startswith("test_")}
        return self._by_launcher or files <= {str(item.path) for item in items}

    def taken_out(self, items: list[pytest.Item], declarations: Mapping[str, Declaration]) -> list[str]:
        """For people: which requirements somebody took out of the list without a word, and however late."""
        left = self.deselected.union(item.nodeid for item in items)
        gone = [nodeid for nodeid in declarations if nodeid not in left]
        if self._chosen is not None:
            known = {nodeid: declarations[nodeid] for nodeid in self.deselected & declarations.keys()}
            gone += [nodeid for nodeid, one in known.items() if not self._chosen.leaves_out(one.severity)]
        return [f"{nodeid}: was removed from the list: see the plugins and conftest.py files" for nodeid in gone]


def _chosen(config: pytest.Config) -> Selection:
    from preflight.suite.selection import Selection

    return Selection(config)
