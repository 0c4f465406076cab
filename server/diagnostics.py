"""Diagnostics: a projection of the most recent report for this address, whoever made it.

A GET reads a snapshot and never runs a check.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from preflight import __version__, report
from preflight.instance import Instance, uptime
from preflight.report import Check, Report, ReportError

OK, WARNING, CRITICAL, NOT_APPLICABLE = "✅ OK", "⚠️ WARNING", "❌ CRITICAL", "⏭️ NOT APPLICABLE"


class Snapshot:
    """The published report, read again only when its file has changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem = ""
        self._seen: tuple[int, int, int] | None = None
        self._report: Report | None = None

    def latest(self, instance: Instance) -> Report | None:
        """The newest report for the instance's address: its own, or one that another process wrote since."""
        self._refresh()
        own, found = instance.report, self._report
        if found is None or found.address != instance.settings.address:
            return own
        if own is not None and found.started_at < own.started_at:
            return own
        return found

    def _refresh(self) -> None:
        try:
            status = os.stat(self.path)
        except OSError:
            self._seen = self._report = None  # a problem with the last one stays until there is a good one
            return
        # A new report is a new file: the inode tells even where the clock does not.
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen == self._seen:
            return
        self._seen, self.problem = seen, ""
        try:
            self._report = report.load_or_set_aside(self.path)
        except ReportError as error:
            # Not trusted, not fatal: what this instance knows itself stays.
            self._report, self.problem = None, str(error)


def label(check: Check) -> str:
    """The status that clients show."""
    if check.outcome == "not_applicable":
        return NOT_APPLICABLE
    return CRITICAL if check.blocks else WARNING if check.warns else OK


def project(found: Report | None, instance: Instance) -> dict[str, Any]:
    """The document that GET /diagnostics answers with; a value of a secret cannot be in a report."""
    settings = instance.settings
    now = time.time()
    body: dict[str, Any] = {
        "status": found.status if found else "not run",
        "generated_at": found.started_at if found else None,
        "age_seconds": round(now - report.epoch(found.started_at) - found.duration, 1) if found else None,
        "run_id": found.run_id if found else None,
        "origin": found.origin if found else None,
        "reason": found.reason if found else "no suite has run for this instance",
        "summary": found.summary if found else {"total": 0},
        "server": {
            "version": __version__,
            "uptime_seconds": uptime(instance.since),
            "worker_uptime_seconds": uptime(instance.worker_since),
            "pid": os.getpid(),
            "host": settings.host,
            "port": settings.port,
            "instance_id": instance.instance_id,
            "restarts": dict(instance.restarts),
        },
        "critical_errors": [_brief(check) for check in found.blocking] if found else [],
        "warnings": [_brief(check) for check in found.warnings] if found else [],
        "checks": {},
        "api_keys": {},
        "port": {},
        "dependencies": {},
    }
    for check in found.checks if found else ():
        body["checks"][check.title] = {
            "status": label(check),
            "severity": check.severity,
            "outcome": check.outcome,
            "message": check.message,
            "details": check.details,
            "fix": check.fix,
            "duration_ms": round(check.duration * 1000, 3),
            "timestamp": found.started_at if found else None,
        }
        if isinstance(variable := check.details.get("variable"), str):
            body["api_keys"][variable] = {
                "loaded": check.details.get("loaded"),
                "source": check.details.get("source"),
            }
        if check.title == "Server Port":
            body["port"] = dict(check.details)
        if check.title == "Dependencies":
            body["dependencies"] = dict(check.details)
    return body


def _brief(check: Check) -> dict[str, str]:
    return {"title": check.title, "message": check.message, "fix": check.fix}


async def diagnostics(request: Request) -> JSONResponse:
    """The most recent report for this address, whoever made it."""
    instance: Instance = request.state.preflight
    state = request.app.state
    if not hasattr(state, "snapshot"):
        state.snapshot = Snapshot(instance.settings.report_path)
    found = state.snapshot.latest(instance)
    body = project(found, instance)
    if state.snapshot.problem:
        body["problem"] = f"a report was left aside: {state.snapshot.problem}"
    return JSONResponse(body, headers={"Cache-Control": "no-store"})


routes = [Route("/diagnostics", diagnostics)]
