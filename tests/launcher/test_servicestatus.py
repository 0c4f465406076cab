"""What a service manager shows about a server that serves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preflight.launcher.servicestatus import ServiceStatus
from preflight.report.model import Check, Report
from preflight.report.newest import Judged
from preflight.settings import loading

ROOT = Path(__file__).parents[2]


class Told:
    """A display, and the service manager behind it; it keeps what it is told."""

    def __init__(self) -> None:
        self.service: Any = self
        self.problem = ""
        self.said: list[str] = []

    def redacted(self, text: str) -> str:
        return text

    def ready(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.parametrize(
    "scope, gates, status",
    [
        ("instance", True, "Out of rotation: blocked by Disk"),
        ("instance", False, "Serving 127.0.0.1:8002, although it is blocked by Disk"),
        ("fleet", True, "Serving 127.0.0.1:8002, although it is blocked by Disk"),
    ],
)
def test_what_blocks(
    make_check: Callable[..., Check], make_report: Callable[..., Report], scope: str, gates: bool, status: str
) -> None:
    """A server is out of rotation only for what takes it out: not for what the whole fleet shares."""
    chosen = dataclasses.replace(loading.load(ROOT, {}, {"demo": True, "port": "8002"}), rerun_gates=gates)
    told: Any = Told()
    report = make_report(make_check("Disk", "failed", scope=scope), document={"exitcode": 1})
    ServiceStatus(chosen, told).serves(Judged(report))
    assert told.said == [status]
