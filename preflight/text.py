"""Texts that come from elsewhere, made safe to show: one line, nothing that a terminal obeys or hides, not too long.

Three ways in. :func:`foreign` is for a field that another process or account has made up, its name say: apply it where
the field is read from the system, and no later code has to think of it. :func:`printable` is for texts of
several lines, :func:`plain` for JSON values.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

_LINE_END = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")  # where str.splitlines() splits
_BLANK = re.compile(r"[\t\n\r\v\f\x1c-\x1f\x85\u2028\u2029]")  # what separates words and is no blank

# Controls (C0, C1), formats (Cf: directions, joiners, tags, annotations), surrogates, private use, and whatever else
# Unicode has no sign for (Default_Ignorable_Code_Point: fillers, variation selectors). Newlines and tabs are none of
# them. A test holds this against unicodedata, which takes a megabyte that the launcher does without.
_CONTROLS = r"\x00-\x08\x0b-\x1f\x7f"  # those of ASCII
_HIDDEN = (
    rf"{_CONTROLS}\x80-\x9f"
    r"\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160"
    r"\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\uf8ff\ufe00-\ufe0e\ufeff"
    r"\uffa0\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    r"\U000e0000-\U0010ffff"
)
_CONTROL = re.compile(rf"[{_CONTROLS}]")
_MARKS = 4  # combining marks in a row that are shown; languages need up to three
_FLOOD = re.compile(rf"[^\x00-\u02ff]{{{_MARKS + 1}}}")  # so many characters in a row may be too many marks

_COLOUR = re.compile(r"(\x1b\[[0-9;:]{0,40}m)")  # SGR of ECMA-48, and nothing else of it
_COLOURS_END = "\x1b[0m"

LONGEST_FIELD = 300  # characters


def first_line(text: str) -> str:
    """The first line that says something."""
    text = text.lstrip()  # not splitlines(): there may be millions
    end = _LINE_END.search(text)
    return text[: end.start()].rstrip() if end else text.rstrip()


@cache
def _unprintable() -> re.Pattern[str]:
    """Invisible characters; compiled when it is needed, since that takes longer than all other patterns here."""
    # U+FE0F makes an emoji of the symbol before it, as in our own marks; anywhere else it is a place to hide something.
    return re.compile(rf"[{_HIDDEN}]|(?<![\u00a9\u00ae\u203c-\u3299\U0001f000-\U0001faff])\ufe0f")


def printable(text: str) -> str:
    """The text without what a terminal would obey, nobody would see, or UTF-8 cannot carry: a question mark instead.

    A process's command line and a service's header come from others and may hold any of it.
    """
    if text.isascii():
        return _CONTROL.sub("?", text)
    text = _unprintable().sub("?", text)
    return _without_floods(text) if _FLOOD.search(text) else text


def foreign(text: str, longest: int = LONGEST_FIELD) -> str:
    """Somebody else's field, safe anywhere: one line of at most ``longest`` characters. A second call changes nothing.

    Line ends and tabs become blanks, so that they make neither two lines nor one word of two.
    """
    cut = text[: longest + 1]  # before anything looks at it: it may be of any size
    cut = printable(_BLANK.sub(" ", cut))
    return cut if len(cut) <= longest else cut[: longest - 2] + " …"


def plain(value: Any) -> Any:
    """The same JSON value with every text in it printable, keys included."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(str(key)): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def coloured(line: str) -> str:
    """A line that a program printed for people: printable, but for its colours, which end with it.

    Of what has been written over itself (a progress bar), the last is shown, as on a terminal.
    """
    line = line.rstrip("\r").rpartition("\r")[2]
    if "\x1b" not in line:
        return printable(line)
    pieces = _COLOUR.split(line)
    pieces[::2] = map(printable, pieces[::2])
    return "".join(pieces) + (_COLOURS_END if len(pieces) > 1 else "")


def shortened(text: str, longest: int) -> str:
    """The text, cut after ``longest`` characters if it is longer."""
    return text if len(text) <= longest else text[:longest] + " …"


def _without_floods(text: str) -> str:
    """The text with no more than a few combining marks in a row: they are drawn over the lines around."""
    import unicodedata  # seldom needed, and large

    kept: list[str] = []
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.category(character) in ("Mn", "Me") else 0
        if marks <= _MARKS:
            kept.append(character)
        elif marks == _MARKS + 1:
            kept.append("?")
    return "".join(kept)


def address(host: str, port: int) -> str:
    """``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def amount(size: float) -> str:
    """Bytes for people, in binary units."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
