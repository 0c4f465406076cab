"""Who holds an address: every process with a listening socket that overlaps it, so that people recognise it."""

import os
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from preflight.ports import cgroups
from preflight.ports.binding import Target, overlapping, resolve, user_name
from preflight.ports.current import here
from preflight.ports.machine import Machine, Process
from preflight.ports.sockets import Endpoint
from preflight.text import foreign
from preflight.times import stamp

LONGEST_SHOWN = 2 * 1024  # characters of a command line that are shown


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds a listening socket, or a socket whose owner cannot be seen (`pid` None)."""

    pid: int | None
    name: str
    command: str  # joined with shlex, what looks like a secret masked; still redacted by value before it is shown
    user: str | None
    uid: int | None
    started_at: float | None  # seconds since the epoch
    parent: int | None
    parent_name: str | None
    children: tuple[int, ...]
    addresses: tuple[str, ...]  # "127.0.0.1:8002", "[::]:8002"
    unit: str | None  # systemd service
    container: str | None  # short id

    def __post_init__(self) -> None:
        """Make texts of other programs printable lines, wherever a holder is shown."""
        for name in ("name", "user", "parent_name", "unit", "container"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, foreign(value))
        object.__setattr__(self, "command", foreign(self.command, LONGEST_SHOWN))

    def describe(self) -> str:
        """One line, command included: `python3.11 (PID 4711, user dev): python app.py`."""
        return f"{self.title}: {self.command}" if self.command else self.title

    @property
    def title(self) -> str:
        """One line without the command: `python3.11 (PID 4711, user dev)`."""
        facts = [f"PID {self.pid}"] if self.pid is not None else []
        facts += [f"user {self.user}"] if self.user is not None else []
        return f"{self.name} ({', '.join(facts)})" if facts else self.name

    def to_dict(self) -> dict[str, object]:
        """Field by field, ready for JSON."""
        fields = asdict(self) | {"started_at": None if self.started_at is None else stamp(self.started_at)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


class HolderProcess(NamedTuple):
    """A holder, and what is needed to stop it."""

    holder: Holder
    process: Process | None
    inodes: frozenset[int]


def listeners(host: str, port: int, *, secrets: Collection[str] = (), machine: Machine | None = None) -> list[Holder]:
    """Every process with a listening socket that overlaps this address, oldest first.

    No argument of theirs that contains one of these ``secrets`` is shown (see keys.common_secrets).
    Sockets whose owner cannot be seen come as a Holder without PID. Raises PortUnavailable when `host` does
    not resolve or `port` is none.
    """
    return [found.holder for found in find(resolve(host, port), machine or here(), secrets)]


def holder_of(pid: int, uid: int | None, address: str, *, secrets: Collection[str] = ()) -> Holder:
    """The process that listens on an ``address`` which is no port's; ``pid`` is what the kernel says, or 0.

    No argument of it that contains one of these ``secrets`` is shown.
    """
    machine = here()
    process = machine.process(pid) if pid else None
    return _holder(process, (address,), machine, secrets) if process is not None else _unseen(uid, address, pid or None)


def find(target: Target, machine: Machine, secrets: Collection[str]) -> list[HolderProcess]:
    """Who holds the address, oldest first; sockets whose owner cannot be seen come last, without a process."""
    found: list[HolderProcess] = []
    for _ in range(2):  # a socket without owner may just have been passed on or closed: look again
        endpoints = overlapping(target, machine.listening(target.port))
        processes = {pid: machine.process(pid) for endpoint in endpoints for pid in endpoint.pids}
        held: dict[int, list[Endpoint]] = {}
        hidden: list[Endpoint] = []
        for endpoint in endpoints:
            owners = [process for pid in endpoint.pids if (process := processes[pid]) is not None]
            for owner in owners:
                held.setdefault(owner.pid, []).append(endpoint)
            # Opened by somebody else and passed to a process that we see: its opener may hold it too, unseen.
            passed_on = os.geteuid() != 0 and endpoint.uid not in (None, *(owner.uid for owner in owners))
            if not owners or passed_on:
                hidden.append(endpoint)
        seen = [process for process in processes.values() if process is not None]
        seen.sort(key=lambda process: (process.stamp, process.pid))
        found = [
            HolderProcess(
                _holder(process, tuple(map(str, held[process.pid])), machine, secrets),
                process,
                _inodes(held[process.pid]),
            )
            for process in seen
        ]
        if not hidden:
            break
        found += [HolderProcess(_unseen(endpoint.uid, str(endpoint)), None, frozenset()) for endpoint in hidden]
    return found


def _inodes(endpoints: Sequence[Endpoint]) -> frozenset[int]:
    return frozenset(endpoint.inode for endpoint in endpoints if endpoint.inode)


def _holder(process: Process, addresses: Sequence[str], machine: Machine, secrets: Collection[str]) -> Holder:
    from preflight.redaction import (
        arguments,  # a start on a free port has no use for it, nor for the keys that it knows
    )

    parent = machine.process(process.parent) if process.parent else None
    service = cgroups.unit(process.cgroup)
    return Holder(
        pid=process.pid,
        name=process.name,
        command=arguments.shown(process.words, secrets),
        user=user_name(process.uid),
        uid=process.uid,
        started_at=process.started_at,
        parent=process.parent,
        parent_name=parent.name if parent else None,
        children=machine.children(process.pid),
        addresses=tuple(dict.fromkeys(addresses)),
        unit=service.name if service else None,
        container=cgroups.container(process.cgroup),
    )


def _unseen(uid: int | None, address: str, pid: int | None = None) -> Holder:
    return Holder(
        pid=pid,
        # A process of our own may be unseen, too: in another PID namespace, or if it forbids looking into it
        # (PR_SET_DUMPABLE).
        name="another user's process" if uid not in (None, os.geteuid()) else "a process that cannot be seen",
        command="",
        user=None if uid is None else user_name(uid),
        uid=uid,
        started_at=None,
        parent=None,
        parent_name=None,
        children=(),
        addresses=(address,),
        unit=None,
        container=None,
    )
