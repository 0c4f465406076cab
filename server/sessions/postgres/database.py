"""Connections to PostgreSQL, for callers in the event loop.

Work that fails because the server, or the way to it, went away is tried again for a few seconds: a server that
restarts, or is replaced by its standby, costs a pause and no error. So work may be run twice, and the second run has to
find what the first has done. While the server stays away, callers are told so at once, and for how long it has been.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from preflight import libpq
from preflight.fleet import database, schema
from server.sessions.model import StoreError
from server.sessions.postgres.tables import TABLES

log = logging.getLogger(__name__)
logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)  # whoever waits for the pool reports its errors
T = TypeVar("T")

PATIENCE = 5.0  # seconds from the beginning of an outage in which callers wait for its end
LONGEST = 10.0  # seconds that a piece of work may take
TRY = 2.0  # seconds for a connection from the pool
PAUSES = (0.02, 1.0)  # seconds between two tries, the first and the longest
IDLE = 60.0  # seconds after which a connection that is not used is closed
LIFETIME = 1800.0  # seconds after which a connection is replaced, so that a load balancer can place it anew
SUSPECT = 5.0  # seconds without use after which a connection may have been cut on its way: it is asked first


class PooledConnection(psycopg.AsyncConnection[DictRow]):
    """A connection of the pool. ``told`` is called with the error if there is none."""

    used = 0.0

    @classmethod
    async def connect(  # type: ignore[override]  # what the pool calls it with
        cls, conninfo: str = "", *, told: Callable[[psycopg.Error], object], **parameters: Any
    ) -> PooledConnection:
        try:
            made = await super().connect(conninfo, row_factory=dict_row, **parameters)
        except psycopg.Error as error:
            told(error)
            raise
        made.used = asyncio.get_running_loop().time()
        return made


Work = Callable[[PooledConnection], Awaitable[T]]


class Database:
    """One database. Made and closed in the event loop; connected to when first used."""

    def __init__(self, url: str, environment: Mapping[str, str], connections: int) -> None:
        """``environment`` adds what libpq would take from one (PGPASSWORD); ``connections``: at most."""
        self._url, self._environment = url, environment
        self._connections = connections
        self._free = asyncio.Semaphore(connections)  # before the pool, whose time-out is then that of a connection
        self._pool: AsyncConnectionPool[PooledConnection] | None = None
        self._opening: asyncio.Task[AsyncConnectionPool[PooledConnection]] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._why = ""  # there was no connection
        self._away: float | None = None  # since when, on the loop's clock
        self._tried = 0.0  # when it was last asked in vain

    async def run(self, work: Work[T]) -> T:
        """Do this with a connection, which is in autocommit mode. Raises StoreError if the database does not do it.

        Shielded: a caller that is cancelled does not take back what may be committed already.
        """
        task = asyncio.ensure_future(self._persist(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def execute(self, statement: str, **values: Any) -> int:
        """Run one statement; returns how many rows it has changed."""

        async def work(connection: PooledConnection) -> int:
            return (await connection.execute(statement, values)).rowcount

        return await self.run(work)

    async def rows(self, statement: str, **values: Any) -> list[DictRow]:
        """What one statement returns."""

        async def work(connection: PooledConnection) -> list[DictRow]:
            return await rows(connection, statement, values)

        return await self.run(work)

    async def close(self) -> None:
        """Finish what was begun, and close every connection."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._pool is not None:
            await self._pool.close()

    # Trying again.

    async def _persist(self, work: Work[T]) -> T:
        loop = asyncio.get_running_loop()
        pause, longest = PAUSES
        begun = loop.time()
        while True:
            try:
                async with self._free:
                    if self._away is not None and self._away + PATIENCE < loop.time() < self._tried + longest:
                        raise self._absent()
                    result = await self._try(work)
            except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected) as error:
                if loop.time() > begun + LONGEST:
                    raise StoreError("the transaction kept conflicting with others; try again later") from error
            except (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.ReadOnlySqlTransaction) as error:
                self._missed(error)
                if loop.time() + pause > (self._away or 0.0) + PATIENCE:
                    raise self._absent() from error
            except psycopg.Error as error:
                raise StoreError(f"the database reports an error: {libpq.why(error, LONGEST)}") from error
            else:
                self._back()
                return result
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, longest)

    async def _try(self, work: Work[T]) -> T:
        pool = await self._opened()
        loop = asyncio.get_running_loop()
        async with pool.connection(timeout=TRY) as connection:
            # Cut, and not cancelled: for that, psycopg would ask a server that may answer nothing any more.
            deadline = loop.call_later(LONGEST, database.cut, connection.fileno())
            try:
                if loop.time() - connection.used > SUSPECT:
                    await connection.execute("SELECT")
                result = await work(connection)
            except psycopg.errors.ReadOnlySqlTransaction:
                await connection.close()  # it leads to what was the primary
                raise
            finally:
                deadline.cancel()
            connection.used = loop.time()
            return result

    async def _opened(self) -> AsyncConnectionPool[PooledConnection]:
        """The pool. Whoever comes first opens it, and all who come meanwhile wait for the same."""
        if self._pool is not None:
            return self._pool
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._open())
        return await asyncio.shield(self._opening)

    async def _open(self) -> AsyncConnectionPool[PooledConnection]:
        """Look at the tables, make them where there are none, and open the pool. Raises StoreError, psycopg.Error."""
        try:
            await _aside(lambda: _prepared(self._url, self._environment))
            parameters = database.parameters(self._url, self._environment)
        except database.UnusableDatabase as error:
            raise StoreError(str(error)) from error
        except database.Unavailable as error:
            cause = error.__cause__
            raise cause if isinstance(cause, psycopg.Error) else psycopg.OperationalError(str(error)) from error
        self._pool = AsyncConnectionPool(
            connection_class=PooledConnection,
            kwargs={**parameters, "autocommit": True, "prepare_threshold": None, "told": self._unconnected},
            min_size=0,
            max_size=self._connections,
            max_idle=IDLE,
            max_lifetime=LIFETIME,
            reconnect_timeout=TRY,
            open=False,
        )
        await self._pool.open()
        return self._pool

    # What is known of an outage.

    def _unconnected(self, error: psycopg.Error) -> None:
        self._why = libpq.why(error, database.CONNECT)

    def _missed(self, error: psycopg.Error) -> None:
        now = asyncio.get_running_loop().time()
        if not isinstance(error, PoolTimeout):
            self._why = libpq.why(error, LONGEST)
        elif not self._why:
            self._why = f"no connection within {TRY:g} s"
        if self._away is None:
            self._away = now
            log.warning("the database is unavailable: %s", self._why)
        self._tried = now

    def _back(self) -> None:
        if self._away is not None:
            log.warning("the database is available again after %.1f s", asyncio.get_running_loop().time() - self._away)
        self._away, self._why = None, ""

    def _absent(self) -> StoreError:
        since = asyncio.get_running_loop().time() - (self._away or 0.0)
        return StoreError(f"the database has been unavailable for {since:.0f} s: {self._why}")


async def rows(connection: PooledConnection, statement: str, values: Mapping[str, Any]) -> list[DictRow]:
    """What one statement returns."""
    return await (await connection.execute(statement, values)).fetchall()


def storable(text: str) -> str:
    """The text as PostgreSQL can store it, which has no NUL in a text: U+FFFD takes its place."""
    return text.replace("\0", "\ufffd")


@contextlib.asynccontextmanager
async def transaction(connection: PooledConnection) -> AsyncIterator[None]:
    """A transaction in which LangGraph's statements find their tables: they name no schema.

    Its statements share round trips until one is asked for its rows.
    """
    async with connection.pipeline(), connection.transaction():
        await connection.execute(f"SET LOCAL search_path TO {schema.SCHEMA}")
        yield


async def _aside(work: Callable[[], T]) -> T:
    """Do this in a thread that the end of the process does not wait for: a server that says nothing keeps it long."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(outcome: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(lambda: None if done.done() else outcome())

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  # it is raised where this is awaited
            problem = error if isinstance(error, Exception) else StoreError(f"{type(error).__name__} was raised")
            settle(lambda: done.set_exception(problem))
        else:
            settle(lambda: done.set_result(result))

    threading.Thread(target=run, name="database", daemon=True).start()
    return await done


def _prepared(url: str, environment: Mapping[str, str]) -> None:
    """Make the tables if there are none. Raises UnusableDatabase, Unavailable, StoreError."""
    with contextlib.closing(database.connect(url, environment)) as connection:
        state = schema.create(connection, [TABLES])
    version = state.version(TABLES)
    if state.is_behind(TABLES):
        raise StoreError(
            f"the database's tables have version {version}, but this release needs {TABLES.version}: run --migrate"
        )
    if state.is_ahead(TABLES):
        raise StoreError(
            f"the database's tables have version {version}, but this release understands {TABLES.version + 1} at most:"
            " start a newer release"
        )
