"""Texts that come from elsewhere, made safe to show."""

from __future__ import annotations

import pytest

from preflight.text import first_line, printable, shortened


@pytest.mark.parametrize("text", ["a", " \n\n a \n b", "a\r\nb", "a\u2028b", "a\x85b", "\v a \f"])
def test_the_first_line_is_the_first_that_says_something(text: str) -> None:
    """Lines end wherever str.splitlines() ends them."""
    assert first_line(text) == "a"
    assert first_line("") == first_line("\n \n") == ""


def test_printable() -> None:
    """What a terminal obeys and what UTF-8 cannot carry is a question mark; letters, tabs and lines stay."""
    assert printable("\x1b[31mred\x07 \x9b2J \ud800 \u2029") == "?[31mred? ?2J ? ?"
    assert printable("Größe\t日本 ✅\n") == "Größe\t日本 ✅\n"


def test_shortened() -> None:
    """A sign says that something is missing."""
    assert shortened("abc", 3) == "abc"
    assert shortened("abcd", 3) == "abc …"
