"""``python run.py --check-only``: what it finds, how long it takes, and that it starts and stops nothing."""

from __future__ import annotations

import json
import re
import socket
import stat
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from tests.e2e.doubles import SMALL, Answer, Providers
from tests.e2e.place import BLOCKED, KEYS, READY, ROOT, Place, Started, listening
from tests.waiting import until

SCHEMA = json.loads((ROOT / "preflight" / "report" / "report.schema.json").read_text())
AT_ONCE = ("--check-only",)


@pytest.fixture
def light(equipped_project: Place) -> Place:
    """Everything that a start of the agent needs, but for the agent: what it is asked for does not depend on it."""
    (equipped_project.root / "server" / "app.py").write_text(SMALL.replace("factory", "create_app"))
    return equipped_project


def section(started: Started) -> dict[str, Any]:
    """Our section of the report on standard output, which is that and nothing else."""
    document = json.loads(started.stdout)
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    preflight: dict[str, Any] = document["preflight"]
    return preflight


def outcome(found: dict[str, Any], title: str) -> tuple[str, str]:
    check = next(check for check in found["checks"] if check["title"] == title)
    return check["outcome"], check["message"]


def test_good(equipped: Place) -> None:
    """With everything in order: exit code 0, the count, the report, and nothing started."""
    started = equipped.run(*AT_ONCE)
    assert started.process.returncode == 0
    assert re.search(r"^(\d+) requirements: \d+ passed, \d+ not applicable, in", started.stdout, re.MULTILINE)
    assert "is free" in started.stdout
    assert READY not in started.stdout
    assert started.stderr == ""
    assert equipped.report()["origin"] == "check"
    started.left_nothing()


def test_blocked(place: Place) -> None:
    """On an empty machine: exit code 1, with every blocking requirement in one banner and its fix."""
    started = place.run("--check-only", "--offline", PREFLIGHT_PYTHON=">=3.99")
    assert started.process.returncode == 1
    banner = started.stdout.partition(f"3 CRITICAL ERRORS: {BLOCKED}")[2]
    assert banner.count("Fix: ") == 3
    assert "run.py --init" in banner
    assert place.report()["may_start"] is False


def test_json(light: Place) -> None:
    """--format json prints the report, valid by its schema, on standard output and nothing else there."""
    # A busy machine's stand-in for the services may take its time.
    started = light.run(*AT_ONCE, "--format", "json", PREFLIGHT_PROBE_TIMEOUT="8s")
    found = section(started)
    assert started.process.returncode == 0
    assert found["status"] == "passed"
    assert found == light.report()
    assert started.stderr == ""


def test_json_of_a_blocked_check(place: Place) -> None:
    """A blocked check in JSON: exit code 1, and every blocking check with message and fix."""
    started = place.run(*AT_ONCE, "--offline", "--format", "json", PREFLIGHT_PYTHON=">=3.99")
    assert started.process.returncode == 1
    found = section(started)
    assert (found["status"], found["may_start"]) == ("failed", False)
    failed = {check["title"]: check for check in found["checks"] if check["outcome"] == "failed"}
    assert {"Python Version", "Environment File", "OpenAI API Key"} <= failed.keys()
    assert all(check["message"] and check["fix"] for check in failed.values())


def test_json_of_a_broken_suite(project: Place) -> None:
    """A suite that breaks is JSON, too: broken, with the reason, and exit code 3."""
    project.write_suite("import os; os._exit(0)")
    started = project.run(*AT_ONCE, "--demo", "--format", "json")
    assert started.process.returncode == 3
    assert section(started)["status"] == "broken"
    assert "without a report" in section(started)["reason"]


def test_report_path(place: Place) -> None:
    """--report writes the same report to that path as well, for its owner only, relative to where one is."""
    path = place.folder / "home" / "ci" / "here.json"
    python = place.start(*AT_ONCE, "--demo", "--app", "small:app", "--report", str(path))
    assert python.wait() == 0
    assert json.loads(path.read_text()) == json.loads(place.report_file.read_text())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# What the services answer.


def test_a_report_that_is_awaited(place: Place) -> None:
    """Until a run has ended, what stands at --report is no good one, and has the id of the run that will replace it."""
    gate = place.folder / "gate"
    place.write_module(
        "guarded",
        "import os, time\nprint('importing', flush=True)\n"
        "while not os.path.exists(os.environ['GATE']):\n    time.sleep(0.01)\nfrom small import app\n",
    )
    path = place.folder / "r.json"
    place.plant_report(path)
    options = ("--check-only", "--demo", "--app", "guarded:app", "--report", str(path))
    started = place.start(*options, GATE=str(gate))
    until(lambda: json.loads(path.read_text())["preflight"]["run_id"] != "old", "the old report has gone")
    awaited = json.loads(path.read_text())["preflight"]
    assert (awaited["may_start"], awaited["reason"]) == (False, "this run has not ended")
    gate.touch()
    assert started.wait() == 0
    assert json.loads(path.read_text())["preflight"]["run_id"] == awaited["run_id"] == place.report()["run_id"]


def test_answers_of_the_services(light: Place, providers: Providers) -> None:
    """A rejected key blocks and a rate limit warns, with what the service said about waiting."""
    providers.openai = Answer(401)
    providers.perplexity = Answer(429, {"Retry-After": "17"})
    started = light.run(*AT_ONCE, "--format", "json")
    assert started.process.returncode == 1
    found = section(started)
    key = outcome(found, "OpenAI API Key")
    assert key[0] == "failed"
    assert "was rejected by 127.0.0.1:" in key[1]
    assert "(HTTP 401)" in key[1]
    assert outcome(found, "OpenAI API")[0] == "passed"
    assert outcome(found, "Perplexity API Key")[0] == "passed"
    assert outcome(found, "Perplexity API") == (
        "failed",
        "HTTP 429, rate limited: wait before the next attempt (Retry-After: 17) (optional service)",
    )


def test_service_without_the_route(light: Place, providers: Providers) -> None:
    """A compatible service without the route is unknown, a fault of the service's own a warning: neither blocks."""
    providers.openai = Answer(404)
    providers.perplexity = Answer(500)
    started = light.run(*AT_ONCE, "--format", "json")
    assert started.process.returncode == 0
    found = section(started)
    assert found["status"] == "warnings"
    assert outcome(found, "OpenAI API Key")[0] == "passed"
    assert outcome(found, "OpenAI API")[0] == "unknown"
    assert "has no such route (HTTP 404)" in outcome(found, "OpenAI API")[1]
    assert outcome(found, "Perplexity API") == ("failed", "Perplexity answered HTTP 500 (optional service)")


def test_services_that_cannot_be_reached(light: Place) -> None:
    """A refused connection and a name that does not resolve are told apart, and a key stays good without a reply."""
    refusing = f"http://127.0.0.1:{light.port}/v1"
    started = light.run(
        *AT_ONCE, "--format", "json", OPENAI_BASE_URL=refusing, PERPLEXITY_BASE_URL="http://nowhere.invalid"
    )
    assert started.process.returncode == 0
    found = section(started)
    assert outcome(found, "OpenAI API") == ("unknown", f"127.0.0.1:{light.port}: connection refused")
    assert outcome(found, "Perplexity API")[0] == "unknown"
    assert outcome(found, "OpenAI API Key") == ("passed", "from the env file, not verified: connection refused")


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


@pytest.fixture
def swallowing() -> Iterator[int]:
    """A port whose backlog is full, so that packets to it are dropped."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        clients = []
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(server.getsockname())
            clients.append(client)
        yield server.getsockname()[1]
        for client in clients:
            client.close()


@pytest.mark.parametrize("kind", ["silent", "swallowing"])
def test_services_that_do_not_answer(light: Place, request: pytest.FixtureRequest, kind: str) -> None:
    """Both services keep silent, and both are asked at once: the deadlines run side by side, and nothing blocks."""
    port = request.getfixturevalue(kind)
    url = f"http://127.0.0.1:{port}"
    started = light.start(*AT_ONCE, "--format", "json", OPENAI_BASE_URL=url, PERPLEXITY_BASE_URL=url)
    # benchmarks/ measures the time; that neither waits for the other's deadline is a matter of order.
    until(lambda: started.asking(port) == 2, "both are being asked")
    assert started.wait() == 0
    found = section(started)
    for title in ("OpenAI API", "Perplexity API"):
        assert outcome(found, title)[0] == "unknown"
        assert "no answer within 2 s" in outcome(found, title)[1]


def test_offline(light: Place, providers: Providers) -> None:
    """--offline asks nobody: what needs the network is not applicable, and keys only have to be there."""
    started = light.run(*AT_ONCE, "--offline", "--format", "json")
    assert started.process.returncode == 0
    found = section(started)
    assert outcome(found, "OpenAI API") == ("not_applicable", "left out by --offline")
    assert outcome(found, "OpenAI API Key")[0] == "passed"
    assert providers.requests == []


# --ignore.


def test_ignored(light: Place) -> None:
    """--ignore takes titles, however they are written, and ids: a failure is shown and marked, and does not block."""
    names = ("Python Version", "openai api key", "preflight/requirements/test_environment.py::test_environment_file")
    light.env_file.unlink()
    started = light.run(*AT_ONCE, *(f"--ignore={name}" for name in names), PREFLIGHT_PYTHON=">=3.99")
    assert started.process.returncode == 0, started.output
    banner = " ".join(started.stdout.partition(" WARNING")[2].split())
    assert "Python Version (ignored) ignored by --ignore: requires Python >=3.99" in banner
    for title in ("Python Version", "OpenAI API Key", "Environment File"):
        assert light.check(title)["outcome"] == "ignored", title


def test_ignoring_one_does_not_ignore_another(light: Place) -> None:
    """What was not named still blocks."""
    light.write_env_file()
    started = light.run(*AT_ONCE, "--ignore", "Python Version", PREFLIGHT_PYTHON=">=3.99")
    assert started.process.returncode == 1
    assert f"1 CRITICAL ERROR: {BLOCKED}" in started.stdout


@pytest.mark.parametrize(
    "name, message",
    [
        ("Nonsense", "--ignore Nonsense: there is no such requirement"),
        ("Pyton Version", "there is no such requirement; did you mean 'Python Version'?"),
        ("Server Port", "--ignore Server Port: this requirement cannot be ignored"),
        ("Application", "--ignore Application: this requirement cannot be ignored"),
    ],
)
def test_not_ignorable(light: Place, name: str, message: str) -> None:
    """--ignore of what is not there or is protected is wrong usage: exit code 2, one line that says which."""
    started = light.run(*AT_ONCE, "--ignore", name)
    assert started.process.returncode == 2
    assert message in started.output
    assert "Traceback" not in started.output


# The port.


def test_says_what_a_start_would_stop(light: Place) -> None:
    """A listener that a start would stop lives on, is named, and the check passes."""
    holder = light.listener()
    started = light.run(*AT_ONCE)
    assert started.process.returncode == 0
    assert "a start would stop " in started.stdout
    assert f"(PID {holder.pid}, user " in started.stdout.partition("a start would stop")[2]
    assert "SIGTERM" not in started.output
    assert holder.process.poll() is None
    assert listening(light.port)


def test_port_that_a_start_could_not_have(light: Place) -> None:
    """With --no-cleanup a busy port blocks the check as it would block the start."""
    holder = light.listener()
    started = light.run(*AT_ONCE, "--no-cleanup")
    assert started.process.returncode == 1
    assert f"Fix: kill {holder.pid}" in " ".join(started.stdout.split())
    assert holder.process.poll() is None


def test_only_what_the_environment_has(place: Place, providers: Providers) -> None:
    """A variable of the environment wins over the env file's, which is what the service is asked with."""
    place.write_env_file(**KEYS)
    place.environ |= {"PREFLIGHT_PYTHON": ">=3.11", **providers.variables, "OPENAI_API_KEY": "sk-of-the-environment"}
    started = place.run(*AT_ONCE)
    assert started.process.returncode == 0
    assert ("/openai/v1/models", "Bearer sk-of-the-environment") in providers.requests
    assert place.check("OpenAI API Key")["details"]["source"] == "environment"
