"""Health: public, from memory, names only, and nobody's runs but this instance's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette

from preflight import __version__
from preflight.instance import Instance
from preflight.report import Check, Report
from server import health

KEY = "sk-canary-3f9a1c77e2Zq"


def get(instance: Instance, path: str) -> tuple[int, dict[str, Any]]:
    """One request, spoken in ASGI to the real routes."""
    app = Starlette(routes=health.routes())
    app.state.connections = SimpleNamespace(open=3, sessions=2)
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
    asyncio.run(app({**scope, "state": {"preflight": instance}}, receive, send))
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent))


def test_a_rerun_that_must_not_take_it_out_of_rotation(
    instances: dict[str, Instance], monkeypatch: pytest.MonkeyPatch, make_instance: Callable[..., Instance]
) -> None:
    """With rerun_gates off what fails is named, and the answer stays 200; a drain is a drain."""
    monkeypatch.setenv("PREFLIGHT_RERUN_GATES", "no")
    lenient = make_instance(instances["blocked"].report)
    status, body = get(lenient, "/health")
    assert (status, body["status"], body["critical_errors"]) == (200, "healthy", ["OpenAI API Key"])
    assert get(lenient, "/health/ready")[0] == 200
    lenient.draining = True
    assert get(lenient, "/health")[0] == 503


def test_a_rerun_that_broke(instances: dict[str, Instance]) -> None:
    """It is named, without its reason, and the verdict before it stays."""
    instances["good"].rerun_problem = KEY
    status, body = get(instances["good"], "/health")
    assert (status, body["status"], body["warnings"]) == (200, "healthy", ["The last re-run broke"])
    assert KEY not in json.dumps(body)


@pytest.fixture
def instances(
    make_check: Callable[..., Check], make_report: Callable[..., Report], make_instance: Callable[..., Instance]
) -> dict[str, Instance]:
    """Instances in every state."""
    failing = make_check("OpenAI API Key", "failed", message=KEY, fix=KEY, details={"key": KEY})
    warning = make_check("Memory", "failed", severity="warning", message=KEY)
    return {
        "good": make_instance(make_report()),
        "warnings": make_instance(make_report(make_check(), warning)),
        "blocked": make_instance(make_report(failing, warning)),
        "broken": make_instance(make_report(document={"exitcode": 3})),
        "not run": make_instance(None),
        "draining": make_instance(make_report(), draining=True),
        "blocked and draining": make_instance(make_report(failing), draining=True),
    }


@pytest.mark.parametrize(
    "state,status,code",
    [
        ("good", "healthy", 200),
        ("warnings", "healthy", 200),
        ("blocked", "unhealthy", 503),
        ("broken", "unhealthy", 503),
        ("not run", "healthy", 200),
        ("draining", "draining", 503),
        ("blocked and draining", "draining", 503),
    ],
)
def test_health(instances: dict[str, Instance], state: str, status: str, code: int) -> None:
    """Warnings stay 200; what blocks and a drain do not."""
    instance = instances[state]
    assert health.status(instance) == status
    answered, body = get(instance, "/health")
    assert (answered, body["status"]) == (code, status)
    assert KEY not in json.dumps(body)
    assert get(instance, "/health/ready")[0] == code
    assert get(instance, "/health/ready")[1] == {"status": "ready" if code == 200 else status}
    assert get(instance, "/health/live") == (200, {"status": "live"})


def test_body(instances: dict[str, Instance]) -> None:
    """The body is DESIGN's: names of what troubles, and counts."""
    assert get(instances["blocked"], "/health")[1] == {
        "status": "unhealthy",
        "version": __version__,
        "architecture": health.ARCHITECTURE,
        "critical_errors": ["OpenAI API Key"],
        "warnings": ["Memory"],
        "active_connections": 3,
        "active_sessions": 2,
    }
    assert get(instances["not run"], "/health")[1]["warnings"] == ["Preflight was not run"]
