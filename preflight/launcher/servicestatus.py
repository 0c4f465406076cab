"""What the service manager is told about an instance: that it is ready, its status, that its workers live, its end.

systemd shows the status in `systemctl status`, and restarts a service whose watchdog gets no sign of life. There are
two watchdogs then: ours (`watchdog`) looks at a worker, and ends one that hangs; systemd's looks at whether the service
lives, including this launcher. It is fed with the workers' own signs of life, and with nothing else: of several
workers, the one that is behind counts. While the only worker starts again, there are no signs of life: the period of
systemd's watchdog is then the time that the launcher itself gives to that start.
"""

from __future__ import annotations

from collections.abc import Iterable

from preflight.launcher.shown import Display
from preflight.processes.servicemanager import EXTENSION, LONGEST
from preflight.report.newest import Judged
from preflight.settings.model import Settings


class ServiceStatus:
    """The status of one instance, from the verdict to its end."""

    def __init__(self, settings: Settings, display: Display) -> None:
        self._settings = settings
        self._display = display
        self._service = display.service
        self._ready = False

    def starts(self, doing: str) -> None:
        """The start goes on; ``doing`` is what it waits for, in words."""
        if self._service:
            self._service.goes_on()
            self._display.status(f"Checked; {doing}" if doing else "Checked; the server is starting")

    def serves(self, judged: Judged) -> None:
        """The instance serves, with this verdict; the first call means that it is ready."""
        if not self._service:
            return
        status = _serving(self._settings, judged)
        if self._ready:
            self._display.status(status)
            return
        self._ready = True
        self._service.ready(self._display.redacted(status))
        if self._service.problem:
            self._display.terminal.line(self._service.problem, "yellow")

    def lives(self, signs: Iterable[float]) -> None:
        """``signs``: when each worker that can give one gave its last sign of life, on the monotonic clock."""
        self._service.feed(signs)

    def restarts(self, what: str, delay: float, *, beside: bool) -> None:
        """Another worker starts in ``delay`` seconds; ``what`` says what has happened. ``beside``: others serve."""
        if not self._service:
            return
        if not beside:
            within = delay + self._settings.restart_window + (self._settings.startup_timeout or LONGEST)
            self._service.expect_none(within)
        self._service.allow(delay + EXTENSION)
        self._display.status(what)

    def ends(self, why: str, within: float) -> None:
        """The instance accepts nothing new, and will have ended in ``within`` seconds at most."""
        if self._service:
            text = f"{why} Accepted work is being finished, within {within:g} s."
            self._service.stopping(self._display.redacted(text), within)

    def gives_up(self, why: str) -> None:
        """No worker is started any more."""
        self._display.status(why)


def _serving(settings: Settings, judged: Judged) -> str:
    """The status of a server that works, for people: where it serves, and the state of its checks."""
    where, report = f"Serving {settings.address}", judged.report
    if judged.rerun_problem:
        return f"{where}; the last re-run broke: {judged.rerun_problem}"
    if report is None:
        return where
    if report.blocking:
        titles = ", ".join(check.title for check in report.blocking)
        gates = settings.rerun_gates and report.gates
        return f"Out of rotation: blocked by {titles}" if gates else f"{where}, although it is blocked by {titles}"
    if report.warnings:
        return f"{where}; warnings: {', '.join(check.title for check in report.warnings)}"
    return f"{where}; nothing blocks"
