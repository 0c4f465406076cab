"""Claim the server's port for a run of the suite: what may be stopped for it depends on the kind of run.

| run | stops a stale holder | stops a live instance of ours |
| --- | --- | --- |
| start | yes, by policy | one that it may replace, and that gave it no socket |
| pytest | yes, by policy | never: the port is "served by our instance" |
| check | no: says what a start would stop | never |
| rerun | never | never |

Who is an instance of ours is found out in neighbours.py; what a start does about one is decided in decision.py. One
that drains is waited for, as long as it says that it may take; nobody sends it a second signal before.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from preflight import commands, ports
from preflight.instances import neighbours, runtime, socketfiles
from preflight.instances.decision import Decision, decide, patience
from preflight.instances.neighbours import Neighbour
from preflight.instances.records import DRAINING, STARTING, Record
from preflight.ports import activation, ancestors, here
from preflight.ports.activation import Inherited
from preflight.processes.worker import LISTENING_FIX
from preflight.redaction.keys import common_secrets
from preflight.settings.model import Settings
from preflight.text import foreign

STUBBORN = 3.0  # seconds beyond the grace until what a holder leaves behind is swept or given up
LOOK = 0.02  # seconds between two looks at a port that an instance of ours is about to let go of


@dataclass(frozen=True, slots=True)
class Claim:
    """How the claim went. The port is good if it is ``held``, ``obtainable`` or ``served_by`` an instance of ours."""

    socket: socket.socket | None = None
    obtainable: bool = False
    """A start could have it (for runs that hold nothing)."""
    served_by: Record | None = None
    handed_over: bool = False
    """The socket is that of the running instance, which this start replaces without an outage."""
    activated_by: str = ""
    """The socket unit of systemd whose socket it is, or "systemd"; nothing is freed for that one."""
    untried: str = ""
    """Why nothing was looked for or stopped at all."""
    holders: tuple[ports.Holder, ...] = ()
    stopped: tuple[ports.Holder, ...] = ()
    would_stop: tuple[ports.Holder, ...] = ()
    refusals: tuple[ports.Refusal, ...] = ()
    reasons: tuple[str, ...] = ()
    """For each of the holders, why it was or would be stopped, or is left alone; empty where nobody was judged."""
    steps: tuple[ports.Step, ...] = ()
    problem: str = ""
    fix: str = ""


def policy_of(settings: Settings, records: Sequence[Record]) -> ports.Policy:
    """What the settings allow to be stopped; ``records`` are those of the instances of ours on this port.

    An instance of ours says itself how long it may take to finish what it is doing.
    """
    return ports.Policy(
        cleanup=settings.port_cleanup,
        own=frozenset(record.pid for record in records),
        spare=ports.INFRASTRUCTURE | frozenset(settings.port_spare),
        project=str(settings.root),
        grace=max([settings.port_grace, *(record.stops_within for record in records)]),
        secrets=common_secrets(settings),
        elsewhere=lambda: neighbours.elsewhere(settings.port),
    )


def judged(holders: Sequence[ports.Holder], reasons: Sequence[str]) -> list[str]:
    """Each holder with the reason why it is stopped or left alone, for people."""
    return [f"{holder.title}: {reason}" for holder, reason in zip(holders, reasons, strict=False) if reason]


def told(step: ports.Step, *, when: bool = False) -> str:
    """One step for people; ``when`` puts the time before it, to the millisecond."""
    return f"  {step}" if when else f"  {step.what}"


def claim(
    origin: str,
    settings: Settings,
    *,
    blocked: Sequence[str],
    on_step: Callable[[ports.Step], None],
    may_take: Callable[[float], object] = lambda _seconds: None,
    inherited: Inherited | None = None,
) -> Claim:
    """Find, free and hold the port as far as a run of this ``origin`` may.

    ``blocked`` says what blocks the start already: a start that is going to be refused never stops
    a server that works. ``may_take`` is told, before anybody is stopped, how many seconds a holder may take to
    end: a run that were over before that had stopped a server for nothing. ``inherited`` is the listening socket
    that a start is given, by the instance that it replaces or by systemd.
    """
    try:
        if origin != "pytest":
            return _claim(origin, settings, blocked, on_step, may_take, inherited)
        # A start that goes on has no record yet: wait for it, rather than taking the port from under it.
        with runtime.StartLock(settings.slot, settings.state_dir) as lock:
            if not lock.take(patience := settings.requirement_timeout / 2):
                pid = lock.holder()
                other = f"another start of {settings.starts_at} has been going on for {patience:g} s (PID {pid})"
                return Claim(problem=other, fix=f"wait for it, or end it: kill {pid}")
            return _claim(origin, settings, blocked, on_step, may_take, inherited)
    except ports.PortUnavailable as error:
        return Claim(problem=str(error), fix=error.fix)
    except runtime.RuntimeFolderError as error:
        return Claim(problem=str(error), fix=runtime.FIX)


def _claim(
    origin: str,
    settings: Settings,
    blocked: Sequence[str],
    on_step: Callable[[ports.Step], None],
    may_take: Callable[[float], object],
    inherited: Inherited | None,
) -> Claim:
    blocking = f"not tried, and nothing was stopped: the start is blocked by {', '.join(blocked)}" if blocked else ""
    if inherited is not None and inherited.activated_by:
        return _activated(origin, settings, blocking, inherited)
    given = inherited.socket if inherited is not None else None
    if settings.uds is not None:
        return _claim_path(origin, settings, settings.uds, blocking, given)
    host, port = settings.host, settings.port
    if origin == "start":
        if blocking:
            return Claim(untried=blocking)
        if given is not None:
            if _listens_on(given, settings):
                return Claim(socket=given, handed_over=True)
            given.close()
    secrets = common_secrets(settings)
    holders = tuple(ports.listeners(host, port, secrets=secrets))
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
    policy = policy_of(settings, [one.record for one in ours])
    if origin == "check":
        plan = ports.plan(host, port, policy)
        # Those who drain let go by themselves.
        drains = bool(ours) and not any(one.stays for one in ours) and not neighbours.others(holders, ours)
        return Claim(
            obtainable=drains or (not plan.problem and not plan.refusals),
            holders=plan.holders,
            would_stop=() if drains else plan.stop,
            refusals=() if drains else plan.refusals,
            reasons=() if drains else plan.reasons,
            problem="" if drains else plan.problem or "",
            fix="" if drains else plan.fix or "",
        )
    if wait := patience(ours):
        may_take(wait)
        wait_for_drains(settings, ours, on_step)
        ours = neighbours.on_port(settings)
        if origin == "pytest" and ours:
            return Claim(holders=holders, problem=f"{ours[0].name} drains for longer than it said", fix="stop it")
        policy = policy_of(settings, [one.record for one in ours])
    stopping = False

    def shown(step: ports.Step) -> None:
        # That the port is held is news only where somebody had to go for it.
        nonlocal stopping
        stopping = stopping or step.action != "held"
        if stopping:
            on_step(step)

    may_take(policy.grace + STUBBORN)
    taken = ports.take(host, port, policy, on_step=shown)
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


def _activated(origin: str, settings: Settings, blocking: str, inherited: Inherited) -> Claim:
    """The same for a socket that systemd has given: nobody has to be found, waited for or stopped."""
    if blocking:
        return Claim(untried=blocking)
    by = inherited.activated_by
    if not _listens_on(inherited.socket, settings):
        problem = f"the socket of {by} does not listen on {settings.address} any more"
        return Claim(problem=problem, fix="restart its socket unit: systemctl restart NAME.socket")
    if origin == "start":
        return Claim(socket=inherited.socket, activated_by=by)
    return Claim(obtainable=True, activated_by=by)


def _claim_path(origin: str, settings: Settings, path: Path, blocking: str, given: socket.socket | None) -> Claim:
    """The same for the path of a Unix socket, for which nobody is stopped; see socketfiles.py."""
    if origin == "start":
        if blocking:
            return Claim(untried=blocking)
        if given is not None:
            if any(one.answers and one.is_at(settings) for one in neighbours.on_port(settings)):
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
    while origin != "check" and (found := socketfiles.look(path)).listens and time.monotonic() < until:
        time.sleep(LOOK)  # it drains, and removes the file when it accepts nothing more
    found = socketfiles.look(path)
    if found.listens and ours and (origin != "check" or any(one.stays for one in ours)):
        pid = ours[0].record.pid
        problem = (
            f"{ours[0].name} holds {settings.address} and hands over no socket: no process is stopped to free a path"
        )
        return Claim(problem=problem, fix=f"see what it waits for (kill -CONT {pid}), or end it: kill {pid}")
    if found.problem or (found.listens and not ours):
        problem, fix = socketfiles.described(path, found)
        return Claim(problem=problem, fix=fix)
    if origin != "start":
        return Claim(obtainable=True)
    try:
        return Claim(socket=socketfiles.listen(path, int(settings.uds_mode, 8)))
    except OSError as error:
        return Claim(problem=f"cannot listen on {path}: {error.strerror}", fix="serve on another path")


def _beside(origin: str, settings: Settings, decision: Decision, holders: tuple[ports.Holder, ...]) -> Claim | None:
    """What a run makes of an instance of ours that is there to stay; None where the run goes on to stop it.

    A start has decided already, unless the instance has come since.
    """
    one, refusal = decision.neighbour, decision.refusal
    leaves = Claim(holders=holders, problem=refusal or f"{one.name} serves {one.where}", fix=decision.fix)
    if origin == "start":
        return None if decision.replaces else leaves
    if one.record.state == STARTING:
        return Claim(holders=holders, untried=f"{one.name} is starting on {one.where}: a start would wait for it")
    good = one.answers and one.is_of(settings) and one.is_at(settings)
    if origin == "check":
        if refusal:
            return leaves
        return Claim(served_by=one.record, holders=holders) if good or not decision.replaces else None
    if good:
        return Claim(served_by=one.record, holders=holders)
    whose = "" if one.is_of(settings) else f" for project {foreign(one.record.project or one.record.root)}"
    what = f"serves {one.where}{whose}" if one.answers else f"holds {one.where} and does not answer"
    pid = one.record.pid
    fix = "stop it, or choose another port" if one.answers else f"see what it waits for (kill -CONT {pid}), or end it"
    return Claim(holders=holders, problem=f"{one.name} {what}, which this run never stops", fix=fix)


def _of_the_application(origin: str, holders: Sequence[ports.Holder]) -> ports.Holder | None:
    """One of the holders that the application of this very run has started, which ends with its worker."""
    launcher = os.getpid() if origin == "pytest" else os.getppid()
    for holder in holders:
        line = [holder.pid, *ancestors(here(), holder.pid)] if holder.pid is not None else []
        for pid, parent in itertools.pairwise(line):
            process = here().process(pid) if parent == launcher else None
            if process is not None and "preflight.worker" in process.argv:
                return holder
    return None


def _suspended_start(settings: Settings, holders: tuple[ports.Holder, ...]) -> Claim | None:
    """What a check says of another start that has the start lock and was stopped by a signal; None without one."""
    pid = runtime.starting(settings.slot)
    process = here().process(pid) if pid else None
    if process is None or not process.suspended:
        return None
    problem = f"another start of {settings.starts_at} is suspended (PID {pid}), and a start would wait for it"
    return Claim(holders=holders, problem=problem, fix=f"kill -CONT {pid}  # or end it: kill {pid}")


def wait_for_drains(settings: Settings, ours: Sequence[Neighbour], on_step: Callable[[ports.Step], None]) -> None:
    """Wait until the instances that drain have let go of the port, as long as they say that they may take."""
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
        # Of a Unix socket the kernel names one who listens: while it is replaced, the one that comes.
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


def _listens_on(sock: socket.socket, settings: Settings) -> bool:
    """Whether the socket listens, and on the address that is wanted."""
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    return activation.is_bound_to(sock, settings.host, settings.port, settings.uds)
