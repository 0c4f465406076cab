"""Claim the server's port for a run of the suite: what may be stopped for it depends on the kind of run.

| run | stops a stale holder | stops a live instance of ours |
| --- | --- | --- |
| start | yes, by policy | yes |
| pytest | yes, by policy | never: the port is "served by our instance" |
| check | no: says what a start would stop | never |
| rerun | never | never |
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from preflight import instances, ports
from preflight.keys import common_secrets
from preflight.ports import ancestors, here
from preflight.settings import Settings, address

STUBBORN = 3.0  # seconds beyond the grace until what a holder leaves behind is swept or given up


@dataclass(frozen=True, slots=True)
class Claim:
    """How the claim went. The port is good if it is ``held``, ``obtainable`` or ``served_by`` an instance of ours."""

    socket: socket.socket | None = None
    obtainable: bool = False
    """A start could have it (for runs that hold nothing)."""
    served_by: instances.Record | None = None
    handed_over: bool = False
    """The socket is that of the running instance, which this start replaces without an outage."""
    untried: str = ""
    """Why nothing was looked for or stopped at all."""
    holders: tuple[ports.Holder, ...] = ()
    stopped: tuple[ports.Holder, ...] = ()
    would_stop: tuple[ports.Holder, ...] = ()
    refusals: tuple[ports.Refusal, ...] = ()
    steps: tuple[ports.Step, ...] = ()
    problem: str = ""
    fix: str = ""


def policy_of(settings: Settings, records: Sequence[instances.Record]) -> ports.Policy:
    """What the settings allow to be stopped; ``records`` are the live instances on this port.

    An instance of ours says itself how long it may take to finish what it is doing.
    """
    return ports.Policy(
        cleanup=settings.port_cleanup,
        own=frozenset(record.pid for record in records),
        spare=ports.INFRASTRUCTURE | frozenset(settings.port_spare),
        grace=max([settings.port_grace, *(record.stops_within for record in records)]),
        secrets=common_secrets(settings.environment, settings.envfile.values),
    )


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
    inherited: socket.socket | None = None,
) -> Claim:
    """Find, free and hold the port as far as a run of this ``origin`` may.

    ``blocked`` says what blocks the start already: a start that is going to be refused never stops
    a server that works. ``may_take`` is told, before anybody is stopped, how many seconds a holder may take to
    end: a run that were over before that had stopped a server for nothing. ``inherited`` is the listening socket
    of an instance that this start replaces.
    """
    try:
        if origin != "pytest":
            return _claim(origin, settings, blocked, on_step, may_take, inherited)
        # A start that goes on has no record yet: wait for it, rather than taking the port from under it.
        with instances.StartLock(settings.port) as lock:
            if not lock.take(patience := settings.requirement_timeout / 2):
                pid = lock.holder()
                other = f"another start of port {settings.port} has been going on for {patience:g} s (PID {pid})"
                return Claim(problem=other, fix=f"wait for it, or end it: kill {pid}")
            return _claim(origin, settings, blocked, on_step, may_take, inherited)
    except ports.PortUnavailable as error:
        return Claim(problem=str(error), fix=error.fix)
    except instances.RuntimeFolderError as error:
        return Claim(problem=str(error), fix="make it a folder of mode 0700 that is yours, or set XDG_RUNTIME_DIR")


def _claim(
    origin: str,
    settings: Settings,
    blocked: Sequence[str],
    on_step: Callable[[ports.Step], None],
    may_take: Callable[[float], object],
    inherited: socket.socket | None,
) -> Claim:
    host, port = settings.host, settings.port
    records = instances.live(port)
    if origin == "rerun":
        return _still_served(settings, records)
    policy = policy_of(settings, records)
    if origin != "start":
        holders = tuple(ports.listeners(host, port, secrets=policy.secrets))
        ours = serving(records, holders)
        if ours is not None and ours.host == host:
            return Claim(served_by=ours, holders=holders)
        if origin == "pytest" and ours is not None:
            where = address(ours.host, ours.port)
            return Claim(
                holders=holders,
                problem=f"{ours.name} serves {where}, which this run never stops",
                fix="stop it, or choose another port",
            )
    if blocked:
        return Claim(untried=f"not tried, and nothing was stopped: the start is blocked by {', '.join(blocked)}")
    if inherited is not None:
        if _listens_on(inherited, host, port):
            return Claim(socket=inherited, handed_over=True)
        inherited.close()
    if origin == "check":
        plan = ports.plan(host, port, policy)
        return Claim(
            obtainable=not plan.problem and not plan.refusals,
            holders=plan.holders,
            would_stop=plan.stop,
            refusals=plan.refusals,
            problem=plan.problem or "",
            fix=plan.fix or "",
        )
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
        steps=taken.steps,
        problem=taken.problem or "",
        fix=taken.fix or "",
    )


def _still_served(settings: Settings, records: Sequence[instances.Record]) -> Claim:
    """Whether the very instance that this re-run belongs to serves the address.

    While it is being replaced, the instance that comes holds the same socket: that is no fault.
    """
    secrets = common_secrets(settings.environment, settings.envfile.values)
    holders = tuple(ports.listeners(settings.host, settings.port, secrets=secrets))
    own = {os.getpid(), *ancestors(here(), os.getpid())}
    for record in records:
        held = any(record.pid in (holder.pid, holder.parent) for holder in holders)
        if record.pid in own and record.host == settings.host and held:
            return Claim(served_by=record, holders=holders)
    return Claim(
        holders=holders,
        problem=f"{settings.address} is not served by this instance any more",
        fix="start it again: python run.py",
    )


def serving(records: Sequence[instances.Record], holders: Sequence[ports.Holder]) -> instances.Record | None:
    """The instance of ours that all these holders belong to."""
    for record in records:
        if holders and all(record.pid in (holder.pid, holder.parent) for holder in holders):
            return record
    return None


def _listens_on(sock: socket.socket, host: str, port: int) -> bool:
    """Whether the socket listens, and on the address that is wanted."""
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    bound = sock.getsockname()
    try:
        wanted = {info[4][:2] for info in socket.getaddrinfo(host, port, sock.family, socket.SOCK_STREAM)}
    except OSError:
        return False
    return tuple(bound[:2]) in wanted
