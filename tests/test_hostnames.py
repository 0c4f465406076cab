"""By which names and addresses this machine is reached."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from preflight import hostnames
from tests.waiting import PATIENCE


@pytest.fixture
def bound() -> Iterator[list[socket.socket]]:
    """Sockets that are closed after the test."""
    sockets: list[socket.socket] = []
    yield sockets
    for one in sockets:
        one.close()


def listener(bound: list[socket.socket], host: str, *, only_v6: bool = True) -> socket.socket:
    """A socket that listens there, on some port."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.append(sock)
    if ":" in host:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
    try:
        sock.bind((host, 0))
    except OSError:
        pytest.skip(f"nothing can be bound to {host} here")
    sock.listen()
    return sock


@pytest.mark.parametrize(
    "host, wildcard",
    [
        ("0.0.0.0", True), ("0", True), ("0.0", True), ("::", True), ("0:0:0:0:0:0:0:0", True), ("::0.0.0.0", True),
        ("127.0.0.1", False), ("::1", False), ("10.0.0.5", False), ("localhost", False), ("0.example", False),
    ],
)  # fmt: skip
def test_every_address(host: str, wildcard: bool) -> None:
    """However it is spelled."""
    assert hostnames.is_wildcard(host) == wildcard


@pytest.mark.parametrize("host", ["0.0.0.0", "0", "::"])
def test_what_others_can_open(bound: list[socket.socket], host: str) -> None:
    """An address of this machine that takes connections on this socket; none that means "every address"."""
    sock = listener(bound, host, only_v6=False)
    told = hostnames.to_be_told(sock, host)
    assert not hostnames.is_wildcard(told)
    with socket.create_connection((told, sock.getsockname()[1]), timeout=PATIENCE):
        pass
    own = {one.address for addresses in psutil.net_if_addrs().values() for one in addresses}
    assert told in own
    others = [one for one in own if "." in one and not one.startswith("127.")]
    assert bool(others) == (not told.startswith("127.") and told != "::1"), (
        "not this machine alone, if there are others"
    )


def test_without_the_older_protocol(bound: list[socket.socket]) -> None:
    """A socket for IPv6 alone is told by an IPv6 address."""
    assert ":" in hostnames.to_be_told(listener(bound, "::"), "::")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "agent.example"])
def test_an_address_of_its_own_is_told_as_it_was_asked_for(bound: list[socket.socket], host: str) -> None:
    """Who names an address, or a name, gets that."""
    assert hostnames.to_be_told(listener(bound, "127.0.0.1"), host) == host


def test_own_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The host's name in full and in short, its name on the local link, and what /etc/hosts has beside it."""
    hosts = tmp_path / "hosts"
    hosts.write_text(
        "127.0.0.1 localhost\n127.0.1.1 Box.example.org box agent.lan # not-this\n10.0.0.9 other.example other\n"
    )
    monkeypatch.setattr(hostnames, "_HOSTS", hosts)
    monkeypatch.setattr(socket, "gethostname", lambda: "Box")
    assert hostnames.own() == {"box", "box.local", "box.example.org", "agent.lan"}
    monkeypatch.setattr(socket, "gethostname", lambda: "box.example.org")
    assert {"box", "box.local", "box.example.org"} <= hostnames.own()
    monkeypatch.setattr(hostnames, "_HOSTS", tmp_path / "none")
    monkeypatch.setattr(socket, "gethostname", lambda: "")
    assert hostnames.own() == frozenset()
