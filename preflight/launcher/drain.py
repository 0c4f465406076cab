"""The orderly end of workers: they finish what they are doing, unless their deadline or another signal comes first."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence

from preflight.instances.presence import GOODBYE, Presence
from preflight.output.audit import Event
from preflight.output.terminal import Terminal
from preflight.processes.loop import Loop
from preflight.processes.worker import Worker
from preflight.settings.model import Settings

LOOK = 0.5  # seconds between two looks whether the workers have ended
ANSWER = 1.0  # seconds that workers which are cut short get to say what they were busy with


def wait_for_end(
    workers: Sequence[Worker],
    settings: Settings,
    *,
    starts: Worker | None,
    loop: Loop,
    terminal: Terminal,
    presence: Presence,
    stops: int,
) -> None:
    """Wait for workers that were asked to drain, until their deadline or more than ``stops`` signals.

    ``starts`` may complete its start-up first; any other worker that has not started up has nothing to finish. When
    this returns, the processes of all workers have ended, and people have been told what was lost.
    """
    begun = time.monotonic()
    deadline = begun + settings.drain_timeout + GOODBYE
    while not _ended(workers) and len(loop.stops) <= stops and (now := time.monotonic()) < deadline:
        if now - begun >= GOODBYE:
            for worker in workers:
                if not worker.started and worker is not starts:
                    worker.child.kill("it had not started up when it was asked to end")
        presence.look_after()
        loop.turn(min(LOOK, deadline - time.monotonic()))
    cut_short = len(loop.stops) > stops and not _ended(workers)
    if cut_short:
        _ask_in_flight(workers, loop)
    for worker in workers:
        print_rest(worker, terminal)
        if lost := worker.lost:
            terminal.log.audit(Event.now("events_lost", count=lost, worker=worker.child.pid))
    left = [worker for worker in workers if not worker.ended()]
    if left and cut_short:
        asked = f"{'second ' if stops else ''}{signal.Signals(loop.stops[-1]).name}"
        terminal.line(f"Ended at once by a {asked}: {_cut_off(left)}.")
        for worker in left:
            worker.child.kill(f"a {asked} asked for it")
        return
    for worker in left:
        terminal.line("The worker did not finish everything in time.", "yellow")
        worker.child.kill("it did not finish everything in time")
    if cancelled := sum(worker.cancelled for worker in workers if worker not in left):
        what = "request or turn was" if cancelled == 1 else "requests or turns were"
        terminal.line(f"{cancelled} {what} not finished in time.", "yellow")


def _ended(workers: Sequence[Worker]) -> bool:
    return all(worker.ended() for worker in workers)


def print_rest(worker: Worker, terminal: Terminal) -> None:
    """Print and record a worker's last lines and events, which may still be in the pipes when it has ended."""
    worker.read_rest()
    terminal.pass_on(worker.child.drain_output(), worker.child.pid)


def _ask_in_flight(workers: Sequence[Worker], loop: Loop) -> None:
    """Ask workers that are about to be ended what they are busy with."""
    for worker in workers:
        worker.count_in_flight()
    deadline = time.monotonic() + ANSWER
    while (left := deadline - time.monotonic()) > 0 and any(
        worker.in_flight is None and not worker.ended() for worker in workers
    ):
        loop.turn(left)


def _cut_off(workers: Sequence[Worker]) -> str:
    known = [worker.in_flight for worker in workers if worker.in_flight is not None]
    if not known:
        return "the worker did not say what was in flight"
    match sum(known):
        case 0:
            return "nothing was in flight"
        case 1:
            return "1 request or turn was cut off"
    return f"{sum(known)} requests or turns were cut off"
