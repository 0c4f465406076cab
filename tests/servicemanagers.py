"""A service manager as a process meets it: it hears notifications, and passes sockets that it goes on holding."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.waiting import PATIENCE

PASSED = """
import fcntl, os, sys
names, count = sys.argv[1], int(sys.argv[2])
given = [fcntl.fcntl(int(one), fcntl.F_DUPFD, 100) for one in sys.argv[3 : 3 + count]]
for at, one in enumerate(given):
    os.dup2(one, 3 + at)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count), "LISTEN_FDNAMES": names}
command = sys.argv[3 + count :]
os.execv(command[0], command)
"""
"""Becomes another program, with descriptors from 3 on: as systemd does between fork and exec."""


def passing(sockets: Sequence[socket.socket], command: Sequence[str], names: str = "shop.socket") -> list[str]:
    """The command that gets these sockets; whoever starts it passes on their descriptors."""
    given = [str(one.fileno()) for one in sockets]
    return [sys.executable, "-S", "-E", "-c", PASSED, names, str(len(given)), *given, *command]


class Hearing:
    """The socket that NOTIFY_SOCKET names, and what came over it, message by message."""

    def __init__(self, address: str | Path) -> None:
        """``address`` is a path, or an abstract name with ``@`` before it."""
        self.address = str(address)
        self.messages: list[dict[str, str]] = []
        self._heard = threading.Condition()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{self.address[1:]}" if self.address.startswith("@") else self.address)
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()

    def _hear(self) -> None:
        while message := self._socket.recv(1 << 16):
            words = dict(line.partition("=")[::2] for line in message.decode().splitlines())
            with self._heard:
                self.messages.append(words)
                self._heard.notify_all()

    def __enter__(self) -> Hearing:
        return self

    def __exit__(self, *_error: object) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.connect(self._socket.getsockname())
            last.send(b"")
        self._thread.join()
        self._socket.close()

    def values(self, name: str) -> list[str]:
        """Everything that was said under this name, in order."""
        with self._heard:
            return [one[name] for one in self.messages if name in one]

    def until(self, said: Callable[[dict[str, str]], object], what: str, since: int = 0) -> int:
        """Wait for a message, from this one on; returns how many there are with it."""
        with self._heard:

            def found() -> int:
                return next((at for at, one in enumerate(self.messages, 1) if at > since and said(one)), 0)

            # A re-run gives way to everything else on a busy machine.
            assert self._heard.wait_for(found, 3 * PATIENCE), f"it never said {what}: {self.messages}"
            return found()

    def environ(self, watchdog: float = 0.0) -> dict[str, str]:
        """The variables of a service; ``watchdog``: seconds of WatchdogSec=."""
        variables = {"NOTIFY_SOCKET": self.address}
        return variables | ({"WATCHDOG_USEC": str(int(watchdog * 1e6))} if watchdog else {})


def mentioned(environ: bytes) -> list[str]:
    """The variables of a service manager's in the text of /proc/PID/environ."""
    names = [one.partition(b"=")[0].decode() for one in environ.split(b"\0")]
    return [name for name in names if name.startswith(("LISTEN_", "NOTIFY_", "WATCHDOG_"))]


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_open(descriptor: int) -> bool:
    """Whether this process still has it."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
