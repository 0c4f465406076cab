"""A Unix socket as the served address: what is at its path, and which process listens there.

Little of what is done for a port is done for a path. A start that finds a path taken never stops the listener: any
process may have taken a port by chance, but a path is chosen on purpose, so another server there is a mistake that
people have to correct. A socket file on which no process listens any more is removed.

The kernel says which process listens: the last one that called listen() on the socket (unix(7), SO_PEERCRED). A
launcher calls it whenever it alone holds the socket, and its worker calls it when it begins to serve.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from preflight.instances import unixsockets
from preflight.instances.unixsockets import Peer

if TYPE_CHECKING:
    from preflight.ports import Holder

LONGEST = 107 if sys.platform == "linux" else 103  # bytes of a path that clients can name (sun_path, without its NUL)
PATIENCE = 0.2  # seconds for which a queue that is full is tried
BACKLOG = 2048
JUST_MADE = 0.05  # seconds: many times longer than from the making of a socket's file until somebody listens on it


class PathState(NamedTuple):
    """What is at a path. A server can listen there if there is no ``problem``."""

    problem: str = ""
    """Why a server cannot listen there, for people; empty if it can."""
    fix: str = ""
    stale: bool = False
    """A socket on which nobody listens: its server ended without removing it."""
    listens: bool = False
    """Somebody does; ``peer`` is that process, where the system tells."""
    peer: Peer | None = None


def look(path: Path) -> PathState:
    """What is at the path. Nothing is changed, and whoever listens sees a connection come and go."""
    if len(os.fsencode(path)) > LONGEST:
        return PathState(
            f"{path} has {len(os.fsencode(path))} bytes, but the path of a Unix socket may have at most {LONGEST}",
            "serve on a shorter path, in /run or $XDG_RUNTIME_DIR for example",
        )
    folder = path.parent
    if not folder.is_dir():
        return PathState(f"the folder {folder} does not exist", f"mkdir -p {folder}")
    try:
        status = path.lstat()
    except FileNotFoundError:
        if os.access(folder, os.W_OK | os.X_OK):
            return PathState()
        return PathState(
            f"user {os.geteuid()} may not create a file in {folder}", f"ls -ld {folder}  # or use another path"
        )
    except OSError as error:
        return PathState(f"{path} cannot be examined: {error.strerror}", f"ls -ld {folder}  # or use another path")
    if not stat.S_ISSOCK(status.st_mode):
        return PathState(f"{path} exists already, and is not a socket", "move it away, or serve on another path")
    try:
        caller = unixsockets.connect(path, PATIENCE)
    except BlockingIOError:
        return PathState(listens=True)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            return PathState(
                f"{path} is a socket that user {os.geteuid()} may not connect to",
                f"ls -l {path}  # or use another path",
            )
        if error.errno not in (errno.ECONNREFUSED, errno.ENOENT):
            return PathState(f"cannot connect to the socket {path}: {error.strerror}", "serve on another path")
    else:
        peer = unixsockets.peer(caller)
        unixsockets.hang_up(caller)
        return PathState(listens=True, peer=peer)
    if not _removable(folder, status.st_uid):
        return PathState(
            f"{path} is left over from a server of user {status.st_uid}, and user {os.geteuid()} may not remove it",
            f"sudo rm {path}  # or use another path",
        )
    return PathState(stale=True)


def holders(path: Path, found: PathState, secrets: Collection[str] = ()) -> list[Holder]:
    """The process that listens there, if one does; no argument of it with one of these ``secrets`` in it is shown."""
    if not found.listens:
        return []
    from preflight.ports import holder_of  # a launcher that serves has no other use for it

    pid, uid = found.peer or (0, None)
    return [holder_of(pid, uid, f"unix:{path}", secrets=secrets)]


def described(path: Path, state: PathState) -> tuple[str, str]:
    """Why a server cannot have the path, and what to do about it."""
    if not state.listens:
        return state.problem, state.fix
    who, fix = "another server", "serve on another path"
    if state.peer is not None and state.peer.pid:
        (holder,) = holders(path, state)
        who = f"another server ({holder.name}, PID {state.peer.pid}, user {state.peer.uid})"
        fix = f"stop it (kill {state.peer.pid}), or serve on another path"
    return f"{who} listens on {path}, and no process is stopped to free a path", fix


def _removable(folder: Path, owner: int) -> bool:
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    status = folder.stat()
    return os.geteuid() in (0, owner, status.st_uid) or not status.st_mode & stat.S_ISVTX


def listen(path: Path, mode: int) -> socket.socket:
    """A socket that listens there, not inheritable, with these permissions; a stale file is replaced.

    Raises OSError if somebody has come first.
    """
    if look(path).stale:
        path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    unixsockets.take_descriptors(listener, False)
    before = os.umask(0o777 & ~mode)  # from its first moment on
    try:
        listener.bind(str(path))
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    return listener


def adopt(listener: socket.socket) -> None:
    """Become the listening process, as the kernel names it; connections that wait go on waiting."""
    unixsockets.take_descriptors(listener, False)  # a service manager has made it, say
    with contextlib.suppress(OSError):
        listener.listen(BACKLOG)


def remove_own(path: Path) -> None:
    """Remove the file if this very process listens on it: from then on nobody finds the socket."""
    found = look(path)
    if found.listens and found.peer is not None and found.peer.pid == os.getpid():
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def permit(path: Path, mode: int) -> None:
    """Give the file these permissions, if it is ours."""
    with contextlib.suppress(OSError):
        path.chmod(mode)


def sweep(path: Path) -> None:
    """Remove the file if nobody listens on it, and nobody has just made it in order to listen."""
    with contextlib.suppress(OSError):
        if not look(path).stale:
            return
        before = path.lstat().st_ino
        time.sleep(JUST_MADE)
        if look(path).stale and path.lstat().st_ino == before:
            path.unlink(missing_ok=True)
