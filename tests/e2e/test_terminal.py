"""What a terminal shows and a pipe does not: progress and colours."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from preflight.output.plainlines import cells
from tests.e2e.doubles import Providers
from tests.e2e.place import BLOCKED, READY, Place
from tests.e2e.terminals import Pseudo, plain_text
from tests.pasting import is_command

ESCAPE = "\x1b["


@pytest.fixture
def opened() -> Iterator[list[Pseudo]]:
    """Terminals that are closed, with what runs on them, after the test."""
    terminals: list[Pseudo] = []
    yield terminals
    for terminal in terminals:
        terminal.close()


@pytest.fixture
def down(quick: Place) -> Place:
    """A project that nothing can be served of at the moment, which takes no time to find out."""
    quick.environ |= {"PREFLIGHT_DEMO": "1", "PREFLIGHT_APP": "small:app"}
    (quick.root / "down").touch()
    return quick


def test_progress_and_colours(equipped: Place, providers: Providers, opened: list[Pseudo]) -> None:
    """While a slow service is waited for its requirement stands in the progress line; banners are coloured."""
    providers.openai.hangs = True
    # The deadline of a question begins with the run: where the machine is busy, 2 s are over before anybody waits.
    terminal = Pseudo(equipped, "--check-only", PREFLIGHT_PYTHON=">=3.99", PREFLIGHT_PROBE_TIMEOUT="30s")
    opened.append(terminal)
    terminal.until_shows("OpenAI API Key …")
    providers.close()
    assert terminal.wait() == 1
    assert re.search(r"\d+/\d+ OpenAI API Key …", plain_text(terminal.shown))
    assert re.search(r"\x1b\[1;[0-9;]*41m[^\n]*" + re.escape(BLOCKED), terminal.shown)
    assert "…" not in terminal.shown.partition(BLOCKED)[2]


def test_no_color(down: Place, opened: list[Pseudo]) -> None:
    """NO_COLOR: no colours in the banners, and the words stay."""
    terminal = Pseudo(down, "--check-only", NO_COLOR="1")
    opened.append(terminal)
    assert terminal.wait() == 1
    assert BLOCKED in terminal.shown
    assert not re.search(r"\x1b\[[0-9;]*(3[0-9]|4[0-9]|9[0-9])(;[0-9;]*)?m", terminal.shown)


def test_control_c(place: Place, opened: list[Pseudo]) -> None:
    """Ctrl-C on a terminal while it serves drains and ends with exit code 0 and no traceback."""
    terminal = Pseudo(place, "--demo", "--app", "small:app")
    opened.append(terminal)
    terminal.until_shows(READY)
    terminal.press(b"\x03")
    assert terminal.wait() == 0
    assert "Stopping (SIGINT)." in terminal.shown
    assert "Traceback" not in terminal.shown


def lines_of(terminal: Pseudo) -> list[str]:
    """What is left on the screen, line by line as it was written."""
    return [line.rpartition("\r")[2] for line in plain_text(terminal.shown).replace("\r\n", "\n").split("\n")]


@pytest.mark.parametrize("columns", [40, 80])
def test_narrow_terminal(place: Place, opened: list[Pseudo], columns: int) -> None:
    """On a narrow terminal no line is wider than it is, but for commands and paths: those are whole, to be copied."""
    terminal = Pseudo(place, "--check-only", "--offline", columns=columns)
    opened.append(terminal)
    assert terminal.wait() == 1
    lines = lines_of(terminal)
    long = [line.removeprefix("   Fix: ") for line in lines if len(line) > columns]
    assert [line for line in long if len(line.split()) > 1 and not is_command(line)] == []
    whole = " ".join(" ".join(line.split()) for line in lines)
    assert "not tried, and nothing was stopped: the start is blocked by Environment File, OpenAI API Key" in whole
    assert f"Fix: set OPENAI_API_KEY in {place.env_file}" in whole


def test_history_on_a_narrow_terminal(down: Place, opened: list[Pseudo]) -> None:
    """Where the table does not fit, each run has lines of its own, and nothing of it is cut."""
    (down.root / "down").unlink()
    down.run("--check-only")
    (down.root / "down").touch()
    down.run("--check-only")
    for columns in (40, 80):
        terminal = Pseudo(down, "--history", columns=columns)
        opened.append(terminal)
        assert terminal.wait() == 0
        lines = [line for line in lines_of(terminal) if line]
        assert [line for line in lines if len(line) > columns] == []
        assert "   problems: Service" in lines
        assert "   changes: Service: passed → failed" in " ".join(lines)
        heads = [line for line in lines if re.match(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d ", line)]
        assert [("failed" in head, "passed" in head) for head in heads] == [(True, False), (False, True)]
        assert "\n".join(lines).count(f"127.0.0.1:{down.port}") == 2
    wide = Pseudo(down, "--history", columns=160)
    opened.append(wide)
    assert wide.wait() == 0
    assert lines_of(wide)[0].split() == ["When", "Origin", "Address", "Status", "Took", "Problems", "Changes"]


def test_port_status_on_a_narrow_terminal(place: Place, opened: list[Pseudo]) -> None:
    """Where the table does not fit, each holder has a line for each of its facts."""
    holder = place.listener("with", "many", "words", "so", "that", "its", "command", "is", "long")
    for columns in (40, 80):
        terminal = Pseudo(place, "--port-status", columns=columns)
        opened.append(terminal)
        assert terminal.wait() == 1
        lines = lines_of(terminal)
        assert [line for line in lines if len(line) > columns and "/" not in line] == []
        assert f"PID         {holder.pid}" in lines
        assert f"Address     127.0.0.1:{place.port}" in lines
        assert "that its command is long" in " ".join(" ".join(lines).split())


@pytest.mark.parametrize("columns", [40, 80])
def test_wrong_usage_on_a_narrow_terminal(place: Place, opened: list[Pseudo], columns: int) -> None:
    """What is wrong is all that is said, in whole words."""
    terminal = Pseudo(place, "--prot", "1", columns=columns)
    opened.append(terminal)
    assert terminal.wait() == 2
    lines = [line for line in lines_of(terminal) if line]
    assert " ".join(" ".join(lines).split()) == (
        "run.py: error: unrecognized arguments: --prot 1; did you mean --port?"
    )
    assert all(len(line) <= columns for line in lines)


@pytest.mark.parametrize("columns", [40, 80])
def test_what_was_done_on_a_narrow_terminal(place: Place, opened: list[Pseudo], columns: int, tmp_path: Path) -> None:
    """Words stay whole, no line but a command or a path is wider than the terminal, and a command is one line."""
    narrow, wide = tmp_path / "a", tmp_path / "日本語のフォルダー"
    for folder in (narrow, wide):
        folder.mkdir()
    bundled = "look through it before you attach it to a public issue."
    for options, said, command in (
        (["--init"], "Now open it and fill in OPENAI_API_KEY, then run:", f"{sys.executable} {place.root}/run.py"),
        (["--init"], "exists and was left as it is.", ""),
        (["--bundle", f"{narrow}/b.zip"], bundled, ""),
        (["--bundle", f"{wide}/b.zip"], bundled, ""),
        (["--test-notify"], f"PREFLIGHT_NOTIFY is not set: set it in {place.env_file} or the environment", ""),
    ):
        terminal = Pseudo(place, *options, columns=columns)
        opened.append(terminal)
        assert terminal.wait() == (2 if options == ["--test-notify"] else 0)
        lines = [line for line in lines_of(terminal) if line]
        assert [line for line in lines if cells(line) > columns and "/" not in line] == []
        assert [line for line in lines if cells(line) > columns and len(line.split()) > 1 and line != command] == []
        assert said in " ".join(" ".join(lines).split())
        assert not command or lines[-1] == command


@pytest.mark.parametrize("columns", [40, 80])
def test_an_empty_notify_on_a_narrow_terminal(place: Place, opened: list[Pseudo], columns: int) -> None:
    """What is wrong with it is said in whole words, too."""
    terminal = Pseudo(place, "--test-notify", columns=columns, PREFLIGHT_NOTIFY="")
    opened.append(terminal)
    assert terminal.wait() == 2
    lines = [line for line in lines_of(terminal) if line]
    assert lines[0].startswith("run.py: error: PREFLIGHT_NOTIFY is")
    assert [line for line in lines if cells(line) > columns and len(line.split()) > 1] == []


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"PYTHONIOENCODING": "ascii"}])
def test_terminal_without_emoji(down: Place, opened: list[Pseudo], variables: dict[str, str]) -> None:
    """Where emoji cannot be shown there are words in their place."""
    down.environ |= variables
    terminal = Pseudo(down, "--check-only", term=variables.get("TERM", "xterm"))
    opened.append(terminal)
    assert terminal.wait() == 1
    text = plain_text(terminal.shown)
    assert "[FAILED] Service" in text
    assert "✅" not in text
    assert "❌" not in text
    assert "Traceback" not in text


def test_pipe(down: Place) -> None:
    """A pipe gets no escape codes and no progress, whatever TERM says."""
    started = down.run("--check-only", TERM="xterm-256color")
    assert BLOCKED in started.stdout
    assert ESCAPE not in started.output
    assert "…" not in started.stdout
