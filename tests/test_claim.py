"""What a run may do about the port: the policy that settings and live instances make."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from preflight import ports
from preflight.instances.neighbours import Neighbour
from preflight.instances.records import Record
from preflight.instances.runtime import StartLock
from preflight.ports.activation import Inherited
from preflight.settings import loading
from preflight.settings import model as settings
from preflight.suite import claim, occupied
from tests.launchers import Answering
from tests.portnumbers import unused_port
from tests.releases import OtherRelease

ROOT = Path(__file__).parent.parent


def neighbour(*, stops_within: float) -> Neighbour:
    return Neighbour(Record.of({"pid": os.getpid(), "stops_within": stops_within}), answers=True)


def load(port: int, **options: object) -> settings.Settings:
    return loading.load(ROOT, options={"demo": True, "port": port, **options})


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_an_instance_gets_the_time_that_it_says_it_needs(home: Path) -> None:
    """Grace first: nobody is killed in the middle of a drain that its settings allow."""
    chosen = load(8002, port_grace="5s")
    assert occupied.policy_of(chosen, []).grace == 5
    assert occupied.policy_of(chosen, [neighbour(stops_within=21.5)]).grace == 21.5
    assert occupied.policy_of(chosen, [neighbour(stops_within=1)]).grace == 5


def test_names_that_are_never_stopped_are_a_setting(home: Path) -> None:
    """The setting adds to what is spared anyway."""
    chosen = load(8002, port_spare=["my-broker"])
    assert occupied.policy_of(chosen, []).spare == ports.INFRASTRUCTURE | {"my-broker"}


@pytest.mark.parametrize("origin", ["check", "pytest", "rerun"])
def test_served_by_an_instance_of_ours(home: Path, listener: socket.socket, origin: str) -> None:
    """On the very address, its runs beside it pass and hold nothing."""
    port = listener.getsockname()[1]
    with Answering(listener):
        found = claim.claim(origin, load(port), blocked=[], on_step=lambda _step: None)
    assert found.served_by is not None
    assert found.socket is None


@pytest.mark.slow
def test_served_by_another_instance(home: Path) -> None:
    """A re-run asks whether its own instance serves: another one's socket is none of ours."""
    with OtherRelease(home / "runtime" / "preflight", unused_port(), "future") as other:
        found = claim.claim("rerun", load(other.port), blocked=[], on_step=lambda _step: None)
    assert found.served_by is None
    assert found.socket is None
    assert "is not served by this instance any more" in found.problem


@pytest.mark.slow
def test_replaced_while_it_goes_on(home: Path, listener: socket.socket) -> None:
    """The instance that comes holds the same socket for a while: that is no fault of a re-run in the old one."""
    port = listener.getsockname()[1]
    program = (
        "import subprocess, sys\n"
        "print(subprocess.Popen(['sleep', '60'], pass_fds=[int(sys.argv[1])], stdout=subprocess.DEVNULL).pid)"
    )
    command = [sys.executable, "-c", program, str(listener.fileno())]
    # Its parent ends at once: a holder that is neither this process nor a child of it.
    done = subprocess.run(command, pass_fds=[listener.fileno()], stdout=subprocess.PIPE, text=True, check=True)
    holder = int(done.stdout)
    try:
        with Answering(listener):
            found = claim.claim("rerun", load(port), blocked=[], on_step=lambda _step: None)
    finally:
        os.kill(holder, signal.SIGKILL)
    assert {one.pid for one in found.holders} == {os.getpid(), holder}
    assert found.served_by is not None


def test_an_instance_on_an_overlapping_address(home: Path, listener: socket.socket) -> None:
    """It does not serve the address that is asked for: a check says so, and pytest does not stop it."""
    port = listener.getsockname()[1]
    with Answering(listener):
        checked = claim.claim("check", load(port, host="0.0.0.0"), blocked=[], on_step=lambda _step: None)
        tested = claim.claim("pytest", load(port, host="0.0.0.0"), blocked=[], on_step=lambda _step: None)
    assert checked.served_by is None
    assert checked.holders
    assert tested.served_by is None
    assert "serves 127.0.0.1" in tested.problem
    assert "never stops" in tested.problem


def test_a_host_that_does_not_resolve(home: Path, free_port: int) -> None:
    """The claim says so and how to mend it; it does not raise."""
    found = claim.claim("check", load(free_port, host="nosuch.invalid"), blocked=[], on_step=lambda _step: None)
    assert "nosuch.invalid" in found.problem
    assert found.fix


def test_an_inherited_socket_is_taken_over(home: Path, listener: socket.socket) -> None:
    """A start that replaces an instance goes on with the very socket that it was handed."""
    port = listener.getsockname()[1]
    found = claim.claim(
        "start", load(port), blocked=[], on_step=lambda _step: None, inherited=Inherited(listener.dup())
    )
    assert found.handed_over
    assert found.socket is not None
    with found.socket:
        assert found.socket.getsockname() == listener.getsockname()


@pytest.mark.parametrize("wrong", ["address", "silent"])
def test_an_inherited_socket_that_is_of_no_use(home: Path, free_port: int, wrong: str) -> None:
    """One of another address, or that does not listen, is closed, and the port is taken as if there were none."""
    if wrong == "address":
        other = socket.create_server(("127.0.0.1", 0))
    else:
        other = socket.socket()
        other.bind(("127.0.0.1", 0))
    found = claim.claim("start", load(free_port), blocked=[], on_step=lambda _step: None, inherited=Inherited(other))
    assert not found.handed_over
    assert other.fileno() == -1
    assert found.socket is not None
    with found.socket:
        assert found.socket.getsockname() == ("127.0.0.1", free_port)


def test_a_blocked_start_takes_nothing_over(home: Path, listener: socket.socket) -> None:
    """Even a socket that is there for the taking is left to the instance that serves on it."""
    port = listener.getsockname()[1]
    inherited = listener.dup()
    found = claim.claim(
        "start", load(port), blocked=["Disk"], on_step=lambda _step: None, inherited=Inherited(inherited)
    )
    inherited.close()
    assert found.socket is None
    assert "blocked by Disk" in found.untried


PYTEST = """
import sys
from pathlib import Path
from preflight.suite import claim; from preflight.settings import loading
chosen = loading.load(Path.cwd(), options={"demo": True, "port": int(sys.argv[1])})
print("asking", flush=True)
found = claim.claim("pytest", chosen, blocked=[], on_step=lambda step: None)
print("served" if found.served_by else "held" if found.socket else found.problem, flush=True)
"""


@pytest.mark.slow
def test_a_start_that_goes_on_is_waited_for(home: Path, listener: socket.socket) -> None:
    """pytest does not take the port from under a start, which has no record yet: it waits for the start's lock."""
    port = listener.getsockname()[1]
    with StartLock(port) as lock:
        assert lock.take()
        command = [sys.executable, "-c", PYTEST, str(port)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as asking:
            assert asking.stdout is not None
            assert asking.stdout.readline() == "asking\n"
            # The start ends well: only now there is a record. Without the lock we would be a stale listener.
            with Answering(listener):
                lock.release()
                assert asking.stdout.readline() == "served\n"


@pytest.mark.slow
def test_a_start_that_does_not_end(home: Path, listener: socket.socket) -> None:
    """pytest says which process is in the way, before its own deadline does."""
    port = listener.getsockname()[1]
    with StartLock(port) as lock:
        assert lock.take()
        found = claim.claim(
            "pytest", load(port, requirement_timeout="2s", port_grace="0s"), blocked=[], on_step=lambda _step: None
        )
    assert found.problem == f"another start of port {port} has been going on for 1 s (PID {os.getpid()})"
    assert found.fix == f"wait for it, or end it: kill {os.getpid()}"
