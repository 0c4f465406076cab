"""JSON Schemas of what the routes answer, and the few words that OpenAPI documents are written with."""

from __future__ import annotations

from typing import Any

from preflight.report.model import ORIGINS, OUTCOMES, SCOPES, SEVERITIES, STATES, STATUSES
from preflight.web import paging

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
TRUTH: Schema = {"type": "boolean"}
ANYTHING: Schema = {"type": "object"}


def ref(name: str) -> Schema:
    """A schema that stands among the components."""
    return {"$ref": f"#/components/schemas/{name}"}


def record(optional: Schema | None = None, **required: Schema) -> Schema:
    """An object with these properties and no others."""
    return {
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
        "additionalProperties": False,
    }


def table(of: Schema) -> Schema:
    """An object whose names are data."""
    return {"type": "object", "additionalProperties": of}


def array(of: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": of}


def maybe(one: Schema) -> Schema:
    """That, or null."""
    return {"anyOf": [one, {"type": "null"}]}


def choice(*words: str) -> Schema:
    """One of these words."""
    return {"type": "string", "enum": list(words)}


def answer(about: str, schema: Schema | None = None, kind: str = "application/json") -> Schema:
    """One answer."""
    return {"description": about} | ({"content": {kind: {"schema": schema}}} if schema else {})


def error(about: str) -> Schema:
    """An answer that says what is wrong."""
    return answer(about, ref("Error"))


HTML, CSS = "text/html", "text/css"
PAGE = answer("a page", TEXT, HTML)
SAME = {"description": "not modified: what If-None-Match names is current"}
SEE_OTHER = {"description": "a redirection", "headers": {"Location": {"schema": TEXT, "required": True}}}


def query(name: str, about: str, low: int, high: int, default: int) -> Schema:
    """A whole number in the query."""
    schema = {"type": "integer", "minimum": low, "maximum": high, "default": default}
    return {"name": name, "in": "query", "description": about, "schema": schema}


def in_path(name: str) -> Schema:
    """A text in the path."""
    return {"name": name, "in": "path", "required": True, "schema": TEXT}


A_PAGE = [
    query("limit", "how many to return", 1, paging.LONGEST, paging.USUAL),
    query("offset", "how many to skip", 0, paging.FURTHEST, 0),
]

STATE = choice(*STATES)
STANDING = choice("blocks", "warns")
ROW = {
    **dict.fromkeys(("id", "project", "application", "host", "address", "release", "verdict", "run_id"), TEXT),
    "ending": maybe(TEXT),
    "state": STATE,
    "checks": COUNT,
    **dict.fromkeys(("seen_seconds_ago", "verdict_seconds", "known_seconds", "ended_seconds_ago"), maybe(NUMBER)),
}
"""What an instance says about itself."""

SCHEMAS: dict[str, Schema] = {
    "Error": record(error=TEXT),
    "Health": record(
        status=choice("healthy", "unhealthy", "draining"),
        version=TEXT,
        architecture=TEXT,
        critical_errors=array(TEXT),
        warnings=array(TEXT),
        active_connections=COUNT,
        active_sessions=COUNT,
        timestamp=TEXT,
    ),
    "HealthDraft": {
        "type": "object",
        "properties": {
            "status": choice("pass", "warn", "fail"),
            **dict.fromkeys(("version", "releaseId", "serviceId", "description", "output"), TEXT),
        },
        "required": ["status", "version", "releaseId", "serviceId", "description"],
        "additionalProperties": False,
    },
    "Live": record(status=choice("live")),
    "Ready": record(status=choice("ready", "unhealthy", "draining")),
    "Brief": record(title=TEXT, message=TEXT, fix=TEXT),
    "Check": record(
        status=TEXT,
        severity=choice(*SEVERITIES),
        scope=choice(*SCOPES),
        outcome=choice(*OUTCOMES),
        message=TEXT,
        details=ANYTHING,
        fix=TEXT,
        duration_ms=NUMBER,
        timestamp=TEXT,
    ),
    "Diagnostics": record(
        status=choice(*STATUSES, "not run"),
        generated_at=maybe(TEXT),
        age_seconds=maybe(NUMBER),
        run_id=maybe(TEXT),
        origin=maybe(choice(*ORIGINS)),
        reason=TEXT,
        summary=table(COUNT),
        server=record(
            version=TEXT,
            uptime_seconds=NUMBER,
            worker_uptime_seconds=NUMBER,
            pid=COUNT,
            host=TEXT,
            port=COUNT,
            instance_id=TEXT,
            restarts=ANYTHING,
            optional={"uds": TEXT, "fleet": TRUTH},
        ),
        critical_errors=array(ref("Brief")),
        warnings=array(ref("Brief")),
        checks=table(ref("Check")),
        api_keys=table(record(loaded=maybe(TRUTH), source=maybe(TEXT))),
        port=ANYTHING,
        dependencies=ANYTHING,
        notifications=record(
            configured=COUNT,
            pending=COUNT,
            delivered=COUNT,
            undelivered=COUNT,
            dropped=COUNT,
            last_delivered_at=maybe(TEXT),
            problem=TEXT,
            problem_at=maybe(TEXT),
        ),
        optional={"problem": TEXT, "fleet": record(database=TEXT, since=TEXT, problem=TEXT)},
    ),
    "Run": record(
        run_id=TEXT,
        origin=choice(*ORIGINS),
        status=choice(*STATUSES),
        may_start=TRUTH,
        started_at=TEXT,
        duration=NUMBER,
        address=TEXT,
        selection=TEXT,
        reason=TEXT,
        summary=table(COUNT),
        blocking=array(TEXT),
        warnings=array(TEXT),
        flips=array(record(**{"title": TEXT, "from": TEXT, "to": TEXT})),
    ),
    "Past": record(
        title=TEXT,
        severity=choice(*SEVERITIES),
        flips=COUNT,
        runs=array(
            record(
                run_id=TEXT,
                started_at=TEXT,
                origin=choice(*ORIGINS),
                address=TEXT,
                outcome=choice(*OUTCOMES),
                message=TEXT,
                duration_ms=NUMBER,
            )
        ),
    ),
    "Rerun": record(
        run_id=TEXT,
        state=choice("running", "finished", "broken"),
        started_at=TEXT,
        finished_at=maybe(TEXT),
        checking=maybe(TEXT),
        done=COUNT,
        total=maybe(COUNT),
        status=maybe(choice(*STATUSES)),
        reason=TEXT,
        checks=array(
            record(
                title=TEXT,
                severity=choice(*SEVERITIES),
                outcome=choice(*OUTCOMES),
                message=TEXT,
                fix=TEXT,
                duration_ms=NUMBER,
            )
        ),
    ),
    "Fleet": record(
        status=choice("reached", "away"),
        problem=TEXT,
        generated_at=maybe(TEXT),
        age_seconds=maybe(NUMBER),
        fleet=maybe(ref("FleetOverview")),
    ),
    "FleetOverview": record(
        instances=record(live=COUNT, **dict.fromkeys(STATES, COUNT)),
        releases=array(record(release=TEXT, count=COUNT)),
        checks=array(
            record(
                title=TEXT,
                standing=STANDING,
                count=COUNT,
                of=COUNT,
                message=TEXT,
                seconds=maybe(NUMBER),
                places=array(TEXT),
            )
        ),
        changes=array(
            record(
                title=TEXT,
                before=TEXT,
                after=TEXT,
                count=COUNT,
                message=TEXT,
                first_seconds_ago=maybe(NUMBER),
                last_seconds_ago=maybe(NUMBER),
            )
        ),
    ),
    "FleetInstances": record(total=COUNT, instances=array(record(**ROW, blocking=COUNT, warning=COUNT))),
    "FleetInstance": record(
        **ROW,
        failing=array(
            record(title=TEXT, standing=STANDING, outcome=TEXT, message=TEXT, fix=TEXT, seconds=maybe(NUMBER))
        ),
        changes=array(record(title=TEXT, before=TEXT, after=TEXT, message=TEXT, seconds_ago=maybe(NUMBER))),
        report=maybe(ref("FleetReport")),
        problem=TEXT,
    ),
    "FleetReport": record(
        status=choice(*STATUSES),
        run_id=TEXT,
        origin=choice(*ORIGINS),
        generated_at=TEXT,
        reason=TEXT,
        summary=table(COUNT),
        checks=table(ref("Check")),
    ),
    "TooSoon": record({"retry_after": COUNT}, error=TEXT),
    "Login": {"type": "object", "properties": {"token": TEXT, "next": TEXT}, "required": ["token"]},
}
