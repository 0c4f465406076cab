"""Notices for the whole fleet: gathered from what is new, claimed with a lease, and sent again if a sender died.

A notice is a row with a key. Its holder sends it through its own launcher, prolongs the lease while that goes on, and
records when it was delivered. Any instance may take over an expired lease: the notice is then sent once more, with the
same key. So people are told at least once; twice if a sender has died between sending the notice and recording that.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from preflight.fleet.grouping import Fleet, Told, notice
from preflight.fleet.rows import Rows
from preflight.notify.notices import LONGEST, Notice
from preflight.text import foreign

if TYPE_CHECKING:
    import psycopg

TRIES = 5  # holders that a notice may have, one after the other
OTHERS = 5  # leases for which others may take a notice that this instance could not deliver, before it tries again
LONGEST_FIELD = LONGEST + 50  # characters of another instance's field; a message is cut, and says so, before that
LARGEST = 5000  # rows that go into one notice; the rest into the next

_DUE = """
SELECT 1 FROM preflight.news
WHERE project = %s AND notice IS NULL AND at <= now() - %s * interval '1 second' LIMIT 1
"""
_HOLD = """
INSERT INTO preflight.notices (key, project, title, body, level, holder, held_until)
VALUES (%s, %s, '', '', '', %s, now() + %s * interval '1 second')
"""
_TAKE = """
WITH taken AS (
    UPDATE preflight.news SET notice = %s WHERE ctid IN (
        SELECT ctid FROM preflight.news WHERE project = %s AND notice IS NULL ORDER BY at LIMIT %s FOR UPDATE)
    RETURNING instance, name, title, before, after, message, fix, at)
SELECT instance, name, title, before, after, message, fix FROM taken ORDER BY at
"""
_FLEET = """
SELECT id, host || ' (' || address || ')', seen_at < now() - 3 * beats_every * interval '1 second', verdict <> 'good'
FROM preflight.instances WHERE project = %s AND ended_at IS NULL
"""
_FAILING = """
SELECT f.title, f.instance FROM preflight.failing AS f JOIN preflight.instances AS i ON i.id = f.instance
WHERE i.project = %s AND i.ended_at IS NULL AND f.title = ANY(%s)
"""
_CLAIM = """
UPDATE preflight.notices SET holder = %s, held_until = now() + %s * interval '1 second', tries = tries + 1
WHERE key = (
    SELECT key FROM preflight.notices
    WHERE project = %s AND delivered_at IS NULL AND given_up_at IS NULL AND held_until < now()
        AND (holder <> %s OR held_until < now() - %s * interval '1 second')
    ORDER BY made_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING key, title, body, level, tries
"""
_PROLONG = """
UPDATE preflight.notices SET held_until = now() + %s * interval '1 second' WHERE key = %s AND holder = %s
"""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A notice that this instance has to send."""

    key: str
    notice: Notice


class Gathering:
    """What one instance does about the notices of its project."""

    def __init__(self, rows: Rows, *, window: float, lease: float) -> None:
        """``window`` and ``lease`` are in seconds."""
        self._rows = rows
        self._window = window
        self._lease = lease

    def claim(self) -> Claimed | None:
        """The next notice that this instance has to send; None if there is none.

        Raises UnusableDatabase or Unavailable.
        """
        who = self._rows.who
        with self._rows.transaction() as connection:
            patience = OTHERS * self._lease
            left = connection.execute(_CLAIM, (who.id, self._lease, who.project, who.id, patience)).fetchone()
            if left is not None:
                key, title, body, level, tries = left
                if tries <= TRIES:
                    return Claimed(key, Notice(title, body, level))
                given_up = "UPDATE preflight.notices SET given_up_at = now() WHERE key = %s"
                connection.execute(given_up, (key,))
            return self._gather(connection)

    def _gather(self, connection: psycopg.Connection[Any]) -> Claimed | None:
        """Make a notice of what is new, once the oldest of it has waited for the window."""
        who = self._rows.who
        if connection.execute(_DUE, (who.project, self._window)).fetchone() is None:
            return None
        # One instance gathers at a time, so that one notice has everything. The second one need not wait.
        lock = "SELECT pg_try_advisory_xact_lock(hashtext('preflight.notices'), hashtext(%s))"
        row = connection.execute(lock, (who.project,)).fetchone()
        if row is None or not row[0]:
            return None
        key = secrets.token_hex(8)
        connection.execute(_HOLD, (key, who.project, who.id, self._lease))
        rows = connection.execute(_TAKE, (key, who.project, LARGEST)).fetchall()
        # Any role that may write to the table may have written these rows.
        taken = [Told(*(foreign(text, LONGEST_FIELD) for text in row)) for row in rows]
        made = notice(who.project, taken, self._fleet(connection, taken), key)
        if made is None:  # everything has changed back, or another instance was faster; its rows go with it
            connection.execute("DELETE FROM preflight.notices WHERE key = %s", (key,))
            return None
        words = "UPDATE preflight.notices SET title = %s, body = %s, level = %s WHERE key = %s"
        connection.execute(words, (made.title, made.body, made.level, key))
        return Claimed(key, made)

    def _fleet(self, connection: psycopg.Connection[Any], taken: list[Told]) -> Fleet:
        who = self._rows.who
        there = connection.execute(_FLEET, (who.project,)).fetchall()
        failing: dict[str, set[str]] = {"": {row[0] for row in there if row[3]}}
        titles = sorted({one.title for one in taken} - {""})
        for title, instance in connection.execute(_FAILING, (who.project, titles)).fetchall():
            failing.setdefault(title, set()).add(instance)
        return Fleet(
            names={row[0]: foreign(row[1], LONGEST_FIELD) for row in there},
            silent=frozenset(row[0] for row in there if row[2]),
            failing={title: frozenset(ids) for title, ids in failing.items()},
        )

    def prolong(self, key: str) -> bool:
        """Keep a notice that is still being sent; False if somebody else has it by now."""
        with self._rows.transaction() as connection:
            return connection.execute(_PROLONG, (self._lease, key, self._rows.who.id)).rowcount == 1

    def conclude(self, key: str, *, delivered: bool) -> None:
        """Record that a notice was delivered, or give it back, for another instance to try."""
        column = "delivered_at" if delivered else "held_until"
        with self._rows.transaction() as connection:
            ended = f"UPDATE preflight.notices SET {column} = now() WHERE key = %s AND holder = %s"
            connection.execute(ended, (key, self._rows.who.id))
