"""Writes and reads times.

For programs they are in UTC and end in "Z"; for people they are on the clock of this machine, with its distance from
UTC behind them. No time is written without one of the two: its reader may be in another zone than its writer.
"""

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
    """A time as :func:`now` or :func:`stamp` writes it, in seconds since the epoch."""
    year, month, day, hour, minute, second, fraction = [*re.findall(r"[0-9]+", written), "0"][:7]
    # Not calendar.timegm(): it brings datetime and locale, half a megabyte for as long as the launcher serves.
    years, months = int(year) - (int(month) < 3), (int(month) + 9) % 12  # that begin in March: leap days come last
    days = 365 * years + years // 4 - years // 100 + years // 400 + (153 * months + 2) // 5 + int(day) - 719469
    return days * 86400 + int(hour) * 3600 + int(minute) * 60 + int(second) + float(f"0.{fraction}")


def local(at: float | None = None, *, precise: bool = False) -> str:
    """Seconds since the epoch, or now, for people: "2026-01-02 04:04:05 +01:00"; ``precise``: with milliseconds."""
    fraction = f".{int(at * 1000) % 1000:03}" if precise and at is not None else ""
    return _local(f"%Y-%m-%d %H:%M:%S{fraction}", at)


def local_of(written: str) -> str:
    """A time as reports write it, for people."""
    return local(epoch(written))


def clock(at: float | None = None) -> str:
    """Seconds since the epoch, or now, for people, without the date: "04:04:05 +01:00"."""
    return _local("%H:%M:%S", at)


def minute(at: float) -> str:
    """Seconds since the epoch, to the minute: "04:04 +01:00"; with the date before it where that is not today's."""
    today = time.localtime()[:3] == time.localtime(at)[:3]
    return _local("%H:%M" if today else "%Y-%m-%d %H:%M", at)


def _local(form: str, at: float | None) -> str:
    """A time and its distance from UTC: a zone's name may mean several, and is made up where TZ is wrong."""
    moment = time.localtime(at)
    minutes = (moment.tm_gmtoff or 0) // 60
    zone = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}" if minutes else "UTC"
    return f"{time.strftime(form, moment)} {zone}"
