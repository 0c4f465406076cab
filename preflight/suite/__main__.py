"""The process that runs the suite behind a launcher: pytest, with nothing but the plugins that it needs."""

from __future__ import annotations

import gc

# This process lives for seconds at most. Collecting garbage takes a fifth of that time, and a tenth of the imports'
# below; pytest's plugin for unraisable exceptions collects several times.
gc.disable()

import contextlib
import importlib
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflight import project
from preflight.processes import interpreter
from preflight.settings.model import Settings
from preflight.suite.link import Link
from preflight.text import first_line

if TYPE_CHECKING:
    import pytest


def main() -> int:
    """The child: run pytest on the suite, with nothing but the plugins that it needs."""
    link = Link(int(sys.argv[1]))
    import pytest

    if link.settings.root != project.CHECKOUT:  # the checkout's modules are ours
        _import_ahead()
    interpreter.put_first(link.settings.folder)
    arguments = ["--assert=plain", "--tb=native", "--show-capture=no", "--no-header", "-q", "-rN"]
    arguments += ["-p", "no:cacheprovider", "-p", "no:unraisableexception"]
    try:
        tempfile.gettempdir()
    except OSError:  # every file system is read-only, say: pytest keeps in a file what other programs print
        arguments.append("--capture=sys")
    # The plugins that pytest.ini requires are for plain pytest: here it would look for them among autoloaded ones.
    arguments += ["-o", "required_plugins="]
    for plugin in link.plugins:
        arguments += ["-p", plugin]
    arguments += _collection(link.settings)
    plugins = [link, *_own_plugins(link.settings)]
    if link.settings.root != project.CHECKOUT:
        plugins.append(_ConftestFiles(link.settings.folders))
    gc.freeze()  # what has been imported for the suite has no coroutines of a project: see unawaited.py
    try:
        exit_code = int(pytest.main(arguments, plugins=plugins))
    except BaseException:  # noqa: BLE001  # of a hook at the end; Python would end with 1, as pytest does for a failure
        traceback.print_exc()
        exit_code = int(pytest.ExitCode.INTERNAL_ERROR)
    if not link.met:
        in_checkout = link.settings.root == project.CHECKOUT
        holds = "conftest.py" if in_checkout else "the plugin"
        how = f"pytest ended with exit code {exit_code} before {holds} took control of the run"
        faults = _faults(link)
        link.send("broken", problems=faults or [f"{how}{': see addopts in pytest.ini' if in_checkout else ''}"])
    gc.freeze()  # no collection at the interpreter's end either: the launcher waits for it
    return exit_code


def _import_ahead() -> None:
    """Import what our requirements import, before a project's modules can be found: it may have one called psutil."""
    import packaging.requirements
    import packaging.specifiers
    import packaging.utils
    import packaging.version  # noqa: F401
    import pytest_jsonreport.plugin  # noqa: F401

    if sys.platform != "linux":
        import psutil  # noqa: F401

    from preflight.notify import notifier  # noqa: F401
    from preflight.processes import openfiles  # noqa: F401
    from preflight.suite import fixtures  # noqa: F401
    from preflight.suite.probes import imports, memory  # noqa: F401


class _ConftestFiles:
    """A plugin that lets pytest load the conftest.py files in the parts of a suite, and none around them.

    Those are about the project's own tests. ``--confcutdir`` keeps out what is above one folder only.
    """

    def __init__(self, parts: Sequence[Path]) -> None:
        self._parts = parts

    def pytest_load_initial_conftests(self, early_config: pytest.Config) -> None:
        """Have pytest ask this before it looks for the first of them; nothing public does that."""
        manager: Any = early_config.pluginmanager
        before = manager._is_in_confcutdir
        manager._is_in_confcutdir = lambda path: before(path) and self._is_in_a_part(path)

    def _is_in_a_part(self, folder: Path) -> bool:
        names = (folder, folder.resolve())  # behind a link in a part, or in a part that is named by a link
        return any(name.is_relative_to(part) for name in names for part in self._parts)


def _own_plugins(settings: Settings) -> list[Any]:
    """The plugins of a run, as modules: to find one by its name, pytest searches all that is installed."""
    found = []
    with contextlib.suppress(ImportError):  # the run itself reports that
        import pytest_jsonreport.plugin

        found.append(pytest_jsonreport.plugin)
    if settings.root != project.CHECKOUT:  # in the checkout, conftest.py registers ours
        found.append(importlib.import_module("preflight.plugin"))  # pytest's way into this package, from outside
    return found


def _collection(settings: Settings) -> list[str]:
    """Where requirements are, and which configuration of pytest and which conftest.py files hold for them."""
    if settings.root == project.CHECKOUT:
        from preflight.suite.soundness import sources

        # Hundreds of our modules have no requirements, and pytest would ask all of its plugins about each.
        folders = [folder for scope in settings.scopes for folder in sources.folders(scope.folder)]
        return ["-c", "pytest.ini", "--rootdir", ".", *(map(_argument, folders) if folders else ["preflight"])]
    # A project's own configuration and conftest.py are about its own tests: they name plugins that are not loaded here.
    scopes = settings.scopes
    own = [_argument(scope.folder) for scope in scopes if scope.name != project.OURS]
    # pytest replaces variables ("$HOME") in a root's path: there are none in the way up to it.
    arguments = ["-c", str(Path(__file__).with_name("pytest.ini")), "--rootdir", os.path.relpath(settings.root)]
    return [*arguments, "--pyargs", project.OURS, *own]


def _argument(folder: str | Path) -> str:
    """A folder's relative path: pytest takes "[" and "::" in a name above the project for a part of an id."""
    return os.path.relpath(folder)


def _faults(link: Link) -> list[str]:
    """Which of the plugins that the settings name cannot be loaded, and why."""
    import pytest

    faults = []
    for name in link.plugins:
        try:
            pytest.PytestPluginManager().import_plugin(name, consider_entry_points=True)
        except Exception as error:  # noqa: BLE001  # a module may raise what it likes
            why = first_line(str(error.__cause__ or error))
            faults.append(f"{link.plugins_from}: the plugin {name!r} cannot be loaded: {why}")
    return faults


if __name__ == "__main__":
    sys.exit(main())
