"""What the workers of one instance count, in memory that they share: each writes its own column, and reads all.

A worker's numbers outlive it. What it was busy with is cleared when it has ended; what it has counted stays, and the
worker after it goes on counting there, so that a counter of the instance never goes back. The file has no name, and is
gone with the last process that has it open.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

from preflight import files

GAUGES = ("pid", "connections", "sessions", "requests")
"""A worker's PID, and what it is busy with, one row each; 0 if there is no worker."""
COUNTERS = 256  # rows beyond those, which the application's counters share
SLOTS = 4096  # pairs of rows beyond those: how often something was tried, and when last, for what falls into each slot
_HEAD = 2  # cells: how many workers are ready, and whether the one-time code was used
_CELL = 8  # bytes of a double, in which every whole number up to 2**53 is exact


class Board:
    """The board as one worker sees it, or the launcher (which is number 0 and has no column)."""

    def __init__(self, cells: memoryview[float], number: int, workers: int, descriptor: int = -1) -> None:
        """``cells`` are doubles; see :meth:`alone`, :meth:`made` and :meth:`attached`."""
        self.number, self.workers, self.descriptor = number, workers, descriptor
        self._cells = cells
        self._taken = len(GAUGES)

    @classmethod
    def alone(cls) -> Board:
        """The board of a server's only process: no other process reads it."""
        board = cls(memoryview(bytearray(_size(1))).cast("d"), 1, 1)
        board.ready = 1
        return board

    @classmethod
    def made(cls, workers: int, folder: Path) -> Board:
        """In the launcher. ``folder``: for the file, where the system has no files without a name. Raises OSError."""
        descriptor = _without_a_name(folder)
        try:
            os.ftruncate(descriptor, _size(workers))
            return cls.attached(descriptor, 0, workers)
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def attached(cls, descriptor: int, number: int, workers: int) -> Board:
        """In worker ``number`` of so many, counted from one; the descriptor is the board's from now on."""
        return cls(memoryview(mmap.mmap(descriptor, _size(workers))).cast("d"), number, workers, descriptor)

    def close(self) -> None:
        """Close the file; the memory stays readable in this process."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    # What each worker is busy with.

    def publish(self, gauges: Sequence[float]) -> None:
        """Publish what this worker is busy with, in the order of GAUGES, without the PID, which is known here."""
        for row, value in enumerate((os.getpid(), *gauges)):
            self._cells[self._cell(row, self.number)] = value

    def clear(self, number: int) -> None:
        """Worker ``number`` has ended, and is busy with nothing."""
        for row in range(len(GAUGES)):
            self._cells[self._cell(row, number)] = 0

    def others(self, gauge: str) -> int:
        """What the other workers are busy with, as they have published it."""
        if self.workers == 1:
            return 0
        row = GAUGES.index(gauge)
        return int(self._total(row) - self._cells[self._cell(row, self.number)])

    @property
    def pids(self) -> dict[int, int]:
        """The PIDs of the workers that have published something, by number."""
        numbers = range(1, self.workers + 1)
        found = {number: int(self._cells[self._cell(0, number)]) for number in numbers}
        return {number: pid for number, pid in found.items() if pid}

    @property
    def missing(self) -> int:
        """How many workers do not serve, as far as a serving worker knows."""
        return self.workers - max(1, self.ready)

    @property
    def ready(self) -> int:
        """How many workers accept connections, as the launcher knows it."""
        return int(self._cells[0])

    @ready.setter
    def ready(self, count: int) -> None:
        self._cells[0] = count

    # What each has counted.

    def counters(self, count: int) -> Counters:
        """Rows for so many counters. Every worker has to ask for the same ones, in the same order.

        Raises ValueError if there is no room for them.
        """
        first, self._taken = self._taken, self._taken + count
        if self._taken > len(GAUGES) + COUNTERS:
            raise ValueError(f"the workers share {COUNTERS} counters at most")
        return Counters(self, first, count)

    def add(self, row: int, amount: float) -> None:
        """Add to this worker's count."""
        self._cells[self._cell(row, self.number)] += amount

    def total(self, row: int) -> float:
        """What all workers have counted."""
        return self._total(row)

    def _total(self, row: int) -> float:
        return sum(self._cells[self._cell(row, 1) : self._cell(row, self.workers + 1)])

    def _cell(self, row: int, number: int) -> int:
        return _HEAD + row * self.workers + number - 1

    # What is tried again and again.

    def tried(self, slot: int, now: float, forget: float) -> int:
        """How often this was tried before, in whatever worker; this try counts from now on.

        ``now`` is on the monotonic clock, which all workers share. Each worker forgets its own tries ``forget`` seconds
        after the last one.
        """
        row = len(GAUGES) + COUNTERS + 2 * slot
        tries = self._cells[self._cell(row, 1) : self._cell(row + 1, 1)]
        lasts = self._cells[self._cell(row + 1, 1) : self._cell(row + 2, 1)]
        counts = [int(count) if now - last <= forget else 0 for count, last in zip(tries, lasts, strict=True)]
        tries[self.number - 1], lasts[self.number - 1] = counts[self.number - 1] + 1, now
        return sum(counts)

    # What happens once.

    def claim(self) -> bool:
        """Whether this is the first call, in whatever worker."""
        if self.descriptor < 0:
            first, self._cells[1] = not self._cells[1], 1.0
            return first
        fcntl.lockf(self.descriptor, fcntl.LOCK_EX)
        try:
            first, self._cells[1] = not self._cells[1], 1.0
        finally:
            fcntl.lockf(self.descriptor, fcntl.LOCK_UN)
        return first


class Counters:
    """Some counters of the instance, of which each worker counts a part."""

    def __init__(self, board: Board, first: int, count: int) -> None:
        self._board = board
        self._rows = range(first, first + count)

    def add(self, index: int, amount: float = 1.0) -> None:
        """Add ``amount`` to the counter with this index."""
        self._board.add(self._rows[index], amount)

    @property
    def totals(self) -> list[float]:
        """What all workers have counted, including those that have ended."""
        return [self._board.total(row) for row in self._rows]


def _without_a_name(folder: Path) -> int:
    """A descriptor of a file that nobody else can open."""
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):  # a sandbox may refuse it
            return os.memfd_create("preflight-board")
    path = folder / f"board-{os.getpid()}"
    descriptor = files.new(path)
    path.unlink()
    return descriptor


def _size(workers: int) -> int:
    """Bytes of a board."""
    return (_HEAD + (len(GAUGES) + COUNTERS + 2 * SLOTS) * workers) * _CELL
