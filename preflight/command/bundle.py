"""``--bundle PATH``: what other people need in order to help, in one file that can be attached to a public issue.

The bundle has reports, settings with their sources, versions, the holders of the port, the end of audit and log, and a
list of what was redacted where. Everything passes the redactor once more, even what was redacted when it was written,
and what identifies the user and the machine (home folders, the names of both) is removed as well. What no rule knows
stays: a secret that is in no variable, or is encoded in a way that SECURITY.md says is not recognised.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import os
import platform
import pwd
import re
import shlex
import socket
import stat
import sys
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from preflight import __version__, dependencies, files, times
from preflight.command import port as portcommand
from preflight.instances import neighbours
from preflight.output import plainlines
from preflight.redaction.keys import LOOKS_SECRET, common_secrets, key_like
from preflight.redaction.redactor import MASK, Redactor
from preflight.report import model as report
from preflight.settings.model import SETTINGS, Settings

MARK = "bundle.json"
"""The member by which a bundle of ours is known."""
FORMAT = "preflight-bundle-1"
REPORTS = 200  # of the history, the newest
LOG = 512 * 1024  # bytes of the log's end

# A holder of a port, as it is named in messages (ports.Holder.describe): what follows is its command.
_DESCRIBED = re.compile(r"(\(PID [0-9]+, user [^()]*\)): ([^\n]+)")
_SHORTEST = 4  # characters of a secret that is taken out as a whole word
_SWITCHES = frozenset({"true", "false", "none", "null", "auto", "basic", "bearer", "default", "enabled", "disabled"})
# Words of reports and settings, which stay even if somebody has chosen one as a password.
_OURS = {
    "severity": frozenset(report.SEVERITIES),
    "scope": frozenset(report.SCOPES),
    "origin": frozenset(report.ORIGINS),
    "status": frozenset(report.STATUSES),
    "outcome": frozenset(report.OUTCOMES),
}
_HOMES = re.compile(r"/(?:home|Users)/[^/\s:\"']+")

Counts = Counter[tuple[str, str]]
"""How often something was redacted, by place (a JSON path or a line) and kind."""


class BundleError(Exception):
    """The bundle cannot be written there; the message is one line."""


def command(settings: Settings, path: Path) -> int:
    """Write the bundle and say so; returns the exit code."""
    path = Path(os.path.abspath(path))
    try:
        plainlines.say(Redactor.of(settings).text(write(settings, path)))
    except BundleError as error:
        plainlines.error(str(error))
        return 2
    except OSError as error:
        plainlines.error(f"{path}: {error.strerror}")
        return 1
    return 0


def write(settings: Settings, path: Path) -> str:
    """Write the bundle to ``path``, mode 0600; returns a line that says what was written.

    A bundle that is there is replaced, and nothing else is. Raises BundleError or OSError.
    """
    replace = os.path.lexists(path)
    if replace and not _is_bundle(path):
        raise BundleError(f"{path} exists and is not a bundle, so it was left as it is: name another file")
    bundle = Bundle(settings)
    content = bundle.zipped()
    files.reach(path.parent)
    try:
        files.publish(path, content, replace=replace)
    except FileExistsError:
        raise BundleError(f"another process has just made {path}; nothing was written") from None
    reports = f"{bundle.reports} report{'' if bundle.reports == 1 else 's'}"
    contents = [reports, "settings", "versions", "port", *bundle.logs]
    masked = sum(entry["count"] for entry in bundle.redactions)
    return (
        f"Wrote {path} ({', '.join(contents)}; {masked} {'redaction' if masked == 1 else 'redactions'},"
        " listed in redactions.json)."
        " Known secrets are redacted; look through it before you attach it to a public issue."
    )


def _is_bundle(path: Path) -> bool:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            mark = json.loads(archive.read(MARK))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return False
    return isinstance(mark, dict) and mark.get("format") == FORMAT


class Bundle:
    """What goes into one bundle."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.reports = 0
        self.logs: list[str] = []
        """The ends of audit and log that were found."""
        self.problems: list[str] = []
        """What could not be included, and why."""
        self.redactions: list[dict[str, Any]] = []
        """Every redaction: its file, its place there, its kind, and how often; never a value."""
        self._scrubber = Scrubber(
            Redactor.of(settings), common_secrets(settings), frozenset((*SETTINGS, *settings.application))
        )

    def zipped(self) -> bytes:
        """The whole bundle."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, document in self._documents():
                archive.writestr(name, self._scrubbed(name, document))
            for name, path in (("audit", self.settings.state.audit), ("log", self._log_file())):
                if text := self._tail(f"{name}.txt", path):
                    self.logs.append(name)
                    archive.writestr(f"{name}.txt", self._scrubbed_lines(f"{name}.txt", text))
            mark = {"format": FORMAT, "made_at": times.now(), "version": __version__, "problems": self.problems}
            archive.writestr(MARK, self._scrubbed(MARK, mark))
            archive.writestr("redactions.json", json.dumps(self.redactions, indent=2) + "\n")
        return buffer.getvalue()

    def _documents(self) -> Iterator[tuple[str, object]]:
        for name, path in self._report_files():
            try:
                document = report.load(path).to_json()
            except report.ReportError as error:
                # The error begins with the path: the archive has the file's name in it.
                self.problems.append(str(error).replace(str(path), name, 1))
                continue
            self.reports += 1
            yield name, document
        yield "settings.json", self._settings()
        yield "system.json", _system(self.settings)
        yield "port.json", portcommand.described(self.settings)

    def _report_files(self) -> Iterator[tuple[str, Path]]:
        if os.path.lexists(self.settings.state.report):
            yield "report.json", self.settings.state.report
        history = self.settings.state.history
        try:
            names = sorted((name for name in os.listdir(history) if name.endswith(".json")), reverse=True)
        except OSError:
            return  # there is no history
        for number, name in enumerate(names[:REPORTS], start=1):
            # A name can be anything, and is no reason to have a secret in a list of members.
            plain = re.fullmatch(r"[0-9A-Za-z._-]{1,100}", name) and self._scrubber.text(name, "", Counter()) == name
            yield f"history/{name if plain else f'{number}.json'}", history / name

    def _settings(self) -> list[dict[str, object]]:
        """Every setting with its value and its source; of a secret only whether it is set."""
        rows = []
        for name in (*SETTINGS, *self.settings.application):
            value: object = self.settings.value(name)
            if key_like(name):
                value = "set" if value else "not set"
            elif isinstance(value, Path):
                value = str(value)
            rows.append({"setting": name, "value": value, "source": self.settings.sources.get(name, "the default")})
        return rows

    def _log_file(self) -> Path | None:
        """The log file that is set here, or that an instance which serves this port now writes, as it says."""
        if self.settings.log_file is not None:
            return self.settings.log_file
        said = [one.record.log_file for one in neighbours.on_port(self.settings) if one.record.log_file]
        return Path(said[0]) if said else None

    def _tail(self, name: str, path: Path | None) -> str:
        """The end of a log, and, where the log is short, the end of the rotated file before it."""
        if path is None:
            self.problems.append(f"{name}: no log file is set (--log-file), and no running instance writes one")
            return ""
        text = b""
        for file in (path, path.with_name(f"{path.name}.1")):
            try:
                text = _tail(file, LOG - len(text)) + text
            except OSError as error:
                if file == path:
                    self.problems.append(f"{name}: {error.strerror}")
        return text.decode("utf-8", "replace")

    def _scrubbed(self, name: str, document: object) -> str:
        counts: Counts = Counter()
        scrubbed = self._scrubber.value(document, "$", counts)
        self._note(name, counts)
        return json.dumps(scrubbed, indent=2, ensure_ascii=False) + "\n"

    def _scrubbed_lines(self, name: str, text: str) -> str:
        counts: Counts = Counter()
        # The whole text first: a secret may go over the end of a line.
        lines = [
            self._scrubber.text(line, f"line {number}", counts)
            for number, line in enumerate(self._scrubber.secrets(text).splitlines(), start=1)
        ]
        self._note(name, counts)
        return "\n".join([*lines, ""])

    def _note(self, name: str, counts: Counts) -> None:
        self.redactions += [
            {"file": name, "where": where, "what": what, "count": count} for (where, what), count in counts.items()
        ]


class Scrubber:
    """Removes secrets, arguments of other programs, and what identifies the user and the machine from texts and JSON.

    ``words`` are secrets that are short or common: here, unlike elsewhere, they go wherever they are a whole word.
    """

    def __init__(self, redactor: Redactor, words: Iterable[str] = (), settings: frozenset[str] = frozenset()) -> None:
        """``settings`` are the names of all settings, which stay."""
        self._redactor = redactor
        self._ours = {**_OURS, "setting": settings}
        known = {word for word in words if len(word) >= _SHORTEST and word.lower() not in _SWITCHES}
        self._words = [_word(word) for word in sorted(known, key=len, reverse=True)]
        user, home = _user()
        homes = {home, os.path.realpath(home), os.environ.get("HOME", "")} - {"", "/"}
        self._rules = [("home folder", _path(one), "~") for one in sorted(homes, key=len, reverse=True)]
        self._rules.append(("home folder", _HOMES, "~"))
        host = socket.gethostname()
        hosts = {host, host.partition(".")[0]} - {"", "localhost"}
        self._rules += [("host name", _word(one), "[host]") for one in sorted(hosts, key=len, reverse=True)]
        if user:
            self._rules.append(("user name", _word(user), "[user]"))

    def secrets(self, text: str) -> str:
        """The text without secrets, known ones and what looks like one."""
        return self._redactor.text(LOOKS_SECRET.sub(MASK, text))  # an old log may hold the keys of yesterday

    def text(self, text: str, where: str, counts: Counts) -> str:
        """The text, scrubbed. What was removed is counted, including what was already removed when it was written."""
        text = self.secrets(text)
        for word in self._words:
            text = word.sub(MASK, text)
        # Arguments of other people's programs may be anything; the program's name helps.
        text = _DESCRIBED.sub(lambda found: f"{found[1]}: {_program(found[2])}", text)
        return self._counted(text, where, counts)

    def _counted(self, text: str, where: str, counts: Counts) -> str:
        if masks := text.count(MASK):
            counts[where, "secret"] += masks
        for what, pattern, mark in self._rules:
            text, found = pattern.subn(mark, text)
            if found:
                counts[where, what] += found
        return text

    def value(self, value: object, where: str, counts: Counts, key: str = "") -> object:
        """A JSON value, scrubbed; ``where`` is its JSON path, ``key`` its name."""
        if isinstance(value, str):
            if value in self._ours.get(key, ()):
                return value
            if key in ("id", "nodeid"):
                return self._counted(self._redactor.identifier(value), where, counts)
            return self.text(_program(value) if key == "command" else value, where, counts)
        if isinstance(value, Mapping):
            scrubbed: dict[str, object] = {}
            for key, item in value.items():
                name = str(key)
                # Keys of details are texts like others. Other keys are our words, which may happen to be a user's name.
                shown = name
                if ".details" in where:
                    shown = self.text(name, f"{where} (a key)", counts)
                elif not name.isidentifier():
                    shown = self._counted(self.secrets(name), f"{where} (a key)", counts)
                scrubbed[shown] = self.value(item, f"{where}.{shown}", counts, name)
            return scrubbed
        if isinstance(value, list | tuple):
            return [self.value(item, f"{where}[{number}]", counts, key) for number, item in enumerate(value)]
        return value


def _path(path: str) -> re.Pattern[str]:
    return re.compile(rf"{re.escape(path.rstrip('/'))}(?![\w.-])")


def _word(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])")


def _user() -> tuple[str, str]:
    """This user's name and home folder; empty if the system knows none."""
    try:
        entry = pwd.getpwuid(os.getuid())
    except KeyError:
        return os.environ.get("USER", ""), ""
    return entry.pw_name, entry.pw_dir


def _program(command: str) -> str:
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    return Path(words[0]).name if words else ""


def _tail(path: Path, size: int) -> bytes:
    """The end of a log, at most ``size`` bytes, from the beginning of a line."""
    descriptor = files.existing(path)
    with os.fdopen(descriptor, "rb") as stream:
        whole = os.fstat(descriptor).st_size
        stream.seek(max(0, whole - size))
        text = stream.read(size)
    return text if whole <= size else text.partition(b"\n")[2]


def _system(settings: Settings) -> dict[str, object]:
    """Versions and platform; no name of a machine."""
    release: dict[str, str] = {}
    with contextlib.suppress(OSError):
        release = platform.freedesktop_os_release()
    return {
        "preflight": __version__,
        "python": report.python(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
        "system": report.machine(),
        "distribution": release.get("PRETTY_NAME", ""),
        "c_library": " ".join(platform.libc_ver()),
        "processors": os.cpu_count(),
        "project": str(settings.root),
        "packages": packages(dependencies.declared()),
    }


def packages(declared: list[str]) -> dict[str, str]:
    """Versions of every distribution that these requirements need, directly or through another one."""
    from packaging.requirements import InvalidRequirement, Requirement

    found: dict[str, str] = {}
    waiting = [(text, "") for text in declared]
    seen: set[tuple[str, str]] = set()
    while waiting:
        text, extra = waiting.pop()
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = requirement.name.lower().replace("_", "-")
        try:
            distribution = importlib.metadata.distribution(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
            continue
        found[name] = distribution.version
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                waiting += [(needed, wanted) for needed in distribution.requires or ()]
    return dict(sorted(found.items()))
