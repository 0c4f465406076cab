"""Waiting for what should happen: for the event itself, never for a time in which it should have."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

TOO_LONG = 30.0
"""Seconds of processor time for a hostile text: what is linear takes a few on a slow machine, and what is not takes
minutes."""
PATIENCE = 120.0  # seconds until a test gives up on something that should have happened; a busy machine takes its time


def until(holds: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Wait for a condition; what takes longer is looked at less often, since looking takes the processor, too."""
    begun = time.monotonic()
    while not holds():
        waited = time.monotonic() - begun
        assert waited < patience, f"waited {patience:g} s in vain until {what}"
        time.sleep(min(0.01 + waited / 20, 0.05))


def deadlines(*seconds: float) -> Iterator[float]:
    """Deadlines to try one after the other, for a test whose place is in a run that a deadline cuts off.

    The first is enough for a machine that has nothing else to do. A busy one may not have come to that place by then:
    the test breaks off as soon as it has been there, and fails if that never happens.
    """
    yield from seconds
    raise AssertionError(f"no deadline was long enough: {', '.join(map(str, seconds))} s")


async def eventually(holds: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """:func:`until` in an event loop, which turns meanwhile."""
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end, f"waited {patience:g} s in vain until {what}"
        await asyncio.sleep(0.001)


async def settled() -> None:
    """Let every task go on to where it waits for something that takes time."""
    for _ in range(20):
        await asyncio.sleep(0)
