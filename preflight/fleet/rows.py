"""What one instance writes about itself: that it exists, its state, its changes, and its end.

All times come from the database, so the clocks of instances need not agree. Each function is one short transaction. A
connection is made for a write, and closed after it: thousands of instances keep none between heartbeats.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from preflight.fleet.database import connect, transaction
from preflight.report.changes import Flip, standing, verdict
from preflight.report.model import Check, Report

if TYPE_CHECKING:
    import psycopg

PATIENCE = 5.0  # seconds that one statement may take
SWEPT = 1000  # rows that a sweep removes of each table, at most: the next one goes on

_ENROL = """
INSERT INTO preflight.instances (id, project, application, host, address, release, beats_every, verdict, run_id, checks)
VALUES (%(id)s, %(project)s, %(application)s, %(host)s, %(address)s, %(release)s, %(every)s, %(verdict)s, %(run_id)s,
        %(checks)s)
ON CONFLICT (id) DO UPDATE SET
    project = excluded.project, application = excluded.application, host = excluded.host, address = excluded.address,
    release = excluded.release, beats_every = excluded.beats_every, seen_at = now(), ended_at = NULL, ending = NULL,
    verdict = excluded.verdict, run_id = excluded.run_id, checks = excluded.checks,
    verdict_since = CASE WHEN instances.verdict = excluded.verdict THEN instances.verdict_since ELSE now() END
"""
# The verdict as well: a forged one lasts only until the next sign of life.
_BEAT = """
UPDATE preflight.instances SET seen_at = now(), verdict = %(verdict)s, run_id = %(run_id)s, ended_at = NULL,
    verdict_since = CASE WHEN verdict = %(verdict)s THEN verdict_since ELSE now() END
WHERE id = %(id)s
"""


@dataclass(frozen=True, slots=True)
class Who:
    """An instance, as it describes itself."""

    id: str
    project: str
    """The project; changes of its instances are told together."""
    application: str
    host: str
    """The name of its machine."""
    address: str
    release: str

    @property
    def name(self) -> str:
        """What people call it: "web-7 (0.0.0.0:8002)"."""
        return f"{self.host} ({self.address})"


@dataclass(frozen=True, slots=True)
class News:
    """The differences between a run's result and what people were told."""

    run_id: str
    flips: tuple[Mapping[str, str], ...]
    """``title``, ``before``, ``after``, ``message`` and ``fix`` of each."""


class Rows:
    """The rows of one instance. In a ``with`` block all its transactions have one connection, else each has its own."""

    def __init__(self, url: str, environment: Mapping[str, str], who: Who, *, beats_every: float) -> None:
        """``beats_every`` is in seconds."""
        self.who = who
        self._url = url
        self._environment = environment
        self._every = beats_every
        self._outcomes: dict[str, str] | None = None
        """Each check's outcome in the report that was stored last; None if no such report is known here."""
        self._connection: psycopg.Connection[Any] | None = None
        self._keeps = False

    def __enter__(self) -> Rows:
        self._keeps = True
        return self

    def __exit__(self, *_error: object) -> None:
        self._keeps = False
        self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @property
    def connection(self) -> psycopg.Connection[Any]:
        """The connection of this block, made if need be. Raises UnusableDatabase or Unavailable."""
        self._connection = self._connection or connect(self._url, self._environment)
        return self._connection

    @contextlib.contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[Any]]:
        """A transaction; raises UnusableDatabase or Unavailable."""
        connection = self.connection
        try:
            with transaction(connection, PATIENCE):
                yield connection
        finally:
            if not self._keeps:
                self._close()

    def write(self, report: Report, every: Sequence[News]) -> None:
        """Record the instance's state, and what people have to be told about it. Doing it twice is the same as once."""
        with self.transaction() as connection:
            self._stand(connection, report)
            self._tell(connection, every)
        self._outcomes = _outcomes(report)

    def _stand(self, connection: psycopg.Connection[Any], report: Report) -> None:
        before = connection.execute(
            "SELECT run_id, verdict FROM preflight.instances WHERE id = %s FOR UPDATE", (self.who.id,)
        ).fetchone()
        stands = verdict(report)
        connection.execute(
            _ENROL,
            {**asdict(self.who), "every": self._every, "verdict": stands, "run_id": report.run_id}
            | {"checks": len(report.checks)},
        )
        if before is not None and before[0] == report.run_id:
            return
        flips = [Flip("", before[1], stands)] if before is not None and before[1] != stands else []
        if report.status != "broken":  # a run that broke says nothing of the checks that it lacks
            flips += self._fail(connection, report, known=before is not None)
        self._record(connection, report, flips)
        if self._outcomes != _outcomes(report):
            connection.execute(
                "INSERT INTO preflight.reports (instance, run_id, document) VALUES (%s, %s, %s::jsonb)"
                " ON CONFLICT DO NOTHING",
                (self.who.id, report.run_id, json.dumps({"preflight": report.to_json()["preflight"]})),
            )

    def _fail(self, connection: psycopg.Connection[Any], report: Report, *, known: bool) -> list[Flip]:
        """Update the rows of the checks that fail; returns what flipped if the instance was ``known`` before."""
        rows = connection.execute("SELECT title, standing FROM preflight.failing WHERE instance = %s", (self.who.id,))
        stood: dict[str, str] = dict(rows.fetchall())
        failing = {check.title: check for check in report.checks if standing(check) != "ok"}
        gone = [title for title in stood if title not in failing]
        if gone:
            remove = "DELETE FROM preflight.failing WHERE instance = %s AND title = ANY(%s)"
            connection.execute(remove, (self.who.id, gone))
        with connection.cursor() as cursor:
            cursor.executemany(_FAILING, [self._row(check) for check in failing.values()])
        if not known:
            return []
        flips = [Flip(title, stood[title], "ok") for title in gone]
        return flips + [
            Flip(title, stood.get(title, "ok"), standing(check))
            for title, check in failing.items()
            if stood.get(title, "ok") != standing(check)
        ]

    def _row(self, check: Check) -> tuple[str, ...]:
        return self.who.id, check.title, standing(check), check.outcome, check.message, check.fix

    def _record(self, connection: psycopg.Connection[Any], report: Report, flips: Sequence[Flip]) -> None:
        checks = {check.title: check for check in report.checks}
        said = {flip.title: checks[flip.title].message if flip.title in checks else report.reason for flip in flips}
        shared = {"instance": self.who.id, "run_id": report.run_id, "project": self.who.project, "name": self.who.name}
        rows = [{**shared, **asdict(flip), "message": said[flip.title]} for flip in flips]
        with connection.cursor() as cursor:
            cursor.executemany(_CHANGE, rows)

    def _tell(self, connection: psycopg.Connection[Any], every: Sequence[News]) -> None:
        shared = {"instance": self.who.id, "project": self.who.project, "name": self.who.name}
        with connection.cursor() as cursor:
            cursor.executemany(
                _NEWS, [{**shared, "run_id": news.run_id, **flip} for news in every for flip in news.flips]
            )

    def beat(self, report: Report) -> bool:
        """Give a sign of life; False if the row is gone, and has to be written again."""
        with self.transaction() as connection:
            stands = {"id": self.who.id, "verdict": verdict(report), "run_id": report.run_id}
            return connection.execute(_BEAT, stands).rowcount == 1

    def end(self, ending: str) -> None:
        """Say that the instance ends, and how: "stopped" or "replaced"."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE preflight.instances SET ended_at = now(), ending = %s WHERE id = %s", (ending, self.who.id)
            )

    def sweep(self, keep: Mapping[str, float]) -> None:
        """Remove what is older than ``keep`` says, in seconds, for instances, changes, reports, notices and answers.

        One instance does it at a time, whichever comes first.
        """
        with self.transaction() as connection:
            lock = connection.execute("SELECT pg_try_advisory_xact_lock(hashtext('preflight.sweep'))").fetchone()
            if lock is None or not lock[0]:
                return
            for table, name, age in _OLD:
                connection.execute(_SWEEP.format(table=table, age=age), (keep[name], SWEPT))


_FAILING = """
INSERT INTO preflight.failing (instance, title, standing, outcome, message, fix) VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (instance, title) DO UPDATE SET
    outcome = excluded.outcome, message = excluded.message, fix = excluded.fix, standing = excluded.standing,
    since = CASE WHEN failing.standing = excluded.standing THEN failing.since ELSE now() END
WHERE (failing.standing, failing.outcome, failing.message, failing.fix)
    IS DISTINCT FROM (excluded.standing, excluded.outcome, excluded.message, excluded.fix)
"""
_CHANGE = """
INSERT INTO preflight.changes (instance, run_id, title, project, name, before, after, message)
VALUES (%(instance)s, %(run_id)s, %(title)s, %(project)s, %(name)s, %(before)s, %(after)s, %(message)s)
ON CONFLICT DO NOTHING
"""
_NEWS = """
INSERT INTO preflight.news (instance, run_id, title, project, name, before, after, message, fix)
VALUES (%(instance)s, %(run_id)s, %(title)s, %(project)s, %(name)s, %(before)s, %(after)s, %(message)s, %(fix)s)
ON CONFLICT DO NOTHING
"""
_OLD = (
    ("instances", "instances", "greatest(seen_at, ended_at)"),
    ("changes", "changes", "at"),
    ("reports", "reports", "at"),
    ("notices", "notices", "made_at"),
    ("news", "notices", "at"),
    ("answers", "answers", "claimed_at"),
)
_SWEEP = """
DELETE FROM preflight.{table} WHERE ctid IN (
    SELECT ctid FROM preflight.{table} WHERE {age} < now() - %s * interval '1 second' LIMIT %s)
"""


def _outcomes(report: Report) -> dict[str, str]:
    return {check.title: check.outcome for check in report.checks}
