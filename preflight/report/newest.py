"""Which report is newer: the published one, or one of this server's own runs. For launcher and worker alike.

The caller has read the reports, and keeps the answer: a worker in preflight/web/snapshot.py. Of two other processes
that publish, the last one wins (`publish` in preflight/files.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from preflight.report.model import Report


class Judged(NamedTuple):
    """The runs that a server's verdict is based on."""

    report: Report | None
    """Its latest run that can be trusted: its start's, then its re-runs'. None if no suite ran."""
    rerun_problem: str = ""
    """Why the last re-run left no report that can be trusted; empty if it left one."""

    def after(self, ended: Report | None, reason: str) -> Judged:
        """The report that decides after a re-run: the previous one if the re-run broke (``reason`` says why)."""
        return Judged(self.report, reason) if reason else Judged(ended)

    def to_message(self) -> dict[str, Any]:
        """For the channel to a worker, as JSON values."""
        return {"report": self.report and self.report.to_json(), "rerun_problem": self.rerun_problem}


def outdated(found: Report, other: Report, now: str) -> bool:
    """Whether ``other`` came after ``found``; of two that began in the same second, ``found`` is the later one.

    If ``other`` began in the future, the clock was set back: then ``found`` came after it.
    """
    return found.started_at < other.started_at <= now


def newer(published: Report, ended: Report | None, own: Report | None, now: str) -> Report | None:
    """The newest report if it is newer than ``own``, the run that a server goes by; else None.

    It is the published one, or ``ended``: the server's last re-run, which may have broken, and may not have been
    published.
    """
    latest = published
    if ended is not None and (published is own or outdated(published, ended, now)):
        latest = ended
    return None if own is not None and outdated(latest, own, now) else latest


def trusted(latest: Report | None, own: Report | None) -> Report | None:
    """The newest of the two that says something of its checks: a run that broke does not."""
    return next((report for report in (latest, own) if report is not None and report.status != "broken"), None)
