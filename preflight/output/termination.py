"""Why a start failed, in the file where a container's runtime looks for it.

Kubernetes shows that file's content as the container's last message, in place of a log that somebody has to find first
(https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/). The file is there before we
are, belongs to this container, and is written once, at the end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from preflight.report.model import Check, Report

ROOM = 4096  # bytes: of a longer message Kubernetes keeps the end, and the first requirements would be lost
_RESERVED = 64  # of these, for how many have found no room


def message(why: Sequence[str], report: Report | None) -> str:
    """What blocks, each with what was found and the fix; else ``why``. It has :data:`ROOM` at most."""
    blocking = report.blocking if report is not None else ()
    blocks = ["\n".join(_lines(check)) for check in blocking] or list(why)
    text, room = "", ROOM - _RESERVED
    for number, block in enumerate(blocks):
        added = f"{_cut(block, room - 1)}\n"
        if len(text.encode()) + len(added.encode()) > room:
            return f"{text}... and {len(blocks) - number} more: the log has all of them\n"
        text += added
    return text


def _lines(check: Check) -> Iterator[str]:
    yield f"❌ {check.title}"
    yield f"   {check.message or check.requirement}"
    if check.fix:
        yield f"   Fix: {check.fix}"


def _cut(text: str, size: int) -> str:
    return text.encode()[:size].decode(errors="ignore")


def write(path: Path, text: str) -> None:
    """Put the message there; raises OSError, and waits for nobody who would have to read a pipe first."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
