"""The result of a claim on the server's port, and its text for people."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from preflight import ports

if TYPE_CHECKING:
    from preflight.instances.records import Record


class Claim(NamedTuple):
    """A claim's result. The port is good if it is ``held``, ``obtainable`` or ``served_by`` an instance of ours."""

    socket: socket.socket | None = None
    obtainable: bool = False
    """Whether a start could have the port (for runs that hold none)."""
    served_by: Record | None = None
    handed_over: bool = False
    """The socket is that of the running instance, which this start replaces without an outage."""
    activated_by: str = ""
    """The socket unit of systemd whose socket it is, or "systemd"; no process is stopped for such a socket."""
    untried: str = ""
    """Why the port was not examined, and nothing was stopped."""
    holders: tuple[ports.Holder, ...] = ()
    stopped: tuple[ports.Holder, ...] = ()
    would_stop: tuple[ports.Holder, ...] = ()
    refusals: tuple[ports.Refusal, ...] = ()
    reasons: tuple[str, ...] = ()
    """For each holder, why it was or would be stopped, or is left alone; empty if none was judged."""
    steps: tuple[ports.Step, ...] = ()
    problem: str = ""
    fix: str = ""


def judged(holders: Sequence[ports.Holder], reasons: Sequence[str]) -> list[str]:
    """Each holder with the reason why it is stopped or left alone, for people."""
    return [f"{holder.title}: {reason}" for holder, reason in zip(holders, reasons, strict=False) if reason]


def told(step: ports.Step, *, when: bool = False) -> str:
    """One step for people; ``when`` puts the time before it, to the millisecond."""
    return f"  {step}" if when else f"  {step.what}"
