"""Ending trees of processes: the top is asked first, the rest is ended when it has gone, the stubborn are killed.

Killing a worker whose parent starts it again achieves nothing, and killing only the parent can leave its
workers serving. So a supervisor is asked to end its own workers, and whatever it leaves behind is ended after
it. Everybody gets SIGTERM and time before SIGKILL.
"""

import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from preflight.ports.machine import Handle, Machine

Note = Callable[[str, int, str, str], None]  # action, PID, name, result, as in steps.Step

SWEEP = 1.0  # seconds that the rest gets at least between SIGTERM and SIGKILL, however late its top went
_UNKILLABLE = 2.0  # seconds after SIGKILL: a process still there is inside the kernel, and ends when that returns
_LOOK = 0.02  # seconds between two calls of `meanwhile`


class Tree(NamedTuple):
    """A process to be asked first, and those to be swept after it, parents before children."""

    top: Handle
    rest: tuple[Handle, ...]


@dataclass(slots=True)
class _Member:
    handle: Handle
    after: "_Member | None"  # asked only when that one has gone
    asked: float | None = None  # when, monotonic
    killed: bool = False
    deadline: float = math.inf  # monotonic: when the step after the last signal is due
    over: bool = False  # ended or given up
    failed: bool = False  # given up


def end(
    trees: Sequence[Tree],
    machine: Machine,
    *,
    grace: float,
    note: Note,
    meanwhile: Callable[[], bool],
) -> list[Handle]:
    """End every process of these trees; returns those that could not be ended.

    `grace` is in seconds. `note` is called for each step. `meanwhile` is called whenever something has ended,
    and every 20 ms until it returns True: what the processes give up can be taken before they have exited.
    """
    members: list[_Member] = []
    for tree in trees:
        top = _Member(tree.top, None)
        members += [top, *(_Member(handle, top) for handle in tree.rest)]
    start = time.monotonic()
    while True:
        for member in members:
            if not member.over:
                _advance(member, start, grace, note)
        done = meanwhile()
        waiting = [member for member in members if not member.over]
        if not waiting:
            return [member.handle for member in members if member.failed]
        left = min(member.deadline for member in waiting) - time.monotonic()
        machine.wait([member.handle for member in waiting], left if done else min(left, _LOOK))


def _advance(member: _Member, start: float, grace: float, note: Note) -> None:
    """Do what is due for one process now."""
    pid, name = member.handle.process.pid, member.handle.process.name
    now = time.monotonic()
    if member.handle.gone():
        member.over = True
        when = "by itself" if member.asked is None else f"{now - member.asked:.3f} s after SIGTERM"
        note("exited", pid, name, when)
    elif member.asked is None:
        if member.after is not None and not member.after.over:
            return
        if member.after is not None and member.after.failed:
            member.over = member.failed = True  # the top would only start it again
            return
        member.asked = now
        member.deadline = max(start + grace, now + min(grace, SWEEP))
        why = "sent" if member.after is None else "sent, because the process above it has ended"
        _signal(member, signal.SIGTERM, why, note)
        if member.handle.process.suspended and not member.over:
            _signal(member, signal.SIGCONT, "sent, because it was suspended and could not end", note)
    elif now >= member.deadline:
        if member.killed:
            member.over = member.failed = True
            note("still there", pid, name, f"{_UNKILLABLE:g} s after SIGKILL; it is waiting inside the kernel")
        else:
            member.killed = True
            member.deadline = now + _UNKILLABLE
            _signal(member, signal.SIGKILL, f"sent {now - member.asked:.3f} s after SIGTERM", note)


def _signal(member: _Member, number: signal.Signals, result: str, note: Note) -> None:
    try:
        member.handle.send(number)
    except ProcessLookupError:
        result = "not needed, because it has just ended"
    except PermissionError:
        result = "not permitted"
        member.over = member.failed = True
    note(number.name, member.handle.process.pid, member.handle.process.name, result)
