"""An address to serve on, and the bind, which alone decides whether it is free.

Connecting decides nothing: a full backlog or a firewall makes it fail on a port in use. The socket has the
options that the server will use, so a TIME_WAIT that does not disturb the server does not disturb the check.
"""

from __future__ import annotations

import errno
import os
import pwd
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from preflight.ports import fixes
from preflight.ports.sockets import MAPPED, Endpoint
from preflight.text import foreign

if TYPE_CHECKING:  # a free port needs no look at the machine
    from preflight.ports.machine import Machine

_SOME_ADDRESS = "use an address of this machine: --host 127.0.0.1, or --host 0.0.0.0 for all of them"


class PortUnavailable(OSError):
    """The port cannot be held. `str()` is one line, `errno` the system's reason, `fix` the remedy."""

    def __init__(self, number: int, problem: str, fix: str = "") -> None:
        super().__init__(number, problem)
        self.fix = fix

    def __str__(self) -> str:
        return str(self.strerror)


class Target(NamedTuple):
    """An address to serve on, resolved."""

    host: str  # as it was given
    port: int
    family: int
    sockaddr: tuple[object, ...]

    @property
    def packed(self) -> bytes:
        """4 bytes for IPv4, 16 for IPv6."""
        return packed(self.family, self.sockaddr)

    @property
    def interface(self) -> int:
        """Index of the network interface that the address belongs to (the zone of `fe80::1%eth0`); 0: none."""
        return zone(self.sockaddr)

    def is_same(self, other: Target) -> bool:
        """Whether both name one address and port, however they are spelled."""
        ours, theirs = (self.packed, self.interface, self.port), (other.packed, other.interface, other.port)
        return ours == theirs

    def is_address_of(self, bound: socket.socket) -> bool:
        """Whether an IP socket is bound to this very address."""
        at = bound.getsockname()
        theirs = (packed(bound.family, at), zone(at), at[1])
        return (self.packed, self.interface, self.port) == theirs

    def overlaps(self, endpoint: Endpoint) -> bool | None:
        """Whether a listener there keeps this address from being bound; None when only a bind can tell."""
        if self.interface and endpoint.interface and self.interface != endpoint.interface:
            return False
        ours, theirs = self.packed, endpoint.packed
        if len(ours) == 16 and not any(ours):
            return True  # dual stack: every address of both families
        if len(ours) == len(theirs):
            return ours == theirs or not any(ours) or not any(theirs)
        if len(ours) == 4 and not any(theirs):  # their [::], which takes IPv4 too unless it is for IPv6 alone
            return None if endpoint.v6only is None else not endpoint.v6only
        return False


def packed(family: int, sockaddr: Sequence[object]) -> bytes:
    """The IP address in a socket's address, without its zone."""
    return socket.inet_pton(family, str(sockaddr[0]).partition("%")[0])


def zone(sockaddr: Sequence[object]) -> int:
    """The zone in a socket's address, which only those of IPv6 have: an interface's index, 0 for none."""
    return int(str(sockaddr[3])) if len(sockaddr) > 3 else 0


def resolve(host: str, port: int) -> Target:
    """The address to bind: a name's IPv4 address if it has one. Raises PortUnavailable."""
    if not 0 <= port <= 65535:
        raise PortUnavailable(errno.EINVAL, f"port {port} is not between 0 and 65535", "use --port 8002")
    name = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        # As bytes where possible: for text the encoding "idna" is imported, which takes longer than all the rest.
        encoded = name.encode() if name.isascii() else name
        found = socket.getaddrinfo(encoded or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        problem = f"{host!r} does not resolve to an address: {reason}"
        raise PortUnavailable(errno.EADDRNOTAVAIL, problem, _SOME_ADDRESS) from None
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)  # stable: the resolver's order within a family
    family, _, _, _, sockaddr = found[0]
    if family == socket.AF_INET6 and (inner := packed(family, sockaddr)).startswith(MAPPED):
        # IPv4 written as IPv6: as it stands, only a dual-stack socket could bind it.
        family, sockaddr = socket.AF_INET, (socket.inet_ntop(socket.AF_INET, inner[len(MAPPED) :]), port)
    return Target(host, port, family, sockaddr)


def overlapping(target: Target, endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    """Those listeners that keep the address from being bound."""
    sure: list[Endpoint] = []
    unsure: list[Endpoint] = []
    for endpoint in endpoints:
        overlap = target.overlaps(endpoint)
        if overlap is not False:
            (unsure if overlap is None else sure).append(endpoint)
    # A [::] that may or may not take IPv4. If another listener is sure to be in the way, it does not: the two
    # could not be there together. Otherwise the bind tells.
    if unsure and not sure:
        try:
            _open(target).close()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return unsure
    return sure


def bind(target: Target, machine: Machine, *, exclusive: bool = sys.platform == "linux") -> socket.socket:
    """A bound socket that does not listen yet, so nobody notices it. Raises PortUnavailable.

    `exclusive` says that SO_REUSEADDR never binds beside a listener. On BSD and macOS it binds 127.0.0.1
    beside another's 0.0.0.0 and takes connections away from it; there a bind without it comes first, and
    where that fails (perhaps for TIME_WAIT alone) the listeners are looked at.
    """
    try:
        if not exclusive:
            try:
                _open(target, reuse=False).close()
            except OSError as error:
                if error.errno != errno.EADDRINUSE or overlapping(target, machine.listening(target.port)):
                    raise
        return _open(target)
    except OSError as error:
        raise _unavailable(target, error) from None


def is_free(host: str, port: int) -> bool:
    """Whether a bind alone shows that the address is free. False if it is not, or nobody can tell: see `plan`."""
    if sys.platform != "linux":
        return False  # a bind may succeed beside a listener, see `bind`
    try:
        _open(resolve(host, port)).close()
    except OSError:
        return False
    return True


def listen_if_free(host: str, port: int, *, backlog: int = 2048) -> socket.socket | None:
    """A listening socket, not inheritable, where a bind alone shows that the address is free: see `is_free`."""
    if sys.platform != "linux":
        return None
    try:
        held = _open(resolve(host, port))
    except OSError:
        return None
    try:
        held.listen(backlog)
    except OSError:  # two may bind with SO_REUSEADDR; only one of them listens
        held.close()
        return None
    return held


def listen(target: Target, machine: Machine, *, deadline: float = 0.0, backlog: int = 2048) -> socket.socket:
    """A listening socket, not inheritable; tried again for `deadline` seconds while the address is in use.

    Raises PortUnavailable.
    """
    end = time.monotonic() + deadline
    pause = 0.001
    while True:
        try:
            held = bind(target, machine)
            try:
                held.listen(backlog)
            except OSError as error:  # two may bind with SO_REUSEADDR; only one of them listens
                held.close()
                raise _unavailable(target, error) from None
            return held
        except PortUnavailable as error:
            left = end - time.monotonic()
            if error.errno != errno.EADDRINUSE or left <= 0:
                raise
        time.sleep(min(pause, left))
        pause = min(2 * pause, 0.05)


def user_name(uid: int) -> str:
    """The user's name, or the number if it has none (containers)."""
    try:
        return foreign(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return str(uid)


def _open(target: Target, *, reuse: bool = True) -> socket.socket:
    opened = socket.socket(target.family, socket.SOCK_STREAM)
    try:
        if reuse:
            # Never SO_REUSEPORT: two servers would share the port silently.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if target.family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(any(target.packed)))
        opened.bind(target.sockaddr)
    except BaseException:
        opened.close()
        raise
    return opened


def _unavailable(target: Target, error: OSError) -> PortUnavailable:
    number, port = error.errno or 0, target.port
    if number == errno.EADDRINUSE:
        problem = f"port {port} is in use on {target.host}"
        return PortUnavailable(number, problem, fixes.status(port, "who holds it"))
    if number == errno.EADDRNOTAVAIL:
        return PortUnavailable(number, f"{target.host} is not an address of this machine", _SOME_ADDRESS)
    if number in (errno.EACCES, errno.EPERM) and port < 1024:
        problem = f"port {port} is privileged: user {user_name(os.geteuid())} may not listen on it"
        return PortUnavailable(number, problem, "use a port of 1024 or higher: --port 8002")
    if number == errno.EAFNOSUPPORT:
        return PortUnavailable(number, "this machine has no IPv6", _SOME_ADDRESS)
    problem = f"cannot listen on {target.host} port {port}: {error.strerror or error}"
    return PortUnavailable(number, problem, _SOME_ADDRESS)
