"""Sessions on disk: an append-only transcript in SQLite, and the turns that have no answer yet.

The methods are those of :class:`server.sessions.model.Sessions`. database.py has the file, and the thread that works
on it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflight.times import stamp
from server.sessions import model
from server.sessions.database import Database
from server.sessions.model import (
    LINE,
    AcceptedMessage,
    Line,
    NoSession,
    Open,
    SessionFull,
    StoreError,
    TooManySessions,
    TurnEnd,
    TurnTaken,
)
from server.sessions.owner import alive, whoami

if TYPE_CHECKING:
    from server.sessions.checkpoints import Checkpoints

VERSION = 2
SCHEMA = """
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS sessions (
    id TEXT PRIMARY KEY, created REAL NOT NULL, updated REAL NOT NULL,
    messages INTEGER NOT NULL, bytes INTEGER NOT NULL, workspace TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sessions_updated ON sessions (updated);
CREATE TABLE IF NOT EXISTS transcript (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, session TEXT NOT NULL, turn TEXT NOT NULL, role TEXT NOT NULL,
    content TEXT NOT NULL, at REAL NOT NULL, client TEXT, code TEXT, retry INTEGER, retry_after REAL
);
CREATE INDEX IF NOT EXISTS transcript_session ON transcript (session, seq);
CREATE UNIQUE INDEX IF NOT EXISTS transcript_client ON transcript (session, client)
    WHERE role = 'user' AND client IS NOT NULL;
-- Turns that were accepted and have no answer yet; attempts are those that began.
CREATE TABLE IF NOT EXISTS turns (
    turn TEXT PRIMARY KEY, session TEXT NOT NULL, seq INTEGER NOT NULL, owner TEXT NOT NULL, attempts INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS turns_session ON turns (session, seq);
PRAGMA user_version = 2;
COMMIT;
"""
OPEN = "SELECT turns.turn, seq, content, owner, attempts, client FROM turns JOIN transcript USING (seq)"


class Store:
    """The sessions of one state folder. Made and closed in the event loop; opened when first used."""

    look = 0.2
    shared = False

    def __init__(self, path: Path, *, age: float, limit: int, size: int, owner: str = "") -> None:
        """``age`` in seconds, ``limit`` in sessions, ``size`` in bytes of text a session; ``owner``: this process."""
        self.age, self.limit, self.size = age, limit, size
        self.owner = owner or whoami()
        self.database = Database(path, self._prepare)

    # Turns.

    async def accept(
        self, session: str, turn: str, content: str, *, client: str | None, workspace: str | None, keep: Collection[str]
    ) -> AcceptedMessage:
        return await self.database.run(
            lambda db: self._accept(db, session, turn, content, client, workspace, keep), "write"
        )

    async def finish(self, session: str, turn: str, reply: TurnEnd) -> Line:
        return await self.database.run(lambda db: self._finish(db, session, turn, reply), "write")

    async def open_turns(self, session: str) -> list[Open]:
        found = await self.database.run(
            lambda db: db.execute(f"{OPEN} WHERE turns.session = ? ORDER BY turns.seq", (session,)).fetchall()
        )
        return [await self._open(row) for row in found]

    async def seen(self, session: str, turn: str) -> Line | Open | None:
        def work(db: sqlite3.Connection) -> Any:
            return _answer(db, session, turn) or db.execute(f"{OPEN} WHERE turns.turn = ?", (turn,)).fetchone()

        found = await self.database.run(work)
        return found if found is None or isinstance(found, Line) else await self._open(found)

    async def _open(self, row: Any) -> Open:
        turn, seq, content, owner, attempts, client = row
        held = owner != self.owner and await asyncio.to_thread(alive, owner)
        return Open(turn, seq, content, attempts, client, owner=owner, epoch=0, held=held)

    async def claim(self, found: Open, *, force: bool = False) -> int | None:  # noqa: ARG002  # its owner is asked before
        def work(db: sqlite3.Connection) -> int | None:
            changed = db.execute(
                "UPDATE turns SET owner = ? WHERE turn = ? AND owner = ? RETURNING attempts",
                (self.owner, found.turn_id, found.owner),
            ).fetchone()
            return int(changed[0]) if changed else None

        return await self.database.run(work, "write")

    async def begin(self, turn: str) -> bool:
        begins = "UPDATE turns SET attempts = attempts + 1 WHERE turn = ? AND owner = ?"

        def work(db: sqlite3.Connection) -> bool:
            if db.execute(begins, (turn, self.owner)).rowcount == 0:
                raise TurnTaken("another process has taken this turn over, or the session was deleted")
            return True

        return await self.database.run(work, "write")

    async def news(self, known: Mapping[str, int]) -> list[tuple[str, str, int]]:  # noqa: ARG002
        return []

    async def release(self, turns: Collection[str]) -> None:
        """Do nothing: the next process in which the session is resumed takes up such a turn."""

    # Transcripts.

    async def history(self, session: str, *, before: int | None, limit: int, size: int) -> tuple[list[Line], bool]:
        return await self.database.run(lambda db: _history(db, session, before, limit, size))

    async def recent(self, session: str, *, limit: int, size: int) -> list[Line]:
        def work(db: sqlite3.Connection) -> list[Line]:
            oldest = db.execute("SELECT min(seq) FROM turns WHERE session = ?", (session,)).fetchone()[0]
            return _history(db, session, None, limit, size, oldest)[0]

        return await self.database.run(work)

    # Sessions.

    async def exists(self, session: str) -> bool:
        return await self.database.run(lambda db: known(db, session))

    async def page(self, *, offset: int, limit: int) -> tuple[list[dict[str, Any]], int]:
        def work(db: sqlite3.Connection) -> tuple[list[dict[str, Any]], int]:
            rows = db.execute(
                "SELECT id, created, updated, messages, bytes, workspace,"
                " (SELECT count(*) FROM turns WHERE session = id) FROM sessions ORDER BY updated DESC LIMIT ? OFFSET ?",
                (limit, offset),
            )
            return [model.session(row) for row in rows], int(db.execute("SELECT count(*) FROM sessions").fetchone()[0])

        return await self.database.run(work)

    async def export(self, session: str) -> dict[str, Any]:
        def work(db: sqlite3.Connection) -> dict[str, Any]:
            row = db.execute(
                "SELECT id, created, updated, messages, bytes, workspace,"
                " (SELECT count(*) FROM turns WHERE session = id) FROM sessions WHERE id = ?",
                (session,),
            ).fetchone()
            if row is None:
                raise NoSession("there is no such session")
            lines = db.execute(
                f"SELECT {LINE} FROM transcript WHERE session = ? ORDER BY seq",  # noqa: S608  # names from here
                (session,),
            )
            return model.session(row) | {"transcript": [_line(line).to_json() for line in lines]}

        return await self.database.run(work)

    async def delete(self, sessions: Collection[str] | None) -> int:
        def work(db: sqlite3.Connection) -> int:
            chosen = [row[0] for row in db.execute("SELECT id FROM sessions")] if sessions is None else sessions
            return sum(_delete(db, session) for session in chosen)

        count = await self.database.run(work, "write")
        await self.database.run(lambda db: db.execute("PRAGMA incremental_vacuum").fetchall(), "alone")
        return count

    # The graph's memory.

    def load(self) -> None:
        import server.sessions.checkpoints  # noqa: F401  # for the first question

    async def checkpointer(self) -> Checkpoints:
        from server.sessions.checkpoints import Checkpoints

        made = Checkpoints(self.database)
        await made.prepare()
        return made

    async def close(self) -> None:
        await self.database.close()

    # The work itself, in the database's thread.

    def _prepare(self, db: sqlite3.Connection) -> None:
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        if version not in (0, VERSION):
            age = "a newer" if version > VERSION else "an older"
            raise StoreError(
                f"{self.database.path} was written by {age} version of this server: move it out of the way"
            )
        if version == 0:
            db.executescript(SCHEMA)
        db.execute("BEGIN IMMEDIATE")
        self._forget_old(db, ())
        db.execute("COMMIT")

    def _accept(
        self,
        db: sqlite3.Connection,
        session: str,
        turn: str,
        content: str,
        client: str | None,
        workspace: str | None,
        keep: Collection[str],
    ) -> AcceptedMessage:
        now = time.time()
        found = db.execute("SELECT bytes FROM sessions WHERE id = ?", (session,)).fetchone()
        size = len(content.encode())
        if found is None:
            self._make_room(db, keep)
            db.execute("INSERT INTO sessions VALUES (?, ?, ?, 0, 0, ?)", (session, now, now, workspace))
        elif client is not None:
            before = db.execute(
                "SELECT turn, at, seq FROM transcript WHERE session = ? AND client = ? AND role = 'user'",
                (session, client),
            ).fetchone()
            if before is not None:
                turn, at, seq = before
                return AcceptedMessage(turn, stamp(at), seq, duplicate=True, answer=_answer(db, session, turn))
        if (found[0] if found else 0) + size > self.size:
            raise SessionFull(
                f"with this message, the session would exceed {self.size} bytes; begin a new one or delete this one"
            )
        # In the transaction that accepts: of two processes that accept at once, the second sees the first one's turn.
        other = "SELECT EXISTS (SELECT * FROM turns WHERE session = ? AND owner <> ?)"
        others = bool(db.execute(other, (session, self.owner)).fetchone()[0])
        seq = _append(db, session, turn, now, role="user", content=content, client=client)
        db.execute("INSERT INTO turns VALUES (?, ?, ?, ?, 0)", (turn, session, seq, self.owner))
        return AcceptedMessage(turn, stamp(now), seq, others=others)

    def _make_room(self, db: sqlite3.Connection, keep: Collection[str]) -> None:
        self._forget_old(db, keep)
        count = db.execute("SELECT count(*) FROM sessions").fetchone()[0]
        if count < self.limit:
            return
        oldest = db.execute("SELECT id FROM sessions ORDER BY updated LIMIT ?", (count - self.limit + 1 + len(keep),))
        for session in [row[0] for row in oldest]:
            if session not in keep:
                _delete(db, session)
                count -= 1
                if count < self.limit:
                    return
        raise TooManySessions(f"there are {count} sessions, and all of them are in use: try again later")

    def _finish(self, db: sqlite3.Connection, session: str, turn: str, reply: TurnEnd) -> Line:
        ours = "DELETE FROM turns WHERE turn = ? AND session = ? AND owner = ?"
        if db.execute(ours, (turn, session, self.owner)).rowcount:
            _append(db, session, turn, time.time(), **asdict(reply))
        line = _answer(db, session, turn)  # ours, or another process's
        if line is not None:
            return line
        if known(db, session):
            raise TurnTaken("another process has taken this turn over")
        raise NoSession("the session was deleted in the meantime")

    def _forget_old(self, db: sqlite3.Connection, keep: Collection[str]) -> None:
        old = db.execute("SELECT id FROM sessions WHERE updated < ? LIMIT 1000", (time.time() - self.age,))
        for session in [row[0] for row in old]:
            if session not in keep:
                _delete(db, session)


def known(db: sqlite3.Connection, session: str) -> bool:
    """Whether there is such a session."""
    return db.execute("SELECT 1 FROM sessions WHERE id = ?", (session,)).fetchone() is not None


def _append(
    db: sqlite3.Connection,
    session: str,
    turn: str,
    at: float,
    *,
    role: str,
    content: str,
    client: str | None = None,
    code: str | None = None,
    retry: bool | None = None,
    retry_after: float | None = None,
) -> int:
    row = db.execute(
        "INSERT INTO transcript (session, turn, role, content, at, client, code, retry, retry_after)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (session, turn, role, content, at, client, code, retry, retry_after),
    )
    db.execute(
        "UPDATE sessions SET updated = ?, messages = messages + 1, bytes = bytes + ? WHERE id = ?",
        (at, len(content.encode()), session),
    )
    return row.lastrowid or 0


def _delete(db: sqlite3.Connection, session: str) -> int:
    for table, column in (("transcript", "session"), ("turns", "session")):
        db.execute(f"DELETE FROM {table} WHERE {column} = ?", (session,))  # noqa: S608  # names from here
    found = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE name IN ('checkpoints', 'writes')")}
    for table in found:  # LangGraph's; not there before the first turn
        db.execute(f"DELETE FROM {table} WHERE thread_id = ?", (session,))  # noqa: S608  # names from here
    return db.execute("DELETE FROM sessions WHERE id = ?", (session,)).rowcount


def _history(
    db: sqlite3.Connection, session: str, before: int | None, limit: int, size: int, oldest: int | None = None
) -> tuple[list[Line], bool]:
    """The last lines before number ``before``, bounded, but all from ``oldest`` on; are there older ones?"""
    rows = db.execute(
        f"SELECT {LINE} FROM transcript WHERE session = ? AND seq < ? ORDER BY seq DESC",  # noqa: S608  # names from here
        (session, before or 2**62),
    )
    lines, more = model.bounded(map(_line, rows), limit, size, oldest)
    rows.close()
    return lines, more


def _answer(db: sqlite3.Connection, session: str, turn: str) -> Line | None:
    row = db.execute(
        f"SELECT {LINE} FROM transcript"  # noqa: S608  # names from here
        " WHERE session = ? AND turn = ? AND role <> 'user' ORDER BY seq DESC LIMIT 1",
        (session, turn),
    ).fetchone()
    return _line(row) if row else None


def _line(row: Any) -> Line:
    return model.line(row, row[4])
