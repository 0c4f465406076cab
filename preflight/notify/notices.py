"""What people are told: short messages made from a run's changes and from what happens to the server."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from preflight.report import model
from preflight.report.changes import Change, changes
from preflight.report.model import Report, ReportError
from preflight.settings.model import Settings
from preflight.text import shortened
from preflight.times import local_of

LONGEST = 300  # characters of a check's message or fix
MOST = 20  # checks that a message names

SIGNS = {"success": "✅", "warning": "⚠️", "failure": "❌"}


@dataclass(frozen=True, slots=True)
class Notice:
    """One message. It is not redacted: the sender redacts it."""

    title: str
    body: str
    level: str = "failure"
    """ "success", "warning" or "failure": services show it as a colour or a sign."""


def make(settings: Settings, level: str, headline: str, *lines: str) -> Notice:
    """A notice that says where it comes from: one person may look after several servers."""
    place = f"{settings.address} on {os.uname().nodename}"
    return Notice(f"{SIGNS[level]} {headline} ({place})", "\n".join(lines), level)


def take_news(found: Report, settings: Settings) -> Notice | None:
    """The notice about what people do not know yet, which counts as told from now on; None if nothing is new."""
    changed = news(found, settings)
    if not changed:
        return None
    know(found, settings)
    return about(changed, found, settings)


def news(found: Report, settings: Settings, before: Report | None = None) -> list[Change]:
    """The differences between this run's result and what people know. After telling them, call :func:`know`.

    What they know is kept in the state folder, and is not the published report: a check or a run in CI publishes
    its report without telling anybody. ``before`` is a later run, if they are being told of that already.
    """
    before = before or _told(settings)
    changed = [change for change in changes(before, found) if change.matters]
    if before is None and not changed:
        know(found, settings)
    return changed


def know(found: Report, settings: Settings) -> None:
    """Remember what people were told. A broken run says nothing about the checks that it lacks: they stay unchanged."""
    before = _told(settings)
    if found.status == "broken" and before is not None:
        checks = {check.title: check for check in (*before.checks, *found.checks)}
        found = replace(found, checks=tuple(checks.values()))
    try:
        model.publish(found, _known(settings))
    except OSError:
        pass  # told once more next time, and the requirement State Folder has said what is wrong


def _told(settings: Settings) -> Report | None:
    try:
        return model.load(_known(settings))
    except ReportError:
        return None


def _known(settings: Settings) -> Path:
    return settings.state.told(settings.host if settings.uds is None else "uds", settings.slot)


def about(changed: Sequence[Change], report: Report, settings: Settings, *besides: str) -> Notice:
    """The message about what one run has found; ``besides`` are further lines."""
    order = {"blocks": 0, "warns": 1, "ok": 2, "": 3}
    checks = sorted((change for change in changed if change.title), key=lambda change: order[change.after])
    verdicts = [change for change in changed if not change.title]
    level, headline = _headline(verdicts[0] if verdicts else None, checks, report)
    lines = [report.reason] if report.reason else []
    for change in checks[:MOST]:
        lines += _lines(change)
    if len(checks) > MOST:
        lines.append(f"and {len(checks) - MOST} more")
    counts = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in report.summary.items())
    lines.append(f"Run {report.run_id[:8]} ({report.origin}, {local_of(report.started_at)}): {report.status}; {counts}")
    return make(settings, level, headline, *lines, *besides)


def _headline(verdict: Change | None, checks: Sequence[Change], found: Report) -> tuple[str, str]:
    start = found.origin != "rerun"
    if verdict is not None:
        if verdict.before == "broken" and verdict.after != "broken" and not start:
            # What broke was a re-run: how the server stands is news only if a check makes it so.
            if verdict.after == "good" and not any(change.before == "blocks" for change in checks):
                return "success", "The checks can be run again"
            if verdict.after == "blocked" and not any(change.after == "blocks" for change in checks):
                return "failure", "The checks can be run again: the server is still unhealthy"
        match verdict.after:
            case "broken":
                return "failure", "The check suite itself failed" + (": nothing was started" if start else "")
            case "blocked":
                goes_on = "The server keeps running, but no server can start: a requirement that the fleet shares fails"
                alone = "The server is unhealthy" if found.gates else goes_on
                return "failure", "The start is blocked" if start else alone
        freed = [change.check for change in checks if change.before == "blocks" and change.check is not None]
        if not start and freed and all(check.scope == "fleet" for check in freed):
            return "success", "Servers can start again"
        return "success", "The server came back" if start else "The server is healthy again"
    if any(change.after == "blocks" for change in checks):
        return "failure", "A critical requirement fails"
    if any(change.after == "warns" for change in checks):
        return "warning", "A check warns"
    return "success", "A check holds again"


def _lines(change: Change) -> list[str]:
    check = change.check
    if check is None or not change.after:
        return [f"{change.title}: no longer checked"]
    if change.after == "ok":
        return [f"✅ {change.title}: {shortened(check.message or 'holds again', LONGEST)}"]
    sign = SIGNS["failure" if change.after == "blocks" else "warning"]
    lines = [f"{sign} {change.title}: {shortened(check.message or check.requirement, LONGEST)}"]
    return [*lines, f"   Fix: {shortened(check.fix, LONGEST)}"] if check.fix else lines
