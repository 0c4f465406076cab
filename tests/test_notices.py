"""What people are told of a run, and when."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from preflight import times
from preflight.notify import notices
from preflight.notify.notices import Notice, take_news
from preflight.report import model as report
from preflight.report.model import Check, Report
from preflight.settings import loading
from preflight.settings.model import Settings
from preflight.times import local_of

ROOT = Path(__file__).parents[1]
MakeCheck = Callable[..., Check]
MakeReport = Callable[..., Report]


@pytest.fixture
def chosen(home: Path) -> Settings:
    return loading.load(ROOT, options={"demo": True})


def headline(notice: Notice | None) -> str:
    assert notice is not None
    sign, rest = notice.title.split(" ", 1)
    assert sign == notices.SIGNS[notice.level]
    said, place = rest.rstrip(")").split(" (")
    assert place == f"127.0.0.1:8002 on {os.uname().nodename}"
    return said


def test_a_life(make_check: MakeCheck, make_report: MakeReport, chosen: Settings) -> None:
    """Told is what differs from what people know, once, and by severity."""
    good = make_report(make_check("A"), make_check("B"))
    warned = make_report(make_check("A"), make_check("B", "unknown"))
    blocked = make_report(make_check("A", "failed"), make_check("B", "unknown"))
    worse = make_report(make_check("A", "failed"), make_check("B", "failed"))
    assert take_news(good, chosen) is None
    assert headline(take_news(warned, chosen)) == "A check warns"
    assert take_news(warned, chosen) is None
    assert headline(take_news(blocked, chosen)) == "The start is blocked"
    assert headline(take_news(worse, chosen)) == "A critical requirement fails"
    assert headline(take_news(good, chosen)) == "The server came back"
    assert take_news(good, chosen) is None


def test_a_rerun_speaks_of_the_server(make_check: MakeCheck, make_report: MakeReport, chosen: Settings) -> None:
    """Beside a live server no start is blocked."""
    good = make_report(make_check("A"), origin="rerun")
    assert take_news(good, chosen) is None
    assert (
        headline(take_news(make_report(make_check("A", "failed"), origin="rerun"), chosen)) == "The server is unhealthy"
    )
    assert headline(take_news(good, chosen)) == "The server is healthy again"


def test_a_rerun_and_what_the_fleet_shares(make_check: MakeCheck, make_report: MakeReport, chosen: Settings) -> None:
    """The server goes on, and people are told that none could start."""
    good = make_report(make_check("A", scope="fleet"), make_check("B"), origin="rerun")
    assert take_news(good, chosen) is None
    shared = make_report(make_check("A", "failed", scope="fleet"), make_check("B"), origin="rerun")
    goes_on = "The server keeps running, but no server can start: a requirement that the fleet shares fails"
    assert headline(take_news(shared, chosen)) == goes_on
    assert headline(take_news(good, chosen)) == "Servers can start again"


def test_first_start_that_is_blocked(make_check: MakeCheck, make_report: MakeReport, chosen: Settings) -> None:
    """Who has never been told anything is told what does not hold."""
    assert headline(take_news(make_report(make_check("A", "failed")), chosen)) == "The start is blocked"


def test_message(make_check: MakeCheck, make_report: MakeReport, chosen: Settings) -> None:
    """One message names all flips, the worst first, with message and fix, and the run."""
    take_news(
        make_report(make_check("Good"), make_check("Bad"), make_check("Gone", "unknown"), make_check("W")), chosen
    )
    after = make_report(
        make_check("Good", "failed", message="is not there", fix="make it"),
        make_check("Bad", "timeout"),
        make_check("W", "unknown", message="no answer"),
    )
    notice = take_news(after, chosen)
    assert notice is not None
    assert notice.level == "failure"
    assert notice.body.splitlines() == [
        "❌ Good: is not there",
        "   Fix: make it",
        "❌ Bad: Bad is as it should be.",
        "⚠️ W: no answer",
        "Gone: no longer checked",
        f"Run 01234567 (start, {local_of('2026-01-02T03:04:05Z')}): failed; 1 failed, 1 timeout, 1 unknown, 3 total",
    ]


def test_long_messages(make_check: MakeCheck, make_report: MakeReport, chosen: Settings) -> None:
    """A message stays readable, however much is wrong."""
    checks = [make_check(f"C{number}", "failed", message="m" * 1000, fix="f" * 1000) for number in range(50)]
    notice = take_news(make_report(*checks), chosen)
    assert notice is not None
    assert "and 30 more" in notice.body
    assert max(map(len, notice.body.splitlines())) < 320


def test_broken_run(make_report: MakeReport, chosen: Settings) -> None:
    """A suite that broke is told with its reason."""
    take_news(make_report(), chosen)
    ended = report.broken(
        "the suite is empty", run_id="b", origin="start", address="a", started_at=times.now(), duration=0.0
    )
    notice = take_news(ended, chosen)
    assert headline(notice) == "The check suite itself failed: nothing was started"
    assert notice is not None
    assert notice.body.startswith("the suite is empty\n")


def test_after_a_rerun_that_broke(make_check: MakeCheck, make_report: MakeReport, chosen: Settings) -> None:
    """It takes nothing back of what people know: the same findings after it are no news, and no recovery."""
    good = make_report(make_check("A"), make_check("W"), origin="rerun")
    warned = make_report(make_check("A"), make_check("W", "unknown"), origin="rerun")
    blocked = make_report(make_check("A", "failed"), make_check("W", "unknown"), origin="rerun")
    ended = report.broken("hung", run_id="b", origin="rerun", address="a", started_at=times.now(), duration=0.0)
    again = "The checks can be run again"
    assert headline(take_news(warned, chosen)) == "A check warns"
    assert headline(take_news(ended, chosen)) == "The check suite itself failed"
    assert take_news(ended, chosen) is None
    told = take_news(warned, chosen)
    assert headline(told) == again
    assert told is not None
    assert len(told.body.splitlines()) == 1
    assert take_news(warned, chosen) is None
    assert headline(take_news(blocked, chosen)) == "The server is unhealthy"
    assert headline(take_news(ended, chosen)) == "The check suite itself failed"
    told = take_news(blocked, chosen)
    assert headline(told) == f"{again}: the server is still unhealthy"
    assert told is not None
    assert len(told.body.splitlines()) == 1
    assert take_news(ended, chosen) is not None
    told = take_news(good, chosen)
    assert headline(told) == "The server is healthy again"
    assert told is not None
    assert [line[:2] for line in told.body.splitlines()] == ["✅ ", "✅ ", "Ru"]
    assert take_news(ended, chosen) is not None
    assert headline(take_news(blocked, chosen)) == "The server is unhealthy"


def test_each_address_has_its_own(make_check: MakeCheck, make_report: MakeReport, chosen: Settings) -> None:
    """Two servers with one state folder do not tell each other's flips."""
    other = loading.load(ROOT, options={"demo": True, "port": "8003"})
    assert take_news(make_report(), chosen) is None
    assert take_news(make_report(), other) is None
    failed = make_report(make_check(outcome="failed"))
    assert take_news(failed, chosen) is not None
    assert take_news(make_report(), other) is None


def test_private(make_report: MakeReport, chosen: Settings) -> None:
    """What people were told is its owner's alone, and stays where a run fails to keep it."""
    take_news(make_report(), chosen)
    (kept,) = (chosen.state_dir / "told").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.parent.stat().st_mode & 0o077 == 0


def test_nowhere_to_keep_it(make_check: MakeCheck, make_report: MakeReport, chosen: Settings) -> None:
    """Without a place to remember, it is told each time rather than never."""
    chosen.state_dir.parent.mkdir(exist_ok=True)
    chosen.state_dir.write_text("")
    failed = make_report(make_check(outcome="failed"))
    assert take_news(failed, chosen) is not None
    assert take_news(failed, chosen) is not None
