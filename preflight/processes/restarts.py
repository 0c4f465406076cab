"""When a crashed worker is started again, and when that is given up, or left to somebody else.

The numbers are settings. Their defaults are between systemd's (100 ms, 5 starts in 10 s) and
Kubernetes' (10 s doubling to 5 min): a developer waits for the restart, and a crash loop must not burn a processor.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

CEILING = 30.0  # seconds; the longest back-off
STEADY = 60.0  # seconds of being ready after which earlier failures are forgotten


class Restarts:
    """The failures of the workers of one slot so far."""

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
        if often or self._never_ready >= 2:
            return None
        if self._in_a_row == 1:
            return 0.0  # the first one at once: most crashes are single
        wait = min(CEILING, self._backoff * 2.0 ** (self._in_a_row - 2))
        return self._jitter(wait / 2, wait)


class Next(NamedTuple):
    """What becomes of a slot whose worker has crashed."""

    delay: float | None
    """Seconds until its next worker is started; None if none is."""
    ends: bool = False
    """Whether the instance ends."""


def after_crash(delay: float | None, *, others_serve: bool, supervised: bool) -> Next:
    """``delay`` is from :meth:`Restarts.failed`; ``others_serve``: the instance is ready, and has other workers.

    While others serve, another start now and then costs little; giving up would end the server for everybody.
    """
    if others_serve:
        wait = CEILING if delay is None else delay
        return Next(wait if supervised else None)
    return Next(delay, ends=delay is None) if supervised else Next(None, ends=True)


SYSTEMD, KUBERNETES, CONTAINER_RUNTIME = "systemd", "Kubernetes", "the container runtime"
CONTAINERS = (KUBERNETES, CONTAINER_RUNTIME)
"""The runtimes that end a container when its main process ends."""
INITS = frozenset({"tini", "tini-static", "docker-init", "podman-init", "dumb-init", "catatonit"})
"""Programs that do nothing as a container's PID 1 but start one process and end with it."""
SHELLS = frozenset({"sh", "ash", "bash", "dash", "busybox", "ksh", "zsh"})
SETS_SESSION = "dumb-init"
"""The one of them that gives its process a session of its own, unless it is told not to."""


class Origin(NamedTuple):
    """Where this process comes from: what tells whether somebody restarts it when it ends."""

    pid: int
    parent: int
    exec_pid: str = ""
    """SYSTEMD_EXEC_PID, in the environment of all descendants: the PID of the process that systemd started."""
    first: tuple[str, ...] = ()
    """The command line of PID 1; empty if it cannot be read."""
    with_first: bool = False
    """Whether this process is in the session of PID 1; one that PID 1 has adopted hardly ever is."""
    beside_first: bool = False
    """Whether it is in the process group of PID 1: a shell at a prompt gives each command one of its own."""
    leads: bool = False
    """Whether it leads a session of its own."""
    background: bool = False
    """Whether it began with SIGINT ignored: a shell without a prompt does that to what it does not wait for."""
    kubernetes: bool = False

    @classmethod
    def of_this_process(cls) -> Origin:
        """Its present state: ask before signals are handled, and before the parent that has started us is gone."""
        pid = os.getpid()
        first: tuple[str, ...] = ()
        with_first = beside_first = False
        with contextlib.suppress(OSError):  # not Linux, or somebody else's process is hidden
            words = Path("/proc/1/cmdline").read_bytes().split(b"\0")
            first = tuple(os.fsdecode(word) for word in words if word)
            with_first, beside_first = os.getsid(0) == os.getsid(1), os.getpgid(0) == os.getpgid(1)
        return cls(
            pid=pid,
            parent=os.getppid(),
            exec_pid=os.environ.get("SYSTEMD_EXEC_PID", ""),
            first=first,
            with_first=with_first,
            beside_first=beside_first,
            leads=os.getsid(0) == pid,
            background=signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
            kubernetes="KUBERNETES_SERVICE_HOST" in os.environ,
        )

    @property
    def is_the_containers(self) -> bool:
        """Whether the container ends when this process does, as far as that can be known.

        A container alone says nothing: in a development container, in a toolbox or in a shell that somebody has
        opened in a pod, nobody restarts anything. In doubt, nobody does.
        """
        if self.pid == 1:
            return True
        if self.parent != 1 or not self.first or self.background:
            return False  # a parent of 0: the runtime put it into a container that runs something else
        name = os.path.basename(self.first[0])
        if name in INITS:
            # A process that is adopted after its parent's death has kept its parent's session.
            return self.with_first or (name == SETS_SESSION and self.leads)
        # A script or "sh -c" that waits for this command; neither a prompt nor "run.py & sleep infinity".
        is_script = name in SHELLS and not is_at_a_prompt(self.first)
        return is_script and self.with_first and self.beside_first


def is_at_a_prompt(argv: Sequence[str]) -> bool:
    """Whether a command line is that of a shell without a script: one that asks somebody for commands."""
    name, *options = argv
    return os.path.basename(name).lstrip("-") in SHELLS and all(
        one.startswith("--") or (one.startswith("-") and "c" not in one) for one in options
    )


def somebody_elses_task(origin: Origin) -> str | None:
    """Who else restarts this process when it ends ("systemd", "Kubernetes", "the container runtime"), if anybody.

    Two supervisors of one process would work against each other. So ours is off if there is another one, which is so
    if a unit or a container was started for this very process.
    """
    # The variable is inherited by a terminal, say, that runs in a unit, and by all that is started there.
    if origin.exec_pid == str(origin.pid):
        return SYSTEMD
    if not origin.is_the_containers:
        return None
    return KUBERNETES if origin.kubernetes else CONTAINER_RUNTIME
