"""The process that runs the suite behind a launcher: pytest, with nothing but the plugins that it needs."""

from __future__ import annotations

import gc

# It lives for seconds at most, and collecting garbage takes a fifth of that time, of the imports here a tenth. pytest's
# plugin for unraisable exceptions does so several times over.
gc.disable()

import contextlib
import importlib
import os
import socket
import sys
import threading
from pathlib import Path
from types import ModuleType

from preflight import project
from preflight.ports.activation import Inherited
from preflight.processes import children, interpreter
from preflight.processes.channel import Message
from preflight.settings.model import Settings
from preflight.text import first_line


class Link:
    """What the suite knows of the launcher; `preflight.plugin` finds it among pytest's plugins."""

    def __init__(self, descriptor: int) -> None:
        # pluggy takes a plugin's name from here. It is another one each time: -p no:NAME cannot keep it out.
        self.__name__ = f"preflight-launcher-{os.urandom(8).hex()}"
        self.met = False
        self._heard: dict[str, Message] = {}
        self._condition = threading.Condition()
        self._channel = children.attach(descriptor, self._hear, children.end_group)
        message = self._wait("run")
        run = message.data
        inherited = [
            Inherited(socket.socket(fileno=descriptor), run["activated_by"]) for descriptor in message.descriptors
        ]
        self.inherited: Inherited | None = inherited[0] if inherited else None
        self.run_id: str = run["run_id"]
        self.origin: str = run["origin"]
        self.takes_port: bool = run["takes_port"]
        self.options: dict[str, object] = run["options"]
        self.settings = Settings.of_message(run["settings"])
        self.plugins: list[str] = run["plugins"]
        self.plugins_from: str = run["plugins_from"]
        """Where they are named, for people."""

    def _hear(self, message: Message) -> None:
        with self._condition:
            self._heard[message.kind] = message
            self._condition.notify_all()

    def _wait(self, kind: str) -> Message:
        with self._condition:
            self._condition.wait_for(lambda: kind in self._heard)
            return self._heard[kind]

    def application(self) -> tuple[str | None, str]:
        """Wait until the application has imported; returns its error if it did not, and what to do about that."""
        said = self._wait("application").data
        return said["error"], said["fix"]

    def send(self, kind: str, descriptors: tuple[int, ...] = (), **data: object) -> None:
        self._channel.send(kind, descriptors, **data)


def main() -> int:
    """The child: run pytest on the suite, with nothing but the plugins that it needs."""
    link = Link(int(sys.argv[1]))
    import pytest

    if link.settings.root != project.CHECKOUT:  # whose modules are ours
        _import_ahead()
    interpreter.put_first(link.settings.folder)
    arguments = ["--assert=plain", "--tb=native", "--show-capture=no", "--no-header", "-q", "-rN"]
    arguments += ["-p", "no:cacheprovider", "-p", "no:unraisableexception"]
    # Those that pytest.ini requires are there for plain pytest; here it would look for them among what loads unasked.
    arguments += ["-o", "required_plugins="]
    for plugin in link.plugins:
        arguments += ["-p", plugin]
    arguments += _collection(link.settings)
    exit_code = int(pytest.main(arguments, plugins=[link, *_own_plugins(link.settings)]))
    if not link.met:
        in_checkout = link.settings.root == project.CHECKOUT
        holds = "conftest.py" if in_checkout else "the plugin"
        how = f"pytest ended with exit code {exit_code} before {holds} could hold the run together"
        faults = _faults(link)
        link.send("broken", problems=faults or [f"{how}{': see addopts in pytest.ini' if in_checkout else ''}"])
    gc.freeze()  # nor is the interpreter to collect at its end: the launcher waits for it
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
    from preflight.suite import fixtures, imports, memory  # noqa: F401


def _own_plugins(settings: Settings) -> list[ModuleType]:
    """The plugins that a run is made of. By their names, pytest would look for each in all that is installed."""
    found = []
    with contextlib.suppress(ImportError):  # which the run says itself
        import pytest_jsonreport.plugin

        found.append(pytest_jsonreport.plugin)
    if settings.root != project.CHECKOUT:  # where conftest.py registers ours
        found.append(importlib.import_module("preflight.plugin"))  # pytest's way into this package, from outside
    return found


def _collection(settings: Settings) -> list[str]:
    """Where requirements are, and which configuration of pytest and which conftest.py files hold for them."""
    if settings.root == project.CHECKOUT:
        from preflight.suite import sources

        # Hundreds of modules of ours are no requirements, and pytest would ask all of its plugins about each.
        folders = [folder for scope in settings.scopes for folder in sources.folders(scope.folder)]
        return ["-c", "pytest.ini", "--rootdir", ".", *(map(_argument, folders) if folders else ["preflight"])]
    # A project's own configuration and conftest.py are about its own tests: they name plugins that are not loaded here.
    scopes = settings.scopes
    own = [_argument(scope.folder) for scope in scopes if scope.name != project.OURS]
    arguments = ["-c", str(Path(__file__).with_name("pytest.ini")), "--rootdir", str(settings.root)]
    arguments += ["--confcutdir", own[0] if own else str(project.PACKAGE)]
    return [*arguments, "--pyargs", project.OURS, *own]


def _argument(folder: str | Path) -> str:
    """A folder for pytest's command line, which takes "[" and "::" in a name above the project for part of an id."""
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
