"""The most recent report: real files, published by this server and by others."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from preflight import times
from preflight.redaction.redactor import Redactor
from preflight.report import model as report
from preflight.report.model import Check, Report
from preflight.web.instance import Instance
from preflight.web.snapshot import Snapshot

MakeReport = Callable[..., Report]
MakeInstance = Callable[..., Instance]
SECRET = "sk-canary-Zq7vXw2LmN8pRt4KdY6hJb3F"


@pytest.fixture
def path(home: Path) -> Path:
    (home / "state").mkdir()
    return home / "state" / "report.json"


def known(snapshot: Snapshot) -> Report | None:
    """The latest report, after a look."""
    asyncio.run(snapshot.look())
    return snapshot.latest()


def test_own_report_without_a_file(make_report: MakeReport, make_instance: MakeInstance, path: Path) -> None:
    """What the instance knows itself is enough."""
    own = make_report()
    assert known(Snapshot(make_instance(own))) is own
    assert known(Snapshot(make_instance(None))) is None


def test_newer_report_of_another_process(make_report: MakeReport, make_instance: MakeInstance, path: Path) -> None:
    """A newer report shows without a restart, labelled with its origin; an older one does not; it can be replaced."""
    own = make_report()
    instance = make_instance(own)
    snapshot = Snapshot(instance)
    assert known(snapshot) is own
    report.publish(make_report(run_id="2", origin="pytest", started_at="2026-01-02T04:00:00Z"), path)
    found = known(snapshot)
    assert found is not None
    assert (found.origin, found.started_at) == ("pytest", "2026-01-02T04:00:00Z")
    report.publish(make_report(run_id="3", origin="check", started_at="2026-01-02T05:00:00Z"), path)
    found = known(snapshot)
    assert found is not None
    assert found.origin == "check"
    report.publish(make_report(run_id="3", origin="check", started_at="2026-01-02T03:00:00Z"), path)
    assert known(snapshot) is own
    assert instance.report is own


def test_other_address(make_report: MakeReport, make_instance: MakeInstance, path: Path) -> None:
    """A report for another address is not ours to show."""
    own = make_report()
    report.publish(make_report(address="127.0.0.1:9999", started_at="2027-01-01T00:00:00Z"), path)
    assert known(Snapshot(make_instance(own))) is own
    assert known(Snapshot(make_instance(None))) is None


def test_other_address_after_ours(make_report: MakeReport, make_instance: MakeInstance, path: Path) -> None:
    """A check of another server in the same state folder does not hide the newest report for this server's address."""
    snapshot = Snapshot(make_instance(make_report()))
    report.publish(make_report(run_id="2", origin="check", started_at="2026-01-02T04:00:00Z"), path)
    newest = known(snapshot)
    assert newest is not None
    assert newest.run_id == "2"
    report.publish(make_report(address="127.0.0.1:9999", run_id="3", started_at="2026-01-02T05:00:00Z"), path)
    assert known(snapshot) is newest
    report.publish(make_report(run_id="4", origin="check", started_at="2026-01-02T06:00:00Z"), path)
    last = known(snapshot)
    assert last is not None
    assert last.run_id == "4"


def test_read_once(make_report: MakeReport, make_instance: MakeInstance, path: Path) -> None:
    """A file that has not changed is not read again."""
    report.publish(make_report(started_at="2026-01-02T04:00:00Z"), path)
    snapshot = Snapshot(make_instance())
    first = known(snapshot)
    assert first is not None
    assert known(snapshot) is first


def test_corrupt_file(make_report: MakeReport, make_instance: MakeInstance, path: Path) -> None:
    """A corrupt file is set aside and named; that is forgotten once there is a good one."""
    own = make_report()
    snapshot = Snapshot(make_instance(own))
    path.write_text("{")
    for _ in range(2):
        assert known(snapshot) is own
        assert snapshot.problem.startswith(f"{path} is not valid JSON")
        assert snapshot.problem.endswith("; it was renamed to report.json.corrupt-1")
    assert sorted(os.listdir(path.parent)) == ["report.json.corrupt-1"]
    report.publish(make_report(run_id="2", started_at="2026-01-02T04:00:00Z"), path)
    found = known(snapshot)
    assert found is not None
    assert found is not own
    assert snapshot.problem == ""


def test_redacted_with_our_secrets(
    make_report: MakeReport, make_instance: MakeInstance, make_check: Callable[..., Check], path: Path
) -> None:
    """Who else publishes a report may not have known our secrets; what we ran ourselves is taken as it is."""
    found = make_report(make_check(message=f"it said {SECRET}", details={"said": [SECRET]}), origin="check")
    report.publish(found, path)
    shown = known(Snapshot(make_instance(), Redactor([SECRET])))
    assert shown is not None
    assert SECRET not in repr(shown.to_json())
    assert shown.checks[0].message == "it said [redacted]"
    ours = Snapshot(make_instance(found), Redactor([SECRET]))
    assert known(ours) is found


@pytest.mark.parametrize("place", ['"details": {', '"tests": ['])
def test_nested_too_deeply(make_report: MakeReport, make_instance: MakeInstance, path: Path, place: str) -> None:
    """A report that might not be written down again ends nobody who looks; odd details are left aside."""
    own = make_report()
    text = json.dumps(make_report(run_id="odd", origin="check", started_at="2026-01-02T04:00:00Z").to_json())
    deep = "[" * 600 + "]" * 600
    path.write_text(text.replace(place, place + ('"deep": ' + deep if place.endswith("{") else deep + ", "), 1))
    snapshot = Snapshot(make_instance(own))
    found = known(snapshot)
    # How deep pytest's part may be is the interpreter's matter, and nobody shows it.
    assert found is own or '"tests"' in place
    assert bool(snapshot.problem) == (found is own)


def test_our_own_run_is_known_at_once(make_report: MakeReport, make_instance: MakeInstance, path: Path) -> None:
    """It need not be read, nor published; what somebody publishes after it is newer."""
    started, rerun = make_report(), make_report(run_id="again", started_at="2026-01-02T04:00:00Z", origin="rerun")
    report.publish(started, path)
    instance = make_instance(started)
    snapshot = Snapshot(instance)
    assert known(snapshot) is started
    snapshot.accept(rerun, None)
    assert snapshot.latest() is rerun
    assert known(snapshot) is rerun  # it could not be published
    report.publish(rerun, path)
    assert known(snapshot) is rerun
    later = make_report(run_id="later", started_at="2026-01-02T05:00:00Z", origin="check")
    report.publish(later, path)
    assert known(snapshot) == later
    snapshot.accept(rerun, None)
    assert snapshot.latest() == later


def test_our_own_published_run_is_not_read(
    make_report: MakeReport, make_instance: MakeInstance, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever published it has said which file it is in; another one in its place is read."""
    rerun = make_report(run_id="again", started_at="2026-01-02T04:00:00Z", origin="rerun")
    snapshot = Snapshot(make_instance(make_report()))
    snapshot.accept(rerun, report.publish(rerun, path))
    with monkeypatch.context() as unread:
        unread.setattr(report, "load_or_set_aside", None)
        assert known(snapshot) is rerun
    later = make_report(run_id="later", started_at="2026-01-02T05:00:00Z", origin="check")
    report.publish(later, path)
    assert known(snapshot) == later


def test_our_own_run_that_could_not_be_published(
    make_report: MakeReport, make_instance: MakeInstance, path: Path
) -> None:
    """It is known before anybody has looked, and what is published from before does not hide it."""
    started = make_report()
    report.publish(started, path)
    snapshot = Snapshot(make_instance(started))
    rerun = make_report(run_id="again", origin="rerun")  # in the same second
    snapshot.accept(rerun, None)
    assert known(snapshot) is rerun
    report.publish(make_report(run_id="earlier", origin="check", started_at="2026-01-02T03:00:00Z"), path)
    assert known(snapshot) is rerun
    later = make_report(run_id="later", origin="check", started_at="2026-01-02T05:00:00Z")
    report.publish(later, path)
    assert known(snapshot) == later


def test_to_ask_changes_nothing(
    make_report: MakeReport, make_instance: MakeInstance, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is newest is decided when a file is read, with the clock of then, and not when somebody asks."""
    own = make_report(started_at="2026-01-02T05:00:00Z")
    snapshot = Snapshot(make_instance(own))
    report.publish(make_report(run_id="2", origin="check", started_at="2026-01-02T04:00:00Z"), path)
    with monkeypatch.context() as set_back:
        set_back.setattr(times, "now", lambda: "2026-01-02T04:30:00Z")
        asyncio.run(snapshot.look())
    for _ in range(2):
        found = snapshot.latest()
        assert found is not None
        assert found.run_id == "2"


def test_what_is_to_be_trusted(make_report: MakeReport, make_instance: MakeInstance) -> None:
    """A run that broke is the latest, and its checks are no evidence."""
    good = make_report()
    snapshot = Snapshot(make_instance(good))
    broke = report.broken(
        "why", run_id="b", origin="rerun", address="127.0.0.1:8002", started_at="2026-01-02T04:00:00Z", duration=1.0
    )
    snapshot.accept(broke, None)
    assert (snapshot.latest(), snapshot.trusted()) == (broke, good)
    assert Snapshot(make_instance(None)).trusted() is None
