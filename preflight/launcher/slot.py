"""The place of one worker in an instance; one worker after the other fills it.

A slot brings its worker as far as possible without the other workers: verdict, socket, start-up, proof. The supervisor
decides when all of them may accept, and what the end of one means.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from preflight.launcher.replacement import Replacement, Trial
from preflight.launcher.watchdog import Watchdog
from preflight.output.terminal import Terminal
from preflight.processes.loop import Loop
from preflight.processes.restarts import Restarts
from preflight.processes.worker import Worker
from preflight.report.newest import Judged
from preflight.settings.model import Settings


class Slot:
    """One worker's place: the worker, how far it is, and how the ones before it fared."""

    def __init__(
        self, number: int, settings: Settings, *, loop: Loop, terminal: Terminal, replacement: Replacement
    ) -> None:
        """``number`` counts from one. A new slot is empty, and to be filled at once."""
        self.number = number
        self.worker: Worker | None = None
        self.watchdog = Watchdog(settings, loop=loop, terminal=terminal)
        self.trial = Trial(settings, replacement, loop=loop, now=self.watchdog.now)
        self.handed = False
        """Whether its worker has the socket."""
        self.judged: Judged | None = None
        """The verdict that its worker was told last."""
        self.due = 0.0
        """When it is to be filled, on the monotonic clock; infinite: never again."""
        self.short_until = 0.0
        """Until when a start for which there is no room is tried again, on the same clock; 0 while there is room."""
        self.shortage = ""
        """The reason why there is no room, if people have been told."""
        self.last: Worker | None = None
        """The worker that was here last, and has ended; None before the first has."""
        self.ending = ""
        """How its last worker ended, for people."""
        self.crashes = 0
        self._settings = settings
        self._restarts = Restarts(
            limit=settings.restart_limit, window=settings.restart_window, backoff=settings.restart_backoff
        )
        self._verdict_told = self._admitted = False
        self._ready_at: float | None = None
        self._crashed_at: float | None = None

    @property
    def name(self) -> str:
        """What people call the slot's worker."""
        return "The worker" if self._settings.workers == 1 else f"Worker {self.number} of {self._settings.workers}"

    @property
    def serves(self) -> bool:
        """Whether its worker accepts connections, as far as is known here."""
        return self._ready_at is not None and self.worker is not None

    @property
    def beats(self) -> bool:
        """Whether signs of life are expected of its worker."""
        return self.worker is not None and self.watchdog.listens

    @property
    def is_down(self) -> bool:
        """Whether a worker has crashed here, and none has been ready since."""
        return self._crashed_at is not None

    def fill(self, worker: Worker) -> None:
        """A worker has been started for the slot."""
        self.worker = worker
        self._ready_at, self.short_until, self.shortage = None, 0.0, ""
        self._verdict_told = self.handed = self._admitted = self.trial.passed = False
        self.watchdog.watch_another()

    def advance(self, hand_over: Callable[[Slot, Worker], object]) -> str:
        """Take the worker as far as it can go; returns why it may not serve in another one's place, if that is so."""
        worker = self.worker
        if worker is None:
            return ""
        if worker.imported and not self._verdict_told:
            self._verdict_told = True
            worker.tell_verdict()
        if worker.unguarded and not self.handed:
            self.handed = True
            hand_over(self, worker)
        if worker.started and not self.watchdog.listens:
            self.watchdog.listen()
            self.trial.begin(worker)
        return self.trial.problem()

    def admit(self) -> None:
        """Let the worker accept connections; more than once does no harm."""
        if self.worker is not None and not self._admitted:
            self._admitted = True
            self.worker.admit()

    def has_come_up(self) -> bool:
        """Whether the worker has just said that it accepts connections; true once."""
        if self.worker is None or not self.worker.ready or self._ready_at is not None:
            return False
        self._ready_at = time.monotonic()
        return True

    def down_for(self) -> float | None:
        """Seconds from the first crash until a worker was ready again; None if none has crashed. It counts as told."""
        since, self._crashed_at = self._crashed_at, None
        return None if since is None or self._ready_at is None else self._ready_at - since

    def failed(self, worker: Worker) -> float | None:
        """Its worker has ended without having been asked to; returns the seconds until the next, None to give up."""
        now = time.monotonic()
        ready_for = None if self._ready_at is None else now - self._ready_at
        if ready_for is None and worker.ready:
            ready_for = 0.0  # it said so while we were busy: it has served, however short that was
        self.trial.end()
        return self._restarts.failed(now, ready_for)

    def refill_in(self, delay: float, ending: str) -> None:
        """Have the next worker started after so many seconds. ``ending`` is how the last one ended, for people."""
        now = time.monotonic()
        self.crashes += 1
        self.last, self.ending = self.worker, ending
        self.due = now + delay
        self._ready_at = None
        if self._crashed_at is None:
            self._crashed_at = now

    def abandon(self, ending: str) -> None:
        """Never fill it again; ``ending`` is how its last worker ended."""
        self.last, self.ending = self.worker, ending
        self.due, self._ready_at = math.inf, None

    @property
    def waits_for(self) -> str:
        """What its worker waits for until it is ready, for people; empty if it is ready, or there is no worker."""
        worker, app = self.worker, self._settings.app
        if worker is None or worker.ready:
            return ""
        if not worker.imported:
            return f"waiting for {app} to import"
        if not worker.started:
            return f"waiting for the start-up of {app}"
        path = self.trial.asked_path
        return f"waiting for {app} to answer {path}" if path else ""

    @property
    def left(self) -> float:
        """Seconds until there is something to do here, should nothing happen."""
        return self.watchdog.look if self.worker is not None else min(1.0, self.due - time.monotonic())
