"""Claim the server's port for a run of the suite: what may be stopped for it depends on the kind of run.

| run | stops a stale holder | stops a live instance of ours |
| --- | --- | --- |
| start | yes, by policy | one that it may replace, and that gave it no socket |
| pytest | yes, by policy | never: the port is "served by our instance" |
| check | no: says what a start would stop | never |
| rerun | never | never |

The bind comes first: if it succeeds, no process holds the port, and nearly every start needs no more than this module.
occupied.py handles a port that is held.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from preflight import ports
from preflight.instances import runtime
from preflight.settings.model import Settings
from preflight.suite.claimed import Claim

if TYPE_CHECKING:
    from preflight.ports.activation import Inherited


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

    ``blocked`` says what blocks the start already: a start that is going to be refused never stops a server that works.
    ``may_take`` is called with the seconds that a holder may take to answer, and, before any process is stopped, to
    end: a run that ended earlier would have stopped a server for nothing. ``inherited`` is the listening socket that a
    start is given, by the instance that it replaces or by systemd.
    """
    try:
        if origin != "pytest":
            return _claim(origin, settings, blocked, on_step, may_take, inherited)
        # A start in progress has no record yet: wait for it, rather than taking the port from under it.
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
        from preflight.suite import occupied

        return occupied.claim_path(origin, settings, settings.uds, blocking, may_take, given)
    if origin == "start":
        if blocking:
            return Claim(untried=blocking)
        if given is not None:
            if _listens_on(given, settings):
                return Claim(socket=given, handed_over=True)
            given.close()
    free = _claim_free(origin, settings, blocking)
    if free is not None:
        return free
    from preflight.suite import occupied  # nearly every start does without it

    return occupied.claim(origin, settings, blocking, on_step, may_take)


def _claim_free(origin: str, settings: Settings, blocking: str) -> Claim | None:
    """The port if nobody holds it, which a bind shows; None if somebody does, or only a closer look can tell."""
    if origin == "rerun" or blocking:
        return None
    host, port = settings.host, settings.port
    if origin == "check":
        # A start that has been suspended may not have reached its bind.
        if runtime.starting(settings.slot) or not ports.is_free(host, port):
            return None
        return Claim(obtainable=True)
    held = ports.listen_if_free(host, port)
    return Claim(socket=held, steps=(ports.held(host, held.getsockname()[1]),)) if held is not None else None


def _activated(origin: str, settings: Settings, blocking: str, inherited: Inherited) -> Claim:
    """Claim a socket from systemd: no process has to be found, waited for or stopped."""
    if blocking:
        return Claim(untried=blocking)
    by = inherited.activated_by
    if not _listens_on(inherited.socket, settings):
        problem = f"the socket of {by} does not listen on {settings.address} any more"
        return Claim(problem=problem, fix="restart its socket unit: systemctl restart NAME.socket")
    if origin == "start":
        return Claim(socket=inherited.socket, activated_by=by)
    return Claim(obtainable=True, activated_by=by)


def _listens_on(sock: socket.socket, settings: Settings) -> bool:
    """Whether the socket listens, and on the address that is wanted."""
    from preflight.ports import activation

    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    return activation.is_bound_to(sock, settings.host, settings.port, settings.uds)
