"""The actions that freed a port, one by one."""

import os
import time
from typing import NamedTuple

from preflight.times import local, stamp


class Step(NamedTuple):
    """One action, for the audit."""

    at: float  # seconds since the epoch
    action: str  # SIGTERM, SIGCONT, SIGKILL, exited, gone, left alone, still there, respawned, held
    pid: int | None
    name: str
    result: str
    grounds: str = ""  # why a process is stopped, where that has been decided for it

    @property
    def what(self) -> str:
        """The action, without its time."""
        who = self.name if self.pid is None else f"{self.name} (PID {self.pid})"
        # A signal that did not go out was not withheld on these grounds.
        why = f", because {self.grounds}" if self.grounds and self.result == "sent" else ""
        return f"{self.action}: {who}: {self.result}{why}"

    def __str__(self) -> str:
        return f"{local(self.at, precise=True)} {self.what}"

    def to_dict(self) -> dict[str, object]:
        """Field by field, ready for JSON."""
        return {**self._asdict(), "at": stamp(self.at)}


def held(host: str, port: int) -> Step:
    """The step that this process listens there now."""
    return Step(time.time(), "held", os.getpid(), "this process", f"listens on {host} port {port}")
