"""Turns of a session that other processes have begun, as its followers hear of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from server.chat.messages import Server
from server.chat.turn import Turn
from server.chat.unfinished import Unfinished
from server.sessions.model import Line, Sessions
from server.sessions.owner import identity
from server.sessions.store import Store

SESSION = "a" * 32


class Shown:
    """A session that its followers have been shown up to a line, and what they have heard since."""

    id = SESSION
    waiting = 0

    def __init__(self, store: Sessions, last: int) -> None:
        self.store = store
        self.last: int | None = last
        self.heard: list[str] = []

    def heard_of(self, _turn_id: str, seq: int) -> None:
        self.last = max(self.last or 0, seq)

    def has_heard_of(self, _turn_id: str) -> bool:
        return False

    def has(self, _turn_id: str) -> bool:
        return False

    def publish(self, message: Server) -> None:
        self.heard.append(message.type)

    def enqueue(self, turn: Turn) -> None:
        self.heard.append(f"begun: {turn.id}")

    def tell(self, turn: Turn, _line: Line) -> None:
        self.heard.append(f"told: {turn.id}")

    def vanished(self) -> None:
        self.heard.append("vanished")

    def settle(self) -> None:
        """Nothing is forgotten here."""


def test_a_message_that_was_accepted_while_the_session_was_shown(tmp_path: Path) -> None:
    """Followers hear that it was accepted, and not only how it ends; of one that they have been shown they do not."""

    async def run() -> list[list[str]]:
        heard = []
        store = Store(tmp_path / "sessions.sqlite", age=1e9, limit=100, size=1 << 20, owner=identity(1))
        taken = await store.accept(SESSION, "t1", "uptime", client=None, workspace=None, keep=())
        for last in (taken.seq - 1, taken.seq):
            session = Shown(store, last)
            unfinished = Unfinished(session)
            await unfinished.recover()
            heard.append(session.heard)
            for task in unfinished.abandoned():
                task.cancel()
        await store.close()
        return heard

    new, shown = asyncio.run(run())
    assert new[:1] == ["accepted"]
    assert "accepted" not in shown
    assert len(shown) == len(new) - 1
