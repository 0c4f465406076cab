"""A report as /diagnostics shows it, and what prevents knowing more."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from preflight import __version__, times
from preflight.notify.notifier import unattended
from preflight.report.model import DEPENDENCIES, SERVER_PORT, Check, Report
from preflight.web.instance import Instance, uptime
from preflight.web.snapshot import Snapshot

LAST_RERUN = "the last re-run: "

OK, WARNING, CRITICAL, NOT_APPLICABLE = "✅ OK", "⚠️ WARNING", "❌ CRITICAL", "⏭️ NOT APPLICABLE"


def label(check: Check) -> str:
    """The status that clients show."""
    if check.outcome == "not_applicable":
        return NOT_APPLICABLE
    return CRITICAL if check.blocks else WARNING if check.warns else OK


def project(report: Report | None, instance: Instance, checked: Report | None = None) -> dict[str, Any]:
    """A report as GET /diagnostics shows it.

    ``checked`` is the report that the checks are taken from, where that is another one: a run that broke has none.
    """
    checked = checked or report
    settings = instance.settings
    now = time.time()
    body: dict[str, Any] = {
        "status": report.status if report else "not run",
        "generated_at": report.started_at if report else None,
        "age_seconds": max(0.0, round(now - times.epoch(report.started_at) - report.duration, 1)) if report else None,
        "run_id": report.run_id if report else None,
        "origin": report.origin if report else None,
        "reason": report.reason if report else "no suite has run for this instance",
        "summary": checked.summary if checked else {"total": 0},
        "server": {
            "version": __version__,
            "uptime_seconds": uptime(instance.since),
            "worker_uptime_seconds": uptime(instance.worker_since),
            "pid": os.getpid(),
            "host": settings.host,
            "port": settings.port,
            **({"uds": str(settings.uds)} if settings.uds is not None else {}),
            "instance_id": instance.instance_id,
            "restarts": dict(instance.restarts),
            **({"fleet": True} if settings.database_url else {}),
        },
        "notifications": dict(instance.notifications) or unattended(settings),
        **({"fleet": dict(instance.fleet)} if instance.fleet else {}),
        "critical_errors": [_brief(check) for check in checked.blocking] if checked else [],
        "warnings": [_brief(check) for check in checked.warnings] if checked else [],
        "checks": {},
        "api_keys": {},
        "port": {},
        "dependencies": {},
    }
    for check in checked.checks if checked else ():
        body["checks"][check.title] = of_check(check, checked.started_at if checked else None)
        if isinstance(variable := check.details.get("variable"), str):
            body["api_keys"][variable] = {
                "loaded": check.details.get("loaded"),
                "source": check.details.get("source"),
            }
        if check.id == SERVER_PORT:
            body["port"] = dict(check.details)
        if check.id == DEPENDENCIES:
            body["dependencies"] = dict(check.details)
    return body


def _brief(check: Check) -> dict[str, str]:
    return {"title": check.title, "message": check.message, "fix": check.fix}


def of_check(check: Check, asked_at: str | None) -> dict[str, Any]:
    """One check as /diagnostics and /fleet show it; ``asked_at`` is when its run began."""
    return {
        "status": label(check),
        "severity": check.severity,
        "scope": check.scope,
        "outcome": check.outcome,
        "message": check.message,
        "details": check.details,
        "fix": check.fix,
        "duration_ms": round(check.duration * 1000, 3),
        "timestamp": asked_at,
    }


def document(snapshot: Snapshot) -> dict[str, Any]:
    """What is known now: the projected report, and what prevents knowing more.

    If the latest run broke, the document says so, and shows the checks of the last run that did not break.
    """
    body = project(snapshot.latest(), snapshot.instance, snapshot.trusted())
    if found := problems(snapshot):
        body["problem"] = "; ".join(found)
    return body


def problems(snapshot: Snapshot) -> list[str]:
    """What prevents knowing more, in one line each."""
    found, instance = snapshot.latest(), snapshot.instance
    said = [f"a report was set aside: {snapshot.problem}"] if snapshot.problem else []
    if found is not None and found.started_at > times.now():
        made = times.local_of(found.started_at)
        said.append(f"the clock was set back: this report was made at {made}, and it is now {times.local()}")
    if instance.rerun_problem:
        said.append(f"{LAST_RERUN}{instance.rerun_problem}")
    if undelivered := _undelivered(instance.notifications or unattended(instance.settings)):
        said.append(undelivered)
    if away := _away(instance.fleet):
        said.append(away)
    return said


def beside(snapshot: Snapshot) -> str:
    """The problems that the latest report does not tell of itself."""
    found = snapshot.latest()
    told = f"{LAST_RERUN}{found.reason}" if found is not None else ""
    return "; ".join(problem for problem in problems(snapshot) if problem != told)


def _undelivered(tally: Mapping[str, Any]) -> str:
    """Why people may not know, in one line; empty if the last notices arrived, or nobody is to be told."""
    return f"notifications: {tally['problem']}" if tally["problem"] else ""


def _away(fleet: Mapping[str, Any]) -> str:
    """Why the fleet does not hear of this instance, and since when; empty if it does, or there is none."""
    if fleet.get("database") != "away":
        return ""
    return f"fleet: {fleet['problem']}, since {times.minute(times.epoch(fleet['since']))}"


def stamp(snapshot: Snapshot) -> object:
    """A value that changes with the reports and the problems of the document, and not with its ages and counts."""
    found, trusted, instance = snapshot.latest(), snapshot.trusted(), snapshot.instance
    undelivered = _undelivered(told) if (told := instance.notifications) else ""
    runs = found and found.run_id, trusted and trusted.run_id
    return *runs, snapshot.problem, instance.rerun_problem, undelivered, _away(instance.fleet)
