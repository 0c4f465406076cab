"""The schema ``preflight``: who creates and migrates its tables, and which versions of them this release understands.

Tables come in subjects (:class:`Tables`): our own, and those of an application that names its own in the setting
``database_tables``. Each subject is a list of steps; its version is the number of steps that were applied, with one row
of ``preflight.migrations`` for each.

- :func:`create` makes the tables of a subject that has none, all steps in one transaction. A serving instance does
  that, outside of the path of its start.
- :func:`migrate` applies the missing steps, each in one transaction with its row. Only ``--migrate`` does that. A step
  that is killed in the middle has changed nothing; the next call goes on from there.

Both try to get a lock of the transaction (``pg_try_advisory_xact_lock``), and try again later. Nothing waits inside of
a transaction, where it could hold up another role's CREATE INDEX CONCURRENTLY, and a lock ends with its owner.

A release reads and writes tables that are one step ahead of it, so that instances of both releases serve during a
rolling update. Therefore the statements of the release before a step must still work after that step.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflight import registering
from preflight.fleet.database import Unavailable, UnusableDatabase, explained, transaction

if TYPE_CHECKING:
    import psycopg

SCHEMA = "preflight"
LOCK = 0x70_72_65_66_6C_74  # "preflt": the advisory lock's number, which is the database's own
PAUSE = 0.2  # seconds between two tries to have the lock
STEP = 30.0  # seconds that a statement of a creation may take; a migration takes as long as it needs
LOCKED = 5.0  # seconds that a migration waits for a table that is in use: later statements wait behind it

FIRST = """
CREATE TABLE IF NOT EXISTS preflight.migrations (
    subject text NOT NULL,
    number integer NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subject, number)
)
"""


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of one subject.

    A step is SQL that runs in one transaction, and names every table with its schema (``preflight.instances``): behind
    a pooler no session keeps a search_path. A step that was released is never changed.
    """

    subject: str
    steps: tuple[str, ...]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z_]{0,40}", self.subject):
            raise ValueError(f"the subject {self.subject!r} has to be a word of small letters")
        if not self.steps:
            raise ValueError(f"the tables of {self.subject!r} have no step that makes them")

    @property
    def version(self) -> int:
        """How many steps this release knows."""
        return len(self.steps)


def of_folder(subject: str, folder: Path) -> Tables:
    """Tables whose steps are folders with the numbers 1, 2, ...: the ``*.sql`` files of each, in order of name."""
    steps: list[str] = []
    while (step := folder / str(len(steps) + 1)).is_dir():
        steps.append("\n".join(path.read_text(encoding="utf-8") for path in sorted(step.glob("*.sql"))))
    return Tables(subject, tuple(steps))


@functools.cache
def fleet() -> Tables:
    """Our own tables."""
    return of_folder("fleet", Path(__file__).with_name("sql"))


def registered(names: Iterable[str]) -> list[Tables]:
    """The tables that the setting ``database_tables`` names, ``module:attribute`` each. Raises UnusableDatabase."""
    found = []
    for name in names:
        try:
            tables = registering.load(name)
        except registering.NotLoaded as error:
            raise UnusableDatabase(f"database_tables: {error}", f"make {name} importable") from error
        if not isinstance(tables, Tables):
            raise UnusableDatabase(f"database_tables: {name} is not a preflight.fleet.schema.Tables", f"correct {name}")
        found.append(tables)
    return found


# What is there.


@dataclass(frozen=True, slots=True)
class SchemaState:
    """What exists of the schema in the database, and what this role may do with it."""

    exists: bool
    may_create: bool
    """Whether the role may make what is missing."""
    versions: Mapping[str, int]
    """How many steps were applied, by subject."""

    def version(self, tables: Tables) -> int:
        """How many steps of these were applied."""
        return self.versions.get(tables.subject, 0)

    def is_missing(self, tables: Tables) -> bool:
        """Whether none of these tables exist yet."""
        return self.version(tables) == 0

    def is_behind(self, tables: Tables) -> bool:
        """Whether there are steps for ``--migrate``."""
        return 0 < self.version(tables) < tables.version

    def is_ahead(self, tables: Tables) -> bool:
        """Whether they are more than one step ahead, so that this release may not understand them."""
        return self.version(tables) > tables.version + 1


# An owner's triggers and rules run with the rights of the role that writes to the table. So what others have put there
# is not written to: it has to be this role's, that of a role it belongs to, the database owner's or a superuser's.
_STRANGE = """
NOT (pg_has_role({0}, 'MEMBER') OR {0} = (SELECT datdba FROM pg_database WHERE datname = current_database())
     OR (SELECT rolsuper FROM pg_roles WHERE oid = {0}))
"""
_SCHEMA = f"""
SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on',
       has_database_privilege(current_database(), 'CREATE'),
       n.oid IS NOT NULL, has_schema_privilege(n.oid, 'USAGE'), has_schema_privilege(n.oid, 'CREATE'),
       {_STRANGE.format("n.nspowner")}
FROM (SELECT) AS one LEFT JOIN pg_namespace AS n ON n.nspname = '{SCHEMA}'
"""
_RELATIONS = f"""
SELECT c.relname, {_STRANGE.format("c.relowner")},
       has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
       AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = '{SCHEMA}' AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY c.relname
"""


def look(connection: psycopg.Connection[Any], seconds: float) -> SchemaState:
    """What is there; writes nothing.

    Raises UnusableDatabase if the role lacks rights or the schema is somebody else's, Unavailable for a standby or a
    server that is read-only.
    """
    with transaction(connection, seconds):
        return _look(connection)


def _look(connection: psycopg.Connection[Any]) -> SchemaState:
    standby, read_only, may_make, exists, uses, creates, strange = _row(connection, _SCHEMA)
    if standby:
        raise Unavailable("the database is a standby, which is read-only")
    if read_only:
        raise Unavailable("the database does not let this role write: its transactions are read-only")
    if not exists:
        if not may_make:
            raise UnusableDatabase(f"the role may not create the schema {SCHEMA}", _GRANT)
        return SchemaState(False, True, {})
    if strange:
        raise UnusableDatabase(
            f"the schema {SCHEMA} belongs to another role: what that role puts there would run with this role's rights",
            f"as a superuser, with the user in PREFLIGHT_DATABASE_URL as ROLE: ALTER SCHEMA {SCHEMA} OWNER TO ROLE;",
        )
    if not uses:
        raise UnusableDatabase(f"the role may not use the schema {SCHEMA}", _GRANT)
    names = []
    for name, foreign, writes in connection.execute(_RELATIONS).fetchall():
        if foreign:
            raise UnusableDatabase(
                f"the table {SCHEMA}.{name} belongs to another role: its triggers would run with this role's rights",
                f"remove the table, or, as a superuser, with the user in PREFLIGHT_DATABASE_URL as ROLE:"
                f" ALTER TABLE {SCHEMA}.{name} OWNER TO ROLE;",
            )
        if not writes:
            raise UnusableDatabase(f"the role may not read and write {SCHEMA}.{name}", _GRANT)
        names.append(name)
    versions = _versions(connection) if "migrations" in names else {}
    return SchemaState(True, creates, versions)


_GRANT = (
    "as the owner of the database, with the user in PREFLIGHT_DATABASE_URL as ROLE:"
    f" CREATE SCHEMA IF NOT EXISTS {SCHEMA} AUTHORIZATION ROLE;"
)


def _versions(connection: psycopg.Connection[Any]) -> dict[str, int]:
    question = "SELECT subject, max(number) FROM preflight.migrations GROUP BY subject"
    return dict(connection.execute(question).fetchall())


def _row(connection: psycopg.Connection[Any], statement: str) -> Any:
    row = connection.execute(statement).fetchone()
    if row is None:
        raise RuntimeError("a question that always has one row had none")
    return row


# What is made.


def create(connection: psycopg.Connection[Any], every: Sequence[Tables], *, patience: float = STEP) -> SchemaState:
    """Make the tables of those subjects that have none, and return what is there then; others stay as they are.

    Waits ``patience`` seconds for another creation or migration. Raises UnusableDatabase or Unavailable.
    """
    until = time.monotonic() + patience
    while True:
        state = look(connection, STEP)
        missing = [tables for tables in every if state.is_missing(tables)]
        if not missing:
            return state
        if not state.may_create:
            raise UnusableDatabase(f"the role may not create a table in the schema {SCHEMA}", _GRANT)
        with transaction(connection, STEP):
            if _locked(connection):
                state = _look(connection)
                _begin(connection, state)
                for tables in missing:
                    if state.is_missing(tables):  # else somebody was faster
                        for number in range(1, tables.version + 1):
                            _apply(connection, tables, number)
                continue
        _pause(until)


def migrate(
    connection: psycopg.Connection[Any],
    every: Sequence[Tables],
    *,
    patience: float,
    waiting: Callable[[str], object] = lambda _why: None,
) -> Iterator[tuple[Tables, int]]:
    """Apply the steps that are missing, one after the other; yields each, with its number, once it is committed.

    Waits ``patience`` seconds at most for somebody else's migration, or for a table that is in use, and calls
    ``waiting`` with what it waits for. Raises UnusableDatabase or Unavailable.
    """
    look(connection, STEP)
    for tables in every:
        until = time.monotonic() + patience
        while True:
            number, why = _step(connection, tables)
            if number:
                yield tables, number
                until = time.monotonic() + patience
            elif not why:
                break
            else:
                waiting(why)
                _pause(until, why)


def _step(connection: psycopg.Connection[Any], tables: Tables) -> tuple[int, str]:
    """Apply the next step; returns its number, or 0 with what is in the way, which is empty if no step is left."""
    import psycopg

    try:
        with explained(LOCKED), connection.transaction():
            if not _locked(connection):
                return 0, "another migration"
            state = _look(connection)
            number = state.version(tables) + 1
            if number > tables.version:
                return 0, ""
            if not state.may_create:
                raise UnusableDatabase(f"the role may not create a table in the schema {SCHEMA}", _GRANT)
            connection.execute(f"SET LOCAL lock_timeout = {int(LOCKED * 1000)}; SET LOCAL statement_timeout = 0")
            _begin(connection, state)
            _apply(connection, tables, number)
    except Unavailable as error:
        if isinstance(error.__cause__, psycopg.errors.LockNotAvailable):
            return 0, "a table that is in use"
        raise
    return number, ""


def _locked(connection: psycopg.Connection[Any]) -> bool:
    """Whether this transaction has the lock now; it keeps it until its end."""
    return bool(_row(connection, f"SELECT pg_try_advisory_xact_lock({LOCK})")[0])


def _begin(connection: psycopg.Connection[Any], state: SchemaState) -> None:
    if not state.exists:
        connection.execute(f"CREATE SCHEMA {SCHEMA}")
    connection.execute(FIRST)


def _apply(connection: psycopg.Connection[Any], tables: Tables, number: int) -> None:
    connection.execute(tables.steps[number - 1].encode())
    row = "INSERT INTO preflight.migrations (subject, number) VALUES (%s, %s)"
    connection.execute(row, (tables.subject, number))


def _pause(until: float, why: str = "another start that creates the tables") -> None:
    if time.monotonic() > until:
        raise Unavailable(f"the schema {SCHEMA} cannot be changed: waiting for {why} took too long")
    time.sleep(PAUSE)
