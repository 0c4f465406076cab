"""What is said to a service manager, and when nothing is."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from preflight.processes import servicemanager
from preflight.processes.servicemanager import EXTENSION, LONGEST, ServiceManager


class Unheard:
    """A notify socket that nobody reads until it is asked what came."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.socket.setblocking(False)

    def read(self) -> list[dict[str, str]]:
        """The messages since, each by its words."""
        found = []
        try:
            while True:
                text = self.socket.recv(1 << 16).decode()
                found.append(dict(line.partition("=")[::2] for line in text.splitlines()))
        except BlockingIOError:
            return found


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Both kinds of socket that systemd may name."""
    return str(tmp_path / "notify") if request.param == "path" else f"@preflight-test-{os.getpid()}-{id(request)}"


@pytest.fixture
def unheard(address: str) -> Iterator[Unheard]:
    one = Unheard(address)
    yield one
    one.socket.close()


@pytest.fixture
def manager(unheard: Unheard, address: str) -> Iterator[ServiceManager]:
    with contextlib.closing(ServiceManager(address, watchdog=10.0)) as one:
        yield one


def test_nobody_wants_to_know() -> None:
    """Without the variable, and with an address of a kind that systemd gives to machines alone, nothing is said."""
    for environ in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}, {"WATCHDOG_USEC": "1000000"}):
        one = ServiceManager.take(environ)
        assert not one
        assert not environ
        assert one.watchdog == 0
        one.ready("Serving")
        one.goes_on()
        one.feed([1.0])
        one.stopping("Stopping", 5.0)
        assert one.problem == ""


@pytest.mark.parametrize(
    "variables, watchdog",
    [
        ({"WATCHDOG_USEC": "2500000"}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": str(os.getpid())}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "1"}, 0),
        ({"WATCHDOG_USEC": "soon"}, 0),
        ({}, 0),
    ],
)
def test_the_watchdog_of_this_process(variables: dict[str, str], watchdog: float) -> None:
    """Its period in seconds; one that is meant for another process is none, and every variable is gone."""
    environ = {"NOTIFY_SOCKET": "/run/notify", **variables}
    assert ServiceManager.take(environ).watchdog == watchdog
    assert not environ


def test_ready_and_the_end_come_in_one_piece_with_their_status(manager: ServiceManager, unheard: Unheard) -> None:
    """Whoever dies between two messages has said both or neither."""
    manager.status("Checking Memory (3 of 24)")
    manager.ready("Serving 127.0.0.1:8002; nothing blocks")
    manager.stopping("Stopping (SIGTERM).", 5.75)
    assert unheard.read() == [
        {"STATUS": "Checking Memory (3 of 24)"},
        {"READY": "1", "STATUS": "Serving 127.0.0.1:8002; nothing blocks"},
        {"STOPPING": "1", "EXTEND_TIMEOUT_USEC": "5750000", "STATUS": "Stopping (SIGTERM)."},
    ]


def test_a_status_is_one_printable_line(manager: ServiceManager, unheard: Unheard) -> None:
    """A second line would be another word of the protocol, and the same line again says nothing."""
    manager.status("Checking\x1b[31m Memory\nMAINPID=1")
    manager.status("Checking\x1b[31m Memory")
    assert unheard.read() == [{"STATUS": "Checking?[31m Memory"}]


def test_time_is_asked_for_again_before_it_is_over(
    manager: ServiceManager, unheard: Unheard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that goes on asks in time, and not with every look; one that may take longer asks for that at once."""
    now = 1000.0
    monkeypatch.setattr(servicemanager, "time", SimpleNamespace(monotonic=lambda: now))
    asked = []
    for _look in range(240):  # two minutes, one look in half a second
        manager.goes_on()
        asked += [(now, one) for one in unheard.read()]
        now += 0.5
    assert all(one == {"EXTEND_TIMEOUT_USEC": str(int(EXTENSION * 1e6))} for _when, one in asked)
    assert [before - after for after, before in itertools.pairwise(when for when, _one in asked)] == [15.5] * 7
    manager.allow(600.0)
    manager.goes_on()
    manager.allow(60.0)  # less than it has
    assert unheard.read() == [{"EXTEND_TIMEOUT_USEC": "600000000"}]
    manager.allow(float("inf"))
    assert unheard.read() == [{"EXTEND_TIMEOUT_USEC": str(int(LONGEST * 1e6))}]


def test_signs_of_life_are_passed_on_and_none_is_made_up(manager: ServiceManager, unheard: Unheard) -> None:
    """Only a sign that is newer than the last one counts, and of several workers the one that is behind."""
    manager.feed([])
    manager.feed([5.0])
    manager.feed([5.0])
    assert unheard.read() == [{"WATCHDOG": "1"}]
    manager.feed([9.0, 5.0])  # another one beats, and this one does not
    manager.feed([12.0, 5.0])
    assert unheard.read() == []
    manager.feed([12.0, 6.0])
    assert unheard.read() == [{"WATCHDOG": "1"}]


def test_no_signs_are_expected_while_a_worker_starts(manager: ServiceManager, unheard: Unheard) -> None:
    """The watchdog's period is that start's deadline meanwhile, and its own again with the first sign of life."""
    manager.feed([5.0])
    unheard.read()
    manager.expect_none(601.5)
    manager.feed([])
    assert unheard.read() == [{"WATCHDOG_USEC": "601500000"}]
    manager.feed([8.0])
    manager.feed([9.0])
    assert unheard.read() == [{"WATCHDOG_USEC": "10000000", "WATCHDOG": "1"}, {"WATCHDOG": "1"}]
    manager.expect_none(5.0)  # shorter than the period: there is no need
    assert unheard.read() == []


def test_a_manager_that_does_not_read(manager: ServiceManager, unheard: Unheard) -> None:
    """Nobody waits for it; what could not be sent comes with the next message, the newest word of each kind."""
    for number in range(2000):  # more than its queue holds
        manager.status(f"Checking {number}")
    manager.ready("Serving")
    manager.status("Serving, with a warning")
    read = unheard.read()
    assert 0 < len(read) < 2000
    assert not any("READY" in one for one in read)
    manager.flush()
    assert unheard.read() == [{"READY": "1", "STATUS": "Serving, with a warning"}]
    assert manager.problem == ""


def test_a_manager_that_has_gone(manager: ServiceManager, unheard: Unheard, address: str) -> None:
    """Why it cannot be told is said in one line, and nothing is tried again and again."""
    unheard.socket.close()
    if not address.startswith("@"):
        os.unlink(address)
    manager.ready("Serving")
    assert manager.problem.startswith("systemd cannot be told anything: ")
    manager.flush()
