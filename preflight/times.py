"""Times as they are written, in UTC, and read again."""

from __future__ import annotations

import re
import time


def now() -> str:
    """The time as reports write it: "2026-01-02T03:04:05Z"."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def stamp(at: float) -> str:
    """Seconds since the epoch, to the millisecond: "2026-01-02T03:04:05.678Z"."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at * 1000) % 1000:03}Z"


def epoch(written: str) -> float:
    """A time as reports write it, in seconds since the epoch."""
    import calendar  # brings datetime and locale, which a start has no use for

    return float(calendar.timegm(tuple(map(int, re.findall(r"[0-9]+", written)))))
