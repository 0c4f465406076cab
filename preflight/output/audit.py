"""The audit: who did what to whom, and when; one structured line each.

Recorded are every signal sent, every start refused, every run, and what a server reports of its visitors
(failed logins, re-runs). The launcher alone writes for its children; see log.py.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from preflight.times import epoch, stamp

if TYPE_CHECKING:
    from preflight.ports import Step

SIGNALS = ("SIGTERM", "SIGCONT", "SIGKILL")
"""Those actions of a Step that are signals."""
BACKLOG = 1000  # events that may wait for a launcher that is busy; what comes beyond is counted

_BARE = re.compile(r"[\w.:/@+,-]+")


class Event(NamedTuple):
    """Something that people must be able to find out later."""

    kind: str  # "signal", "refused", "run", "rerun", "login_failed", ...
    pid: int  # the process that did it
    uid: int
    at: float  # seconds since the epoch
    fields: Mapping[str, Any] = MappingProxyType({})

    @classmethod
    def now(cls, kind: str, **fields: Any) -> Event:
        """An event of this process, now. Fields that are None are left out; what JSON cannot express becomes text."""
        known = {name: _plain(value) for name, value in fields.items() if value is not None}
        return cls(kind, os.getpid(), os.getuid(), time.time(), known)

    def to_json(self) -> dict[str, Any]:
        """Flat, and ready for JSON; the event's own fields cannot replace who did it, and when."""
        own = {"at": stamp(self.at), "source": "audit", "event": self.kind, "uid": self.uid, "pid": self.pid}
        return own | {name: value for name, value in self.fields.items() if name not in own}

    def to_text(self) -> str:
        """``signal uid=0 pid=12 to=34 why="it holds the port"``, for people and for grep."""
        entries = {name: value for name, value in self.to_json().items() if name not in ("at", "source", "event")}
        return " ".join([self.kind, *(f"{name}={_shown(value)}" for name, value in entries.items())])

    def to_message(self) -> dict[str, Any]:
        """For the channel to the launcher."""
        return {"event": self.kind, "pid": self.pid, "uid": self.uid, "at": self.at, "fields": dict(self.fields)}

    @classmethod
    def of_message(cls, data: Mapping[str, Any]) -> Event:
        """An event that a child sent. Raises KeyError, TypeError or ValueError for anything else."""
        at = float(data["at"])
        if not 0 <= at < 1e11:
            raise ValueError("at is not a time")
        return cls(str(data["event"]), int(data["pid"]), int(data["uid"]), at, dict(data["fields"]))


def signalled(step: Mapping[str, Any], why: str, *, pid: int | None = None) -> Event | None:
    """The event of a step on the way to a free port (``Step.to_dict()``), None if it is no signal."""
    if step["action"] not in SIGNALS:
        return None
    fields = {"signal": step["action"], "to": step["pid"], "name": step["name"], "why": why, "result": step["result"]}
    if step.get("grounds"):
        fields["grounds"] = step["grounds"]
    return Event("signal", os.getpid() if pid is None else pid, os.getuid(), epoch(step["at"]), fields)


def freeing(step: Step, address: str) -> Event | None:
    """The event of a step that this very process has taken to free ``address``."""
    return signalled(step.to_dict(), f"it is in the way on {address}")


def refused(why: Sequence[str], exit_code: int, *, kind: str = "refused", **about: object) -> Event:
    """The event of a start that failed, and the reason."""
    return Event.now(kind, by="command", parent=os.getppid(), why=list(why), exit_code=exit_code, **about)


def _plain(value: object) -> object:
    """The same as a JSON value, as it is now, even if it changes before it is written."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return str(value)


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if _BARE.fullmatch(text) else json.dumps(text)


class EventOutbox:
    """A worker's events on their way to the launcher: reporting one never waits."""

    def __init__(self, send: Callable[[Event], object]) -> None:
        self._send = send
        self._waiting: deque[Event] = deque()
        self._lost = 0
        self.taken = 0
        """How many events were put, including those that were lost."""
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, event: Event) -> None:
        """Take an event; from any thread."""
        with self._changed:
            self.taken += 1
            if len(self._waiting) >= BACKLOG:
                self._lost += 1
                return
            if self._lost:
                event = Event(event.kind, event.pid, event.uid, event.at, {**event.fields, "lost_before": self._lost})
                self._lost = 0
            self._waiting.append(event)
            self._changed.notify_all()
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="audit", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    return  # none is allowed (a limit of processes): this one waits, and the next one tries again
                self._thread = thread

    def flush(self, timeout: float) -> None:
        """Wait up to ``timeout`` seconds until all that was put is sent."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                event = self._waiting[0]
            try:
                self._send(event)
                lost = False
            except Exception:  # noqa: BLE001  # whatever it is: this one is counted, and the next one gets its chance
                lost = True
            with self._changed:
                self._waiting.popleft()
                self._lost += lost
                self._changed.notify_all()
