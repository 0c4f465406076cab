"""Diagnostics: a projection of the most recent report for this address, whoever made it.

A GET reads a snapshot and never runs a check.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from preflight import __version__, times
from preflight.notify.notifier import unattended
from preflight.report import formats
from preflight.report.model import Check, Report
from preflight.web import pages
from preflight.web.answers import Answer, Header
from preflight.web.instance import Instance, uptime
from preflight.web.negotiation import accepted, unchanged
from preflight.web.snapshot import Snapshot

FRESH = 1.0  # seconds that a made answer is given to others, too: its ages are at most that old

LAST_RERUN = "the last re-run: "

OK, WARNING, CRITICAL, NOT_APPLICABLE = "✅ OK", "⚠️ WARNING", "❌ CRITICAL", "⏭️ NOT APPLICABLE"


def label(check: Check) -> str:
    """The status that clients show."""
    if check.outcome == "not_applicable":
        return NOT_APPLICABLE
    return CRITICAL if check.blocks else WARNING if check.warns else OK


def project(found: Report | None, instance: Instance, checked: Report | None = None) -> dict[str, Any]:
    """A report as GET /diagnostics shows it.

    ``checked`` is the report that the checks are taken from, where that is another one: a run that broke has none.
    """
    checked = checked or found
    settings = instance.settings
    now = time.time()
    body: dict[str, Any] = {
        "status": found.status if found else "not run",
        "generated_at": found.started_at if found else None,
        "age_seconds": max(0.0, round(now - times.epoch(found.started_at) - found.duration, 1)) if found else None,
        "run_id": found.run_id if found else None,
        "origin": found.origin if found else None,
        "reason": found.reason if found else "no suite has run for this instance",
        "summary": checked.summary if checked else {"total": 0},
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
        "notifications": dict(instance.notifications) or unattended(settings),
        "critical_errors": [_brief(check) for check in checked.blocking] if checked else [],
        "warnings": [_brief(check) for check in checked.warnings] if checked else [],
        "checks": {},
        "api_keys": {},
        "port": {},
        "dependencies": {},
    }
    for check in checked.checks if checked else ():
        body["checks"][check.title] = {
            "status": label(check),
            "severity": check.severity,
            "outcome": check.outcome,
            "message": check.message,
            "details": check.details,
            "fix": check.fix,
            "duration_ms": round(check.duration * 1000, 3),
            "timestamp": checked.started_at if checked else None,
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


def document(snapshot: Snapshot) -> dict[str, Any]:
    """What is known now: the projected report, and what stands in the way of knowing more.

    Of a run that broke it says so, and shows the checks of the last run that did not.
    """
    body = project(snapshot.latest(), snapshot.instance, snapshot.trusted())
    if found := problems(snapshot):
        body["problem"] = "; ".join(found)
    return body


def problems(snapshot: Snapshot) -> list[str]:
    """What stands in the way of knowing more, in one line each."""
    found, instance = snapshot.latest(), snapshot.instance
    said = [f"a report was left aside: {snapshot.problem}"] if snapshot.problem else []
    if found is not None and found.started_at > times.now():
        made = times.local_of(found.started_at)
        said.append(f"the clock was set back: this report was made at {made}, and it is {times.local()}")
    if instance.rerun_problem:
        said.append(f"{LAST_RERUN}{instance.rerun_problem}")
    if undelivered := _undelivered(instance.notifications or unattended(instance.settings)):
        said.append(undelivered)
    return said


def _beside(snapshot: Snapshot) -> str:
    """The problems that the latest report does not tell of itself."""
    found = snapshot.latest()
    told = f"{LAST_RERUN}{found.reason}" if found is not None else ""
    return "; ".join(problem for problem in problems(snapshot) if problem != told)


def _undelivered(tally: Mapping[str, Any]) -> str:
    """Why people may not know, in one line; empty where the last notices arrived, or nobody is to be told."""
    return f"notifications: {tally['problem']}" if tally["problem"] else ""


def stamp(snapshot: Snapshot) -> object:
    """Changes whenever the document does, beyond its ages."""
    found, trusted, instance = snapshot.latest(), snapshot.trusted(), snapshot.instance
    undelivered = _undelivered(told) if (told := instance.notifications) else ""
    runs = found and found.run_id, trusted and trusted.run_id
    return *runs, snapshot.problem, instance.rerun_problem, undelivered


@dataclass(frozen=True, slots=True)
class Format:
    """One way to write down what :func:`document` says."""

    media_type: str
    render: Callable[[Snapshot, Mapping[str, Any]], str]
    slow: bool = False
    """Takes long enough that other requests would notice: made in a thread."""


def _as_json(_snapshot: Snapshot, body: Mapping[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _as_text(snapshot: Snapshot, _body: Mapping[str, Any]) -> str:
    found, trusted = snapshot.latest(), snapshot.trusted()
    lines = [formats.as_text(found) if found else formats.NOT_RUN]
    if found is not None and trusted is not None and trusted is not found:
        lines += ["", "The last run that did not break:", formats.as_text(trusted)]
    return "\n".join([*lines, *filter(None, [_beside(snapshot)]), ""])


def _as_health(snapshot: Snapshot, _body: Mapping[str, Any]) -> str:
    return formats.as_health(snapshot.latest(), _beside(snapshot), snapshot.trusted())


FORMATS: Mapping[str, Format] = {
    "json": Format("application/json", _as_json),
    "text": Format("text/plain; charset=utf-8", _as_text, slow=True),
    "health": Format("application/health+json", _as_health),
}
"""By the name that ``?format=`` takes; the first is what everybody gets who does not care."""

MEDIA_TYPES = {**{name: one.media_type for name, one in FORMATS.items()}, "html": "text/html"}
"""HTML is the page, which asks for the JSON itself."""
_ANY = ("", "*/*", MEDIA_TYPES["json"])


class UnknownFormatError(ValueError):
    """A format that nobody knows; the message names those that there are."""


def chosen(scope: Scope, accept: str) -> str:
    """The name of the format that a request asks for; raises UnknownFormatError."""
    if scope["query_string"]:
        for name, value in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True):
            if name == "format":
                if value in MEDIA_TYPES:
                    return str(value)
                raise UnknownFormatError(f"format is one of {', '.join(MEDIA_TYPES)}")
    return "json" if accept in _ANY else accepted(accept, MEDIA_TYPES)


def _entity_tag(name: str, known: object, body: Mapping[str, Any]) -> str:
    """Stands for the run and the process that answers; not for their ages, which change all the time: a weak one."""
    server = body["server"]
    facts = [name, known, body["origin"], body["status"]]
    facts += [server["instance_id"], server["pid"], server["restarts"], body["notifications"]]
    return f'W/"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}"'


@dataclass(frozen=True, slots=True)
class _Made:
    """What was answered last in one format."""

    stamp: object
    until: float  # on the monotonic clock
    etag: str
    whole: Answer
    same: Answer
    """The 304."""


class Diagnostics:
    """The most recent report for this address, whoever made it, in the format that the client wants."""

    def __init__(self) -> None:
        self._made: dict[str, _Made] = {}
        self._making = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        accept = if_none_match = ""
        for name, value in scope["headers"]:
            if name == b"accept":
                accept += ("," if accept else "") + value.decode("latin-1")
            elif name == b"if-none-match":
                if_none_match = value.decode("latin-1")
        try:
            wanted = chosen(scope, accept)
        except UnknownFormatError as error:
            body = json.dumps({"error": str(error)}).encode()
            await Answer(400, MEDIA_TYPES["json"], body).send(send)
            return
        if wanted == "html":
            await pages.page(Request(scope))(scope, receive, send)
            return
        snapshot: Snapshot = scope["app"].state.snapshot
        await snapshot.look()
        made = self._good(snapshot, wanted)
        if made is None and FORMATS[wanted].slow:
            async with self._making:  # one makes it, the others wait for that
                made = self._good(snapshot, wanted)
                if made is None:
                    made = await asyncio.to_thread(self._make, snapshot, wanted)
        elif made is None:
            made = self._make(snapshot, wanted)
        same = if_none_match and unchanged(if_none_match, made.etag)
        await (made.same if same else made.whole).send(send)

    def _good(self, snapshot: Snapshot, name: str) -> _Made | None:
        made = self._made.get(name)
        if made is None or time.monotonic() >= made.until:
            return None
        if stamp(snapshot) != made.stamp:
            return None
        return made

    def _make(self, snapshot: Snapshot, name: str) -> _Made:
        # The stamp first: what changes meanwhile makes the next answer a new one.
        known = stamp(snapshot)
        body = document(snapshot)
        one, etag = FORMATS[name], _entity_tag(name, known, body)
        headers: list[Header] = [(b"etag", etag.encode()), (b"vary", b"accept")]
        made = _Made(
            known, time.monotonic() + FRESH, etag,
            whole=Answer(200, one.media_type, one.render(snapshot, body).encode(), headers),
            same=Answer(304, "", b"", headers, shown=False),
        )  # fmt: skip
        self._made[name] = made
        return made


def routes() -> list[Route]:
    """The routes of one application."""
    return [Route("/diagnostics", Diagnostics(), methods=["GET"])]
