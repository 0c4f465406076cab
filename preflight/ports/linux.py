"""Processes: what they are, whose children, and handles that signal and await exactly the one that was meant.

A `Machine` answers from the system it runs on. `Linux` reads /proc and sock_diag and signals through pidfds,
which cannot hit a recycled PID and say at once when a process has ended. `Portable` asks psutil, process by
process: for macOS, and for Linux kernels and sandboxes without pidfd or /proc. `here()` chooses; tests run
both.
"""

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from preflight.ports import sockets

if TYPE_CHECKING:
    import psutil


@dataclass(frozen=True, slots=True)
class Process:
    """A living process at the time it was looked at; never a zombie, which holds nothing."""

    pid: int
    name: str
    argv: tuple[str, ...]
    uid: int  # effective
    parent: int | None
    started_at: float  # seconds since the epoch
    stamp: float  # start time in the machine's own unit; with the PID it is the process's identity
    suspended: bool  # stopped by a signal (Ctrl-Z): other signals wait until it continues
    cgroup: str  # text of /proc/PID/cgroup; "" where there is none


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

    def listening(self, port: int) -> list[sockets.Endpoint]:
        """Sockets that listen on a port, with every process seen to hold each."""

    def occupying(self, port: int) -> list[sockets.Endpoint]:
        """Sockets with this local port in whatever state; empty where that cannot be told."""

    def process(self, pid: int) -> Process | None:
        """The process, or None when it has ended, is a zombie or cannot be seen."""

    def children(self, pid: int) -> tuple[int, ...]:
        """PIDs of its children."""

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


@cache
def here() -> Machine:
    """The fast machine where the kernel has what it needs, the portable one elsewhere."""
    return Linux() if Linux.works() else Portable()


# -- Linux ---------------------------------------------------------------------------------------------------


class Linux:
    """/proc, sock_diag and pidfds (Linux 5.3 and later). `netlink=False` leaves sock_diag out."""

    def __init__(self, *, netlink: bool = True) -> None:
        self._netlink = netlink
        self._ticks = os.sysconf("SC_CLK_TCK")
        # A kernel may be built without CONFIG_PROC_CHILDREN.
        self._lists_children = Path(f"/proc/self/task/{os.getpid()}/children").exists()

    @staticmethod
    def works() -> bool:
        """Whether kernel and sandbox allow pidfds and show /proc."""
        if sys.platform != "linux" or not Path("/proc/self/fd").is_dir():
            return False
        try:
            handle = os.pidfd_open(os.getpid())
        except (AttributeError, OSError):  # Python built without it; old kernel, seccomp
            return False
        try:
            signal.pidfd_send_signal(handle, 0)  # asks, sends nothing
        except (AttributeError, OSError):
            return False
        finally:
            os.close(handle)
        return True

    def listening(self, port: int) -> list[sockets.Endpoint]:
        """See Machine."""
        return sockets.listening(port, netlink=self._netlink)

    def occupying(self, port: int) -> list[sockets.Endpoint]:
        """See Machine."""
        return sockets.occupying(port, netlink=self._netlink)

    def process(self, pid: int) -> Process | None:
        """See Machine; fields of /proc/PID/stat as in proc_pid_stat(5)."""
        try:
            # The name may hold blanks and parentheses: the last ")" ends it.
            head, _, tail = _read(pid, "stat").rpartition(")")
            fields = tail.split()
            if fields[0] in "ZX":
                return None
            status = _read(pid, "status")
            argv = _read(pid, "cmdline")
        except (OSError, IndexError):
            return None
        ticks = int(fields[19])
        return Process(
            pid=pid,
            name=head.partition("(")[2],
            argv=tuple(argv.rstrip("\0").split("\0")) if argv else (),
            uid=int(status.partition("\nUid:")[2].split(maxsplit=2)[1]),
            parent=int(fields[1]) or None,
            started_at=round(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / self._ticks, 2),
            stamp=ticks,
            suspended=fields[0] == "T",
            cgroup=_cgroup(pid),
        )

    def children(self, pid: int) -> tuple[int, ...]:
        """See Machine."""
        if not self._lists_children:
            return tuple(child for child in _pids() if _parent(child) == pid)
        try:
            tasks = os.listdir(f"/proc/{pid}/task")
            lists = [_read(pid, f"task/{task}/children") for task in tasks]
            return tuple(int(child) for children in lists for child in children.split())
        except OSError:
            return ()

    def handle(self, process: Process, inodes: Collection[int] = ()) -> Handle | None:
        """See Machine. Raises PermissionError when the system forbids it."""
        try:
            handle = _Pidfd(process)
        except ProcessLookupError:
            return None
        # First pinned, then looked at, then seen to be alive still: what was read is the pinned process's.
        again = self.process(process.pid)
        same = again is not None and again.stamp == process.stamp
        if same and inodes:
            same = sockets.holds(process.pid, inodes)
        if not same or handle.gone():
            handle.close()
            return None
        return handle

    def wait(self, handles: Sequence[Handle], timeout: float) -> None:
        """See Machine. A pidfd becomes readable when its process ends, reaped or not (pidfd_open(2))."""
        poll = select.poll()
        for handle in handles:
            if isinstance(handle, _Pidfd):
                poll.register(handle.fd, select.POLLIN)
        poll.poll(max(0.0, timeout) * 1000)


class _Pidfd:
    def __init__(self, process: Process) -> None:
        self.process = process
        self.fd = os.pidfd_open(process.pid)

    def send(self, number: signal.Signals) -> None:
        signal.pidfd_send_signal(self.fd, number)

    def gone(self) -> bool:
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        os.close(self.fd)


def _read(pid: int, name: str) -> str:
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read().decode(errors="replace")


def _cgroup(pid: int) -> str:
    try:
        return _read(pid, "cgroup")
    except OSError:
        return ""


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _parent(pid: int) -> int | None:
    try:
        return int(_read(pid, "stat").rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return None


# -- psutil --------------------------------------------------------------------------------------------------


class Portable:
    """psutil, on any POSIX system: slower, and polling, as there is no one way to await a strange process."""

    _PAUSE = 0.01  # seconds between two looks at processes that are ending

    def listening(self, port: int) -> list[sockets.Endpoint]:
        """See Machine. Asks every process: psutil's system-wide list names one holder of a shared socket."""
        import psutil

        holders: dict[bytes, list[int]] = {}
        for process in psutil.process_iter():
            try:
                connections = process.net_connections(kind="tcp")
            except psutil.Error:
                continue
            for address in {_packed(c.laddr) for c in connections if _listens(c, port)}:
                holders.setdefault(address, []).append(process.pid)
        try:
            unowned = {_packed(c.laddr) for c in psutil.net_connections(kind="tcp") if _listens(c, port)}
        except psutil.Error:  # macOS tells only root
            unowned = set()
        for address in unowned:
            holders.setdefault(address, [])
        return [sockets.Endpoint(at, port, pids=tuple(sorted(pids))) for at, pids in sorted(holders.items())]

    def occupying(self, port: int) -> list[sockets.Endpoint]:
        """See Machine: psutil does not list sockets that are only bound, so nothing is claimed."""
        del port
        return []

    def process(self, pid: int) -> Process | None:
        """See Machine."""
        import psutil

        try:
            process = psutil.Process(pid)
            with process.oneshot():
                status = process.status()
                if status in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                    return None
                return Process(
                    pid=pid,
                    name=process.name(),
                    argv=tuple(_argv(process)),
                    uid=process.uids().effective,
                    parent=process.ppid() or None,
                    started_at=process.create_time(),
                    stamp=process.create_time(),
                    suspended=status == psutil.STATUS_STOPPED,
                    cgroup=_cgroup(pid),
                )
        except psutil.Error:
            return None

    def children(self, pid: int) -> tuple[int, ...]:
        """See Machine."""
        import psutil

        try:
            return tuple(child.pid for child in psutil.Process(pid).children())
        except psutil.Error:
            return ()

    def handle(self, process: Process, inodes: Collection[int] = ()) -> Handle | None:
        """See Machine; psutil compares the start time again before every signal. It knows no inodes."""
        import psutil

        del inodes
        try:
            pinned = psutil.Process(process.pid)
            if pinned.create_time() != process.stamp:
                return None
        except psutil.Error:
            return None
        handle = _Pinned(process, pinned)
        return None if handle.gone() else handle

    def wait(self, handles: Sequence[Handle], timeout: float) -> None:
        """See Machine."""
        end = time.monotonic() + timeout
        while not any(handle.gone() for handle in handles) and (left := end - time.monotonic()) > 0:
            time.sleep(min(self._PAUSE, left))


class _Pinned:
    def __init__(self, process: Process, pinned: "psutil.Process") -> None:
        self.process = process
        self._pinned = pinned

    def send(self, number: signal.Signals) -> None:
        import psutil

        try:
            self._pinned.send_signal(number)
        except psutil.NoSuchProcess:
            raise ProcessLookupError(self.process.pid) from None
        except psutil.AccessDenied:
            raise PermissionError(self.process.pid) from None

    def gone(self) -> bool:
        import psutil

        try:
            return not self._pinned.is_running() or self._pinned.status() in (
                psutil.STATUS_ZOMBIE,
                psutil.STATUS_DEAD,
            )
        except psutil.NoSuchProcess:
            return True

    def close(self) -> None:
        pass  # psutil keeps nothing open


def _listens(connection: object, port: int) -> bool:
    address = getattr(connection, "laddr", None)
    return bool(address) and getattr(connection, "status", "") == "LISTEN" and address.port == port  # type: ignore[union-attr]


def _packed(address: object) -> bytes:
    text = str(getattr(address, "ip", "")).partition("%")[0]
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def _argv(process: "psutil.Process") -> list[str]:
    import psutil

    try:
        return process.cmdline()
    except psutil.AccessDenied:
        return []
