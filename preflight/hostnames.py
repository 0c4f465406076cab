"""The names and addresses by which this machine is reached: what to tell others, and what they may ask for."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

_ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses for documentation (RFC 5737, RFC 3849): nothing is sent there; only the way there is asked for."""
_HOSTS = Path("/etc/hosts")


def is_wildcard(host: str) -> bool:
    """Whether a server on this host listens on every address, however that is spelled ("0.0.0.0", "0", "::")."""
    with contextlib.suppress(OSError):
        return not any(socket.inet_pton(socket.AF_INET6, host))
    with contextlib.suppress(OSError):
        return not any(socket.inet_aton(host))
    return False


def to_be_told(sock: socket.socket, host: str) -> str:
    """Where others can open what listens on this socket, which was asked for as ``host``.

    If it listens on every address, that is the one from which this machine reaches others, or else loopback's.
    """
    bound = sock.getsockname()[0]
    if not is_wildcard(bound):
        return host
    families = [sock.family]
    if sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        families = [socket.AF_INET, socket.AF_INET6]
    for family in families:
        if found := _outward(family) or _attached(family):
            return found
    return "::1" if families == [socket.AF_INET6] else "127.0.0.1"


def own() -> frozenset[str]:
    """The names that this machine has by itself, in lower case; no name server is asked."""
    name = socket.gethostname().lower()
    label = name.partition(".")[0]
    names = {name, label, f"{label}.local"}
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in _HOSTS.read_text(encoding="utf-8").splitlines():
            known = line.partition("#")[0].lower().split()[1:]
            names.update(known if name in known else ())
    return frozenset(names - {"", ".local"})


def _outward(family: socket.AddressFamily) -> str:
    """The address from which this machine would speak to others; empty if there is no way to them."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((_ELSEWHERE[family], 9))
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def _attached(family: socket.AddressFamily) -> str:
    """An address on a network that leads nowhere else; empty if there is none."""
    import psutil  # seldom needed

    with contextlib.suppress(OSError):
        for addresses in psutil.net_if_addrs().values():
            for one in addresses:
                # Addresses of loopback say nothing, and link-local ones are of no use without their interface.
                if one.family == family and not one.address.startswith(("127.", "::1", "169.254.", "fe80:")):
                    return one.address
    return ""
