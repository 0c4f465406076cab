"""The fleet's database, asked in a thread from the beginning of the run. Requirements judge the answer.

A start waits for the answer as long as the application takes to import. Beyond that, it gives the database a moment for
each step that it answers (:data:`MOMENT`), and no time if it is down, slow or behind a partition. Other runs wait for
``probe_timeout``.
"""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from preflight.settings.model import Settings

if TYPE_CHECKING:
    from preflight.fleet.schema import SchemaState, Tables

MOMENT = 0.1  # seconds that a start gives a database to take the connection, and twice that to answer all questions
LOOK = 0.01  # seconds between two looks at how far the question has come


class DatabaseAnswer(NamedTuple):
    """What is known about the database."""

    version: str = ""
    """The server's, "15.18" say."""
    state: SchemaState | None = None
    """None if nothing is known about its tables."""
    tables: tuple[Tables, ...] = ()
    """Our own, and those that the application registers."""
    problem: str = ""
    """Why it cannot be used, for people, without any part of the URL."""
    fix: str = ""
    passes: bool = False
    """Whether the problem may go away by itself."""


class DatabaseProbe:
    """The one question of a run."""

    def __init__(self, settings: Settings, *, starts: bool) -> None:
        """``starts``: this run is in the path of a start."""
        self._settings = settings
        self._starts = starts
        self._answer: DatabaseAnswer | None = None
        self._answered = threading.Event()
        self._begun = 0.0
        self._left: float | None = None
        """When the question left: the time before that, an import above all, was not the database's."""
        self._connected: float | None = None

    def start(self) -> None:
        """Ask, if there is a database to ask; more than once does no harm."""
        if self._settings.database_url and not self._settings.offline and not self._begun:
            self._begun = time.monotonic()
            # A daemon: a name server that hangs is reached by no time-out, and must not keep the process alive.
            threading.Thread(target=self._ask, name="probe-database", daemon=True).start()

    @property
    def answer(self) -> DatabaseAnswer:
        """The answer, as soon as it is known, or at the deadline."""
        while not self._answered.is_set() and (left := self._until() - time.monotonic()) > 0:
            self._answered.wait(min(left, LOOK))
        if self._answer is not None:
            return self._answer
        waited = time.monotonic() - self._begun
        return DatabaseAnswer(problem=f"the database cannot be reached: no answer within {waited:.1f} s", passes=True)

    def _until(self) -> float:
        """Until when to wait for the answer, as far as is known by now; on the monotonic clock."""
        limit = self._settings.probe_timeout
        if self._left is None:
            return self._begun + limit
        if not self._starts:
            return self._left + limit
        return self._left + MOMENT if self._connected is None else self._connected + 2 * MOMENT

    def age(self) -> str:
        """When this instance last reached the database, for people; it has written that down."""
        from preflight import times

        try:
            kept = json.loads(self._settings.state.database.read_text(encoding="utf-8"))
            return f"it was last reached at {times.minute(float(kept['reached_at']))}"
        except (OSError, ValueError, KeyError, TypeError):
            return "it has not been reached from here before"

    def _ask(self) -> None:
        from preflight.fleet import database, schema

        settings = self._settings
        try:
            tables = (schema.fleet(), *schema.registered(settings.database_tables))
            database.parameters(settings.database_url or "", settings.environment)  # imports psycopg
            self._left = time.monotonic()
            with database.connect(settings.database_url or "", settings.environment) as connection:
                self._connected = time.monotonic()
                version = database.shown(connection.info.server_version)
                state = schema.look(connection, settings.probe_timeout)
                self._answer = DatabaseAnswer(version=version, state=state, tables=tables)
        except database.UnusableDatabase as error:
            self._answer = DatabaseAnswer(problem=str(error), fix=error.fix)
        except database.Unavailable as error:
            self._answer = DatabaseAnswer(problem=str(error), passes=True)
        except Exception as error:  # noqa: BLE001  # whatever it is: the requirement fails, and says so
            self._answer = DatabaseAnswer(problem=f"the database cannot be asked: {type(error).__name__}")
        finally:
            self._answered.set()
