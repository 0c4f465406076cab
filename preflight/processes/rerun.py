"""A re-run: the suite once more, beside a server that goes on serving.

Under a launcher, the suite is the launcher's child, as in a start: starting it, judging its result and keeping that
costs the server nothing (:class:`Rerun`). In a server that was started directly, a thread does all this
(:class:`Here`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from preflight import files, times
from preflight.processes import suite
from preflight.processes.channel import Message
from preflight.processes.loop import Loop
from preflight.processes.suite import RunResult, Suite
from preflight.report import history
from preflight.report import model as report
from preflight.report.model import Report
from preflight.settings.model import Settings

if TYPE_CHECKING:
    from preflight.redaction.redactor import (
        Redactor,  # its patterns take time to compile, and the launcher has none to lose
    )

Steps = list[tuple[str, dict[str, Any]]]
"""The steps of a run: "collected", "checking" or "checked", each with its data."""
Heard = Callable[[Steps], object]
"""Takes the steps of a running run."""
Began = Callable[[str, str], tuple[Heard, Callable[["Ending | None"], object]]]
"""Takes the id of a run that another worker was asked for, and when it began; returns who takes its steps."""
OnSignal = Callable[[str, int, str, str], object]
"""Takes a signal that a child was sent; see children.py."""

STEPS = ("collected", "checking", "checked")
LOOK = 0.05  # seconds between two looks at a run's messages: in between, the workers have the processors
SOON = 0.005  # seconds until the next look if more is on its way, a large report, say: its sender waits for us
READS = 16  # of 64 KiB, in one look: there is more to see to than this run


class Ending(NamedTuple):
    """The result of a re-run."""

    report: Report
    reason: str = ""
    """Why the run is not evidence; empty if its report can be trusted."""
    unpublished: str = ""
    """Why others cannot read the report; empty if they can."""
    seen: files.Seen | None = None
    """Tells the published file from a later one; None if it was not published."""
    elsewhere: bool = False
    """Whether another worker of the instance counts this run."""

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values, for the channel to the worker."""
        said = {"reason": self.reason, "unpublished": self.unpublished, "seen": self.seen}
        return {"report": self.report.to_json(), **said}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Ending:
        """Rebuild what :meth:`to_json` wrote. Raises ReportError if it holds no report."""
        seen = tuple(data["seen"]) if data["seen"] else None
        return cls(Report.from_json(data["report"]), data["reason"], data["unpublished"], seen)


class Runner(Protocol):
    """Runs the suite for a server, one run at a time."""

    on_began: Began | None
    """Called in another thread when a run begins that was not begun here."""

    def begin(self, run_id: str, heard: Heard, over: Callable[[Ending | None], object]) -> None:
        """Begin a run. Both functions are called in other threads; ``over`` once, unless :meth:`end` comes first.

        ``over`` gets None if the run was ended with no result. A run that goes on already may take its place: the
        step "also" names that one.
        """

    def end(self, run_id: str) -> None:
        """End a run with all that it has started, and report no more about it; a run that is over is left alone."""


def publish(result: RunResult, settings: Settings) -> Ending:
    """Publish a run's report, keep it in the history, and return the run's result."""
    seen = None
    try:
        seen = report.publish(result.report, settings.state.report)
    except OSError as error:
        unpublished = f"its report cannot be written to {settings.state.report}: {error.strerror}"
    else:
        unpublished = history.keep(result.report, settings)
    # In the report's own words, if it has any, so that a page that shows both shows them once.
    reason = result.reason and (result.report.reason or result.reason)
    return Ending(result.report, reason, unpublished, seen)


def broken(settings: Settings, run_id: str, error: Exception, redactor: Redactor) -> Ending:
    """The ending of a run that could not be run, or not be concluded; nothing of it is published."""
    told = f"the suite could not be run: {type(error).__name__}: {error}"
    found = report.broken(
        report.shown(told, redactor),
        run_id=run_id,
        origin="rerun",
        address=redactor.text(settings.address),
        started_at=times.now(),
        duration=0.0,
    )
    return Ending(found, found.reason)


class Rerun:
    """One re-run as the launcher sees it, driven by its event loop."""

    def __init__(
        self,
        settings: Settings,
        options: Mapping[str, object],
        run_id: str,
        loop: Loop,
        *,
        heard: Heard,
        on_signal: OnSignal,
    ) -> None:
        """Begin the re-run. Raises OSError if no process can be started."""
        self.run_id = run_id
        self._settings = settings
        self._loop = loop
        self._heard = heard
        self._next_look = time.monotonic() + LOOK
        # It sees what the application sees, not what the env file has become since.
        self._suite = Suite(settings, options, "rerun", run_id=run_id, environ=settings.environment)
        child = self._suite.child
        child.on_signal = on_signal
        self._suite.application(None)  # the application is imported, and serves
        # Its channel is not watched: a suite takes forty steps within a few hundredths of a second.
        loop.watch_output(child, child.read_output)

    @property
    def left(self) -> float:
        """Seconds until :meth:`ended` has something to do, should nothing happen."""
        return min(self._next_look, self._suite.deadline) - time.monotonic()

    def ended(self) -> bool:
        """Whether it is over; one past its deadline is killed here. Now and then its steps are passed on."""
        if time.monotonic() >= self._next_look:
            self._look()
        return self._suite.ended()

    def _look(self) -> None:
        channel = self._suite.child.channel
        messages: list[Message] = []
        for _ in range(READS):
            if not channel.waits():
                break
            messages += self._suite.read_channel()
        self._pass_on(messages)
        self._next_look = time.monotonic() + (SOON if channel.expected else LOOK)

    def _pass_on(self, messages: list[Message]) -> None:
        steps = [(message.kind, message.data) for message in messages if message.kind in STEPS]
        if steps:
            self._heard(steps)

    def conclude(self, redactor: Redactor) -> Ending:
        """Publish its report, and return its result; call it once, after :meth:`ended`."""
        self._loop.unwatch_child(self._suite.child)
        self._pass_on(self._suite.read_rest())
        return publish(self._suite.result(redactor), self._settings)

    def abandon(self) -> None:
        """End it without a result."""
        self._loop.unwatch_child(self._suite.child)
        self._suite.abandon()


class Here:
    """Runs the suite for the server in whose process it is: in a thread, which waits."""

    def __init__(
        self, settings: Settings, options: Mapping[str, object], redactor: Redactor, on_signal: OnSignal
    ) -> None:
        self._settings = settings
        self._options = options
        self._redactor = redactor
        self._on_signal = on_signal
        self._wanted = ""
        self.on_began: Began | None = None  # nobody else begins any

    def begin(self, run_id: str, heard: Heard, over: Callable[[Ending | None], object]) -> None:
        """See :class:`Runner`."""
        self._wanted = run_id
        # No daemon: the process does not end before the suite has.
        threading.Thread(target=self._run, name="re-run", args=(run_id, heard, over)).start()

    def end(self, run_id: str) -> None:
        """See :class:`Runner`; the suite is gone a moment later."""
        if self._wanted == run_id:
            self._wanted = ""

    def _run(self, run_id: str, heard: Heard, over: Callable[[Ending | None], object]) -> None:
        def on_message(message: Message) -> None:
            if message.kind in STEPS:
                heard([(message.kind, message.data)])

        try:
            result = suite.run(
                self._settings,
                self._options,
                "rerun",
                self._redactor,
                run_id=run_id,
                on_message=on_message,
                on_signal=self._on_signal,
                wanted=lambda: self._wanted == run_id,
            )
            ending = publish(result, self._settings)
        except suite.Abandoned:
            return
        except Exception as error:  # noqa: BLE001  # a broken re-run is reported, and the next may succeed
            ending = broken(self._settings, run_id, error, self._redactor)
        over(ending)
