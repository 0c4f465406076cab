"""Past runs: each published report is kept as a file of its own, and this module evaluates them together.

``state_dir/history/<when it began>-<run id>.<address>.json``: names sort by time, files are written once, whole or not
at all, and for their owner only. Files that are no reports of ours are passed over. The address is in the name so that
servers that share the folder do not crowd out each other's runs; names without one are read as well.
"""

from __future__ import annotations

import array
import contextlib
import functools
import os
import re
import stat
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from preflight import files
from preflight.report import changes, model
from preflight.report.changes import Flip
from preflight.report.model import OUTCOMES, Check, Report, ReportError
from preflight.settings.model import Settings

LOOK_BACK = 50  # runs before those asked for that are read for what changed
REMEMBERED = 1_000_000  # checks of past runs that stay in memory, about 13 bytes each; the rest is read again
ADDRESSES = 50  # addresses with kept runs, those with the latest: each run may have another port
LONGEST_KEY = 40  # characters of an address in a file's name
ABANDONED = 3600.0  # seconds after which an unfinished file belongs to a process that died

_NAME = re.compile(r"(\d{8}T\d{6}Z)-([0-9A-Za-z_-]{1,64})(?:\.([0-9A-Za-z._]+))?\.json")


class Past(NamedTuple):
    """The result of one requirement in a past run."""

    outcome: str
    severity: str
    message: str
    duration: float  # seconds, to seven digits


class _Titles:
    """Which checks a suite has: the same for hundreds of its runs, which share it."""

    __slots__ = ("index", "severities")

    def __init__(self, titles: Sequence[str], severities: Sequence[str]) -> None:
        self.index = {title: number for number, title in enumerate(titles)}
        self.severities = tuple(severities)


@functools.lru_cache(ADDRESSES)
def _shared(titles: tuple[str, ...], severities: tuple[str, ...]) -> _Titles:
    return _Titles(titles, severities)


class PastChecks(Mapping[str, Past]):
    """The checks of a past run by title, in columns: a thousand of them take 13 KiB and what their messages take."""

    __slots__ = ("_durations", "_messages", "_outcomes", "_titles")

    def __init__(self, found: Iterable[Check], like: PastChecks | None = None) -> None:
        """``like`` are another run's: most messages are the same from run to run, and one copy serves all."""
        checks = {check.title: check for check in found}.values()
        self._titles = _shared(
            tuple(sys.intern(check.title) for check in checks),
            tuple(sys.intern(check.severity) for check in checks),
        )
        self._outcomes = bytes(OUTCOMES.index(check.outcome) for check in checks)
        self._messages = tuple(check.message for check in checks)
        if like is not None and like._titles is self._titles:
            both = zip(like._messages, self._messages, strict=True)
            self._messages = tuple(old if old == new else new for old, new in both)
        self._durations = array.array("f", (check.duration for check in checks))

    def __getitem__(self, title: str) -> Past:
        number = self._titles.index[title]
        return Past(
            outcome=OUTCOMES[self._outcomes[number]],
            severity=self._titles.severities[number],
            message=self._messages[number],
            duration=self._durations[number],
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._titles.index)

    def __len__(self) -> int:
        return len(self._titles.index)

    def outcomes(self) -> Iterable[tuple[str, str]]:
        """Titles with their outcomes."""
        return zip(self._titles.index, map(OUTCOMES.__getitem__, self._outcomes), strict=False)

    def same(self, other: PastChecks) -> bool:
        """Whether the same checks had the same outcomes there."""
        return self._titles is other._titles and self._outcomes == other._outcomes


class Run(NamedTuple):
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
    checks: PastChecks

    @classmethod
    def of(cls, report: Report, like: PastChecks | None = None) -> Run:
        """The part of a report that is worth remembering; for ``like`` see :class:`PastChecks`."""
        return cls(
            run_id=report.run_id,
            origin=report.origin,
            status=report.status,
            may_start=report.may_start,
            started_at=report.started_at,
            duration=report.duration,
            address=sys.intern(report.address),
            selection=sys.intern(report.selection),
            reason=report.reason,
            summary=report.summary,
            blocking=tuple(sys.intern(check.title) for check in report.blocking),
            warnings=tuple(sys.intern(check.title) for check in report.warnings),
            checks=PastChecks(report.checks, like),
        )


def flips(runs: Sequence[Run]) -> list[tuple[Flip, ...]]:
    """The changes in each of these runs; runs and answer are newest first.

    A check's outcome is compared with that of the last run of the same address which asked: a run without the check,
    because only a part of the suite ran, or it broke, or with the check not applicable, says nothing about it.
    """
    last: dict[str, dict[str, str]] = {}  # outcomes, by address
    newest: dict[str, PastChecks] = {}  # of the runs so far, by address
    found: list[tuple[Flip, ...]] = []
    for run in reversed(runs):
        flipped: list[Flip] = []
        before = newest.get(run.address)
        newest[run.address] = run.checks
        # Most runs find what the one before them found.
        if before is None or not run.checks.same(before):
            asked = (check for check in run.checks.outcomes() if check[1] != "not_applicable")
            flipped = [flip for flip in changes.flips(last.setdefault(run.address, {}), asked) if flip.before]
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
    """Keep a report and let the oldest ones of its address go; returns why that was not possible, in one line, or "".

    Never a reason against a start: the caller reports what is returned, and goes on.
    """
    folder = settings.state.history
    name = f"{re.sub('[-:]', '', found.started_at)}-{found.run_id}.{_key(found.address)}.json"
    try:
        files.no_link(folder)
        model.publish(found, folder / name)
        _prune(folder, settings.history, name, _key(found.address))
    except OSError as error:
        return f"This run is not in the history: {folder}: {error.strerror}"
    return ""


def _key(address: str) -> str:
    """The address as a part of a file's name. Two may look the same there: the report itself has the address."""
    return re.sub("[^0-9A-Za-z.]", "_", address)[-LONGEST_KEY:]  # the end has the port


def _prune(folder: Path, limit: int, latest: str, key: str) -> None:
    """Leave ``limit`` files of an address, the newest, and those of other addresses unless there are too many.

    ``latest`` stays even where the clock was set back and it looks old. Files whose names have no address count as
    files of this one. Too many addresses of one second are told apart by their names alone.
    """
    # By name: every run prunes, and none needs to ask the system about hundreds of files that stay.
    found = [(file, match) for file, match in _named(folder) if file.is_file(follow_symlinks=False)]
    kept = sorted(((match[1], file.name, match[3] or "") for file, match in found), reverse=True)
    gone = _oldest(folder, [(stamp, name) for stamp, name, other in kept if other in (key, "")], limit)
    addresses = list(dict.fromkeys(other for _stamp, _name, other in kept))
    gone += [name for _stamp, name, other in kept if other in addresses[ADDRESSES:] and other != key]
    for name in {*gone, *_abandoned(folder)} - {latest}:
        with contextlib.suppress(FileNotFoundError):  # another run has done it
            os.unlink(folder / name)


def _oldest(folder: Path, kept: list[tuple[str, str]], limit: int) -> list[str]:
    """The names of all but the newest ``limit``, from stamps and names in falling order."""
    if len(kept) <= limit:
        return []
    edge = kept[limit][0]
    # Of runs of the same second, those that ended last are the newest.
    same = [name for stamp, name in kept if stamp == edge]
    if len(same) > 1:
        same.sort(key=lambda name: _written(folder / name), reverse=True)
    newer = sum(stamp > edge for stamp, _name in kept)
    return same[limit - newer :] + [name for stamp, name in kept if stamp < edge]


def _written(path: Path) -> int:
    try:
        return path.lstat().st_mtime_ns
    except FileNotFoundError:
        return 0  # another run has pruned it


def _abandoned(folder: Path) -> list[str]:
    """Files of processes that died in the middle of writing."""
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


def _named(folder: Path) -> Iterator[tuple[os.DirEntry[str], re.Match[str]]]:
    """What is named like a kept run, and the parts of the name. Raises OSError if the folder cannot be read."""
    with os.scandir(folder) as entries:
        for file in entries:
            if match := _NAME.fullmatch(file.name):
                yield file, match


class _File(NamedTuple):
    """A kept file; files sort in the order of their runs."""

    stamp: str  # when the run began
    written: int  # nanoseconds: runs of the same second stand in the order in which they ended
    name: str
    run_id: str
    key: str  # of the address; empty in the names of earlier releases
    seen: files.Seen  # tells a change


def _listing(folder: Path) -> list[_File]:
    """The kept files, newest first. Raises OSError if the folder cannot be read."""
    found = []
    files.no_link(folder)
    for file, match in _named(folder):
        try:
            status = file.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue  # another run has pruned it
        if stat.S_ISREG(status.st_mode):
            seen = files.seen(status)
            found.append(_File(match[1], status.st_mtime_ns, file.name, match[2], match[3] or "", seen))
    found.sort(reverse=True)
    return found


# Reading.


class History:
    """The kept runs, each file read once. Its methods read files and may be called from any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._known: dict[str, tuple[files.Seen, Run | None]] = {}

    def runs(
        self, *, offset: int = 0, limit: int, address: str | None = None, besides: Iterable[Report] = ()
    ) -> list[tuple[Run, tuple[Flip, ...]]]:
        """Past runs with the changes in each, newest first; of one address, or of all.

        ``besides`` are runs that count although they may not be kept, where the disk is full, say. Files that
        hold no report are left out. Raises OSError if the folder is there and cannot be read.
        """
        with self._lock:
            past = self._read(offset + limit + LOOK_BACK, address)
        kept = {run.run_id for run in past}
        more = {
            report.run_id: Run.of(report)
            for report in besides
            if report.run_id not in kept and address in (None, report.address)
        }  # fmt: skip
        if more:
            past = sorted([*more.values(), *past], key=lambda run: run.started_at, reverse=True)
        return list(zip(past, flips(past), strict=True))[offset : offset + limit]

    def _read(self, count: int, address: str | None) -> list[Run]:
        try:
            listing = _listing(self._folder)
        except FileNotFoundError:
            listing = []  # nothing was kept yet
        names = {file.name for file in listing}
        for name in self._known.keys() - names:
            del self._known[name]
        runs: list[Run] = []
        for file in listing:
            if len(runs) == count:
                break
            if address is not None and file.key not in (_key(address), ""):
                continue
            known = self._known.get(file.name)
            if known is None or known[0] != file.seen:
                like = runs[-1].checks if runs else None
                known = self._known[file.name] = (file.seen, self._load(file.name, like))
            if known[1] is not None and address in (None, known[1].address):
                runs.append(known[1])
        self._forget()
        return runs

    def _load(self, name: str, like: PastChecks | None) -> Run | None:
        try:
            return Run.of(model.load(self._folder / name), like)
        except ReportError:
            return None  # a corrupt file hides none of the others

    def _forget(self) -> None:
        """Forget checks of past runs beyond REMEMBERED, the oldest first, which are asked for least."""
        held = sum(len(run.checks) for _seen, run in self._known.values() if run is not None)
        for name in sorted(self._known):
            if held <= REMEMBERED:
                return
            run = self._known.pop(name)[1]
            held -= len(run.checks) if run is not None else 0

    def report(self, run_id: str) -> Report | None:
        """The whole report of a kept run, None if there is none. Raises OSError like :meth:`runs`."""
        try:
            listing = _listing(self._folder)
        except FileNotFoundError:
            return None
        for file in listing:
            if file.run_id == run_id:
                try:
                    return model.load(self._folder / file.name)
                except ReportError:
                    return None
        return None
