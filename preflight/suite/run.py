"""One run of the suite: what is known of it.

The hooks fill it in, those of `collection`, `stages` and `plugin` in this order; fixtures read it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from preflight import times
from preflight.contract import Declaration
from preflight.output import publishing
from preflight.redaction.redactor import Redactor
from preflight.report import building
from preflight.report import model as report
from preflight.settings.model import Settings
from preflight.suite import loggers
from preflight.suite.applicability import left_out
from preflight.suite.deadlines import Deadlines
from preflight.suite.findings import Findings
from preflight.suite.inquiries import Inquiries
from preflight.suite.soundness import hearing, unloaded, unretrieved
from preflight.suite.soundness.unawaited import NOT_AWAITED, Unawaited
from preflight.suite.soundness.witness import Witness

if TYPE_CHECKING:  # a run needs, and imports, only one of Alone and Link
    from preflight.ports import Step
    from preflight.suite.alone import Alone
    from preflight.suite.link import Link

RUN = "preflight-suite-run"
"""The name by which pytest knows the run."""


class SuiteRun:
    """One run of the suite, from its first hook to its report."""

    def __init__(self, config: pytest.Config, settings: Settings, link: Link | None) -> None:
        """``link`` is the launcher; None if plain pytest has started the run."""
        self._config = config
        self._option = config.option
        self.settings = settings
        self.link = link
        self.origin = link.origin if link else "pytest"
        self.run_id = link.run_id if link else os.urandom(16).hex()
        self.redactor = self.redactor_of()
        self.alone: Alone | None = None
        """What does the launcher's part if there is none."""
        self._launcher: Link | Alone
        if link is None:
            self._launcher = self.alone = _alone(settings, self.redactor)
        else:
            self._launcher = link
        loggers.allow_changes()
        hearing.begin()
        unretrieved.begin()
        self.inquiries = Inquiries(settings, self.origin, self._launcher.application)
        self.started_at = times.now()
        self.deadlines = Deadlines(settings)
        self.declarations: dict[str, Declaration] = {}
        """What each requirement declares; known when the collection has ended, and no requirement runs without it."""
        self.of_port: set[str] = set()
        """Requirements that ask for the port; they come last."""
        self.lost: list[str] = []
        """Requirements that stand in the suite's files and were not collected."""
        self.deselected: set[str] = set()
        self.witnesses: dict[str, Witness] = {}
        """The witnesses that see each requirement's body run."""
        self.folders = settings.folders
        """Those of the suite."""
        self._unawaited = Unawaited(self.folders)
        self.findings = Findings()
        self.problems: list[str] = []
        """Why the run is broken."""
        self.misused = False
        """Whether an option or a setting is wrong: then nothing was found out, and nothing is published."""
        self.report: report.Report | None = None

    @property
    def selection(self) -> str:
        """Which part of the suite runs, for people; "all" if all of it does."""
        chosen = [words for words in (self._option.markexpr, self._option.keyword) if words]
        if self.lost or self._option.deselect or (self.deselected and not chosen):
            chosen.append("a part")  # of what those words name, or of all
        return " and ".join(chosen) or "all"

    def redactor_of(self, values: Iterable[str] = ()) -> Redactor:
        """The redactor of this run; ``values`` are secrets that no variable's name gives away."""
        # Plugins and conftest.py files of plain pytest set variables that requirements do not have, and can show.
        own = () if self.link else (os.environ,)
        return Redactor.of_variables(*self.settings.variables, *own, besides=values)

    @property
    def takes_port(self) -> bool:
        """Whether a worker of ours serves, or is going to; not where a server was started without run.py."""
        return self.link is None or self.link.takes_port

    def title(self, nodeid: str) -> str:
        """The title of a requirement, as people may see it."""
        return report.shown(self.declarations[nodeid].title, self.redactor)

    def left_out(self, nodeid: str) -> str:
        """Why a requirement does not apply to this run; empty if it does."""
        return left_out(self.declarations[nodeid], self.settings, takes_port=self.takes_port)

    def broken(self, problems: list[str]) -> None:
        """Note, and tell the launcher, why the run cannot be trusted."""
        problems = [self.redactor.beginning(problem, report.LONGEST_MESSAGE) for problem in problems]
        self.problems += problems
        if self.link:
            self.link.send("broken", problems=problems)

    def notice_unheard(self) -> None:
        """Break the run for what the suite has found in ways that nobody hears, and coroutines that are not awaited."""
        if self.findings.ended and not self.blocking and (unheard := unloaded.faults(self._config)):
            self.broken(unheard)
        self._notice_unawaited()

    def _notice_unawaited(self) -> None:
        """Break the run for coroutines that nobody has awaited, unless it is blocked, or failed for another reason.

        They may be of any requirement: one that an earlier one has called, or a fixture, is dropped in another's time.
        What has failed, a warning say, may have ended before it would have awaited what it had called.
        """
        if self.blocking:
            return
        left = [check for check in self.findings.final if check.outcome not in ("passed", "not_applicable")]
        if all(NOT_AWAITED in check.message for check in left) and (unawaited := self._unawaited.taken()):
            self.broken(unawaited)

    @property
    def vouches(self) -> bool:
        """Whether the run may end with exit code 0: it has a report, and nothing in that blocks."""
        return self.report is not None and self.report.status != "broken" and not self.report.blocking

    # For the claim on the port.

    @property
    def leaves_out_critical(self) -> bool:
        """Whether critical requirements other than the port's were left out, or may have been: they might not hold."""
        others = (self.deselected - self.of_port) & self.declarations.keys()
        return bool(self.lost) or any(self.declarations[nodeid].severity == "critical" for nodeid in others)

    @property
    def blocking(self) -> list[str]:
        """What blocks the start so far: titles of critical requirements, or that the suite is broken or not whole."""
        titles = [check.title for check in self.findings.blocking]
        titles += ["a broken suite"] if self.problems else []
        partial = self.origin == "start" and self.selection != "all"
        return [*titles, f"a run of only a part of the suite ({self.selection})"] if partial else titles

    def before_port(self) -> list[str]:
        """What blocks the start when the port is asked for; every other requirement must have its answer by then."""
        settled = self.findings.ended | self.deselected | self.of_port
        waiting = [nodeid for nodeid in self.declarations if nodeid not in settled]
        if waiting and not self.problems:
            others = f" and {len(waiting) - 1} more" if len(waiting) > 1 else ""
            why = "a plugin has changed the order, or a requirement gets that fixture without naming it as an argument"
            self.broken([f"the fixture port was used before {waiting[0]}{others} had an answer: {why}"])
        self.notice_unheard()
        if not self.blocking and self.origin != "rerun":
            self._notice_lack_of_room()
        return self.blocking

    def _notice_lack_of_room(self) -> None:
        """Break the run if its report is going to have no room: afterwards, the port would have been freed in vain."""
        room = max(publishing.ROOM, 8192 + sum(map(building.most_bytes, self.findings.final)))
        with contextlib.suppress(OSError):  # which says it again, of the file
            self.settings.state.make()
        try:
            for path in self.link.reports if self.link else [self.settings.state.report]:
                publishing.make_sure(Path(path), room)
        except publishing.Unpublishable as error:
            self.broken([f"the report cannot be written: {error}"])

    def on_port_step(self, step: Step) -> None:
        """Show, while it happens, what is done to free the port."""
        self._launcher.on_port_step(step, self.redactor)

    def allow(self, seconds: float) -> None:
        """Extend the deadlines of the requirement that runs, of those after it and of the run by so many seconds."""
        if self.link:
            self.link.send("allowed", seconds=seconds)
        self.deadlines.allow(seconds)


def _alone(settings: Settings, redactor: Redactor) -> Alone:
    from preflight.suite.alone import Alone

    return Alone(settings, redactor)
