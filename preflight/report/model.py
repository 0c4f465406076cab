"""A run's report: the only file that knows the JSON schema (see report.schema.json).

The document is pytest-json-report's (what ran and how it ended) with one section of ours, ``preflight``: what people
read. What a report means is decided here and nowhere else; preflight/processes/suite.py adds how the run itself ended.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import stat
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflight import files
from preflight.text import plain, printable, shortened

if TYPE_CHECKING:
    from preflight.redaction.redactor import (
        Redactor,  # its patterns take time to compile, and the launcher has none to lose
    )

SCHEMA = 1
SCHEMA_FILE = Path(__file__).with_name("report.schema.json")
LONGEST_MESSAGE = 2_000  # characters of a message or fix; the rest is left out after redaction
LONGEST_DETAILS = 20_000  # characters of JSON of one check's details
LONGEST_REASON = 20_000  # characters of why a report is broken
MESSAGES, DETAILS = 250_000, 500_000  # characters of all checks together: each gets its share if there are many
LOOKED_AT = 100_000  # characters of a text in which its first line is looked for
LONGEST_DURATION = 1e9  # seconds, which no run and no check takes
DEEPEST = 40  # levels of lists and objects in each other
LARGEST = 32 * 1024 * 1024  # bytes of a report file that we are willing to read
CORRUPT_KEPT = 3  # corrupt reports that are kept to be looked into

SEVERITIES = ("critical", "warning")
SCOPES = ("instance", "fleet")
"""What a requirement is about: this instance, or something that all instances of a fleet share."""
ORIGINS = ("start", "check", "pytest", "rerun")
STATUSES = ("passed", "warnings", "failed", "broken")
OUTCOMES = ("passed", "failed", "error", "timeout", "skipped", "unknown", "not_applicable", "ignored")
STATES = ("blocked", "broken", "silent", "good", "ended")
"""The states of an instance of a fleet: its verdict, silent (nothing was heard from it), or ended; the worst first."""
PASSABLE = frozenset({"passed", "unknown", "not_applicable", "ignored"})
"""Outcomes with which a critical requirement does not block a start, and pytest does not end with exit code 1."""

# Any month's 31st is a day here; a month or a year that nobody can count with is not.
_STAMP = re.compile(
    r"[1-9][0-9]{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])T(?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60)Z"
)


class ReportError(Exception):
    """A report file that is missing, corrupt or not ours; the message is one line."""


class OtherSchema(ReportError):
    """A report of another version of this project: it cannot be used here, but it is not corrupt."""


class CorruptReport(ReportError):
    """A file that is not a report; ``inode`` is the file's number."""

    def __init__(self, message: str, inode: int) -> None:
        super().__init__(message)
        self.inode = inode


# Requirements whose answers code looks for, by their ids.
DEPENDENCIES = "preflight/requirements/test_dependencies.py::test_dependencies"
SERVER_PORT = "preflight/requirements/test_port.py::test_server_port"
STATE_FOLDER = "preflight/requirements/test_state.py::test_state_folder"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one requirement in one run."""

    id: str
    title: str
    requirement: str
    severity: str
    outcome: str
    message: str = ""
    fix: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    duration: float = 0.0  # seconds
    scope: str = "instance"  # or "fleet"

    @property
    def blocks(self) -> bool:
        return self.severity == "critical" and self.outcome not in PASSABLE

    @property
    def warns(self) -> bool:
        """Whether the check is worth a person's attention without blocking."""
        return not self.blocks and self.outcome not in ("passed", "not_applicable")


@dataclass(frozen=True, slots=True)
class Report:
    """One run's report."""

    run_id: str
    origin: str  # "start", "check", "pytest" or "rerun"
    status: str  # "passed", "warnings", "failed" or "broken"
    may_start: bool
    started_at: str  # UTC, "2026-01-02T03:04:05Z"
    duration: float  # seconds
    selection: str  # "all", or the -m and -k expressions that chose
    address: str
    checks: tuple[Check, ...] = ()
    reason: str = ""  # why it is broken, for people
    python: str = ""
    machine: str = ""
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """pytest-json-report's part: created, duration, exitcode, summary, tests."""

    @property
    def blocking(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.blocks)

    @property
    def gates(self) -> bool:
        """Whether a server that serves should get no requests because of this report.

        Checks that block and that the whole fleet shares do not suffice: every instance would leave at once.
        """
        return not self.may_start and (not self.blocking or any(check.scope != "fleet" for check in self.blocking))

    @property
    def warnings(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.warns)

    @property
    def problems(self) -> tuple[Check, ...]:
        """The warnings about what is wrong."""
        return tuple(check for check in self.warnings if check.outcome != "unknown")

    @property
    def unknown(self) -> tuple[Check, ...]:
        """The other warnings, whose question had no answer: the requirement may hold or not."""
        return tuple(check for check in self.checks if check.outcome == "unknown")

    @property
    def summary(self) -> dict[str, int]:
        """How many checks had which outcome; only outcomes that occurred, and the total."""
        counts = {
            outcome: count for outcome in OUTCOMES if (count := sum(check.outcome == outcome for check in self.checks))
        }
        return counts | {"total": len(self.checks)}

    def check(self, nodeid: str) -> Check | None:
        """The check of that id, None if the run did not have it."""
        return next((check for check in self.checks if check.id == nodeid), None)

    def to_json(self) -> dict[str, Any]:
        """The document as it is written: JSON values only."""
        section = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "document"}
        section["checks"] = [_written(check) for check in self.checks]
        return {**self.document, "preflight": {"schema": SCHEMA, **section}}

    @classmethod
    def from_json(cls, document: object) -> Report:
        """The report in a parsed JSON document; raises ReportError for anything else."""
        if not isinstance(document, dict) or not isinstance(document.get("preflight"), dict):
            raise ReportError("it has no preflight section")
        section = plain(document["preflight"])  # another release, or somebody by hand, may have written it
        if section.pop("schema", None) != SCHEMA:
            raise OtherSchema(f"its schema is not {SCHEMA}")
        rest = {key: value for key, value in document.items() if key != "preflight"}
        try:
            checks = tuple(Check(**check) for check in section.pop("checks"))
            report = cls(**section, checks=checks, document=rest)
            kinds = [(entry, getattr(report, entry.name)) for entry in fields(cls)]
            kinds += [(entry, getattr(check, entry.name)) for check in checks for entry in fields(Check)]
        except (TypeError, KeyError, AttributeError) as error:
            # What is wrong may be a key, of whatever characters and length.
            why = shortened(printable(str(error)).replace("\n", "?"), 200)
            raise ReportError(f"it does not conform to the schema: {why}") from None
        expected: dict[str, Any] = {"str": str, "float": (int, float), "bool": bool}
        for entry, value in kinds:
            if not isinstance(value, expected.get(str(entry.type), object)):
                raise ReportError(f"it does not conform to the schema: {entry.name} is not of type {entry.type}")
            if entry.type == "float" and not 0 <= value < LONGEST_DURATION:
                raise ReportError(f"it does not conform to the schema: {entry.name} is not a time that a run can take")
        if any(check.severity not in SEVERITIES or check.outcome not in OUTCOMES for check in checks):
            raise ReportError("it has a severity or an outcome that does not exist")
        if any(check.scope not in SCOPES for check in checks):
            raise ReportError("it has a scope that does not exist")
        if report.origin not in ORIGINS or report.status not in STATUSES:
            raise ReportError("it has an origin or a status that does not exist")
        if not _STAMP.fullmatch(report.started_at):
            raise ReportError("it does not conform to the schema: started_at is not a UTC time")
        if not all(isinstance(check.details, dict) for check in checks):
            raise ReportError("it does not conform to the schema: details is not an object")
        if any(exceeds(check.details, 2 * LONGEST_DETAILS) for check in checks):
            raise ReportError("it does not conform to the schema: details is too large")
        return report


_CHECK = tuple(entry.name for entry in fields(Check) if entry.name != "scope")


def _written(check: Check) -> dict[str, Any]:
    """A check as JSON values. asdict() would copy all details, and take more than ten times as long."""
    written = {name: getattr(check, name) for name in _CHECK}
    # A release that knows no scopes refuses a report with one, so a report has scopes only if a requirement uses them.
    return written if check.scope == "instance" else {**written, "scope": check.scope}


def python() -> str:
    """The version of this interpreter."""
    return sys.version.split()[0]


def machine() -> str:
    """System, release and processor; no name of a host."""
    system = os.uname()
    return f"{system.sysname} {system.release} {system.machine}"


def is_overlong(document: object) -> bool:
    """Whether a text in a document is longer than any in a report of ours: to redact it may take a lot of memory."""
    waiting = [document]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple):
            waiting += one
        elif isinstance(one, str) and len(one) > 2 * LONGEST_DETAILS:
            return True
    return False


def exceeds(value: object, longest: int) -> bool:
    """Whether this is too large to redact and write; decided without looking at all of it."""
    waiting = [(value, 0)]
    while waiting:
        one, depth = waiting.pop()
        longest -= len(one) if isinstance(one, str | bytes | bytearray) else 2
        if longest < 0 or depth > DEEPEST:
            return True
        if isinstance(one, Mapping):
            waiting += [(part, depth + 1) for pair in itertools.islice(one.items(), longest + 1) for part in pair]
        elif isinstance(one, list | tuple):
            waiting += [(part, depth + 1) for part in one[: longest + 1]]
    return False


def shown(text: str, redactor: Redactor) -> str:
    """The text as it may be shown. It is redacted first, because an unprintable secret is found only unchanged."""
    return printable(redactor.text(text))


def broken(reason: str, *, run_id: str, origin: str, address: str, started_at: str, duration: float) -> Report:
    """The report in place of the one that a run did not leave. ``reason`` is redacted already."""
    return Report(
        run_id=run_id,
        origin=origin,
        status="broken",
        may_start=False,
        started_at=started_at,
        duration=round(duration, 6),
        selection="all",
        address=address,
        reason=shortened(printable(reason), LONGEST_REASON),
        python=python(),
        machine=machine(),
        document={"created": time.time(), "duration": duration, "exitcode": None, "summary": {}, "tests": []},
    )


def verdict(report: Report, *, run_id: str, exit_code: int | None) -> tuple[bool, str]:
    """Whether the server may start, and why the report cannot be trusted, if so. It fails closed.

    ``exit_code`` is how the process that ran the suite ended, None if it was killed. A report is trusted only with the
    id of this very run, from a complete run of the whole suite.
    """
    if report.run_id != run_id:
        return False, "the report is from another run"
    if report.status == "broken":
        return False, report.reason
    if exit_code not in (0, 1):
        return False, f"the suite ended with exit code {exit_code}"
    if exit_code == 1 and all(check.outcome in PASSABLE for check in report.checks):
        return False, "the suite ended with exit code 1, and its report has nothing that failed"
    if report.selection != "all":
        return False, f"only a part of the suite ran ({report.selection})"
    criticals = [check for check in report.checks if check.severity == "critical"]
    if not criticals:
        return False, "the suite has no critical requirement"
    return report.may_start and not any(check.blocks for check in criticals), ""


def publish(report: Report, path: Path) -> files.Seen:
    """Write the report where others read it: whole or not at all, and for its owner only.

    Returns what tells the file from one that somebody else publishes there. Raises OSError if it cannot be written.
    """
    files.reach(path.parent)
    files.sweep(path)
    content = json.dumps(report.to_json(), ensure_ascii=False) + "\n"
    return files.publish(path, content.encode("utf-8"), mark=report.run_id)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def load(path: Path) -> Report:
    """Read a published report; raises ReportError for what is missing, too large or no report."""
    return _read(path)[0]


def _read(path: Path) -> tuple[Report, int]:
    """The report, and the number of the file that it was in."""
    try:
        descriptor = files.existing(path)
    except OSError as error:
        why = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise ReportError(f"{path}: {why}") from None
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise ReportError(f"{path} is a directory")
        if not stat.S_ISREG(status.st_mode):
            raise ReportError(f"{path} is not a regular file")
        if status.st_uid not in (0, os.geteuid()):
            raise ReportError(f"{path} belongs to another user")
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            raw = stream.read(LARGEST + 1)
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror}") from None
    finally:
        os.close(descriptor)
    inode = status.st_ino
    if len(raw) > LARGEST:
        raise CorruptReport(f"{path}: more than {LARGEST} bytes", inode)
    try:
        return Report.from_json(json.loads(raw, parse_constant=_no_constant)), inode
    except (ValueError, RecursionError) as error:
        raise CorruptReport(f"{path} is not valid JSON: {error}", inode) from None
    except OtherSchema as error:
        raise ReportError(f"{path}: {error}") from None
    except ReportError as error:
        raise CorruptReport(f"{path}: {error}", inode) from None


def load_or_set_aside(path: Path) -> Report:
    """Like :func:`load`, and a corrupt file is renamed, so that it can be looked into; the ReportError says so."""
    try:
        return load(path)
    except CorruptReport as error:
        aside = _set_aside(path, error.inode)
        raise ReportError(f"{error}; it was renamed to {aside.name}" if aside else str(error)) from None


def _set_aside(path: Path, inode: int) -> Path | None:
    """Rename the corrupt report, over the oldest one if there are enough; None if that is not possible."""
    places = [path.with_name(f"{path.name}.corrupt-{number}") for number in range(1, CORRUPT_KEPT + 1)]
    try:
        aside = min(places, key=lambda place: place.lstat().st_mtime if os.path.lexists(place) else 0.0)
        os.replace(path, aside)
        if os.stat(aside, follow_symlinks=False).st_ino != inode:
            # A good one was published in this very moment: give it back, unless there is a newer one already.
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
            os.unlink(aside)
            return None
        os.utime(aside)  # the oldest is the one that was set aside first
    except OSError:
        return None
    return aside
