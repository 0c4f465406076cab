"""Instances of a fleet: the launcher's side with its registrar, which is a process, and no server."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from preflight.instances.records import Record
from preflight.launcher.shown import Display
from preflight.launcher.telling import Telling
from preflight.processes.loop import Loop
from preflight.report.model import Report
from preflight.settings import loading
from preflight.settings.model import Settings

_ports = itertools.count(8001)
QUICK = {"PREFLIGHT_FLEET_HEARTBEAT": "1s", "PREFLIGHT_FLEET_WINDOW": "5s"}
"""Times with which a test need not wait for half a minute."""


class Instance:
    """One of a fleet, with a state folder and a port of its own."""

    def __init__(self, folder: Path, url: str, notify: str = "", **environ: str) -> None:
        """``notify`` are the services that it tells. ``environ`` are further variables."""
        port = next(_ports)
        root = folder / f"web-{port}"
        root.mkdir(mode=0o700)
        (root / "pyproject.toml").write_text('[project]\nname = "shop"\n[tool.preflight]\napp = "shop:app"\n')
        own = {"PREFLIGHT_DATABASE_URL": url, "PREFLIGHT_PORT": str(port), **QUICK}
        own |= {"PREFLIGHT_NOTIFY": notify} if notify else {}
        kept = {name: os.environ[name] for name in ("PATH", "HOME")}
        self.settings: Settings = loading.load(root, {**kept, **own, **environ}, imports=False)
        self.settings.state_dir.mkdir(mode=0o700)
        self.loop = Loop()
        self.display = Display(self.settings)
        self.telling = Telling(self.settings, loop=self.loop, display=self.display)
        self.id = f"instance-{port}"
        self.name = f"{os.uname().nodename} ({self.settings.address})"
        self.states: list[Mapping[str, object]] = []

    def join(self) -> None:
        """Serve: from now on it has a registrar, once there is a report."""
        record = Record(self.id, os.getpid(), "127.0.0.1", self.settings.port, "2026-01-01T00:00:00Z", 0.0, "0")
        self.telling.join_fleet(record, lambda: self.states.append(self.telling.fleet))

    def found(self, report: Report) -> None:
        """A run has ended with this report."""
        self.telling.tell_news(report)

    @property
    def registrar(self) -> int:
        """The PID of its registrar."""
        membership = self.telling._membership
        assert membership is not None
        assert membership._child is not None
        return membership._child.pid

    @property
    def database(self) -> object:
        return self.telling.fleet.get("database")

    def turn(self) -> None:
        self.loop.turn(self.telling.look_after_fleet(0.02))

    def end(self, ending: str = "stopped") -> None:
        """End in order."""
        self.telling.leave_fleet(ending)
        self.telling.finish()
        self.loop.close()


def run(instances: Iterable[Instance], holds: Callable[[], object], what: str, patience: float = 120.0) -> None:
    """Let these go on until something has happened."""
    every = list(instances)
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end, f"waited {patience:g} s in vain until {what}"
        turned = time.monotonic() + 0.05  # a look at the database costs more than many turns
        while time.monotonic() < turned:
            for one in every:
                one.turn()
            if not every:
                time.sleep(0.02)
