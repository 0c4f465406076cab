"""What the fleet page and ``--fleet`` show: the instances, which checks fail on which, and the changes of a day.

Every answer is bounded, in its rows and in the characters of each text. The tables may contain anything, since the
writer may be another tenant's instance, or no instance at all: values are only shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from preflight.report.model import STATES

SILENT = 3  # heartbeats that an instance may leave out before it counts as silent
BEATS = (1, 3600)  # seconds between two heartbeats that are believed
NAME, TEXT = 200, 500  # characters of a name and of a message that are shown
MOST_CHECKS, MOST_RELEASES, MOST_CHANGES, MOST_PLACES = 50, 20, 50, 3  # rows of an overview
LARGEST = 4 * 1024 * 1024  # bytes of a report that is read
PERIOD = "1 day"  # in which what has changed is shown

# One of STATES. No heartbeat comes from the future, and the pause between heartbeats in a row is believed only within
# limits.
_STATE = f"""
CASE WHEN i.ended_at IS NOT NULL THEN 'ended'
     WHEN i.seen_at NOT BETWEEN
          now() - {SILENT} * least(greatest(i.beats_every, {BEATS[0]}), {BEATS[1]}) * interval '1 second'
          AND now() + interval '1 minute' THEN 'silent'
     WHEN i.verdict IN ('good', 'blocked', 'broken') THEN i.verdict
     ELSE 'broken' END
"""


def _cut(column: str, longest: int = NAME) -> str:
    return f"left({column}, {longest})"


def _seconds(column: str) -> str:
    """Seconds since a time; NULL if that is infinite or in the future."""
    has_been = f"isfinite({column}) AND {column} < now() + interval '1 minute'"
    return f"CASE WHEN {has_been} THEN greatest(0, date_part('epoch', now() - {column})) END"


_NAMES = ("id", "project", "application", "host", "address", "release", "verdict", "run_id", "ending")
_AGES = {
    "seen_at": "seen_seconds_ago", "verdict_since": "verdict_seconds", "first_seen_at": "known_seconds",
    "ended_at": "ended_seconds_ago",
}  # fmt: skip
_COLUMNS = ", ".join(
    [
        *(f"{_cut(f'i.{name}')} AS {name}" for name in _NAMES),
        *(f"{_seconds(f'i.{column}')} AS {name}" for column, name in _AGES.items()),
        f"greatest(0, i.checks) AS checks, {_STATE} AS state",
    ]
)
_INSTANCES = f"SELECT {_COLUMNS} FROM preflight.instances AS i"


class Filter(NamedTuple):
    """Which instances are listed; an empty string is no condition."""

    state: str = ""
    release: str = ""
    project: str = ""
    check: str = ""
    """The title of a check that does not hold there."""
    named: str = ""
    """A part of its id, host or address, in any case."""


_FILTERED = """
WHERE (%(state)s = '' OR state = %(state)s) AND (%(release)s = '' OR release = %(release)s)
  AND (%(project)s = '' OR project = %(project)s)
  AND (%(named)s = '' OR strpos(lower(id), lower(%(named)s)) > 0 OR strpos(lower(host), lower(%(named)s)) > 0
       OR strpos(lower(address), lower(%(named)s)) > 0)
  AND (%(check)s = '' OR id IN (SELECT instance FROM preflight.failing WHERE title = %(check)s))
"""


async def overview(connection: Any) -> dict[str, Any]:
    """The fleet at a glance: counts of instances, the checks that fail most, and what has changed."""
    states = await _rows(connection, _COUNTED)
    counts = {row["state"]: row["count"] for row in states}
    live = sum(counts.values()) - counts.get("ended", 0)
    releases = await _rows(connection, _RELEASES)
    changes = await _rows(connection, _CHANGED)
    return {
        "instances": {"live": live, **{state: counts.get(state, 0) for state in STATES}},
        "releases": releases,
        "checks": [{**row, "of": live} for row in await _rows(connection, _FAILING)],
        "changes": changes,
    }


_COUNTED = f"SELECT {_STATE} AS state, count(*) AS count FROM preflight.instances AS i GROUP BY 1"
_RELEASES = f"""
SELECT {_cut("i.release")} AS release, count(*) AS count FROM preflight.instances AS i WHERE i.ended_at IS NULL
GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {MOST_RELEASES}
"""
_FAILING = f"""
SELECT {_cut("g.title")} AS title, g.standing, g.count, {_cut("g.message", TEXT)} AS message, g.seconds, w.places
FROM (
    SELECT f.title, CASE WHEN f.standing = 'blocks' THEN 'blocks' ELSE 'warns' END AS standing, count(*) AS count,
           max({_cut("f.message", TEXT)}) AS message, max({_seconds("f.since")}) AS seconds
    FROM preflight.failing AS f JOIN preflight.instances AS i ON i.id = f.instance
    WHERE i.ended_at IS NULL
    GROUP BY 1, 2 ORDER BY 2, 3 DESC, 1 LIMIT {MOST_CHECKS}
) AS g
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg({_cut("p.host")} || ' ' || {_cut("p.address")}), '{{}}') AS places FROM (
        SELECT i.host, i.address FROM preflight.failing AS f JOIN preflight.instances AS i ON i.id = f.instance
        WHERE f.title = g.title AND i.ended_at IS NULL LIMIT {MOST_PLACES}
    ) AS p
) AS w
ORDER BY g.standing, g.count DESC, g.title
"""

_CHANGED = f"""
SELECT {_cut("c.title")} AS title, {_cut("c.before", 20)} AS before, {_cut("c.after", 20)} AS after,
       count(DISTINCT c.instance) AS count, max({_cut("c.message", TEXT)}) AS message,
       max({_seconds("c.at")}) AS first_seconds_ago, min({_seconds("c.at")}) AS last_seconds_ago
FROM preflight.changes AS c WHERE c.at BETWEEN now() - interval '{PERIOD}' AND now()
GROUP BY 1, 2, 3 ORDER BY last_seconds_ago, count DESC, title LIMIT {MOST_CHANGES}
"""


async def instances(connection: Any, which: Filter, limit: int, offset: int) -> dict[str, Any]:
    """A page of the instances, the worst first: ``total`` of them, and the ``instances``."""
    values = {**which._asdict(), "limit": limit, "offset": offset}
    (counted,) = await _rows(connection, _TOTAL, values)
    return {"total": counted["total"], "instances": await _rows(connection, _PAGE, values)}


_NAMED = ", ".join(f'page.{name} COLLATE "C"' for name in ("host", "address", "id"))
_ORDER = f"array_position(array{list(STATES)}, page.state), {_NAMED}"
_FOUND = ", ".join(f"{_cut(f'i.{name}')} AS {name}" for name in ("id", "project", "host", "address", "release"))
# Only the columns that decide on the page: the ages of ten thousand instances take longer to compute than to sort.
_EVERY = f"(SELECT i.id AS whole_id, {_FOUND}, {_STATE} AS state FROM preflight.instances AS i) AS page {_FILTERED}"
_TOTAL = f"SELECT count(*) AS total FROM {_EVERY}"
_FAILS = "SELECT count(*) FROM preflight.failing AS f WHERE f.instance = page.whole_id AND"
_PAGE = f"""
SELECT {_COLUMNS}, ({_FAILS} f.standing = 'blocks') AS blocking, ({_FAILS} f.standing <> 'blocks') AS warning
FROM (SELECT * FROM {_EVERY} ORDER BY {_ORDER} LIMIT %(limit)s OFFSET %(offset)s) AS page
JOIN preflight.instances AS i ON i.id = page.whole_id
ORDER BY {_ORDER}
"""


async def instance(connection: Any, instance_id: str) -> dict[str, Any] | None:
    """One instance: what it says of itself, what does not hold there, its newest report and its changes.

    ``report`` is returned as the table has it: the caller redacts it, and checks whether it is a report at all. None
    if there is no such instance.
    """
    which = {"id": instance_id}
    found = await _rows(connection, _ONE, which)
    if not found:
        return None
    reports = await _rows(connection, _REPORT, which)
    failing = await _rows(connection, _FAILS_HERE, which)
    changes = await _rows(connection, _CHANGED_HERE, which)
    return {**found[0], "failing": failing, "changes": changes, "report": reports[0]["document"] if reports else None}


_ONE = f"{_INSTANCES} WHERE i.id = %(id)s"
_REPORT = f"""
SELECT CASE WHEN pg_column_size(document) <= {LARGEST} AND octet_length(document::text) <= {LARGEST} THEN document END
       AS document
FROM preflight.reports WHERE instance = %(id)s AND isfinite(at) ORDER BY at DESC LIMIT 1
"""
_FAILS_HERE = f"""
SELECT {_cut("title")} AS title, CASE standing WHEN 'blocks' THEN 'blocks' ELSE 'warns' END AS standing,
       {_cut("outcome")} AS outcome, {_cut("message", TEXT)} AS message,
       {_cut("fix", TEXT)} AS fix, {_seconds("since")} AS seconds
FROM preflight.failing WHERE instance = %(id)s ORDER BY standing, title LIMIT {MOST_CHECKS}
"""
_CHANGED_HERE = f"""
SELECT {_cut("title")} AS title, {_cut("before", 20)} AS before, {_cut("after", 20)} AS after,
       {_cut("message", TEXT)} AS message, {_seconds("at")} AS seconds_ago
FROM preflight.changes WHERE instance = %(id)s AND at BETWEEN now() - interval '{PERIOD}' AND now()
ORDER BY at DESC, title LIMIT {MOST_CHANGES}
"""


async def _rows(connection: Any, statement: str, values: Mapping[str, object] | None = None) -> list[dict[str, Any]]:
    cursor = await connection.execute(statement.encode(), values)
    found: Sequence[dict[str, Any]] = await cursor.fetchall()
    return [{name: _plain(value) for name, value in row.items()} for row in found]


def _plain(value: Any) -> Any:
    """A value that JSON has: infinity and "not a number" become None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
