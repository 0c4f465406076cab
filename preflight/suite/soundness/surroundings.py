"""Fixtures of a project's own tests, which its requirements do without.

Plain pytest imports every conftest.py above the suite, and the plugins that these and ``addopts`` name. The fixtures
there would change what a requirement asks: one with the name of ours takes its place, and an automatic one may put a
double in the place of a database. A check imports none of these files, so both runs ask the same.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from preflight.suite.selection import typed

OURS = "preflight.suite.fixtures"


def leave_out(items: Sequence[pytest.Item], folders: Sequence[Path], plugins: Iterable[str]) -> None:
    """Let requirements have our fixtures, those of the suite in these ``folders``, and what they ask for by name.

    Those of plugins stay if the settings or pytest's own command line name the plugin, or it is installed as one.
    """

    @functools.cache  # hardly any run needs it
    def known() -> list[ModuleType]:
        return list(_known(items[0].config, folders, plugins))

    def is_outside(item: pytest.Item, definition: Any) -> bool:
        for node in item.listchain():
            if definition.baseid and definition.baseid == node.nodeid:
                return not any(map(node.path.is_relative_to, folders))
        # It belongs to a plugin, or to a conftest.py in pytest's root folder or outside of that.
        func = inspect.unwrap(definition.func)
        if func.__module__ == OURS or str(func.__module__).startswith("_pytest."):
            return False
        return not any(_has(module, definition.argname, func) for module in known())

    for item in items:
        info = getattr(item, "_fixtureinfo", None)
        if info is None:
            continue
        defined: dict[str, Sequence[Any]] = info.name2fixturedefs
        for name, several in defined.items():
            if any(one.func.__module__ == OURS for one in several):
                remain = [one for one in several if not is_outside(item, one)]
                # pytest 8.2 has copied them for the item.
                defined[name] = vars(item)["_request"]._arg2fixturedefs[name] = remain
        asked = {*info.argnames, *(name for mark in item.iter_markers("usefixtures") for name in mark.args)}
        unasked = [
            name
            for name in info.initialnames
            if name not in asked and name in defined and is_outside(item, defined[name][-1])
        ]
        gone = _reached(unasked, defined) - _reached(set(info.initialnames).difference(unasked), defined)
        info.names_closure[:] = [name for name in info.names_closure if name not in gone]


def _known(config: pytest.Config, folders: Sequence[Path], plugins: Iterable[str]) -> Iterator[ModuleType]:
    """The suite's conftest.py files, the plugins that requirements have, and the plugins that one of these names."""
    manager = config.pluginmanager
    named = [manager.get_plugin(name) or sys.modules.get(name) for name in (*plugins, *(typed(config).plugins or ()))]
    installed = [plugin for plugin, _ in manager.list_plugin_distinfo()]
    waiting = [*named, *installed, *(one for one in manager.get_plugins() if _is_conftest(one, folders))]
    seen: set[int] = set()
    while waiting:
        plugin = waiting.pop()
        if not isinstance(plugin, ModuleType) or id(plugin) in seen:
            continue
        seen.add(id(plugin))
        yield plugin
        more = getattr(plugin, "pytest_plugins", ())
        waiting += [manager.get_plugin(name) for name in ([more] if isinstance(more, str) else more)]


def _is_conftest(plugin: Any, folders: Sequence[Path]) -> bool:
    file = Path(getattr(plugin, "__file__", None) or "")
    return file.name == "conftest.py" and any(map(file.is_relative_to, folders))


def _has(module: ModuleType, name: str, func: Any) -> bool:
    """Whether a module has defined this function of a fixture, or has imported it."""
    if func.__module__ == module.__name__:
        return True
    found = (vars(module).get(one) for one in (name, getattr(func, "__name__", name)))
    return any(inspect.unwrap(one) is func for one in found if callable(one))


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
