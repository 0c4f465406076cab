"""The machine as Linux shows it: /proc, sock_diag and pidfds."""

import os
import select
import signal
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from preflight.ports import cgroups, sockets
from preflight.ports.machine import LONGEST_COMMAND, Handle, Process


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
            argv = _read(pid, "cmdline", LONGEST_COMMAND)
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
            cgroup=cgroups.read(pid),
            terminal=_terminal(int(fields[4])),
            session=int(fields[3]),
        )

    def folder(self, pid: int) -> str:
        """See Machine."""
        try:
            return os.readlink(f"/proc/{pid}/cwd")
        except OSError:
            return ""

    def opaque(self, uid: int) -> list[Process]:
        """See Machine: what is not dumpable (prctl(2)), as agents for keys are, hides its descriptors from its user."""
        hiding = (self.process(pid) for pid in _pids() if _hides(pid))
        return [process for process in hiding if process is not None and process.uid == uid]

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


def _read(pid: int, name: str, size: int = -1) -> str:
    """The file's text, of which at most ``size`` bytes are read."""
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read(size).decode(errors="replace")


def _hides(pid: int) -> bool:
    """Whether what a process has open may not be looked at; what has ended hides nothing."""
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            os.readlink(f"/proc/{pid}/fd/{name}")
            return False
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def _terminal(number: int) -> str:
    """The name of a terminal, by the number of its device (Documentation/admin-guide/devices.txt)."""
    major, minor = os.major(number), os.minor(number)
    if 136 <= major <= 143:
        return f"pts/{(major - 136) * 256 + minor}"
    if major == 4:
        return f"tty{minor}" if minor < 64 else f"ttyS{minor - 64}"
    return f"terminal {major}:{minor}" if number else ""


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _parent(pid: int) -> int | None:
    try:
        return int(_read(pid, "stat").rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return None
