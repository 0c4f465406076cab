"""The fixtures: what every requirement can use (docs/requirements.md has them), and what only those here do.

`preflight.plugin` registers them for a run of a suite, and for ``pytest --fixtures``. What a requirement declares is in
preflight/contract.py; `collection` (order), `stages` (deadlines) and `plugin` (the report) hold it to that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from preflight.contract import Details
from preflight.instances import runtime
from preflight.settings import model
from preflight.suite import claim
from preflight.suite.claimed import Claim
from preflight.suite.run import RUN, SuiteRun

if TYPE_CHECKING:
    from preflight.suite.probes.answers import Answers
    from preflight.suite.probes.database import DatabaseProbe
    from preflight.suite.probes.network import Probes


@pytest.fixture(scope="session")
def suite_run(pytestconfig: pytest.Config) -> SuiteRun:
    """This run of the suite."""
    run = pytestconfig.pluginmanager.get_plugin(RUN)
    if not isinstance(run, SuiteRun):
        pytest.fail("this fixture is for the suite (pytest preflight)")
    return run


@pytest.fixture(scope="session")
def settings(suite_run: SuiteRun) -> model.Settings:
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
    return suite_run.takes_port


@pytest.fixture
def details(request: pytest.FixtureRequest, suite_run: SuiteRun) -> Details:
    """What this requirement found: a dict of JSON values, with ``summary`` and ``fix``."""
    return suite_run.findings.details_of(request.node)


@pytest.fixture(scope="session")
def answers(suite_run: SuiteRun) -> Answers:
    """What the probes of ready-made requirements have found; all were asked when the run began."""
    if suite_run.inquiries.answers is None:
        raise RuntimeError("only ready-made requirements have answers")
    return suite_run.inquiries.answers


@pytest.fixture(scope="session")
def probes(suite_run: SuiteRun) -> Probes:
    """The replies of the network, by name; all were asked when the run began."""
    return suite_run.inquiries.probes


@pytest.fixture(scope="session")
def database(suite_run: SuiteRun) -> DatabaseProbe:
    """The fleet's database, asked when the run began."""
    return suite_run.inquiries.database


@pytest.fixture(scope="session")
def application(suite_run: SuiteRun) -> str | None:
    """Why the application to serve does not import or cannot be served, in one line; None if it can."""
    return suite_run.inquiries.application()[0]


@pytest.fixture(scope="session")
def application_fix(suite_run: SuiteRun) -> str:
    """What to do about an application that imports and cannot be served; else empty."""
    return suite_run.inquiries.application()[1]


@pytest.fixture(scope="session")
def runtime_folder(suite_run: SuiteRun) -> Path | runtime.RuntimeFolderError | None:
    """The folder where starts meet, or why there is none; None for a re-run.

    A server that serves sees to its own record and socket, and is not taken out of service for them.
    """
    if suite_run.origin == "rerun":
        return None
    try:
        return runtime.lockable(suite_run.settings.slot, suite_run.settings.state_dir)
    except runtime.RuntimeFolderError as error:
        return error


@pytest.fixture(scope="session")
def port(suite_run: SuiteRun) -> Iterator[Claim]:
    """The server's port: found, freed and held as far as this kind of run may (see the table in claim.py)."""
    settings = suite_run.settings
    if suite_run.leaves_out_critical:  # only plain pytest gets this far then; no server would start on such a run
        settings = replace(settings, port_cleanup="never")
    claimed = claim.claim(
        suite_run.origin,
        settings,
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
