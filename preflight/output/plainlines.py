"""Lines for people from commands that do without rich: whole words, as wide as the terminal is."""

from __future__ import annotations

import os
import re
import sys
from typing import TextIO

from preflight import commands
from preflight.text import printable


def columns(stream: TextIO | None) -> int | None:
    """How many columns the terminal has that this stream leads to; None if it leads to none."""
    if stream is None or not stream.isatty():
        return None
    given = os.environ.get("COLUMNS", "")
    if given.isdigit() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        return None


def cells(text: str) -> int:
    """How many columns of a terminal a text takes: East Asian letters and most emoji take two, accents none."""
    if text.isascii():
        return len(text)
    import unicodedata  # a megabyte, which a launcher does without

    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.category(character) in ("Mn", "Me") for character in text)


def folded(line: str, width: int | None, indent: int = 2) -> str:
    """The line in as many as it takes, all but the first so many columns further to the right; None: one line.

    A word that is longer than a line, a path say, is not taken apart: the terminal that folds it knows that it is one.
    """
    if width is None or cells(line) <= width:
        return line
    further = " " * (indent if 2 * indent < width else 0)
    rows, row, blanks = [], "", ""
    for word in re.findall(r" +|[^ ]+", line):
        if word.startswith(" "):
            blanks = word
        elif row and cells(row + blanks + word) > width:
            rows.append(row)
            row = further + word
        else:
            row += blanks + word
    return "\n".join([*rows, row])


def say(line: str, command: str = "") -> None:
    """Print what was done, and the next command: it is one line, to be pasted."""
    width = columns(sys.stdout)
    whole = printable(f"{line} {command}".rstrip())
    if width is not None and cells(whole) > width:
        whole = "\n".join(filter(None, (folded(printable(line), width), printable(command))))
    print(whole)


def error(message: str) -> None:
    """Say on standard error why a command does not do what it was asked for."""
    remark(f"{commands.name()}: error: {message}")


def note(message: str) -> None:
    """Say on standard error what a command has done differently than people may expect."""
    remark(f"{commands.name()}: note: {message}")


def remark(line: str) -> None:
    """Say on standard error what else is good to know."""
    print(folded(printable(line), columns(sys.stderr)), file=sys.stderr)
