"""Checks that are repeated: ``--wait`` until nothing blocks, ``--watch`` for as long as somebody looks.

Every round is a whole run of its own, as a check: it stops nothing, holds no port and takes no lock, however
long this lasts. The settings are read again each time, so an env file that appears meanwhile counts.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from preflight.launcher.launcher import Launcher, Stopped
from preflight.output.publishing import Unpublishable
from preflight.processes.loop import Loop
from preflight.report import history
from preflight.settings.model import Settings, SettingsError
from preflight.times import clock

if TYPE_CHECKING:
    from preflight.output.terminal import Terminal
    from preflight.processes.suite import Result
    from preflight.report.model import Report

PAUSE = 1.0  # seconds between two rounds of waiting
SHOWN = 8  # changes that stay on the screen

Load = Callable[[], Settings]
"""Reads the settings as they are now. Raises SettingsError."""


class Make(Protocol):
    """Makes the launcher of one round."""

    def __call__(self, settings: Settings, *, patient: bool, terminal: Terminal | None) -> Launcher: ...


class Rounds:
    """One run after the other, all on one terminal, and what changed between them."""

    def __init__(self, load: Load, make: Make) -> None:
        self._load = load
        self._make = make
        self._past: list[history.Run] = []  # newest first
        self._last: Launcher | None = None
        self._complaint = ""
        self.loop = Loop()

    def launcher(self, *, patient: bool = True) -> Launcher:
        """The next round's launcher, with the settings of now. Raises SettingsError."""
        settings = self._load()
        self._complaint = ""
        return self._launcher(settings, patient=patient)

    def launcher_in_time(self, until: float) -> Launcher:
        """The next round's launcher, as soon as the settings can be used; patient for as long as there is time.

        Raises SettingsError if they cannot be used until then, Stopped when a signal asks to stop.
        """
        while True:
            try:
                return self.launcher(patient=time.monotonic() < until)
            except SettingsError as error:
                left = until - time.monotonic()
                if self._last is None or left <= 0:
                    raise
                self._complain("waiting for settings that can be used", error)
                self._last.terminal.doing(f"Waiting for settings that can be used, {left:.0f} s left")
                self.pause(min(PAUSE, left))

    def launcher_at_once(self) -> Launcher:
        """The next round's launcher, with the settings of the last one where those of now cannot be used.

        Raises SettingsError if there was none.
        """
        try:
            return self.launcher()
        except SettingsError as error:
            if self._last is None:
                raise
            self._complain("keeping the previous settings", error)
            return self._launcher(self._last.settings, patient=True)

    def _launcher(self, settings: Settings, *, patient: bool) -> Launcher:
        terminal = self._last.terminal if self._last is not None else None
        self._last = self._make(settings, patient=patient, terminal=terminal)
        return self._last

    def _complain(self, what: str, error: SettingsError) -> None:
        """Say what is wrong with the settings, once for as long as it is."""
        if self._last is not None and str(error) != self._complaint:
            self._complaint = str(error)
            at = f"{clock()} "
            self._last.terminal.line(f"{at}{what}: {error}", "yellow", indent=len(at))

    def close(self) -> None:
        """Leave the terminal in order, and let go of the loop."""
        if self._last is not None:
            self._last.terminal.progress_over()
        self.loop.close()

    def publish(self, launcher: Launcher, found: Report) -> list[str]:
        """Publish a round's report and tell what is new in it, a line each. Raises Unpublishable.

        It is kept only if something is new: else an hour of looking would fill the history.
        """
        run = history.Run.of(found)
        lines = []
        if self._past:
            for flip in history.flips([run, *self._past])[0]:
                why = run.checks[flip.title].message
                lines.append(f"{flip.title}: {flip.before} -> {flip.after}{f' ({why})' if why else ''}")
        if not self._past or _verdict(run) != _verdict(self._past[0]):
            lines.append(_verdict(run))
        launcher.publish(found, keep=bool(lines))
        # One that broke says nothing of the checks: what the one before it said still counts.
        self._past = [run, *[past for past in self._past if past.checks][:1]]
        return lines

    def pause(self, seconds: float) -> None:
        """Wait; raises Stopped when a signal asks to stop."""
        end = time.monotonic() + seconds
        while not self.loop.stops and (left := end - time.monotonic()) > 0:
            self.loop.turn(left)
        if self.loop.stops:
            raise Stopped(self.loop.stops[0])


def _verdict(run: history.Run) -> str:
    if run.status == "broken":
        return f"the preflight itself broke: {run.reason}"
    return f"blocked by {', '.join(run.blocking)}" if run.blocking else "nothing blocks"


def _line(terminal: Terminal, text: str) -> None:
    """A line with the time before it, under whose text it goes on where the terminal is too narrow."""
    at = f"{clock()} "
    terminal.line(f"{at}{text}", indent=len(at))


def wait(load: Load, make: Make, seconds: float, *, start: bool) -> int:
    """Check until nothing blocks, for so many seconds at most, then start or say how it is; returns the exit code.

    The first and the last try are what was asked for, a start or a check. Settings that are wrong meanwhile are
    waited for as well: nothing is started with others than those of now. Raises SettingsError if they are in the end.
    """
    until = time.monotonic() + seconds
    rounds = Rounds(load, make)
    try:
        launcher = rounds.launcher(patient=seconds > 0)
        while True:
            code = launcher.start() if start else launcher.check()
            if not launcher.undecided or launcher.result is None:
                return code
            with rounds.loop.running():
                launcher, result = _until_nothing_blocks(rounds, launcher, launcher.result, until)
                if result.exit_code == 0 and start:
                    launcher = rounds.launcher_in_time(until)
                    continue
            launcher.give_up(result)
            if start:
                launcher.refused(result.exit_code)
                with rounds.loop.running():
                    launcher.tell_refused(result, rounds.loop)
            return result.exit_code
    except Stopped as stopped:
        launcher.terminal.progress_over()
        launcher.terminal.line(f"Stopped by {stopped}; nothing was started.")
        return 128 + stopped.number
    except Unpublishable as error:
        launcher.terminal.progress_over()
        launcher.unwritten(error)
        if start:
            launcher.refused(3)
        return 3
    finally:
        rounds.close()


def _until_nothing_blocks(rounds: Rounds, launcher: Launcher, result: Result, until: float) -> tuple[Launcher, Result]:
    """Rounds after one that blocked; returns the last one."""
    terminal = launcher.terminal
    while True:
        for line in rounds.publish(launcher, result.report):
            _line(terminal, line)
        left = until - time.monotonic()
        if result.exit_code == 0 or left <= 0:
            terminal.progress_over()
            return launcher, result
        terminal.doing(f"Waiting for {_awaited(result)}, {left:.0f} s left")
        rounds.pause(min(PAUSE, left))
        launcher = rounds.launcher_in_time(until)
        result = launcher.examine()
        if result.exit_code == 2:
            terminal.progress_over()
            return launcher, result


def _awaited(result: Result) -> str:
    return ", ".join(check.title for check in result.report.blocking) or "a suite that does not break"


def watch(load: Load, make: Make, seconds: float) -> int:
    """Check again and again, with so many seconds between, and show what changes until somebody stops it.

    Returns the exit code that the last round would have had. Raises SettingsError if the first one cannot begin.
    """
    rounds = Rounds(load, make)
    launcher = rounds.launcher()
    terminal = launcher.terminal
    log: deque[str] = deque(maxlen=SHOWN)
    code: int | None = None
    try:
        with rounds.loop.running():
            while True:
                result = launcher.examine()
                if result.exit_code == 2:
                    terminal.progress_over()
                    launcher.conclude(result)
                    return 2
                code = result.exit_code
                _show(terminal, launcher, result, rounds.publish(launcher, result.report), log, seconds)
                rounds.pause(seconds)
                launcher = rounds.launcher_at_once()
    except Stopped as stopped:
        return 128 + stopped.number if code is None else code
    except Unpublishable as error:
        terminal.progress_over()
        launcher.unwritten(error)
        return 3
    finally:
        rounds.close()


def _show(
    terminal: Terminal, launcher: Launcher, result: Result, changes: list[str], log: deque[str], seconds: float
) -> None:
    if not terminal.animated:
        for line in changes:
            _line(terminal, line)
        return
    from preflight.report import banners

    log.extend(f"{clock()} {line}" for line in changes)
    head = f"{launcher.settings.address} · {clock()} · every {seconds:g} s · Ctrl-C ends"
    height = terminal.console.height
    terminal.screen(banners.Watched(result.report, log, head, plain=terminal.plain, height=height))
