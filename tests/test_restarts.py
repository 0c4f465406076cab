"""When a crashed worker is started again, and when that is left to somebody else or given up."""

from __future__ import annotations

import os
import random

import pytest

from preflight import restarts
from preflight.restarts import CEILING, STEADY, Restarts, somebody_elses_task

READY = 1.0  # seconds that a worker was ready before it ended


def longest(_low: float, high: float) -> float:
    return high


def policy(*, limit: int = 5, window: float = 60.0, backoff: float = 0.5) -> Restarts:
    return Restarts(limit=limit, window=window, backoff=backoff, jitter=longest)


def test_first_at_once_then_doubling() -> None:
    """A single crash costs no time; from the second on the wait doubles."""
    policy_ = policy(limit=100)
    assert [policy_.failed(float(n), READY) for n in range(5)] == [0.0, 0.5, 1.0, 2.0, 4.0]


def test_ceiling() -> None:
    """However often it crashes, the wait is at most half a minute, and no number overflows on the way."""
    policy_ = policy(limit=1000, window=0.1)
    waits = [policy_.failed(float(n), READY) for n in range(900)]
    assert waits[6:8] == [16.0, CEILING]
    assert set(waits[7:]) == {CEILING}


@pytest.mark.parametrize("crash", [2, 3, 5, 20])
def test_jitter(crash: int) -> None:
    """A wait is anywhere between a half and the whole of what the doubling says, never beyond."""
    whole = min(CEILING, 0.5 * 2.0 ** (crash - 2))
    found = []
    random.seed(crash)
    for _ in range(200):
        policy_ = Restarts(limit=1000, window=0.1, backoff=0.5)
        wait = [policy_.failed(float(n), READY) for n in range(crash)][-1]
        assert wait is not None
        assert whole / 2 <= wait <= whole
        found.append(wait)
    assert max(found) - min(found) > whole / 4, "the waits of several instances are spread"


def test_no_backoff() -> None:
    """With a back-off of nothing every restart is at once."""
    policy_ = policy(limit=100, backoff=0)
    assert {policy_.failed(float(n), READY) for n in range(9)} == {0.0}


def test_forgotten_after_a_steady_minute() -> None:
    """After a minute of being ready the next crash is a first one again, for the wait and for the count."""
    policy_ = policy(limit=3, window=10_000.0)
    assert [policy_.failed(0.0, READY), policy_.failed(1.0, READY)] == [0.0, 0.5]
    assert policy_.failed(100.0, STEADY) == 0.0
    assert policy_.failed(101.0, READY) == 0.5
    assert policy_.failed(102.0, READY) is None


def test_not_forgotten_before() -> None:
    """A moment less than a minute does not count as steady."""
    policy_ = policy()
    policy_.failed(0.0, READY)
    assert policy_.failed(60.0, STEADY - 0.001) == 0.5


def test_five_in_the_window() -> None:
    """The fifth crash within the window is the last one."""
    policy_ = policy()
    found = [policy_.failed(now, READY) for now in (0.0, 15.0, 30.0, 45.0, 60.0)]
    assert None not in found[:4]
    assert found[4] is None


def test_window_slides() -> None:
    """Crashes that are spread further than the window go on for ever."""
    policy_ = policy()
    assert None not in [policy_.failed(n * 15.1, READY) for n in range(50)]


def test_a_limit_of_one() -> None:
    """With a limit of one the first crash is the last."""
    assert policy(limit=1).failed(0.0, READY) is None


def test_never_ready_twice() -> None:
    """Two workers in a row that never got ready: a third would not either."""
    policy_ = policy()
    assert policy_.failed(0.0, None) == 0.0
    assert policy_.failed(1.0, None) is None


def test_never_ready_in_between() -> None:
    """A worker that got ready in between makes it a new count."""
    policy_ = policy()
    found = [policy_.failed(float(n), ready) for n, ready in enumerate([None, READY, None])]
    assert None not in found
    assert policy_.failed(3.0, None) is None


# Who restarts it.


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine that nothing but a terminal starts processes on, whatever this one is."""
    for name in ("SYSTEMD_EXEC_PID", "KUBERNETES_SERVICE_HOST", "container"):
        monkeypatch.delenv(name, raising=False)
    marks(monkeypatch)
    return monkeypatch


def marks(monkeypatch: pytest.MonkeyPatch, *present: str) -> None:
    """The files by which container runtimes are known: only these are there."""

    class Marked:
        def __init__(self, path: str) -> None:
            self._path = path

        def exists(self) -> bool:
            return self._path in present

    monkeypatch.setattr(restarts, "Path", Marked)


def test_ours(bare: pytest.MonkeyPatch) -> None:
    """In a terminal nobody else does it."""
    assert somebody_elses_task() is None


def test_systemd(bare: pytest.MonkeyPatch) -> None:
    """The process that a unit started is systemd's; a process in a terminal that a unit started is not."""
    bare.setenv("SYSTEMD_EXEC_PID", str(os.getpid()))
    assert somebody_elses_task() == "systemd"
    bare.setenv("SYSTEMD_EXEC_PID", str(os.getppid()))
    assert somebody_elses_task() is None


def test_kubernetes(bare: pytest.MonkeyPatch) -> None:
    """In a pod it is the kubelet's, even though that is a container as well."""
    bare.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    bare.setenv("container", "oci")
    assert somebody_elses_task() == "Kubernetes"


def test_container_by_variable(bare: pytest.MonkeyPatch) -> None:
    """Podman and systemd-nspawn say so in a variable."""
    bare.setenv("container", "podman")
    assert somebody_elses_task() == "the container runtime"


@pytest.mark.parametrize("mark", ["/.dockerenv", "/run/.containerenv"])
def test_container_by_file(bare: pytest.MonkeyPatch, mark: str) -> None:
    """Docker and Podman leave a file at a known place."""
    marks(bare, mark)
    assert somebody_elses_task() == "the container runtime"
