"""What the chat stores, whichever engine stores it: :class:`Sessions` is the interface of both.

`store` is the engine for one machine (a SQLite file), `postgres/` the one for many instances. Nothing outside of this
folder knows which of them it has.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from preflight.times import stamp

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

LINE = "seq, turn, role, content, at, client, code, retry, retry_after"
"""The columns of a transcript, in the order that :func:`line` takes them."""


class StoreError(Exception):
    """The store could not do it; the message says why, for people."""


class SessionFull(StoreError):
    """This session holds as much text as it may."""


class TooManySessions(StoreError):
    """The limit of sessions is reached, and all are in use."""


class NoSession(StoreError):
    """There is no such session."""


class TurnTaken(StoreError):
    """Another process has taken this turn over: whatever this one still wants to write about it is refused."""


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """How a turn ended: with an answer, or with an error."""

    role: Literal["assistant", "error"]
    content: str
    code: str | None = None
    retry: bool | None = None  # of an error: whether trying again may help
    retry_after: float | None = None  # seconds to wait first, from when it was said


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a transcript."""

    seq: int
    turn_id: str
    role: Literal["user", "assistant", "error"]
    content: str
    timestamp: str
    id: str | None
    code: str | None
    retry: bool | None  # as in TurnEnd
    retry_after: float | None

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Open:
    """A turn that was accepted and not answered yet."""

    turn_id: str
    seq: int
    content: str
    attempts: int
    id: str | None
    owner: str
    """The process that the turn belongs to."""
    epoch: int
    """How often the turn has changed hands; 0 if the engine does not count that."""
    held: bool
    """Whether the owner is another process that still works on the turn."""


@dataclass(frozen=True, slots=True)
class AcceptedMessage:
    """An accepted message. ``answer`` is set when it had been accepted before, and answered."""

    turn_id: str
    timestamp: str
    seq: int
    others: bool = False
    """Whether another process has a turn of the session that is not answered yet."""
    duplicate: bool = False
    answer: Line | None = None


@dataclass(slots=True)
class Kept:
    """A session with everything that belongs to it, as it is imported."""

    session: tuple[str, float, float, str | None]
    """Its id, when it began and was last used, and its workspace."""
    lines: list[tuple[Any, ...]]
    """Of its transcript, by the columns of ``LINE``."""
    turns: dict[str, int]
    """Those without an answer, and how often each has begun."""
    memory: CheckpointTuple | None
    """What the graph remembers."""
    in_use: bool = False
    """Whether a process that runs works on one of its turns."""


class Sessions(Protocol):
    """The sessions, their transcripts and the turns that are not answered yet.

    A turn belongs to the process that accepted it, until another process takes it over because the first one has
    ended. Every method can raise StoreError; after that, everything is as before, or as if it had been done.
    """

    look: float
    """Seconds between two looks at a turn that another process works on, at most."""
    shared: bool
    """Whether other instances have the same sessions."""

    # Turns.

    async def accept(
        self, session: str, turn: str, content: str, *, client: str | None, workspace: str | None, keep: Collection[str]
    ) -> AcceptedMessage:
        """Store a message for good; the session comes into being with its first one.

        ``client``: the sender's own id of the message, which is accepted once. ``keep``: sessions in use, which never
        make room for others. Raises SessionFull, TooManySessions.
        """

    async def begin(self, turn: str) -> bool:
        """Count that a turn of this process begins, before it does.

        False: it has to wait, because another process still works on an earlier turn of the session. Raises TurnTaken,
        also where the session was deleted.
        """

    async def finish(self, session: str, turn: str, reply: TurnEnd) -> Line:
        """Store the end of a turn; returns how it is stored.

        A turn ends once: a second end changes nothing, and returns the first. Raises NoSession if the session was
        deleted, TurnTaken.
        """

    async def release(self, turns: Collection[str]) -> None:
        """Leave these turns to whoever takes them over: this process does not work on them any more. Raises nothing."""

    async def open_turns(self, session: str) -> list[Open]:
        """The session's turns without an answer, oldest first."""

    async def seen(self, session: str, turn: str) -> Line | Open | None:
        """How a turn ended, or that it has not; None if the session was deleted."""

    async def claim(self, found: Open, *, force: bool = False) -> int | None:
        """Take over a turn that is not held, or with ``force`` one that is; returns how often it began.

        None: another process was faster.
        """

    async def news(self, known: Mapping[str, int]) -> list[tuple[str, str, int]]:
        """Messages of these sessions that came after the line with this number: session, turn, and the line's number.

        Empty if only the workers of one instance share the sessions: these tell each other.
        """

    # Transcripts.

    async def history(self, session: str, *, before: int | None, limit: int, size: int) -> tuple[list[Line], bool]:
        """The last ``limit`` lines before number ``before``, oldest first and at most about ``size`` characters.

        With them, whether there are older ones.
        """

    async def recent(self, session: str, *, limit: int, size: int) -> list[Line]:
        """The last lines, as from :meth:`history`, and all from the oldest turn without an answer on."""

    # Sessions.

    async def exists(self, session: str) -> bool:
        """Whether there is such a session."""

    async def page(self, *, offset: int, limit: int) -> tuple[list[dict[str, Any]], int]:
        """Sessions, the latest used first, and how many there are."""

    async def export(self, session: str) -> dict[str, Any]:
        """A session with its whole transcript. Raises NoSession."""

    async def delete(self, sessions: Collection[str] | None) -> int:
        """Delete these sessions, or with None all of them; returns how many there were."""

    # The graph's memory.

    def load(self) -> None:
        """Import what :meth:`checkpointer` needs, which takes a while: for a thread."""

    async def checkpointer(self) -> BaseCheckpointSaver[Any]:
        """Where LangGraph keeps what the graph remembers of a session."""

    async def close(self) -> None:
        """Finish what was asked for, leave unfinished turns to others, and close."""


def line(row: Sequence[Any], at: float) -> Line:
    """A row of :data:`LINE`; ``at``: its time in seconds since the epoch."""
    seq, turn, role, content, _, client, code, retry, retry_after = row
    return Line(seq, turn, role, content, stamp(at), client, code, None if retry is None else bool(retry), retry_after)


def bounded(lines: Iterable[Line], limit: int, size: int, oldest: int | None) -> tuple[list[Line], bool]:
    """The first of these lines, which come latest first, turned to oldest first; and whether there are more.

    As many as ``limit`` and about ``size`` characters allow, but all from number ``oldest`` on.
    """
    kept: list[Line] = []
    room = size
    for one in lines:
        room -= len(one.content)
        # One line always: a page that is empty would look like the beginning.
        full = len(kept) >= limit or (room < 0 and kept)
        if full and (oldest is None or one.seq < oldest):
            return kept[::-1], True
        kept.append(one)
    return kept[::-1], False


def session(row: Sequence[Any]) -> dict[str, Any]:
    """A session as it is listed, from its row: its id, when it began and was last used, and what is known of it."""
    session_id, created, updated, messages, size, workspace, unanswered = row
    return {
        "session_id": session_id,
        "created": stamp(created),
        "updated": stamp(updated),
        "messages": messages,
        "bytes": size,
        "unanswered": unanswered,
        "workspace_path": workspace,
    }
