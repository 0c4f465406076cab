"""LangGraph's PostgreSQL checkpointer on the connections, and in the transactions, of the sessions' database.

Imported in the background, with LangGraph. Only the newest checkpoint of a session is kept: the transcript is
what is accepted and shown, a checkpoint is what the graph remembers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata, CheckpointTuple
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg.types.json import Jsonb

from server.sessions.model import TurnTaken
from server.sessions.postgres import statements
from server.sessions.postgres.database import Database, PooledConnection, rows, storable, transaction
from server.sessions.postgres.leases import Leases


class Checkpoints(AsyncPostgresSaver):
    """The checkpointer in one database.

    LangGraph's own holds one lock around its whole pool (langchain-ai/langgraph#7259). Here each call has a saver of
    its own, on the one connection that its transaction has: nothing waits for anything but a connection.
    """

    def __init__(self, database: Database, leases: Leases) -> None:
        # The connection comes with each call: whatever is not overridden here has none, and fails.
        super().__init__(None)  # type: ignore[arg-type]
        self._database = database
        self._leases = leases

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        async def work(connection: PooledConnection) -> CheckpointTuple | None:
            async with transaction(connection):
                return await AsyncPostgresSaver(connection, serde=self.serde).aget_tuple(config)

        return await self._database.run(work)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Write it if the turn is still this process's. Raises TurnTaken if it is not, or was deleted."""
        turn = config["configurable"]["turn_id"]
        kept = storable_values(checkpoint)
        lease = {"turn": turn, "epoch": self._leases.of(turn).epoch}
        pruned = {
            "thread": config["configurable"]["thread_id"],
            "namespace": config["configurable"]["checkpoint_ns"],
            "checkpoint": checkpoint["id"],
            "versions": Jsonb(checkpoint["channel_versions"]),
        }

        async def work(connection: PooledConnection) -> RunnableConfig:
            async with transaction(connection):
                # Locked until all is written: meanwhile the turn is not taken over, and the session is not deleted.
                if not await rows(connection, statements.HELD, lease):
                    raise TurnTaken("another instance has taken this turn over, or the session was deleted")
                saver = AsyncPostgresSaver(connection, serde=self.serde)
                written = await saver.aput(config, kept, metadata, new_versions)
                for statement in statements.PRUNE:
                    await connection.execute(statement, pruned)
            return written

        return await self._database.run(work)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Do nothing: these writes would let a turn go on in its middle. Our turns begin anew, from the transcript."""


def storable_values(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint whose texts PostgreSQL can store: they go into JSON, while lists and objects go into blobs."""
    values = {
        channel: storable(value) if isinstance(value, str) else value
        for channel, value in checkpoint["channel_values"].items()
    }
    return {**checkpoint, "channel_values": values}
