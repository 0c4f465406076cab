"""The sessions in PostgreSQL: see :class:`server.sessions.model.Sessions`, whose methods these are."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import DictRow

from preflight.times import stamp
from server.sessions import model
from server.sessions.model import AcceptedMessage, Line, NoSession, Open, SessionFull, TurnEnd, TurnTaken
from server.sessions.postgres import statements
from server.sessions.postgres.database import Database, PooledConnection, rows, storable
from server.sessions.postgres.leases import Leases

if TYPE_CHECKING:
    from server.sessions.postgres.checkpoints import Checkpoints

log = logging.getLogger(__name__)

BATCH = 500  # sessions that are deleted in one transaction
TIDY = 30.0  # seconds between two looks at what is too old or too much
LAST = 2**62  # beyond every line's number


class Store:
    """The sessions of a fleet, as one process of it sees them. Made and closed in the event loop."""

    look = 1.0
    shared = True

    def __init__(
        self,
        url: str,
        environment: Mapping[str, str],
        *,
        age: float,
        limit: int,
        size: int,
        lease: float,
        connections: int,
        owner: str = "",
    ) -> None:
        """``age`` and ``lease`` in seconds, ``limit`` in sessions, ``size`` in bytes of text a session.

        ``owner``: this process, by a name that no other has; made up if it is not given.
        """
        self.owner = owner or uuid.uuid4().hex
        self.database = Database(url, environment, connections)
        self.leases = Leases(self.database, lease)
        self._age, self._limit, self._size = timedelta(seconds=age), limit, size
        self._tidied = -TIDY

    # Turns.

    async def accept(
        self, session: str, turn: str, content: str, *, client: str | None, workspace: str | None, keep: Collection[str]
    ) -> AcceptedMessage:
        content = storable(content)
        size = len(content.encode())
        values = {
            "session": storable(session),
            "turn": turn,
            "content": content,
            "bytes": size,
            "size": self._size,
            "client": client and storable(client),
            "workspace": workspace and storable(workspace),
            "owner": self.owner,
            "lease": self.leases.length,
        }

        async def known(connection: PooledConnection) -> DictRow:
            return await _accepted(connection, values)

        async def new(connection: PooledConnection) -> DictRow:
            async with connection.transaction():
                await connection.execute(statements.CREATE, values)
                return await _accepted(connection, values)

        row = await self.database.run(known)
        if row["bytes"] is None and row["at"] is None and size <= self._size:
            await self._tidy(keep)
            row = await self.database.run(new)
        if row["at"] is not None:
            self.leases.keep(turn, 1, 0)
            return AcceptedMessage(turn, stamp(row["at"]), row["seq"], others=row["others"])
        if row["other"] is not None:
            answer = await self._answer(session, row["other"])
            return AcceptedMessage(
                row["other"], stamp(row["other_at"]), row["other_seq"], duplicate=True, answer=answer
            )
        raise SessionFull(
            f"with this message, the session would exceed {self._size} bytes; begin a new one or delete this one"
        )

    async def begin(self, turn: str) -> bool:
        lease = self.leases.of(turn)
        changed = await self.database.execute(
            statements.BEGIN, turn=turn, epoch=lease.epoch, attempts=lease.attempts + 1, lease=self.leases.length
        )
        if changed:
            lease.attempts += 1
            return True
        found = await self.database.rows(statements.OPEN_TURN, turn=turn, owner=self.owner)
        if found and found[0]["epoch"] == lease.epoch:
            return False
        self.leases.drop(turn)
        raise TurnTaken("another instance has taken this turn over, or the session was deleted")

    async def finish(self, session: str, turn: str, reply: TurnEnd) -> Line:
        session, reply = storable(session), replace(reply, content=storable(reply.content))
        ended = await self.database.rows(
            statements.FINISH,
            session=session,
            turn=turn,
            epoch=self.leases.of(turn).epoch,
            role=reply.role,
            content=reply.content,
            bytes=len(reply.content.encode()),
            code=reply.code,
            retry=reply.retry,
            retry_after=reply.retry_after,
        )
        line = _line(ended[0]) if ended else None
        if line is None:
            # Nothing was written: the turn has ended already, is another instance's, or was deleted.
            found = await self.seen(session, turn)
            self.leases.drop(turn)
            if found is None:
                raise NoSession("the session was deleted in the meantime")
            if isinstance(found, Open):
                raise TurnTaken("another instance has taken this turn over")
            line = found
        self.leases.drop(turn)
        return line

    async def release(self, turns: Collection[str]) -> None:
        await self.leases.release(turns)

    async def open_turns(self, session: str) -> list[Open]:
        found = await self.database.rows(statements.OPEN_TURNS, session=storable(session), owner=self.owner)
        return [_open(row) for row in found]

    async def seen(self, session: str, turn: str) -> Line | Open | None:
        # In this order: a turn that ends in between has its answer by then.
        found = await self.database.rows(statements.OPEN_TURN, turn=turn, owner=self.owner)
        return _open(found[0]) if found else await self._answer(session, turn)

    async def claim(self, found: Open, *, force: bool = False) -> int | None:
        claimed = await self.database.rows(
            statements.CLAIM,
            turn=found.turn_id,
            epoch=found.epoch,
            owner=self.owner,
            lease=self.leases.length,
            force=force,
        )
        if not claimed:
            return None
        attempts = int(claimed[0]["attempts"])
        self.leases.keep(found.turn_id, claimed[0]["epoch"], attempts)
        return attempts

    async def news(self, known: Mapping[str, int]) -> list[tuple[str, str, int]]:
        found = await self.database.rows(statements.NEWS, sessions=list(known), numbers=list(known.values()))
        return [(row["session"], row["turn"], row["seq"]) for row in found]

    # Transcripts.

    async def history(self, session: str, *, before: int | None, limit: int, size: int) -> tuple[list[Line], bool]:
        return await self._history(session, before or LAST, limit, size, None)

    async def recent(self, session: str, *, limit: int, size: int) -> list[Line]:
        [row] = await self.database.rows(statements.OLDEST, session=storable(session))
        return (await self._history(session, LAST, limit, size, row["seq"]))[0]

    async def _history(
        self, session: str, before: int, limit: int, size: int, oldest: int | None
    ) -> tuple[list[Line], bool]:
        values = {"session": storable(session), "before": min(before, LAST), "limit": limit}
        found = await self.database.rows(statements.HISTORY, **values, oldest=LAST if oldest is None else oldest)
        return model.bounded(map(_line, found), limit, size, oldest)

    async def _answer(self, session: str, turn: str) -> Line | None:
        found = await self.database.rows(statements.ANSWER, session=storable(session), turn=turn)
        return _line(found[0]) if found else None

    # Sessions.

    async def exists(self, session: str) -> bool:
        [row] = await self.database.rows(statements.EXISTS, session=storable(session))
        return bool(row["there"])

    async def page(self, *, offset: int, limit: int) -> tuple[list[dict[str, Any]], int]:
        found = await self.database.rows(statements.PAGE, offset=offset, limit=limit)
        [row] = await self.database.rows(statements.COUNT)
        return [model.session(tuple(one.values())) for one in found], row["count"]

    async def export(self, session: str) -> dict[str, Any]:
        values = {"session": storable(session)}
        found = await self.database.rows(statements.ONE_SESSION, **values)
        if not found:
            raise NoSession("there is no such session")
        lines = await self.database.rows(statements.TRANSCRIPT, **values)
        return model.session(tuple(found[0].values())) | {"transcript": [_line(line).to_json() for line in lines]}

    async def delete(self, sessions: Collection[str] | None) -> int:
        if sessions is not None:
            return await self._delete([storable(session) for session in sessions])
        count = 0
        while some := await self.database.rows(statements.SOME, limit=BATCH):
            count += await self._delete([row["id"] for row in some])
        return count

    async def _delete(self, sessions: list[str]) -> int:
        async def work(connection: PooledConnection) -> int:
            async with connection.transaction():
                gone = [row["id"] for row in await rows(connection, statements.DELETE, {"sessions": sessions})]
                for statement in statements.FORGET:
                    await connection.execute(statement, {"sessions": gone})
            return len(gone)

        return await self.database.run(work)

    async def _tidy(self, keep: Collection[str]) -> None:
        """Now and then, before a session comes into being: delete what is too old, and the oldest of too many."""
        now = asyncio.get_running_loop().time()
        if now < self._tidied + TIDY:
            return
        self._tidied = now
        values = {"keep": list(keep), "limit": BATCH}
        for statement, bound in (
            (statements.TOO_OLD, {"age": self._age}),
            (statements.TOO_MANY, {"most": self._limit - 1}),
        ):
            chosen = [row["id"] for row in await self.database.rows(statement, **values, **bound)]
            if chosen:
                log.info("%d old sessions were deleted", await self._delete(chosen))

    # The graph's memory.

    def load(self) -> None:
        import server.sessions.postgres.checkpoints  # noqa: F401  # for the first question

    async def checkpointer(self) -> Checkpoints:
        from server.sessions.postgres.checkpoints import Checkpoints

        return Checkpoints(self.database, self.leases)

    async def close(self) -> None:
        await self.leases.close()
        await self.database.close()


async def _accepted(connection: PooledConnection, values: Mapping[str, Any]) -> DictRow:
    try:
        [row] = await rows(connection, statements.ACCEPT, values)
    except psycopg.errors.UniqueViolation:
        # Another instance has just accepted it, with the sender's own id: now it is seen.
        raise psycopg.errors.SerializationFailure("accepted twice at once") from None
    return row


def _line(row: DictRow) -> Line:
    return model.line(tuple(row.values()), row["at"])


def _open(row: DictRow) -> Open:
    return Open(
        turn_id=row["turn"],
        seq=row["seq"],
        content=row["content"],
        attempts=row["attempts"],
        id=row["client"],
        owner=row["owner"],
        epoch=row["epoch"],
        held=row["held"],
    )
