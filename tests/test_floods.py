"""What strangers can make the log say: the first records of a kind, then their number."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from preflight.output import floods


class Kept(logging.Handler):
    """Keeps what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(logging.Formatter("%(message)s").format(record))


class Bounded:
    """A logger with limits, and a clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.bounded = floods.Bounded(lambda: self.now)
        self.logger = logging.getLogger("tests.floods")
        self.handler = Kept()
        self.logger.addHandler(self.handler)
        self.logger.addFilter(self.bounded)
        self.logger.propagate = False

    @property
    def texts(self) -> list[str]:
        return self.handler.texts

    def close(self) -> None:
        self.logger.removeHandler(self.handler)
        self.logger.removeFilter(self.bounded)


@pytest.fixture
def one() -> Iterator[Bounded]:
    bounded = Bounded()
    yield bounded
    bounded.close()


def test_the_first_are_written_and_the_others_counted(one: Bounded) -> None:
    """Their number is said when the minute is over, with or without another record."""
    for number in range(100):
        one.logger.error("connection %d failed", number)
    assert one.texts == [f"connection {number} failed" for number in range(floods.SINGLY)]
    one.now += floods.EVERY
    one.bounded.tell()
    assert one.texts[floods.SINGLY :] == ["95 more lines within a minute were not written: connection %d failed"]
    one.logger.error("connection %d failed", 1000)
    assert one.texts[-1] == "connection 1000 failed"


@pytest.mark.parametrize(
    "text",
    [
        "Fatal error of <Transport fd={0} at 0x{0:x}>\nprotocol: {0}",
        "{0} failed",
        "error {0}\r\x1b[31m",
    ],
)
def test_what_a_client_changes_makes_no_other_kind(one: Bounded, text: str) -> None:
    """Numbers, addresses and further lines differ each time in what others put into a template."""
    for number in range(1000, 1100):
        one.logger.error(text.format(number))
    assert len(one.texts) == floods.SINGLY


def test_exceptions_are_told_apart_by_their_place(one: Bounded) -> None:
    """Not by what they say, which may be a client's words."""
    for number in range(100):
        try:
            int("x" * number + "!")
        except ValueError:
            one.logger.exception("It broke")
        try:
            int("y" * number + "!")
        except ValueError:
            one.logger.exception("It broke")
    assert len(one.texts) == 2 * floods.SINGLY
    one.bounded.tell(at_once=True)
    assert all("It broke (ValueError in test_floods.py:" in text for text in one.texts[-2:])


def test_all_together(one: Bounded) -> None:
    """However many kinds there are, what is written in a minute has an end, and so has what is kept of them."""
    for number in range(1000):
        template = f"{'x' * (number % 90)}{'y' * (number // 90)} failed"
        one.logger.error(template)
    assert len(one.texts) == floods.TOGETHER
    one.bounded.tell(at_once=True)
    counted = one.texts[floods.TOGETHER :]
    assert len(counted) <= floods.KINDS + 1
    assert sum(int(text.split()[0]) for text in counted) == 1000 - floods.TOGETHER


def test_long_texts(one: Bounded) -> None:
    """A record is cut, whichever part of it is too long; of a traceback both ends are kept."""
    one.logger.error("%s", "x" * 1_000_000)
    try:
        raise ValueError("first\n" * 100_000 + "last")
    except ValueError:
        one.logger.exception("It broke")
    assert len(one.texts[0]) < floods.LONGEST + 10
    assert len(one.texts[1]) < floods.LONGEST_TRACEBACK + 100
    assert one.texts[1].startswith("It broke\nTraceback (most recent call last):")
    assert one.texts[1].endswith("last")


def test_a_record_that_cannot_be_formatted(one: Bounded) -> None:
    """Logging's own way with it stays."""
    assert one.bounded.filter(logging.LogRecord("a", logging.ERROR, "", 0, "%d %d", ("x",), None))


def test_once_is_enough() -> None:
    """Each server of a process may ask for it."""
    assert floods.bound() is floods.bound()
    for name in floods.LOGGERS:
        assert logging.getLogger(name).filters.count(floods.bound()) == 1
