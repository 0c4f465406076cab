"""Whether a worker's event loop still runs: the worker says so a few times in each period, and its launcher listens.

Silence alone proves nothing. It is believed where the launcher was awake all the time to hear something: not after the
machine or the launcher itself was suspended, and not while a debugger holds the worker.
"""

from __future__ import annotations

import sys

BEATS = 5  # that a worker gives in one period: some of them may be late on a machine that is busy
LOOK = 0.5  # seconds between two looks of the launcher, or a quarter of the period, if that is less


def interval(*periods: float) -> float:
    """Seconds between two signs of life of a worker that must give some in each of these periods; 0: none."""
    return min(filter(None, periods), default=0.0) / BEATS


class Awake:
    """Counts the seconds in which this process was awake, so that its own pauses are in none of its deadlines.

    Of the time between two looks, ``2 * LOOK`` counts at most, as much as between two looks that are late. On a machine
    so busy that every look is later than that, deadlines run out later, but they do.
    """

    def __init__(self, now: float) -> None:
        self._looked, self._asleep = now, 0.0

    def at(self, now: float) -> float:
        """The time without pauses; to be asked at every look."""
        self._asleep += max(0.0, now - self._looked - 2 * LOOK)
        self._looked = now
        return now - self._asleep


class Heartbeat:
    """One worker's signs of life, judged on the monotonic clock, which stops while the machine is suspended."""

    def __init__(self, period: float, now: float) -> None:
        """``period``: seconds of silence after which a worker hangs; 0: never. The first period begins now."""
        self.period = period
        self._heard = self._looked = now

    @property
    def look(self) -> float:
        """Seconds until the next look at the latest."""
        return min(LOOK, self.period / 4) if self.period else LOOK

    def heard(self, now: float) -> None:
        """The worker gave a sign of life, or has a reason to give none: a new period begins."""
        self._heard = max(self._heard, now)

    def missed(self, now: float) -> bool:
        """Whether a whole period has passed in silence; to be asked at every look."""
        if now - self._looked > max(2 * self.look, self.period / 4):  # a shorter delay is that of a busy machine
            self._heard = now  # this process was not awake: what was sent meanwhile is still to be heard
        self._looked = now
        return self.period > 0 and now - self._heard > self.period


def state(pid: int) -> tuple[bool, bool]:
    """Whether a process is stopped by a signal, and whether a debugger traces it; neither if that is unknown."""
    if sys.platform != "linux":
        return False, False
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            said = dict(line.partition(":")[::2] for line in file)
    except OSError:
        return False, False
    return said.get("State", "").strip().startswith("T"), said.get("TracerPid", "0").strip() != "0"
