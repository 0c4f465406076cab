"""Reports: what gets into one, the verdict that fails closed, and the file that others read."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from preflight import times
from preflight.redaction.redactor import MASK, Redactor
from preflight.report import building
from preflight.report import model as report
from preflight.report.model import Check, Report, ReportError

KEY = "sk-canary-3f9a1c77e2Zq"
ROOT = Path(__file__).parents[1]
RUN = "0123456789abcdef" * 2
SCHEMA = json.loads(report.SCHEMA_FILE.read_text(encoding="utf-8"))

MakeCheck = Callable[..., Check]
MakeReport = Callable[..., Report]


def valid(found: Report) -> None:
    """The report keeps to the JSON Schema that ships with the package, and comes back as it was."""
    text = json.dumps(found.to_json(), allow_nan=False)
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(text))
    assert Report.from_json(json.loads(text)) == found


# What blocks.


@pytest.mark.parametrize("outcome", report.OUTCOMES)
@pytest.mark.parametrize("severity", report.SEVERITIES)
def test_outcomes(make_check: MakeCheck, make_report: MakeReport, severity: str, outcome: str) -> None:
    """The table of outcomes in docs/report.md: which block if critical, which are shown yellow, which are neither."""
    check = make_check(outcome=outcome, severity=severity)
    blocks = severity == "critical" and outcome in ("failed", "error", "timeout", "skipped")
    assert check.blocks == blocks
    assert check.warns == (not blocks and outcome not in ("passed", "not_applicable"))
    found = make_report(make_check("Another"), check)
    assert found.status == ("failed" if blocks else "warnings" if check.warns else "passed")
    assert found.may_start != blocks
    assert report.verdict(found, run_id=RUN, exit_code=0) == (not blocks, "")
    assert found.summary["total"] == 2
    valid(found)


def test_scopes(make_check: MakeCheck, make_report: MakeReport) -> None:
    """What all instances share blocks a start, and does not take an instance that serves out of service.

    It does as soon as something else blocks as well, or nobody knows what does.
    """
    shared, own = make_check("Shared", "failed", scope="fleet"), make_check("Own", "failed")
    held = make_check("Held", scope="fleet")
    found = make_report(held, shared)
    assert (found.status, found.may_start, found.gates) == ("failed", False, False)
    assert report.verdict(found, run_id=RUN, exit_code=1) == (False, "")
    valid(found)
    both = make_report(shared, own)
    assert (both.may_start, both.gates) == (False, True)
    assert (make_report(held).may_start, make_report(held).gates) == (True, False)
    nothing = make_report(make_check(severity="warning"))
    assert (nothing.blocking, nothing.may_start, nothing.gates) == ((), False, True)


def test_a_report_without_scopes_is_as_before(make_check: MakeCheck, make_report: MakeReport) -> None:
    """A release that knows no scopes refuses a check with one: it stands only where somebody uses it."""
    checks = make_report(make_check("A"), make_check("B", scope="fleet")).to_json()["preflight"]["checks"]
    assert ["scope" in check for check in checks] == [False, True]


# The verdict, against every way of FINDINGS.


def test_good_run(make_report: MakeReport) -> None:
    """A complete run in which every critical passed may start."""
    found = make_report()
    assert found.status == "passed"
    assert report.verdict(found, run_id=RUN, exit_code=0) == (True, "")


@pytest.mark.parametrize("exit_code", [None, 2, 3, 4, 5, -9, -11, 127])
def test_exit_code_of_the_process(make_report: MakeReport, exit_code: int | None) -> None:
    """A perfect report from a process that ended otherwise than pytest with 0 or 1 is worth nothing."""
    may_start, why = report.verdict(make_report(), run_id=RUN, exit_code=exit_code)
    assert not may_start
    assert why == f"the suite ended with exit code {exit_code}"


def test_exit_code_of_a_failure(make_check: MakeCheck, make_report: MakeReport) -> None:
    """Python ends with 1 as well, on an exception that nobody has caught: the report has to have a failure."""
    good = make_report(make_check(), make_check("B", "unknown"), make_check("C", "ignored"))
    may_start, why = report.verdict(good, run_id=RUN, exit_code=1)
    assert (may_start, why) == (False, "the suite ended with exit code 1, and its report has nothing that failed")
    warned = make_report(make_check(), make_check("B", "failed", severity="warning"))
    assert report.verdict(warned, run_id=RUN, exit_code=1) == (True, "")


def test_stale_report(make_report: MakeReport) -> None:
    """Another run's report, however good, is not this run's."""
    assert report.verdict(make_report(), run_id="f" * 32, exit_code=0) == (False, "the report is from another run")


@pytest.mark.parametrize("exit_code", [2, 3, 4, 5, None])
def test_exit_code_in_the_document(make_report: MakeReport, exit_code: int | None) -> None:
    """Interrupted, internal error, usage, nothing collected: broken, although every check passed."""
    found = make_report(document={"exitcode": exit_code})
    assert (found.status, found.may_start) == ("broken", False)
    assert report.verdict(found, run_id=RUN, exit_code=0) == (False, f"pytest ended with exit code {exit_code}")
    valid(found)


@pytest.mark.parametrize(
    "summary,message",
    [
        ({"collected": 2, "total": 1}, "2 requirements were collected and 1 ran"),
        ({"collected": 1, "total": 2}, "1 requirement was collected and 1 ran"),
        ({"collected": 2, "total": 2}, "2 requirements were collected and 1 ran"),
        ({}, "0 requirements were collected and 0 ran"),
    ],
    ids=["-x", "more than collected", "a check is missing", "empty summary"],
)
def test_not_all_ran(make_report: MakeReport, summary: dict[str, int], message: str) -> None:
    """Ran == collected == checks, or the run is broken."""
    found = make_report(document={"summary": summary})
    assert report.verdict(found, run_id=RUN, exit_code=0) == (False, message)


def test_empty_suite(make_report: MakeReport) -> None:
    """A collection error leaves ``tests: []`` and pytest content: broken."""
    found = building.build(
        {"exitcode": 0, "summary": {}, "tests": []},
        [],
        redactor=Redactor(),
        run_id=RUN,
        origin="start",
        selection="all",
        address="127.0.0.1:8002",
        started_at=times.now(),
    )
    assert (found.status, found.reason) == ("broken", "the suite is empty")
    assert report.verdict(found, run_id=RUN, exit_code=0) == (False, "the suite is empty")
    valid(found)


def test_no_critical(make_check: MakeCheck, make_report: MakeReport) -> None:
    """A suite of warnings alone says nothing about a start."""
    found = make_report(make_check(severity="warning"))
    assert report.verdict(found, run_id=RUN, exit_code=0) == (False, "the suite has no critical requirement")


def test_problems(make_report: MakeReport) -> None:
    """Reasons not to trust the run at all break it, redacted and named together."""
    found = make_report(problems=["test_x.py: cannot be collected: " + KEY, "another"], redactor=Redactor([KEY]))
    assert found.reason == f"test_x.py: cannot be collected: {MASK}; another"
    assert report.verdict(found, run_id=RUN, exit_code=1) == (False, found.reason)
    valid(found)


def test_selection(make_check: MakeCheck, make_report: MakeReport) -> None:
    """A part of the suite has a report that CI can read, and never starts a server."""
    document = {"summary": {"collected": 5, "deselected": 4, "total": 1}}
    found = make_report(document=document, selection="critical")
    assert (found.status, found.may_start) == ("passed", True)
    assert report.verdict(found, run_id=RUN, exit_code=0) == (False, "only a part of the suite ran (critical)")
    warnings = make_report(make_check(severity="warning"), document=document, selection="warning")
    assert (warnings.status, warnings.may_start) == ("passed", False)
    assert not report.verdict(warnings, run_id=RUN, exit_code=0)[0]


def test_verdict_does_not_believe_may_start(make_check: MakeCheck, make_report: MakeReport) -> None:
    """A document that contradicts itself does not start anything."""
    section = make_report(make_check(outcome="failed")).to_json()
    section["preflight"] |= {"may_start": True, "status": "passed"}
    assert report.verdict(Report.from_json(section), run_id=RUN, exit_code=0) == (False, "")
    good = make_report().to_json()
    good["preflight"]["may_start"] = False
    assert report.verdict(Report.from_json(good), run_id=RUN, exit_code=0) == (False, "")
    none = make_report().to_json()
    none["preflight"]["checks"] = []
    assert not report.verdict(Report.from_json(none), run_id=RUN, exit_code=0)[0]


def test_broken_stands_in_its_place() -> None:
    """A run that left no report has one that says so."""
    found = report.broken(
        "it was killed\x1b", run_id=RUN, origin="check", address="[::1]:1", started_at=times.now(), duration=1.23456789
    )
    assert (found.status, found.may_start, found.reason) == ("broken", False, "it was killed?")
    assert report.verdict(found, run_id=RUN, exit_code=0) == (False, "it was killed?")
    valid(found)


# What gets into a report.


def test_redacted_everywhere(make_check: MakeCheck, make_report: MakeReport) -> None:
    """A key is in no text of a report, wherever a requirement put it, nor its first or last eight characters."""
    check = make_check(
        KEY,
        "failed",
        id=f"test_x.py::test_y[{KEY}]",
        requirement=KEY,
        message="x" * 1990 + KEY + "\nsecond line",
        fix=f"use {KEY}",
        details={KEY: [KEY, {"a": (KEY,), "set": {KEY}}], "path": Path("/") / KEY},
    )
    found = make_report(check, redactor=Redactor([KEY]), problems=[KEY], selection=KEY)
    text = json.dumps(found.to_json())
    assert KEY[:8] not in text
    assert KEY[-8:] not in text
    assert found.checks[0].details["path"] == f"/{MASK}"
    valid(found)


def test_tests_own_texts_stay_out(make_report: MakeReport) -> None:
    """Of pytest-json-report's document only what ran and how it ended is kept: no captured output, no traceback."""
    stage = {"duration": 0.1, "outcome": "failed", "longrepr": KEY, "crash": {"message": KEY}, "stdout": KEY}
    test = {"nodeid": "a", "lineno": 3, "outcome": "failed", "keywords": [KEY], "call": stage, "user_properties": [KEY]}
    found = make_report(document={"tests": [test], "environment": {"KEY": KEY}, "root": "/home/me", "collectors": []})
    assert found.document["tests"] == [
        {"nodeid": "a", "lineno": 3, "outcome": "failed", "call": {"duration": 0.1, "outcome": "failed"}}
    ]
    assert found.document.keys() == {"created", "duration", "exitcode", "summary", "tests"}
    valid(found)


def test_message_is_one_line(make_check: MakeCheck, make_report: MakeReport) -> None:
    """Of a message the first line that says something; too long a one is shortened after redaction."""
    found = make_report(make_check(outcome="failed", message="\n  found 1\r\nassert 1 == 2", fix="a\nb")).checks[0]
    assert (found.message, found.fix) == ("found 1", "a")
    long = make_report(make_check(outcome="failed", message="m" * 5000, fix="f" * 5000))
    assert long.checks[0].message == "m" * 2000 + " …"
    valid(long)


def test_what_a_terminal_would_obey(make_check: MakeCheck, make_report: MakeReport) -> None:
    """Control characters of a process's name or a service's header, and bytes that are no UTF-8, become a ?."""
    evil = "\x1b]0;title\x07\x9b31m\udcff"
    check = make_check(f"T{evil}", "failed", message=evil, fix=evil, details={evil: [evil], "text": "a\tb\nc"})
    found = make_report(check, selection=evil)
    text = json.dumps(found.to_json(), ensure_ascii=False)
    text.encode()
    assert "\\u" not in text
    assert "\x9b" not in text
    assert found.checks[0].message == "?]0;title??31m?"
    assert found.checks[0].details == {"?]0;title??31m?": ["?]0;title??31m?"], "text": "a\tb\nc"}
    valid(found)


def test_details_that_are_no_json(make_check: MakeCheck, make_report: MakeReport) -> None:
    """Details become JSON that every reader takes; far too many are left out."""
    odd = make_check(details={"path": Path("/x"), "inf": float("inf"), "nan": float("nan"), "bytes": b"b", 3: None})
    found = make_report(odd)
    assert found.checks[0].details == {"path": "/x", "inf": "Infinity", "nan": "NaN", "bytes": "b'b'", "3": None}
    valid(found)
    many = make_report(make_check(details={"lines": ["x" * 100] * 300}))
    assert many.checks[0].details == {"left_out": "more than 20000 characters"}


@pytest.mark.parametrize("nodeid", [report.DEPENDENCIES, report.SERVER_PORT, report.STATE_FOLDER])
def test_ids_that_code_looks_for(nodeid: str) -> None:
    """They are those of requirements."""
    file, name = nodeid.split("::")
    assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE)


def test_facts(make_check: MakeCheck, make_report: MakeReport) -> None:
    """A report says where and when, counts what happened, and finds a check by its id."""
    found = make_report(make_check("A"), make_check("B", "failed"), make_check("C", "failed", severity="warning"))
    assert found.summary == {"passed": 1, "failed": 2, "total": 3}
    assert [check.title for check in found.blocking] == ["B"]
    assert [check.title for check in found.warnings] == ["C"]
    assert found.check(found.checks[2].id) is found.checks[2]
    assert found.check("C") is None
    assert found.duration == 0.25
    assert found.python.startswith("3.")
    assert os.uname().nodename not in found.machine.split()


# The file.


def test_publish(make_report: MakeReport, tmp_path: Path) -> None:
    """A report is its owner's alone, in a folder of its own, and nothing else is left there."""
    path = tmp_path / "a" / "report.json"
    before = os.umask(0)
    try:
        report.publish(make_report(), path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["report.json"]
    assert report.load(path) == make_report()
    jsonschema.validate(json.loads(path.read_text(encoding="utf-8")), SCHEMA)


def test_publish_replaces(make_report: MakeReport, tmp_path: Path) -> None:
    """An old report is replaced by a new file: whoever has the old one open reads it to its end."""
    path = tmp_path / "report.json"
    path.write_text("old")
    path.chmod(0o644)
    with path.open() as old:
        report.publish(make_report(), path)
        assert old.read() == "old"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert report.load(path).run_id == RUN


def test_publish_follows_no_link(make_report: MakeReport, tmp_path: Path) -> None:
    """A link where the report belongs is replaced and what it points to left alone."""
    target = tmp_path / "target"
    target.write_text("mine")
    path = tmp_path / "report.json"
    path.symlink_to(target)
    report.publish(make_report(), path)
    assert target.read_text() == "mine"
    assert not path.is_symlink()


def test_publish_and_planted_files(make_report: MakeReport, tmp_path: Path) -> None:
    """A link under the temporary name is an error, not a way to somebody else's file."""
    target = tmp_path / "target"
    path = tmp_path / "report.json"
    (tmp_path / f".report.json.{RUN}.{os.getpid()}").symlink_to(target)
    with pytest.raises(FileExistsError):
        report.publish(make_report(), path)
    assert not target.exists()
    assert not path.exists()


def test_publish_fails_whole(make_report: MakeReport, make_check: MakeCheck, tmp_path: Path) -> None:
    """What cannot be written is an OSError, and leaves the old report and no rest of the new one."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        report.publish(make_report(), tmp_path / "file" / "report.json")
    folder = tmp_path / "report.json"
    folder.mkdir()
    with pytest.raises(IsADirectoryError):
        report.publish(make_report(), folder)
    path = tmp_path / "other.json"
    report.publish(make_report(), path)
    bad = Report(**{**{name: getattr(make_report(), name) for name in Report.__slots__}, "reason": object()})
    with pytest.raises(TypeError):
        report.publish(bad, path)
    assert report.load(path) == make_report()
    assert sorted(os.listdir(tmp_path)) == ["file", "other.json", "report.json"]


def change(**section: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["preflight"].update(section)


def change_check(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["preflight"]["checks"][0].update(values)


@pytest.mark.parametrize(
    "damage,message",
    [
        (lambda d: d.pop("preflight"), "no preflight section"),
        (lambda d: d.update(preflight=[]), "no preflight section"),
        (change(schema=2), "schema is not 1"),
        (lambda d: d["preflight"].pop("run_id"), "does not conform to the schema"),
        (lambda d: d["preflight"].pop("checks"), "does not conform to the schema"),
        (change(checks=3), "does not conform to the schema"),
        (change(checks=["x"]), "does not conform to the schema"),
        (change(more=1), "does not conform to the schema"),
        (change(may_start="yes"), "may_start is not of type bool"),
        (change(duration="long"), "duration is not of type float"),
        (change(address=None), "address is not of type str"),
        (change(started_at="yesterday"), "started_at is not a UTC time"),
        (change(origin="elsewhere"), "origin or a status"),
        (change(status="fine"), "origin or a status"),
        (change_check(outcome="fine"), "severity or an outcome"),
        (change_check(severity="both"), "severity or an outcome"),
        (change_check(scope="galaxy"), "a scope that does not exist"),
        (change_check(details=[]), "details is not an object"),
        (change_check(title=3), "title is not of type str"),
        (change_check(more=1), "does not conform to the schema"),
    ],
    ids=[
        "no section",
        "section",
        "schema",
        "no run id",
        "no checks",
        "checks",
        "check",
        "unknown field",
        "may start",
        "duration",
        "address",
        "time",
        "origin",
        "status",
        "outcome",
        "severity",
        "scope",
        "details",
        "title",
        "unknown in a check",
    ],
)
def test_load_refuses(
    make_report: MakeReport, tmp_path: Path, damage: Callable[[dict[str, Any]], object], message: str
) -> None:
    """A file that is JSON and no report of ours is refused in one line that names it; the schema refuses it, too."""
    document = json.loads(json.dumps(make_report().to_json()))
    damage(document)
    path = tmp_path / "report.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ReportError) as caught:
        report.load(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(document)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'"text"', b"null", b'{"preflight": {"schema": 1, "duration": NaN}}'],
    ids=["empty", "cut", "binary", "deep", "text", "null", "nan"],
)
def test_load_corrupt(tmp_path: Path, content: bytes) -> None:
    """A corrupt file is a ReportError and nothing worse."""
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(ReportError):
        report.load(path)


def test_a_corrupt_report_is_set_aside(tmp_path: Path, make_report: MakeReport) -> None:
    """It is renamed and said; of many the latest are kept; one of another version and a good one stay."""
    path = tmp_path / "report.json"
    for number in range(1, report.CORRUPT_KEPT + 3):
        path.write_text("{" * number)
        with pytest.raises(ReportError, match=r"is not valid JSON.*; it was renamed to report\.json\.corrupt-[123]$"):
            report.load_or_set_aside(path)
        os.utime(max(tmp_path.iterdir(), key=lambda file: file.stat().st_mtime_ns), (number, number))
    kept = {file.name: len(file.read_text()) for file in tmp_path.iterdir()}
    assert kept == {"report.json.corrupt-1": 4, "report.json.corrupt-2": 5, "report.json.corrupt-3": 3}
    report.publish(make_report(), path)
    assert report.load_or_set_aside(path) == make_report()
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(ReportError, match=r"its schema is not 1$"):
        report.load_or_set_aside(path)
    assert path.exists()


def test_a_good_report_is_not_set_aside(
    tmp_path: Path, make_report: MakeReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that another process publishes between the look and the renaming stays the current one."""
    path = tmp_path / "report.json"
    path.write_text("{")
    rename = os.replace

    def publish_first(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "replace", rename)
        report.publish(make_report(), path)
        os.replace(source, target)

    monkeypatch.setattr(os, "replace", publish_first)
    with pytest.raises(ReportError):
        report.load_or_set_aside(path)
    assert report.load(path) == make_report()
    assert os.listdir(tmp_path) == ["report.json"]


@pytest.mark.needs_root("nobody else can make another user's file")
def test_load_another_users(tmp_path: Path, make_report: MakeReport) -> None:
    """Somebody else's report is not believed, and nor is one behind a link."""
    path = tmp_path / "report.json"
    report.publish(make_report(), path)
    (tmp_path / "link.json").symlink_to(path)
    with pytest.raises(ReportError, match="is a symbolic link"):
        report.load(tmp_path / "link.json")
    os.chown(path, 65534, 65534)
    with pytest.raises(ReportError, match="belongs to another user"):
        report.load(path)


def test_load_missing_and_huge(tmp_path: Path) -> None:
    """A missing file, a folder and a far too large file are ReportErrors that say so."""
    with pytest.raises(ReportError, match="No such file"):
        report.load(tmp_path / "none")
    with pytest.raises(ReportError, match="directory"):
        report.load(tmp_path)
    with (tmp_path / "huge").open("wb") as stream:
        stream.truncate(report.LARGEST + 1)
    with pytest.raises(ReportError, match="more than"):
        report.load(tmp_path / "huge")


def test_schema_is_one() -> None:
    """The schema is a valid one, and names the same words as the code."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    check, section = SCHEMA["$defs"]["check"]["properties"], SCHEMA["properties"]["preflight"]["properties"]
    assert tuple(check["outcome"]["enum"]) == report.OUTCOMES
    assert tuple(check["severity"]["enum"]) == report.SEVERITIES
    assert tuple(check["scope"]["enum"]) == report.SCOPES
    assert tuple(section["origin"]["enum"]) == report.ORIGINS
    assert tuple(section["status"]["enum"]) == report.STATUSES
    assert set(check) == set(Check.__slots__)
    assert set(section) == set(Report.__slots__) - {"document"} | {"schema"}


def test_broken_may_never_start(make_report: MakeReport) -> None:
    """The schema refuses a report that failed and may start."""
    document = make_report().to_json()
    document["preflight"] |= {"status": "failed"}
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(json.loads(json.dumps(document)))
