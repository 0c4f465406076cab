"""When a crashed worker is started again, and when that is given up.

The numbers are settings. Their defaults are between systemd's (100 ms, 5 starts in 10 s) and
Kubernetes' (10 s doubling to 5 min): a developer waits for it, and a crash loop must not burn a processor.
"""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path

CEILING = 30.0  # seconds; the longest back-off
STEADY = 60.0  # seconds of being ready after which earlier failures are forgotten


class Restarts:
    """The failures of one instance's workers so far."""

    def __init__(
        self,
        *,
        limit: int,
        window: float,
        backoff: float,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._limit = limit
        self._window = window
        self._backoff = backoff
        self._jitter = jitter
        self._failures: deque[float] = deque(maxlen=limit)
        self._in_a_row = 0
        self._never_ready = 0

    def failed(self, now: float, ready_for: float | None) -> float | None:
        """Note a worker's end; returns the seconds to wait before the next one, None to give up.

        ``ready_for`` is how long (seconds) the worker was ready, None if it never was.
        """
        self._never_ready = self._never_ready + 1 if ready_for is None else 0
        if ready_for is not None and ready_for >= STEADY:
            self._in_a_row = 0
            self._failures.clear()
        self._failures.append(now)
        self._in_a_row += 1
        often = len(self._failures) == self._limit and now - self._failures[0] <= self._window
        if often or self._never_ready == 2:
            return None
        if self._in_a_row == 1:
            return 0.0  # the first one at once: most crashes are single
        wait = min(CEILING, self._backoff * 2.0 ** (self._in_a_row - 2))
        return self._jitter(wait / 2, wait)


def somebody_elses_task() -> str | None:
    """Who else restarts this process when it ends ("systemd", "Kubernetes", "the container runtime"), if anybody.

    Two supervisors on top of each other fight, so ours is off where there is one.
    """
    # Inherited variables do not count: a terminal may itself run in a unit.
    if os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid()):
        return "systemd"
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "Kubernetes"
    if "container" in os.environ or Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return "the container runtime"
    return None
