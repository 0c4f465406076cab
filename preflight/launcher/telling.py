"""Telling people about what a start and its server come to, if there is anybody to be told."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from preflight.launcher.shown import Display, broken
from preflight.processes.loop import Loop
from preflight.settings.model import Settings

if TYPE_CHECKING:
    from preflight.notify.notifier import Notifier
    from preflight.report.model import Report

DELIVERY = 10.0  # seconds that a command which ends by itself waits for notifications to be delivered
DELIVERY_IF_STOPPED = 1.5  # and one that was asked to end


class Telling:
    """What one command tells people. Nothing is imported or started before there is something to tell."""

    def __init__(self, settings: Settings, *, loop: Loop, display: Display) -> None:
        self._settings = settings
        self._loop = loop
        self._display = display

    @cached_property
    def _notifier(self) -> Notifier | None:
        if not self._settings.notify:
            return None
        from preflight.notify.notifier import Notifier

        terminal = self._display.terminal
        return Notifier(self._settings, self._loop, terminal.redactor, lambda line: terminal.line(line, "yellow"))

    def tell(self, level: str, headline: str, *lines: str) -> None:
        """Tell something that is no check's change; ``level`` as in notices.py."""
        if self._notifier is not None:
            from preflight.notify import notices

            self._notifier.tell(notices.make(self._settings, level, headline, *lines))

    def tell_news(self, report: Report) -> bool:
        """Tell what a run found otherwise than people know; returns whether there was anything to tell."""
        if self._notifier is None:
            return False
        from preflight.notify import notices

        notice = notices.take_news(report, self._settings)
        if notice is not None:
            self._notifier.tell(notice)
        return notice is not None

    def tell_end(self, title: str, reason: str, instance_id: str) -> None:
        """The server is given up. People know that from now on, and a start that follows is told as its return."""
        if self._notifier is None:
            return
        from preflight.notify import notices

        self.tell("failure", title.capitalize(), reason)
        notices.know(broken(self._settings, "the server ended", run_id=instance_id, origin="start"), self._settings)

    def verify(self) -> None:
        """Find out, and say, which services could never be told."""
        if self._notifier is not None:
            self._notifier.verify()

    @property
    def tally(self) -> dict[str, Any]:
        """What became of the notices so far; empty where nobody is to be told."""
        return self._notifier.tally if self._notifier is not None else {}

    def when_tally_changes(self, changed: Callable[[], object]) -> None:
        """Call this from now on whenever :attr:`tally` is another one."""
        if self._notifier is not None:
            self._notifier.on_change = changed

    def finish(self) -> None:
        """Wait until all is delivered, but not for long; then end the process that sends."""
        if "_notifier" in vars(self) and self._notifier is not None:
            self._notifier.finish(DELIVERY_IF_STOPPED if self._loop.stops else DELIVERY)
