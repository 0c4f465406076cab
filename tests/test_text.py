"""Texts that come from elsewhere, made safe to show."""

from __future__ import annotations

import sys
import unicodedata
from typing import Any

import pytest

from preflight.text import coloured, first_line, foreign, plain, printable, shortened


@pytest.mark.parametrize("text", ["a", " \n\n a \n b", "a\r\nb", "a\u2028b", "a\x85b", "\v a \f"])
def test_the_first_line_is_the_first_that_says_something(text: str) -> None:
    """Lines end wherever str.splitlines() ends them."""
    assert first_line(text) == "a"
    assert first_line("") == first_line("\n \n") == ""


def test_printable() -> None:
    """What a terminal obeys and what UTF-8 cannot carry is a question mark; letters, tabs and lines stay."""
    assert printable("\x1b[31mred\x07 \x9b2J \ud800 \u2029") == "?[31mred? ?2J ? ?"
    assert printable("Größe\t日本 ✅\n") == "Größe\t日本 ✅\n"


# Default_Ignorable_Code_Point of Unicode's DerivedCoreProperties.txt, where it is not a category of its own.
IGNORABLE = [0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x3164, *range(0xFE00, 0xFE10), 0xFFA0]
IGNORABLE += range(0xE0000, 0xE1000)


@pytest.mark.slow
def test_nothing_hidden_is_printable() -> None:
    """What Unicode has no sign for is one of the categories that are tried here, or ignorable by definition."""
    hidden = {chr(code) for code in IGNORABLE}
    hidden |= {
        chr(code)
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
    } - {"\n", "\t"}
    assert [hex(ord(one)) for one in sorted(hidden) if printable(one) != "?" or foreign(one) not in ("?", " ")] == []


def test_what_people_write_is_printable() -> None:
    """Languages with marks above and below, and symbols that are made emoji."""
    texts = (
        "e\u0301",
        "Vie\u0323\u0302t",
        "\u0e17\u0e35\u0e48",
        "\u05e9\u05c1\u05b8",
        "⚠️ ⏭️ ✅",
        "日本",
        "a\u00a0b",
        "naïve",
    )
    for text in texts:
        assert printable(text) == text
        assert foreign(text) == text


@pytest.mark.parametrize(
    "text",
    ["e" + "\u0301" * 100, "\u0e01" + "\u0e47" * 100, "a" + "\u0489\u0300" * 50, ("b" + "\u0338" * 9) * 3],
)
def test_floods_of_marks(text: str) -> None:
    """Marks in a row without end would be drawn over other lines."""
    marks = 0
    for character in printable(text):
        marks = marks + 1 if unicodedata.category(character) in ("Mn", "Me") else 0
        assert marks <= 4
    assert printable(printable(text)) == printable(text)


def test_a_variation_selector_needs_a_symbol() -> None:
    """One alone, or many, carry what nobody sees."""
    assert printable("a\ufe0f ⚠️\ufe0f 1\ufe0f \ufe0e⚠\ufe0e") == "a? ⚠️? 1? ?⚠?"


@pytest.mark.parametrize(
    "text, shown",
    [
        ("two\nlines", "two lines"),
        ("a\r\nb\tc\u2028d\x85e\x0bf", "a  b c d e f"),
        ("\x1b[2J\x9b", "?[2J?"),
        ("x" * 20, "x" * 8 + " …"),
        ("x" * 10, "x" * 10),
        ("", ""),
    ],
)
def test_foreign(text: str, shown: str) -> None:
    """One line of limited length; doing it twice changes nothing."""
    assert foreign(text, 10 if len(text) >= 10 and "x" in text else 100) == shown
    assert foreign(foreign(text, 100), 100) == foreign(text, 100)
    assert foreign(foreign("\x1b" * 500)) == foreign("\x1b" * 500)
    assert len(foreign("x" * 10_000_000, 50)) == 50


def test_plain() -> None:
    """Keys and values at any depth; what is no text stays."""
    value: Any = {"a\x1b": ["b\u202e", {"c": ("d\ud800", 1, None, True, 1.5)}]}
    assert plain(value) == {"a?": ["b?", {"c": ["d?", 1, None, True, 1.5]}]}


@pytest.mark.parametrize(
    "line, shown",
    [
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m\x1b[0m"),
        ("\x1b[1;38;5;196mred", "\x1b[1;38;5;196mred\x1b[0m"),
        ("\x1b[38:2::1:2:3mred", "\x1b[38:2::1:2:3mred\x1b[0m"),
        ("\x1b[2J\x1b[31", "?[2J?[31"),
        ("\x1b]8;;http://a\x1b\\text", "?]8;;http://a?\\text"),
        ("1 %\r50 %\r100 %\r", "100 %"),
        ("plain", "plain"),
        ("\x1b[" + "1;" * 30 + "m", "?[" + "1;" * 30 + "m"),
    ],
)
def test_colours_alone_stay(line: str, shown: str) -> None:
    """Of what a program prints; they end with the line."""
    assert coloured(line) == shown


def test_shortened() -> None:
    """A sign says that something is missing."""
    assert shortened("abc", 3) == "abc"
    assert shortened("abcd", 3) == "abc …"
