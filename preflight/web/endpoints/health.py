"""Health: public, from memory, names only. It follows only this instance's own runs."""

from __future__ import annotations

import json
import time
from typing import Any

from starlette.types import Receive, Scope, Send

from preflight import __version__
from preflight.report.model import Report
from preflight.times import stamp
from preflight.web import services
from preflight.web.answers import Answer, Header
from preflight.web.negotiation import accepted

JSON = "application/json"
MEDIA_TYPES = {"json": JSON, "health": "application/health+json"}
VARY: Header = (b"vary", b"accept")

Facts = tuple[str, Report | None, bool, int, int, int, int]
"""What an answer is made from: the instance's status, its report, whether the last re-run broke, how many workers are
missing, connections, sessions, and seconds since the epoch."""


def _answer(body: dict[str, Any], *, good: bool, media_type: str = JSON) -> Answer:
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return Answer(200 if good else 503, media_type, text.encode(), [VARY], shown=False)


class Health:
    """Whether this instance is healthy, and the names of its problems; by Accept in the health-check draft's format."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[Facts, Answer]] = {}

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        accept = ""
        for name, value in scope["headers"]:
            if name == b"accept":
                accept += ("," if accept else "") + value.decode("latin-1")
        wanted = "json" if accept in ("", "*/*", JSON) else accepted(accept, MEDIA_TYPES)
        serving = services.of(scope)
        instance, load, board = serving.instance, serving.load, serving.instance.board
        # Within a second, these are nearly always the same as the last time.
        facts: Facts = (
            instance.status, instance.report, bool(instance.rerun_problem), board.missing,
            load.connections, load.sessions, int(time.time()),
        )  # fmt: skip
        made = self._made.get(wanted)
        if made is None or made[0] != facts:
            made = self._made[wanted] = (facts, _make(wanted, serving.application.architecture, facts))
        await made[1].send(send)


def _make(wanted: str, architecture: str, facts: Facts) -> Answer:
    state, report, rerun_broke, missing, connections, sessions, at = facts
    warnings = [check.title for check in report.warnings] if report else ["Preflight was not run"]
    if rerun_broke:
        warnings.append("The last re-run broke")
    if missing:
        warnings.append("A worker does not serve" if missing == 1 else f"{missing} workers do not serve")
    errors = [check.title for check in report.blocking] if report else []
    if wanted == "health":
        return _draft(state, architecture, errors, warnings)
    body = {
        "status": state,
        "version": __version__,
        "architecture": architecture,
        "critical_errors": errors,
        "warnings": warnings,
        "active_connections": connections,
        "active_sessions": sessions,
        "timestamp": stamp(at),
    }
    return _answer(body, good=state == "healthy")


def _draft(state: str, architecture: str, errors: list[str], warnings: list[str]) -> Answer:
    """As draft-inadarei-api-health-check-06 wants it: "fail" with 503, "pass" and "warn" with 200."""
    good = state == "healthy"
    body: dict[str, Any] = {
        "status": "fail" if not good else "warn" if errors or warnings else "pass",
        "version": __version__.partition(".")[0],
        "releaseId": __version__,
        "serviceId": "preflight",
        "description": architecture,
    }
    if troubles := [*(["draining"] if state == "draining" else []), *errors, *warnings]:
        body["output"] = "; ".join(troubles)
    return _answer(body, good=good, media_type=MEDIA_TYPES["health"])


class Live:
    """The process answers; that is all this says."""

    def __init__(self) -> None:
        self._answer = _answer({"status": "live"}, good=True)

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await self._answer.send(send)


class Ready:
    """The verdict is good and the server is not draining."""

    def __init__(self) -> None:
        self._answers = {
            state: _answer({"status": state.replace("healthy", "ready") if good else state}, good=good)
            for state, good in (("healthy", True), ("unhealthy", False), ("draining", False))
        }

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        await self._answers[services.of(scope).instance.status].send(send)
