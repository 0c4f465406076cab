"""Fixtures of a project's own tests, which its requirements do without.

Plain pytest imports every conftest.py above the suite. The fixtures there would change what a requirement asks: one
with the name of ours takes its place, and an automatic one may put a double in the place of a database. A check imports
none of these files, so both runs ask the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from preflight.suite.sources import INSTALLED

OURS = "preflight.suite.fixtures"


def leave_out(items: Iterable[pytest.Item], root: Path, folders: Sequence[Path]) -> None:
    """Let requirements have our fixtures, those of the suite in these ``folders``, and what they ask for by name.

    ``root`` is the project's.
    """

    def is_outside(item: pytest.Item, definition: Any) -> bool:
        for node in item.listchain():
            # Where it was registered counts: the suite's conftest.py may import it from elsewhere in the project.
            if definition.baseid and definition.baseid == node.nodeid:
                return not any(map(node.path.is_relative_to, folders))
        code = getattr(inspect.unwrap(definition.func), "__code__", None)
        file = Path(code.co_filename if code is not None else "")
        of_project = file.name == "conftest.py" or (file.is_relative_to(root) and INSTALLED not in file.parts)
        return of_project and not any(map(file.is_relative_to, folders))

    for item in items:
        info = getattr(item, "_fixtureinfo", None)
        if info is None:
            continue
        defined: dict[str, Sequence[Any]] = info.name2fixturedefs
        for name, several in defined.items():
            if any(one.func.__module__ == OURS for one in several):
                defined[name] = [one for one in several if not is_outside(item, one)]
        asked = {*info.argnames, *(name for mark in item.iter_markers("usefixtures") for name in mark.args)}
        unasked = [
            name
            for name in info.initialnames
            if name not in asked and name in defined and is_outside(item, defined[name][-1])
        ]
        gone = _reached(unasked, defined) - _reached(set(info.initialnames).difference(unasked), defined)
        info.names_closure[:] = [name for name in info.names_closure if name not in gone]


def _reached(names: Iterable[str], defined: dict[str, Sequence[Any]]) -> set[str]:
    """These fixtures, and those that they need."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [argument for one in defined.get(name, ()) for argument in one.argnames]
    return found
