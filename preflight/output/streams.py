"""Standard output and error that do not wait for their reader: a suspended program, a pager, a stopped terminal.

In this order: :func:`install` puts a :class:`Stream` in place of ``sys.stdout`` and ``sys.stderr``, a Terminal says
what may be lost, and :func:`finish` waits at the end for what may not. The mode of a descriptor is left alone: it is
shared with the shell and with other programs.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
import threading
from pathlib import Path
from typing import NamedTuple, TextIO

from preflight.output.writer import GOODBYE, Writer

PIECE = 4096  # bytes written at once: others that write to the same pipe do not get into the middle (PIPE_BUF)
GONE = (errno.EPIPE, errno.EIO)  # the reader of a pipe, or a terminal, that will hardly come back


class Unwritten(OSError):
    """The requested output could not be written, although its reader has not gone."""


class _Text(NamedTuple):
    """A piece of one stream's output: a banner is written whole or not at all."""

    stream: Stream
    data: bytes
    forgiving: bool


class _Target:
    """Where a stream leads, or both do: a pipe, a terminal, a file."""

    def __init__(self) -> None:
        self.gone = False
        """Whether its reader has gone for good: what is written leads nowhere from then on."""
        self._counting = threading.Lock()
        self._lost = 0
        self._why = ""
        self._torn = False
        self.writer: Writer[_Text] = Writer("output", self._write, self._left_out)

    def _left_out(self, text: _Text) -> None:
        self._count(text.data, "nobody read the output")

    def _count(self, data: bytes, why: str) -> None:
        with self._counting:
            self._lost += data.count(b"\n")
            self._why = why

    def _write(self, text: _Text) -> None:
        if self.gone:
            return
        with self._counting:
            lost, note = self._lost, ""
        if lost:
            note = f"[{lost} {'line was' if lost == 1 else 'lines were'} lost: {self._why}]\n"
        data = (b"\n" if self._torn else b"") + note.encode() + text.data
        written = 0
        try:
            while written < len(data):
                written += _write(text.stream.fileno(), data[written : written + PIECE])
                self.writer.progressed()
        except OSError as error:
            self._torn = (data[written - 1 : written] or b"\n") != b"\n"
            if error.errno in GONE and not _has_a_name(text.stream.fileno()):
                self.gone = True
                self.writer.discard()
            else:
                why = "nobody read the output" if error.errno in GONE else os.strerror(error.errno or 0)
                self._count(text.data[max(0, written - len(data) + len(text.data)) :], why)
            if not text.forgiving:
                text.stream.error = error
        else:
            self._torn = False
            with self._counting:
                self._lost -= lost


def _has_a_name(descriptor: int) -> bool:
    """Whether this is a named pipe (mkfifo), which another reader may open: a log collector that is restarted, say."""
    try:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}")).is_fifo()  # "pipe:[4711]" if it has no name
    except OSError:
        return False


def _write(descriptor: int, data: bytes) -> int:
    while True:
        try:
            return os.write(descriptor, data)
        except BlockingIOError:  # the pipe is in non-blocking mode; this thread can wait
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


class Stream(io.TextIOBase):
    """In place of ``sys.stdout`` or ``sys.stderr``. Characters that its encoding does not know are escaped.

    An error of writing is raised by a later :meth:`flush`, as with other files that have a buffer.
    """

    def __init__(self, given: TextIO, target: _Target, *, lossy: bool) -> None:
        """``given``: the stream in whose place this is."""
        self._descriptor = given.fileno()
        self._encoding = given.encoding
        self._target = target
        self._pending: list[str] = []
        self._by_line = lossy or given.isatty()
        self.lossy = lossy
        """Whether lines may be lost if nobody reads."""
        self.forgiving = False
        """Whether errors of writing are ignored: there is more to do than to write."""
        self.error: OSError | None = None
        self.buffer = _Bytes(self)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._pending.append(text)
        if self._by_line and "\n" in text:
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Hand over what was written. Raises OSError if something of it, or of what came before, was in vain."""
        if self._pending:
            text, self._pending = "".join(self._pending), []
            self.put(text.encode(self._encoding, self.errors))
        if self.error is not None:
            error, self.error = self.error, None
            raise error if isinstance(error, BrokenPipeError) else Unwritten(error.errno, error.strerror) from error

    def put(self, data: bytes) -> None:
        """Have bytes written, in one piece."""
        if not self._target.gone:
            self._target.writer.put(_Text(self, data, self.forgiving), len(data), lossy=self.lossy)
        elif not self.forgiving:
            self.error = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    @property
    def behind(self) -> bool:
        """Whether its reader is behind."""
        return self._target.writer.behind

    def settled(self, patience: float | None) -> bool:
        """Wait until all is written that may not be lost, for ``patience`` seconds at most; returns whether it is."""
        return self._target.writer.settled(patience, lossy=False)

    def finish(self) -> None:
        """Wait until all is written that may not be lost, and GOODBYE seconds for the rest. Raises as flush() does."""
        self.flush()
        self._target.writer.settled(None, lossy=False)
        self._target.writer.settled(GOODBYE)
        self.flush()


class _Bytes(io.RawIOBase):
    """A stream's ``buffer``."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._stream.flush()
        self._stream.put(bytes(data))
        return len(data)

    def flush(self) -> None:
        self._stream.flush()


def install() -> None:
    """Put streams in place of ``sys.stdout`` and ``sys.stderr``; where one was closed, it leads nowhere."""
    target: _Target | None = None
    status: os.stat_result | None = None
    for name in ("stdout", "stderr"):
        given = getattr(sys, name)
        if given is None:  # the parent has closed it
            given = open(os.devnull, "w")  # noqa: SIM115  # for as long as the process lives
            setattr(sys, f"__{name}__", given)
        given.flush()
        before, status = status, os.fstat(given.fileno())
        if target is None or before is None or not os.path.samestat(before, status):
            target = _Target()  # one for both of them, if they lead to the same place: in their order
        # Standard error is for people: no command waits for ever for somebody to read it.
        setattr(sys, name, Stream(given, target, lossy=name == "stderr"))


def finish() -> None:
    """Wait for the reader of standard output, if it may not lose anything. Raises OSError if it has gone."""
    if isinstance(sys.stdout, Stream):
        sys.stdout.finish()


def reader_has_gone() -> bool:
    """Whether nobody will ever read standard output: what it leads to has no other end any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # errors and hang-ups are told in any case
    hung_up = any(events & (select.POLLERR | select.POLLHUP) for _descriptor, events in poll.poll(0))
    return hung_up and not _has_a_name(sys.stdout.fileno())
