"""Unix sockets between processes of one user: abstract names, paths of any length, and who is at the other end.

An abstract name (Linux, unix(7)) belongs to a network namespace and to nobody's file system: no cleaner removes it, no
environment leads elsewhere, it ends with its process, and what another namespace binds is not seen. Anybody can bind
and connect one, so the kernel is asked who is at the other end before that process is believed.

Nor does that process choose how long we wait. What it has sent and nobody has read ends with the connection, and the
kernel closes the descriptors among that before ``close()`` returns: for a TCP socket that lingers, an hour later.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ABSTRACT = sys.platform == "linux"
QUEUE = 64  # callers that wait to be accepted
POLL = 0.02  # seconds between two tries of what cannot be waited for
PASS_RIGHTS = 83  # SO_PASSRIGHTS (Linux 6.16): whether the other side may send descriptors
CLOSING = 0.05  # seconds that a connection may take to close; then it goes on in a thread
_LISTENS = "00010000"  # __SO_ACCEPTCON, the flags of a listening socket in /proc/net/unix
_LONGEST = 100  # bytes of a path in a socket's address; 108 on Linux, 104 on macOS


class Peer(NamedTuple):
    """The process at the other end, when it began to listen or to connect."""

    pid: int  # 0 if it is out of sight: another PID namespace, or a system that does not tell
    uid: int


def peer(connection: socket.socket) -> Peer | None:
    """Who is at the other end of a connected Unix socket, None if the system does not tell."""
    try:
        if sys.platform == "linux":
            pid, uid, _gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        else:
            # struct xucred of LOCAL_PEERCRED: version, uid, ... (sys/ucred.h); LOCAL_PEERPID is 2 (sys/un.h).
            uid = struct.unpack("2I", connection.getsockopt(0, 1, 76)[:8])[1]
            pid = struct.unpack("i", connection.getsockopt(0, 2, 4))[0]
    except (OSError, struct.error):
        return None
    return Peer(pid, uid)


def take_descriptors(sock: socket.socket, taken: bool) -> bool:
    """Say whether the other side may send descriptors; returns whether the system can refuse them.

    A listener's connections begin as it says.
    """
    if sys.platform != "linux":
        return False  # the number means something else there
    try:
        sock.setsockopt(socket.SOL_SOCKET, PASS_RIGHTS, int(taken))
    except OSError:
        return False
    return True


def hang_up(sock: socket.socket) -> None:
    """Close a connection of somebody who may be another account, or a listener that another account may have called.

    Where the system cannot refuse descriptors, a thread waits until those that came are closed.
    """
    if not take_descriptors(sock, False):
        closing = threading.Thread(target=sock.close, daemon=True)
        with contextlib.suppress(RuntimeError):  # no more threads are allowed: then it takes as long as it takes
            closing.start()
            _closing.append(closing)
            closing.join(CLOSING)
            return
    sock.close()


_closing: list[threading.Thread] = []


def closing() -> int:
    """How many sockets are still being closed."""
    _closing[:] = [thread for thread in _closing if thread.is_alive()]
    return len(_closing)


def listen(address: str | Path) -> socket.socket:
    """A socket that listens on a path, mode 0600, or on an abstract name, which begins with NUL.

    A socket that had the path before is replaced. Raises OSError.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    take_descriptors(listener, False)
    try:
        if isinstance(address, Path):
            _listen_on_path(listener, address)
        else:
            listener.bind(address)
            listener.listen(QUEUE)
    except BaseException:
        listener.close()
        raise
    return listener


def _listen_on_path(listener: socket.socket, path: Path) -> None:
    # The socket gets its name only when it listens: nobody finds one that refuses.
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        with _reachable(temporary) as reachable:
            listener.bind(reachable)
    finally:
        os.umask(before)
    try:
        listener.listen(QUEUE)
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def connect(address: str | Path, patience: float) -> socket.socket:
    """A connection to a path or an abstract name; a listener whose queue is full is tried for ``patience`` seconds.

    It takes no descriptors, unless :func:`take_descriptors` says so. Raises OSError.
    """
    caller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    caller.setblocking(False)
    take_descriptors(caller, False)
    until = time.monotonic() + patience
    try:
        with _reachable(address) if isinstance(address, Path) else contextlib.nullcontext(address) as reachable:
            while True:
                try:
                    caller.connect(reachable)
                    break
                except BlockingIOError:  # said at once while the queue is full
                    if time.monotonic() >= until:
                        raise
                time.sleep(POLL)
    except BaseException:
        caller.close()
        raise
    return caller


@contextlib.contextmanager
def _reachable(path: Path) -> Iterator[str]:
    """A path that means the same, and fits into the about 100 bytes of a Unix socket's address."""
    if len(os.fsencode(path)) <= _LONGEST:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.path.isdir(f"/proc/self/fd/{folder}"):
            yield f"/proc/self/fd/{folder}/{path.name}"
            return
        # Without /proc, from inside the folder; not possible where the way back is barred.
        before = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fchdir(folder)
            yield path.name
        finally:
            os.fchdir(before)
            os.close(before)
    finally:
        os.close(folder)


def see_that_there_is_room(folder: Path) -> None:
    """Make a socket's file in a folder, and remove it. Raises OSError where there is no room, or none can be made."""
    probe = folder / f".{os.getpid()}.sock"
    with socket.socket(socket.AF_UNIX) as one, _reachable(probe) as reachable:
        one.bind(reachable)
    probe.unlink(missing_ok=True)


def abstract_names(prefix: str) -> list[str]:
    """The abstract names with this prefix (without its NUL) that are listened on in this network namespace."""
    names = []
    try:
        with open("/proc/net/unix", encoding="utf-8", errors="replace") as table:
            for line in table:
                columns = line.split(None, 7)  # Num RefCount Protocol Flags Type St Inode Path
                if len(columns) == 8 and columns[3] == _LISTENS and columns[7].startswith(f"@{prefix}"):
                    names.append(f"\0{columns[7][1:].rstrip()}")
    except OSError:
        pass  # not Linux, or a sandbox without it: the files have to suffice
    return names
