"""Run the suite in a child process, and bring back a report or say why there is none.

This is the parent's side; what runs in the child is in preflight/suite/.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from preflight import times
from preflight.ports.activation import Inherited
from preflight.processes import children, interpreter
from preflight.processes.channel import ChannelError, Message
from preflight.processes.loop import Loop
from preflight.settings.model import Settings
from preflight.text import printable

if TYPE_CHECKING:  # a launcher imports them while its children run
    from preflight.redaction.redactor import Redactor
    from preflight.report.model import Report

MARGIN = 1.0  # seconds beyond the run's deadline that pytest gets to write its report


class Abandoned(Exception):
    """The result of the run is no longer wanted."""


class RunResult(NamedTuple):
    """How a run ended. ``exit_code`` is the command's: 0, 1 (blocked), 2 (usage) or 3 (no trustworthy report)."""

    report: Report
    exit_code: int
    reason: str = ""
    output: tuple[str, ...] = ()
    """The end of what the suite printed, redacted; for the case that it broke."""
    socket: socket.socket | None = None
    """The listening socket that Server Port holds, if the run was to start something."""

    @property
    def may_start(self) -> bool:
        return self.exit_code == 0


class Suite:
    """One run of the suite, started by the constructor.

    The owner watches ``child.channel`` and ``child.output``, or looks at the channel now and then, and calls
    :meth:`read_channel` and ``child.read_output``; once :meth:`ended` says so, :meth:`result` tells.
    """

    def __init__(
        self,
        settings: Settings,
        options: Mapping[str, object],
        origin: str,
        *,
        run_id: str = "",
        environ: Mapping[str, str] | None = None,
        takes_port: bool = True,
        inherited: Inherited | None = None,
        reports: Sequence[Path] = (),
    ) -> None:
        """``run_id`` is made here unless it was given out already; ``environ`` is this process's own by default.

        ``inherited`` is the listening socket that a start is given, by the instance that it replaces or by systemd.
        ``reports`` are the files that will hold the report: nothing is stopped if there is no room for it.
        """
        self.settings = settings
        self.origin = origin
        self.run_id = run_id or os.urandom(16).hex()
        self.started_at = times.now()
        self.begun = time.monotonic()
        self.titles: list[str] = []
        self.checking = ""
        self._document: object = None
        self._usage = ""
        self._problems: list[str] = []
        self._socket: socket.socket | None = None
        self._killed = False
        self._allowed = 0.0
        """Seconds beyond the deadline that freeing the port may take."""
        self._takes_port = takes_port
        self.child = children.Child(
            "preflight.suite",
            settings.folder,
            interpreter.for_suite(environ),
            distrusts_caches=True,
            steps_back=origin == "rerun",
            descriptors=1,
        )
        self.child.channel.tell(
            "run",
            (inherited.socket.fileno(),) if inherited is not None else (),
            activated_by=inherited.activated_by if inherited is not None else "",
            run_id=self.run_id,
            origin=origin,
            takes_port=takes_port,
            options=dict(options),
            settings=settings.to_message(),
            plugins=settings.plugins,
            plugins_from=settings.place("plugins"),
            reports=[os.fspath(path) for path in reports],
        )

    @property
    def deadline(self) -> float:
        """When the run is killed, on the monotonic clock."""
        return self.begun + self.settings.run_timeout + self._allowed + MARGIN

    @property
    def late(self) -> bool:
        """Whether it is past its deadline: the next call of :meth:`ended` kills it."""
        return time.monotonic() > self.deadline

    def application(self, error: str | None, fix: str = "") -> None:
        """Tell the suite that the application has imported, or how it failed and what to do about that."""
        self.child.channel.tell("application", error=error, fix=fix)

    def read_channel(self) -> list[Message]:
        """Take in what the suite says; returns the messages, some of which are to be shown (by their kinds)."""
        try:
            messages = self.child.channel.arrived()
        except ChannelError as error:
            self._problems.append(f"the suite sent {error}")
            self.child.kill(f"it sent {error}")
            return []
        try:
            for message in messages:
                self._take(message)
        except (KeyError, TypeError, ValueError, OverflowError):
            self._problems.append(f'the suite sent "{message.kind}", which is not a message')
            self.child.kill("it sent something that is not a message")
            return []
        return messages

    def _take(self, message: Message) -> None:
        match message.kind:
            case "collected":
                self.titles = list(message.data["titles"])
            case "checking":
                self.checking = str(message.data["title"])
            case "usage":
                self._usage = str(message.data["message"])
            case "broken":
                self._problems += map(str, message.data["problems"])
            case "report":
                self._document = message.data["document"]
            case "allowed":
                self._allowed += float(message.data["seconds"])
            case "socket":
                for descriptor in message.descriptors:
                    self._socket = socket.socket(fileno=descriptor)
                return
        for descriptor in message.descriptors:
            os.close(descriptor)  # no other message has any

    def ended(self) -> bool:
        """Whether it is over; a run past its deadline is killed here."""
        if self.late and not self.child.ended():
            self._killed = True
            self.child.kill("it ran past its deadline")
        return self.child.ended()

    def read_rest(self) -> list[Message]:
        """Take in what is left of what it said, once it has ended.

        All of it is in the buffer by then. The channel need not have closed: a descendant that left the group could
        hold it.
        """
        messages: list[Message] = []
        while self.child.channel.waits():
            messages += self.read_channel()
        return messages

    def result(self, redactor: Redactor) -> RunResult:
        """The result; call it once, after :meth:`ended`."""
        self.read_rest()
        self.child.drain_output()
        self.child.close()
        lines = [line for line in list(self.child.lines)[-20:] if line.strip()]
        from preflight.redaction.stream import StreamRedactor
        from preflight.report import model as report

        stream = StreamRedactor(redactor)
        output = tuple(stream.next(line, report.LONGEST_MESSAGE) for line in lines)
        ending: int | None = self.child.process.returncode
        found, reason = self._report(redactor)
        may_start, distrust = report.verdict(found, run_id=self.run_id, exit_code=ending)
        if may_start and self._socket is None and self.origin == "start" and self._takes_port:
            distrust = "every requirement passed, and no socket is held"
        reason = reason or distrust
        exit_code = 2 if self._usage else 3 if reason else 0 if may_start else 1
        if exit_code != 0 and self._socket is not None:
            self._socket.close()
            self._socket = None
        if reason and found.status != "broken":
            found = self._broken(reason, redactor)
        return RunResult(found, exit_code, reason, output, self._socket)

    def _report(self, redactor: Redactor) -> tuple[Report, str]:
        """The report; if none can be trusted, a broken one in its place, and the reason, redacted."""
        from preflight.report import model as report

        where = f' while checking "{self.checking}"' if self.checking else " before its first check"
        reasons = list(dict.fromkeys(self._problems))  # a suite that sends one invalid message may send many
        if self._usage:
            reasons = [self._usage]
        elif self._killed:
            reasons.append(
                f"the suite was stopped at its deadline of {self.settings.run_timeout + self._allowed:g} s{where}"
            )
        elif self._document is None and not reasons:
            reasons.append(f"the suite ended without a report ({self.child.ending}){where}")
        if self._document is not None:
            try:
                found = report.Report.from_json(self._document)
            except report.ReportError as error:
                reasons.append(f"the suite's report cannot be used: {error}")
            else:
                return found, printable(redactor.beginning("; ".join(reasons), report.LONGEST_REASON))
        reason = printable(redactor.beginning("; ".join(reasons), report.LONGEST_REASON))
        return self._broken(reason, redactor), reason

    def _broken(self, reason: str, redactor: Redactor) -> Report:
        from preflight.report import model as report

        return report.broken(
            reason,
            run_id=self.run_id,
            origin=self.origin,
            address=redactor.text(self.settings.address),
            started_at=self.started_at,
            duration=time.monotonic() - self.begun,
        )

    def abandon(self) -> None:
        """End the run without a result."""
        self.child.close()
        if self._socket is not None:
            self._socket.close()


def run(
    settings: Settings,
    options: Mapping[str, object],
    origin: str,
    redactor: Redactor,
    *,
    run_id: str = "",
    on_message: Callable[[Message], None] = lambda _message: None,
    on_signal: Callable[[str, int, str, str], object] = lambda *_: None,
    wanted: Callable[[], bool] = lambda: True,
) -> RunResult:
    """Run the suite beside an application that this process has imported already; blocks until it is over.

    ``on_signal`` is called like a child's (see children.py), for the audit. Raises Abandoned as soon as the run is
    not ``wanted`` any more; then it has ended, with all that it started.
    """
    suite = Suite(settings, options, origin, run_id=run_id, takes_port=False)
    suite.child.on_signal = on_signal
    loop = Loop()

    def pass_on(messages: list[Message]) -> None:
        for message in messages:
            on_message(message)

    try:
        suite.application(None)
        loop.watch_child(suite.child, lambda: pass_on(suite.read_channel()), suite.child.read_output)
        while not suite.ended():
            if not wanted():
                raise Abandoned
            loop.turn(0.01 if suite.child.output_closed else 0.2)  # a suite that has closed its output is about to end
        pass_on(suite.read_rest())
        return suite.result(redactor)
    except BaseException:
        suite.abandon()
        raise
    finally:
        loop.close()
