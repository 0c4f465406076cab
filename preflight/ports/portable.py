"""The machine as psutil shows it: for macOS, and for Linux where pidfds or /proc are missing."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from preflight.ports import cgroups, sockets
from preflight.ports.machine import Handle, Process
from preflight.ports.sockets import Endpoint

if TYPE_CHECKING:
    import psutil


_NUMBERS = {name: number for number, name in sockets.STATES.items()}


class Portable:
    """psutil, on any POSIX system: slower, and polling, because no common way waits for another's process."""

    _PAUSE = 0.01  # seconds between two looks at processes that are ending

    def listening(self, port: int) -> list[Endpoint]:
        """See Machine. Asks every process: psutil's system-wide list names one holder of a shared socket."""
        import psutil

        holders: dict[bytes, list[int]] = {}
        for process in _everybody():
            try:
                connections = process.net_connections(kind="tcp")
            except psutil.Error:
                continue
            for address in {_packed(c.laddr) for c in connections if _listens(c, port)}:
                holders.setdefault(address, []).append(process.pid)
        for address in {_packed(c.laddr) for c in _connections() if _listens(c, port)}:
            holders.setdefault(address, [])
        users = sockets.opened_by(port) if not all(holders.values()) else {}
        return [
            Endpoint(at, port, uid=users.get(at) if not pids else None, pids=tuple(sorted(pids)))
            for at, pids in sorted(holders.items())
        ]

    def occupying(self, port: int) -> list[Endpoint]:
        """See Machine: connections, with whose they are; psutil does not list sockets that are only bound."""
        import psutil

        found: dict[tuple[object, object, str], set[int]] = {}
        for process in _everybody():
            with contextlib.suppress(psutil.Error):
                for one in process.net_connections(kind="tcp"):
                    if _is_at(one, port):
                        found.setdefault((one.laddr, one.raddr, one.status), set()).add(process.pid)
        for other in _connections():
            if _is_at(other, port):
                found.setdefault((other.laddr, other.raddr, other.status), set())
        return [
            Endpoint(
                _packed(here), port, _NUMBERS.get(status, sockets.CLOSE), pids=tuple(sorted(pids)), peer=_peer(there)
            )
            for (here, there, status), pids in found.items()
        ]

    def folder(self, pid: int) -> str:
        """See Machine."""
        import psutil

        try:
            return psutil.Process(pid).cwd()
        except psutil.Error:
            return ""

    def opaque(self, uid: int) -> list[Process]:
        """See Machine."""
        import psutil

        found = []
        for one in _everybody():
            try:
                one.net_connections(kind="tcp")
            except psutil.AccessDenied:
                process = self.process(one.pid)
                if process is not None and process.uid == uid:
                    found.append(process)
            except psutil.Error:
                continue
        return found

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
                    cgroup=cgroups.read(pid),
                    terminal=(process.terminal() or "").removeprefix("/dev/"),
                    session=_session(pid),
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


def _everybody() -> "list[psutil.Process]":
    """All processes that can be seen: none on a Linux without /proc, in a chroot, say."""
    import psutil

    try:
        return list(psutil.process_iter())
    except (IndexError, OSError):
        return []


def _connections() -> list[Any]:
    """All connections of the system, as far as it tells: macOS tells only root, and Linux without /proc nobody."""
    import psutil

    try:
        return psutil.net_connections(kind="tcp")
    except (IndexError, OSError, psutil.Error):
        return []


def _is_at(connection: object, port: int) -> bool:
    return getattr(getattr(connection, "laddr", None), "port", None) == port


def _listens(connection: object, port: int) -> bool:
    return getattr(connection, "status", "") == "LISTEN" and _is_at(connection, port)


def _peer(address: object) -> str:
    return sockets.shown(_packed(address), int(getattr(address, "port", 0))) if address else ""


def _packed(address: object) -> bytes:
    text = str(getattr(address, "ip", "")).partition("%")[0]
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def _session(pid: int) -> int:
    """The session of a process; 0 if it has gone, or must not be asked."""
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def _argv(process: "psutil.Process") -> list[str]:
    import psutil

    try:
        return process.cmdline()
    except psutil.AccessDenied:
        return []
