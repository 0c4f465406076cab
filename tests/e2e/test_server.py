"""The server behind the preflight, over real HTTP and WebSockets."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.e2e.place import Place, get, make_place
from tests.waiting import PATIENCE, until

HEALTH = {
    "status",
    "version",
    "architecture",
    "critical_errors",
    "warnings",
    "active_connections",
    "active_sessions",
    "timestamp",
}
DIAGNOSTICS = {
    "status",
    "generated_at",
    "age_seconds",
    "run_id",
    "origin",
    "summary",
    "server",
    "critical_errors",
    "warnings",
    "checks",
    "api_keys",
    "port",
    "dependencies",
}
CHECK = {"status", "severity", "outcome", "message", "details", "fix", "duration_ms", "timestamp", "scope"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A served instance of the demo profile, for tests that leave its report as it is."""
    place = make_place(tmp_path_factory.mktemp("served") / "place")
    instance = place.start("--demo").until_ready()
    yield place
    instance.stop()
    place.close()


def answer(place: Place, path: str) -> dict[str, Any]:
    """The body of an answer that must be 200."""
    status, text = get(place.url + path)
    assert status == 200, text
    body: dict[str, Any] = json.loads(text)
    return body


def test_health(served: Place) -> None:
    """/health says how it is, by names only."""
    body = answer(served, "/health")
    assert body.keys() == HEALTH
    assert body["status"] == "healthy"
    assert body["critical_errors"] == []
    assert body["warnings"] == []
    assert all(isinstance(body[name], int) for name in ("active_connections", "active_sessions"))
    assert abs(time.time() - datetime.fromisoformat(body["timestamp"]).timestamp()) < PATIENCE


def test_live_and_ready(served: Place) -> None:
    """The process answers, and the verdict is good."""
    assert answer(served, "/health/live")["status"] == "live"
    assert answer(served, "/health/ready")["status"] == "ready"


def test_diagnostics(served: Place) -> None:
    """/diagnostics projects the report of the start: every key, every check by its title, a label for each."""
    body = answer(served, "/diagnostics")
    assert body.keys() >= DIAGNOSTICS
    assert body["run_id"] == served.report()["run_id"]
    assert body["origin"] == "start"
    assert body["status"] == "passed"
    counted = body["summary"]
    assert counted.keys() == {"passed", "not_applicable", "total"}
    assert counted["passed"] + counted["not_applicable"] == counted["total"] == len(body["checks"])
    assert body["age_seconds"] >= 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", body["generated_at"])
    assert body["server"].keys() >= {"version", "uptime_seconds", "pid", "port", "restarts"}
    assert body["server"]["port"] == served.port
    assert body["server"]["pid"] in served.started[0].family()
    assert all(check.keys() == CHECK for check in body["checks"].values())
    assert body["checks"]["Python Version"]["status"] == "✅ OK"
    assert body["checks"]["OpenAI API Key"]["status"] == "⏭️ NOT APPLICABLE"
    assert body["dependencies"]["fastapi"]
    assert body["port"]["held"] is True


def test_api_keys_without_values(place: Place) -> None:
    """Of a key /diagnostics says whether it is loaded and from where, and nothing else."""
    place.environ |= {"PREFLIGHT_PYTHON": ">=3.11", "OPENAI_API_KEY": "sk-canary-0123456789"}
    place.write_env_file(PERPLEXITY_API_KEY="pplx-canary-0123456789")
    started = place.start("--offline").until_ready()
    body = answer(place, "/diagnostics")
    assert body["api_keys"] == {
        "OPENAI_API_KEY": {"loaded": True, "source": "environment"},
        "PERPLEXITY_API_KEY": {"loaded": True, "source": "env file"},
    }
    assert started.stop() == 0


def test_health_lists_warnings_by_name(place: Place) -> None:
    """A server that started with warnings is healthy, and names them."""
    started = place.start("--demo", "--app", "server.app:create_app", PREFLIGHT_MEMORY="900 TiB").until_ready()
    body = answer(place, "/health")
    assert body["status"] == "healthy"
    assert body["warnings"] == ["Memory"]
    assert answer(place, "/diagnostics")["checks"]["Memory"]["status"] == "⚠️ WARNING"
    assert started.stop() == 0


def test_a_get_runs_no_check(served: Place) -> None:
    """Asking changes no report and starts no process."""
    before = served.report_file.stat()
    family = sorted(served.started[0].family())
    first = answer(served, "/diagnostics")
    for path in ("/health", "/health/live", "/health/ready", "/diagnostics") * 5:
        get(served.url + path)
        assert sorted(served.started[0].family()) == family
    assert served.report_file.stat().st_mtime_ns == before.st_mtime_ns
    assert answer(served, "/diagnostics")["run_id"] == first["run_id"]


def test_reports_of_others(place: Place) -> None:
    """What somebody wrote over the report is left aside, and said; health stays as it was.

    A report for another address is none of ours; a newer one for this address shows with its origin, at once, and does
    not move /health.
    """
    place.start("--demo").until_ready()
    begun = answer(place, "/diagnostics")
    assert begun["origin"] == "start"
    for content in ("", "{", '{"preflight": 1}', "[" * 100_000, "\0"):
        place.report_file.write_text(content)
        body = answer(place, "/diagnostics")
        assert "a report was set aside" in body["problem"]
        assert body["origin"] == "start"
        assert answer(place, "/health")["status"] == "healthy"

    other = make_place(place.folder / "other")
    other.environ["PREFLIGHT_STATE_DIR"] = str(place.state)
    code = other.run("--check-only", "--demo", "--app", "small:app").process.returncode
    other.close()
    assert code == 0
    assert place.report()["address"] == f"127.0.0.1:{other.port}"
    found = answer(place, "/diagnostics")
    assert (found["origin"], found["run_id"]) == ("start", begun["run_id"])

    check = place.run("--check-only", "--offline", "--app", "small:app", PREFLIGHT_PYTHON=">=3.99")
    assert check.process.returncode == 1
    body = answer(place, "/diagnostics")
    assert body["origin"] == "check"
    assert body["status"] == "failed"
    assert body["run_id"] == place.report()["run_id"]
    assert "Python Version" in [error["title"] for error in body["critical_errors"]]
    assert body["checks"]["Python Version"]["status"] == "❌ CRITICAL"
    health = answer(place, "/health")
    assert (health["status"], health["critical_errors"]) == ("healthy", [])

    command = ("-m", "pytest", "preflight", "--demo", f"--port={place.port}", "-q")
    pytest_run = place.spawn(sys.executable, *command, environ={"PREFLIGHT_APP": "small:app"})
    assert pytest_run.wait() == 0, pytest_run.output
    assert answer(place, "/diagnostics")["origin"] == "pytest"


def test_chat(served: Place) -> None:
    """Whoever connects is told what this is and counted; a session counts once it is initialised."""
    with connect(f"ws://127.0.0.1:{served.port}/ws/chat") as chat:
        hello = json.loads(chat.recv(timeout=30))
        assert hello["type"] == "connected"
        assert hello["session_id"]
        health = answer(served, "/health")
        assert (health["active_connections"], health["active_sessions"]) == (1, 0)
        chat.send(json.dumps({"type": "init"}))
        assert json.loads(chat.recv(timeout=30))["type"] == "initialized"
        assert answer(served, "/health")["active_sessions"] == 1
    until(lambda: answer(served, "/health")["active_connections"] == 0, "the connection is counted out")


def test_two_chats(served: Place) -> None:
    """Connections are counted one by one and have sessions of their own."""
    url = f"ws://127.0.0.1:{served.port}/ws/chat"
    with connect(url) as one, connect(url) as other:
        ids = {json.loads(chat.recv(timeout=PATIENCE))["session_id"] for chat in (one, other)}
        assert len(ids) == 2
        assert answer(served, "/health")["active_connections"] == 2
    until(lambda: answer(served, "/health")["active_connections"] == 0, "the connections are counted out")
