"""Turns of a session that this process has not begun: they wait for the one that works on them, or begin again here."""

from __future__ import annotations

import asyncio
from typing import Protocol

from server.chat.messages import Server, Status
from server.chat.turn import CANCELLED, Turn, accepted
from server.sessions.model import Line, Open, Sessions, StoreError, TurnEnd

BEGINNINGS = 2  # times that a turn is begun: a turn that ends the server twice is not tried a third time
RECENT, RECENT_SIZE = 50, 256 * 1024  # lines and characters in which a message is looked for that was just accepted
LOOK = 0.2  # seconds until the second look at a turn that another process works on; later ones take their time


class Host(Protocol):
    """The session, as this module knows it."""

    id: str
    last: int | None
    """All lines up to this number are known here; None before anybody has been shown the session."""

    @property
    def store(self) -> Sessions:
        """Where the session is kept."""

    @property
    def waiting(self) -> int:
        """How many turns come before a new one."""

    def heard_of(self, turn_id: str, seq: int) -> None:
        """Note that followers have heard of this message."""

    def has_heard_of(self, turn_id: str) -> bool:
        """Whether followers have heard of the message of this turn."""

    def has(self, turn_id: str) -> bool:
        """Whether this turn runs here, waits, or is just being accepted."""

    def publish(self, message: Server) -> None:
        """Send to all who follow."""

    def enqueue(self, turn: Turn) -> None:
        """Begin this turn, which is this process's, in its order among those that wait already."""

    def tell(self, turn: Turn, line: Line) -> None:
        """Tell how a turn ended."""

    def vanished(self) -> None:
        """Tell that the session was deleted, and close its connections."""

    def settle(self) -> None:
        """Forget a session that nobody follows and that has nothing to do."""


class Unfinished:
    """The unfinished turns of one session."""

    __slots__ = ("_looking", "_session", "_watchers")

    def __init__(self, session: Host) -> None:
        self._session = session
        self._watchers: dict[str, tuple[Turn, asyncio.Task[None]]] = {}  # of turns that another process works on
        self._looking = asyncio.Lock()  # held from a look at what is open until what follows from it is done

    @property
    def watched(self) -> list[Turn]:
        """The turns that other processes work on, and whose ends are waited for here."""
        return [turn for turn, _ in self._watchers.values()]

    def before(self, turn: Turn) -> list[asyncio.Task[None]]:
        """The tasks that wait for the ends of watched turns which came before this one."""
        return [watching for other, watching in self._watchers.values() if other.seq < turn.seq]

    async def recover(self) -> None:
        """Take up turns that were accepted and never answered. Raises StoreError."""
        later = []
        async with self._looking:  # whoever resumes the session at the same moment finds them taken up
            for found in await self._session.store.open_turns(self._session.id):
                if found.turn_id in self._watchers or self._session.has(found.turn_id):
                    continue
                known = self._session.last is None or found.seq <= self._session.last
                if not known and not self._session.has_heard_of(found.turn_id):
                    later.append(found.turn_id)  # accepted since the session was shown: nobody has been told of it
                    continue
                turn = Turn(found.turn_id, found.content, found.id, found.seq)
                if not await self._taken_up(turn, found):
                    self.watch(turn)
        for turn_id in later:
            await self.announce(turn_id)

    async def announce(self, turn_id: str) -> None:
        """Another process has accepted a message: tell who follows here of it, and wait for its end.

        Raises StoreError.
        """
        session = self._session
        async with self._looking:
            if turn_id in self._watchers or session.has(turn_id) or session.has_heard_of(turn_id):
                return
            lines, _more = await session.store.history(session.id, before=None, limit=RECENT, size=RECENT_SIZE)
            said = next((line for line in lines if line.turn_id == turn_id and line.role == "user"), None)
            if said is None:
                return
            session.heard_of(turn_id, said.seq)
            turn = Turn(turn_id, said.content, said.id, said.seq)
            session.publish(accepted(session.id, turn, said.timestamp, session.waiting))
            if not await self._taken_up(turn, await session.store.seen(session.id, turn_id)):
                self.watch(turn)

    def watch(self, turn: Turn) -> None:
        """Wait for the answer of a turn that another process works on, or for its end."""
        self._wait(turn, "Another process is working on this turn.")
        self._watchers[turn.id] = turn, asyncio.create_task(self._watch(turn))

    def abandoned(self) -> list[asyncio.Task[None]]:
        """Stop watching turns; returns the tasks that have to be cancelled."""
        watchers, self._watchers = self._watchers, {}
        return [task for _, task in watchers.values()]

    def _wait(self, turn: Turn, message: str) -> None:
        self._session.publish(Status(session_id=self._session.id, turn_id=turn.id, status="waiting", message=message))

    async def _take_over(self, turn: Turn, found: Open) -> bool:
        """Whether this process has the turn now. False: another one was faster."""
        session = self._session
        beginnings = await session.store.claim(found)
        if beginnings is None:
            return False
        if beginnings >= BEGINNINGS:
            message = "The server ended in the middle of this turn more than once; the turn is not tried again."
            reply = TurnEnd("error", message, "interrupted", retry=True)
            session.tell(turn, await session.store.finish(session.id, turn.id, reply))
            return True
        message = "The server ended during this turn; the turn begins again."
        session.publish(Status(session_id=session.id, turn_id=turn.id, status="resumed", message=message))
        session.enqueue(turn)
        return True

    async def _cancel(self, turn: Turn, found: Open) -> bool:
        """End a turn that another process has, which learns of it when it wants to write the answer."""
        store = self._session.store
        if await store.claim(found, force=True) is None:
            return False
        self._session.tell(turn, await store.finish(self._session.id, turn.id, CANCELLED))
        return True

    async def _watch(self, turn: Turn) -> None:
        pause = LOOK
        told = False
        try:
            while True:
                try:
                    if await self._seen_through(turn):
                        return
                except StoreError as error:
                    # What is not there now may be there later; the turn is safe, and still waited for.
                    if not told:
                        self._wait(turn, f"The answer has to wait: {error}")
                    told = True
                await asyncio.sleep(pause)
                pause = min(1.5 * pause, self._session.store.look)
        finally:
            self._watchers.pop(turn.id, None)  # at once after the last look: nobody looks in between
            self._session.settle()

    async def _seen_through(self, turn: Turn) -> bool:
        """Whether the other process has answered the turn, or has ended and left it to us."""
        async with self._looking:
            return await self._taken_up(turn, await self._session.store.seen(self._session.id, turn.id))

    async def _taken_up(self, turn: Turn, found: Line | Open | None) -> bool:
        """Tell the end of a turn, or take it over; False: another process has it."""
        if isinstance(found, Open) and turn.cancelled:
            return await self._cancel(turn, found)
        if isinstance(found, Open):
            return not found.held and await self._take_over(turn, found)
        if found is None:
            self._session.vanished()
        else:
            self._session.tell(turn, found)
        return True
