"""Times as they are written and read again."""

from __future__ import annotations

import time

import pytest

from preflight.times import epoch, now, stamp


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
