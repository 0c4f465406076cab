"""The two engines of the sessions, for tests of what holds for both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from server.sessions.model import AcceptedMessage, Sessions
from server.sessions.postgres.store import Store as InPostgreSQL
from server.sessions.store import Store as InFile

DAY = 86400.0
LIMITS = {"age": DAY, "limit": 100, "size": 100_000}


class Engine:
    """Makes stores of the same sessions, each as another process would."""

    def __init__(self, name: str, place: Path | str) -> None:
        """``place``: a file, or the URL of a database."""
        self.name = name
        self._place = place

    @asynccontextmanager
    async def store(self, **changes: Any) -> AsyncIterator[Any]:
        """A store with these limits, closed with the block."""
        store: Sessions
        if isinstance(self._place, Path):
            store = InFile(self._place, **{**LIMITS, **changes})
        else:
            store = InPostgreSQL(self._place, {}, **{**LIMITS, "lease": 60.0, "connections": 4, **changes})
        try:
            yield store
        finally:
            await store.close()

    def run(self, work: Callable[[Any], Awaitable[Any]], **changes: Any) -> Any:
        """Run `work` on a store, then close it."""

        async def run() -> Any:
            async with self.store(**changes) as store:
                return await work(store)

        return asyncio.run(run())


async def say(store: Sessions, session: str, turn: str, text: str = "hello", **changes: Any) -> AcceptedMessage:
    """Accept a message."""
    return await store.accept(session, turn, text, **{"client": None, "workspace": None, "keep": (), **changes})
