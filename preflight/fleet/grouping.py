"""One message about what has changed on many instances. Pure: from rows to a notice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from preflight.notify.notices import LONGEST, MOST, SIGNS, Notice
from preflight.report.changes import BAD
from preflight.text import shortened

LONGEST_NAME = 100  # characters of an instance's name
ORDER = {"broken": 0, "blocked": 1, "blocks": 2, "warns": 3}
"""The urgency of a new standing or verdict; one that is not here is good news."""
VERDICTS = {"broken": "The check suite itself failed", "blocked": "The server is unhealthy"}


@dataclass(frozen=True, slots=True)
class Told:
    """One row of what is new: a check of one instance, or with an empty title its verdict."""

    instance: str
    name: str
    title: str
    before: str
    after: str
    message: str
    fix: str


@dataclass(frozen=True, slots=True)
class Fleet:
    """The instances of a project that have not ended."""

    names: Mapping[str, str]
    """By id."""
    silent: frozenset[str]
    """Ids of those that have given no sign of life for too long."""
    failing: Mapping[str, frozenset[str]]
    """By title, the ids of those on which the check does not hold; with an empty title, those that are not good."""


@dataclass(slots=True)
class _Change:
    """The change of one check on all instances."""

    title: str
    after: str = ""
    instances: dict[str, str] = field(default_factory=dict)
    """The names of those on which it flipped, by id."""
    messages: Counter[tuple[str, str]] = field(default_factory=Counter)


def notice(project: str, rows: Sequence[Told], fleet: Fleet, key: str) -> Notice | None:
    """The message about these rows, which are in the order in which they were written. None: nothing is new.

    What flipped and flipped back meanwhile is not told. ``key`` is the same each time that the notice is sent.
    """
    changes = sorted(_changes(rows), key=lambda change: (ORDER.get(change.after, 9), change.title))
    if not changes:
        return None
    checks = [change for change in changes if change.title]
    about = checks[0] if checks else changes[0]
    others = f", and {len(checks) - 1} more" if len(checks) > 1 else ""
    level = _level(changes)
    lines = [line for change in checks[:MOST] for line in _lines(change, fleet)]
    if len(checks) > MOST:
        lines.append(f"and {len(checks) - MOST} more")
    lines += [_verdict(change, fleet) for change in changes if not change.title]
    if fleet.silent:
        lines.append(f"No heartbeat from {_listed(fleet.names[one] for one in sorted(fleet.silent))}")
    lines.append(f"Notice {key}")
    title = f"{SIGNS[level]} {_headline(about, fleet)}{others} ({project or 'the fleet'})"
    return Notice(title, "\n".join(lines), level)


def _changes(rows: Iterable[Told]) -> list[_Change]:
    """What has changed in total, from the first row to the last of each check of each instance."""
    first: dict[tuple[str, str], Told] = {}
    last: dict[tuple[str, str], Told] = {}
    for row in rows:
        first.setdefault((row.title, row.instance), row)
        last[row.title, row.instance] = row
    found: dict[tuple[str, str], _Change] = {}
    for (title, instance), row in last.items():
        before = first[title, instance].before
        if before == row.after or (before not in BAD and row.after not in BAD):
            continue
        # "ok" and "good" are the same news; an empty standing says that the check is not there any more.
        after = row.after if row.after in (*BAD, "") else "ok"
        change = found.setdefault((title, after), _Change(title, after))
        change.instances[instance] = row.name
        change.messages[row.message, row.fix] += 1
    return list(found.values())


def _level(changes: Iterable[_Change]) -> str:
    worst = min(ORDER.get(change.after, 9) for change in changes)
    return "failure" if worst < ORDER["warns"] else "warning" if worst == ORDER["warns"] else "success"


def _headline(change: _Change, fleet: Fleet) -> str:
    count = _count(change, fleet)
    if not change.title:
        return f"{VERDICTS.get(change.after, 'The server is healthy again')} on {count}"
    if not change.after:
        return f"{change.title} is no longer checked on {len(change.instances)} of {len(fleet.names)}"
    verb = {"blocks": "fails", "warns": "warns"}.get(change.after, "holds again")
    return f"{change.title} {verb} on {count}"


def _count(change: _Change, fleet: Fleet) -> str:
    """How many of how many instances: of all that have not ended, not only of those that have flipped just now."""
    known = fleet.names.keys() | change.instances.keys()
    failing = (fleet.failing.get(change.title, frozenset()) & known) | (
        change.instances.keys() if change.after in BAD else frozenset()
    )
    there = len(failing) if change.after in BAD else len(known - failing - fleet.silent)
    return f"{there} of {len(known)}"


def _lines(change: _Change, fleet: Fleet) -> list[str]:
    sign = SIGNS["failure" if change.after == "blocks" else "warning" if change.after == "warns" else "success"]
    (message, fix), _ = change.messages.most_common(1)[0]
    others = len(change.messages) - 1
    several = f" (and {others} other message{'' if others == 1 else 's'})" if others else ""
    said = shortened(message or ("holds again" if change.after else ""), LONGEST)
    lines = [f"{sign} {_headline(change, fleet)}{f': {said}' if said else ''}{several}"]
    lines.append(f"   Changed on {_listed(change.instances.values())}")
    return [*lines, f"   Fix: {shortened(fix, LONGEST)}"] if fix and change.after in BAD else lines


def _verdict(change: _Change, fleet: Fleet) -> str:
    return f"{_headline(change, fleet)}: {_listed(change.instances.values())}"


def _listed(names: Iterable[str]) -> str:
    every = sorted(shortened(name, LONGEST_NAME) for name in names)
    more = f" and {len(every) - MOST} more" if len(every) > MOST else ""
    return ", ".join(every[:MOST]) + more
