"""Redaction of a stream: a secret that comes in pieces does not get out in pieces."""

from __future__ import annotations

import random

import pytest

from preflight.redaction import MASK, Redactor
from server.turns import Words, unbroken

SECRETS = {
    "A_KEY": "sk-canary-Zq7vXw2LmN8p",
    "B_PASSWORD": "three words long, ümlaut",
    "URL": "postgres://me:hunter2hunter2@db/x",
}
TEXT = (
    f"The key is {SECRETS['A_KEY']}, the password {SECRETS['B_PASSWORD']}! Send Authorization: Bearer abcdef0123456789"
    f" to {SECRETS['URL']} and 日本語のテキスト。 Done.\n"
)


@pytest.mark.parametrize("seed", range(40))
def test_pieces_of_any_size(seed: int) -> None:
    """Together they are the text redacted as a whole."""
    pick = random.Random(seed)
    redactor = Redactor.of(SECRETS)
    words = Words(redactor, SECRETS)
    out, rest = "", TEXT
    while rest:
        size = pick.randint(1, 12)
        out += words.feed(rest[:size])
        rest = rest[size:]
    out += words.rest()
    assert out == redactor.text(TEXT)
    assert out.count(MASK) == 4


def test_it_does_not_hold_back_more_than_it_must() -> None:
    """Without secrets that have spaces in them, only the last word."""
    words = Words(Redactor.of({"A_KEY": SECRETS["A_KEY"]}), {"A_KEY": SECRETS["A_KEY"]})
    assert words.feed("One two thr") == "One two "
    assert words.feed("ee 日本") == "three 日本"
    assert words.feed("the Bearer ") == "the "
    assert words.rest() == "Bearer "


def test_half_a_pair() -> None:
    """No frame takes it: it is replaced, and pairs stay whole."""
    assert unbroken("a\ud83d") == "a\ufffd"
    assert unbroken("a\ud83d\ude00") == "a😀"
    assert unbroken("ok") == "ok"
