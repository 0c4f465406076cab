"""Descriptors that others send, and that take as long to close as the sender likes: nobody waits for them."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from preflight.instances import unixsockets
from tests.adversary.applications import application
from tests.e2e.place import Place, Started, get

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="abstract names and such closing are Linux's")

# Sends the process at the other end a TCP socket with unsent data, whose last close() takes five minutes.
LINGERING = r"""
import os, signal, socket, struct, sys
how, name, account = sys.argv[1:]
"x".encode("idna")
if account != "0":
    os.setgid(int(account)); os.setuid(int(account))
listener = socket.create_server(("127.0.0.1", 0))
one = socket.create_connection(listener.getsockname())
taker = listener.accept()[0]
one.setblocking(False)
try:
    while True:
        one.send(b"x" * 65536)
except BlockingIOError:
    pass
one.setblocking(True)
one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 300))
mine = socket.socket(socket.AF_UNIX)
address = "\0" + name[1:] if name.startswith("@") else name
if how == "call":
    mine.connect(address)
    to = mine
else:
    mine.bind(address); mine.listen(8)
    print("listening", flush=True)
    to = mine.accept()[0]
try:
    socket.send_fds(to, [b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"], [one.fileno()])
    os.close(one.detach())
    print("sent", flush=True)
except PermissionError:
    print("not sent, for the kernel refuses it", flush=True)
while True:
    signal.pause()
"""
WITHOUT = "from preflight.instances import unixsockets\nunixsockets.PASS_RIGHTS = 0"
"""An option that no kernel has."""


def _stranger(place: Place, how: str, address: str, account: int = 65534) -> Started:
    return place.spawn(sys.executable, "-c", LINGERING, how, address, str(account), cwd=Path("/"))


def _start(place: Place, kernel: str, *options: str) -> Started:
    return place.start(*options) if kernel == "new" else place.start_program(place.prepared(WITHOUT), *options)


@pytest.mark.needs_root("to be another account")
@pytest.mark.parametrize("kernel", ["new", "old"])
def test_to_a_launcher(place: Place, kernel: str) -> None:
    """It hangs up on the caller, goes on to read what its worker prints, and ends when it is asked to."""
    options = application(place, "loud", loud="print('x' * 4000, flush=True)")
    old = _start(place, kernel, *options).until_ready()
    (name,) = unixsockets.abstract_names(f"preflight/{place.port}/")
    old.send(signal.SIGSTOP)  # it is called before it looks
    _stranger(place, "call", f"@{name[1:]}").until_says("sent")
    old.send(signal.SIGCONT)
    for _ in range(40):  # more than a pipe takes that nobody reads
        assert get(f"{place.url}/loud") == (200, "small")
    assert old.stop() == 0


@pytest.mark.needs_root("to be another account")
@pytest.mark.parametrize("kernel", ["new", "old"])
def test_to_a_start(place: Place, kernel: str) -> None:
    """One whose name another account has taken goes on without it."""
    stranger = _stranger(place, "listen", f"@preflight/start/{os.geteuid()}/{place.port}").until_says("listening")
    new = _start(place, kernel, "--demo", "--app", "small:app").until_ready()
    stranger.until_says("sent")
    assert get(place.url) == (200, "small")
    assert new.stop() == 0


def test_to_a_served_socket(place: Place) -> None:
    """Its clients send requests and no descriptors, so the worker answers the next one."""
    with socket.socket(socket.AF_UNIX) as probe:
        if not unixsockets.take_descriptors(probe, False):
            pytest.skip("this kernel cannot refuse descriptors")
    path = place.folder / "app.sock"
    served = place.start("--demo", "--app", "small:app", "--uds", str(path), PREFLIGHT_WEB_PREFIX="off").until_ready()
    _stranger(place, "call", str(path), 0).until_says("not sent")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(path))
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(1024).startswith(b"HTTP/1.1 200")
    assert served.stop() == 0
