"""The terminal: everything that people read is redacted, and no stream is too poor for it."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import select
from collections.abc import Callable, Iterator
from typing import TextIO

import pytest

from preflight.output.log import Log
from preflight.output.terminal import Terminal
from preflight.redaction.redactor import MASK, Redactor
from preflight.report import banners
from preflight.report.model import Check

KEY = "sk-canary-3f9a1c77e2Zq"


class Screen:
    """A pseudo-terminal: what programs write to ``stream`` can be read here."""

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        self.stream: TextIO = os.fdopen(slave, "w", encoding="utf-8")
        self.seen = ""

    def until(self, text: str) -> str:
        """All that was written so far, once ``text`` is in it."""
        while text not in self.seen:
            assert select.select([self._master], [], [], 10)[0], f"{text!r} never came: {self.seen!r}"
            self.seen += os.read(self._master, 65536).decode()
        return self.seen

    def close(self) -> None:
        self.stream.close()
        os.close(self._master)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    opened = Screen()
    yield opened
    opened.close()


def written(encoding: str, use: Callable[[Terminal], object]) -> bytes:
    """The bytes that a pipe of this encoding gets."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    use(Terminal(Log(Redactor([KEY])), stream))
    stream.flush()
    return raw.getvalue()


def test_redacts() -> None:
    """A secret that gets into a line does not get out of it."""
    assert written("utf-8", lambda terminal: terminal.line(f"key {KEY}!")) == f"key {MASK}!\n".encode()


def test_obeys_nobody() -> None:
    """Control characters in a text from elsewhere do nothing."""
    assert written("utf-8", lambda terminal: terminal.line("a\x1b[2J\x07\x9bb")) == b"a?[2J??b\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_encoding(encoding: str, make_check: Callable[..., Check]) -> None:
    """Characters that the stream's encoding does not know do not end the start."""
    check = make_check("Größe", "failed", message="日本 – ✅", fix="rm 'ü'")

    def use(terminal: Terminal) -> None:
        terminal.line("· … 🚀")
        terminal.show(banners.banner("t", "red", [check], plain=terminal.plain, verbose=True))

    shown = written(encoding, use).decode(encoding)
    assert "Fix: rm" in shown
    assert ("🚀" in shown) == (encoding == "utf-8")


def test_bytes_that_are_no_text() -> None:
    """A file name that is no UTF-8 can be shown."""
    assert written("utf-8", lambda terminal: terminal.show("caf\udce9")) == b"caf\\udce9\n"


def test_pipe_has_no_colour_and_its_own_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pipe there are no escape sequences, and lines of 100 columns."""
    for name in ("COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    shown = written("utf-8", lambda terminal: terminal.show(banners.failure("t", ["word " * 40]))).decode()
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) == 100
    monkeypatch.setenv("COLUMNS", "60")
    shown = written("utf-8", lambda terminal: terminal.show(banners.failure("t", ["word " * 40]))).decode()
    assert max(map(len, shown.splitlines())) == 60


def test_colour_on_a_terminal(screen: Screen) -> None:
    """A terminal gets colour."""
    terminal = Terminal(Log(Redactor()), screen.stream)
    terminal.line("red text", "red")
    assert "\x1b[31mred text" in screen.until("text")


def test_no_color(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR is honoured on a terminal: no colour in any banner."""
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal(Log(Redactor()), screen.stream)
    terminal.show(banners.failure("title", ["line"]))
    terminal.line("red text", "red")
    seen = screen.until("text")
    for parameters in (part.split("m")[0] for part in seen.split("\x1b[")[1:]):
        assert not {"30", "31", "37", "41", "38", "48"} & set(parameters.split(";"))


def test_progress(screen: Screen) -> None:
    """While the suite runs the terminal names what is being checked, redacted; afterwards the line is gone."""
    terminal = Terminal(Log(Redactor([KEY])), screen.stream)
    terminal.progress("Python Version", 0, 3)
    screen.until("0/3 Python Version …")
    terminal.progress(f"Key {KEY}\x1b", 1, 3)
    seen = screen.until(f"1/3 Key {MASK}? …")
    assert KEY not in seen
    terminal.progress_over()
    terminal.progress_over()
    terminal.line("after")
    seen = screen.until("after")
    assert "\x1b[2K" in seen[seen.rindex("1/3") :]  # the line is erased
    assert "\x1b[?25h" in seen[seen.rindex("1/3") :]  # and the cursor is back


def test_progress_on_a_plain_terminal(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's console gets a spinner and dots that it can show."""
    monkeypatch.setenv("TERM", "linux")
    terminal = Terminal(Log(Redactor()), screen.stream)
    terminal.progress("Memory", 0, 1)
    screen.until("0/1 Memory ...").encode("ascii")
    terminal.progress_over()


def test_no_progress_elsewhere(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe and a dumb terminal get no progress at all."""
    assert written("utf-8", lambda terminal: terminal.progress("Python Version", 0, 3)) == b""
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal(Log(Redactor()), screen.stream)
    terminal.progress("Python Version", 0, 3)
    terminal.line("end")
    assert screen.until("end").split() == ["end"]


def test_standard_output_is_the_default() -> None:
    """Without a stream it is standard output."""
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        Terminal(Log(Redactor())).line("here")
    assert stream.getvalue() == "here\n"
