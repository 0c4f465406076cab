"""When silence is believed, on a clock of the test's own; and where a real process stands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from preflight.processes import heartbeat, stacks
from preflight.processes.heartbeat import BEATS, Heartbeat
from tests.waiting import until


def watched(period: float, until: float, beats: float, *, asleep: tuple[float, float] = (0, 0)) -> float | None:
    """When a worker is given up whose last beat comes at ``beats``, by a launcher that sleeps for a while."""
    one, now = Heartbeat(period, 0.0), 0.0
    last = 0.0
    while now < until:
        now = asleep[1] if asleep[0] < now < asleep[1] else now + one.look
        if now <= beats and now - last >= period / BEATS:
            last = now
            one.heard(now)
        if one.missed(now):
            return now
    return None


@pytest.mark.parametrize("period", [1.0, 2.0, 60.0])
def test_silence(period: float) -> None:
    """A worker that beats is never given up; one that stops is, within one look after a whole period."""
    assert watched(period, 20 * period, 20 * period) is None
    given_up = watched(period, 20 * period, 5 * period)
    assert given_up is not None
    assert 5.7 * period <= given_up <= 6 * period + 1


def test_off() -> None:
    """A period of 0 is none."""
    assert watched(0.0, 100.0, 0.0) is None


@pytest.mark.parametrize("period", [1.0, 60.0])
def test_launcher_was_asleep(period: float) -> None:
    """After a sleep of the launcher's own the worker has a whole period again, and no more than that."""
    given_up = watched(period, 30 * period, 0.0, asleep=(0.5 * period, 10 * period))
    assert given_up is not None
    assert 11 * period < given_up <= 11 * period + 1


def test_short_naps_are_none() -> None:
    """A launcher that is a little late is awake: who hangs is found out in time on a busy machine, too."""
    one = Heartbeat(60.0, 0.0)
    assert not any(one.missed(look * 0.9) for look in range(67))
    assert one.missed(67 * 0.9)


HANGS = """
import asyncio, sys, threading, time
from preflight.processes import stacks
stacks.register()

def sleeps_in_a_thread():
    time.sleep(3600)

async def waits():
    await asyncio.Event().wait()

async def main():
    task = asyncio.create_task(waits(), name="a task")
    threading.Thread(target=sleeps_in_a_thread, daemon=True).start()
    await asyncio.sleep(0)
    stacks.write_tasks(asyncio.get_running_loop())
    print("ready", flush=True)
    while True:
        pass

asyncio.run(main())
"""


@pytest.fixture
def hanging() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", HANGS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as it:
        assert it.stdout is not None
        assert it.stdout.readline() == "ready\n"
        yield it
        it.kill()


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [False, True])
def test_stacks(hanging: subprocess.Popen[str], stopped: bool) -> None:
    """A process that hangs writes where its threads stand, the main one first, and goes on; a stopped one as well."""
    if stopped:
        os.kill(hanging.pid, signal.SIGSTOP)
        if sys.platform == "linux":
            until(lambda: heartbeat.state(hanging.pid) == (True, False), "it is stopped")
    stacks.ask(hanging.pid)
    lines: list[str] = []
    assert hanging.stderr is not None
    while "in <module>" not in "".join(lines):
        lines.append(hanging.stderr.readline().rstrip("\n"))
    lines.append("printed by somebody")
    lines.append('  File "printed.py", line 3, in a_traceback')
    shown = stacks.arranged(line for line in lines if stacks.is_line(line))
    assert "thread 0x" in shown[0].lower()
    assert "in main" in shown[1]
    text = "\n".join(shown)
    assert text.index("in main") < text.index("Task 'a task'") < text.index("in sleeps_in_a_thread")
    assert "in waits" in text
    assert "printed" not in text
    assert not stacks.in_debugger(shown)
    assert hanging.poll() is None


def test_not_too_much() -> None:
    """Of very many threads the first lines are shown, and how many more there are."""
    lines = [f"Thread 0x{number:016x} (most recent call first):" for number in range(500)]
    shown = stacks.arranged(lines)
    assert len(shown) == stacks.MOST
    assert shown[-1] == f"and {500 - stacks.MOST + 1} more lines"
