"""The proxies that the settings trust, and the client that they name."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from starlette.types import Scope


class Proxies:
    """The trusted proxies of one instance; false if there are none."""

    def __init__(self, networks: Iterable[str]) -> None:
        """``networks``: addresses, and networks as "10.0.0.0/8"."""
        self._networks = [ipaddress.ip_network(network) for network in networks]

    def __bool__(self) -> bool:
        return bool(self._networks)

    def look_through(self, scope: Scope) -> None:
        """Put the client that a trusted proxy names in the proxy's place. For limits and logs: it earns no trust."""
        if not self._networks or not scope.get("client") or not self._is_one(scope["client"][0]):
            return
        chain = [entry.strip() for entry in _joined(scope["headers"], b"x-forwarded-for").split(",") if entry.strip()]
        # From the near end: the entries before the first untrusted one may be made up.
        for entry in reversed(chain):
            if not _is_address(entry):
                break
            scope["client"] = (entry, 0)
            if not self._is_one(entry):
                break
        proto = _joined(scope["headers"], b"x-forwarded-proto").rpartition(",")[2].strip().lower()
        if proto in ("http", "https"):
            scope["scheme"] = proto if scope["type"] == "http" else proto.replace("http", "ws")

    def _is_one(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer.removeprefix("::ffff:"))
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def _joined(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> str:
    return ",".join(value.decode("latin-1") for name, value in headers if name.lower() == wanted)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
