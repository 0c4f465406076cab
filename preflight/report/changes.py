"""The changes between two runs, which notifications report and the history shows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import dataclass

from preflight.report.model import Check, Report

BAD = ("blocks", "warns", "blocked", "broken")
"""The standings of a check or the verdict that are worth a person's attention."""


@dataclass(frozen=True, slots=True)
class Flip:
    """A check that is not what it was before."""

    title: str
    before: str
    """Empty if the check was not there."""
    after: str


def flips(last: MutableMapping[str, str], now: Iterable[tuple[str, str]]) -> list[Flip]:
    """The differences of ``now`` from ``last``, by title; ``last`` is updated."""
    flipped = []
    for title, after in now:
        before = last.get(title, "")
        if before != after:
            flipped.append(Flip(title, before, after))
            last[title] = after
    return flipped


@dataclass(frozen=True, slots=True)
class Change(Flip):
    """A check, or with an empty title the verdict, that does not stand as it stood before.

    A check stands as "ok", "warns" or "blocks", the verdict as "good", "blocked" or "broken"; an empty ``after``: it
    is not there any more.
    """

    check: Check | None = None
    """The check as it is now, or as it was last."""

    @property
    def matters(self) -> bool:
        """Whether it flipped. A check that holds may come and go."""
        return self.before in BAD or self.after in BAD


def standing(check: Check) -> str:
    """The standing of a check: "ok", "warns" or "blocks"."""
    return "blocks" if check.blocks else "warns" if check.warns else "ok"


def verdict(report: Report) -> str:
    """The verdict of a run: "good", "blocked" or "broken"."""
    return "broken" if report.status == "broken" else "good" if report.may_start else "blocked"


def changes(before: Report | None, after: Report) -> list[Change]:
    """The differences from before: the verdict first, then checks in the order of the later run.

    Without a run before, what does not hold is new. A run that broke, or of which only a part ran, says nothing
    about the checks that it lacks.
    """
    found = list(_verdict(before, after))
    old = {check.title: check for check in before.checks} if before else {}
    new = {check.title: check for check in after.checks}
    stood = {title: standing(check) for title, check in old.items()}
    found += [
        Change(flip.title, flip.before, flip.after, new[flip.title])
        for flip in flips(stood, ((title, standing(check)) for title, check in new.items()))
        if flip.before or flip.after != "ok" or _whole(before)
    ]
    if _whole(after) and before is not None:
        found += [Change(title, standing(check), "", check) for title, check in old.items() if title not in new]
    return found


def _verdict(before: Report | None, after: Report) -> Iterator[Change]:
    was, now = verdict(before) if before else "", verdict(after)
    if was != now and (was or now != "good"):
        yield Change("", was, now)


def _whole(report: Report | None) -> bool:
    return report is not None and report.status != "broken" and report.selection == "all"
