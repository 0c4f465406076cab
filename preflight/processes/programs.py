"""Programs that are asked one question: ended when their time is over, with all that they have started.

Each carries a mark of its own in its environment, which every process that it starts inherits: one that has left its
parent, its group and its session is found by that mark.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import psutil

MARK = "PREFLIGHT_PROBE"
"""The variable with the mark."""
KEPT = 64 * 1024  # bytes of the output's beginning, and as many of its end
CLOSES = 0.2  # seconds after its end in which a program's output closes, if nothing that it has started holds it
ROUNDS = 5  # looks for what a marked process starts while it is being ended

_OURS = os.urandom(8).hex()
_number = itertools.count(1)
_marked = threading.Event()


class Late(Exception):
    """A program had not ended by its deadline, and was killed."""


class Ended(NamedTuple):
    """How a program ended, and what it printed: only the beginning and the end of much output."""

    code: int
    said: str
    complained: str
    """What it printed on its standard error: notices of new versions, say."""


def marked(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment with a mark of its own for one program and all that it starts."""
    _marked.set()
    return {**environ, MARK: f"{_OURS}.{next(_number)}."}


def run(command: Sequence[str], environ: Mapping[str, str], timeout: float, cwd: Path | None = None) -> Ended:
    """Run a program to its end, which is at most ``timeout`` seconds away. Raises Late, and OSError as Popen does."""
    own = marked(environ)
    process = subprocess.Popen(
        command, cwd=cwd, env=own, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    outputs = [_Output(process.stdout), _Output(process.stderr)]
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        # What it has started is ended with the run: the probe has no time left to look for that.
        process.kill()
        process.wait()
        raise Late from None
    if not all(output.closed(CLOSES) for output in outputs):
        _end(own[MARK])  # a process that it has started goes on, and holds its output
    for output in outputs:
        output.closed(CLOSES)
    return Ended(code, *(output.text() for output in outputs))


def end_all() -> None:
    """End what any marked program of this process has left."""
    if _marked.is_set():
        _end(_OURS)


def _end(mark: str) -> None:
    for _ in range(ROUNDS):
        left = [
            process
            for process in psutil.process_iter()
            if process.pid != os.getpid() and _mark_of(process).startswith(mark)
        ]
        if not left:
            return
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=1.0)


def _mark_of(process: psutil.Process) -> str:
    try:
        mark: str = process.environ().get(MARK, "")
    except (psutil.Error, OSError):  # another user's, or one that has just gone
        return ""
    return mark


class _Output:
    """A program's output, read as it comes, so that the program never waits for a reader."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        assert stream is not None  # noqa: S101  # it was asked for
        self._stream = stream
        self._begins = b""
        self._ends = b""
        self._thread = threading.Thread(target=self._read, name="output of a probe's program", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._stream:
            while data := os.read(self._stream.fileno(), KEPT):
                room = KEPT - len(self._begins)
                self._begins += data[:room]
                self._ends = (self._ends + data[room:])[-KEPT:]

    def closed(self, seconds: float) -> bool:
        """Whether all of it has been read, within so many seconds."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def text(self) -> str:
        return (self._begins + self._ends).decode("utf-8", "replace")
