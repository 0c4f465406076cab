"""A stream of lines, redacted one by one: even a secret that is folded over several of them is recognised.

And Python's own streams, where no launcher reads what a process writes: there each write is redacted by itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from preflight.redaction.redactor import Redactor

_WAIT = 20  # lines that may come between two pieces of a secret in a stream


class StreamRedactor:
    """Redacts the lines of a stream, one by one, and recognises a secret that is folded over several of them."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._begun = self._unfinished = ""
        self._waited = 0  # lines since the last piece of the unfinished secret

    def next(self, line: str, longest: int) -> str:
        """The next line; see `Redactor.beginning`."""
        if self._unfinished:
            redacted = self._redactor.beginning_after(f"{self._unfinished}\n", line, longest)
            if redacted.went_on:
                self._unfinished, self._begun, self._waited = redacted.unfinished, redacted.begun, 0
                return redacted.text
        redacted = self._redactor.beginning_after(f"{self._begun}\n" if self._begun else "", line, longest)
        self._waited += 1
        # Another thread's lines may come between two pieces.
        if redacted.unfinished or self._waited > _WAIT:
            self._unfinished, self._waited = redacted.unfinished, 0
        self._begun = redacted.begun
        return redacted.text


def redact_streams(redactor: Redactor) -> None:
    """Redact what is written to standard output and standard error; a second call takes another redactor.

    It lasts as long as the process: Python shows the exception that ends a run after pytest's last hook. pytest's
    capture and its terminal keep the streams themselves, so each gets another ``write``, and is not replaced.
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):
        write = stream.write
        vars(stream)["write"] = _Redacting(write.write if isinstance(write, _Redacting) else write, redactor)


class _Redacting:
    """What writes to a stream without secrets."""

    def __init__(self, write: Callable[[str], int], redactor: Redactor) -> None:
        self.write = write
        self._redactor = redactor

    def __call__(self, text: str) -> int:
        return self.write(self._redactor.text(text))
