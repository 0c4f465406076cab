"""Diagnostics: a projection of the newest report for this address, read from real files."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from preflight import __version__
from preflight.notify.notifier import Tally
from preflight.report import model as report
from preflight.report.model import DEPENDENCIES, SERVER_PORT, Check, Report
from preflight.web import projection, services
from preflight.web.endpoints import diagnostics
from preflight.web.instance import Instance
from preflight.web.projection import project
from preflight.web.services import Services
from preflight.web.snapshot import Snapshot

MakeCheck = Callable[..., Check]
MakeReport = Callable[..., Report]
MakeInstance = Callable[..., Instance]


def test_projection(make_check: MakeCheck, make_report: MakeReport, make_instance: MakeInstance) -> None:
    """Every field of the document, from one report."""
    found = make_report(
        make_check("Python Version", message="3.13.9", duration=0.0123456),
        make_check(
            "OpenAI API Key", "failed", message="not set", fix="set it",
            details={"variable": "OPENAI_API_KEY", "loaded": False, "source": None, "verified": False},
        ),
        make_check("Perplexity API Key", severity="warning",
                   details={"variable": "PERPLEXITY_API_KEY", "loaded": True, "source": "env file"}),
        make_check("Dependencies", id=DEPENDENCIES, details={"pytest": "9.2.0"}),
        make_check("OpenAI API", "unknown", severity="warning", message="refused", fix="check"),
        make_check("Environment File", "not_applicable"),
        make_check("Odd", details={"variable": ["not", "a", "name"]}),
        make_check("Server Port", id=SERVER_PORT, details={"host": "127.0.0.1", "port": 8002, "held": True}),
        origin="pytest",
    )  # fmt: skip
    assert project(found, make_instance(found))["notifications"]["configured"] == 0
    assert project(found, make_instance(found, notifications={"pending": 7}))["notifications"] == {"pending": 7}
    restarts = {"count": 2, "last_exit": "SIGKILL", "last_exit_at": "2026-01-02T03:04:07Z"}
    instance = make_instance(found, restarts=restarts)
    body = project(found, instance)
    json.dumps(body, allow_nan=False)
    assert (body["status"], body["origin"], body["run_id"]) == ("failed", "pytest", found.run_id)
    assert body["generated_at"] == "2026-01-02T03:04:05Z"
    assert body["age_seconds"] == pytest.approx(time.time() - 1767323045 - 0.25, abs=5)
    assert body["summary"] == {"passed": 5, "failed": 1, "unknown": 1, "not_applicable": 1, "total": 8}
    server = body["server"]
    assert server.pop("worker_uptime_seconds") == pytest.approx(0, abs=5)
    assert server.pop("uptime_seconds") == pytest.approx(time.time() - 1767323046, abs=5)
    assert server == {
        "version": __version__,
        "pid": os.getpid(),
        "host": "127.0.0.1",
        "port": 8002,
        "instance_id": "abc",
        "restarts": restarts,
    }
    assert body["critical_errors"] == [{"title": "OpenAI API Key", "message": "not set", "fix": "set it"}]
    assert body["warnings"] == [{"title": "OpenAI API", "message": "refused", "fix": "check"}]
    assert body["checks"]["Python Version"] == {
        "status": "✅ OK",
        "severity": "critical",
        "scope": "instance",
        "outcome": "passed",
        "message": "3.13.9",
        "details": {},
        "fix": "",
        "duration_ms": 12.346,
        "timestamp": "2026-01-02T03:04:05Z",
    }
    assert body["api_keys"] == {
        "OPENAI_API_KEY": {"loaded": False, "source": None},
        "PERPLEXITY_API_KEY": {"loaded": True, "source": "env file"},
    }
    assert body["port"] == {"host": "127.0.0.1", "port": 8002, "held": True}
    assert body["dependencies"] == {"pytest": "9.2.0"}


def test_a_run_that_broke(make_check: MakeCheck, make_report: MakeReport, make_instance: MakeInstance) -> None:
    """It says so and why, once, beside the checks of the last run that did not; so do the other formats."""
    before = make_report(make_check("Disk Space", "failed", message="full", fix="make room"), run_id="before")
    why = 'the suite ended without a report (exit code 0) while checking "Probe"'
    broke = report.broken(
        why, run_id="broke", origin="rerun", address="127.0.0.1:8002", started_at="2026-01-02T04:00:00Z", duration=1.0
    )
    instance = make_instance(before, rerun_problem=why)
    snapshot = Snapshot(instance)
    stamp = projection.stamp(snapshot)
    snapshot.accept(broke, None)
    assert projection.stamp(snapshot) != stamp
    body = projection.document(snapshot)
    assert (body["status"], body["run_id"], body["reason"]) == ("broken", "broke", why)
    assert body["problem"] == f"the last re-run: {why}"
    assert body["critical_errors"] == [{"title": "Disk Space", "message": "full", "fix": "make room"}]
    assert body["checks"]["Disk Space"]["timestamp"] == before.started_at
    assert body["summary"] == {"failed": 1, "total": 1}
    text = diagnostics.FORMATS["text"].render(snapshot, body)
    assert text.count(why) == 1
    assert "nothing was started" not in text
    assert text.index("The last run that did not break:\nPreflight: blocked\n127.0.0.1:8002 · 2026-01-02 03:04:05") > 0
    health = json.loads(diagnostics.FORMATS["health"].render(snapshot, body))
    assert (health["status"], health["output"], list(health["checks"])) == ("fail", why, ["Disk Space"])
    instance.rerun_problem = "another one, which could not be published"
    assert projection.document(snapshot)["problem"] == f"the last re-run: {instance.rerun_problem}"


def test_not_run(make_instance: MakeInstance) -> None:
    """Without a report the document has the same keys and says that nothing has run."""
    body = project(None, make_instance())
    assert body["status"] == "not run"
    assert body["reason"] == "no suite has run for this instance"
    assert (body["checks"], body["critical_errors"], body["summary"]) == ({}, [], {"total": 0})
    assert (body["generated_at"], body["age_seconds"], body["run_id"]) == (None, None, None)


@pytest.mark.parametrize(
    "severity,outcome,label",
    [
        ("critical", "passed", "✅ OK"),
        ("critical", "failed", "❌ CRITICAL"),
        ("critical", "error", "❌ CRITICAL"),
        ("critical", "timeout", "❌ CRITICAL"),
        ("critical", "skipped", "❌ CRITICAL"),
        ("critical", "unknown", "⚠️ WARNING"),
        ("critical", "ignored", "⚠️ WARNING"),
        ("critical", "not_applicable", "⏭️ NOT APPLICABLE"),
        ("warning", "passed", "✅ OK"),
        ("warning", "failed", "⚠️ WARNING"),
        ("warning", "not_applicable", "⏭️ NOT APPLICABLE"),
    ],
)
def test_label(make_check: MakeCheck, severity: str, outcome: str, label: str) -> None:
    """The status that clients show follows severity and outcome."""
    assert projection.label(make_check(severity=severity, outcome=outcome)) == label


def test_what_people_were_not_told(make_report: MakeReport, make_instance: MakeInstance) -> None:
    """A notice that did not arrive is a problem for as long as the tally has it."""
    tally = Tally(1, undelivered=1, problem="json: HTTP 500", problem_at="2026-01-02T03:05:00Z")
    instance = make_instance(make_report(), notifications=asdict(tally))
    snapshot = Snapshot(instance)
    assert projection.document(snapshot)["problem"] == "notifications: json: HTTP 500"
    before = projection.stamp(snapshot)
    instance.notifications = asdict(replace(tally, problem="", problem_at=None))
    assert "problem" not in projection.document(snapshot)
    assert projection.stamp(snapshot) != before


def get(app: Starlette, made: Services) -> tuple[int, dict[bytes, bytes], Any]:
    """One request, spoken in ASGI to the real route."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/diagnostics", "headers": [], "query_string": b""}
    asyncio.run(app({**scope, "state": {services.STATE: made}}, receive, send))
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], dict(sent[0]["headers"]), json.loads(body)


def test_route(
    make_report: MakeReport, make_instance: MakeInstance, make_services: Callable[..., Services], home: Path
) -> None:
    """GET answers with the projection, is never cached, and says which report it left aside."""
    made = make_services(make_instance(make_report()))
    app = Starlette(routes=[route.mounted() for route in made.table])
    status, headers, body = get(app, made)
    assert status == 200
    assert headers[b"cache-control"] == b"no-store"
    assert body["status"] == "passed"
    assert "problem" not in body
    (home / "state").mkdir()
    (home / "state" / "report.json").write_text("{")
    status, _, body = get(app, made)
    assert (status, body["status"]) == (200, "passed")
    assert body["problem"].startswith("a report was set aside: ")
    report.publish(
        make_report(origin="rerun", run_id="other", started_at="2026-01-02T04:00:00Z"), home / "state" / "report.json"
    )
    assert get(app, made)[2]["origin"] == "rerun"
