"""A SQLite file that one thread works on, for callers in the event loop.

The thread owns the connection; what arrives while it is busy shares its next transaction, so that a thousand callers
cost a few commits and not a thousand. An answer comes after its commit: what it says is on disk (synchronous = FULL).
A connection that failed is closed, and the next job opens the file anew; a file that is no database is set aside.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from preflight import files
from server.sessions.model import StoreError

log = logging.getLogger(__name__)
T = TypeVar("T")
Kind = Literal["read", "write", "alone"]
Work = Callable[[sqlite3.Connection], T]

BATCH = 256  # jobs that share a transaction
BUSY = 5.0  # seconds to wait for another process (an instance that is being replaced)


class _Job(Generic[T]):
    __slots__ = ("error", "future", "kind", "result", "work")

    def __init__(self, work: Work[T], future: asyncio.Future[T], kind: Kind) -> None:
        self.work = work
        self.future = future
        self.kind = kind
        self.result: T | None = None
        self.error: Exception | None = None


class Database:
    """One file. Made and closed in the event loop; opened when first used."""

    def __init__(self, path: Path, prepare: Work[None]) -> None:
        """``prepare`` gets every connection first, in the thread, and makes what is not there; see :meth:`prepare`."""
        self.path = path
        self._preparations = [prepare]
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._held: _Job[Any] | None = None
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        self._loop = asyncio.get_running_loop()

    async def prepare(self, work: Work[None]) -> None:
        """Have this done outside of a transaction, now and with every connection that takes this one's place.

        It makes tables: the file may be a new one by then. Raises StoreError if it cannot be done now, and then
        it is not done later either.
        """

        def first(db: sqlite3.Connection) -> None:
            work(db)
            self._preparations.append(work)

        await self.run(first, "alone")

    def submit(self, work: Work[T], kind: Kind = "read") -> asyncio.Future[T]:
        """Have ``work`` done after all that was submitted before; its result comes once it is committed.

        "alone" is outside of a transaction.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=self.path.stem, daemon=True)
            self._thread.start()
        self._jobs.put(_Job(work, future, kind))
        return future

    async def run(self, work: Work[T], kind: Kind = "read") -> T:
        """Like :meth:`submit`; raises StoreError for whatever the database or the disk does not do."""
        # Shielded: a caller that is cancelled does not take back what may be committed already.
        return await asyncio.shield(self.submit(work, kind))

    async def close(self) -> None:
        """Finish what was submitted and close the file."""
        if self._thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join)
            self._thread = None

    # In the thread: many jobs in one transaction.

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
        except Exception as error:  # noqa: BLE001  # said to all who wait, whatever it is: the thread goes on
            # Nothing of the batch is on disk. A connection that failed is not trusted again.
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
            except Exception as error:  # noqa: BLE001  # of this job alone: its caller gets the error
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
        files.reach(self.path.parent)  # a folder elsewhere belongs to the user, and git has to see it
        files.own(self.path.parent)
        # Made here and not by SQLite, for its mode; what SQLite puts beside it gets the same one.
        for file in (self.path, *(self.path.with_name(self.path.name + ending) for ending in ("-wal", "-shm"))):
            if file == self.path or os.path.lexists(file):
                os.close(files.opened(file, os.O_RDWR))
        with _alone(self.path.parent):
            try:
                db = self._connect()
            except sqlite3.DatabaseError as error:
                if error.sqlite_errorcode not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                    raise
                self._set_aside()
                db = self._connect()
        self._connection = db
        return db

    def _set_aside(self) -> None:
        """Set aside a file that is not a database, for people who can repair it; the service goes on."""
        aside = self.path.with_name(f"{self.path.name}.broken-{time.time_ns()}")
        log.error("%s is not a SQLite database; it was renamed to %s", self.path, aside.name)
        for ending in ("", "-wal", "-shm"):
            file = self.path.with_name(self.path.name + ending)
            if file.exists():
                file.rename(aside.with_name(aside.name + ending))
        os.close(files.opened(self.path, os.O_RDWR))

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=BUSY, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA cache_size = -4096")  # KiB
            db.execute("PRAGMA journal_size_limit = 8388608")  # bytes of a WAL that is not in use
            for prepare in self._preparations:
                prepare(db)
        except BaseException:
            db.close()
            raise
        return db


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Alone among the processes that open the file in this folder: what one of them makes, or sets aside, stays so.

    SQLite does not wait where two change the journal mode of a new file.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


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
        sqlite3.SQLITE_IOERR: "the disk does not accept the data (full, over its quota, or faulty)",
        sqlite3.SQLITE_READONLY: "the disk, or the file, is read-only",
        sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
        sqlite3.SQLITE_BUSY: "another process keeps it locked",
    }
    # The low byte is the kind, the rest says more about it than people want to know.
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    return StoreError(f"{path}: {known.get(code, error)}")
