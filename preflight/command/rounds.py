"""Checks that are repeated: ``--wait`` until nothing blocks, ``--watch`` until a signal ends it.

Every round is a whole run of its own, as a check: it stops nothing, holds no port and takes no lock, however
long this lasts. The settings are read again each time, so an env file that appears meanwhile counts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from preflight import project
from preflight.launcher.checks import Checks, Stopped
from preflight.launcher.shown import Display
from preflight.ports.activation import Inherited
from preflight.processes.loop import Loop
from preflight.processes.suite import RunResult
from preflight.report import history
from preflight.report.model import Report
from preflight.settings.fields import SettingsError
from preflight.settings.loading import load
from preflight.times import clock

PAUSE = 1.0  # seconds between two rounds of waiting


class Rounds:
    """One run after the other, all on one terminal, and what changed between them."""

    def __init__(
        self, options: Mapping[str, object], loop: Loop, display: Display, activated: Inherited | None = None
    ) -> None:
        """``options`` are the settings that were typed; the display has those that count now.

        ``activated`` is the listening socket that systemd has given to the start that is waited for.
        """
        self.loop = loop
        self.display = display
        self._options = options
        self._activated = activated
        self._past: list[history.Run] = []  # newest first
        self._complaint = ""

    def check(self) -> RunResult:
        """Run one round, and show nothing of it. Raises Stopped when a signal asks to stop."""
        checks = Checks(self.display.settings, self._options, "check", loop=self.loop, display=self.display)
        try:
            return checks.run(inherited=self._activated)
        finally:
            checks.close()

    def until_nothing_blocks(self, result: RunResult, until: float) -> RunResult:
        """Check again while something blocks, until that moment at most; returns the last result.

        ``result`` is that of the run before. Settings that have become wrong are waited for as well. Raises
        SettingsError if they stay wrong, Stopped, Unpublishable.
        """
        terminal = self.display.terminal
        while True:
            for line in self.publish(result.report):
                self.say(line)
            left = until - time.monotonic()
            if result.exit_code == 0 or left <= 0:
                break
            terminal.doing(f"Waiting for {_awaited(result)}, {left:.0f} s left")
            self.display.status(f"Not started: waiting for {_awaited(result)}")
            self.pause(min(PAUSE, left))
            self.reload_in_time(until)
            result = self.check()
            if result.exit_code == 2:
                break
        terminal.progress_over()
        return result

    def publish(self, report: Report) -> list[str]:
        """Publish a round's report, and print what is new in it, one line for each change. Raises Unpublishable.

        It is kept only if something is new: else an hour of looking would fill the history.
        """
        run = history.Run.of(report)
        lines = []
        if self._past:
            for flip in history.flips([run, *self._past])[0]:
                why = run.checks[flip.title].message
                lines.append(f"{flip.title}: {flip.before} -> {flip.after}{f' ({why})' if why else ''}")
        if not self._past or _verdict(run) != _verdict(self._past[0]):
            lines.append(_verdict(run))
        self.display.publish(report, keep=bool(lines))
        # A run that broke says nothing about the checks: what the run before it said still counts.
        self._past = [run, *[past for past in self._past if past.checks][:1]]
        return lines

    def say(self, text: str, style: str = "") -> None:
        """Print a line with the time before it; what does not fit on the terminal goes on below the text."""
        at = f"{clock()} "
        self.display.terminal.line(f"{at}{text}", style, indent=len(at))

    def pause(self, seconds: float) -> None:
        """Wait. Raises Stopped when a signal asks to stop."""
        self.display.service.goes_on()
        end = time.monotonic() + seconds
        while not self.loop.stops and (left := end - time.monotonic()) > 0:
            self.loop.turn(left)
        if self.loop.stops:
            raise Stopped(self.loop.stops[0])

    # Settings of now.

    def reload_in_time(self, until: float) -> None:
        """Read the settings again, and wait until they can be used: nothing is started with outdated ones.

        Raises SettingsError if they cannot be used by ``until``, Stopped when a signal asks to stop.
        """
        while True:
            try:
                self._reload()
                return
            except SettingsError as error:
                left = until - time.monotonic()
                if left <= 0:
                    raise
                self._complain("waiting for valid settings", error)
            self.display.terminal.doing(f"Waiting for valid settings, {left:.0f} s left")
            self.display.status("Not started: waiting for valid settings")
            self.pause(min(PAUSE, left))

    def reload_or_keep(self) -> None:
        """Read the settings again; where they cannot be used, those of the round before still count."""
        try:
            self._reload()
        except SettingsError as error:
            self._complain("keeping the previous settings", error)

    def _reload(self) -> None:
        self.display.follow(load(project.of_command(), options=self._options))
        self._complaint = ""

    def _complain(self, what: str, error: SettingsError) -> None:
        """Say what is wrong with the settings, once for each mistake."""
        if str(error) != self._complaint:
            self._complaint = str(error)
            self.say(f"{what}: {error}", "yellow")


def _verdict(run: history.Run) -> str:
    if run.status == "broken":
        return f"the check suite itself failed: {run.reason}"
    return f"blocked by {', '.join(run.blocking)}" if run.blocking else "nothing blocks"


def _awaited(result: RunResult) -> str:
    return ", ".join(check.title for check in result.report.blocking) or "a suite that completes"
