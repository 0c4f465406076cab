"""A limit on the log lines that others can cause: a few lines of each kind a minute, and then their number.

A log rotates. A client that could cause a line, or a traceback, for each connection would push out the lines that the
log is there for. Lines are of one kind if they come from one logger and their text begins alike, numbers aside, or if
they are about one exception from one place: different data from clients does not make another kind.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable

from preflight.text import printable, shortened

LOGGERS = ("uvicorn.error", "uvicorn.asgi", "asyncio")
"""Loggers that write because of what clients do; what an application logs itself is not limited."""
EVERY = 60.0  # seconds that are counted together
SINGLY = 5  # records of a kind that are written in that time
TOGETHER = 30  # records of all kinds that are written in that time
KINDS = 50  # kinds that are told apart in that time; the others are counted together
LONGEST = 8 * 1024  # characters of a text
LONGEST_TRACEBACK = 16 * 1024  # characters; of a longer one both ends are kept: where it was called and what it was
FRAMES = 50  # innermost frames of a traceback
_NUMBER = re.compile(r"0x[0-9a-fA-F]{1,16}|[0-9]{1,20}")


class Bounded(logging.Filter):
    """Lets records through as above; for loggers, on which it may be more than once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._since = float("-inf")
        self._written: Counter[str] = Counter()
        self._left_out: Counter[tuple[str, str]] = Counter()  # by logger and kind

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be written; it is cut if it is too long."""
        if getattr(record, "preflight_count", False):
            return True
        self.tell()
        kind = _kind(record)
        with self._lock:
            if self._written[kind] >= SINGLY or self._written.total() >= TOGETHER:
                told_apart = len(self._left_out) < KINDS or (record.name, kind) in self._left_out
                self._left_out[record.name, kind if told_apart else "of other kinds"] += 1
                return False
            self._written[kind] += 1
        _cut(record)
        return True

    def tell(self, *, at_once: bool = False) -> None:
        """Report what was left out, when the period is over or ``at_once``."""
        with self._lock:
            now = self._clock()
            if now - self._since < EVERY and not at_once:
                return
            left_out, self._left_out = self._left_out, Counter()
            self._written.clear()
            self._since = now
        for (name, kind), count in left_out.most_common():
            what = "%d more lines within a minute were not written: %s"
            logging.getLogger(name).warning(what, count, kind, extra={"preflight_count": True})


_bounded = Bounded()


def bound() -> Bounded:
    """Limit the log lines about clients in this process, from now on; may be called more than once."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_bounded)
    return _bounded


def _kind(record: logging.LogRecord) -> str:
    """The kind of a record, as a line that clients cannot influence unless its logger's template has their text."""
    line = _NUMBER.sub("#", printable(str(record.msg)[:200]).strip().partition("\n")[0])[:100]
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if error is None:
        return line
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        place, trace = f" in {code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}", trace.tb_next
    return f"{line} ({type(error).__name__}{place})"


def _cut(record: logging.LogRecord) -> None:
    try:
        text = record.getMessage()
    except Exception:  # noqa: BLE001  # a template that does not fit its arguments: logging says so itself
        return
    if len(text) > LONGEST:
        record.msg, record.args = shortened(text, LONGEST), ()
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if error is None or record.exc_text:
        return
    lines = "".join(traceback.format_exception(type(error), error, error.__traceback__, limit=-FRAMES)).rstrip("\n")
    if len(lines) > LONGEST_TRACEBACK:
        lines = f"{lines[: LONGEST_TRACEBACK // 2]}\n[...]\n{lines[-LONGEST_TRACEBACK // 2 :]}"
    record.exc_text = lines  # formatters take it as it is
