"""A worker's end in order: what it is doing is finished, unless its deadline or another signal comes before."""

from __future__ import annotations

import signal
import time

from preflight.instances.presence import GOODBYE, Presence
from preflight.output.audit import Event
from preflight.output.terminal import Terminal
from preflight.processes.loop import Loop
from preflight.processes.worker import Worker
from preflight.settings.model import Settings

LOOK = 0.5  # seconds between two looks whether it has ended
ANSWER = 1.0  # seconds that a worker which is cut short gets to say what it was busy with


def wait_for_end(
    worker: Worker, settings: Settings, *, loop: Loop, terminal: Terminal, presence: Presence, stops: int
) -> None:
    """Wait for a worker that was asked to drain, until its deadline or more than ``stops`` signals; say what was lost.

    Its process has ended when this returns.
    """
    deadline = time.monotonic() + settings.drain_timeout + GOODBYE
    while not worker.ended() and len(loop.stops) <= stops and time.monotonic() < deadline:
        presence.look_after()
        loop.turn(min(LOOK, deadline - time.monotonic()))
    cut_short = len(loop.stops) > stops and not worker.ended()
    if cut_short:
        _ask_in_flight(worker, loop)
    print_rest(worker, terminal)
    if lost := worker.lost:
        terminal.log.audit(Event.now("events_lost", count=lost, worker=worker.child.pid))
    if not worker.ended() and cut_short:
        asked = f"{'second ' if stops else ''}{signal.Signals(loop.stops[-1]).name}"
        terminal.line(f"Ended at once by a {asked}: {_cut_off(worker.in_flight)}.")
        worker.child.kill(f"a {asked} asked for it")
    elif not worker.ended():
        terminal.line("The worker did not finish everything in time.", "yellow")
        worker.child.kill("it did not finish everything in time")
    elif worker.cancelled:
        what = "request or turn was" if worker.cancelled == 1 else "requests or turns were"
        terminal.line(f"{worker.cancelled} {what} not finished in time.", "yellow")


def print_rest(worker: Worker, terminal: Terminal) -> None:
    """A worker's last words and events, which may still be in the pipes when it has ended."""
    worker.read_rest()
    terminal.pass_on(worker.child.drain_output(), worker.child.pid)


def _ask_in_flight(worker: Worker, loop: Loop) -> None:
    """Ask a worker that is about to be ended what it is busy with."""
    worker.count_in_flight()
    deadline = time.monotonic() + ANSWER
    while worker.in_flight is None and not worker.ended() and (left := deadline - time.monotonic()) > 0:
        loop.turn(left)


def _cut_off(in_flight: int | None) -> str:
    match in_flight:
        case None:
            return "the worker did not say what was in flight"
        case 0:
            return "nothing was in flight"
        case 1:
            return "1 request or turn was cut off"
    return f"{in_flight} requests or turns were cut off"
