"""Sessions from a file, unchanged: each in one transaction, and none of it twice."""

from __future__ import annotations

from typing import Any

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from server.sessions.model import Kept
from server.sessions.postgres.checkpoints import storable_values
from server.sessions.postgres.database import Database, PooledConnection, rows, storable, transaction

SESSION = """
INSERT INTO preflight.chat_sessions (id, created, updated, messages, bytes, workspace)
VALUES (%(id)s, to_timestamp(%(created)s), to_timestamp(%(updated)s), 0, 0, %(workspace)s) ON CONFLICT (id) DO NOTHING
"""
# Locked: nothing is added to the session, and it is not deleted, before all of it is there.
THERE = """
SELECT turn, role FROM preflight.chat_sessions AS sessions
LEFT JOIN preflight.chat_transcript AS transcript ON session = id
WHERE id = %(id)s FOR UPDATE OF sessions
"""
LINE = """
INSERT INTO preflight.chat_transcript (session, turn, role, content, at, client, code, retry, retry_after)
VALUES (%(id)s, %(turn)s, %(role)s, %(content)s, to_timestamp(%(at)s), %(client)s, %(code)s, %(retry)s, %(retry_after)s)
ON CONFLICT (session, client) WHERE role = 'user' AND client IS NOT NULL DO NOTHING RETURNING seq
"""
TURN = """
INSERT INTO preflight.chat_turns (turn, session, seq, owner, epoch, expires, attempts)
VALUES (%(turn)s, %(id)s, %(seq)s, 'imported', 1, now(), %(attempts)s)
"""
COUNT = """
UPDATE preflight.chat_sessions SET
    updated = greatest(updated, to_timestamp(%(updated)s)), (messages, bytes) = (
        SELECT count(*), coalesce(sum(octet_length(content)), 0)
        FROM preflight.chat_transcript WHERE session = %(id)s
    )
WHERE id = %(id)s
"""
REMEMBERS = "SELECT FROM preflight.checkpoints WHERE thread_id = %(id)s"


class Importer:
    """Adds sessions to one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, kept: Kept) -> int:
        """Add what is not there yet of a session; returns how many lines that were. Raises StoreError."""
        session_id, created, updated, workspace = kept.session
        about = {
            "id": storable(session_id),
            "created": created,
            "updated": updated,
            "workspace": workspace and storable(workspace),
        }

        async def work(connection: PooledConnection) -> int:
            async with transaction(connection):
                await connection.execute(SESSION, about)
                there = {(row["turn"], row["role"]) for row in await rows(connection, THERE, about)}
                added = 0
                for line in kept.lines:
                    if (line[1], line[2]) not in there:
                        added += await _add(connection, about, line, kept.turns)
                await connection.execute(COUNT, about)
                if kept.memory is not None and not await rows(connection, REMEMBERS, about):
                    await _remember(connection, kept)
            return added

        return await self._database.run(work)


async def _add(
    connection: PooledConnection, about: dict[str, Any], line: tuple[Any, ...], turns: dict[str, int]
) -> int:
    _, turn, role, content, at, client, code, retry, retry_after = line
    values = {
        **about,
        "turn": turn,
        "role": role,
        "content": storable(content),
        "at": at,
        "client": client and storable(client),
        "code": code,
        "retry": None if retry is None else bool(retry),
        "retry_after": retry_after,
    }
    added = await rows(connection, LINE, values)
    if added and role == "user" and turn in turns:
        # Without an owner: the process in which the session is resumed takes it up.
        await connection.execute(TURN, {**about, "turn": turn, "seq": added[0]["seq"], "attempts": turns[turn]})
    return len(added)


async def _remember(connection: PooledConnection, kept: Kept) -> None:
    if kept.memory is None:
        return
    checkpoint = storable_values(kept.memory.checkpoint)
    config: Any = {"configurable": {"thread_id": storable(kept.session[0]), "checkpoint_ns": ""}}
    saver = AsyncPostgresSaver(connection)
    await saver.aput(config, checkpoint, kept.memory.metadata, checkpoint["channel_versions"])
