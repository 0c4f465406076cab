"""The log: what launcher and worker said, and the audit; redacted, a line each, in a file that rotates.

A writer of our own: the launcher has a small memory budget, which Python's logging is not in (1.5 MiB), and
``logging.handlers`` follow links, keep the umask's mode and lose lines when two processes rotate.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from preflight import files
from preflight.output.audit import Event
from preflight.output.writer import Writer
from preflight.text import plain, printable
from preflight.times import stamp

if TYPE_CHECKING:
    from preflight.redaction.redactor import Redactor
    from preflight.redaction.stream import StreamRedactor
    from preflight.settings.model import Settings

SIZE = 5 * 1024 * 1024  # bytes after which a log file is rotated
LONGEST_LINE = 8 * 1024  # characters of a line
LONGEST_FIELD = 500  # characters of a field of an event, as JSON
KEPT = 4  # rotated files that are kept: log.1 is the youngest


class LogFile:
    """A file that several processes may append to: whole lines, mode 0600, never through a link."""

    def __init__(self, path: Path, *, size: int = SIZE, kept: int = KEPT, waits: bool = True) -> None:
        """``size`` in bytes; raises OSError if the file cannot be written.

        ``waits``: the writer waits for the disk. Else a file system that hangs, a network's, say, blocks a thread.
        """
        self.path = path
        self._size = size
        self._kept = kept
        self._descriptor = -1
        self._torn = False
        self._lost = 0
        self._counting = threading.Lock()
        self._writer = None if waits else Writer[str]("log", self._append, self.left_out)
        files.reach(path.parent)
        self._open()

    def _open(self) -> None:
        self.close()
        self._descriptor = files.opened(self.path, os.O_WRONLY | os.O_APPEND)

    def close(self) -> None:
        """Let go of the file; more than once does no harm."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def write(self, line: str) -> None:
        """Append one line. What cannot be written (a full disk) is lost and counted, and nobody stops for it."""
        if self._writer is not None:
            self._writer.put(line, len(line))
        else:
            self._append(line)

    def left_out(self, _line: str) -> None:
        """Count a line that could not be kept until the disk would take it; the next one that is written says so."""
        self._count(1)

    def _count(self, lost: int) -> None:
        with self._counting:
            self._lost += lost

    def _append(self, line: str) -> None:
        lost = self._lost
        said = f"lines lost here: {lost}\n" if lost else ""
        data = (("\n" if self._torn else "") + said + line + "\n").encode("utf-8", "replace")
        try:
            self._follow(len(data))
            written = os.write(self._descriptor, data)
        except OSError:
            self._count(1)
            return
        self._torn = written < len(data)
        self._count(int(self._torn) - lost)

    def _follow(self, more: int) -> None:
        """Open the file that has the name now, and rotate it when it is full."""
        status = os.fstat(self._descriptor) if self._descriptor >= 0 else None
        if status is None or not self._named(status):
            self._open()  # somebody else has rotated it, or removed it
            status = os.fstat(self._descriptor)
        if not status.st_size or status.st_size + more <= self._size:
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._named(status):
                for number in range(self._kept, 0, -1):
                    older = self._numbered(number - 1)
                    if os.path.lexists(older):
                        os.replace(older, self._numbered(number))
        except OSError:
            return  # another process is about it, or it cannot be: this line goes where we are
        self._open()

    def _named(self, status: os.stat_result) -> bool:
        try:
            named = os.lstat(self.path)
        except OSError:
            return False
        return (named.st_ino, named.st_dev) == (status.st_ino, status.st_dev)

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}") if number else self.path


class Log:
    """Redacts and writes. Without a file and a trail, and in the format text, it writes nothing."""

    def __init__(
        self,
        redactor: Redactor,
        file: LogFile | None = None,
        form: str = "text",
        echo: Callable[[str], object] = lambda line: _say(sys.stderr, line),
        trail: Path | None = None,
        waits: bool = True,
    ) -> None:
        """``form``: "text" or "json"; with "json" the audit goes to ``echo`` as well.

        ``file`` gets all that is said and the audit, ``trail`` the audit alone. It is made with its folder when
        there is something to record, and left where that folder cannot be used. ``waits``: as in LogFile, for the
        trail.
        """
        self.redactor = redactor
        self.file = file
        self.form = form
        self._echo = echo
        self._trail = trail
        self._trail_file: LogFile | None = None
        self._recorder = None if waits or trail is None else Writer[str]("audit", self._record, self._not_recorded)
        self._streams: dict[str, tuple[int, StreamRedactor]] = {}  # by source: its PID, and what is known of its stream

    def line(self, source: str, pid: int, text: str) -> None:
        """A line that somebody said: "launcher", "worker" or "suite"."""
        if self.file is None:
            return
        at = stamp(time.time())
        said = _one_line(self._stream(source, pid).next(text, LONGEST_LINE))
        if self.form == "json":
            self.file.write(_json({"at": at, "source": source, "pid": pid, "text": said}))
        else:
            self.file.write(f"{at} {source}[{pid}] {said}")

    def _stream(self, source: str, pid: int) -> StreamRedactor:
        from preflight.redaction.stream import StreamRedactor  # imported already, with this log's redactor

        known = self._streams.get(source)
        if known is None or known[0] != pid:
            known = self._streams[source] = pid, StreamRedactor(self.redactor)
        return known[1]

    def audit(self, event: Event, *, shown: bool = True) -> None:
        """An event; ``shown``: people see it elsewhere, so as text it need not be on standard error as well."""
        # Redacted first, and cut then: of a secret that was cut, the beginning would stay.
        redacted = plain(self.redactor.value(dict(event.fields)))
        fields = {_cut(name): _cut(value) for name, value in redacted.items()}
        event = event._replace(kind=_cut(self.redactor.text(event.kind)), fields=fields)
        line = self._rendered(event)
        for number, name in enumerate(sorted(fields, key=lambda name: -_size(name) - _size(fields[name])), start=1):
            if len(line) <= LONGEST_LINE:
                break
            del fields[name]
            line = self._rendered(event._replace(fields={**fields, "left_out": number}))
        if self.file is not None:
            self.file.write(line)
        if self._recorder is not None:
            self._recorder.put(line, len(line))
        else:
            self._record(line)
        if self.form == "json" or not shown:
            self._echo(line)

    def _record(self, line: str) -> None:
        if trail := self._open_trail():
            trail.write(line)
            trail.close()  # seldom used; held open, it would keep the disk from being unmounted

    def _not_recorded(self, line: str) -> None:
        if self._trail_file is not None:
            self._trail_file.left_out(line)

    def _open_trail(self) -> LogFile | None:
        if self._trail_file is None and self._trail is not None:
            try:
                files.own(self._trail.parent)
                self._trail_file = LogFile(self._trail)
            except OSError:
                return None  # the requirement State Folder says why
        return self._trail_file

    def _rendered(self, event: Event) -> str:
        if self.form == "json":
            return _json(event.to_json())
        return f"{stamp(event.at)} audit {_one_line(event.to_text())}"


def direct(settings: Settings, redactor: Redactor, file: LogFile | None = None) -> Callable[[Event], None]:
    """Takes the events of an application that was started without the launcher: to Python's logging, and the file."""
    import logging  # the launcher does without

    logger = logging.getLogger("preflight.audit")
    log = Log(redactor, file, settings.log_format, lambda line: logger.warning("%s", line), trail=settings.state.audit)
    return lambda event: log.audit(event, shown=False)


def _cut(value: Any) -> Any:
    """What fits of a field's value. Its other fields say who and what: a long one must not crowd them out."""
    if isinstance(value, str):
        value = _one_line(value)
    if _size(value) <= LONGEST_FIELD:
        return value
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    kept = text[:LONGEST_FIELD]
    while _size(kept) > LONGEST_FIELD:  # characters beyond ASCII become longer
        kept = kept[: len(kept) * LONGEST_FIELD // _size(kept)]
    return kept + " …"


def _size(value: object) -> int:
    return len(json.dumps(value, default=str))


def _one_line(text: str) -> str:
    return printable(text).replace("\n", "?")


def _json(record: dict[str, Any]) -> str:
    return json.dumps(record, default=str)


def _say(stream: IO[str], line: str) -> None:
    try:
        stream.write(line + "\n")
        stream.flush()
    except OSError:
        pass  # nobody reads it: no reason to stop
