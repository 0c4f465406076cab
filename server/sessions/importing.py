"""``run.py --import-sessions``: the sessions of a state folder's file go to the database, too.

The file stays as it is. A session is imported in one transaction; run again, the command adds what has come since, and
nothing twice. A session in which a running server works on a turn is left for the next time.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from preflight import commands
from preflight.output import plainlines
from preflight.settings.model import Settings
from server.sessions.model import LINE, Kept, StoreError
from server.sessions.owner import alive
from server.sessions.store import VERSION

if TYPE_CHECKING:
    from langgraph.checkpoint.base import CheckpointTuple


@dataclass(slots=True)
class Imported:
    """The result of an import."""

    sessions: int = 0
    messages: int = 0
    there: int = 0
    """Sessions that were already complete in the database."""
    in_use: list[str] = field(default_factory=list)

    def told(self) -> str:
        """The result, for people."""
        sessions = f"{self.sessions} session{'' if self.sessions == 1 else 's'}"
        messages = f"{self.messages} new message{'' if self.messages == 1 else 's'}"
        said = f"Imported into the database: {sessions} with {messages}."
        if self.there:
            said += f" Sessions that were already there: {self.there}."
        if self.in_use:
            said += (
                f" These were left out, because a running server is answering in them: {', '.join(self.in_use)}."
                " Stop the server, and run this command again."
            )
        return said


def run(settings: Settings) -> int:
    """The command: 0 if everything is in the database then, 1 if not, 2 without a database."""
    if not settings.database_url:
        plainlines.error("PREFLIGHT_DATABASE_URL is not set: there is no database to import sessions into")
        return 2
    path = settings.state.sessions
    if not path.exists():
        plainlines.say(f"There are no sessions to import: {path} is not there.")
        return 0
    try:
        done = asyncio.run(imported(path, settings))
    except (StoreError, sqlite3.Error) as error:
        plainlines.error(
            f"the sessions of {path} were not all imported: {error}; run {commands.run_py('--import-sessions')} again"
        )
        return 1
    plainlines.say(done.told())
    plainlines.say(f"{path} is unchanged; with PREFLIGHT_DATABASE_URL set, nothing reads it any more.")
    return 1 if done.in_use else 0


async def imported(path: Path, settings: Settings) -> Imported:
    """Import every session of this file. Raises StoreError, sqlite3.Error."""
    from server.sessions.opening import opened
    from server.sessions.postgres.imports import Importer
    from server.sessions.postgres.store import Store

    store = opened(settings)
    assert isinstance(store, Store)  # noqa: S101  # there is a database URL
    done = Imported()
    try:
        importer = Importer(store.database)
        with closing(_opened(path)) as db:
            for session in [row[0] for row in db.execute("SELECT id FROM sessions ORDER BY updated")]:
                kept = await asyncio.to_thread(_read, db, session)
                if kept.in_use:
                    done.in_use.append(session)
                    continue
                added = await importer.add(kept)
                done.messages += added
                done.sessions += added > 0
                done.there += added == 0
    finally:
        await store.close()
    return done


def _opened(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version != VERSION:
        db.close()
        raise StoreError(f"{path} has version {version}, but this release reads {VERSION}")
    return db


def _read(db: sqlite3.Connection, session: str) -> Kept:
    """Read a session in one transaction, so that its parts fit together whoever writes meanwhile."""
    db.execute("BEGIN")
    try:
        found = db.execute("SELECT id, created, updated, workspace FROM sessions WHERE id = ?", (session,)).fetchone()
        lines = db.execute(f"SELECT {LINE} FROM transcript WHERE session = ? ORDER BY seq", (session,)).fetchall()  # noqa: S608
        turns = db.execute("SELECT turn, attempts, owner FROM turns WHERE session = ?", (session,)).fetchall()
        tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE name = 'checkpoints'")}
        memory = _remembered(db, session) if tables else None
    finally:
        db.execute("ROLLBACK")
    in_use = found is None or any(alive(owner) for _, _, owner in turns)
    return Kept(found, lines, {turn: attempts for turn, attempts, _ in turns}, memory, in_use)


def _remembered(db: sqlite3.Connection, session: str) -> CheckpointTuple | None:
    from langgraph.checkpoint.sqlite import SqliteSaver

    saver = SqliteSaver(db)
    saver.is_setup = True  # it would make tables, and this connection reads only
    return saver.get_tuple({"configurable": {"thread_id": session, "checkpoint_ns": ""}})
