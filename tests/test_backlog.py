"""How a listening socket's queue is closed: nothing gets in any more, and what is in it is not lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.privileges import WITHOUT, unprivileged

ROOT = Path(__file__).parents[1]

# Locks a socket with three connections in its queue, and says what became of those and of a fourth.
LOCK = """
import errno, json, socket, sys
from preflight.worker.backlog import lock

listener = socket.create_server(("127.0.0.1", 0))
if "interface" in sys.argv:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
address = listener.getsockname()
clients = [socket.create_connection(address, 5) for _ in range(3)]
for number, client in enumerate(clients):
    client.sendall(b"%d" % number)
locked = lock(listener)
late = socket.socket()
late.settimeout(0.3)
late = late.connect_ex(address)
again = socket.socket()
again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
try:
    again.bind(address)
    held = False
except OSError as error:
    held = error.errno == errno.EADDRINUSE
listener.settimeout(5)
answered = []
for client in clients:
    accepted = listener.accept()[0]
    answered.append(accepted.recv(1).decode())
    accepted.sendall(b"!")
    assert client.recv(1) == b"!"
listener.settimeout(0)
try:
    listener.accept()
    more = True
except BlockingIOError:
    more = False
print(json.dumps({"locked": locked, "answered": answered, "late": late != 0, "held": held, "more": more}))
"""


def lock(*arguments: str, without: bool) -> dict[str, object]:
    command = [*(WITHOUT if without else []), sys.executable, "-c", LOCK, *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 0, ended.stderr
    outcome: dict[str, object] = json.loads(ended.stdout)
    return outcome


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone can lock a queue")
@pytest.mark.parametrize("without", [False, pytest.param(True, marks=unprivileged)], ids=["as it is", "no privileges"])
def test_nothing_more_gets_in(without: bool) -> None:
    """Who comes late is turned away, who waits is served, and the port is nobody else's meanwhile. Root or not."""
    assert lock(without=without) == {
        "locked": True,
        "answered": ["0", "1", "2"],
        "late": True,
        "held": True,
        "more": False,
    }


@pytest.mark.skipif(sys.platform != "linux", reason="interfaces are bound to under Linux")
@unprivileged
@pytest.mark.slow
def test_a_socket_that_cannot_be_locked() -> None:
    """A socket that belongs to an interface can be moved to no other, nor given a filter, without privileges.

    Which of the two the kernel refuses is the kernel's affair: what waits is served, and it says whether more comes.
    """
    outcome = lock("interface", without=True)
    assert outcome["answered"] == ["0", "1", "2"]
    assert outcome["held"] is True
    if outcome["locked"]:
        assert outcome["more"] is False
