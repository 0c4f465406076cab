"""The turns that this process works on, each with the epoch in which it is this process's.

A lease is renewed for as long as its turn is here, and ends by itself if nobody renews it: because the process has
died, hangs, or does not reach the database.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from datetime import timedelta
from typing import Any

from server.sessions.model import StoreError
from server.sessions.postgres.database import Database
from server.sessions.postgres.statements import RELEASE, RENEW

log = logging.getLogger(__name__)


class Lease:
    """The lease of one turn."""

    __slots__ = ("attempts", "epoch")

    def __init__(self, epoch: int, attempts: int) -> None:
        self.epoch = epoch
        self.attempts = attempts


class Leases:
    """All leases of this process. In the event loop only."""

    def __init__(self, database: Database, length: float) -> None:
        """``length``: seconds for which a lease is good, from when it is taken or renewed."""
        self.length = timedelta(seconds=length)
        self._database = database
        self._pause = length / 3
        self._held: dict[str, Lease] = {}
        self._renewing: asyncio.Task[None] | None = None

    def keep(self, turn: str, epoch: int, attempts: int) -> None:
        """Keep the lease of a turn that is this process's from now on."""
        self._held[turn] = Lease(epoch, attempts)
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew())

    def of(self, turn: str) -> Lease:
        """The lease of a turn; where this process has none, one with the epoch 0, which no turn has."""
        return self._held.get(turn) or Lease(0, 0)

    def drop(self, turn: str) -> None:
        """Forget the lease of a turn that has ended, or is another process's."""
        self._held.pop(turn, None)

    async def release(self, turns: Collection[str] | None) -> None:
        """End the leases of these turns, or with None all; others may take them over at once. Raises nothing.

        Where the database does not do it, they end by themselves.
        """
        given = {
            turn: self._held.pop(turn) for turn in (list(self._held) if turns is None else turns) if turn in self._held
        }
        if given:
            try:
                await self._database.execute(RELEASE, **_named(given))
            except StoreError as error:
                log.warning("turns could not be released; others can take them over when their leases end: %s", error)

    async def close(self) -> None:
        """Leave every turn to others."""
        if self._renewing is not None:
            self._renewing.cancel()
        await self.release(None)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._pause)
            if not self._held:
                return
            try:
                await self._database.execute(RENEW, **_named(self._held), lease=self.length)
            except StoreError as error:
                log.warning("the leases of %d turns were not renewed: %s", len(self._held), error)


def _named(leases: dict[str, Lease]) -> dict[str, Any]:
    return {"turns": list(leases), "epochs": [lease.epoch for lease in leases.values()]}
