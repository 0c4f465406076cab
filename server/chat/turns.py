"""A live session: its turns, one at a time, and its followers.

A turn is stored before it is announced, and so is its answer. Whatever happens in between, the next client that resumes
the session finds the turn unfinished, and the turn is done again or answered with an error (`unfinished`).
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
import uuid
from collections import deque
from typing import TYPE_CHECKING, Protocol

from preflight.redaction import keys
from preflight.web.instance import SERVICE_RESTART
from server.chat.dialects import in_dialect
from server.chat.messages import Code, Error, Progress, Server, Status, Token, now
from server.chat.turn import Early, Postponed, Refused, Turn, accepted, ended, reply, still_open
from server.chat.unfinished import LOOK, Unfinished
from server.chat.words import Words, unbroken
from server.sessions.model import (
    AcceptedMessage,
    Line,
    NoSession,
    SessionFull,
    Sessions,
    StoreError,
    TooManySessions,
    TurnTaken,
)

if TYPE_CHECKING:
    from preflight.web.websocket import Outbox
    from server.chat.resources import Resources

log = logging.getLogger(__name__)

NOT_BEGUN = "The server is restarting and has not begun this turn: connect again, then send the message again."
WORKING = "Working…"
DOING = {  # by the node of the graph that has begun
    "supervisor": "Thinking…",
    "diagnostics": "Looking at the diagnostics…",
    "research": "Looking it up…",
    "responder": "Answering…",
}


class SessionFollower(Protocol):
    """A connection, as the session knows it that it follows."""

    session: Session | None
    outbox: Outbox
    streams: bool
    """Whether it gets answers piece by piece."""

    def send(self, message: Server) -> None:
        """Send to this client alone."""

    def push(self, text: str) -> None:
        """Send what was rendered for all who follow."""

    def close(self, code: int, reason: str) -> None:
        """Close after what is queued has been sent."""


class Session:
    """One session, while a connection follows it or a turn of it runs."""

    __slots__ = (
        "_ahead", "_arriving", "_current", "_live", "_postponed", "_resources", "_runner", "_waiting",
        "followers", "id", "last", "unfinished", "workspace",
    )  # fmt: skip

    def __init__(self, resources: Resources, live: dict[str, Session], session_id: str, workspace: str | None) -> None:
        """``live``: the live sessions by id, which this one leaves when nothing is left for it to do."""
        self.id = session_id
        self.workspace = workspace
        self.followers: set[SessionFollower] = set()
        self.last: int | None = None
        """All messages up to this number are known here; None before anybody has been shown the session."""
        self._ahead: dict[str, int] = {}  # turns whose messages are known here as well, with their numbers
        self._resources = resources
        self._live = live
        self._waiting: deque[Turn] = deque()
        self._current: Turn | None = None
        self._postponed: list[Turn] = []  # for the next server: this one drains
        self._arriving: dict[str, Turn] = {}  # turns between their acceptance and the queue
        self._runner: asyncio.Task[None] | None = None
        self.unfinished = Unfinished(self)

    @property
    def store(self) -> Sessions:
        """Where the session is kept."""
        return self._resources.store

    def saw(self, seq: int) -> None:
        """Note that all lines up to this number are known here."""
        self.last = last = max(self.last or 0, seq)
        self._ahead = {turn: number for turn, number in self._ahead.items() if number > last}

    def heard_of(self, turn_id: str, seq: int) -> None:
        """Note that followers know this message, although they may not know earlier ones of other instances yet."""
        if self.store.shared:
            self._ahead[turn_id] = seq
        else:
            self.saw(seq)

    def has_heard_of(self, turn_id: str) -> bool:
        """Whether followers have heard of the message of this turn, although not of all that came before it."""
        return turn_id in self._ahead

    @property
    def _here(self) -> list[Turn]:
        """The turn that runs here, and those that wait for it."""
        return [*([self._current] if self._current else []), *self._waiting]

    def has(self, turn_id: str) -> bool:
        """Whether this turn runs here, waits, or is just being accepted."""
        return turn_id in self._arriving or any(turn.id == turn_id for turn in self._here)

    @property
    def waiting(self) -> int:
        """How many turns come before a new one."""
        return len(self._waiting) + len(self.unfinished.watched) + (self._current is not None)

    @property
    def busy(self) -> bool:
        """Whether a turn runs, or is just being accepted."""
        return self._runner is not None or bool(self._arriving)

    def publish(self, message: Server) -> None:
        """Send to all who follow; rendered and redacted once for each kind of client."""
        rendered: dict[bool, list[str]] = {}
        for connection in list(self.followers):
            streams = connection.streams
            if streams not in rendered:
                rendered[streams] = [self._resources.render(one) for one in in_dialect(message, streams=streams)]
            for text in rendered[streams]:
                connection.push(text)

    def leave(self, connection: SessionFollower) -> None:
        """Note that this connection does not follow any more."""
        self.followers.discard(connection)
        self.settle()

    def settle(self) -> None:
        """Forget a session that nobody follows and that has nothing to do."""
        quiet = not self.followers and not self.busy and not self.unfinished.watched
        if quiet and self._live.get(self.id) is self:
            del self._live[self.id]

    # Messages.

    async def say(self, sender: SessionFollower, text: str, client: str | None) -> None:
        """Store a message, tell everybody, and queue its turn. Raises Refused."""
        if self._resources.instance.draining:
            raise Refused(
                "draining", "The server is restarting: connect again, then send the message again.", retry=True
            )
        before = [*self._here, *self._arriving.values()]
        most, size = self._resources.limits.chat_queue, self._resources.limits.chat_queue_size
        if len(before) >= most:
            unanswered = "1 unanswered message" if most == 1 else f"{most} unanswered messages"
            raise Refused("queue_full", f"This session already has {unanswered}: try again later.", retry=True)
        turn = Turn(uuid.uuid4().hex, text, client, 0)
        if before and sum(one.size for one in [*before, turn]) > size:
            said = f"The unanswered messages of this session would exceed {size} bytes: try again later."
            raise Refused("queue_full", said, retry=True)
        self._arriving[turn.id] = turn
        try:
            taken = await self._resources.store.accept(
                self.id, turn.id, turn.text, client=client, workspace=self.workspace, keep=frozenset(self._live)
            )
            if taken.duplicate:
                self._again(sender, turn, taken)
                return
            self.publish(accepted(self.id, turn, taken.timestamp, self.waiting))
            turn.seq = taken.seq
            self.heard_of(turn.id, taken.seq)
            if taken.others:
                await self._catch_up()
            self.enqueue(turn)
            self._resources.instance.fellows.tell("chat", about="accepted", session=self.id, turn=turn.id)
        except SessionFull as error:
            raise Refused("session_full", str(error), retry=False) from None
        except TooManySessions as error:
            raise Refused("sessions_full", str(error), retry=True) from None
        except StoreError as error:
            raise Refused("storage", f"The message was not saved and is not accepted: {error}", retry=True) from None
        finally:
            del self._arriving[turn.id]
            if not self.busy:
                self._idle()

    def _again(self, sender: SessionFollower, turn: Turn, taken: AcceptedMessage) -> None:
        """Answer a message that was accepted before, unknown to its sender: it is acknowledged again, but done once."""
        again = Turn(taken.turn_id, turn.text, turn.client, taken.seq)
        sender.send(accepted(self.id, again, taken.timestamp, 0, duplicate=True))
        if taken.answer is not None:
            sender.send(reply(self.id, taken.answer, turn.client))

    def enqueue(self, turn: Turn) -> None:
        """Begin this turn, which is this process's, in its order among those that wait already."""
        behind = next((place for place, other in enumerate(self._waiting) if other.seq > turn.seq), len(self._waiting))
        self._waiting.insert(behind, turn)
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())

    def cancel(self, turn_id: str | None, client: str | None) -> bool:
        """Cancel the turn that is meant: by its id, by its sender's, or the one that runs. False: there is none."""
        for turn in self._here:
            if turn.is_meant(turn_id, client):
                turn.cancelled = True
                if turn.task is not None:
                    turn.task.cancel()
                return True
        for turn in self.unfinished.watched:
            if turn.is_meant(turn_id, client):
                if not turn.cancelled:  # else the other workers know already
                    turn.cancelled = True  # for the next look at it; another worker of this instance hears it at once
                    self._resources.instance.fellows.tell("chat", about="cancel", session=self.id, turn=turn.id)
                return True
        return False

    # Turns.

    async def _run(self) -> None:
        """Do what is queued; while the instance drains, only what is already begun."""
        try:
            while self._waiting and not self._resources.instance.draining:
                if earlier := self.unfinished.before(self._waiting[0]):
                    await asyncio.wait(earlier, timeout=LOOK)
                    continue
                self._current = self._waiting.popleft()
                # A drain waits for it, and below for its answer to be sent.
                with self._resources.instance.work():
                    begun = time.monotonic()
                    await self._attempt(self._current)
                    # A turn that has not ended is no longer worked on: resuming the session takes it up.
                    if self._current not in self._waiting:
                        await self.store.release([self._current.id])
                    spent = time.monotonic() - begun
                self._resources.turned(spent)
                self._current = None
            if self._resources.instance.draining:
                with self._resources.instance.work():
                    self._give_back()
                    await self.store.release([turn.id for turn in self._waiting])
                    await self._flush()
        finally:
            self._current = self._runner = None
            if not self.busy:
                self._idle()

    def _give_back(self) -> None:
        """Tell clients that do not stream which turns begin no more: they come back without this session."""
        left = [*self._postponed, *self._waiting]
        for connection in self.followers:
            if not connection.streams:
                for turn in left:
                    connection.send(still_open(self.id, turn, "draining", NOT_BEGUN))

    def fail(self, turn: Turn, code: Code, message: str) -> None:
        """Report an error of a turn that has not ended: resuming the session goes on with it."""
        self.publish(still_open(self.id, turn, code, message))

    def tell(self, turn: Turn, line: Line) -> None:
        """Tell how a turn ended."""
        self.publish(reply(self.id, line, turn.client))

    def vanished(self) -> None:
        """Tell that the session was deleted, and close its connections."""
        for connection in list(self.followers):
            connection.send(
                Error(code="session_deleted", message="The session was deleted.", timestamp=now(), session_id=self.id)
            )
            connection.close(1000, "the session was deleted")

    def _idle(self) -> None:
        if self._resources.instance.draining:
            for connection in list(self.followers):
                connection.close(*SERVICE_RESTART)
        self.settle()

    async def _flush(self) -> None:
        """Before the connections close, give followers who read a moment to get everything."""
        pumps = [pump for connection in self.followers if (pump := connection.outbox.pump) is not None]
        if pumps:
            await asyncio.wait(pumps, timeout=1)

    async def _attempt(self, turn: Turn) -> None:
        try:
            await self._perform(turn)
        except Exception as error:  # noqa: BLE001  # said to the user and in the log
            # A fault of ours; the turn stays open, and the ones behind it get their chance.
            log.error("a turn failed: %s", self._resources.redactor.text("".join(traceback.format_exception(error))))
            said = f"The server failed in this turn ({type(error).__name__}); resume the session to try it again."
            self.fail(turn, "internal", said)

    async def _perform(self, turn: Turn) -> None:
        self.publish(Status(session_id=self.id, turn_id=turn.id, status="working", message=WORKING))
        task = turn.task = asyncio.create_task(self._answer(turn))
        if turn.cancelled:
            task.cancel()
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            # The server ends, and the turn stays open; or the session was deleted, and nothing of it goes on.
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Postponed):
            self._postponed.append(turn)
            return
        if isinstance(error, Early):
            await self._catch_up()
            self.enqueue(turn)
            return
        try:
            if isinstance(error, TurnTaken):
                raise error
            line = await self.store.finish(
                self.id, turn.id, ended(task, self._resources.redactor, self._resources.limits.turn_timeout)
            )
        except NoSession:
            self.vanished()
        except TurnTaken:
            self.unfinished.watch(turn)
        except StoreError as problem:
            said = f"The answer was not saved ({problem}): resume the session to get a new answer."
            self.fail(turn, "storage", said)
        else:
            self.tell(turn, line)

    async def _answer(self, turn: Turn) -> str:
        """Let the agent answer, and tell how it goes."""
        agent = await self._resources.agent()
        async with agent.slots, asyncio.timeout(self._resources.limits.turn_timeout):
            if self._resources.instance.draining:
                raise Postponed
            # Stored before the turn does anything, so that a turn that ends the server is counted.
            if not await self.store.begin(turn.id):
                raise Early
            words = Words(self._resources.redactor, keys.secrets_of(self._resources.settings))
            index, answer = 0, ""
            async for kind, text in agent.answer(self.id, turn.id, turn.text):
                if kind == "node":
                    doing = DOING.get(text, WORKING)
                    self.publish(Progress(session_id=self.id, turn_id=turn.id, node=text, message=doing))
                elif kind == "token":
                    if piece := words.feed(text):
                        self.publish(Token(session_id=self.id, turn_id=turn.id, index=index, content=piece))
                        index += 1
                else:
                    answer = unbroken(text)
            if piece := await asyncio.to_thread(words.rest):  # of a model that wrote no blank: all of it
                self.publish(Token(session_id=self.id, turn_id=turn.id, index=index, content=piece))
            return answer

    async def _catch_up(self) -> None:
        """Learn which turns of the session other processes have: this process's wait for the earlier ones."""
        try:
            await self.unfinished.recover()
        except StoreError as error:
            log.warning("turns of other processes are not known: %s", error)

    # The end.

    async def end(self) -> None:
        """End a session that is deleted: nothing of it goes on."""
        self.vanished()
        await self.abandon()

    async def abandon(self) -> None:
        """Stop what goes on; turns that are not answered stay open in the store."""
        left = [turn.id for turn in self._here]
        self._waiting.clear()
        tasks = [*([self._runner] if self._runner else []), *self.unfinished.abandoned()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # A runner that was cancelled before its first step has left everything as it was.
        if self._runner is not None and self._runner.done():
            self._current = self._runner = None
        await self.store.release(left)
        self.settle()
