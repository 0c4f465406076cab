"""Formats of other tools: each is valid in its own eyes, whatever texts a report holds, and none decides anything."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as tries
from hypothesis import strategies as st

from preflight import __version__
from preflight.report import formats
from preflight.report import model as report
from preflight.report.model import Check, Report
from preflight.times import local_of

MakeCheck = Callable[..., Check]
MakeReport = Callable[..., Report]
NASTY = "50% of `x` | <b>&amp;</b> a:b,c @all #1 ]]> ::error::no"


@pytest.fixture
def every(make_check: MakeCheck, make_report: MakeReport) -> Report:
    """A report with every outcome under both severities."""
    return make_report(
        *(
            make_check(
                f"{severity} {outcome}", outcome, severity=severity, message=f"found {outcome}", fix="mend it",
                id=f"preflight/requirements/test_it.py::test_{severity}_{outcome}", duration=0.25,
            )
            for severity in report.SEVERITIES
            for outcome in report.OUTCOMES
        )
    )  # fmt: skip


@pytest.fixture
def broken() -> Report:
    """The report of a run that left none."""
    return report.broken(
        "the suite ended without a report (SIGKILL)", run_id="r", origin="check", address="127.0.0.1:8002",
        started_at="2026-01-02T03:04:05Z", duration=0.5,
    )  # fmt: skip


# JUnit: what Jenkins' xunit plugin takes (its junit-10.xsd), written out.
CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"properties", "testcase", "system-out", "system-err"},
    "properties": {"property"},
    "testcase": {"skipped", "error", "failure", "system-out", "system-err"},
}
ATTRIBUTES = {
    "testsuites": ({"name", "time", "tests", "failures", "errors"}, set()),
    "testsuite": (
        {"name", "tests", "failures", "errors", "time", "skipped", "timestamp", "hostname", "id", "package"},
        {"name", "tests", "failures", "errors"},
    ),
    "property": ({"name", "value"}, {"name", "value"}),
    "testcase": ({"name", "time", "classname", "group"}, {"name"}),
    "skipped": ({"type", "message"}, set()),
    "error": ({"type", "message"}, set()),
    "failure": ({"type", "message"}, set()),
}


def valid_junit(text: str) -> ElementTree.Element:
    """Parse it, and hold it against the schema."""
    root = ElementTree.fromstring(text.encode())
    assert root.tag == "testsuites"
    for element in root.iter():
        allowed, needed = ATTRIBUTES.get(element.tag, (set(), set()))
        assert needed <= element.attrib.keys() <= allowed, element.tag
        assert {child.tag for child in element} <= CHILDREN.get(element.tag, set())
        if "time" in element.attrib:
            assert re.fullmatch(r"\d+\.\d{3}", element.attrib["time"])
    [suite] = root
    cases = suite.findall("testcase")
    assert suite.attrib["tests"] == str(len(cases)) == root.attrib["tests"]
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert suite.attrib[name] == str(sum(case.find(tag) is not None for case in cases))
    return root


def test_junit(every: Report) -> None:
    """What blocks is a failure or an error and nothing else is; what could not be asked is skipped, and says why."""
    root = valid_junit(formats.as_junit(every))
    kinds = {
        str(case.get("name")): case[0].tag if len(case) else "passed" for case in root.iter("testcase")
    }  # fmt: skip
    assert kinds == {
        "critical passed": "passed",
        "critical failed": "failure",
        "critical error": "error",
        "critical timeout": "error",
        "critical skipped": "failure",
        "critical unknown": "skipped",
        "critical not_applicable": "skipped",
        "critical ignored": "system-out",
        "warning passed": "passed",
        "warning failed": "system-out",
        "warning error": "system-out",
        "warning timeout": "system-out",
        "warning skipped": "system-out",
        "warning unknown": "skipped",
        "warning not_applicable": "skipped",
        "warning ignored": "system-out",
    }
    failure = root.find(".//testcase[@name='critical failed']/failure")
    assert failure is not None
    assert (failure.get("message"), failure.text) == ("found failed", "found failed\nFix: mend it")
    skipped = root.find(".//testcase[@name='warning not_applicable']/skipped")
    assert skipped is not None
    assert skipped.get("message") == "not applicable: found not_applicable"
    case = root.find(".//testcase")
    assert case is not None
    assert (case.get("classname"), case.get("time")) == ("preflight.requirements.test_it", "0.250")


def test_junit_of_a_broken_run(broken: Report) -> None:
    """A run without a trustworthy report is no empty, green suite: it is an error."""
    root = valid_junit(formats.as_junit(broken))
    error = root.find(".//testcase/error")
    assert error is not None
    assert error.get("message") == broken.reason


@tries(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(texts=st.lists(st.text(max_size=40), min_size=4, max_size=4))
@pytest.mark.slow
def test_any_text(make_check: MakeCheck, make_report: MakeReport, texts: list[str]) -> None:
    """Whatever a requirement says, every format stays valid and of one shape."""
    title, message, fix, ident = texts
    # Straight into a report: what report.build would have made harmless already comes as it is.
    check = make_check(title or "x", "failed", message=message, fix=fix, id=ident or "x")
    found = report.Report("r", "check", "failed", False, "2026-01-02T03:04:05Z", 0.1, "all", "127.0.0.1:8002", (check,))
    valid_junit(formats.as_junit(found).encode("utf-8", "replace").decode())
    json.loads(formats.as_json(found))
    json.loads(formats.as_health(found))
    commands = formats.as_github(found).split("\n")
    assert len(commands) == 2
    assert all(parsed(command) for command in commands)
    rows = [line for line in formats.as_markdown(found).split("\n") if line.startswith("|")]
    assert [line.count("|") for line in rows] == [7, 7, 7]
    assert formats.as_text(found)


def parsed(command: str) -> tuple[str, dict[str, str], str]:
    """A workflow command as GitHub's runner reads it."""
    match = re.fullmatch(r"::(error|warning|notice) ([^:]*)::([^\r\n]*)", command)
    assert match is not None, command

    def data(text: str) -> str:
        return (
            text.replace("%0D", "\r").replace("%0A", "\n").replace("%3A", ":").replace("%2C", ",").replace("%25", "%")
        )

    properties = dict(one.split("=", 1) for one in match[2].split(","))
    return match[1], {name: data(value) for name, value in properties.items()}, data(match[3])


def test_github(every: Report) -> None:
    """Errors are what blocks, a notice is what could not be found out, and good news need no annotation."""
    commands = [parsed(line) for line in formats.as_github(every).splitlines()]
    found = {properties["title"]: (level, message) for level, properties, message in commands}
    blocking = {"failed", "error", "timeout", "skipped"}
    for check in every.checks:
        if check.outcome in ("passed", "not_applicable"):
            assert check.title not in found
            continue
        level = "notice" if check.outcome == "unknown" else "warning"
        if check.severity == "critical" and check.outcome in blocking:
            level = "error"
        assert found[check.title] == (level, f"found {check.outcome}\nFix: mend it")
    assert commands[0][1]["file"] == "preflight/requirements/test_it.py"
    assert commands[0][1]["line"] == "2"  # the report counts from 0
    level, properties, message = commands[-1]
    assert (level, properties) == ("notice", {"title": "Preflight: blocked"})
    assert message.startswith("16 requirements: ")


@pytest.mark.parametrize(
    "workspace, root, file",
    [
        ("repository", "repository", "preflight/requirements/test_it.py"),
        ("repository", "repository/services/agent", "services/agent/preflight/requirements/test_it.py"),
        ("repository/", "repository/services/agent", "services/agent/preflight/requirements/test_it.py"),
        ("link", "repository/agent", "agent/preflight/requirements/test_it.py"),
        ("repository", "link/agent", "agent/preflight/requirements/test_it.py"),
        ("repository", "repository/50%, a: b", "50%, a: b/preflight/requirements/test_it.py"),
        ("repository/other", "repository/agent", "preflight/requirements/test_it.py"),
        ("repo", "repository/agent", "preflight/requirements/test_it.py"),
        ("", "repository/agent", "preflight/requirements/test_it.py"),
    ],
    ids=["top", "below", "slash", "link to it", "through a link", "characters", "beside", "prefix", "unset"],
)
def test_github_finds_files_by_their_path_in_the_repository(
    tmp_path: Path, every: Report, workspace: str, root: str, file: str
) -> None:
    """A project below the repository's top has its folder before it; one outside has its own paths."""
    (tmp_path / "repository").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "repository")
    (tmp_path / root).mkdir(parents=True, exist_ok=True)
    environment = {"GITHUB_WORKSPACE": f"{tmp_path}/{workspace}"} if workspace else {}
    commands = formats.render("github", every, tmp_path / root, environment).splitlines()
    assert {parsed(command)[1].get("file", file) for command in commands} == {file}


def test_github_of_a_requirement_beside_the_project(make_check: MakeCheck, make_report: MakeReport) -> None:
    """Its path is one of the repository, too."""
    found = make_report(replace(make_check("Beside", "failed"), id="../shared/test_it.py::test_it"))
    assert parsed(formats.as_github(found, "services/agent").splitlines()[0])[1]["file"] == "services/shared/test_it.py"


def test_github_escapes(make_check: MakeCheck, make_report: MakeReport) -> None:
    """Percent signs, colons, commas and line ends come back as they were."""
    found = make_report(make_check("a: b, 5%", "failed", message=NASTY))
    level, properties, message = parsed(formats.as_github(found).splitlines()[0])
    assert (level, properties["title"], message) == ("error", "a: b, 5%", NASTY)


def test_github_of_a_broken_run(broken: Report) -> None:
    """It is an error with the reason."""
    assert parsed(formats.as_github(broken).splitlines()[0])[::2] == ("error", broken.reason)


def test_markdown(every: Report) -> None:
    """One table, what blocks first, then warnings, then the rest."""
    lines = formats.as_markdown(every).splitlines()
    assert lines[0] == "## Preflight: blocked"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][2:]
    assert len(rows) == len(every.checks)
    assert rows[0][1:] == ["critical failed", "critical", "failed", "found failed", "<code>mend it</code>"]
    levels = [0 if check.blocks else 1 if check.warns else 2 for row in rows
              for check in every.checks if check.title == html.unescape(row[1])]  # fmt: skip
    assert levels == sorted(levels)
    assert lines[-1].startswith("16 requirements: ")


def test_markdown_escapes(make_check: MakeCheck, make_report: MakeReport) -> None:
    """A message is text there: no cell ends early, no code, no HTML, nobody is mentioned."""
    found = make_report(make_check("It", "failed", message=NASTY, fix=NASTY))
    row = next(line for line in formats.as_markdown(found).splitlines() if "It" in line)
    cells = row.strip("|").split("|")
    assert len(cells) == 6
    assert html.unescape(cells[4]).strip() == NASTY
    assert not set("`<>@[]") & set(cells[4])
    assert html.unescape(cells[5]).strip() == f"<code>{NASTY}</code>"


def test_text(every: Report) -> None:
    """The banner, with no colour and no blanks at line ends, whatever the environment asks for."""
    text = formats.as_text(every)
    assert text.splitlines()[:2] == [
        "Preflight: blocked",
        f"127.0.0.1:8002 · {local_of('2026-01-02T03:04:05Z')} · start · Python {every.python}",
    ]
    assert "must fix before proceeding" in text
    assert "   Fix: mend it" in text
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_text_of_a_coloured_terminal(every: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    """FORCE_COLOR and COLUMNS are about terminals."""
    plain = formats.as_text(every)
    for name, value in {"FORCE_COLOR": "1", "COLUMNS": "20", "TERM": "dumb", "CLICOLOR_FORCE": "1"}.items():
        monkeypatch.setenv(name, value)
    assert formats.as_text(every) == plain


def test_text_of_a_broken_run(broken: Report) -> None:
    """The banner that says so, and the reason."""
    text = formats.as_text(broken)
    assert text.startswith("Preflight: broke, no trustworthy report\n")
    assert "THE CHECK SUITE ITSELF FAILED: nothing was started" in text
    assert broken.reason in text
    rerun = formats.as_text(replace(broken, origin="rerun"))
    assert "nothing was started" not in rerun  # a server goes on


def test_text_says_that_all_is_well(make_report: MakeReport) -> None:
    """Who sees nothing else knows that nothing blocks."""
    assert formats.as_text(make_report()).startswith("Preflight: nothing blocks\n127.0.0.1:8002 · 2026-01-02")


@pytest.mark.parametrize(
    "outcome, severity, status",
    [
        ("passed", "critical", "pass"),
        ("failed", "warning", "warn"),
        ("unknown", "critical", "warn"),
        ("failed", "critical", "fail"),
        ("timeout", "critical", "fail"),
    ],
)
def test_health(make_check: MakeCheck, make_report: MakeReport, outcome: str, severity: str, status: str) -> None:
    """The draft's document: status of the whole and of each check; output only where there is something to say."""
    check = make_check("Disk: C", outcome, severity=severity, message="found", fix="mend it")
    body = json.loads(formats.as_health(make_report(make_check("Other"), check)))
    assert body["status"] == status
    assert (body["version"], body["releaseId"]) == (__version__.split(".")[0], __version__)
    assert body.keys() <= {"status", "version", "releaseId", "serviceId", "description", "notes", "output", "checks"}
    assert body["checks"].keys() == {"Other", "Disk - C"}  # a colon would begin a measurement's name
    [one] = body["checks"]["Disk - C"]
    assert one["status"] == status
    assert (one["componentType"], one["observedValue"], one["time"]) == ("system", outcome, "2026-01-02T03:04:05Z")
    assert ("output" in one) == (status != "pass")
    assert ("output" in body) == (status == "fail")


def test_health_without_a_good_run(broken: Report) -> None:
    """A broken run fails with its reason; no run at all is a warning, since nothing is known."""
    body = json.loads(formats.as_health(broken))
    assert (body["status"], body["output"]) == ("fail", broken.reason)
    assert json.loads(formats.as_health(None))["status"] == "warn"


def test_no_format_says_more_than_the_report(every: Report) -> None:
    """Details are in JSON alone: the other formats show what the banner shows."""
    secretive = report.Report.from_json(
        {**every.to_json(), "preflight": {**every.to_json()["preflight"], "machine": "machine-name-1234"}}
    )
    for name, render in formats.FORMATS.items():
        assert ("machine-name-1234" in render(secretive)) == (name == "json")
