"""Which report is the newest that can be trusted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from preflight.report import newest
from preflight.report.model import Report
from preflight.report.newest import Judged

MakeReport = Callable[..., Report]
NOW = "2026-01-02T06:00:00Z"


def at(make_report: MakeReport, hour: int) -> Report:
    return make_report(run_id=str(hour), started_at=f"2026-01-02T0{hour}:00:00Z")


def test_a_rerun_takes_the_place(make_report: MakeReport) -> None:
    """One that can be trusted is gone by; one that broke leaves the verdict, and says why until the next good one."""
    started, rerun = at(make_report, 1), at(make_report, 2)
    broke = Judged(started).after(rerun, "it broke")
    assert broke == Judged(started, "it broke")
    assert broke.after(None, "no answer") == Judged(started, "no answer")
    assert broke.after(rerun, "") == Judged(rerun)
    assert Judged(None).after(None, "it broke").to_message() == {"report": None, "rerun_problem": "it broke"}


@pytest.mark.parametrize(
    "published, ended, own, newest_is",
    [
        (2, None, None, 2),
        (2, None, 1, 2),
        (2, None, 2, 2),  # in the same second
        (2, None, 3, None),
        (2, None, 7, 2),  # the clock was set back
        (2, 3, 1, 3),  # could not be published
        (4, 3, 3, 4),
        (2, 7, 1, 2),
        (2, 3, 4, None),
    ],
)
def test_newer(
    make_report: MakeReport, published: int, ended: int | None, own: int | None, newest_is: int | None
) -> None:
    """The later one, by the clock unless that was set back."""
    found = newest.newer(
        at(make_report, published),
        at(make_report, ended) if ended else None,
        at(make_report, own) if own else None,
        NOW,
    )
    assert (found.run_id if found else None) == (str(newest_is) if newest_is else None)


def test_a_rerun_is_newer_than_the_published_start(make_report: MakeReport) -> None:
    """Though it began in the same second: what is published is the report from before it."""
    started, rerun = at(make_report, 1), make_report(run_id="again", started_at="2026-01-02T01:00:00Z")
    assert newest.newer(started, rerun, started, NOW) is rerun
