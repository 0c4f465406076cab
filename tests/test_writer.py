"""Who has something to write waits for nobody: in order, bounded, and what is lost is known."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from preflight.output.writer import GOODBYE, LIMIT, Writer

PART = LIMIT // 8


class Slow:
    """Takes what is written when it is let, in a thread."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.written: list[str] = []
        self.lost: list[str] = []
        self.writer: Writer[str] = Writer("slow", self._take, self.lost.append)

    def _take(self, item: str) -> None:
        self.let.wait(60)
        self.written.append(item)

    def is_behind(self) -> bool:
        """A machine that is busy may make it so, too."""
        return self.writer.behind


@pytest.fixture
def slow() -> Iterator[Slow]:
    slow = Slow()
    yield slow
    slow.let.set()
    assert slow.writer.settled(10)


def test_written_when_it_returns(slow: Slow) -> None:
    """So that what goes to two places is in order, where both take it."""
    slow.let.set()
    for number in range(100):
        slow.writer.put(str(number), 10)
        assert slow.is_behind() or slow.written[-1] == str(number)
    assert slow.writer.settled(10)
    assert slow.written == [str(number) for number in range(100)]
    assert slow.lost == []


def test_waits_once(slow: Slow) -> None:
    """The first item that is not taken costs a moment, those behind it none."""
    slow.writer.put("first", 10)
    assert slow.is_behind()
    begun = time.monotonic()
    for number in range(1000):
        slow.writer.put(str(number), 10)
    assert time.monotonic() - begun < 5
    slow.let.set()
    assert slow.writer.settled(10)
    assert len(slow.written) == 1001
    until = time.monotonic() + 10
    while slow.is_behind():
        assert time.monotonic() < until
    slow.writer.put("last", 10)
    assert slow.is_behind() or slow.written[-1] == "last"


def test_the_oldest_make_way(slow: Slow) -> None:
    """Beyond the limit: neither what is being written nor what must not be lost, and the newest stays."""
    slow.writer.put("being written", PART)
    slow.writer.put("kept", PART, lossy=False)
    for number in range(20):
        slow.writer.put(str(number), PART)
    slow.let.set()
    assert slow.writer.settled(10)
    assert slow.lost == [str(number) for number in range(14)]
    assert slow.written == ["being written", "kept", *(str(number) for number in range(14, 20))]


def test_what_must_not_be_lost_has_no_limit(slow: Slow) -> None:
    for number in range(20):
        slow.writer.put(str(number), PART, lossy=False)
    assert not slow.writer.settled(0, lossy=False)
    slow.let.set()
    assert slow.writer.settled(10)
    assert slow.written == [str(number) for number in range(20)]


def test_one_that_is_larger_than_the_limit(slow: Slow) -> None:
    """It is written whole, alone."""
    slow.writer.put("first", 10)
    slow.writer.put("second", 10)
    slow.writer.put("large", 2 * LIMIT)
    slow.let.set()
    assert slow.writer.settled(10)
    assert (slow.written, slow.lost) == (["first", "large"], ["second"])


def test_no_thread_can_be_had(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then whoever writes waits, as ever."""

    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    slow.let.set()
    slow.writer.put("one", 10)
    assert slow.written == ["one"]


def test_the_end_waits_a_moment(slow: Slow) -> None:
    """Not for ever, and no longer than that for all of them."""
    slow.writer.put("first", 10)
    begun = time.monotonic()
    assert not slow.writer.settled(GOODBYE / 4)
    assert time.monotonic() - begun < 10
