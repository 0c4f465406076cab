"""What every requirement can use: settings, environment, details, probes, application and port.

What a requirement declares is in preflight/contract.py; what holds it to that (order, deadlines, the report) in
preflight/suite/plugin.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from preflight.contract import Details
from preflight.instances import runtime
from preflight.settings import loading
from preflight.settings import model as settings
from preflight.suite import claim, soundness
from preflight.suite.plugin import LAUNCHER, Link, SuiteRun
from preflight.suite.probes import Probes

ROOT = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of ``python run.py`` that a run of the suite alone can use."""
    group = parser.getgroup("preflight", "requirements (pytest preflight)")
    group.addoption("--host", metavar="H", help="address to serve on (127.0.0.1)")
    group.addoption("--port", metavar="N", help="port to serve on (8002)")
    group.addoption("--no-cleanup", action="store_true", help="leave alone whatever is on the port")
    group.addoption("--offline", action="store_true", help="leave out what needs the network")
    group.addoption("--demo", action="store_true", help="no env file, no keys, no network")


def _launcher(config: pytest.Config) -> Link | None:
    """The launcher's side of this run, None where pytest was started by itself."""
    found = (plugin for plugin in config.pluginmanager.get_plugins() if str(_name(plugin)).startswith(LAUNCHER))
    link: Link | None = next(found, None)
    return link


def _name(plugin: object) -> object:
    return getattr(plugin, "__name__", "")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Options that make pytest show something instead of running would end here, with exit code 0."""
    if not _of_the_suite(config):
        return
    problems = soundness.refused(config, lists=True)
    if problems:
        if link := _launcher(config):
            link.send("broken", problems=problems)
            link.met = True
        raise pytest.UsageError("\n".join(problems))


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register the plugin if this is a run of the suite, and not of the project's own tests."""
    if not _of_the_suite(config):
        return
    if not config.pluginmanager.hasplugin("pytest_jsonreport") and not config.pluginmanager.hasplugin(
        "pytest_jsonreport.plugin"
    ):
        raise pytest.UsageError("the suite needs pytest-json-report: add -p pytest_jsonreport.plugin")
    if getattr(config.option, "numprocesses", None) or hasattr(config, "workerinput"):
        raise pytest.UsageError("the suite keeps an order, the port last: run it without -n")
    link = _launcher(config)
    try:
        if link is None:
            chosen = loading.load(ROOT, options=_options(config))
        elif link.origin == "rerun":
            chosen = loading.reread(link.settings, link.options)
        else:
            chosen = link.settings
    except settings.SettingsError as error:
        if link:
            link.send("usage", message=str(error))
        raise pytest.UsageError(str(error)) from None
    option = config.option
    if not option.json_report:
        option.json_report, option.json_report_file = True, None
    # What tests print or log, and pytest's own texts, could hold anything.
    option.json_report_omit = ["collectors", "keywords", "log", "streams", "traceback", "warnings"]
    if config.pluginmanager.register(SuiteRun(config, chosen, link), "preflight-suite-run") is None:
        raise pytest.UsageError("-p no:preflight-suite-run keeps out what holds the run together: leave it out")
    if link:
        link.met = True


def _of_the_suite(config: pytest.Config) -> bool:
    paths = [(config.invocation_params.dir / arg.split("::")[0]).resolve() for arg in _arguments(config)]
    # This file's own path may lead through a symbolic link: it is what was typed.
    inside = [path.is_relative_to((ROOT / "preflight").resolve()) for path in paths]
    if any(inside) and not all(inside):
        raise pytest.UsageError("run the suite (pytest preflight) and the project's own tests (pytest) separately")
    return bool(inside) and all(inside)


def _arguments(config: pytest.Config) -> list[str]:
    """The files and folders that pytest was given; at ``--help`` it stops reading before it knows them for good."""
    return config.args or list(getattr(config.known_args_namespace, "file_or_dir", None) or ())


def _options(config: pytest.Config) -> dict[str, object]:
    option = config.option
    return {
        "host": option.host,
        "port": option.port,
        "port_cleanup": "never" if option.no_cleanup else None,
        "offline": True if option.offline else None,
        "demo": True if option.demo else None,
        # pytest has --ignore=PATH itself; what is no path there is a requirement's title or id here.
        "ignore": [name for name in option.ignore or () if not Path(name).exists()] or None,
    }


@pytest.fixture(scope="session")
def suite_run(pytestconfig: pytest.Config) -> SuiteRun:
    """This run of the suite."""
    found = pytestconfig.pluginmanager.get_plugin("preflight-suite-run")
    if not isinstance(found, SuiteRun):
        pytest.fail("this fixture is for the suite (pytest preflight)")
    return found


@pytest.fixture(scope="session", name="settings")
def _settings(suite_run: SuiteRun) -> settings.Settings:
    """The requirements' parameters."""
    return suite_run.settings


@pytest.fixture(scope="session")
def environment(suite_run: SuiteRun) -> Mapping[str, str]:
    """The variables that the application will see: the env file's, and above them the process's own."""
    return suite_run.settings.environment


@pytest.fixture(scope="session")
def run_origin(suite_run: SuiteRun) -> str:
    """What this run is for: "start", "check", "pytest" or "rerun"."""
    return suite_run.origin


@pytest.fixture(scope="session")
def worker_is_ours(suite_run: SuiteRun) -> bool:
    """Whether a worker of ours serves, or is going to; not where a server was started without run.py."""
    return suite_run.link is None or suite_run.link.takes_port


@pytest.fixture
def details(request: pytest.FixtureRequest, suite_run: SuiteRun) -> Details:
    """What this requirement found: a dict of JSON values, with ``summary`` and ``fix``."""
    return suite_run.details_of(request.node)


@pytest.fixture(scope="session")
def probes(suite_run: SuiteRun) -> Probes:
    """The replies of the network, by name; all were asked when the run began."""
    return suite_run.probes


@pytest.fixture(scope="session")
def application(suite_run: SuiteRun) -> str | None:
    """Why the application to serve does not import or cannot be served, in one line; None if it can."""
    return suite_run.application()[0]


@pytest.fixture(scope="session")
def application_fix(suite_run: SuiteRun) -> str:
    """What to do about an application that imports and cannot be served; else empty."""
    return suite_run.application()[1]


@pytest.fixture(scope="session")
def runtime_folder(suite_run: SuiteRun) -> Path | runtime.RuntimeFolderError | None:
    """Where a start meets others, or why there is no such place; None for a re-run, whose server has met them all.

    It sees to its own record and socket: one that serves is not taken out of service for them.
    """
    if suite_run.origin == "rerun":
        return None
    try:
        return runtime.lockable(suite_run.settings.port, suite_run.settings.state_dir)
    except runtime.RuntimeFolderError as error:
        return error


@pytest.fixture(scope="session")
def port(suite_run: SuiteRun) -> Iterator[claim.Claim]:
    """The server's port: found, freed and held as far as this kind of run may (claim.py: what stops what)."""
    claimed = claim.claim(
        suite_run.origin,
        suite_run.settings,
        blocked=suite_run.before_port(),
        on_step=suite_run.on_port_step,
        may_take=suite_run.allow,
        inherited=suite_run.link.inherited if suite_run.link else None,
    )
    if claimed.socket is not None and suite_run.link is not None:
        # The very socket that was checked is the one that is served: the launcher gets it now.
        suite_run.link.send("socket", (claimed.socket.fileno(),))
    yield claimed
    if claimed.socket is not None:
        claimed.socket.close()
