"""Why a port could not be held, in one line, and what a person can do about it."""

from collections.abc import Sequence
from typing import NamedTuple

from preflight.ports import fixes
from preflight.ports.binding import Target, user_name
from preflight.ports.machine import Handle, Machine
from preflight.ports.policy import Refusal
from preflight.ports.sockets import BOUND, CLOSE, LISTEN, STATES, Endpoint

_SHOWN = 3  # connections that are named one by one


class Trouble(NamedTuple):
    """What is wrong, and what helps; both None if nothing is wrong."""

    problem: str | None
    fix: str | None


def left_alone(target: Target, refusals: Sequence[Refusal]) -> Trouble:
    """A holder of the port is left alone."""
    first, more = refusals[0], len(refusals) - 1
    others = f" ({more} more {'is' if more == 1 else 'are'} left alone too)" if more else ""
    who = f"port {target.port} is held by {first.holder.title}"
    return Trouble(f"{who}, which is left alone: {first.reason}{others}", first.fix)


def unexplained(target: Target, machine: Machine) -> Trouble:
    """Why a port is busy although no listener was found, as far as that can be told."""
    sockets = machine.occupying(target.port)
    there = [endpoint for endpoint in sockets if target.overlaps(endpoint) is not False]
    states = [endpoint.state for endpoint in there]
    fix = another = fixes.another(target.port)
    bound = next((endpoint for endpoint in there if endpoint.state in (BOUND, CLOSE)), None)
    if bound is not None:
        process = next((process for pid in bound.pids if (process := machine.process(pid))), None)
        who = "a process that cannot be seen"
        if process is not None:
            who = f"{process.name} (PID {process.pid}, user {user_name(process.uid)})"
            fix = f"{fixes.stop(process.pid)}  # if it should not run here, else {another}"
        return Trouble(f"port {target.port} is in use: {who} has bound it without listening", fix)
    if there and LISTEN not in states:
        return _connected(target, there, machine)
    return Trouble(
        f"port {target.port} is in use by a process that cannot be seen",
        fixes.look(target.port),
    )


def _connected(target: Target, there: Sequence[Endpoint], machine: Machine) -> Trouble:
    """Only connections keep the port: some that a process has, or some that only the system still knows."""
    said, others = [], []
    for one in there:
        process = next((process for pid in one.pids if (process := machine.process(pid))), None)
        if process is not None:
            who = f"{process.name} (PID {process.pid}, user {user_name(process.uid)})"
            said.append(
                f"{who} uses it for a connection ({STATES.get(one.state, '?')}{f' to {one.peer}' * bool(one.peer)})"
            )
        else:
            others.append(STATES.get(one.state, "?"))
    more = len(said) - _SHOWN
    told = said[:_SHOWN] + ([f"{more} more connection{'s use' if more > 1 else ' uses'} it"] if more > 0 else [])
    if others:
        counted = ", ".join(f"{others.count(state)} in {state}" for state in dict.fromkeys(others))
        plural = "s" if len(others) > 1 else ""
        told.append(f"the system keeps it for {len(others)} earlier connection{plural} ({counted})")
    ended = "the connections have ended" if len(said) > 1 else "the connection has ended"
    wait = f"wait until {ended}" if said else "wait a minute and start again"
    return Trouble(
        f"port {target.port} is in use: no process listens on it, but {', and '.join(told)}",
        f"{wait}, or {fixes.another(target.port)}",
    )


def unstoppable(target: Target, left: Sequence[Handle]) -> Trouble:
    """SIGKILL did not help, or was not permitted."""
    process = left[0].process
    who = f"{process.name} (PID {process.pid}, user {user_name(process.uid)})"
    return Trouble(
        f"port {target.port} is held by {who}, which could not be stopped",
        f"ps -o pid,stat,wchan,args -p {process.pid}  # shows what it is waiting for",
    )
