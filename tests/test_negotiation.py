"""Accept and If-None-Match, as RFC 9110 has them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preflight.web.negotiation import LONGEST, accepted, unchanged

OFFERED = {
    "json": "application/json",
    "text": "text/plain; charset=utf-8",
    "health": "application/health+json",
    "html": "text/html; charset=utf-8",
}


@pytest.mark.parametrize(
    "header, name",
    [
        ("", "json"),
        ("*/*", "json"),
        ("application/json", "json"),
        ("text/plain", "text"),
        ("TEXT/Plain", "text"),
        ("text/plain; charset=utf-8", "text"),
        ("application/health+json", "health"),
        ("application/*", "json"),
        ("text/*", "text"),
        ("text/*;q=0.5, text/html", "html"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "html"),  # a browser
        ("text/plain;q=0.2, application/json;q=0.1", "text"),
        ("text/plain;q=0.1, application/health+json;q=0.2", "health"),
        ("text/plain ; q = 0.5 , application/json ;Q=0.4", "text"),
        ("*/*;q=0.1, application/json;q=0", "text"),  # all but JSON
        ("application/json;q=0, text/plain;q=0.001", "text"),
        ("image/png", "json"),  # nothing suits: JSON helps more than nothing
        ("application/json;q=0", "json"),
        ("nonsense", "json"),
        ("text/plain;q=2, application/health+json", "health"),  # a quality that is none
        (",,;;,text/plain", "text"),
    ],
)
def test_accepted(header: str, name: str) -> None:
    """The most specific range decides, the higher quality wins, JSON where nothing else does."""
    assert accepted(header, OFFERED) == name


@given(st.text(alphabet=st.sampled_from("*/;,=q.01 texplain+json\x00é"), max_size=200))
def test_any_header(header: str) -> None:
    """There is always an answer."""
    assert accepted(header, OFFERED) in OFFERED


def test_long_headers_take_no_time() -> None:
    """A header of any length costs what its beginning costs."""
    began = time.process_time()
    for filler in ("a/b;q=0.1,", ";" * 10, "q" * 10):
        assert accepted(filler * 100_000, OFFERED) == "json"
    assert time.process_time() - began < 1
    assert accepted("a/b," * LONGEST + "text/plain", OFFERED) == "json"


@pytest.mark.parametrize(
    "header, same",
    [
        ('W/"abc"', True),
        ('"abc"', True),
        ('"x", W/"abc" , "y"', True),
        ("*", True),
        ('W/"abcd"', False),
        ("abc", False),
        ("", False),
    ],
)
def test_unchanged(header: str, same: bool) -> None:
    """Tags are compared weakly."""
    assert unchanged(header, 'W/"abc"') is same
