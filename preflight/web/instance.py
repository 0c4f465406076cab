"""What an application can know about the instance that it runs in, and tell it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from preflight.output.audit import Event
from preflight.output.log import direct
from preflight.processes.board import Board
from preflight.redaction.redactor import Redactor
from preflight.report.model import Report
from preflight.report.newest import Judged
from preflight.settings.model import Settings
from preflight.times import epoch, now
from preflight.web.fellows import Fellows
from preflight.web.logins import Admission

if TYPE_CHECKING:
    from preflight.processes.rerun import Runner

SERVICE_RESTART = (1012, "the server restarts or stops: connect again")
"""Code and reason with which WebSockets are closed when an instance drains (RFC 6455, IANA's registry)."""


class BlockedStart(RuntimeError):
    """The preflight blocks the start; the banner has said why."""


@dataclass(slots=True)
class Instance:
    """One serving instance, as its worker sees it.

    It is in the lifespan's and every request's state as ``preflight`` (ASGI: ``scope["state"]``).
    """

    settings: Settings
    report: Report | None
    """This instance's latest run that can be trusted: its start's, then its re-runs'. None if no suite ran."""
    instance_id: str = ""
    """Empty if no launcher is behind it."""
    options: Mapping[str, object] = field(default_factory=dict)
    """The command line's, by setting name; a re-run gets the same."""
    rerun_problem: str = ""
    """Why the last re-run left no report that can be trusted; empty if it left one."""
    since: str = field(default_factory=now)
    worker_since: str = field(default_factory=now)
    restarts: Mapping[str, Any] = field(default_factory=lambda: {"count": 0, "last_exit": "", "last_exit_at": ""})
    runner: Runner | None = None
    """Runs the suite again: the launcher, if there is one."""
    notifications: Mapping[str, Any] = field(default_factory=dict)
    """What became of the notices so far; see :class:`preflight.notify.Tally`. Empty if there is nobody to tell."""
    fleet: Mapping[str, Any] = field(default_factory=dict)
    """The state of the fleet's database, as `preflight.fleet.membership` has it; empty if there is none."""
    draining: bool = False
    note: Callable[[Event], object] | None = None
    """Takes an event to where the audit is kept; None: to Python's logging. See :meth:`audit`."""
    admission: Admission | None = None
    """What opens the routes that are beside the application; None if they are its own."""
    fellows: Fellows = field(default_factory=Fellows)
    """The other workers of this instance."""
    board: Board = field(default_factory=Board.alone)
    """What all its workers count."""
    busy: Callable[[], tuple[int, int, int]] | None = None
    """What this worker is busy with, for the others: see :data:`preflight.processes.board.GAUGES`."""
    ended_logins: dict[str, int] = field(default_factory=dict)
    """Logins that were ended before this worker served, or in another one, and when they would have expired."""
    end_login: Callable[[str, int], object] = lambda _session, _expires: None
    """Told of each login that is ended here: its name, and when it would have expired."""
    requests: Callable[[], int] | None = None
    """How many HTTP requests are being answered; None if the server does not tell. In the event loop only."""
    works: int = 0
    """Pieces of work in flight beyond HTTP requests; see :meth:`work`."""
    _drain: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def of(cls, order: Mapping[str, Any]) -> Instance:
        """The instance that the launcher describes to its worker."""
        return cls(
            settings=Settings.of_message(order["settings"]),
            options=order["options"],
            report=Report.from_json(order["report"]) if order["report"] else None,
            rerun_problem=order["rerun_problem"],
            instance_id=order["instance_id"],
            since=order["since"],
            restarts=order["restarts"],
            notifications=order["notifications"],
            fleet=order["fleet"],
        )

    @property
    def status(self) -> str:
        """ "healthy", "unhealthy" or "draining"; warnings do not make it unhealthy.

        Only a re-run can be what blocks: a start that is blocked serves nothing.
        """
        if self.draining:
            return "draining"
        blocked = self.settings.rerun_gates and self.report is not None and self.report.gates
        return "unhealthy" if blocked else "healthy"

    def audit(self, kind: str, **fields: Any) -> None:
        """Record that something happened, from any thread and without waiting.

        Say who and what: ``instance.audit("login_failed", peer="10.0.0.7:51234", path="/diagnostics")``. Values are
        JSON's, others become text, and None is left out. Never a secret (they are redacted on their way out all the
        same).
        """
        if self.note is None:
            self.note = direct(self.settings, Redactor.of(self.settings))
        self.note(Event.now(kind, **fields))

    def judge(self, ended: Report | None, reason: str) -> None:
        """Take the report of a re-run that is over; the re-run broke if there is a ``reason``."""
        self.report, self.rerun_problem = Judged(self.report, self.rerun_problem).after(ended, reason)

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """Have a drain wait for a piece of work, such as a chat turn, although no HTTP request is open."""
        self.works += 1
        try:
            yield
        finally:
            self.works -= 1

    def start_draining(self) -> None:
        """Announce that no new work should come; in the event loop's thread."""
        self.draining = True
        self._drain.set()

    async def drained(self) -> None:
        """Wait until this instance drains: then finish what is in flight and close."""
        await self._drain.wait()


def uptime(since: str) -> float:
    """Seconds since a time as reports write it; 0 if the clock was set back to before that time."""
    return round(max(0.0, time.time() - epoch(since)), 1)
