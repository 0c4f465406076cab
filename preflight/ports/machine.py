"""Processes: what they are, whose children they are, and what a machine can say about them and do to them.

A `Machine` answers from the system it runs on. `Linux` reads /proc and sock_diag and signals through pidfds,
which cannot hit a recycled PID and say at once when a process has ended. `Portable` asks psutil, process by
process: for macOS, and for Linux kernels and sandboxes without pidfd or /proc. `Blind` sees none, where /proc is
another PID namespace's. `current` chooses; tests run all of them.
"""

import signal
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from preflight.ports.sockets import Endpoint
from preflight.text import foreign

LONGEST_COMMAND = 16 * 1024  # characters of a command line that are looked at; it may have megabytes
LONGEST_ARGUMENT = 4 * 1024  # characters of one argument


@dataclass(frozen=True, slots=True)
class Process:
    """A living process at the time it was looked at; never a zombie, which holds nothing."""

    pid: int
    name: str
    argv: tuple[str, ...]  # unchanged, for judging; `words` is for showing
    uid: int  # effective
    parent: int | None
    started_at: float  # seconds since the epoch
    stamp: float  # start time in the machine's own unit; with the PID it is the process's identity
    suspended: bool  # stopped by a signal (Ctrl-Z): other signals wait until it continues
    cgroup: str  # text of /proc/PID/cgroup; "" where there is none
    terminal: str = ""  # the terminal that it belongs to, "pts/3"; "" where it has none
    session: int = 0  # the PID of the process that began its session

    def __post_init__(self) -> None:
        """Name and arguments are what the process says about itself: they are cut here, for all later code."""
        object.__setattr__(self, "name", foreign(self.name))
        object.__setattr__(self, "argv", tuple(_bounded(self.argv)))

    @property
    def words(self) -> list[str]:
        """The arguments, each of them one printable line."""
        return [foreign(argument, LONGEST_ARGUMENT) for argument in self.argv]


def _bounded(argv: Sequence[str]) -> Iterator[str]:
    left = LONGEST_COMMAND
    for argument in argv:
        if left <= 0:
            return
        kept = argument[: min(left, LONGEST_ARGUMENT + 1)]  # one more character tells that it was longer
        left -= len(kept) + 1
        yield kept


class Handle(Protocol):
    """One process, pinned: a later process with the same PID is never meant."""

    process: Process

    def send(self, number: signal.Signals) -> None:
        """Signal it. Raises ProcessLookupError when it has ended, PermissionError when that is forbidden."""

    def gone(self) -> bool:
        """Whether it has ended; a zombie has."""

    def close(self) -> None:
        """Let go of it."""


class Machine(Protocol):
    """What freeing a port needs to know of, and do to, the processes of this machine."""

    def listening(self, port: int) -> list[Endpoint]:
        """Sockets that listen on a port, with every process seen to hold each."""

    def occupying(self, port: int) -> list[Endpoint]:
        """Sockets with this local port, in any state; empty if that cannot be told."""

    def process(self, pid: int) -> Process | None:
        """The process, or None when it has ended, is a zombie or cannot be seen."""

    def children(self, pid: int) -> tuple[int, ...]:
        """PIDs of its children."""

    def folder(self, pid: int) -> str:
        """The folder that it works in; "" where that cannot be told."""

    def opaque(self, uid: int) -> list[Process]:
        """Processes of this user whose sockets cannot be seen from here, though their names can."""

    def handle(self, process: Process, inodes: Collection[int] = ()) -> Handle | None:
        """A handle, or None when that process has ended or holds none of these sockets any more."""

    def wait(self, handles: Sequence[Handle], timeout: float) -> None:
        """Return when one of them has ended, or after `timeout` seconds."""


def ancestors(machine: Machine, pid: int) -> Iterator[int]:
    """Parent, grandparent and so on, as far as they can be seen."""
    seen = {pid}
    while (process := machine.process(pid)) is not None and process.parent and process.parent not in seen:
        pid = process.parent
        seen.add(pid)
        yield pid


def descendants(machine: Machine, pid: int, enter: Callable[[Process], bool]) -> Iterator[Process]:
    """Children and theirs, parents first; one that `enter` refuses is left out with all below it."""
    seen = {pid}
    ahead = list(machine.children(pid))
    while ahead:
        child = machine.process(ahead.pop(0))
        if child is not None and child.pid not in seen and enter(child):
            seen.add(child.pid)
            yield child
            ahead += machine.children(child.pid)
