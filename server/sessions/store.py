"""Sessions on disk: an append-only transcript in SQLite, and the turns that have no answer yet.

Nothing outside this file and checkpoints.py knows which store it is; how a file is worked on is in database.py.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from preflight.times import stamp
from server.sessions.database import Database, StoreError
from server.sessions.owner import whoami

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
LINE = "seq, turn, role, content, at, client, code, retry, retry_after"


class SessionFull(StoreError):
    """This session holds as much text as it may."""


class TooManySessions(StoreError):
    """There are as many sessions as may be, and all are in use."""


class NoSession(StoreError):
    """There is no such session."""


@dataclass(frozen=True, slots=True)
class Reply:
    """How a turn ended: with an answer, or with an error."""

    role: Literal["assistant", "error"]
    content: str
    code: str | None = None
    retry: bool | None = None  # of an error: whether trying again may help
    retry_after: float | None = None  # seconds to wait first, from when it was said


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a transcript."""

    seq: int
    turn_id: str
    role: Literal["user", "assistant", "error"]
    content: str
    timestamp: str
    id: str | None
    code: str | None
    retry: bool | None  # as in Reply
    retry_after: float | None

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Open:
    """A turn that was accepted and not answered yet."""

    turn_id: str
    content: str
    owner: str
    attempts: int
    id: str | None


@dataclass(frozen=True, slots=True)
class Taken:
    """An accepted message. ``answer`` is set when it had been accepted before, and answered.

    ``after`` are the session's turns that are not answered yet, and that other processes have.
    """

    turn_id: str
    timestamp: str
    duplicate: bool = False
    answer: Line | None = None
    after: frozenset[str] = frozenset()


class Store:
    """The sessions of one state folder. Made and closed in the event loop; opened when first used."""

    def __init__(self, path: Path, *, age: float, limit: int, size: int, owner: str = "") -> None:
        """``age`` in seconds, ``limit`` in sessions, ``size`` in bytes of text a session; ``owner``: this process."""
        self.age, self.limit, self.size = age, limit, size
        self.owner = owner or whoami()
        self.database = Database(path, self._prepare)

    # What callers ask for.

    async def accept(
        self, session: str, turn: str, content: str, *, client: str | None, workspace: str | None, keep: Collection[str]
    ) -> Taken:
        """Put a message on disk; the session comes into being with its first one.

        ``keep``: sessions in use, which never make room for others. Raises StoreError.
        """
        return await self.database.run(
            lambda db: self._accept(db, session, turn, content, client, workspace, keep), "write"
        )

    async def finish(self, session: str, turn: str, reply: Reply) -> Line:
        """Put the end of a turn on disk; returns how it stands there. Raises StoreError, NoSession where it is gone.

        A turn ends once: where it has, how it did then is what stands.
        """
        return await self.database.run(lambda db: _finish(db, session, turn, reply), "write")

    async def open_turns(self, session: str) -> list[Open]:
        """The session's turns without an answer, oldest first."""
        query = (
            "SELECT turns.turn, content, owner, attempts, client FROM turns JOIN transcript USING (seq)"
            " WHERE turns.session = ? ORDER BY turns.seq"
        )
        return await self.database.run(lambda db: [Open(*row) for row in db.execute(query, (session,))])

    async def claim(self, turn: str, owner: str) -> int | None:
        """Take over a turn from a process that is gone; returns how often it began, None if it is not ``owner``'s."""

        def work(db: sqlite3.Connection) -> int | None:
            changed = db.execute(
                "UPDATE turns SET owner = ? WHERE turn = ? AND owner = ? RETURNING attempts",
                (self.owner, turn, owner),
            ).fetchone()
            return int(changed[0]) if changed else None

        return await self.database.run(work, "write")

    async def begin(self, turn: str) -> None:
        """Count that a turn begins, before it does. Raises NoSession where it was deleted, StoreError."""

        def work(db: sqlite3.Connection) -> None:
            if db.execute("UPDATE turns SET attempts = attempts + 1 WHERE turn = ?", (turn,)).rowcount == 0:
                raise NoSession("the session was deleted meanwhile")

        await self.database.run(work, "write")

    async def answer_of(self, session: str, turn: str) -> Line | None:
        """How a turn ended, None while it has not."""
        return await self.database.run(lambda db: _answer(db, session, turn))

    async def history(self, session: str, *, before: int | None, limit: int, size: int) -> tuple[list[Line], bool]:
        """The last ``limit`` lines before number ``before``, oldest first and at most about ``size`` characters.

        With them, whether there are older ones.
        """

        return await self.database.run(lambda db: _history(db, session, before, limit, size))

    async def recent(self, session: str, *, limit: int, size: int) -> list[Line]:
        """As :meth:`history` the last lines, and as many more as reach back to the oldest turn without an answer."""

        def work(db: sqlite3.Connection) -> list[Line]:
            oldest = db.execute("SELECT min(seq) FROM turns WHERE session = ?", (session,)).fetchone()[0]
            return _history(db, session, None, limit, size, oldest)[0]

        return await self.database.run(work)

    async def exists(self, session: str) -> bool:
        return await self.database.run(lambda db: known(db, session))

    async def page(self, *, offset: int, limit: int) -> tuple[list[dict[str, Any]], int]:
        """Sessions, the latest used first, and how many there are."""

        def work(db: sqlite3.Connection) -> tuple[list[dict[str, Any]], int]:
            rows = db.execute(
                "SELECT id, created, updated, messages, bytes, workspace,"
                " (SELECT count(*) FROM turns WHERE session = id) FROM sessions ORDER BY updated DESC LIMIT ? OFFSET ?",
                (limit, offset),
            )
            return [_session(row) for row in rows], int(db.execute("SELECT count(*) FROM sessions").fetchone()[0])

        return await self.database.run(work)

    async def export(self, session: str) -> dict[str, Any]:
        """A session with its whole transcript. Raises NoSession."""

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
            return _session(row) | {"transcript": [_line(line).to_json() for line in lines]}

        return await self.database.run(work)

    async def delete(self, sessions: Collection[str] | None) -> int:
        """Delete these sessions, or with None all of them; returns how many there were."""

        def work(db: sqlite3.Connection) -> int:
            chosen = [row[0] for row in db.execute("SELECT id FROM sessions")] if sessions is None else sessions
            return sum(_delete(db, session) for session in chosen)

        count = await self.database.run(work, "write")
        await self.database.run(lambda db: db.execute("PRAGMA incremental_vacuum").fetchall(), "alone")
        return count

    async def close(self) -> None:
        """Finish what was asked for and close the file."""
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
    ) -> Taken:
        now = time.time()
        found = db.execute("SELECT bytes FROM sessions WHERE id = ?", (session,)).fetchone()
        size = len(content.encode())
        if found is None:
            self._make_room(db, keep)
            db.execute("INSERT INTO sessions VALUES (?, ?, ?, 0, 0, ?)", (session, now, now, workspace))
        elif client is not None:
            before = db.execute(
                "SELECT turn, at FROM transcript WHERE session = ? AND client = ? AND role = 'user'", (session, client)
            ).fetchone()
            if before is not None:
                return Taken(before[0], stamp(before[1]), duplicate=True, answer=_answer(db, session, before[0]))
        if (found[0] if found else 0) + size > self.size:
            raise SessionFull(
                f"this session holds as much as a session may ({self.size} bytes); begin a new one or delete this one"
            )
        # In the transaction that accepts: of two processes that accept at once, the second sees the first one's turn.
        others = db.execute("SELECT turn FROM turns WHERE session = ? AND owner <> ?", (session, self.owner)).fetchall()
        seq = _append(db, session, turn, now, role="user", content=content, client=client)
        db.execute("INSERT INTO turns VALUES (?, ?, ?, ?, 0)", (turn, session, seq, self.owner))
        return Taken(turn, stamp(now), after=frozenset(row[0] for row in others))

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
        raise TooManySessions(f"there are {count} sessions, as many as may be, and all are in use")

    def _forget_old(self, db: sqlite3.Connection, keep: Collection[str]) -> None:
        old = db.execute("SELECT id FROM sessions WHERE updated < ? LIMIT 1000", (time.time() - self.age,))
        for session in [row[0] for row in old]:
            if session not in keep:
                _delete(db, session)


def known(db: sqlite3.Connection, session: str) -> bool:
    """Whether there is such a session."""
    return db.execute("SELECT 1 FROM sessions WHERE id = ?", (session,)).fetchone() is not None


def _finish(db: sqlite3.Connection, session: str, turn: str, reply: Reply) -> Line:
    if db.execute("DELETE FROM turns WHERE turn = ? AND session = ?", (turn, session)).rowcount:
        _append(db, session, turn, time.time(), **asdict(reply))
    # Otherwise another process has answered, or it was deleted meanwhile.
    line = _answer(db, session, turn)
    if line is None:
        raise NoSession("the session was deleted meanwhile")
    return line


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
    """The last lines before number ``before``, bounded, but from number ``oldest`` on all; are there older ones?"""
    rows = db.execute(
        f"SELECT {LINE} FROM transcript WHERE session = ? AND seq < ? ORDER BY seq DESC",  # noqa: S608  # names from here
        (session, before or 2**62),
    )
    lines: list[Line] = []
    room = size
    for row in rows:
        room -= len(row[3])
        # One line always: a page that is empty would look like the beginning.
        full = len(lines) >= limit or (room < 0 and lines)
        if full and (oldest is None or row[0] < oldest):
            rows.close()
            return lines[::-1], True
        lines.append(_line(row))
    return lines[::-1], False


def _answer(db: sqlite3.Connection, session: str, turn: str) -> Line | None:
    row = db.execute(
        f"SELECT {LINE} FROM transcript"  # noqa: S608  # names from here
        " WHERE session = ? AND turn = ? AND role <> 'user' ORDER BY seq DESC LIMIT 1",
        (session, turn),
    ).fetchone()
    return _line(row) if row else None


def _line(row: Any) -> Line:
    seq, turn, role, content, at, client, code, retry, retry_after = row
    again = None if retry is None else bool(retry)
    return Line(seq, turn, role, content, stamp(at), client, code, again, retry_after)


def _session(row: Any) -> dict[str, Any]:
    session, created, updated, messages, size, workspace, unanswered = row
    return {
        "session_id": session,
        "created": stamp(created),
        "updated": stamp(updated),
        "messages": messages,
        "bytes": size,
        "unanswered": unanswered,
        "workspace_path": workspace,
    }
