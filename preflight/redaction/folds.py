"""Texts that were folded over lines, with their lines joined again in each way in which they may have been folded."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from preflight.patterns import lazy

# What a line may end with: a line end, also an escaped one or Unicode's, colours, and characters that nobody sees (the
# NULs of UTF-16, places where a word may be broken). `AROUND` has what may stand around a piece there.
_LINE_END = lazy(
    r"(?:\\{1,16}r)?\\{1,16}n|\r?\n|\r|%(?:0[dD]%)?0[aA]|<(?:br ?/?|wbr)>|\x1b\[[0-9;:]{0,40}[mK]"
    r"|[\x00\x0b\x0c\x1c-\x1e\x85\xad\u200b-\u200d\u2028\u2029\u2060\ufeff]"
)
_NEW_LINE = lazy(r"\r?\n|\r")
_BLANKS = " \t\xa0"
AROUND = " \t\xa0\"'`\\|>#*+,()[]│┃║╎┆▏▕"
_CONTINUED = "=-\xad"  # quoted-printable's sign and hyphens at a line's end, which may be a secret's own as well
# What is around the pieces, on the left and on the right, and which sign may follow each.
_FOLDS = (
    ("", "", ""),
    (_BLANKS, "", ""),
    (_BLANKS, _BLANKS, ""),
    (AROUND, AROUND, ""),
    (AROUND, AROUND, _CONTINUED),
)
_STAMP = lazy(r"\d{4}-\d\d-\d\dT[\d:.]{8,15}Z \w{1,16}\[\d{1,10}\] ")  # of a line in our log


class Unfolded:
    """A text whose lines were joined, and where each of them came from."""

    __slots__ = ("_places", "_starts", "text")

    def __init__(self, lines: Sequence[tuple[int, str]]) -> None:
        self.text = "".join(line for _, line in lines)
        self._places = [place for place, _ in lines]
        self._starts = [0, *accumulate(len(line) for _, line in lines)][:-1]

    def place(self, start: int, end: int) -> tuple[int, int]:
        """Where a span of the joined lines is in the text."""
        return self._place(start), self._place(end - 1) + 1

    def _place(self, joined: int) -> int:
        line = bisect_right(self._starts, joined) - 1
        return self._places[line] + joined - self._starts[line]


def unfolded(text: str) -> Iterator[Unfolded]:
    """The text with its lines joined, in the ways in which somebody may have folded it."""
    plain = [end.span() for end in _NEW_LINE.finditer(text)]
    written = [end.span() for end in _LINE_END.finditer(text)]
    # A secret may have an escaped end of a line in itself.
    for ends in [plain] if plain == written else [plain, written]:
        if ends:
            yield from _joined_at(ends, text)


def _joined_at(ends: Sequence[tuple[int, int]], text: str) -> Iterator[Unfolded]:
    starts = [0, *(end for _, end in ends)]
    stops = [*(start for start, _ in ends), len(text)]
    lines = [(start, text[start:stop]) for start, stop in zip(starts, stops, strict=True)]
    before = text
    for left, right, sign in _FOLDS:
        stripped = []
        for place, line in lines:
            skipped = stamp.end() if left == AROUND and (stamp := _STAMP.match(line)) else 0
            kept = line[skipped:].lstrip(left) if left else line
            if kept:
                end = kept.rstrip(right) if right else kept
                stripped.append((place + len(line) - len(kept), end[:-1] if end[-1:] in sign else end))
        unfolded = Unfolded(stripped)
        if unfolded.text != before:
            yield unfolded
            before = unfolded.text
