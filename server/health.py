"""Health: public, from memory, names only. It follows this instance's own runs and nobody else's."""

from __future__ import annotations

import json
from typing import Any

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from preflight import __version__
from preflight.instance import Instance
from server.answers import Answer

ARCHITECTURE = "LangGraph StateGraph behind FastAPI"
JSON = "application/json"


def status(instance: Instance) -> str:
    """ "healthy", "unhealthy" or "draining"; warnings do not make it unhealthy.

    Only a re-run can be what blocks: a start that is blocked serves nothing.
    """
    if instance.draining:
        return "draining"
    blocked = instance.settings.rerun_gates and instance.report is not None and not instance.report.may_start
    return "unhealthy" if blocked else "healthy"


def _answer(body: dict[str, Any], *, good: bool) -> Answer:
    return Answer(200 if good else 503, JSON, json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode())


class Health:
    """Whether this instance is well, and what troubles it by name."""

    def __init__(self) -> None:
        self._made: tuple[tuple[object, ...], Answer] | None = None

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        instance: Instance = scope["state"]["preflight"]
        connections = scope["app"].state.connections
        # All that the answer is made from; nearly always what it was the last time.
        facts = (
            status(instance), instance.report, bool(instance.rerun_problem), connections.open, connections.sessions
        )  # fmt: skip
        if self._made is None or self._made[0] != facts:
            self._made = (facts, self._make(*facts))
        await self._made[1].send(send)

    @staticmethod
    def _make(state: str, found: Any, rerun_broke: bool, connections: int, sessions: int) -> Answer:
        warnings = [check.title for check in found.warnings] if found else ["Preflight was not run"]
        if rerun_broke:
            warnings.append("The last re-run broke")
        body = {
            "status": state,
            "version": __version__,
            "architecture": ARCHITECTURE,
            "critical_errors": [check.title for check in found.blocking] if found else [],
            "warnings": warnings,
            "active_connections": connections,
            "active_sessions": sessions,
        }
        return _answer(body, good=state == "healthy")


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
        await self._answers[status(scope["state"]["preflight"])].send(send)


def routes() -> list[Route]:
    """The routes of one application."""
    return [
        Route("/health", Health(), methods=["GET"]),
        Route("/health/live", Live(), methods=["GET"]),
        Route("/health/ready", Ready(), methods=["GET"]),
    ]
