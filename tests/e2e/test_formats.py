"""One snapshot in many formats: over HTTP by Accept or ?format=, on the command line by --format."""

from __future__ import annotations

import http.client
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.e2e.place import BLOCKED, Place
from tests.waiting import PATIENCE, until

AT_ONCE = ("--check-only", "--offline")
MEMORY = {"PREFLIGHT_MEMORY": "900 TiB"}


@dataclass
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(place: Place, path: str, method: str = "GET", **headers: str) -> Reply:
    """One request with these headers and no others."""
    connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=PATIENCE)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return Reply(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def test_over_http(place: Place) -> None:
    """What an instance of the demo profile answers that started with a warning."""
    instance = place.serve(**MEMORY).until_ready()
    for ask_it in (
        json_by_default,
        text,
        health_json,
        format_wins_over_accept,
        unknown_format,
        head_and_other_methods,
        entity_tag,
        many_at_once,
    ):
        ask_it(place)
    assert instance.stop() == 0


def json_by_default(served: Place) -> None:
    """No Accept, */*, JSON, and what nobody can make: JSON, and 200."""
    for accept in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}, {"Accept": "image/png"}):
        reply = ask(served, "/diagnostics", **accept)
        assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
        assert reply.json["status"] == "warnings"
        assert reply.headers["Cache-Control"] == "no-store"
        assert "accept" in reply.headers["Vary"]


def text(served: Place) -> None:
    """The banner without colour."""
    for reply in (ask(served, "/diagnostics?format=text"), ask(served, "/diagnostics", Accept="text/plain")):
        assert (reply.status, reply.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
        text = reply.body.decode()
        assert "1 WARNING" in text
        assert re.search(r"^\d+ requirements: ", text, re.MULTILINE)
        assert "\x1b" not in text


def health_json(served: Place) -> None:
    """The health-check draft's document."""
    for reply in (
        ask(served, "/diagnostics?format=health"),
        ask(served, "/diagnostics", Accept="application/health+json, */*;q=0.1"),
    ):
        assert (reply.status, reply.headers["Content-Type"]) == (200, "application/health+json")
        assert reply.json["status"] == "warn"
        assert reply.json["checks"]["Memory"][0]["status"] == "warn"
        assert reply.json["checks"]["Python Version"][0]["status"] == "pass"


def format_wins_over_accept(served: Place) -> None:
    """?format= is what somebody typed."""
    reply = ask(served, "/diagnostics?x=1&format=text", Accept="application/json")
    assert reply.headers["Content-Type"].startswith("text/plain")


def unknown_format(served: Place) -> None:
    """400, with those that there are."""
    for query in ("format=xml", "format=", "format=JSON"):
        reply = ask(served, f"/diagnostics?{query}")
        assert reply.status == 400, query
        assert reply.json["error"].startswith("format must be one of json, text, health")


def head_and_other_methods(served: Place) -> None:
    """HEAD has the headers and no body; what changes something is not allowed here."""
    for path in ("/diagnostics", "/health", "/health/live", "/health/ready"):
        whole, head = ask(served, path), ask(served, path, "HEAD")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["Content-Type"] == whole.headers["Content-Type"]
        assert ask(served, path, "POST").status == 405


def entity_tag(served: Place) -> None:
    """The tag stands for the run, not for its age: 304 later on, 200 with another tag after another run."""
    first = ask(served, "/diagnostics")
    etag = first.headers["ETag"]
    assert etag.startswith('W/"')
    older = first.json["age_seconds"] + 1
    until(lambda: ask(served, "/diagnostics").json["age_seconds"] >= older, "the ages are others")
    assert ask(served, "/diagnostics").headers["ETag"] == etag
    for header in (etag, etag.removeprefix("W/"), f'"other", {etag}', "*"):
        same = ask(served, "/diagnostics", If_None_Match=header)
        assert (same.status, same.body) == (304, b"")
        assert same.headers["ETag"] == etag
    assert ask(served, "/diagnostics", If_None_Match='"other"').status == 200
    tags = {ask(served, f"/diagnostics?format={name}").headers["ETag"] for name in ("json", "text", "health")}
    assert len(tags) == 3
    served.run("--check-only", "--demo", "--app", "small:app", **MEMORY)
    changed = ask(served, "/diagnostics", If_None_Match=etag)
    assert changed.status == 200
    assert changed.json["run_id"] == served.report()["run_id"]
    assert ask(served, "/diagnostics?format=text", If_None_Match=next(iter(tags))).status == 200


def many_at_once(served: Place) -> None:
    """200 requests for every format at once: each is answered whole, and no run is made."""
    runs = len(list((served.state / "history").iterdir()))
    wanted = ["application/json", "text/plain", "application/health+json", "*/*"] * 50
    with ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(lambda accept: ask(served, "/diagnostics", Accept=accept), wanted))
    assert {reply.status for reply in replies} == {200}
    assert all(len(reply.body) == int(reply.headers["Content-Length"]) for reply in replies)
    assert len(list((served.state / "history").iterdir())) == runs


def test_the_status_does_not_depend_on_the_format(place: Place) -> None:
    """After a check that blocks beside it the server still answers 200 in every format, and says fail in it."""
    started = place.serve().until_ready()
    assert place.run("--check-only", "--offline").process.returncode == 1
    assert ask(place, "/diagnostics").json["status"] == "failed"
    text = ask(place, "/diagnostics?format=text")
    assert (text.status, BLOCKED in text.body.decode()) == (200, True)
    health = ask(place, "/diagnostics?format=health")
    assert (health.status, health.json["status"]) == (200, "fail")
    assert ask(place, "/health").status == 200  # what others run is not this instance's
    assert started.stop() == 0


def test_without_a_run(place: Place) -> None:
    """PREFLIGHT_SKIP: nothing is known, in every format."""
    import sys

    started = place.spawn(
        *(sys.executable, "-m", "uvicorn", "agentless:app", "--port", str(place.port)),
        environ={"PREFLIGHT_SKIP": "1", "PREFLIGHT_DEMO": "1", "PREFLIGHT_PORT": str(place.port)},
    )
    started.until_says("Uvicorn running")
    assert ask(place, "/diagnostics").json["status"] == "not run"
    assert ask(place, "/diagnostics?format=text").body == b"no suite has run for this instance\n"
    assert ask(place, "/diagnostics?format=health").json["status"] == "warn"
    assert ask(place, "/diagnostics/history").json == []
    assert ask(place, "/diagnostics/checks/Memory").status == 404
    started.stop()


BEGINS = {
    "json": "{",
    "text": "Preflight: blocked",
    "junit": "<?xml",
    "github": "::error ",
    "markdown": "## Preflight: blocked",
}


def test_on_the_command_line(project: Place) -> None:
    """Each format alone on standard output, with the exit code and the report that the banners would come with."""
    project.write_suite((project.root / "preflight" / "requirements" / "test_python.py").read_text())
    command = (*AT_ONCE, "--app", "small:app")
    project.environ["PREFLIGHT_REQUIREMENT_TIMEOUT"] = "60s"  # a busy machine may stand still for a while
    for name, begins in BEGINS.items():
        blocked = project.run(*command, "--format", name, PREFLIGHT_PYTHON=">=3.99")
        assert blocked.process.returncode == 1, blocked.output
        assert blocked.stderr == ""
        assert project.report()["may_start"] is False
        found = blocked.stdout.replace("&gt;", ">").replace("&#62;", ">").replace("\\>", ">")
        assert "requires Python >=3.99" in found, name
        assert blocked.stdout.startswith(begins)
        if name == "junit":
            suite = ElementTree.fromstring(blocked.stdout.encode())[0]
            assert suite.attrib["failures"] == "1"
        passed = project.run(*command, "--format", name, PREFLIGHT_PYTHON=">=3.11")
        assert passed.process.returncode == 0, passed.output
        assert project.report()["may_start"] is True


def test_annotations_of_a_project_below_the_repository(project: Place) -> None:
    """On GitHub they lead to the requirement's file in the repository, which is there."""
    repository = project.root.parent
    options = ("--app", "small:app", "--format", "github")
    blocked = project.run(*AT_ONCE, *options, PREFLIGHT_PYTHON=">=3.99", GITHUB_WORKSPACE=str(repository))
    found = re.findall(r"file=([^,]+)", blocked.stdout)
    assert found
    assert all(file.startswith(f"{project.root.name}/preflight/") for file in found)
    assert all((repository / file).is_file() for file in found)


@pytest.mark.parametrize("name", ["text", "junit", "github", "markdown"])
def test_of_a_broken_suite(project: Place, name: str) -> None:
    """A suite that breaks is said in every format, with exit code 3."""
    project.write_suite("import os; os._exit(0)")
    started = project.run(*AT_ONCE, "--app", "small:app", "--format", name)
    assert started.process.returncode == 3
    assert "the suite ended without a report" in started.stdout


def test_utf8_whatever_the_locale(place: Place) -> None:
    """In a locale that knows ASCII alone the formats are UTF-8, as their readers expect."""
    ascii_alone = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    started = place.run(*AT_ONCE, "--app", "small:app", "--format", "markdown", **ascii_alone)
    assert started.process.returncode == 1
    assert "❌" in started.stdout


def test_wrong_usage(place: Place) -> None:
    """A format that is none, and formats where there is no report to write."""
    for options in (("--check-only", "--format", "xml"), ("--port-status", "--format", "junit"), ("--format", "text")):
        assert place.run(*options).process.returncode == 2
