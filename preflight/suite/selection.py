"""Which part of the suite was asked for, in a run of plain pytest.

Only pytest's own command line counts. What ``addopts`` and PYTEST_ADDOPTS choose is meant for the project's own tests.
So are settings such as ``norecursedirs``, and ``collect_ignore`` in a conftest.py: a requirement that is not asked
because of those was lost, and the run that lost it is broken.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from preflight.project import Scope
from preflight.report.model import SEVERITIES

_CHOOSING = (
    ("keyword", ""),
    ("markexpr", ""),
    ("deselect", None),
    ("ignore", None),
    ("ignore_glob", None),
    ("lf", False),
    ("failedfirst", False),
    ("newfirst", False),
    ("stepwise", False),
    ("stepwise_skip", False),
)
"""Where pytest keeps the options that leave requirements out or reorder them, and their defaults."""


def typed(config: pytest.Config) -> Namespace:
    """The options of pytest's own command line, without those of ``addopts`` and PYTEST_ADDOPTS."""
    return config._parser.parse_known_args(list(config.invocation_params.args))  # nothing public tells


class Selection:
    """The choice of one pytest's command line."""

    def __init__(self, config: pytest.Config, scopes: Iterable[Scope]) -> None:
        """Set the options of ``config`` to what was typed, and nothing else. ``scopes`` are the parts of the suite."""
        options = typed(config)
        self._typed: dict[str, Any] = {name: getattr(options, name, default) for name, default in _CHOOSING}
        vars(config.option).update(self._typed)
        self._config = config
        self._named = [one.folder for one in scopes if one.name in config.args and config.option.pyargs]
        """Parts that were named as packages: Python may have found another package of that name."""

    def leaves_out(self, severity: str) -> bool:
        """Whether a requirement of that severity may be left out of those that were collected."""
        others = ("keyword", "deselect", "lf", "stepwise", "stepwise_skip")
        if any(self._typed[name] for name in others):
            return True
        marks = str(self._typed["markexpr"]).strip()
        return severity != marks if marks in SEVERITIES else bool(marks)

    def asks(self, path: Path, session: pytest.Session) -> bool:
        """Whether all of a file was asked for."""
        if self._typed["lf"]:
            return False
        here = self._config.invocation_params.dir
        ignored = [os.path.abspath(here / pattern) for pattern in self._typed["ignore"] or ()]
        globs = [os.path.abspath(here / pattern) for pattern in self._typed["ignore_glob"] or ()]
        if any(map(path.is_relative_to, ignored)) or any(fnmatch(str(path), pattern) for pattern in globs):
            return False
        asked = [*self._named, *(one for one in session._initialpaths if not self._names_a_part(one))]
        return any(path.resolve().is_relative_to(one.resolve()) for one in asked)

    def _names_a_part(self, path: Path) -> bool:
        """Whether a file is among the arguments for some of its requirements alone: ``FILE::NAME``."""
        for argument in self._config.args:
            name, part, _ = argument.partition("::")
            dotted = Path(*name.split(".")).parts
            if part and (
                self._config.invocation_params.dir / name == path
                or path.with_suffix("").parts[-len(dotted) :] == dotted
            ):
                return True
        return False
