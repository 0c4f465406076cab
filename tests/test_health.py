"""Health: public, from memory, names only, and nobody's runs but this instance's own."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette

from preflight import __version__
from preflight.report.model import Check, Report
from preflight.web import routes, services
from preflight.web.instance import Instance
from preflight.web.services import Application, Services

KEY = "sk-canary-3f9a1c77e2Zq"


def get(instance: Instance, path: str, accept: str = "") -> tuple[int, dict[str, Any]]:
    """One request, spoken in ASGI to the real routes."""
    status, _headers, body = ask(instance, path, accept)
    return status, body


def ask(instance: Instance, path: str, accept: str) -> tuple[int, dict[bytes, bytes], dict[str, Any]]:
    """The same, with the answer's headers."""
    application = Application("An application", "of few parts", load=SimpleNamespace(connections=3, sessions=2))
    made = Services.made(application, routes.table(), instance)
    app = Starlette(routes=[route.mounted() for route in made.table])
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"accept", accept.encode())] if accept else []
    scope = {"type": "http", "method": "GET", "path": path, "headers": headers, "query_string": b""}
    asyncio.run(app({**scope, "state": {services.STATE: made}}, receive, send))
    body = json.loads(b"".join(message.get("body", b"") for message in sent))
    return sent[0]["status"], dict(sent[0]["headers"]), body


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


def test_what_the_fleet_shares(
    make_check: Callable[..., Check], make_report: Callable[..., Report], make_instance: Callable[..., Instance]
) -> None:
    """It is named, and takes no instance out of rotation; something of the instance's own still does."""
    shared = make_check("Database", "failed", scope="fleet")
    status, body = get(make_instance(make_report(shared)), "/health")
    assert (status, body["status"], body["critical_errors"]) == (200, "healthy", ["Database"])
    assert get(make_instance(make_report(shared)), "/health/ready") == (200, {"status": "ready"})
    both = make_instance(make_report(shared, make_check("Disk", "failed")))
    assert get(both, "/health/ready") == (503, {"status": "unhealthy"})


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
    assert instance.status == status
    answered, body = get(instance, "/health")
    assert (answered, body["status"]) == (code, status)
    assert KEY not in json.dumps(body)
    assert get(instance, "/health/ready")[0] == code
    assert get(instance, "/health/ready")[1] == {"status": "ready" if code == 200 else status}
    assert get(instance, "/health/live") == (200, {"status": "live"})


def test_body(instances: dict[str, Instance]) -> None:
    """Names of what troubles, counts, and when it was so."""
    body = get(instances["blocked"], "/health")[1]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.000Z", body.pop("timestamp"))
    assert body == {
        "status": "unhealthy",
        "version": __version__,
        "architecture": "of few parts",
        "critical_errors": ["OpenAI API Key"],
        "warnings": ["Memory"],
        "active_connections": 3,
        "active_sessions": 2,
    }
    assert get(instances["not run"], "/health")[1]["warnings"] == ["Preflight was not run"]


@pytest.mark.parametrize(
    "state, code, status, output",
    [
        ("good", 200, "pass", None),
        ("warnings", 200, "warn", "Memory"),
        ("blocked", 503, "fail", "OpenAI API Key; Memory"),
        ("not run", 200, "warn", "Preflight was not run"),
        ("draining", 503, "fail", "draining"),
    ],
)
def test_draft(instances: dict[str, Instance], state: str, code: int, status: str, output: str | None) -> None:
    """Who accepts the health-check draft's format gets it, with the status code that the draft wants; names only."""
    found, headers, body = ask(instances[state], "/health", "application/health+json, application/json;q=0.5")
    assert (found, headers[b"content-type"], headers[b"vary"]) == (code, b"application/health+json", b"accept")
    assert (body["status"], body.get("output"), body["releaseId"]) == (status, output, __version__)
    assert KEY not in json.dumps(body)
    for accept in ("*/*", "text/html,*/*;q=0.8", "application/json"):
        found, headers, body = ask(instances[state], "/health", accept)
        assert (found, headers[b"content-type"]) == (code, b"application/json")
        assert "critical_errors" in body


def test_draft_of_a_rerun_that_does_not_gate(
    instances: dict[str, Instance], monkeypatch: pytest.MonkeyPatch, make_instance: Callable[..., Instance]
) -> None:
    """With rerun_gates off the answer is 200, and so it does not say fail."""
    monkeypatch.setenv("PREFLIGHT_RERUN_GATES", "no")
    lenient = make_instance(instances["blocked"].report)
    status, body = get(lenient, "/health", "application/health+json")
    assert (status, body["status"], body["output"]) == (200, "warn", "OpenAI API Key; Memory")
