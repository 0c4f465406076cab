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
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from preflight import __version__, formats, report, times
from preflight.instance import Instance, uptime
from preflight.notify import unattended
from preflight.report import Check, Report, ReportError
from server import pages
from server.answers import Answer, Header
from server.negotiation import accepted, unchanged

FRESH = 1.0  # seconds that a made answer is given to others, too: its ages are at most that old
NO_STORE: Header = (b"cache-control", b"no-store")

OK, WARNING, CRITICAL, NOT_APPLICABLE = "✅ OK", "⚠️ WARNING", "❌ CRITICAL", "⏭️ NOT APPLICABLE"


class _Read(NamedTuple):
    """What was found at a look into the report's file."""

    seen: tuple[int, int, int] | None = None
    """Tells a change; None where there is no file."""
    report: Report | None = None
    problem: str = ""


class Snapshot:
    """The published report, read again only when its file has changed; from any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = _Read()
        self._newest: tuple[int, int, int] | None = None

    @property
    def problem(self) -> str:
        """Why the last report that was found could not be used; empty where it could."""
        return self._read.problem

    def latest(self, instance: Instance) -> Report | None:
        """The newest report for the instance's address: its own, or one that another process wrote since."""
        seen, found, _problem = self.refresh()
        own = instance.report
        if found is None or found.address != instance.settings.address:
            return own
        # An own report from the future tells that the clock was set back: then the file, which began as our own
        # report, is what came after it.
        if own is not None and seen != self._newest and found.started_at < own.started_at <= times.now():
            return own
        self._newest = seen
        return found

    def refresh(self) -> _Read:
        """Look whether the file has changed, and read it if so, which takes time in proportion to the report."""
        try:
            status = os.stat(self.path)
        except OSError:
            self._read = _Read(problem=self._read.problem)  # a problem stays until there is a good report
            return self._read
        # A new report is a new file: the inode tells even where the clock does not.
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen != self._read.seen:
            try:
                self._read = _Read(seen, report.load_or_set_aside(self.path))
            except ReportError as error:
                # Not trusted, not fatal: what this instance knows itself stays.
                self._read = _Read(seen, problem=str(error))
        return self._read


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
        "age_seconds": max(0.0, round(now - times.epoch(found.started_at) - found.duration, 1)) if found else None,
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
        "notifications": dict(instance.notifications) or unattended(settings),
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


def snapshot(app: Any, instance: Instance) -> Snapshot:
    """The application's one look at the published report."""
    if not hasattr(app.state, "snapshot"):
        app.state.snapshot = Snapshot(instance.settings.report_path)
    kept: Snapshot = app.state.snapshot
    return kept


def document(app: Any, instance: Instance) -> dict[str, Any]:
    """What is known now: the projected report, and what stands in the way of knowing more."""
    kept = snapshot(app, instance)
    found = kept.latest(instance)
    body = project(found, instance)
    problems = [f"a report was left aside: {kept.problem}"] if kept.problem else []
    if found is not None and found.started_at > times.now():
        problems.append(f"the clock was set back: this report was made at {found.started_at}, and it is {times.now()}")
    if instance.rerun_problem:
        problems.append(f"the last re-run: {instance.rerun_problem}")
    if undelivered := _undelivered(body["notifications"]):
        problems.append(undelivered)
    if problems:
        body["problem"] = "; ".join(problems)
    return body


def _undelivered(tally: Mapping[str, Any]) -> str:
    """Why people may not know, in one line; empty where the last notice arrived, or nobody is to be told."""
    if not tally["problem"] or (tally["problem_at"] or "~") < (tally["last_delivered_at"] or ""):
        return ""
    return f"notifications: {tally['problem']}"


def stamp(app: Any, instance: Instance) -> object:
    """Changes whenever the document does, beyond its ages; costs one look at the report's file."""
    kept = snapshot(app, instance)
    found = kept.latest(instance)
    undelivered = _undelivered(told) if (told := instance.notifications) else ""
    return found and found.run_id, kept.problem, instance.rerun_problem, undelivered


@dataclass(frozen=True, slots=True)
class Format:
    """One way to write down what :func:`document` says."""

    media_type: str
    render: Callable[[Report | None, Mapping[str, Any]], str]
    slow: bool = False
    """Takes long enough that other requests would notice: made in a thread."""


def _as_json(_found: Report | None, body: Mapping[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _as_text(found: Report | None, body: Mapping[str, Any]) -> str:
    lines = [formats.as_text(found) if found else formats.NOT_RUN, *([body["problem"]] if "problem" in body else [])]
    return "\n".join([*lines, ""])


def _as_health(found: Report | None, body: Mapping[str, Any]) -> str:
    return formats.as_health(found, body.get("problem", ""))


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


def _entity_tag(name: str, body: Mapping[str, Any]) -> str:
    """Stands for the run and the process that answers; not for their ages, which change all the time: a weak one."""
    server = body["server"]
    facts = [name, body["run_id"], body["origin"], body["status"], body.get("problem")]
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
        instance: Instance = scope["state"]["preflight"]
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
            await Answer(400, MEDIA_TYPES["json"], body, [NO_STORE]).send(send)
            return
        if wanted == "html":
            await pages.page(Request(scope))(scope, receive, send)
            return
        made = self._good(scope["app"], instance, wanted)
        if made is None and FORMATS[wanted].slow:
            async with self._making:  # one makes it, the others wait for that
                made = self._good(scope["app"], instance, wanted)
                if made is None:
                    made = await asyncio.to_thread(self._make, scope["app"], instance, wanted)
        elif made is None:
            made = self._make(scope["app"], instance, wanted)
        same = if_none_match and unchanged(if_none_match, made.etag)
        await (made.same if same else made.whole).send(send)

    def _good(self, app: Any, instance: Instance, name: str) -> _Made | None:
        made = self._made.get(name)
        if made is None or time.monotonic() >= made.until:
            return None
        if stamp(app, instance) != made.stamp:
            return None
        return made

    def _make(self, app: Any, instance: Instance, name: str) -> _Made:
        # The stamp first: what changes meanwhile makes the next answer a new one.
        known, found = stamp(app, instance), snapshot(app, instance).latest(instance)
        body = document(app, instance)
        one, etag = FORMATS[name], _entity_tag(name, body)
        headers = [NO_STORE, (b"etag", etag.encode()), (b"vary", b"accept")]
        made = _Made(
            known, time.monotonic() + FRESH, etag,
            whole=Answer(200, one.media_type, one.render(found, body).encode(), headers),
            same=Answer(304, "", b"", headers, shown=False),
        )  # fmt: skip
        self._made[name] = made
        return made


def routes() -> list[Route]:
    """The routes of one application."""
    return [Route("/diagnostics", Diagnostics(), methods=["GET"])]
