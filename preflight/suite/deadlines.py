"""Deadlines: each requirement's own, and the whole run's, kept by the process's alarm."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Generator
from types import FrameType

from preflight.settings.model import Settings

FOR_WARNINGS = 0.8  # of a run's time: warnings that hang must leave time for critical requirements


class DeadlineExceeded(BaseException):
    """A requirement ran past its deadline. No Exception: a requirement's own handlers must not catch it."""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.fix = fix
        """What to do about it; empty if not known."""


class Deadlines:
    """The deadlines of one run, which begins now."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pid = os.getpid()
        self._run_begun = time.monotonic()
        self._set_alarm: Callable[[], None] | None = None
        self._allowed = 0.0
        """Seconds beyond both deadlines that the port's holder may take to end."""

    def allow(self, seconds: float) -> None:
        """Extend the deadlines of the requirement that runs, of those after it and of the run by so many seconds."""
        self._allowed += seconds
        if self._set_alarm is not None:
            self._set_alarm()

    @contextlib.contextmanager
    def kept(self, begun: float, *, own: float | None = None, may_use_all: bool) -> Generator[None]:
        """Interrupt what runs inside at its own deadline or at the run's, whichever comes first.

        ``begun`` is when the requirement began, by `time.monotonic`; ``own`` is its deadline in seconds where that is
        not the setting's. A requirement that may not use all of the run's time is interrupted when `FOR_WARNINGS` of
        that time is over.
        """

        def left() -> tuple[float, str]:
            its_own = (self._settings.requirement_timeout if own is None else own) + self._allowed
            whole = self._settings.run_timeout + self._allowed
            said = f"ran past the whole run's deadline of {whole:g} s"
            if not may_use_all:
                whole *= FOR_WARNINGS
                said = f"ran past the {whole:g} s of the run in which warnings are checked"
            return min(
                (begun + its_own - time.monotonic(), f"ran past its deadline of {its_own:g} s"),
                (self._run_begun + whole - time.monotonic(), said),
            )

        def interrupt(_signal: int, _frame: FrameType | None) -> None:
            raise DeadlineExceeded(left()[1])

        def set_alarm() -> None:
            # Again every second: code that swallowed the first alarm is interrupted once more.
            signal.setitimer(signal.ITIMER_REAL, max(left()[0], 0.001), 1.0)

        # A parent, or an earlier requirement, may have blocked the alarm. One that has waited since then is dropped.
        before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
        signal.signal(signal.SIGALRM, interrupt)
        self._set_alarm = set_alarm
        in_time = left()[0] > 0
        set_alarm()
        try:
            yield
            remaining, said = left()
            if in_time and remaining <= 0:
                raise DeadlineExceeded(said)  # it has swallowed the interruption, or set an alarm of its own
        finally:
            if os.getpid() != self._pid:
                os._exit(1)  # a copy of us, which a requirement has forked and not ended: it would report as well
            self._set_alarm = None
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
