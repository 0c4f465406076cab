"""What has changed between two runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from preflight import times
from preflight.report import model as report
from preflight.report.changes import Change, Flip, changes, flips, standing, verdict
from preflight.report.model import Check, Report

MakeCheck = Callable[..., Check]
MakeReport = Callable[..., Report]


def told(found: list[Change]) -> list[tuple[str, str, str]]:
    return [(change.title, change.before, change.after) for change in found]


def broken() -> Report:
    return report.broken(
        "no reason", run_id="b", origin="start", address="127.0.0.1:8002", started_at=times.now(), duration=0.0
    )


@pytest.mark.slow
def test_nothing_changed(make_check: MakeCheck, make_report: MakeReport) -> None:
    """Another message, time, outcome of the same weight or order is no change."""
    before = make_report(
        make_check("A", "failed", message="x"), make_check("B"), make_check("C", "unknown"), make_check("D")
    )
    after = make_report(
        make_check("D", "not_applicable"),
        make_check("C", "ignored"),
        make_check("B", duration=9.0),
        make_check("A", "timeout", message="y"),
        run_id="f" * 32,
    )
    assert changes(before, after) == []


def test_flips(make_check: MakeCheck, make_report: MakeReport) -> None:
    """Every flip, the verdict's first, each with the check as it is now."""
    before = make_report(
        make_check("A"), make_check("B", "failed", severity="warning"), make_check("C"), make_check("D", "unknown")
    )
    after = make_report(
        make_check("A", "failed", message="gone"),
        make_check("B", severity="warning"),
        make_check("C"),
        make_check("D", "error"),
    )
    found = changes(before, after)
    assert told(found) == [
        ("", "good", "blocked"),
        ("A", "ok", "blocks"),
        ("B", "warns", "ok"),
        ("D", "warns", "blocks"),
    ]
    assert found[1].check is after.checks[0]
    assert all(change.matters for change in found)
    assert told(changes(after, before))[0] == ("", "blocked", "good")


def test_checks_come_and_go(make_check: MakeCheck, make_report: MakeReport) -> None:
    """New checks and lost ones are changes; they matter only if they did not hold."""
    before = make_report(make_check("A"), make_check("B"), make_check("C", "unknown"))
    after = make_report(make_check("A"), make_check("D"), make_check("E", "unknown"))
    found = changes(before, after)
    assert told(found) == [("D", "", "ok"), ("E", "", "warns"), ("B", "ok", ""), ("C", "warns", "")]
    assert [change.title for change in found if change.matters] == ["E", "C"]


def test_first_run(make_check: MakeCheck, make_report: MakeReport) -> None:
    """Without a run before, what does not hold is new, and what holds is not worth a word."""
    assert changes(None, make_report(make_check("A"))) == []
    found = changes(None, make_report(make_check("A"), make_check("B", "failed"), make_check("C", "unknown")))
    assert told(found) == [("", "", "blocked"), ("B", "", "blocks"), ("C", "", "warns")]


def test_broken_run(make_check: MakeCheck, make_report: MakeReport) -> None:
    """A run that broke loses no checks, and the run after it brings none but those that do not hold."""
    good = make_report(make_check("A"), make_check("B", "unknown"))
    assert told(changes(good, broken())) == [("", "good", "broken")]
    assert told(changes(broken(), good)) == [("", "broken", "good"), ("B", "", "warns")]
    assert changes(broken(), broken()) == []


def test_part_of_the_suite(make_check: MakeCheck, make_report: MakeReport) -> None:
    """Of what a run left out nothing is known."""
    whole = make_report(make_check("A"), make_check("B"))
    part = make_report(make_check("A", "failed"), selection="critical")
    assert told(changes(whole, part)) == [("", "good", "blocked"), ("A", "ok", "blocks")]
    assert told(changes(part, whole)) == [("", "blocked", "good"), ("A", "blocks", "ok")]


@pytest.mark.parametrize(
    "severity,outcome,stands",
    [
        ("critical", "passed", "ok"),
        ("critical", "failed", "blocks"),
        ("critical", "skipped", "blocks"),
        ("critical", "unknown", "warns"),
        ("critical", "ignored", "warns"),
        ("critical", "not_applicable", "ok"),
        ("warning", "failed", "warns"),
        ("warning", "passed", "ok"),
    ],
)
def test_standing(make_check: MakeCheck, severity: str, outcome: str, stands: str) -> None:
    """How a check stands follows severity and outcome."""
    assert standing(make_check(severity=severity, outcome=outcome)) == stands


def test_verdict(make_check: MakeCheck, make_report: MakeReport) -> None:
    """Warnings leave the verdict good."""
    assert verdict(make_report(make_check("A"), make_check("B", "unknown"))) == "good"
    assert verdict(make_report(make_check("A", "failed"))) == "blocked"
    assert verdict(broken()) == "broken"


def test_flips_are_told_from_what_was_last_known() -> None:
    """Each once; what was not asked this time stays as it was known."""
    last = {"A": "passed", "B": "failed"}
    assert flips(last, [("A", "failed"), ("C", "passed")]) == [Flip("A", "passed", "failed"), Flip("C", "", "passed")]
    assert flips(last, [("A", "failed"), ("B", "failed")]) == []
    assert flips(last, [("B", "passed")]) == [Flip("B", "failed", "passed")]
