"""Telling people about a start and its server, if there is anybody to be told."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from preflight.launcher.shown import Display, broken
from preflight.processes.loop import Loop
from preflight.settings.model import Settings

if TYPE_CHECKING:
    from preflight.fleet.membership import Membership
    from preflight.instances.records import Record
    from preflight.notify.notices import Notice
    from preflight.notify.notifier import Notifier
    from preflight.report.model import Report

DELIVERY = 10.0  # seconds that a command which ends by itself waits for notifications to be delivered
DELIVERY_IF_STOPPED = 1.5  # seconds that a command which was asked to end waits for that
ALONE = "The fleet's database cannot be reached: this instance reports by itself."


class Telling:
    """What one command tells people. Nothing is imported or started before there is something to tell."""

    def __init__(self, settings: Settings, *, loop: Loop, display: Display) -> None:
        self._settings = settings
        self._loop = loop
        self._display = display
        self._membership: Membership | None = None
        self._telling: Report | None = None
        """The latest run that the fleet is telling people about, until they have certainly been told."""

    @cached_property
    def _notifier(self) -> Notifier | None:
        if not self._settings.notify:
            return None
        from preflight.notify.notifier import Notifier

        terminal = self._display.terminal
        return Notifier(self._settings, self._loop, terminal.redactor, lambda line: terminal.line(line, "yellow"))

    def tell(self, level: str, headline: str, *lines: str) -> None:
        """Tell an event that is not a change of a check; ``level`` as in notices.py."""
        if self._notifier is not None:
            from preflight.notify import notices

            self._notifier.tell(notices.make(self._settings, level, headline, *lines))

    def tell_news(self, report: Report) -> bool:
        """Tell people what a run found that they do not know yet; returns whether there was anything to tell.

        In a fleet it is told once for all instances; by this one alone if the fleet's database is away.
        """
        if self._membership is not None:
            self._membership.report(report)
        if self._notifier is None:
            return False
        from preflight.notify import notices

        if self._membership is None:
            notice = notices.take_news(report, self._settings)
            if notice is not None:
                self._notifier.tell(notice)
            return notice is not None
        changed = notices.news(report, self._settings, self._telling)
        if not changed:
            return False
        self._telling = report

        def known() -> None:
            notices.know(report, self._settings)
            if self._telling is report:
                self._telling = None

        def alone() -> None:
            self._tell_alone(notices.about(changed, report, self._settings, ALONE))
            known()

        self._membership.tell(report, changed, kept=known, alone=alone)
        return True

    def _tell_alone(self, notice: Notice) -> None:
        if self._notifier is not None:
            self._notifier.tell(notice)

    # The fleet.

    def join_fleet(self, record: Record, changed: Callable[[], object]) -> None:
        """This instance serves: if there is a database for it, it is one of a fleet from now on.

        ``changed`` is called whenever :attr:`fleet` has changed.
        """
        if not self._settings.database_url or self._membership is not None:
            return
        from preflight.fleet.membership import Membership

        say = self._display.terminal.line
        self._membership = Membership(self._settings, self._loop, record, deliver=self._deliver, say=say)
        self._membership.on_change = changed
        changed()

    def _deliver(self, notice: Notice, done: Callable[[bool], object]) -> None:
        """Send a notice for the whole fleet."""
        if self._notifier is None:
            done(False)
        else:
            self._notifier.tell(notice, done)

    def look_after_fleet(self, at_most: float) -> float:
        """Do what the fleet needs now and then, without waiting; returns seconds until the next call is due."""
        if self._membership is None:
            return at_most
        self._membership.look_after()
        return self._membership.left(at_most)

    def leave_fleet(self, ending: str) -> None:
        """This instance ends as asked: "stopped" or "replaced"."""
        if self._membership is not None:
            self._membership.leave(ending)

    @property
    def fleet(self) -> dict[str, Any]:
        """The state of the fleet's database, as /diagnostics shows it; empty if there is none."""
        return self._membership.state if self._membership is not None else {}

    def tell_end(self, title: str, reason: str, instance_id: str) -> None:
        """The server is given up. People are told, and a later start is reported as its return."""
        if self._notifier is None:
            return
        from preflight.notify import notices

        self.tell("failure", title.capitalize(), reason)
        notices.know(broken(self._settings, "the server ended", run_id=instance_id, origin="start"), self._settings)

    def verify(self) -> None:
        """Find out, and say, which services can never be sent to."""
        if self._notifier is not None:
            self._notifier.verify()

    @property
    def tally(self) -> dict[str, Any]:
        """What became of the notices so far; empty if nobody is to be told."""
        return self._notifier.tally if self._notifier is not None else {}

    def when_tally_changes(self, changed: Callable[[], object]) -> None:
        """Call ``changed`` from now on whenever :attr:`tally` has changed."""
        if self._notifier is not None:
            self._notifier.on_change = changed

    def finish(self) -> None:
        """Wait until all is delivered, but not for long; then end the process that sends."""
        if "_notifier" in vars(self) and self._notifier is not None:
            self._notifier.finish(DELIVERY_IF_STOPPED if self._loop.stops else DELIVERY)
        if self._membership is not None:
            self._membership.close()
