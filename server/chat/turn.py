"""A message that was accepted, how its turn ended and what clients get of it, and why a message is not accepted."""

from __future__ import annotations

import asyncio
import logging
import traceback
from dataclasses import dataclass

from preflight.redaction.redactor import Redactor
from server.agent.failures import ProviderError
from server.chat.messages import Accepted, Code, Error, Result, now
from server.sessions.model import Line, StoreError, TurnEnd

log = logging.getLogger(__name__)
CANCELLED = TurnEnd("error", "The turn was cancelled.", "cancelled", retry=False)


class Refused(Exception):
    """A message that is not accepted: what its sender is told."""

    def __init__(self, code: Code, message: str, *, retry: bool | None = None) -> None:
        super().__init__(message)
        self.code: Code = code
        self.message = message
        self.retry = retry


class Postponed(Exception):
    """The server drains before this turn has begun: it stays open, for the next server."""


class Early(Exception):
    """Another process still works on an earlier turn of the session."""


@dataclass(slots=True, eq=False)
class Turn:
    """A message that was accepted."""

    id: str
    text: str
    client: str | None
    seq: int
    """Its place among the lines of its session."""
    task: asyncio.Task[str] | None = None
    cancelled: bool = False

    @property
    def size(self) -> int:
        """Bytes of its text."""
        return len(self.text.encode())

    def is_meant(self, turn_id: str | None, client: str | None) -> bool:
        """Whether a client means this turn by its id, by its sender's, or by neither."""
        return turn_id in (None, self.id) and client in (None, self.client)


def accepted(session_id: str, turn: Turn, timestamp: str, position: int, *, duplicate: bool = False) -> Accepted:
    """The reply to an accepted message; ``position``: how many turns come before it."""
    return Accepted(
        session_id=session_id,
        turn_id=turn.id,
        content=turn.text,
        timestamp=timestamp,
        position=position,
        duplicate=duplicate,
        id=turn.client,
    )


def ended(task: asyncio.Task[str], redactor: Redactor, limit: float) -> TurnEnd:
    """The end of a turn that is over, to be stored; ``limit``: its deadline in seconds."""
    if task.cancelled():
        return CANCELLED
    error = task.exception()
    if error is None:
        return TurnEnd("assistant", task.result())
    if isinstance(error, StoreError):
        return TurnEnd("error", f"The agent's memory cannot be used: {error}", "storage", retry=True)
    if isinstance(error, ProviderError):
        return TurnEnd("error", error.message, error.code, error.retry, error.retry_after)
    if isinstance(error, TimeoutError):
        return TurnEnd("error", f"There was no answer within {limit:g} s. Try again.", "timeout", retry=True)
    log.error("a turn failed: %s", redactor.text("".join(traceback.format_exception(error))))
    said = f"The agent failed ({type(error).__name__}); see the server's log."
    return TurnEnd("error", said, "internal", retry=True)


def reply(session_id: str, line: Line, client: str | None) -> Result | Error:
    """How a turn ended, for those who follow; ``client``: its sender's id for it."""
    if line.role == "assistant":
        return Result(
            session_id=session_id, turn_id=line.turn_id, content=line.content, timestamp=line.timestamp, id=client
        )
    code: Code = line.code or "internal"  # type: ignore[assignment]  # one of ours was written
    return Error(
        code=code,
        message=line.content,
        timestamp=line.timestamp,
        session_id=session_id,
        turn_id=line.turn_id,
        id=client,
        retry=line.retry,
        retry_after=line.retry_after,
    )


def still_open(session_id: str, turn: Turn, code: Code, message: str) -> Error:
    """The error of a turn that has not ended: resuming the session goes on with it."""
    return Error(
        code=code, message=message, timestamp=now(), session_id=session_id, turn_id=turn.id, id=turn.client, retry=True
    )
