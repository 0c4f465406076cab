"""The clock of a launcher, which a test moves on: what takes long elsewhere takes no time in a test."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.e2e.place import Place, Started
from tests.waiting import until

# The clock is ahead by as many seconds as a file has bytes.
AHEAD = """
import os, time
real = time.monotonic
def monotonic():
    return real() + os.stat({file!r}).st_size
time.monotonic = monotonic
"""


def _file(place: Place) -> Path:
    return place.folder / "ahead"


def program(place: Place) -> str:
    """``run.py`` with a clock that :func:`move_on` moves."""
    _file(place).touch()
    return place.prepared(AHEAD.format(file=str(_file(place))))


def start(place: Place, *options: str, **environ: str) -> Started:
    """Start it; the clocks of the processes that it starts are their own."""
    return place.start_program(program(place), *options, **environ)


def move_on(place: Place, seconds: int) -> None:
    """Have time pass for the launcher."""
    os.truncate(_file(place), _file(place).stat().st_size + seconds)


def pause(place: Place, pids: Sequence[int], seconds: int) -> None:
    """Stop processes, and have time pass; they stay stopped."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    until(lambda: all(psutil.Process(pid).status() == psutil.STATUS_STOPPED for pid in pids), "they are stopped")
    move_on(place, seconds)
