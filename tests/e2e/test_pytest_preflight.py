"""``pytest preflight``: the same requirements as plain pytest, for CI."""

from __future__ import annotations

import json
import signal
import stat
import sys

import pytest

from tests.e2e.doubles import Providers
from tests.e2e.place import KEYS, Place, Started, get, listening


def suite(place: Place, *options: str, **environ: str) -> Started:
    """``pytest preflight`` with the small application, to its end."""
    command = [sys.executable, "-m", "pytest", "preflight", f"--port={place.port}", *options]
    started = place.spawn(*command, environ={"PREFLIGHT_APP": "small:app", **environ})
    started.wait()
    return started


def test_good(equipped: Place) -> None:
    """Everything holds: exit code 0, and the report is published for its owner alone, as pytest's."""
    started = suite(equipped, "-m", "critical")
    assert started.process.returncode == 0, started.output
    found = equipped.report()
    assert (found["origin"], found["selection"], found["status"]) == ("pytest", "critical", "passed")
    assert {check["severity"] for check in found["checks"]} == {"critical"}
    assert found["address"] == f"127.0.0.1:{equipped.port}"
    assert stat.S_IMODE(equipped.report_file.stat().st_mode) == 0o600
    assert f"report: {equipped.report_file}" in started.stdout
    started.left_nothing()


def test_blocked(equipped: Place) -> None:
    """A critical that fails: exit code 1, with its message and its fix at the end."""
    started = suite(equipped, PREFLIGHT_PYTHON=">=3.99")
    assert started.process.returncode == 1
    assert "critical failed: Python Version: requires Python >=3.99, found 3." in started.stdout
    assert "    fix: install a Python >=3.99" in started.stdout
    assert equipped.report()["status"] == "failed"
    assert "Traceback" not in started.output


def test_warnings_alone(equipped: Place) -> None:
    """A warning that fails is a failed test for pytest, and may start by the report."""
    started = suite(equipped, PREFLIGHT_MEMORY="900 TiB")
    assert started.process.returncode == 1
    assert equipped.report()["status"] == "warnings"
    assert equipped.report()["may_start"] is True


def test_options(equipped: Place, providers: Providers) -> None:
    """--demo leaves out, --offline asks nobody, --ignore lets pass, --no-cleanup stops nobody, --host is used."""
    assert suite(equipped, "--demo").process.returncode == 0
    assert equipped.report()["checks"][1]["outcome"] == "not_applicable"
    assert suite(equipped, "--offline").process.returncode == 0
    assert providers.requests == []
    ignored = suite(equipped, "--demo", "--ignore", "State Folder", "--ignore=Python Version")
    assert ignored.process.returncode == 0
    elsewhere = suite(equipped, "--demo", "--host", "203.0.113.7")
    assert elsewhere.process.returncode == 1
    assert "203.0.113.7 is not an address of this machine" in elsewhere.stdout


def test_ignored_failure(equipped: Place) -> None:
    """--ignore by title: the failure is shown, and the exit code is 0."""
    started = suite(equipped, "--ignore", "Python Version", PREFLIGHT_PYTHON=">=3.99")
    assert started.process.returncode == 0, started.output
    assert equipped.check("Python Version")["outcome"] == "ignored"


def test_names_to_ignore_of_other_files(equipped_project: Place) -> None:
    """Who runs one file may have names of others in the settings; one that is nowhere is told to who runs all."""
    table = equipped_project.root / "pyproject.toml"
    ignore = 'ignore = ["Python Version", "Disk Space"]'
    table.write_text(table.read_text().replace("[tool.preflight]", f"[tool.preflight]\n{ignore}"))
    one = "preflight/requirements/test_python.py"
    arguments = (sys.executable, "-m", "pytest", f"--port={equipped_project.port}")
    part = equipped_project.spawn(*arguments, one, environ={"PREFLIGHT_PYTHON": ">=3.99"})
    assert part.wait() == 0, part.output
    line = 1 + table.read_text().splitlines().index(ignore)
    assert equipped_project.check("Python Version")["message"].startswith(f"ignored by pyproject.toml:{line}: requires")
    table.write_text(table.read_text().replace("Disk Space", "Disc Space"))
    assert equipped_project.spawn(*arguments, one, environ={"PREFLIGHT_PYTHON": ">=3.99"}).wait() == 0
    whole = suite(equipped_project, "-m", "critical")
    assert whole.process.returncode == 4
    assert f"pyproject.toml:{line}: Disc Space: there is no such requirement" in whole.output
    assert "--ignore" not in whole.output


@pytest.mark.parametrize(
    "environ, message",
    [
        ({"PREFLIGHT_IGNORE": "Nonsense"}, "ERROR: PREFLIGHT_IGNORE: Nonsense: there is no such requirement"),
        ({}, "ERROR: PREFLIGHT_IGNORE in the env file: Server Port: this requirement cannot be ignored"),
    ],
    ids=["environment", "env file"],
)
def test_who_says_what_to_ignore(equipped: Place, environ: dict[str, str], message: str) -> None:
    """What is wrong is looked for where it stands."""
    equipped.write_env_file(OPENAI_API_KEY=KEYS["OPENAI_API_KEY"], PREFLIGHT_IGNORE="Server Port")
    started = suite(equipped, **environ)
    assert started.process.returncode == 4
    assert message in started.output


@pytest.mark.parametrize(
    "options, message",
    [
        (["--ignore", "Server Port"], "--ignore Server Port: this requirement cannot be ignored"),
        (["--ignore", "Nonsense"], "--ignore Nonsense: there is no such requirement"),
        (["--port", "abc"], "--port must be a whole number from 1 to 65535"),
        (["tests"], "run the suite (pytest preflight) and the project's own tests (pytest) separately"),
    ],
    ids=["protected", "unknown", "port", "mixed"],
)
def test_wrong_usage(place: Place, options: list[str], message: str) -> None:
    """Wrong usage is pytest's exit code 4 and a line that says what is wrong: nothing was found out or published."""
    place.plant_report()
    started = suite(place, *options)
    assert started.process.returncode == 4
    assert message in started.output
    assert "Traceback" not in started.output
    assert "report: " not in started.output
    assert place.report()["run_id"] == "old"
    assert not (place.state / "audit.log").exists()


def test_skipped_critical(project: Place) -> None:
    """A skipped critical, green for pytest, fails the run here."""
    project.write_suite(
        'import pytest\n@pytest.mark.critical("Lazy")\ndef test_lazy():\n    "Holds."\n    pytest.skip("not today")\n',
    )
    started = suite(project, "--demo")
    assert started.process.returncode == 1
    assert "critical skipped: Lazy: skipped: not today" in started.stdout
    assert project.report()["may_start"] is False


def test_two_severities(project: Place) -> None:
    """A requirement that breaks the contract is a usage error that names it, and the report is never a good one."""
    project.plant_report()
    project.write_suite(
        'import pytest\n@pytest.mark.critical("A")\n@pytest.mark.warning("A")\ndef test_two():\n    "Holds."\n',
    )
    started = suite(project, "--demo")
    assert started.process.returncode == 4
    assert "test_suite.py::test_two: needs exactly one severity" in started.output
    assert not project.report_file.exists() or project.report()["run_id"] != "old"


def test_collect_only_writes_nothing(place: Place) -> None:
    """Listing the requirements is no run."""
    started = suite(place, "--collect-only", "-q")
    assert started.process.returncode == 0
    assert "test_server_port" in started.stdout
    assert not place.report_file.exists()


def test_stale_listener(equipped: Place) -> None:
    """A stale server is stopped, as by a start, and with --no-cleanup left alone."""
    holder = equipped.listener()
    assert suite(equipped, "--no-cleanup").process.returncode == 1
    assert holder.process.poll() is None
    assert suite(equipped).process.returncode == 0
    assert holder.wait() != 0
    assert not listening(equipped.port)


def test_stubborn_listener(equipped: Place) -> None:
    """The time before SIGKILL comes on top of the requirement's deadline, and of the run's."""
    holder = equipped.listener("stubborn")
    timeouts = {"PREFLIGHT_PORT_GRACE": "6s", "PREFLIGHT_REQUIREMENT_TIMEOUT": "3s", "PREFLIGHT_RUN_TIMEOUT": "6s"}
    started = suite(equipped, **timeouts)
    assert started.process.returncode == 0, started.output
    assert holder.wait() == -signal.SIGKILL
    assert equipped.check("Server Port")["outcome"] == "passed"


def test_beside_a_live_instance(place: Place) -> None:
    """Beside an instance of ours the port counts as served by it, and the instance lives on.

    So it does by --check-only.
    """
    instance = place.serve().until_ready()
    started = suite(place, "--demo")
    assert started.process.returncode == 0, started.output
    assert f"served by our instance (PID {instance.pid})" in place.check("Server Port")["message"]
    assert instance.process.poll() is None
    assert json.loads(get(f"{place.url}/health")[1])["status"] == "healthy"
    started = place.run("--check-only", "--demo", "--app", "small:app")
    assert started.process.returncode == 0, started.output
    assert "served by our instance" in started.stdout
    assert instance.process.poll() is None
    assert instance.stop() == 0
