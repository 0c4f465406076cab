"""The most recent report for this server's address: what diagnostics, metrics and the agent show."""

from __future__ import annotations

import asyncio
import os
from typing import NamedTuple

from preflight import files, times
from preflight.files import Seen
from preflight.redaction.redactor import Redactor
from preflight.report import model as report
from preflight.report import newest
from preflight.report.model import Report, ReportError
from preflight.web.instance import Instance


class _Read(NamedTuple):
    """The result of a look at the report's file."""

    seen: Seen | None = None
    """Identifies a version of the file; None if there is no file."""
    report: Report | None = None
    """The newest report, if it is newer than what the instance goes by."""
    problem: str = ""


class Snapshot:
    """The published report, read again only when its file has changed."""

    def __init__(self, instance: Instance, redactor: Redactor | None = None) -> None:
        """``redactor`` knows this server's secrets: another process that publishes a report need not know them."""
        settings = instance.settings
        self.instance = instance
        self._path = settings.state.report
        self._redactor = redactor or Redactor.of(settings)
        self._read = _Read()
        self._ended: Report | None = None
        """The last run of this server's own, which may have broken."""
        self._looking = asyncio.Lock()
        self._unchecked = settings.skip and not instance.instance_id
        """Whether it was started without its suite: then runs of other processes say nothing about it."""

    @property
    def problem(self) -> str:
        """Why the last report that was found could not be used; empty if it could."""
        return self._read.problem

    async def look(self) -> None:
        """Look whether a process has published a report since; to be awaited before what is known is shown.

        A new report is read in a thread: that takes time in proportion to its size.
        """
        if not self._unchecked and self._seen() != self._read.seen:
            async with self._looking:
                if self._seen() != self._read.seen:
                    await asyncio.to_thread(self.refresh)

    def accept(self, found: Report, seen: Seen | None) -> None:
        """Take the report of this server's own run that has ended: the newest, whether or not it is published.

        ``seen`` tells the file that it was published in, which then need not be read.
        """
        self._ended = found
        before = self._read.report
        if before is None or not newest.outdated(found, before, times.now()):
            # A report that another process has published since is seen at the next look.
            self._read = _Read(seen or self._read.seen, found)

    def latest(self) -> Report | None:
        """The newest report for the server's address: its own, or one that another process wrote since.

        An instance that was started without its suite (PREFLIGHT_SKIP) has no reports but those of its own re-runs.
        """
        if self._unchecked:
            return self._ended or self.instance.report
        found = self._read.report
        return found if found is not None and self._is_ours(found) else self.instance.report

    def trusted(self) -> Report | None:
        """The newest report that says something of its checks: a broken run does not."""
        return newest.trusted(self.latest(), self.instance.report)

    def _is_ours(self, found: Report) -> bool:
        """Whether a report is about this server's address, which is known late where another server has started it."""
        return found.address == self.instance.settings.address

    def _seen(self) -> Seen | None:
        try:
            return files.seen(os.stat(self._path))
        except OSError:
            return None

    def refresh(self) -> None:
        """Read the report if its file has changed; from any thread."""
        seen = self._seen()
        if seen is None:
            self._read = _Read(problem=self._read.problem)  # a problem stays until there is a good report
        elif seen != self._read.seen:
            try:
                found = self._clean(report.load_or_set_aside(self._path))
                before = self._read.report
                if before is not None and self._is_ours(before) and not self._is_ours(found):
                    self._read = _Read(seen, before)  # another server's, which has the same state folder
                    return
                self._read = _Read(seen, newest.newer(found, self._ended, self.instance.report, times.now()))
            except ReportError as error:
                # Not trusted, not fatal: what this instance knows itself stays.
                self._read = _Read(seen, problem=str(error))

    def _clean(self, found: Report) -> Report:
        for own in (self._ended, self.instance.report):
            if own is not None and own.run_id == found.run_id:
                return own
        try:
            return Report.from_json(self._redactor.document(found.to_json()))
        except RecursionError:
            raise ReportError(f"{self._path} is nested too deeply") from None
