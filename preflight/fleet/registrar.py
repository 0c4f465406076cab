"""PROCESS. The registrar: it alone records the state of its instance in the database.

It is a child of the launcher for as long as the launcher serves. It is told what to write, and reports what became of
it; nobody waits for it. A database that hangs holds up only this process: what is not written stays here until it is,
and the launcher tells everything again to a registrar that takes this one's place.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import random
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from preflight import files
from preflight.fleet import schema
from preflight.fleet.answers import FORGOTTEN
from preflight.fleet.database import Unavailable, UnusableDatabase
from preflight.fleet.gathering import Gathering
from preflight.fleet.rows import PATIENCE, News, Rows, Who
from preflight.processes import children, signals
from preflight.processes.channel import Channel, Message
from preflight.report.model import Report
from preflight.settings.model import Settings
from preflight.text import plain

NICE = 5  # the server's work goes first
JITTER = 0.2  # by which part heartbeats come earlier or later
PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds until a database that is away is tried again: the first time, the second
MENDED = 60.0  # seconds until a database that somebody has to repair is tried again
SWEEP = 600.0  # seconds between two sweeps of one registrar, on average
SPREAD = 1.0  # seconds, at most, by which instances that change together write one after the other
LAST_WORD = 1.0  # seconds for which it goes on, whatever the database does, when its launcher was killed


@dataclass(slots=True)
class _Todo:
    """What is not in the database yet."""

    report: Report | None = None
    """The latest one, if it has to be written."""
    news: dict[str, News] = field(default_factory=dict)
    """By run id, in their order."""
    concluded: dict[str, bool] = field(default_factory=dict)
    """Notices that were sent, or could not be, by their keys."""
    ending: str = ""


class Registrar:
    """The registrar of one instance; :meth:`run` returns when the instance's end was recorded, or could not be."""

    def __init__(self, settings: Settings, who: Who, channel: Channel) -> None:
        self._settings = settings
        self._channel = channel
        self._rows = Rows(settings.database_url or "", settings.environment, who, beats_every=settings.fleet_heartbeat)
        self._gathering = Gathering(self._rows, window=settings.fleet_window, lease=2 * settings.fleet_heartbeat)
        self._todo = _Todo()
        self._report: Report | None = None
        self._held: set[str] = set()
        """Keys of the notices that this instance is sending."""
        self._ended = False
        """Whether the end of the instance was recorded."""
        self._made = False
        """Whether the tables were seen to be there."""
        self._failures = 0
        self._is_away = False
        """Whether the database could not be reached the last time."""
        now = time.monotonic()
        self._beat_at = now + random.uniform(0, settings.fleet_heartbeat)
        self._gather_at = now + settings.fleet_heartbeat * random.uniform(0.5, 1)
        self._sweep_at = now + random.expovariate(1 / SWEEP)
        self._write_at = now
        """The earliest time of the next write: after a failure, or at a moment that other instances do not choose."""

    def run(self, orders: queue.SimpleQueue[Message | None]) -> None:
        """Follow the orders, and do what is due. An order that is None means that the launcher has gone."""
        while True:
            try:
                message = orders.get(timeout=max(0.0, self._next() - time.monotonic()))
            except queue.Empty:
                self._work()
                continue
            if message is None:
                break
            self._hear(message)
        # Tried once: what cannot be written now shows as silence, and others take over a held notice after its lease.
        self._todo.concluded |= dict.fromkeys(self._held, False)
        if self._ended or self._todo.ending or self._todo.concluded:
            self._work()

    def _hear(self, message: Message) -> None:
        data = message.data
        match message.kind:
            case "report":
                self._report = self._todo.report = Report.from_json(data["report"])
                self._soon()
            case "tell":
                self._todo.news[data["run_id"]] = News(data["run_id"], tuple(plain(data["flips"])))
                self._soon()
            case "told":
                self._todo.news.pop(data["run_id"], None)
            case "concluded":
                self._held.discard(data["key"])
                self._todo.concluded[data["key"]] = bool(data["delivered"])
            case "end":
                self._todo.ending = str(data["ending"])

    def _soon(self) -> None:
        """Write, but not in the very moment in which a thousand others do."""
        if not self._is_away:
            self._write_at = max(self._write_at, time.monotonic() + random.uniform(0, SPREAD))

    def _next(self) -> float:
        """When there is something to do, on the monotonic clock."""
        todo = self._todo
        if self._report is None:
            return time.monotonic() + self._settings.fleet_heartbeat  # nothing is known yet
        if todo.report is not None or todo.news or todo.concluded or todo.ending:
            return self._write_at
        if self._ended:
            return time.monotonic() + self._settings.fleet_heartbeat
        dues = [self._beat_at, self._sweep_at]
        if self._settings.notify:
            dues.append(self._gather_at)
        return max(self._write_at, min(dues))

    def _work(self) -> None:
        """Do everything that is due, until the database fails."""
        try:
            if self._report is not None:
                with self._rows:
                    self._prepare()
                    self._write()
                    self._beat()
                    self._gather()
                    self._sweep()
        except UnusableDatabase as error:
            self._away(str(error), MENDED)
        except Unavailable as error:
            self._away(str(error), PAUSES[min(self._failures, len(PAUSES) - 1)])
            self._failures += 1

    def _prepare(self) -> None:
        """Make the tables if there are none; once in a process. Raises UnusableDatabase if they are not ours to use."""
        if self._made:
            return
        tables = schema.fleet()
        state = schema.create(self._rows.connection, [tables])
        version = f"the tables of the fleet have version {state.version(tables)}"
        if state.is_ahead(tables):
            raise UnusableDatabase(f"{version}, but this release understands {tables.version + 1} at most")
        if state.is_behind(tables):
            raise UnusableDatabase(f"{version}, but this release needs {tables.version}: run --migrate")
        self._made = True

    def _write(self) -> None:
        todo = self._todo
        if (todo.report is not None or todo.news) and self._report is not None:
            self._rows.write(self._report, list(todo.news.values()))
            todo.report = None
            for run_id in list(todo.news):
                self._say("kept", run_id=run_id)
                del todo.news[run_id]
                self._gather_at = time.monotonic() + self._settings.fleet_window + random.uniform(0, SPREAD)
            self._beaten()
        for key, delivered in list(todo.concluded.items()):
            self._gathering.conclude(key, delivered=delivered)
            del todo.concluded[key]
        if todo.ending:
            self._rows.end(todo.ending)
            todo.ending, self._ended = "", True
            self._reached()

    def _beat(self) -> None:
        if self._ended or time.monotonic() < self._beat_at or self._report is None:
            return
        if not self._rows.beat(self._report):
            self._rows.write(self._report, [])  # the row was swept, or somebody has removed it
        for key in list(self._held):
            if not self._gathering.prolong(key):
                self._held.discard(key)
        self._beaten()

    def _beaten(self) -> None:
        every = self._settings.fleet_heartbeat
        self._beat_at = time.monotonic() + every * random.uniform(1 - JITTER, 1 + JITTER)
        self._reached()

    def _gather(self) -> None:
        """Claim what is to be told, one notice after the other."""
        if self._ended or not self._settings.notify or time.monotonic() < self._gather_at:
            return
        self._gather_at = time.monotonic() + self._settings.fleet_heartbeat * random.uniform(1 - JITTER, 1 + JITTER)
        if claimed := self._gathering.claim():
            self._held.add(claimed.key)
            notice = claimed.notice
            self._say("deliver", key=claimed.key, title=notice.title, body=notice.body, level=notice.level)

    def _sweep(self) -> None:
        if time.monotonic() >= self._sweep_at:
            self._sweep_at = time.monotonic() + random.expovariate(1 / SWEEP)
            names = ("instances", "changes", "reports", "notices")
            kept = {name: getattr(self._settings, f"fleet_{name}") for name in names}
            self._rows.sweep({**kept, "answers": FORGOTTEN})

    def _reached(self) -> None:
        """The database took what it was given: say so, and remember it for the requirement that asks for its age."""
        self._failures, self._is_away, self._write_at = 0, False, 0.0
        self._say("reached")
        try:
            files.publish(self._settings.state.database, json.dumps({"reached_at": time.time()}).encode())
        except OSError:
            pass  # State Folder says what is wrong with it

    def _say(self, kind: str, **data: Any) -> None:
        with contextlib.suppress(OSError):  # the launcher has gone, which the next order tells
            self._channel.send(kind, **data)

    def _away(self, problem: str, pause: float) -> None:
        self._is_away = True
        self._made = False
        # Instances that lost it at the same moment come back one after the other.
        self._write_at = time.monotonic() + pause * random.uniform(1 - JITTER, 1 + JITTER)
        self._say("away", problem=problem)


def main() -> None:
    """The child: record what the launcher says, until the launcher has gone."""
    signals.leave_to_launcher()
    os.nice(NICE)
    orders: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
    ends_in_order = threading.Event()

    def hear(message: Message) -> None:
        if message.kind == "end":
            ends_in_order.set()
        orders.put(message)

    def hung_up() -> None:
        orders.put(None)
        # The main thread may be waiting for a database that hangs.
        time.sleep(PATIENCE if ends_in_order.is_set() else LAST_WORD)
        children.end_group()

    channel = children.attach(int(sys.argv[1]), hear, hung_up)
    first = orders.get()
    if first is not None:
        Registrar(Settings.of_message(first.data["settings"]), Who(**first.data["who"]), channel).run(orders)
