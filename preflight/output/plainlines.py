"""Lines for people from commands that do without rich: whole words, as wide as the terminal is."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from preflight.text import printable


def columns(stream: TextIO | None) -> int | None:
    """How many columns the terminal has that this stream leads to; None where it leads to none."""
    if stream is None or not stream.isatty():
        return None
    given = os.environ.get("COLUMNS", "")
    if given.isdigit() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        return None


def folded(line: str, width: int | None, indent: int = 2) -> str:
    """The line in as many as it takes, all but the first so many columns further to the right; None: one line."""
    if width is None or len(line) <= width:
        return line
    import textwrap  # where a terminal is narrow

    further = " " * (indent if 2 * indent < width else 0)
    return "\n".join(
        textwrap.wrap(line, width, subsequent_indent=further, break_long_words=False, break_on_hyphens=False)
    )


def error(message: str) -> None:
    """Say on standard error why a command does not do what it was asked for."""
    _say(f"run.py: error: {message}")


def note(message: str) -> None:
    """Say on standard error what a command has done otherwise than might be expected."""
    _say(f"run.py: note: {message}")


def _say(line: str) -> None:
    print(folded(printable(line), columns(sys.stderr)), file=sys.stderr)
