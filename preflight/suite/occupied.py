"""A port that is held: by whom, and what a run of the suite may do about it; see the table in claim.py.

neighbours.py finds the instances of ours; decision.py decides what a start does about one. An instance that drains is
waited for, as long as it says that it may take, and gets no second signal before that.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from preflight import commands, ports
from preflight.instances import neighbours, runtime, socketfiles, unixsockets
from preflight.instances.decision import Decision, decide, may_be_replaced, patience
from preflight.instances.neighbours import Neighbour
from preflight.instances.records import BUSY, DRAINING, STARTING
from preflight.ports import ancestors, here
from preflight.processes.worker import LISTENING_FIX
from preflight.redaction.keys import common_secrets
from preflight.settings.model import Settings
from preflight.suite.claimed import Claim
from preflight.text import foreign

STUBBORN = 3.0  # seconds beyond the grace until what a holder leaves behind is swept or given up
ASKED = 2 * BUSY  # seconds until a launcher that is busy has been asked who it is, and again when others have drained
LOOK = 0.02  # seconds between two looks at a port that an instance of ours is about to let go of


def policy_of(settings: Settings, ours: Sequence[Neighbour]) -> ports.Policy:
    """What the settings allow to be stopped; ``ours`` are the instances of ours on this port, of any project.

    An instance of ours says itself how long it may take to finish what it is doing.
    """
    return ports.Policy(
        cleanup=settings.port_cleanup,
        own=frozenset(one.record.pid for one in ours if may_be_replaced(settings, one)),
        others=frozenset(one.record.pid for one in ours if not may_be_replaced(settings, one)),
        spare=ports.INFRASTRUCTURE | frozenset(settings.port_spare),
        project=str(settings.root),
        grace=max([settings.port_grace, *(one.record.stops_within for one in ours)]),
        secrets=common_secrets(settings),
        elsewhere=lambda: neighbours.elsewhere(settings.port),
    )


def claim(
    origin: str,
    settings: Settings,
    blocking: str,
    on_step: Callable[[ports.Step], None],
    may_take: Callable[[float], object],
) -> Claim:
    """Find, free and hold the port as far as a run of this ``origin`` may; ``blocking``: why it frees nothing."""
    may_take(ASKED)
    holders = tuple(ports.listeners(settings.host, settings.port, secrets=common_secrets(settings)))
    ours = neighbours.on_port(settings, holders)
    if origin == "start":  # a launcher that has inherited a socket of its parent's is no neighbour of itself
        ours = [one for one in ours if one.record.pid != os.getppid()]
    holders = tuple(neighbours.without_keepers(holders, ours))
    if origin == "rerun":
        return _still_served(settings, ours, holders)
    if (own := _of_the_application(origin, holders)) is not None:
        problem = f"{own.title} was started by {settings.app} while it was imported, and listens on {settings.address}"
        return Claim(holders=holders, problem=problem, fix=LISTENING_FIX)
    if origin == "check" and (waits := _suspended_start(settings, holders)) is not None:
        return waits
    if (decision := decide(settings, ours)) is not None:
        beside = _beside(origin, settings, decision, holders)
        if beside is not None:
            return beside
    if blocking:
        return Claim(untried=blocking)
    policy = policy_of(settings, ours)
    if origin == "check":
        return _would_take(settings, policy, holders, ours)
    if wait := patience(ours):
        may_take(wait)
        wait_for_drains(settings, ours, on_step)
        ours = neighbours.on_port(settings)
        if origin == "pytest" and ours:
            problem = f"{ours[0].name} has been draining for longer than it announced"
            return Claim(holders=holders, problem=problem, fix="stop it")
        policy = policy_of(settings, ours)
    may_take(policy.grace + STUBBORN)
    return _take(settings, policy, on_step)


def _would_take(
    settings: Settings, policy: ports.Policy, holders: Sequence[ports.Holder], ours: Sequence[Neighbour]
) -> Claim:
    """What a start would do about the holders of the port."""
    plan = ports.plan(settings.host, settings.port, policy)
    # Instances that drain let go by themselves.
    if ours and not any(one.stays for one in ours) and not neighbours.others(holders, ours):
        return Claim(obtainable=True, holders=plan.holders)
    return Claim(
        obtainable=not plan.problem and not plan.refusals,
        holders=plan.holders,
        would_stop=plan.stop,
        refusals=plan.refusals,
        reasons=plan.reasons,
        problem=plan.problem or "",
        fix=plan.fix or "",
    )


def _take(settings: Settings, policy: ports.Policy, on_step: Callable[[ports.Step], None]) -> Claim:
    """Free the port and hold it, step by step."""
    stopping = False

    def shown(step: ports.Step) -> None:
        # That the port is held is reported only if a process had to be stopped for it.
        nonlocal stopping
        stopping = stopping or step.action != "held"
        if stopping:
            on_step(step)

    taken = ports.take(settings.host, settings.port, policy, on_step=shown)
    return Claim(
        socket=taken.socket,
        holders=taken.holders,
        stopped=taken.holders if stopping else (),
        refusals=taken.refusals,
        reasons=taken.reasons,
        steps=taken.steps,
        problem=taken.problem or "",
        fix=taken.fix or "",
    )


def claim_path(
    origin: str,
    settings: Settings,
    path: Path,
    blocking: str,
    may_take: Callable[[float], object],
    given: socket.socket | None,
) -> Claim:
    """Claim the path of a Unix socket, for which no process is stopped; see socketfiles.py."""
    if origin == "start" and blocking:
        return Claim(untried=blocking)
    may_take(ASKED)
    if origin == "start" and given is not None:
        if any(neighbour.answers and neighbour.is_at(settings) for neighbour in neighbours.on_port(settings)):
            return Claim(socket=given, handed_over=True)
        given.close()  # somebody has removed its file, or made another one
    ours = neighbours.on_port(settings)
    if origin == "rerun":
        return _still_served(settings, ours, ())
    if origin == "check" and (waits := _suspended_start(settings, ())) is not None:
        return waits
    if (decision := decide(settings, ours)) is not None and (beside := _beside(origin, settings, decision, ())):
        return beside
    if blocking:
        return Claim(untried=blocking)
    until = time.monotonic() + patience(ours)
    while origin != "check" and (state := socketfiles.look(path)).listens and time.monotonic() < until:
        time.sleep(LOOK)  # it drains, and removes the file when it accepts nothing more
    state = socketfiles.look(path)
    if state.listens and ours and (origin != "check" or any(neighbour.stays for neighbour in ours)):
        pid = ours[0].record.pid
        problem = (
            f"{ours[0].name} holds {settings.address} and does not hand over its socket: no process is stopped to free"
            " a path"
        )
        return Claim(problem=problem, fix=f"resume it if it is suspended (kill -CONT {pid}), or end it (kill {pid})")
    if state.problem or (state.listens and not ours):
        problem, fix = socketfiles.described(path, state)
        return Claim(problem=problem, fix=fix)
    try:
        if origin == "start":
            return Claim(socket=socketfiles.listen(path, int(settings.uds_mode, 8)))
        if not os.path.lexists(path):
            unixsockets.see_that_there_is_room(path.parent)
    except OSError as error:
        return Claim(problem=f"cannot listen on {path}: {error.strerror}", fix="serve on another path")
    return Claim(obtainable=True)


def _beside(origin: str, settings: Settings, decision: Decision, holders: tuple[ports.Holder, ...]) -> Claim | None:
    """The claim of a run beside an instance of ours that stays; None if the run goes on to stop it.

    A start has decided before this, unless the instance has come since.
    """
    neighbour, refusal = decision.neighbour, decision.refusal
    leaves = Claim(holders=holders, problem=refusal or f"{neighbour.name} serves {neighbour.where}", fix=decision.fix)
    if origin == "start":
        return None if decision.replaces else leaves
    if neighbour.record.state == STARTING:
        return Claim(
            holders=holders, untried=f"{neighbour.name} is starting on {neighbour.where}: a start would wait for it"
        )
    good = neighbour.answers and neighbour.is_of(settings) and neighbour.is_at(settings)
    if origin == "check":
        if refusal:
            return leaves
        return Claim(served_by=neighbour.record, holders=holders) if good or not decision.replaces else None
    if good:
        return Claim(served_by=neighbour.record, holders=holders)
    whose = (
        ""
        if neighbour.is_of(settings)
        else f" for project {foreign(neighbour.record.project or neighbour.record.root)}"
    )
    what = f"serves {neighbour.where}{whose}" if neighbour.answers else f"holds {neighbour.where} and does not answer"
    pid = neighbour.record.pid
    fix = (
        "stop it, or choose another port"
        if neighbour.answers
        else f"resume it if it is suspended (kill -CONT {pid}), or end it (kill {pid})"
    )
    return Claim(holders=holders, problem=f"{neighbour.name} {what}, and this run never stops it", fix=fix)


def _of_the_application(origin: str, holders: Sequence[ports.Holder]) -> ports.Holder | None:
    """The holder that the application of this very run has started, which ends with its worker; None without one."""
    launcher = os.getpid() if origin == "pytest" else os.getppid()
    for holder in holders:
        line = [holder.pid, *ancestors(here(), holder.pid)] if holder.pid is not None else []
        for pid, parent in itertools.pairwise(line):
            process = here().process(pid) if parent == launcher else None
            if process is not None and "preflight.worker" in process.argv:
                return holder
    return None


def _suspended_start(settings: Settings, holders: tuple[ports.Holder, ...]) -> Claim | None:
    """The claim of a check while a start that has the start lock is suspended; None if there is no such start."""
    pid = runtime.starting(settings.slot)
    process = here().process(pid) if pid else None
    if process is None or not process.suspended:
        return None
    problem = f"another start of {settings.starts_at} is suspended (PID {pid}), and a start would wait for it"
    return Claim(holders=holders, problem=problem, fix=f"kill -CONT {pid}  # or end it: kill {pid}")


def wait_for_drains(settings: Settings, ours: Sequence[Neighbour], on_step: Callable[[ports.Step], None]) -> None:
    """Wait until the instances that drain have let go of the port, but no longer than they say that they may take."""
    until = time.monotonic() + patience(ours)
    for one in ours:
        if one.record.state == DRAINING:
            result = f"drains, and will have ended within {one.record.stops_within:.1f} s"
            on_step(ports.Step(time.time(), "waiting", one.record.pid, "our instance", result))
    while time.monotonic() < until and not ports.plan(settings.host, settings.port, _NOBODY).free:
        time.sleep(LOOK)


_NOBODY = ports.Policy(cleanup="never")


def _still_served(settings: Settings, ours: Sequence[Neighbour], holders: tuple[ports.Holder, ...]) -> Claim:
    """Whether the very instance that this re-run belongs to serves the address.

    While it is being replaced, the instance that comes holds the same socket: that is no fault.
    """
    own = {os.getpid(), *ancestors(here(), os.getpid())}
    for one in ours:
        # The kernel names one listener of a Unix socket: during a replacement, the new instance.
        if (one.record.pid in own or settings.uds is not None) and one.is_at(settings):
            return Claim(served_by=one.record, holders=holders)
    return Claim(
        holders=holders,
        problem=f"{settings.address} is not served by this instance any more",
        fix=f"{commands.run_py(*_typed(settings))}  # starts it again",
    )


def _typed(settings: Settings) -> list[str]:
    """The options that name the address."""
    if settings.uds is not None:
        return ["--uds", str(settings.uds)]
    return ["--host", settings.host, "--port", str(settings.port)]
