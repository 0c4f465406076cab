"""When a crashed worker is started again, and when that is left to somebody else or given up."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from preflight.processes.restarts import CEILING, STEADY, Next, Origin, Restarts, after_crash, somebody_elses_task

READY = 1.0  # seconds that a worker was ready before it ended


def longest(_low: float, high: float) -> float:
    return high


def policy(*, limit: int = 5, window: float = 60.0, backoff: float = 0.5) -> Restarts:
    return Restarts(limit=limit, window=window, backoff=backoff, jitter=longest)


@pytest.mark.parametrize(
    "delay, others_serve, supervised, next_",
    [
        (0.5, False, True, Next(0.5)),
        (None, False, True, Next(None, ends=True)),
        (0.5, True, True, Next(0.5)),
        (None, True, True, Next(CEILING)),
        (0.5, False, False, Next(None, ends=True)),
        (0.5, True, False, Next(None)),
    ],
)
def test_after_a_crash(delay: float | None, others_serve: bool, supervised: bool, next_: Next) -> None:
    """The last worker ends the instance when nobody restarts it; while others serve, nothing ends the instance."""
    assert after_crash(delay, others_serve=others_serve, supervised=supervised) == next_


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

RUN = "/app/.venv/bin/python"


@pytest.mark.parametrize(
    "keeper, origin",
    [
        # A shell on a machine, whatever stands in the environment.
        (None, Origin(500, 400, first=("/sbin/init",))),
        (None, Origin(500, 400, first=("/sbin/init",), exec_pid="400")),
        # Adopted by a machine's PID 1: systemd, or whatever starts this virtual machine.
        (None, Origin(500, 1, first=("/lib/systemd/systemd", "--switched-root"), leads=True)),
        (None, Origin(500, 1, first=("/sbin/init",), with_first=True)),
        (None, Origin(500, 1, first=("/vm_agent", "--port", "1"), with_first=True)),
        (None, Origin(500, 1)),  # macOS, or /proc hides PID 1
        # A unit's main process.
        ("systemd", Origin(500, 1, first=("/sbin/init",), exec_pid="500", leads=True)),
        ("systemd", Origin(500, 300, first=("/sbin/init",), exec_pid="500")),  # of the user's own systemd
        ("systemd", Origin(500, 1, first=("/sbin/init",), exec_pid="500", kubernetes=True)),
        # PID 1 of a container.
        ("the container runtime", Origin(1, 0, first=(RUN, "run.py"))),
        ("Kubernetes", Origin(1, 0, first=(RUN, "run.py"), kubernetes=True)),
        # What its init started.
        ("the container runtime", Origin(7, 1, first=("/sbin/docker-init", "--", RUN, "run.py"), with_first=True)),
        ("Kubernetes", Origin(7, 1, first=("/usr/bin/tini", "--", RUN, "run.py"), with_first=True, kubernetes=True)),
        ("the container runtime", Origin(7, 1, first=("dumb-init", RUN, "run.py"), leads=True)),
        ("the container runtime", Origin(7, 1, first=("dumb-init", "--single-child", RUN), with_first=True)),
        (None, Origin(7, 1, first=("tini", "--", "sleep", "infinity"), leads=True)),
        ("the container runtime", Origin(7, 1, first=("/run/podman-init", "--", RUN), with_first=True)),
        ("the container runtime", Origin(7, 1, first=("catatonit", "--", RUN), with_first=True)),
        # What its script waits for.
        (
            "the container runtime",
            Origin(7, 1, first=("/bin/sh", "/entrypoint.sh"), with_first=True, beside_first=True),
        ),
        ("Kubernetes", Origin(7, 1, first=("sh", "-c", "x"), with_first=True, beside_first=True, kubernetes=True)),
        # In the background of that script, which may go on without it.
        (None, Origin(7, 1, first=("sh", "-c", "x & y"), with_first=True, beside_first=True, background=True)),
        (None, Origin(7, 1, first=("tini", "--", "y"), with_first=True, background=True)),
        # A container that runs something else: a shell that somebody opened in it (kubectl exec, docker exec), ...
        (None, Origin(80, 0, first=("sleep", "infinity"), kubernetes=True)),
        (None, Origin(80, 70, first=("sleep", "infinity"), kubernetes=True)),
        (None, Origin(80, 70, first=("/sbin/docker-init", "--", "sleep", "infinity"))),
        # ... a shell at a prompt as PID 1, where each command has a process group of its own, ...
        (None, Origin(80, 1, first=("bash",), with_first=True)),
        (None, Origin(80, 1, first=("bash", "-i"), with_first=True)),
        (None, Origin(80, 1, first=("sh", "-l"), with_first=True, beside_first=True)),  # without a terminal
        (None, Origin(80, 1, first=("-bash",), with_first=True, beside_first=True)),
        # ... and what was adopted when the shell that it was typed in had ended.
        (None, Origin(80, 1, first=("/sbin/docker-init", "--", "sleep", "infinity"))),
        (None, Origin(80, 1, first=("/bin/sh", "-c", "while sleep 1; do :; done"), leads=True)),
        (None, Origin(80, 1, first=("sleep", "infinity"), with_first=True, beside_first=True)),
    ],
)
def test_who_restarts_it(keeper: str | None, origin: Origin) -> None:
    """Only the process that a unit or a container was started for is restarted by somebody else."""
    assert somebody_elses_task(origin) == keeper


def test_this_process() -> None:
    """What is asked for is what the system says: these tests run in nobody's unit and are no container's PID 1."""
    origin = Origin.of_this_process()
    assert (origin.pid, origin.parent) == (os.getpid(), os.getppid())
    if Path("/proc/1/cmdline").exists():
        assert origin.first
    assert origin.leads == (os.getsid(0) == os.getpid())
    assert not origin.background
