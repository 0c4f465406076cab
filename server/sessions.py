"""Sessions on disk: an append-only transcript in SQLite, and the place for LangGraph's checkpoints.

Nothing outside this file and checkpoints.py knows which store it is. One thread owns the connection; what
arrives while it is busy shares its next transaction, so that a thousand sessions cost a few commits and not a
thousand. An answer comes after its commit: what it says is on disk (WAL, synchronous = FULL).
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from preflight import files
from preflight.times import stamp

log = logging.getLogger(__name__)
T = TypeVar("T")
Kind = Literal["read", "write", "alone"]

BATCH = 256  # jobs that share a transaction
BUSY = 5.0  # seconds to wait for another process (an instance that is being replaced)
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
# From version 1: how a failed turn said whether trying again helps.
UPGRADE = (
    "ALTER TABLE transcript ADD COLUMN retry INTEGER",
    "ALTER TABLE transcript ADD COLUMN retry_after REAL",
    "PRAGMA user_version = 2",
)
LINE = "seq, turn, role, content, at, client, code, retry, retry_after"


class StoreError(Exception):
    """The store could not do it; the message says why, for people."""


class SessionFull(StoreError):
    """This session holds as much text as it may."""


class TooManySessions(StoreError):
    """There are as many sessions as may be, and all are in use."""


class NoSession(StoreError):
    """There is no such session."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a transcript."""

    seq: int
    turn_id: str
    role: str  # "user", "assistant" or "error"
    content: str
    timestamp: str
    id: str | None
    code: str | None
    retry: bool | None  # of an error: whether trying again may help
    retry_after: float | None  # seconds to wait first, from ``timestamp``

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
    """An accepted message. ``answer`` is set when it had been accepted before, and answered."""

    turn_id: str
    timestamp: str
    duplicate: bool = False
    answer: Line | None = None


class _Job(Generic[T]):
    __slots__ = ("error", "future", "kind", "result", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], T], future: asyncio.Future[T], kind: Kind) -> None:
        self.work = work
        self.future = future
        self.kind = kind
        self.result: T | None = None
        self.error: Exception | None = None


class Store:
    """The sessions of one state folder. Made and closed in the event loop; opened when first used."""

    def __init__(self, path: Path, *, age: float, limit: int, size: int, owner: str = "") -> None:
        """``age`` in seconds, ``limit`` in sessions, ``size`` in bytes of text a session; ``owner``: this process."""
        self.path = path
        self.age, self.limit, self.size = age, limit, size
        self.owner = owner or whoami()
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._held: _Job[Any] | None = None
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        self._loop = asyncio.get_running_loop()

    # What callers ask for.

    async def accept(
        self, session: str, turn: str, content: str, *, client: str | None, workspace: str | None, keep: Collection[str]
    ) -> Taken:
        """Put a message on disk; the session comes into being with its first one.

        ``keep``: sessions in use, which never make room for others. Raises StoreError.
        """
        return await self.run(lambda db: self._accept(db, session, turn, content, client, workspace, keep), "write")

    async def finish(
        self,
        session: str,
        turn: str,
        role: str,
        content: str,
        code: str | None = None,
        retry: bool | None = None,
        retry_after: float | None = None,
    ) -> str:
        """Put the answer to a turn on disk, or its error; returns its timestamp. Raises StoreError."""
        ending = (role, content, code, retry, retry_after)
        return await self.run(lambda db: self._finish(db, session, turn, *ending), "write")

    async def open_turns(self, session: str) -> list[Open]:
        """The session's turns without an answer, oldest first."""
        query = (
            "SELECT turns.turn, content, owner, attempts, client FROM turns JOIN transcript USING (seq)"
            " WHERE turns.session = ? ORDER BY turns.seq"
        )
        return await self.run(lambda db: [Open(*row) for row in db.execute(query, (session,))])

    async def claim(self, turn: str, owner: str) -> int | None:
        """Take over a turn from a process that is gone; returns how often it began, None if it is not ``owner``'s."""

        def work(db: sqlite3.Connection) -> int | None:
            changed = db.execute(
                "UPDATE turns SET owner = ? WHERE turn = ? AND owner = ? RETURNING attempts",
                (self.owner, turn, owner),
            ).fetchone()
            return int(changed[0]) if changed else None

        return await self.run(work, "write")

    async def begin(self, turn: str) -> None:
        """Count that a turn begins, before it does. Raises NoSession where it was deleted, StoreError."""

        def work(db: sqlite3.Connection) -> None:
            if db.execute("UPDATE turns SET attempts = attempts + 1 WHERE turn = ?", (turn,)).rowcount == 0:
                raise NoSession("the session was deleted meanwhile")

        await self.run(work, "write")

    async def answer_of(self, session: str, turn: str) -> Line | None:
        """How a turn ended, None while it has not."""
        return await self.run(lambda db: _answer(db, session, turn))

    async def history(self, session: str, *, before: int | None, limit: int, size: int) -> tuple[list[Line], bool]:
        """The last ``limit`` lines before number ``before``, oldest first and at most about ``size`` characters.

        With them, whether there are older ones.
        """

        return await self.run(lambda db: _history(db, session, before, limit, size))

    async def recent(self, session: str, *, limit: int, size: int) -> list[Line]:
        """As :meth:`history` the last lines, and as many more as reach back to the oldest turn without an answer."""

        def work(db: sqlite3.Connection) -> list[Line]:
            oldest = db.execute("SELECT min(seq) FROM turns WHERE session = ?", (session,)).fetchone()[0]
            return _history(db, session, None, limit, size, oldest)[0]

        return await self.run(work)

    async def exists(self, session: str) -> bool:
        return await self.run(lambda db: known(db, session))

    async def page(self, *, offset: int, limit: int) -> tuple[list[dict[str, Any]], int]:
        """Sessions, the latest used first, and how many there are."""

        def work(db: sqlite3.Connection) -> tuple[list[dict[str, Any]], int]:
            rows = db.execute(
                "SELECT id, created, updated, messages, bytes, workspace,"
                " (SELECT count(*) FROM turns WHERE session = id) FROM sessions ORDER BY updated DESC LIMIT ? OFFSET ?",
                (limit, offset),
            )
            return [_session(row) for row in rows], int(db.execute("SELECT count(*) FROM sessions").fetchone()[0])

        return await self.run(work)

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

        return await self.run(work)

    async def delete(self, sessions: Collection[str] | None) -> int:
        """Delete these sessions, or with None all of them; returns how many there were."""

        def work(db: sqlite3.Connection) -> int:
            chosen = [row[0] for row in db.execute("SELECT id FROM sessions")] if sessions is None else sessions
            return sum(_delete(db, session) for session in chosen)

        count = await self.run(work, "write")
        await self.run(lambda db: db.execute("PRAGMA incremental_vacuum").fetchall(), "alone")
        return count

    # How it is done: in the store's own thread, many jobs in one transaction.

    def submit(self, work: Callable[[sqlite3.Connection], T], kind: Kind = "read") -> asyncio.Future[T]:
        """Have ``work`` done after all that was submitted before; its result comes once it is committed.

        "alone" is outside of a transaction.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="sessions", daemon=True)
            self._thread.start()
        self._jobs.put(_Job(work, future, kind))
        return future

    async def run(self, work: Callable[[sqlite3.Connection], T], kind: Kind = "read") -> T:
        """Like :meth:`submit`; raises StoreError for whatever the database or the disk does not do."""
        # Shielded: a caller that is cancelled does not take back what may be committed already.
        return await asyncio.shield(self.submit(work, kind))

    async def close(self) -> None:
        """Finish what was submitted and close the file."""
        if self._thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join)
            self._thread = None

    def _serve(self) -> None:
        while batch := self._next():
            self._do(batch)
        self._drop()

    def _next(self) -> list[_Job[Any]]:
        """What waits, up to a batch, in its order; empty at the end."""
        job = self._held or self._jobs.get()
        self._held = None
        batch: list[_Job[Any]] = []
        while job is not None:
            if batch and job.kind == "alone":
                self._held = job
                return batch
            batch.append(job)
            if job.kind == "alone" or len(batch) == BATCH:
                return batch
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return batch
        if batch:
            self._jobs.put(None)  # the end comes after it
        return batch

    def _do(self, batch: list[_Job[Any]]) -> None:
        try:
            db = self._connection or self._open()
            self._transact(db, batch)
        except (sqlite3.Error, OSError, StoreError) as error:
            # Nothing of it is on disk, and everybody is told so. A connection that failed is not trusted again.
            said = error if isinstance(error, StoreError) else _explain(error, self.path)
            for job in batch:
                job.error = job.error or said
            self._drop()
        try:
            self._loop.call_soon_threadsafe(_settle, batch)
        except RuntimeError:
            pass  # the loop has ended, and nobody waits any more

    def _transact(self, db: sqlite3.Connection, batch: list[_Job[Any]]) -> None:
        if batch[0].kind == "alone":
            batch[0].result = batch[0].work(db)
            return
        # Immediate where something is written: a transaction that reads first cannot always become one that writes.
        db.execute("BEGIN IMMEDIATE" if any(job.kind == "write" for job in batch) else "BEGIN")
        for job in batch:
            db.execute("SAVEPOINT job")
            try:
                job.result = job.work(db)
            except sqlite3.Error:
                raise
            except Exception as error:  # noqa: BLE001  # of this job alone: whoever submitted it gets it
                job.error = error
                db.execute("ROLLBACK TO job")
            db.execute("RELEASE job")
        db.execute("COMMIT")

    def _drop(self) -> None:
        db, self._connection = self._connection, None
        if db is not None:
            try:
                db.close()
            except sqlite3.Error as error:
                log.warning("closing %s failed: %s", self.path, error)

    def _open(self) -> sqlite3.Connection:
        files.own(self.path.parent)
        # Made here and not by SQLite, for its mode; what SQLite puts beside it gets the same one.
        for file in (self.path, *(self.path.with_name(self.path.name + ending) for ending in ("-wal", "-shm"))):
            if file == self.path or os.path.lexists(file):
                os.close(files.opened(file, os.O_RDWR))
        try:
            db = self._connect()
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise
            # Kept for whoever can mend it; the service goes on.
            aside = self.path.with_name(f"{self.path.name}.broken-{time.time_ns()}")
            log.error("%s is no SQLite database; it is now %s", self.path, aside.name)
            for ending in ("", "-wal", "-shm"):
                file = self.path.with_name(self.path.name + ending)
                if file.exists():
                    file.rename(aside.with_name(aside.name + ending))
            os.close(files.opened(self.path, os.O_RDWR))
            db = self._connect()
        self._connection = db
        return db

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=BUSY, isolation_level=None, check_same_thread=False)
        try:
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            if version > VERSION:
                raise StoreError(f"{self.path} was written by a newer version of this server")
            if version == 0:
                db.executescript(SCHEMA)
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA cache_size = -4096")  # KiB
            db.execute("PRAGMA journal_size_limit = 8388608")  # bytes of a WAL that is not in use
            db.execute("BEGIN IMMEDIATE")
            # Read again: another process may have been first.
            if db.execute("PRAGMA user_version").fetchone()[0] == 1:
                for statement in UPGRADE:
                    db.execute(statement)
            self._forget_old(db, ())
            db.execute("COMMIT")
        except BaseException:
            db.close()
            raise
        return db

    # The work itself, inside a transaction.

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
        seq = _append(db, session, turn, "user", content, now, client)
        db.execute("INSERT INTO turns VALUES (?, ?, ?, ?, 0)", (turn, session, seq, self.owner))
        return Taken(turn, stamp(now))

    def _finish(
        self,
        db: sqlite3.Connection,
        session: str,
        turn: str,
        role: str,
        content: str,
        code: str | None,
        retry: bool | None,
        retry_after: float | None,
    ) -> str:
        if db.execute("DELETE FROM turns WHERE turn = ? AND session = ?", (turn, session)).rowcount == 0:
            # Deleted meanwhile, or another process has answered: there is nothing to add to.
            answer = _answer(db, session, turn)
            if answer is None:
                raise NoSession("the session was deleted meanwhile")
            return answer.timestamp
        now = time.time()
        _append(db, session, turn, role, content, now, None, code, retry, retry_after)
        return stamp(now)

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


def _settle(batch: list[_Job[Any]]) -> None:
    for job in batch:
        if job.future.done():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)


def _explain(error: Exception, path: Path) -> StoreError:
    if isinstance(error, OSError):
        return StoreError(f"{path}: {error.strerror}")
    known = {
        sqlite3.SQLITE_FULL: "the disk is full",
        sqlite3.SQLITE_IOERR: "the disk does not take it (full, a quota, or faulty)",
        sqlite3.SQLITE_READONLY: "the disk, or the file, is read-only",
        sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
        sqlite3.SQLITE_BUSY: "another process keeps it locked",
    }
    # The low byte is the kind, the rest says more about it than people want to know.
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    return StoreError(f"{path}: {known.get(code, error)}")


def _append(
    db: sqlite3.Connection,
    session: str,
    turn: str,
    role: str,
    content: str,
    at: float,
    client: str | None,
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


def whoami() -> str:
    """This process, told apart from a later one with the same number."""
    return f"{os.getpid()}:{_started(os.getpid())}"


def alive(owner: str) -> bool:
    """Whether the process that calls itself so still runs."""
    pid, _, began = owner.partition(":")
    return pid.isdigit() and bool(began) and _started(int(pid)) == began


def _started(pid: int) -> str:
    import psutil  # known to every launcher, and here only when a turn is begun or found open

    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return ""


def limits(settings: Any) -> Mapping[str, Any]:
    """The store's limits, from the settings."""
    return {"age": settings.session_age, "limit": settings.session_limit, "size": settings.session_size}
