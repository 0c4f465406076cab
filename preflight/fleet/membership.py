"""The launcher's side of the registrar: the messages to it and from it.

Nothing here waits for the registrar. A thread writes to its channel, so that a registrar that does not read holds up
nothing. One that dies is started again, and told everything that was not written yet. psycopg is not imported here.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from preflight import __version__, times
from preflight.notify.notices import Notice
from preflight.processes import children, interpreter
from preflight.processes.channel import ChannelError
from preflight.processes.loop import Loop
from preflight.report.changes import Change
from preflight.report.model import Report
from preflight.settings.model import Settings
from preflight.text import foreign

if TYPE_CHECKING:
    from preflight.instances.records import Record

AWAY, REACHED, STARTING = "away", "reached", "starting"
MOST = 200  # messages that wait for a registrar that does not read, before another one takes its place
AGAIN = (0.0, 1.0, 5.0, 30.0, 60.0)  # seconds until the next registrar, after the first that died, the second, ...
STEADY = 600.0  # seconds after which a registrar's death counts no more

Deliver = Callable[[Notice, Callable[[bool], object]], object]
"""Send a notice, and call the function with whether it arrived anywhere."""


@dataclass(slots=True)
class _Untold:
    """A run's result that the database does not have yet."""

    run_id: str
    flips: list[dict[str, str]]
    since: float
    """On the monotonic clock."""
    kept: Callable[[], object]
    """Called once the fleet is going to tell it."""
    alone: Callable[[], object]
    """Called if the fleet cannot tell it: this instance then tells people by itself."""


class Membership:
    """An instance's part in the fleet, for as long as it serves."""

    def __init__(
        self,
        settings: Settings,
        loop: Loop,
        record: Record,
        *,
        deliver: Deliver,
        say: Callable[[str, str], object],
    ) -> None:
        """``say`` is told, in one line and a style, that the database is away or back."""
        self.on_change: Callable[[], object] = lambda: None
        """Called when :attr:`state` has changed."""
        self._settings = settings
        self._loop = loop
        self._deliver = deliver
        self._say = say
        self._who = {
            "id": record.instance_id,
            "project": foreign(settings.project or settings.app),
            "application": foreign(settings.app),
            "host": foreign(os.uname().nodename),
            "address": foreign(settings.address),
            "release": __version__,
        }
        self._ends_with_us = bool(record.keeper)
        """Whether a container or a unit ends with this process, and the registrar with it."""
        self._child: children.Child | None = None
        self._orders: queue.Queue[tuple[str, dict[str, Any]] | None] = queue.Queue(MOST)
        self._writer: threading.Thread | None = None
        self._deaths: list[float] = []
        self._begin_at = 0.0
        self._report: Report | None = None
        self._untold: dict[str, _Untold] = {}
        self._state, self._since, self._problem = STARTING, time.time(), ""

    @property
    def state(self) -> dict[str, Any]:
        """The state of the database, for /diagnostics: "starting", "reached" or "away", since when, and why."""
        return {"database": self._state, "since": times.stamp(self._since), "problem": self._problem}

    def report(self, report: Report) -> None:
        """Have this report recorded as the state of the instance."""
        self._report = report
        self._tell("report", report=report.to_json())
        self.look_after()

    def tell(
        self, report: Report, changed: Sequence[Change], *, kept: Callable[[], object], alone: Callable[[], object]
    ) -> None:
        """Have people told the result of this run; either ``kept`` or ``alone`` is called, sooner or later."""
        flips = [
            {"title": one.title, "before": one.before, "after": one.after, **_words(one, report)} for one in changed
        ]
        self._untold[report.run_id] = untold = _Untold(report.run_id, flips, time.monotonic(), kept, alone)
        self._tell("tell", run_id=untold.run_id, flips=untold.flips)
        self.look_after()

    def look_after(self) -> None:
        """Start the registrar if there is none, and tell people what the fleet cannot. Call it now and then."""
        now = time.monotonic()
        if self._child is not None and self._writer is not None and not self._writer.is_alive():
            self._child.kill("it does not read")
            self._heard()
        if self._child is None and self._report is not None and now >= self._begin_at:
            self._begin()
        for untold in list(self._untold.values()):
            # The fleet gathers news for this long anyway: without its database, people wait no longer than with it.
            if now - untold.since > self._settings.fleet_window:
                self._alone(untold)

    def _alone(self, untold: _Untold) -> None:
        self._tell("told", run_id=untold.run_id)
        del self._untold[untold.run_id]
        untold.alone()

    def left(self, at_most: float) -> float:
        """Seconds until `look_after` has something to do, if nothing happens before."""
        dues = [untold.since + self._settings.fleet_window for untold in self._untold.values()]
        if self._child is None and self._begin_at != float("inf"):
            dues.append(self._begin_at)
        return max(0.0, min([at_most, *(due - time.monotonic() for due in dues)]))

    def leave(self, ending: str) -> None:
        """Have it recorded that the instance ends as asked: "stopped" or "replaced"."""
        self._begin_at = float("inf")
        for untold in list(self._untold.values()):
            self._alone(untold)
        self._tell("end", ending=ending)

    def close(self) -> None:
        """Give the registrar what is still to be written, and let it end by itself."""
        self._begin_at = float("inf")
        child, self._child = self._child, None
        if child is None:
            return
        self._loop.unwatch_child(child)
        self._tell_last()
        child.let_go(LAST_WORD if self._ends_with_us and self._state == REACHED else 0.0)

    # The registrar.

    def _begin(self) -> None:
        try:
            # The environment alone, as for the sender: what it needs of the env file comes in the settings.
            child = children.Child("preflight.fleet", self._settings.root, interpreter.for_suite())
        except OSError:
            self._begin_at = time.monotonic() + AGAIN[-1]
            return
        orders: queue.Queue[tuple[str, dict[str, Any]] | None] = queue.Queue(MOST)
        writer = threading.Thread(target=_write, args=(child, orders), name="registrar", daemon=True)
        try:
            writer.start()
        except RuntimeError:  # no thread can be started (a limit of processes)
            child.close()
            self._begin_at = time.monotonic() + AGAIN[-1]
            return
        self._child, self._orders, self._writer = child, orders, writer
        self._loop.watch_child(child, self._heard, child.read_output)
        self._tell("join", settings=self._settings.to_message(), who=self._who)
        if self._report is not None:
            self._tell("report", report=self._report.to_json())
        for untold in self._untold.values():
            self._tell("tell", run_id=untold.run_id, flips=untold.flips)

    def _tell(self, kind: str, **data: Any) -> None:
        if self._child is None:
            return
        try:
            self._orders.put_nowait((kind, data))
        except queue.Full:
            self._child.kill("it does not read")  # the next one is told everything that counts

    def _tell_last(self) -> None:
        """Let the thread write what it has, if it need not wait for that."""
        try:
            self._orders.put_nowait(None)
        except queue.Full:
            return
        if self._writer is not None:
            self._writer.join(LINGER)

    def _heard(self) -> None:
        child = self._child
        if child is None:
            return
        try:
            messages = child.channel.arrived() if not child.channel.closed else []
        except ChannelError:
            messages = []
            child.kill("it sent something that is not a message")
        for message in messages:
            self._take(message.kind, message.data)
        if child.channel.closed or child.ended():
            self._bury(child)

    def _bury(self, child: children.Child) -> None:
        """Note that the registrar has ended; the next one begins the later, the more of them have died."""
        child.kill("its channel has closed")
        self._loop.unwatch_child(child)
        self._child = None
        try:
            self._orders.put_nowait(None)
        except queue.Full:
            pass  # the thread ends with the channel
        now = time.monotonic()
        self._deaths = [one for one in self._deaths if now - one < STEADY] + [now]
        self._begin_at = now + AGAIN[min(len(self._deaths) - 1, len(AGAIN) - 1)]
        last = next((line for line in reversed(child.lines) if line.strip()), "")
        child.close()
        said = f": {last}" if last else ""
        self._stand(AWAY, f"the process that writes to the database ended ({child.ending}){said}")

    def _take(self, kind: str, data: dict[str, Any]) -> None:
        match kind:
            case "reached":
                self._stand(REACHED, "")
            case "away":
                self._stand(AWAY, str(data["problem"]))
            case "kept":
                if untold := self._untold.pop(str(data["run_id"]), None):
                    untold.kept()
            case "deliver":
                key = str(data["key"])
                notice = Notice(str(data["title"]), str(data["body"]), str(data["level"]))
                self._deliver(notice, lambda arrived: self._tell("concluded", key=key, delivered=arrived))

    def _stand(self, state: str, problem: str) -> None:
        before, why = self._state, self._problem
        if (state, problem) == (before, why):
            return
        now = time.time()
        if state == AWAY and before != AWAY:
            lost = "The fleet's database does not get the state of this instance"
            self._say(f"{lost}: {problem}. The instance keeps serving.", "yellow")
        elif before == AWAY and state == REACHED:
            away = now - self._since
            self._say(f"The fleet's database is back after {away:.0f} s.", "green")
        if state != before:
            self._since = now
        self._state, self._problem = state, problem
        self.on_change()


LAST_WORD = 5.0  # seconds that the registrar has for its last word, where it ends with this process
LINGER = 0.05  # seconds that the end of an instance waits for its last word to be sent, not to be heard


def _write(child: children.Child, orders: queue.Queue[tuple[str, dict[str, Any]] | None]) -> None:
    """Write to the registrar what there is, until there is no more or it does not read."""
    while (order := orders.get()) is not None:
        kind, data = order
        try:
            child.channel.send(kind, **data)
        except OSError:
            return


def _words(change: Change, report: Report) -> dict[str, str]:
    if change.check is None:
        return {"message": report.reason, "fix": ""}
    return {"message": change.check.message or change.check.requirement, "fix": change.check.fix}
