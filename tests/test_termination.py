"""The termination message: what blocks a start, in as many bytes as Kubernetes keeps."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from preflight.output import termination
from preflight.report.model import Check, Report

MakeCheck = Callable[..., Check]
MakeReport = Callable[..., Report]


def test_what_blocks_is_in_it(make_check: MakeCheck, make_report: MakeReport) -> None:
    """Only that: neither what holds nor what warns."""
    report = make_report(
        make_check("Good"),
        make_check("Disk", "failed", severity="warning", message="full"),
        make_check("Port", "failed", message="is held by nginx", fix="stop nginx"),
        make_check("Key", "error", message="no answer", fix=""),
    )
    told = "❌ Port\n   is held by nginx\n   Fix: stop nginx\n❌ Key\n   no answer\n"
    assert termination.message(["Port", "Key"], report) == told


def test_without_a_report_there_are_reasons() -> None:
    """A worker that was given up, a report that could not be written."""
    assert termination.message(["the worker crashed 5 times in 60 s", "SIGSEGV"], None) == (
        "the worker crashed 5 times in 60 s\nSIGSEGV\n"
    )


def test_a_run_that_broke_says_why(make_report: MakeReport) -> None:
    """Nothing blocks by name then."""
    assert termination.message(["the suite hung"], make_report()) == "the suite hung\n"


@pytest.mark.parametrize("length", [10, 100, 1000, 5000])
def test_it_fits(make_check: MakeCheck, make_report: MakeReport, length: int) -> None:
    """However much there is to say: the first requirements are whole, the others are counted, no character is cut."""
    checks = [make_check(f"Number {number}", "failed", message="é" * length, fix="") for number in range(60)]
    told = termination.message([], make_report(*checks))
    assert len(told.encode()) <= termination.ROOM
    assert told.startswith("❌ Number 0\n   éé")
    shown = told.count("❌")
    assert told.endswith(f"... and {60 - shown} more: the log has all of them\n") or shown == 60
    assert "\N{REPLACEMENT CHARACTER}" not in told


def test_it_replaces_what_was_there(tmp_path: Path) -> None:
    """The file stays the same one: the kubelet has it mounted. Nobody reads a new one but its owner."""
    file = tmp_path / "termination-log"
    file.write_text("of another time, and longer than the new one")
    file.chmod(0o666)
    before = file.stat().st_ino
    termination.write(file, "short")
    assert (file.read_text(), file.stat().st_ino, file.stat().st_mode & 0o777) == ("short", before, 0o666)
    termination.write(tmp_path / "new", "x")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_nobody_is_waited_for(tmp_path: Path) -> None:
    """A pipe without a reader is an error."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device or address"):
        termination.write(tmp_path / "pipe", "x")
