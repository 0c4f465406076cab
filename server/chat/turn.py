"""A message that was accepted, and why one is not, or not yet."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from server.chat.messages import Code


class Refused(Exception):
    """A message that is not accepted: what its sender is told."""

    def __init__(self, code: Code, message: str, *, retry: bool | None = None) -> None:
        super().__init__(message)
        self.code: Code = code
        self.message = message
        self.retry = retry


class Postponed(Exception):
    """The server drains before this turn has begun: it stays open, for the next server."""


@dataclass(slots=True, eq=False)
class Turn:
    """A message that was accepted."""

    id: str
    text: str
    client: str | None
    after: frozenset[str] = frozenset()
    """Turns of the session that came before it, and that other processes had when it was accepted."""
    task: asyncio.Task[str] | None = None
    cancelled: bool = False

    @property
    def size(self) -> int:
        """Bytes of its text."""
        return len(self.text.encode())
