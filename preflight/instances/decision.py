"""What a start does about instances of ours that hold its port: replace, leave alone, or refuse to start.

`neighbours` finds them; the launcher replaces one (replacement.py).
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from preflight.instances.neighbours import Neighbour
from preflight.instances.records import DRAINING, STARTING, Record
from preflight.ports import ancestors, cgroups, here
from preflight.processes.restarts import CONTAINERS, SETS_SESSION, SYSTEMD, is_at_a_prompt
from preflight.settings.model import Settings
from preflight.text import foreign


@dataclass(frozen=True, slots=True)
class Decision:
    """What a start does about an instance of ours that serves where it wants to."""

    neighbour: Neighbour
    replaces: bool = False
    """Whether the start takes its place; otherwise there is nothing to do, or the start is refused."""
    refusal: str = ""
    """Why the start is refused, without a full stop; empty if it is not."""
    fix: str = ""


def decide(settings: Settings, neighbours: Sequence[Neighbour], typed_at: float = math.inf) -> Decision | None:
    """What a start with these settings does about the instances of ours that hold its port.

    ``typed_at`` is when its command was typed, on the monotonic clock. None if no instance is there to stay.
    """
    staying = [neighbour for neighbour in neighbours if neighbour.stays]
    if not staying:
        return None
    staying.sort(key=lambda neighbour: neighbour.is_at(settings), reverse=True)
    decision = _decide(settings, staying[0], typed_at)
    if not decision.replaces:
        return decision
    # An address that overlaps several instances has several in its way, and all of them would have to go.
    every = (_decide(settings, neighbour, typed_at) for neighbour in staying)
    return next((neighbour for neighbour in every if not neighbour.replaces), decision)


def _decide(settings: Settings, neighbour: Neighbour, typed_at: float) -> Decision:
    pid, how = neighbour.record.pid, settings.if_running
    if neighbour.record.state == STARTING:
        starts = f"{neighbour.name} is starting on {neighbour.where}"
        return Decision(neighbour, refusal=starts, fix=f"wait for it, or end it: kill {pid}")
    if not neighbour.answers and how != "replace":
        silent = f"{neighbour.name} holds {settings.address} and does not answer, and --if-running is {how}"
        fix = f"resume it if it is suspended (kill -CONT {pid}), end it (kill {pid}), or use --if-running replace"
        return Decision(neighbour, refusal=silent, fix=fix)
    if not may_be_replaced(settings, neighbour):
        what = f"project {foreign(neighbour.record.project)}" if neighbour.record.project else "another project"
        other = f"{neighbour.name} serves {neighbour.where} for {what} ({foreign(neighbour.record.root)})"
        return Decision(neighbour, refusal=other, fix="stop it, choose another port, or use --if-running replace")
    if how == "fail":
        running = f"{neighbour.name} serves {neighbour.where}, and --if-running is fail"
        return Decision(neighbour, refusal=running, fix="stop it, or start with --if-running replace")
    if neighbour.came_up_after(typed_at) and neighbour.is_the_wish_of(settings):
        return Decision(neighbour)  # twenty starts in the same second have the same purpose
    if how == "replace" and (end := _common_end(neighbour.record)):
        shared, fix = end
        return Decision(neighbour, refusal=f"{neighbour.name} serves {neighbour.where}, and {shared}", fix=fix)
    return Decision(neighbour, replaces=how == "replace")


def may_be_replaced(settings: Settings, neighbour: Neighbour) -> bool:
    """Whether an instance is of this project, or somebody has said that one of another project is replaced."""
    return neighbour.is_of(settings) or (settings.if_running == "replace" and "if_running" in settings.sources)


def _common_end(record: Record) -> tuple[str, str] | None:
    """Why this process ends when that instance does, and what to do instead; None if it goes on.

    An instance that is replaced ends, and takes along what it has started, its container or its unit.
    """
    me = os.getpid()
    if record.pid in ancestors(here(), me):
        return "this start runs inside it, and would end with it", "start it from elsewhere, or detached: setsid -f"
    if record.pid == 1 or (_shares_pids(record.pid) and (record.keeper in CONTAINERS or _is_all_that_runs(record.pid))):
        what = "this container runs it: the container would end with it, and so would this start"
        return what, "restart the container"
    if record.keeper == SYSTEMD and (process := here().process(record.pid)) and (own := here().process(me)):
        unit = cgroups.unit(process.cgroup)
        if unit is not None and unit == cgroups.unit(own.cgroup):
            return f"this start would end with its unit, {unit.name}", unit.stop_command.replace(" stop ", " restart ")
    return None


def kept_by_systemd(one: Neighbour) -> tuple[str, str]:
    """Why an instance on a socket of systemd's is not replaced from outside of its unit, and what to do instead.

    systemd keeps the socket, and starts the unit again for the next connection: each would replace the other.
    """
    unit_of_socket = one.record.activated_by
    why = f"{one.name} serves {one.where} on a socket from systemd ({unit_of_socket}); systemd would start it again"
    process = here().process(one.record.pid)
    unit = cgroups.unit(process.cgroup) if process is not None else None
    if unit is None:
        return why, "restart its unit instead: connections wait meanwhile"
    return why, f"{unit.stop_command.replace(' stop ', ' restart ')}  # connections wait meanwhile"


def _shares_pids(pid: int) -> bool:
    """Whether that process is in the same PID namespace as this one, so in the same container."""
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink("/proc/self/ns/pid")
    return False


def _is_all_that_runs(pid: int) -> bool:
    """Whether a container was started for nothing but that process, which then ends with it: ``uv run``, ``timeout``.

    This process was put into the container, and is none of those that PID 1 has started. A shell at a prompt goes on.
    What PID 1 has adopted is in another session, unless an init has made that for its process, and what a script has
    put into its background ignores SIGINT or SIGQUIT; neither is what the container waits for.
    """
    line = [pid, *ancestors(here(), pid)]
    if line[-1] != 1 or 1 in ancestors(here(), os.getpid()):
        return False
    first = here().process(1)
    with contextlib.suppress(OSError, ValueError, IndexError):
        session = os.getsid(pid)
        own = first is not None and session == line[-2] and os.path.basename(first.argv[0]) == SETS_SESSION
        if (session != os.getsid(1) and not own) or (first is not None and is_at_a_prompt(first.argv)):
            return False
        others = {one for parent in line[1:] for one in here().children(parent) if here().process(one) is not None}
        return not _is_in_background(pid) and not any(_is_waited_for(one, session) for one in others - set(line))
    return False


def _is_waited_for(pid: int, session: int) -> bool:
    """Whether a container may wait for another process of a session; not for one that has ended meanwhile."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return os.getsid(pid) == session and not _is_in_background(pid)
    return False


def _is_in_background(pid: int) -> bool:
    """Whether a process ignores one of the signals that a script's background ignores, and may handle since.

    Raises OSError, ValueError or IndexError if it has ended.
    """
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    ignored = int(status.partition("\nSigIgn:")[2].split()[0], 16)
    return any(ignored >> (number - 1) & 1 for number in (signal.SIGINT, signal.SIGQUIT))


def patience(found: Sequence[Neighbour]) -> float:
    """Seconds for which a start waits for those that drain, before it sends a signal to any process."""
    return max((one.record.stops_within for one in found if one.record.state == DRAINING), default=0.0)
