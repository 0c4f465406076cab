"""The pytest plugin: options, markers and fixtures, and nothing more until a run is one of a suite.

Every pytest of an environment imports this module (entry point ``preflight``), so it imports the standard library and
pytest alone, and everything else only when the arguments name a suite. Other runs get its options, and nothing else.

This module decides whether a run is one of a suite; preflight/suite/plugin.py then controls it.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import pytest

if TYPE_CHECKING:
    from preflight.project import Project, Scope
    from preflight.settings.model import Settings
    from preflight.suite.link import Link

_CRITICAL = (
    'critical(title, fix="", needs=(), timeout=None, scope="instance", ignorable=True): a requirement of a preflight'
    " suite, without which the server must not start; timeout is its own deadline, in seconds; with scope="
    '"fleet" it is about what all instances share, and takes no serving server out of service'
)
_WARNING = (
    'warning(title, fix="", needs=(), timeout=None, scope="instance", service=""): a requirement of a preflight suite'
    " that is reported and never blocks"
)
_PACKAGE = str(Path(__file__).resolve().parent)
_OWN = "preflight_suite"
_FOUND = pytest.StashKey["Project | None"]()
_ENVIRONMENTS: WeakKeyDictionary[pytest.PytestPluginManager, dict[str, str]] = WeakKeyDictionary()
"""The variables that each pytest of this process was started with: what conftest.py files set is for tests."""


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Add those of the command's options that a run of the suite alone can use."""
    _ENVIRONMENTS[pluginmanager] = _started_with()  # here, before any conftest.py is imported
    group = parser.getgroup("preflight", "requirements of a server (pytest --pyargs preflight.requirements)")
    group.addoption("--preflight-host", metavar="H", help="address to serve on")
    group.addoption("--preflight-port", metavar="N", help="port to serve on")
    group.addoption("--preflight-no-cleanup", action="store_true", help="leave every process on the port alone")
    group.addoption("--preflight-offline", action="store_true", help="leave out what needs the network")
    group.addoption("--preflight-demo", action="store_true", help="no env file, no keys, no network")
    group.addoption(
        "--preflight-ignore", metavar="NAME", action="append", help="let this critical requirement fail (repeatable)"
    )


def _started_with() -> dict[str, str]:
    """The variables that a pytest which begins now was started with: a plugin of ``-p NAME`` has been imported before.

    Linux knows what a process had at its beginning. What Python's own start has added (sitecustomize) comes before
    pytest's own variable. A process that is not pytest's has set variables for it: a program that calls pytest.main.
    """
    program = Path(next(iter(sys.argv), ""))
    if _ENVIRONMENTS or not (program.name in ("pytest", "py.test") or program.parts[-2:] == ("pytest", "__main__.py")):
        return dict(os.environ)
    try:
        entries = os.fsdecode(Path("/proc/self/environ").read_bytes()).split("\0")
    except OSError:
        return dict(os.environ)
    added = itertools.takewhile(lambda name: name != "PYTEST_VERSION", os.environ)
    first = (entry.partition("=") for entry in entries if "=" in entry)
    return {name: os.environ[name] for name in added} | {name: value for name, _, value in first}


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, object, object]:
    """Refuse a suite that others can write before pytest imports its conftest.py; SECURITY.md says where it cannot be.

    Where there is a launcher, it has looked already.
    """
    if not _may_be_a_suite(early_config) or _launcher(early_config) is not None:
        return (yield)
    from preflight import project

    found, scopes = _project_of(early_config)
    if not any(_inside(early_config, scopes)):
        return (yield)
    _redact(early_config, found)  # what pytest says of a conftest.py that it cannot import
    if why := found.refused or project.of_others(found.root, scopes):
        raise pytest.UsageError(why)
    result = yield
    _redact(early_config, found)  # what conftest.py files have printed
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, object, object]:
    """Refuse options that make pytest show something instead of running, which would end with exit code 0.

    A run that a plugin or a conftest.py has ended with 0 before there was a report ends with 3.
    """
    project = _suite_of(config)
    if project is None:
        return (yield)
    from preflight.suite.soundness import execution

    if _launcher(config) is None:
        _redact(config, project)  # for a plugin that a conftest.py registers, and a suite that testpaths names
    problems = execution.refused(config, lists=True)
    if problems:
        if link := _launcher(config):
            link.send("broken", problems=problems)
            link.met = True
        raise pytest.UsageError("\n".join(problems))
    exit_code = yield
    if exit_code != pytest.ExitCode.OK or execution.shows_something(config) or _launcher(config):
        return exit_code
    from preflight.suite.run import RUN, SuiteRun

    run = config.pluginmanager.get_plugin(RUN)
    if isinstance(run, SuiteRun) and run.vouches:
        return exit_code
    sys.stderr.write("ERROR: the run was ended before it had a report: see the plugins and conftest.py files\n")
    return pytest.ExitCode.INTERNAL_ERROR


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Take up the run if it is one of a suite. In other runs, markers and fixtures are only listed."""
    project = _suite_of(config)
    if project is not None or config.option.markers:
        declare_markers(config)
    if project is not None or config.option.showfixtures:
        from preflight.suite import fixtures

        # Later than other plugins, whose fixtures of the same names (pytest-django has "settings") it hides in a suite.
        config.pluginmanager.register(fixtures, "preflight-fixtures")
    if project is not None:
        _take_up(config, project)


def _redact(config: pytest.Config, project: Project) -> None:
    """Redact what is written before the run has its settings; see `preflight.suite.written`."""
    from preflight.redaction.redactor import Redactor
    from preflight.redaction.stream import redact_streams
    from preflight.settings import loading
    from preflight.settings.fields import SettingsError
    from preflight.suite import written

    environ = _ENVIRONMENTS[config.pluginmanager]
    try:
        known = loading.load(project, environ, imports=False).variables
    except SettingsError:  # the run itself reports it
        known = (environ,)
    redactor = Redactor.of_variables(*known, os.environ)
    redact_streams(redactor)
    written.redact_captured(config, redactor)


def declare_markers(config: pytest.Config) -> None:
    """Let pytest know the markers that requirements have."""
    for marker in (_CRITICAL, _WARNING):
        config.addinivalue_line("markers", marker)


def _take_up(config: pytest.Config, project: Project) -> None:
    from preflight.settings.fields import SettingsError
    from preflight.suite import plugin

    if not config.pluginmanager.hasplugin("pytest_jsonreport") and not config.pluginmanager.hasplugin(
        "pytest_jsonreport.plugin"
    ):
        raise pytest.UsageError("the suite needs pytest-json-report: add -p pytest_jsonreport.plugin")
    _in_one_process(config)
    _without_coverage(config)
    link = _launcher(config)
    try:
        chosen = _settings(config, project, link)
    except SettingsError as error:
        if link:
            link.send("usage", message=str(error))
        raise pytest.UsageError(str(error)) from None
    option = config.option
    if not option.json_report:
        option.json_report, option.json_report_file = True, None
    # What tests print or log, and pytest's own texts, could hold anything.
    option.json_report_omit = ["collectors", "keywords", "log", "streams", "traceback", "warnings"]
    plugin.register(config, chosen, link)
    if link:
        link.met = True


def _settings(config: pytest.Config, project: Project, link: Link | None) -> Settings:
    """The settings of this run. Raises SettingsError."""
    from preflight.processes import interpreter
    from preflight.settings import loading

    if link is None:
        from preflight.suite.selection import typed

        if not any(one.startswith("pythonpath=") for one in typed(config).override_ini or ()):
            interpreter.put_last(config.getini("pythonpath"))  # doubles for tests, say: a check does not look there
        interpreter.put_first(project.folder)  # what requirements ask may be the project's own code
        return loading.load(project, _ENVIRONMENTS.get(config.pluginmanager), _options(config))
    return loading.reread(link.settings, link.options) if link.origin == "rerun" else link.settings


def _in_one_process(config: pytest.Config) -> None:
    """Disable pytest-xdist, whose processes keep no order. Raises UsageError if it was asked for here."""
    option = config.option
    asked = [one for one in config.invocation_params.args if one.startswith(("-n", "--numprocesses", "--dist", "--tx"))]
    if hasattr(config, "workerinput") or (getattr(option, "numprocesses", None) and asked):
        raise pytest.UsageError("the suite runs in a fixed order, with the port last: run it without -n")
    if getattr(option, "dist", "no") != "no":  # in addopts, which are about the project's own tests
        option.numprocesses, option.dist, option.tx = None, "no", []


def _without_coverage(config: pytest.Config) -> None:
    """Keep pytest-cov's verdict out, unless it was asked for here: requirements cover little of a project's code."""
    coverage = config.pluginmanager.get_plugin("_cov")
    if coverage is not None and not any(one.startswith("--cov") for one in config.invocation_params.args):
        coverage.options.no_cov = True  # as --no-cov sets it


def _launcher(config: pytest.Config) -> Link | None:
    """The launcher's side of this run, None if pytest was started by itself."""
    from preflight.suite.link import LAUNCHER

    plugins = config.pluginmanager.get_plugins()
    found = (plugin for plugin in plugins if str(getattr(plugin, "__name__", "")).startswith(LAUNCHER))
    link: Link | None = next(found, None)
    return link


# Is it a run of a suite?


def _suite_of(config: pytest.Config) -> Project | None:
    """The project whose suite, or a part of it, this run is; None if it is another run.

    Raises UsageError for a run of both.
    """
    if _FOUND not in config.stash:
        config.stash[_FOUND] = _found(config) if _may_be_a_suite(config) else None
    return config.stash[_FOUND]


def _may_be_a_suite(config: pytest.Config) -> bool:
    """Whether a closer look, which parses pyproject.toml, is worth it: in nearly every run it is not."""
    here = config.invocation_params.dir
    for argument in _arguments(config):
        name = argument.partition("::")[0]
        if name.partition(".")[0] == "preflight" or _OWN in name:
            return True
        path = os.path.realpath(here / name)
        if path.startswith(_PACKAGE) or _OWN in path:
            return True
    for folder in (here, *here.parents):
        try:
            return b"preflight" in (folder / "pyproject.toml").read_bytes()
        except OSError:
            continue
    return False


def _found(config: pytest.Config) -> Project | None:
    from preflight import project

    if link := _launcher(config):
        return project.at(link.settings.root, link.settings.folder)
    found, scopes = _project_of(config)
    inside = _inside(config, scopes)
    if not any(inside):
        _refuse_anothers(config, found)
        return None
    if all(inside):
        return found
    if getattr(config, "args_source", None) is not pytest.Config.ArgsSource.ARGS:
        return None  # testpaths names all tests that there are
    raise pytest.UsageError(
        "run the suite (pytest preflight) and the project's own tests (pytest) separately"
        if found.root == project.CHECKOUT
        else "run the preflight suite and the project's other tests separately: one pytest for each"
    )


def _refuse_anothers(config: pytest.Config, found: Project) -> None:
    """Raises UsageError for the suite of another project: its requirements would be asked like any tests."""
    from preflight import project

    here = config.invocation_params.dir
    for argument in _arguments(config):
        path = (here / argument.partition("::")[0]).resolve()
        if not path.exists():
            continue  # the name of a package, say
        there = project.find(path if path.is_dir() else path.parent)
        if there.root == found.root.resolve():
            continue
        folders = [
            there.root / (name if "/" in name else name.replace(".", "/")) for name in project.suite_names(there)
        ]
        if any(path.is_relative_to(one) for one in folders if one != there.root):
            raise pytest.UsageError(f"{argument} belongs to the suite of {there.root}: start pytest in that folder")


def _project_of(config: pytest.Config) -> tuple[Project, list[Scope]]:
    """The project of the folder where pytest was started, and the parts of its suite that are there."""
    from preflight import project

    found = project.find(config.invocation_params.dir)
    if project.CHECKOUT is not None and config.rootpath.resolve() == project.CHECKOUT:
        found = project.Project(config.rootpath, config.rootpath)  # whatever folder the command was typed in
    scopes = []
    for name in project.suite_names(found):
        try:
            scopes += project.scopes(found.root, [name])
        except LookupError:
            pass  # the settings report it
    return found, scopes


def _inside(config: pytest.Config, scopes: list[Scope]) -> list[bool]:
    """For each file and folder that pytest was given, whether it belongs to the suite."""
    here, pyargs = config.invocation_params.dir, bool(config.known_args_namespace.pyargs)
    return [_is_inside(argument, here, scopes, pyargs=pyargs) for argument in _arguments(config)]


def _is_inside(argument: str, here: Path, scopes: list[Scope], *, pyargs: bool) -> bool:
    name = argument.partition("::")[0]
    if pyargs and any(f"{name}.".startswith((f"{one.name}.", f"{one.folder.name}.")) for one in scopes):
        return True
    path = (here / name).resolve()
    return any(path.is_relative_to(one.folder.resolve()) for one in scopes)


def _arguments(config: pytest.Config) -> list[str]:
    """The files and folders that pytest was given, as far as it has read them: at ``--help`` it stops early."""
    return config.args or list(getattr(config.known_args_namespace, "file_or_dir", None) or ())


def _options(config: pytest.Config) -> dict[str, object]:
    from preflight.suite.selection import typed

    option = config.option
    # pytest has --ignore=PATH itself; a value that is not a path is a requirement's title or id here. In addopts, it is
    # a path of the project's tests in any case.
    ignored = [name for name in typed(config).ignore or () if not Path(name).exists()]
    return {
        "host": option.preflight_host,
        "port": option.preflight_port,
        "port_cleanup": "never" if option.preflight_no_cleanup else None,
        "offline": True if option.preflight_offline else None,
        "demo": True if option.preflight_demo else None,
        "ignore": [*(option.preflight_ignore or ()), *ignored] or None,
    }
