"""Metrics: what a scrape shows, by names and units that promtool is content with."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import parser

from preflight import __version__
from preflight.notify.notifier import Tally
from preflight.report import model as report
from preflight.report.model import Report
from preflight.web import services
from preflight.web.services import Services
from server.app import create_app
from server.chat.metrics import BUCKETS, Histogram, collect
from tests.scraping import MakeCheck, MakeInstance, MakeReport, made, scrape

ROOT = Path(__file__).parents[1]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    """What Prometheus itself would read."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


@pytest.fixture
def failed(make_check: MakeCheck, make_report: MakeReport) -> Report:
    """A report of a re-run with a bit of everything."""
    return make_report(
        make_check("Python Version", duration=0.25),
        make_check("OpenAI API Key", "failed"),
        make_check("OpenAI API", "unknown"),
        make_check("Environment File", "not_applicable"),
        make_check('Odd "title" \\ of\ntwo lines', "timeout", severity="warning"),
        origin="rerun",
    )


def test_what_a_scrape_shows(failed: Report, make_instance: MakeInstance) -> None:
    """Every check by title, severity and outcome; the run; the server."""
    serving = made(make_instance(failed, restarts={"count": 4}))
    for _ in range(2):
        serving.reruns.count("failed")
    content_type, text = scrape(serving)
    assert content_type.startswith("text/plain; version=")
    found = samples(text)
    odd = 'Odd "title" \\ of'
    for title, severity, outcome, ok, blocks in (
        ("Python Version", "critical", "passed", 1, 0),
        ("OpenAI API Key", "critical", "failed", 0, 1),
        ("OpenAI API", "critical", "unknown", 0, 0),
        ("Environment File", "critical", "not_applicable", 1, 0),
        (odd, "warning", "timeout", 0, 0),
    ):
        labels = {"check": title, "severity": severity}
        assert value(found, "preflight_check_ok", **labels) == ok
        assert value(found, "preflight_check_blocks", **labels) == blocks
        assert value(found, "preflight_check_outcome", **labels, outcome=outcome) == 1
        assert value(found, "preflight_check_duration_seconds", **labels) == (0.25 if title == "Python Version" else 0)
    assert sum(name == "preflight_check_outcome" for name, _ in found) == 5
    assert value(found, "preflight_may_start") == 0
    assert value(found, "preflight_healthy") == 0
    assert value(found, "preflight_last_run_timestamp_seconds") == pytest.approx(1767323045.25)
    assert value(found, "preflight_last_run_age_seconds") == pytest.approx(time.time() - 1767323045.25, abs=5)
    assert value(found, "preflight_last_run_duration_seconds") == 0.25
    assert value(found, "preflight_last_run_info", origin="rerun", status="failed") == 1
    assert value(found, "preflight_reruns_total", status="failed") == 2
    assert value(found, "preflight_reruns_total", status="passed") == 0
    assert value(found, "preflight_worker_restarts_total") == 4
    assert value(found, "preflight_http_requests_in_flight") == 1
    version = ".".join(map(str, sys.version_info[:3]))
    assert value(found, "preflight_build_info", version=__version__, python=version) == 1
    assert serving.metrics.in_flight == 0


def test_a_report_that_changes(make_check: MakeCheck, make_report: MakeReport, make_instance: MakeInstance) -> None:
    """Each scrape reads the snapshot anew, and an outcome that is over leaves no series."""
    instance = make_instance(make_report(make_check("One", "failed")))
    serving = made(instance)
    assert value(samples(scrape(serving)[1]), "preflight_check_ok", check="One", severity="critical") == 0
    instance.report = make_report(make_check("One"))
    found = samples(scrape(serving)[1])
    assert value(found, "preflight_check_ok", check="One", severity="critical") == 1
    assert [dict(labels)["outcome"] for name, labels in found if name == "preflight_check_outcome"] == ["passed"]
    assert value(found, "preflight_may_start") == value(found, "preflight_healthy") == 1
    instance.draining = True
    assert value(samples(scrape(serving)[1]), "preflight_healthy") == 0


def test_notifications(make_instance: MakeInstance, failed: Report) -> None:
    """What became of the notices; nothing where there is nobody to tell."""
    tally = Tally(2, pending=1, delivered=4, undelivered=3, dropped=2)
    found = samples(scrape(made(make_instance(failed, notifications=asdict(tally))))[1])
    for result, count in (("delivered", 4), ("undelivered", 3), ("dropped", 2)):
        assert value(found, "preflight_notifications_total", result=result) == count
    assert value(found, "preflight_notifications_pending") == 1
    nobody = samples(scrape(made(make_instance(failed)))[1])
    assert value(nobody, "preflight_notifications_total", result="undelivered") == 0


def test_a_run_that_broke(
    make_check: MakeCheck, make_report: MakeReport, make_instance: MakeInstance, home: Path
) -> None:
    """It is the last run, and no good one; the checks stay those of the run before, which is dated."""
    instance = make_instance(make_report(make_check("One", "failed"), started_at="2026-01-02T03:04:05Z"))
    ended = report.broken(
        "hung", run_id="b", origin="rerun", address=instance.settings.address,
        started_at="2026-01-02T04:04:05Z", duration=1.0,
    )  # fmt: skip
    (home / "state").mkdir(mode=0o700)
    report.publish(ended, instance.settings.state.report)
    found = samples(scrape(made(instance))[1])
    assert value(found, "preflight_last_run_info", origin="rerun", status="broken") == 1
    assert value(found, "preflight_may_start") == 0
    assert value(found, "preflight_check_blocks", check="One", severity="critical") == 1
    assert value(found, "preflight_last_trusted_run_timestamp_seconds") == pytest.approx(1767323045.25)
    assert value(found, "preflight_last_run_timestamp_seconds") == pytest.approx(1767326646)
    instance.report = None
    names = {name for name, _ in samples(scrape(made(instance))[1])}
    assert "preflight_last_run_info" in names
    assert not [name for name in names if name.startswith(("preflight_check", "preflight_last_trusted"))]


def test_not_run(make_instance: MakeInstance) -> None:
    """Without a report nothing is claimed of checks, and the verdict is not good."""
    found = samples(scrape(made(make_instance(None)))[1])
    assert value(found, "preflight_may_start") == 0
    assert not [name for name, _ in found if name.startswith(("preflight_check", "preflight_last"))]


@pytest.mark.parametrize("path, counted", [("/chat/schema.json", 1), ("/health", 0), ("/diagnostics", 0)])
def test_which_requests_are_in_flight(make_instance: MakeInstance, path: str, counted: int) -> None:
    """All but those that are answered at once, before the framework's own way."""
    instance = make_instance(None)
    app: Any = create_app()
    serving = Services.made(app.web.application, app.web.table, instance)
    seen: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        assert message.get("status", 200) == 200
        seen.append(serving.metrics.in_flight)

    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "client": ("127.0.0.1", 50000)}
    state = {services.STATE: serving}
    asyncio.run(app({**scope, "headers": [(b"host", b"localhost")], "state": state}, receive, send))
    assert set(seen) == {counted}
    assert serving.metrics.in_flight == 0


def test_turns(make_instance: MakeInstance, failed: Report) -> None:
    """The chat's own metrics. A histogram: buckets add up, and a bound belongs to its bucket."""
    turns, load = Histogram(BUCKETS), cast(services.Load, SimpleNamespace(connections=3, sessions=2))
    for seconds in (0.01, 0.011, 3.0, 500.0):
        turns.observe(seconds)
    found = samples(scrape(made(make_instance(failed), metrics=lambda _load: collect(turns, load)))[1])
    assert value(found, "preflight_chat_connections") == 3
    assert value(found, "preflight_chat_sessions") == 2
    name = "preflight_chat_turn_duration_seconds"
    assert value(found, f"{name}_bucket", le="0.01") == 1
    assert value(found, f"{name}_bucket", le="0.025") == value(found, f"{name}_bucket", le="2.5") == 2
    assert value(found, f"{name}_bucket", le="120.0") == 3
    assert value(found, f"{name}_bucket", le="+Inf") == value(found, f"{name}_count") == 4
    assert value(found, f"{name}_sum") == pytest.approx(503.021)
    assert len(Histogram(BUCKETS).cumulative) == len(BUCKETS) + 1


def test_open_metrics(make_instance: MakeInstance, failed: Report) -> None:
    """Who accepts OpenMetrics gets it."""
    content_type, text = scrape(made(make_instance(failed)), "application/openmetrics-text")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


@pytest.mark.slow
def test_promtool(make_instance: MakeInstance, failed: Report) -> None:
    """Names, units and help keep to Prometheus' conventions."""
    promtool = shutil.which("promtool")
    if promtool is None and not os.environ.get("CI"):
        pytest.skip("promtool is not installed (Debian: prometheus)")
    assert promtool is not None
    _, text = scrape(made(make_instance(failed)))
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    # It does complain of what does not keep to them.
    bad = re.sub(r"preflight_reruns_total", "preflight_reruns", text)
    assert subprocess.run([promtool, "check", "metrics"], input=bad, capture_output=True, text=True).returncode != 0


@pytest.mark.slow
def test_no_start_waits_for_the_library() -> None:
    """The application imports without prometheus_client: it comes with the first scrape."""
    program = "import sys, server.app; server.app.create_app(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = done.stdout.split()
    assert "preflight.web.metrics" in modules
    assert "prometheus_client" not in modules
