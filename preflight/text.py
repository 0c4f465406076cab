"""Texts that come from elsewhere, made safe to show: a first line, nothing that a terminal obeys, not too long."""

from __future__ import annotations

import re

_LINE_END = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")  # where str.splitlines() splits
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def first_line(text: str) -> str:
    """The first line that says something."""
    text = text.lstrip()  # not splitlines(): there may be millions
    end = _LINE_END.search(text)
    return text[: end.start()].rstrip() if end else text.rstrip()


def printable(text: str) -> str:
    """The text without what a terminal would obey or UTF-8 cannot carry.

    A process's command line and a service's header come from others and may hold either.
    """
    return _UNPRINTABLE.sub("?", text)


def shortened(text: str, longest: int) -> str:
    """The text, cut after so many characters where it is longer."""
    return text if len(text) <= longest else text[:longest] + " …"
