"""A listening socket that a service manager has opened and hands to the process that it starts (sd_listen_fds(3)).

systemd passes descriptors from 3 on, and says in the environment how many there are (LISTEN_FDS), for which process
(LISTEN_PID) and under which names (LISTEN_FDNAMES). The variables are taken away before anything else runs, so that
neither a child nor the application believes that the sockets are its own.

The socket goes on being the manager's: it stays open when this process ends, and connections wait in its queue until
the next one accepts. So nobody is stopped for it, and nothing may be done to it that would outlast this process.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import MutableMapping
from pathlib import Path
from typing import NamedTuple

from preflight.text import address, foreign

FIRST = 3  # SD_LISTEN_FDS_START
VARIABLES = ("LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES")
_TYPES = {socket.SOCK_DGRAM: "ListenDatagram=", socket.SOCK_SEQPACKET: "ListenSequentialPacket="}


class UnusableSocket(ValueError):
    """What was passed cannot be served; the message is one line that says what to change."""


class Passed(NamedTuple):
    """What was passed to this process according to the environment, before the descriptors are examined."""

    descriptors: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    """The names of the socket units, in the order of the descriptors; fewer where the manager gives none."""
    problem: str = ""
    """Why the variables cannot be believed; empty if they can, or if there are none."""
    missed: bool = False
    """Whether they are for the process that has started this one (a shell, ``uv run``) without becoming it."""


class Inherited(NamedTuple):
    """A listening socket that a start is given, so that it need not bind one."""

    socket: socket.socket
    activated_by: str = ""
    """The socket unit whose socket it is, or "systemd"; empty: it is that of the running instance."""


def take(environ: MutableMapping[str, str]) -> Passed:
    """What was passed to this process. The variables are removed, and no program that it runs gets a descriptor."""
    pid, _, count, names = (environ.pop(name, "") for name in VARIABLES)
    if not pid.isdecimal() or not count:
        return Passed()
    if int(pid) != os.getpid():
        return Passed(missed=int(pid) == os.getppid())
    if not count.isdecimal():
        return Passed(problem=f"LISTEN_FDS is {foreign(count)!r}, but must be a number of sockets")
    descriptors = tuple(range(FIRST, FIRST + int(count)))
    for descriptor in descriptors:
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        except OSError:
            return Passed(problem=f"LISTEN_FDS is {foreign(count)}, but descriptor {descriptor} is not open")
    return Passed(descriptors, tuple(map(foreign, names.split(":"))) if names else ())


def listener(passed: Passed, host: str, port: int, path: Path | None) -> Inherited | None:
    """The one socket that was passed, which is bound to this address; None if none was.

    ``path`` is that of a Unix socket, which takes the place of host and port. Raises UnusableSocket.
    """
    if passed.problem:
        raise UnusableSocket(passed.problem)
    if not passed.descriptors:
        return None
    shown = [_shown(descriptor) for descriptor in passed.descriptors]
    names = [*passed.names, *[""] * len(shown)]
    if len(shown) > 1:
        every = ", ".join(_named(one, name) for one, name in zip(shown, names, strict=False))
        raise UnusableSocket(
            f"systemd passes {len(shown)} sockets ({every}), but only one can be served: leave one ListenStream= in the"
            " socket unit"
        )
    told, name = _named(shown[0], names[0]), names[0]
    found = _socket(passed.descriptors[0], told)
    if problem := _unservable(found) or _mismatch(found, host, port, path):
        found.close()
        raise UnusableSocket(f"systemd passes {told}, {problem}")
    return Inherited(found, name if name and name != "unknown" else "systemd")


def is_bound_to(found: socket.socket, host: str, port: int, path: Path | None) -> bool:
    """Whether a socket is bound to this address, however that is spelled. Raises PortUnavailable."""
    if path is not None:
        return found.family == socket.AF_UNIX and _same(found.getsockname(), path)
    from preflight.ports.binding import resolve  # nearly every start does without it

    return found.family != socket.AF_UNIX and resolve(host, port).is_address_of(found)


def _same(bound: object, path: Path) -> bool:
    if not isinstance(bound, str) or not bound:
        return False  # an abstract name is bytes
    folder, name = os.path.split(bound)
    return os.path.join(os.path.realpath(folder), name) == os.path.join(os.path.realpath(path.parent), path.name)


def _socket(descriptor: int, told: str) -> socket.socket:
    """The socket that a descriptor is. Raises UnusableSocket for a FIFO or a file."""
    try:
        return socket.socket(fileno=descriptor)
    except OSError:
        raise UnusableSocket(
            f"systemd passes {told}, but only a socket can be served: ListenStream= opens one"
        ) from None


def _unservable(found: socket.socket) -> str:
    """Why a socket of this kind cannot be served, and what to change; empty if it can."""
    if found.type != socket.SOCK_STREAM:
        return f"which is not a stream socket: write ListenStream= instead of {_TYPES.get(found.type, 'its directive')}"
    if found.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        return "which is neither an IP nor a Unix socket"
    if not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "which does not listen: write Accept=no in the socket unit"
    return ""


def _mismatch(found: socket.socket, host: str, port: int, path: Path | None) -> str:
    """How the settings name another address than the socket's, and what to change; empty if it is the same."""
    from preflight.ports.binding import PortUnavailable

    try:
        if is_bound_to(found, host, port, path):
            return ""
    except PortUnavailable as error:
        return f"and {error}"
    bound = found.getsockname()
    wanted = f"unix:{path}" if path is not None else address(host, port)
    listen = f"ListenStream={path if path is not None else address(host, port)} in the socket unit"
    if found.family != socket.AF_UNIX:
        instead = f"set PREFLIGHT_HOST={bound[0]} and PREFLIGHT_PORT={bound[1]}"
        instead += " without PREFLIGHT_UDS" if path is not None else ""
    elif isinstance(bound, str) and bound:
        instead = f"set PREFLIGHT_UDS={foreign(bound)}"
    else:
        return f"but the settings name {wanted}: write {listen}"
    return f"but the settings name {wanted}: {instead}, or write {listen}"


def _shown(descriptor: int) -> str:
    """What a descriptor is, for people: an address, or what it is instead of a socket."""
    try:
        found = socket.socket(fileno=descriptor)
    except OSError:
        return f"descriptor {descriptor}"
    try:
        bound = found.getsockname()
        if found.family == socket.AF_UNIX:
            text = bound.decode("utf-8", "replace").replace("\0", "@", 1) if isinstance(bound, bytes) else bound
            return foreign(f"unix:{text}")
        return address(str(bound[0]), bound[1]) if isinstance(bound, tuple) and len(bound) > 1 else "a socket"
    finally:
        found.detach()


def _named(shown: str, name: str) -> str:
    return f"{shown} ({name})" if name and name != "unknown" else shown
