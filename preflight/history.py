"""Past runs: each published report is kept as a file of its own, and this is what they say together.

``state_dir/history/<when it began>-<run id>.json``: names sort by time, files are written once, whole
or not at all, and for their owner only. What is there and is no report of ours is passed over.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preflight import files, report
from preflight.report import Check, Report, ReportError
from preflight.settings import Settings

FOLDER = "history"
LOOK_BACK = 50  # runs before those asked for that are read for what changed
REMEMBERED = 100_000  # checks of past runs that stay in memory, about 100 bytes each; the rest is read again
ABANDONED = 3600.0  # seconds after which a file that was never finished is somebody's who died

_NAME = re.compile(r"(\d{8}T\d{6}Z)-([0-9A-Za-z_-]{1,64})\.json")


@dataclass(frozen=True, slots=True)
class Past:
    """How one requirement fared in a past run."""

    outcome: str
    severity: str
    message: str
    duration: float  # seconds


@dataclass(frozen=True, slots=True)
class Run:
    """A past run in brief."""

    run_id: str
    origin: str
    status: str
    may_start: bool
    started_at: str
    duration: float  # seconds
    address: str
    selection: str
    reason: str
    summary: Mapping[str, int]
    blocking: tuple[str, ...]
    warnings: tuple[str, ...]
    checks: Mapping[str, Past]

    @classmethod
    def of(cls, found: Report) -> Run:
        """What is worth remembering of a report. Titles and messages repeat from run to run: one copy serves all."""
        return cls(
            run_id=found.run_id,
            origin=found.origin,
            status=found.status,
            may_start=found.may_start,
            started_at=found.started_at,
            duration=found.duration,
            address=sys.intern(found.address),
            selection=sys.intern(found.selection),
            reason=found.reason,
            summary=found.summary,
            blocking=tuple(sys.intern(check.title) for check in found.blocking),
            warnings=tuple(sys.intern(check.title) for check in found.warnings),
            checks={sys.intern(check.title): _past(check) for check in found.checks},
        )


@dataclass(frozen=True, slots=True)
class Flip:
    """A check whose outcome is another than in the run before."""

    title: str
    before: str
    after: str


def _past(check: Check) -> Past:
    return Past(sys.intern(check.outcome), sys.intern(check.severity), sys.intern(check.message), check.duration)


def flips(runs: Sequence[Run]) -> list[tuple[Flip, ...]]:
    """What flipped in each of these runs; they and the answer are newest first.

    A check's outcome is compared with that of the last run of the same address which asked: one that only a
    part of the suite ran in, that broke, or that left the check out as not applicable says nothing about it.
    """
    last: dict[tuple[str, str], str] = {}
    found = []
    for run in reversed(runs):
        flipped = []
        for title, past in run.checks.items():
            if past.outcome == "not_applicable":
                continue
            before = last.get((run.address, title))
            if before is not None and before != past.outcome:
                flipped.append(Flip(title, before, past.outcome))
            last[run.address, title] = past.outcome
        found.append(tuple(flipped))
    return found[::-1]


def entry(run: Run, flipped: Iterable[Flip]) -> dict[str, Any]:
    """A run as JSON: what ``GET /diagnostics/history`` and ``--history --format json`` list."""
    return {
        "run_id": run.run_id,
        "origin": run.origin,
        "status": run.status,
        "may_start": run.may_start,
        "started_at": run.started_at,
        "duration": run.duration,
        "address": run.address,
        "selection": run.selection,
        "reason": run.reason,
        "summary": dict(run.summary),
        "blocking": list(run.blocking),
        "warnings": list(run.warnings),
        "flips": [{"title": flip.title, "from": flip.before, "to": flip.after} for flip in flipped],
    }


# Keeping.


def keep(found: Report, settings: Settings) -> str:
    """Keep a report and let the oldest ones go; returns why that was not possible, in one line, or "".

    Never a reason against a start: whoever published the report says what is returned, and goes on.
    """
    folder = settings.state_dir / FOLDER
    name = f"{re.sub('[-:]', '', found.started_at)}-{found.run_id}.json"
    try:
        files.no_link(folder)
        report.publish(found, folder / name)
        _prune(folder, settings.history, name)
    except OSError as error:
        return f"This run is not in the history: {folder}: {error.strerror}"
    return ""


def _prune(folder: Path, limit: int, latest: str) -> None:
    """Leave ``limit`` files, the newest; ``latest`` stays even where the clock was set back and it looks old."""
    gone = [name for _stamp, _mtime, name, _seen in _listing(folder)[limit:] if name != latest]
    gone += _abandoned(folder)
    for name in gone:
        try:
            os.unlink(folder / name)
        except FileNotFoundError:
            pass  # another run has done it


def _abandoned(folder: Path) -> list[str]:
    """What processes that died in the middle of writing have left."""
    found = []
    with os.scandir(folder) as entries:
        for file in entries:
            if file.name.startswith(".") and _NAME.match(file.name, 1):
                try:
                    if time.time() - file.stat(follow_symlinks=False).st_mtime > ABANDONED:
                        found.append(file.name)
                except FileNotFoundError:
                    pass  # finished in this moment
    return found


_Seen = tuple[int, int, int]


def _listing(folder: Path) -> list[tuple[str, int, str, _Seen]]:
    """The kept files, newest first: when the run began, when the file was written, its name, and what tells a change.

    Raises OSError where the folder cannot be read.
    """
    found = []
    files.no_link(folder)
    with os.scandir(folder) as entries:
        for file in entries:
            match = _NAME.fullmatch(file.name)
            if match is None:
                continue
            try:
                status = file.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # another run has pruned it
            if stat.S_ISREG(status.st_mode):
                seen = (status.st_ino, status.st_mtime_ns, status.st_size)
                # Runs of the same second stand in the order in which they ended.
                found.append((match[1], status.st_mtime_ns, file.name, seen))
    found.sort(reverse=True)
    return found


# Reading.


class History:
    """The kept runs, each file read once. Its methods read files and may be called from any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._known: dict[str, tuple[_Seen, Run | None]] = {}

    def runs(
        self, *, offset: int = 0, limit: int, besides: Iterable[Report] = ()
    ) -> list[tuple[Run, tuple[Flip, ...]]]:
        """Past runs with what flipped in each, newest first.

        ``besides`` are runs that count although they may not be kept, where the disk is full, say. Files that
        hold no report are left out. Raises OSError where the folder is there and cannot be read.
        """
        with self._lock:
            found = self._read(offset + limit + LOOK_BACK)
        kept = {run.run_id for run in found}
        more = {one.run_id: Run.of(one) for one in besides if one.run_id not in kept}
        if more:
            found = sorted([*more.values(), *found], key=lambda run: run.started_at, reverse=True)
        return list(zip(found, flips(found), strict=True))[offset : offset + limit]

    def _read(self, count: int) -> list[Run]:
        try:
            listing = _listing(self._folder)
        except FileNotFoundError:
            listing = []  # nothing was kept yet
        names = {name for _stamp, _mtime, name, _seen in listing}
        for name in self._known.keys() - names:
            del self._known[name]
        runs: list[Run] = []
        for _stamp, _mtime, name, seen in listing:
            if len(runs) == count:
                break
            known = self._known.get(name)
            if known is None or known[0] != seen:
                known = self._known[name] = (seen, self._load(name))
            if known[1] is not None:
                runs.append(known[1])
        self._forget()
        return runs

    def _load(self, name: str) -> Run | None:
        try:
            return Run.of(report.load(self._folder / name))
        except ReportError:
            return None  # one that is corrupt hides none of the others

    def _forget(self) -> None:
        """The oldest first, which are asked for least."""
        held = sum(len(run.checks) for _seen, run in self._known.values() if run is not None)
        for name in sorted(self._known):
            if held <= REMEMBERED:
                return
            run = self._known.pop(name)[1]
            held -= len(run.checks) if run is not None else 0

    def report(self, run_id: str) -> Report | None:
        """The whole report of a kept run, None where there is none. Raises OSError like :meth:`runs`."""
        try:
            listing = _listing(self._folder)
        except FileNotFoundError:
            return None
        for _stamp, _mtime, name, _seen in listing:
            if name.partition("-")[2] == f"{run_id}.json":
                try:
                    return report.load(self._folder / name)
                except ReportError:
                    return None
        return None
