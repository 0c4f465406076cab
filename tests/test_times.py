"""Times as they are written and read again."""

from __future__ import annotations

import calendar
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from preflight.times import epoch, minute, now, stamp

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "at, written",
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1767323045.678, "2026-01-02T03:04:05.678Z"),
        (1767323045.0009, "2026-01-02T03:04:05.000Z"),
        (1767323045.9999, "2026-01-02T03:04:05.999Z"),
    ],
)
def test_stamp(at: float, written: str) -> None:
    """UTC, to the millisecond that has begun."""
    assert stamp(at) == written


def test_now_is_read_again() -> None:
    """What is written now is this second, whatever the machine's time zone is."""
    before = int(time.time())
    assert before <= epoch(now()) <= time.time()
    assert epoch("2026-01-02T03:04:05Z") == 1767323045.0


@given(some.integers(-62_135_596_800, 253_402_300_799), some.integers(0, 999))
def test_what_is_written_is_read_as_it_was(at: int, milliseconds: int) -> None:
    """Every second of every year that has four digits, with and without milliseconds."""
    year, *rest = time.gmtime(at)[:6]
    written = f"{year:04}-{rest[0]:02}-{rest[1]:02}T{rest[2]:02}:{rest[3]:02}:{rest[4]:02}"
    assert epoch(f"{written}Z") == at == calendar.timegm(time.gmtime(at))
    assert epoch(f"{written}.{milliseconds:03}Z") == pytest.approx(at + milliseconds / 1000, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "zone, local, clock",
    [
        ("UTC", "2026-01-02 03:04:05 UTC", "03:04:05 UTC"),
        ("GMT0BST,M3.5.0/1,M10.5.0", "2026-01-02 03:04:05 UTC", "03:04:05 UTC"),
        ("CET-1CEST,M3.5.0,M10.5.0/3", "2026-01-02 04:04:05 +01:00", "04:04:05 +01:00"),
        ("IST-5:30", "2026-01-02 08:34:05 +05:30", "08:34:05 +05:30"),
        ("NST3:30NDT,M3.2.0,M11.1.0", "2026-01-01 23:34:05 -03:30", "23:34:05 -03:30"),
        ("Nowhere", "2026-01-02 03:04:05 UTC", "03:04:05 UTC"),
    ],
)
def test_times_for_people(zone: str, local: str, clock: str) -> None:
    """They are on this machine's clock, and say how far it is from UTC; summer and winter each have their own."""
    program = (
        "from preflight import times\n"
        "print(times.local_of('2026-01-02T03:04:05Z'))\n"
        "print(times.clock(1767323045.678))\n"
        "print(times.local(1767323045.678, precise=True))\n"
        "print(times.local_of('2026-07-02T03:04:05Z').partition(' ')[2].partition(' ')[2])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "TZ": zone},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    first, second, precise, summer = done.stdout.splitlines()
    assert (first, second) == (local, clock)
    assert precise == local.replace(":05 ", ":05.678 ")
    in_summer = {"BST": "+01:00", "CEST": "+02:00", "NDT": "-02:30"}
    assert summer == next((shift for name, shift in in_summer.items() if name in zone), local.rpartition(" ")[2])


def test_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Today's without a date, another day's with it; never without the zone."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        assert re.fullmatch(r"\d\d:\d\d \+05:30", minute(time.time()))
        assert minute(0) == "1970-01-01 05:30 +05:30"
    finally:
        monkeypatch.undo()
        time.tzset()
