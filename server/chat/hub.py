"""The connections and the live sessions of one application, and how both end."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import TYPE_CHECKING, Any

from preflight.web.instance import SERVICE_RESTART, Instance
from server.chat.resources import Resources
from server.chat.turns import Session, SessionFollower
from server.sessions.model import StoreError

if TYPE_CHECKING:
    from preflight.web.past import EarlierRuns
    from preflight.web.snapshot import Snapshot


log = logging.getLogger(__name__)


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
        self.connections: set[SessionFollower] = set()
        self.live: dict[str, Session] = {}
        self._draining = asyncio.create_task(self._drain())
        self._following = asyncio.create_task(self._follow()) if self.store.shared else None
        self._hearing: set[asyncio.Task[None]] = set()
        instance.fellows.when_told("chat", self._heard)

    def session(self, session_id: str, workspace: str | None = None) -> Session:
        """The live session of this id; ``workspace`` is kept with it from its first message on."""
        if session_id not in self.live:
            self.live[session_id] = Session(self, self.live, session_id, workspace)
        session = self.live[session_id]
        session.workspace = workspace or session.workspace
        return session

    async def delete(self, chosen: Collection[str] | None) -> int:
        """Delete sessions, None for all; their turns are cancelled and their connections closed. Raises StoreError."""
        named = [None] if chosen is None else chosen
        for session in named:
            self.instance.fellows.tell("chat", about="deleted", session=session)
        ends = [self.live[one].end() for one in list(self.live) if chosen is None or one in chosen]
        await asyncio.gather(*ends)
        return await self.store.delete(chosen)

    # News from the instance's other workers about sessions that are followed here as well.

    def _heard(self, about: str, session: str | None, turn: str = "") -> None:
        for one in [self.live[session]] if session in self.live else [*self.live.values()] if session is None else []:
            match about:
                case "accepted":
                    self._begin(one.unfinished.announce(turn))
                case "cancel":
                    one.cancel(turn, None)
                case "deleted":
                    self._begin(one.end())

    async def _follow(self) -> None:
        """Tell the followers of a session here about messages that other instances accept in it."""
        while True:
            await asyncio.sleep(self.store.look * random.uniform(0.8, 1.2))
            known = {one.id: one.last for one in self.live.values() if one.followers and one.last is not None}
            try:
                for session_id, turn, seq in await self.store.news(known) if known else ():
                    session = self.live.get(session_id)
                    if session is not None and seq > (session.last or 0):
                        await session.unfinished.announce(turn)
                        session.saw(seq)
            except StoreError:
                pass  # callers that need the database are told

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        async def done() -> None:
            try:
                await work
            except StoreError as error:
                log.warning("news of a session that another worker also serves could not be handled: %s", error)

        task = asyncio.create_task(done())
        self._hearing.add(task)
        task.add_done_callback(self._hearing.discard)

    async def _drain(self) -> None:
        """When the instance drains, idle connections close at once and the others after their turn."""
        await self.instance.drained()
        for connection in list(self.connections):
            if connection.session is None or not connection.session.busy:
                connection.close(*SERVICE_RESTART)

    async def close(self) -> None:
        """End what is left; unfinished turns are in the store."""
        for task in [self._draining, *self._hearing, *([self._following] if self._following else [])]:
            task.cancel()
        await asyncio.gather(*(session.abandon() for session in list(self.live.values())))
        await super().close()
