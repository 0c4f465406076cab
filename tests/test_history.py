"""The history: real files in a real folder, pruned, read once, and nothing in it that can hurt."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from preflight.report import history
from preflight.report import model as report
from preflight.report.changes import Flip
from preflight.report.history import History, Run
from preflight.report.model import Check, Report
from preflight.settings import loading
from preflight.settings import model as settings

MakeCheck = Callable[..., Check]
MakeReport = Callable[..., Report]
ROOT = Path(__file__).parents[1]


@pytest.fixture
def chosen(home: Path) -> settings.Settings:
    """The project's settings, with a state folder of the test's own."""
    (home / "state").mkdir(mode=0o700)
    return loading.load(ROOT, options={"demo": True})


@pytest.fixture
def past(make_report: MakeReport) -> Callable[..., Report]:
    """A report of minute N, whose run id says so."""

    def make(minute: int, *checks: Check, **changes: object) -> Report:
        hour, rest = divmod(minute, 60)
        stamp = f"2026-01-02T{hour:02}:{rest:02}:05Z"
        return make_report(*checks, **{"run_id": f"run{minute}", "started_at": stamp, **changes})

    return make


def folder(chosen: settings.Settings) -> Path:
    return chosen.state_dir / "history"


def ids(found: list[tuple[Run, tuple[Flip, ...]]]) -> list[str]:
    return [run.run_id for run, _flips in found]


def test_kept_for_the_owner_only(chosen: settings.Settings, past: Callable[..., Report]) -> None:
    """A kept run is a whole report of mode 0600 in a folder of mode 0700, named after its time and its id."""
    found = past(4)
    assert history.keep(found, chosen) == ""
    [file] = folder(chosen).iterdir()
    assert file.name == "20260102T000405Z-run4.127.0.0.1_8002.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder(chosen).stat().st_mode) == 0o700
    assert report.load(file) == found


def test_pruned(chosen: settings.Settings, past: Callable[..., Report]) -> None:
    """No more runs than the setting says, the newest of them."""
    few = replace(chosen, history=3)
    for minute in range(10):
        history.keep(past(minute), few)
    assert ids(History(folder(few)).runs(limit=100)) == ["run9", "run8", "run7"]


def test_the_latest_is_never_removed(chosen: settings.Settings, past: Callable[..., Report]) -> None:
    """Even where the clock was set back and the latest run looks like the oldest."""
    few = replace(chosen, history=2)
    for minute in (30, 31, 32, 5):
        history.keep(past(minute), few)
    assert ids(History(folder(few)).runs(limit=100)) == ["run32", "run31", "run5"]
    one = replace(chosen, history=1)
    history.keep(past(6), one)
    assert ids(History(folder(one)).runs(limit=100)) == ["run32", "run6"]


def test_each_address_has_room_of_its_own(chosen: settings.Settings, past: Callable[..., Report]) -> None:
    """Servers that share the folder do not crowd out each other's runs, and each can be asked for its own."""
    few = replace(chosen, history=2)
    other = "[::1]:8003"
    for minute in (1, 2):
        history.keep(past(minute, address=other), few)
    for minute in range(10, 20):
        history.keep(past(minute), few)
    kept = History(folder(few))
    assert ids(kept.runs(limit=100)) == ["run19", "run18", "run2", "run1"]
    assert ids(kept.runs(limit=100, address=other)) == ["run2", "run1"]
    assert ids(kept.runs(limit=1, address=other, besides=[past(30), past(3, address=other)])) == ["run3"]
    assert ids(kept.runs(limit=100, address="127.0.0.1_8002")) == []  # it only looks the same in a file's name
    assert kept.report("run1") == past(1, address=other)


def test_many_addresses(
    chosen: settings.Settings, past: Callable[..., Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each run has another port, the addresses that ran longest ago go whole."""
    monkeypatch.setattr(history, "ADDRESSES", 3)
    for minute in range(8):
        history.keep(past(minute, address=f"127.0.0.1:{9000 + minute}"), chosen)
    assert ids(History(folder(chosen)).runs(limit=100)) == ["run7", "run6", "run5"]


def test_names_of_old(chosen: settings.Settings, past: Callable[..., Report]) -> None:
    """Files whose names have no address are read, by their reports' addresses, and make room for the new ones."""
    folder(chosen).mkdir(mode=0o700)
    report.publish(past(1), folder(chosen) / "20260102T000105Z-run1.json")
    report.publish(past(2, address="[::1]:1"), folder(chosen) / "20260102T000205Z-run2.json")
    kept = History(folder(chosen))
    assert ids(kept.runs(limit=10)) == ["run2", "run1"]
    assert ids(kept.runs(limit=10, address="127.0.0.1:8002")) == ["run1"]
    assert kept.report("run2") == past(2, address="[::1]:1")
    history.keep(past(3), replace(chosen, history=2))
    assert ids(kept.runs(limit=10)) == ["run3", "run2"]


def test_two_runs_of_the_same_second(chosen: settings.Settings, past: Callable[..., Report]) -> None:
    """They stand in the order in which they were kept, whatever their ids; with room for one, the later stays."""
    for name in ("zz", "aa"):
        history.keep(past(1, run_id=name), chosen)
        for file in folder(chosen).iterdir():  # it is the first of them that becomes older: clocks are coarse
            os.utime(file, ns=(0, file.stat().st_mtime_ns - 10**9))
    assert ids(History(folder(chosen)).runs(limit=100)) == ["aa", "zz"]
    history.keep(past(1, run_id="mm"), replace(chosen, history=1))
    assert ids(History(folder(chosen)).runs(limit=100)) == ["mm"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"preflight": {"schema": 99}}'])
def test_a_corrupt_file_in_the_middle(
    chosen: settings.Settings, past: Callable[..., Report], make_check: MakeCheck, content: bytes
) -> None:
    """It hides no other run, stops no comparison across it, and does not keep pruning from its work."""
    for minute, outcome in ((1, "passed"), (2, "passed"), (3, "failed")):
        history.keep(past(minute, make_check(outcome=outcome)), chosen)
    (folder(chosen) / "20260102T000205Z-run2.127.0.0.1_8002.json").write_bytes(content)
    found = History(folder(chosen)).runs(limit=100)
    assert ids(found) == ["run3", "run1"]
    assert found[0][1] == (Flip("Python Version", "passed", "failed"),)
    history.keep(past(4), replace(chosen, history=2))
    assert ids(History(folder(chosen)).runs(limit=100)) == ["run4", "run3"]


def test_foreign_files(chosen: settings.Settings, past: Callable[..., Report], tmp_path: Path) -> None:
    """What is no file of ours is neither read nor removed: other names, folders, links."""
    history.keep(past(1), chosen)
    secret = tmp_path / "elsewhere.json"
    report.publish(past(2), secret)
    (folder(chosen) / "20260102T000205Z-link.json").symlink_to(secret)
    (folder(chosen) / "20260102T000305Z-folder.json").mkdir()
    (folder(chosen) / "notes.txt").write_text("mine")
    assert ids(History(folder(chosen)).runs(limit=100)) == ["run1"]
    assert history.keep(past(5), replace(chosen, history=1)) == ""
    assert len(list(folder(chosen).iterdir())) == 4
    assert ids(History(folder(chosen)).runs(limit=100)) == ["run5"]


def test_what_a_killed_process_left(chosen: settings.Settings, past: Callable[..., Report]) -> None:
    """Half a file of somebody who died goes after an hour; one that is being written stays."""
    history.keep(past(1), chosen)
    old, fresh = (
        folder(chosen) / f".20260102T000205Z-{name}.127.0.0.1_8002.json.{name}.1" for name in ("old", "fresh")
    )
    old.write_text("{")
    fresh.write_text("{")
    os.utime(old, (time.time() - 4000, time.time() - 4000))
    history.keep(past(2), chosen)
    assert not old.exists()
    assert fresh.exists()


def test_a_history_that_cannot_be_written(chosen: settings.Settings, past: Callable[..., Report]) -> None:
    """It is said in one line, with the folder and why; nothing is raised."""
    folder(chosen).write_text("a file where the folder should be")
    said = history.keep(past(1), chosen)
    assert said == f"This run is not in the history: {folder(chosen)}: File exists"


def test_nothing_kept_yet(tmp_path: Path) -> None:
    """No folder: no runs, and no error."""
    nothing = History(tmp_path / "none")
    assert nothing.runs(limit=10) == []
    assert nothing.report("run1") is None


def test_flips(chosen: settings.Settings, past: Callable[..., Report], make_check: MakeCheck) -> None:
    """A check flips when its outcome is another than in the last run of the same address that asked."""
    runs = [
        past(1, make_check("A"), make_check("B")),
        past(2, make_check("A", "failed"), make_check("B")),
        past(3, make_check("A", "failed"), make_check("B", "failed"), address="127.0.0.1:1"),
        past(4, make_check("B"), selection="critical"),  # says nothing of A
        past(5, make_check("A", "not_applicable"), make_check("B")),  # nor does this
        past(6, make_check("A"), make_check("B", "unknown")),
    ]
    for one in runs:
        assert history.keep(one, chosen) == ""
    history.keep(report.broken("it broke", run_id="run7", origin="check", address="127.0.0.1:8002",
                               started_at="2026-01-02T00:07:05Z", duration=0.1), chosen)  # fmt: skip
    found = dict(zip(["7", "6", "5", "4", "3", "2", "1"], History(folder(chosen)).runs(limit=10), strict=True))
    assert found["7"][0].status == "broken"
    assert found["6"][1] == (Flip("A", "failed", "passed"), Flip("B", "passed", "unknown"))
    assert found["2"][1] == (Flip("A", "passed", "failed"),)
    assert all(found[number][1] == () for number in "13457")


def test_pages(chosen: settings.Settings, past: Callable[..., Report], make_check: MakeCheck) -> None:
    """A page is a part of the whole, and its flips are those that the whole has."""
    for minute in range(12):
        history.keep(past(minute, make_check(outcome="failed" if minute % 2 else "passed")), chosen)
    kept = History(folder(chosen))
    whole = kept.runs(limit=100)
    assert len(whole) == 12
    assert [len(flipped) for _run, flipped in whole] == [1] * 11 + [0]
    assert History(folder(chosen)).runs(offset=3, limit=4) == whole[3:7]
    assert kept.runs(offset=20, limit=4) == []


def test_runs_that_are_not_on_the_disk(chosen: settings.Settings, past: Callable[..., Report]) -> None:
    """What the server knows itself counts, once, at its place."""
    history.keep(past(1), chosen)
    history.keep(past(3), chosen)
    found = History(folder(chosen)).runs(limit=10, besides=[past(2), past(3)])
    assert ids(found) == ["run3", "run2", "run1"]


def test_each_file_is_read_once(
    chosen: settings.Settings, past: Callable[..., Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked again, only what is new or has changed is read."""
    for minute in range(5):
        history.keep(past(minute), chosen)
    read: list[str] = []
    load = report.load

    def counting(path: Path) -> Report:
        read.append(path.name)
        return load(path)

    monkeypatch.setattr(report, "load", counting)
    kept = History(folder(chosen))
    first = kept.runs(limit=10)
    assert len(read) == 5
    assert kept.runs(limit=10) == first
    assert len(read) == 5
    history.keep(past(9), chosen)
    (folder(chosen) / "20260102T000005Z-run0.127.0.0.1_8002.json").write_text("{")
    assert ids(kept.runs(limit=10)) == ["run9", "run4", "run3", "run2", "run1"]
    assert sorted(read[5:]) == [
        "20260102T000005Z-run0.127.0.0.1_8002.json",
        "20260102T000905Z-run9.127.0.0.1_8002.json",
    ]


def test_reads_no_more_than_it_needs(
    chosen: settings.Settings, past: Callable[..., Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short page of a long history reads some runs before it, and not all of them."""
    for minute in range(80):
        history.keep(past(minute), chosen)
    read: list[Path] = []
    load = report.load

    def counting(path: Path) -> Report:
        read.append(path)
        return load(path)

    monkeypatch.setattr(report, "load", counting)
    assert len(History(folder(chosen)).runs(limit=3)) == 3
    assert len(read) == 3 + history.LOOK_BACK


def test_memory_is_bounded(
    chosen: settings.Settings, past: Callable[..., Report], make_check: MakeCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is remembered of large suites is limited, and the answer is the same."""
    monkeypatch.setattr(history, "REMEMBERED", 50)
    checks = [make_check(f"Check {number}") for number in range(20)]
    for minute in range(6):
        history.keep(past(minute, *checks), chosen)
    kept = History(folder(chosen))
    assert ids(kept.runs(limit=10)) == [f"run{minute}" for minute in (5, 4, 3, 2, 1, 0)]
    assert len(kept._known) == 2
    assert len(kept.runs(limit=10)) == 6


@pytest.mark.parametrize("duration", ["1e999", "1" + "0" * 400, "-1", "NaN"])
def test_odd_durations(chosen: settings.Settings, past: Callable[..., Report], duration: str) -> None:
    """A file with a time that cannot be is as good as corrupt: the others are listed."""
    history.keep(past(1), chosen)
    history.keep(past(2), chosen)
    path = folder(chosen) / "20260102T000105Z-odd.127.0.0.1_8002.json"
    good = next(file for file in folder(chosen).iterdir() if "run2" in file.name).read_text()
    text = re.sub(r'("severity": .*?"duration": )[0-9.]+', rf"\g<1>{duration}", good.replace("run2", "odd"))
    assert duration in text
    path.write_text(text)
    assert ids(History(folder(chosen)).runs(limit=10)) == ["run2", "run1"]


def test_messages_are_kept_once(chosen: settings.Settings, past: Callable[..., Report], make_check: MakeCheck) -> None:
    """Runs that found the same share what they said."""
    for minute in range(3):
        history.keep(
            past(minute, make_check("One", message="as it should be"), make_check("Two", message=f"{minute}!")), chosen
        )
    runs = [run for run, _ in History(folder(chosen)).runs(limit=3)]
    assert len({id(run.checks["One"].message) for run in runs}) == 1
    assert [run.checks["Two"].message for run in runs] == ["2!", "1!", "0!"]


def test_one_report(chosen: settings.Settings, past: Callable[..., Report]) -> None:
    """A kept run by its id, whole; None for others and for one that is corrupt."""
    found = past(1)
    history.keep(found, chosen)
    kept = History(folder(chosen))
    assert kept.report("run1") == found
    assert kept.report("run") is None
    assert kept.report("../report") is None
    (folder(chosen) / "20260102T000105Z-run1.127.0.0.1_8002.json").write_text("{")
    assert kept.report("run1") is None


@pytest.mark.slow
def test_two_hundred_runs_are_listed_quickly(
    chosen: settings.Settings, past: Callable[..., Report], make_check: MakeCheck
) -> None:
    """The second look at 200 runs of 15 checks costs a fraction of the first."""
    checks = [make_check(f"Check {number}", message="as it should be") for number in range(15)]
    for minute in range(200):
        history.keep(past(minute, *checks), chosen)
    kept = History(folder(chosen))

    def spent() -> float:
        began = time.process_time()
        assert len(kept.runs(limit=200)) == 200
        return time.process_time() - began

    first = spent()
    assert min(spent() for _ in range(3)) < first / 2


@pytest.mark.slow
def test_large_suites_are_read_once(
    chosen: settings.Settings, past: Callable[..., Report], make_check: MakeCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    """55 runs of 2,000 checks are remembered: the second look reads no file. Outcomes are what they were."""
    checks = [make_check(f"Check {number}", message="as it should be", duration=0.015693) for number in range(2000)]
    one = past(0, *checks)
    for minute in range(55):
        bad = replace(checks[7], outcome="failed", message="why") if minute == 30 else checks[7]
        this = replace(one, run_id=f"run{minute}", started_at=f"2026-01-02T00:{minute:02}:00Z")
        history.keep(replace(this, checks=(*checks[:7], bad, *checks[8:])), chosen)
    kept = History(folder(chosen))
    assert len(kept.runs(limit=100)) == 55
    monkeypatch.setattr(report, "load", None)
    found = kept.runs(limit=100)
    assert {run.run_id: flipped for run, flipped in found if flipped} == {
        "run30": (Flip("Check 7", "passed", "failed"),),
        "run31": (Flip("Check 7", "failed", "passed"),),
    }
    run = found[54 - 30][0]
    assert (len(run.checks), list(run.checks)[7], "Check 2000" in run.checks) == (2000, "Check 7", False)
    assert run.checks["Check 7"].message == "why"
    assert round(run.checks["Check 8"].duration * 1000, 3) == 15.693


@pytest.mark.slow
def test_keeping_while_others_do(chosen: settings.Settings, past: Callable[..., Report]) -> None:
    """Processes that keep runs of one address at once lose none that there is room for, and break nothing."""
    children = []
    for child in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                said = [history.keep(past(minute, run_id=f"c{child}m{minute}"), replace(chosen, history=10))
                        for minute in range(20)]  # fmt: skip
                os._exit(0 if said == [""] * 20 else 1)
            finally:
                os._exit(2)  # whatever is raised: this process must not go on as a second pytest
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 4
    history.keep(past(30), replace(chosen, history=10))
    found = ids(History(folder(chosen)).runs(limit=100))
    assert found[0] == "run30"
    assert len(found) == 10
