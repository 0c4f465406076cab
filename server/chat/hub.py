"""The connections and the live sessions of one application, and how both end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any

from preflight.web.instance import SERVICE_RESTART, Instance
from server.chat.resources import Resources
from server.chat.turns import Follower, Session

if TYPE_CHECKING:
    from preflight.web.past import EarlierRuns
    from preflight.web.snapshot import Snapshot


class Hub(Resources):
    """Made in the event loop; everything in it happens there."""

    def __init__(
        self,
        instance: Instance,
        snapshot: Snapshot,
        past: EarlierRuns,
        rerun: Callable[[], Awaitable[dict[str, Any]]] | None = None,
        observe_turn: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        """See :class:`Resources`."""
        super().__init__(instance, snapshot, past, rerun, observe_turn)
        self.connections: set[Follower] = set()
        self.live: dict[str, Session] = {}
        self._draining = asyncio.create_task(self._drain())

    def session(self, session_id: str, workspace: str | None = None) -> Session:
        """The live session of this id; ``workspace`` is kept with it from its first message on."""
        if session_id not in self.live:
            self.live[session_id] = Session(self, self.live, session_id, workspace)
        session = self.live[session_id]
        session.workspace = workspace or session.workspace
        return session

    async def delete(self, chosen: Collection[str] | None) -> int:
        """Delete sessions, None for all; their turns are cancelled and their connections closed. Raises StoreError."""
        ends = [self.live[one].end() for one in list(self.live) if chosen is None or one in chosen]
        await asyncio.gather(*ends)
        return await self.store.delete(chosen)

    async def _drain(self) -> None:
        """When the instance drains, idle connections close at once and the others after their turn."""
        await self.instance.drained()
        for connection in list(self.connections):
            if connection.session is None or not connection.session.busy:
                connection.close(*SERVICE_RESTART)

    async def close(self) -> None:
        """End what is left; unfinished turns are on disk."""
        self._draining.cancel()
        await asyncio.gather(*(session.abandon() for session in list(self.live.values())))
        await super().close()
