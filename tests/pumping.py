"""Worst cases for regular expressions, made from their own structure: a program that names those that take too long.

``re`` holds the interpreter's lock and cannot be interrupted, so this runs in a process of its own (test_patterns.py).
It reads a JSON list of ``[where, pattern, flags, methods]`` and writes one line for each case: before a pattern is
tried, that it is; and each text that makes it take more than time in proportion to its length.
"""

from __future__ import annotations

import itertools
import json
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from re import _constants, _parser  # type: ignore[attr-defined]  # no stubs; the only way to a pattern's structure
from typing import Any

# Lengths in characters, and the seconds of processor time that are too many for them by themselves: what is exponential
# shows at the first ones, before it would never end.
STEPS = {**dict.fromkeys([*range(16, 48, 4), 64, 140], 0.05), 2_000: 0.1}
# What is quadratic shows at a greater length, where so many seconds at the last step were worth a closer look.
LENGTH, SUSPICIOUS, SLOW = 8_000, 0.0002, 0.002
# Lengths far apart tell the two by a factor that no other work of the machine's comes near.
APART = 16
# Of the times for lengths that far apart: 16 is linear, 256 quadratic. A repeat of at most some hundred characters is
# linear only beyond them, and comes to 32.
RATIO, CLEAR = 90, 48
TRIES = 5
MUCH = 0.5  # seconds that are too long to be taken again

BOUND = 100  # seconds of processor time for all patterns together; they take a tenth of that

_CHARACTERS = "aA0-_.~ /\\\"'%&;:=@,+!?#<>()[]{}|*$\n\t\r\x1b\x00é\u2028b1f"
_CLASSES: dict[Any, Callable[[str], bool]] = {
    _constants.CATEGORY_DIGIT: lambda c: c.isdigit(),
    _constants.CATEGORY_NOT_DIGIT: lambda c: not c.isdigit(),
    _constants.CATEGORY_SPACE: lambda c: c.isspace(),
    _constants.CATEGORY_NOT_SPACE: lambda c: not c.isspace(),
    _constants.CATEGORY_WORD: lambda c: c.isalnum() or c == "_",
    _constants.CATEGORY_NOT_WORD: lambda c: not (c.isalnum() or c == "_"),
}


def _in_set(items: Sequence[tuple[Any, Any]], character: str) -> bool:
    negated, found = False, False
    for op, value in items:
        if op is _constants.NEGATE:
            negated = True
        elif op is _constants.LITERAL:
            found |= ord(character) == value
        elif op is _constants.RANGE:
            found |= value[0] <= ord(character) <= value[1]
        elif op is _constants.CATEGORY:
            found |= _CLASSES[value](character)
    return found != negated


def _of_set(items: Sequence[tuple[Any, Any]]) -> list[str]:
    """Characters that are in a set: of the usual ones, and what its ranges and literals begin with."""
    own = [chr(value if op is _constants.LITERAL else value[0]) for op, value in items if op in _SINGLE]
    return [one for one in dict.fromkeys([*_CHARACTERS, *own]) if _in_set(items, one)]


_SINGLE = (_constants.LITERAL, _constants.RANGE)
_REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT)


class Structure:
    """What a parsed pattern offers: samples of its parts, and what stands before each of its repeats."""

    def __init__(self, pattern: str, flags: int) -> None:
        self.pumps: dict[str, None] = {}
        self.prefixes: dict[str, None] = {"": None}
        self.whole = self._samples(_parser.parse(pattern, flags), "")

    def _samples(self, tree: Any, before: str) -> list[str]:
        """A few texts that the tree matches, more or less; notes what can be repeated on the way."""
        samples = [""]
        for op, value in tree:
            here = self._of(op, value, before + samples[0])
            samples = [first + more for first, more in itertools.islice(itertools.product(samples, here), 6)]
        return samples

    def _of(self, op: Any, value: Any, before: str) -> list[str]:
        if op is _constants.LITERAL:
            return [chr(value)]
        if op is _constants.NOT_LITERAL:
            return [next(one for one in _CHARACTERS if ord(one) != value)]
        if op is _constants.ANY:
            return ["a", " "]
        if op is _constants.IN:
            return _of_set(value)[:12] or ["a"]
        if op is _constants.BRANCH:
            return [sample for branch in value[1] for sample in self._samples(branch, before)[:3]]
        if op is _constants.SUBPATTERN:
            return self._samples(value[3], before)
        if op is _constants.ATOMIC_GROUP:
            return self._samples(value, before)
        if op in (_constants.ASSERT, _constants.ASSERT_NOT):
            self._samples(value[1], before)
            return [""]
        if op in _REPEATS:
            least, most, body = value
            self.prefixes[before] = None
            inner = self._samples(body, before)
            if most > 1:
                self.pumps |= dict.fromkeys([*inner, before, *(before + one for one in inner[:4])])
            some = [sample * max(least, 1) for sample in inner[:4]]
            return [*some, ""] if least == 0 else some
        return [""]  # a place, or a group again


def cases(pattern: str, flags: int) -> Iterator[tuple[str, str, str]]:
    """What to begin with, what to repeat, and what to end with."""
    structure = Structure(pattern, flags)
    pumps = [pump for pump in [*structure.pumps, *structure.whole] if pump][:60]
    pumps += ["".join(pair) for pair in itertools.pairwise(pumps[:20])]
    prefixes = list(dict.fromkeys([*structure.prefixes, *structure.whole[:1]]))
    for before in prefixes[:5]:
        for pump in dict.fromkeys(pumps):
            yield before, pump, ""
            yield before, pump, "!\x00\n"


def spent(method: str, compiled: re.Pattern[str], text: str, clock: Callable[[], float] = time.process_time) -> float:
    """The seconds that one way of using a pattern takes for a text: of processor time, or by a clock."""
    begun = clock()
    if method == "search":
        for _found in compiled.finditer(text):
            pass
    else:
        getattr(compiled, method)(text)
    return clock() - begun


def worst(pattern: str, flags: int, methods: Sequence[str]) -> tuple[str, tuple[str, str, str], float] | None:
    """The first case that takes more than time in proportion: how it was used, the case, and the ratio of times."""
    compiled = re.compile(pattern, flags)
    for case in cases(pattern, flags):
        for method in methods:
            for length, too_long in STEPS.items():
                text = _text(case, length)
                took = spent(method, compiled, text)
                if took > too_long and (took := min(spent(method, compiled, text) for _ in range(TRIES))) > too_long:
                    return method, case, float("inf")
            if took > SUSPICIOUS and (ratio := _growth(method, compiled, case)) > RATIO:
                return method, case, ratio
    return None


def _growth(method: str, compiled: re.Pattern[str], case: tuple[str, str, str]) -> float:
    """By how much more time a text takes than a shorter one; 0 where it does not take long at all.

    The long one by the processor time that most tries took: others' work is not counted. The short one by the clock,
    call by call, at its quickest: of so many short calls some are not interrupted, however busy the machine is, and a
    virtual machine's processor time may stand still.
    """
    long, short = _text(case, LENGTH), _text(case, LENGTH // APART)
    took = [spent(method, compiled, long)]
    quickest = min(spent(method, compiled, short, time.perf_counter) for _ in range(TRIES))
    if took[0] <= SLOW or took[0] / quickest < CLEAR:  # nearly all patterns: the rest would tell nothing new
        return 0.0
    while took[0] < MUCH and len(took) < TRIES:
        if min(took) <= SLOW:
            return 0.0
        took.append(spent(method, compiled, long))
    least = min(quickest, *(spent(method, compiled, short, time.perf_counter) for _ in range(TRIES * APART)))
    return statistics.median(took) / least


def _text(case: tuple[str, str, str], length: int) -> str:
    before, pump, after = case
    return before + pump * (length // len(pump) + 1) + after


def main() -> None:
    # Of processor time: what does not end is killed, however busy the machine is, and what is only kept waiting is not.
    resource.setrlimit(resource.RLIMIT_CPU, (BOUND, BOUND))
    for where, pattern, flags, methods in json.load(sys.stdin):
        print(json.dumps([where, pattern, None]), flush=True)
        if found := worst(pattern, flags, methods):
            print(json.dumps([where, pattern, repr(found)]), flush=True)


if __name__ == "__main__":
    main()
