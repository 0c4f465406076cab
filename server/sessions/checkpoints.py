"""LangGraph's SQLite checkpointer in the thread and the transactions of the sessions' database.

Imported in the background, with LangGraph. Only the newest checkpoint of a session is kept: the transcript is
what is accepted and shown, a checkpoint is what the graph remembers.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata, CheckpointTuple
from langgraph.checkpoint.sqlite import SqliteSaver

from server.sessions.database import Database

log = logging.getLogger(__name__)


class Checkpoints(SqliteSaver):
    """The checkpointer in one database.

    Each of its asynchronous methods goes to the database's thread once; LangGraph's own go there eight times.
    """

    def __init__(self, database: Database) -> None:
        # In memory only until the first question: the database's connection comes with each job.
        super().__init__(sqlite3.connect(":memory:", check_same_thread=False))
        self.conn.close()
        self._database = database

    @contextmanager
    def cursor(self, transaction: bool = True) -> Iterator[sqlite3.Cursor]:  # noqa: ARG002  # LangGraph's
        """A cursor in the database's transaction: committing is the database's."""
        cursor = self.conn.cursor()
        try:
            yield cursor
        finally:
            cursor.close()

    async def prepare(self) -> None:
        """Make the tables, now and whenever the file has to be a new one. Raises StoreError."""

        def work(db: sqlite3.Connection) -> None:
            self.conn = db
            self.is_setup = False
            self.setup()

        await self._database.prepare(work)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        def work(db: sqlite3.Connection) -> CheckpointTuple | None:
            self.conn = db
            return self.get_tuple(config)

        return await self._database.run(work)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        def work(db: sqlite3.Connection) -> None:
            # In the transaction that writes: a session that was deleted meanwhile leaves no text behind.
            if db.execute("SELECT 1 FROM sessions WHERE id = ?", (thread,)).fetchone() is None:
                return
            self.conn = db
            self.put(config, checkpoint, metadata, new_versions)
            place = (thread, config["configurable"]["checkpoint_ns"], checkpoint["id"])
            for table in ("checkpoints", "writes"):
                db.execute(
                    f"DELETE FROM {table} WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id <> ?",  # noqa: S608
                    place,
                )

        thread = str(config["configurable"]["thread_id"])
        # Not waited for: the turn's answer follows it into the same transaction or a later one, and fails with it.
        self._database.submit(work, "write").add_done_callback(_note)
        namespace = config["configurable"]["checkpoint_ns"]
        return {"configurable": {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": checkpoint["id"]}}

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Do nothing: these writes would let a turn go on in its middle. Our turns begin anew, from the transcript."""


def _note(future: asyncio.Future[None]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        log.warning("a checkpoint was not saved: %s", error)
