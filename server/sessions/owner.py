"""The identity of the process that works on a turn, distinct from a later process with the same number."""

from __future__ import annotations

import os

from preflight import ports


def whoami() -> str:
    """This process, told apart from a later one with the same number."""
    return identity(os.getpid())


def identity(pid: int) -> str:
    """A process of this machine, told apart from others with its number; empty if there is none.

    It does not depend on the clock if the system can do without: the clock may be set while an instance is replaced.
    """
    process = ports.here().process(pid)
    return f"{pid}:{process.stamp}" if process is not None else ""


def alive(owner: str) -> bool:
    """Whether the process with this identity still runs; may take a moment."""
    pid = owner.partition(":")[0]
    return pid.isdigit() and identity(int(pid)) == owner
