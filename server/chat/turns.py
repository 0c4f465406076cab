"""A live session: its turns, one at a time, and those who follow them.

A turn is on disk before it is announced and answered on disk before its answer is: whatever happens in between, the
next one who resumes the session finds it unfinished, and it is done again or answered with an error.
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
from preflight.times import stamp
from preflight.web.instance import SERVICE_RESTART
from server.agent.failures import ProviderError
from server.chat.dialects import in_dialect
from server.chat.messages import Accepted, Code, Error, Progress, Result, Server, Status, Token
from server.chat.turn import Postponed, Refused, Turn
from server.chat.words import Words, unbroken
from server.sessions import owner as owners
from server.sessions.database import StoreError
from server.sessions.store import Line, NoSession, Reply, SessionFull, Taken, TooManySessions

if TYPE_CHECKING:
    from preflight.web.websocket import Outbox
    from server.chat.resources import Resources

log = logging.getLogger(__name__)

BEGINNINGS = 2  # times that a turn is begun: a turn that ends the server twice is not tried a third time
NOT_BEGUN = "The server restarts and has not begun this turn: connect again, then send the message again."
WORKING = "Working…"
DOING = {  # by the node of the graph that has begun
    "supervisor": "Thinking…",
    "diagnostics": "Looking at the diagnostics…",
    "research": "Looking it up…",
    "responder": "Answering…",
}
RECENT, RECENT_SIZE = 50, 256 * 1024  # lines and characters in which a message is looked for that was just accepted
LOOK = 0.2  # seconds between two looks at a turn that another process works on


class Follower(Protocol):
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
    """One session, while somebody follows it or a turn of it runs."""

    __slots__ = (
        "_arriving", "_current", "_elsewhere", "_live", "_looking", "_postponed", "_resources", "_runner", "_waiting",
        "_watchers", "followers", "id", "workspace",
    )  # fmt: skip

    def __init__(self, resources: Resources, live: dict[str, Session], session_id: str, workspace: str | None) -> None:
        """``live``: the live sessions by id, which this one leaves when nothing is left for it to do."""
        self.id = session_id
        self.workspace = workspace
        self.followers: set[Follower] = set()
        self._resources = resources
        self._live = live
        self._waiting: deque[Turn] = deque()
        self._current: Turn | None = None
        self._postponed: list[Turn] = []  # for the next server: this one drains
        self._arriving: dict[str, Turn] = {}  # turns between their acceptance and the queue
        self._runner: asyncio.Task[None] | None = None
        self._watchers: dict[str, asyncio.Task[None]] = {}  # of turns that another process works on
        self._elsewhere: dict[str, Turn] = {}  # those turns
        self._looking = asyncio.Lock()  # held from a look at what is open until what follows from it is done

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

    def leave(self, connection: Follower) -> None:
        """This connection does not follow any more."""
        self.followers.discard(connection)
        self._settle()

    def _settle(self) -> None:
        """Forget a session that nobody follows and that has nothing to do."""
        if not self.followers and not self.busy and not self._watchers and self._live.get(self.id) is self:
            del self._live[self.id]

    # Messages.

    async def say(self, sender: Follower, text: str, client: str | None) -> None:
        """Put a message on disk, tell everybody, and queue its turn. Raises Refused."""
        if self._resources.instance.draining:
            raise Refused(
                "draining", "The server is restarting: connect again, then send the message again.", retry=True
            )
        before = [*([self._current] if self._current else []), *self._waiting, *self._arriving.values()]
        most, size = self._resources.limits.chat_queue, self._resources.limits.chat_queue_size
        if len(before) >= most:
            raise Refused("queue_full", f"{most} messages of this session wait already: try again later.", retry=True)
        turn = Turn(uuid.uuid4().hex, text, client)
        if before and sum(one.size for one in [*before, turn]) > size:
            said = f"More than {size} bytes of this session's messages would wait: try again later."
            raise Refused("queue_full", said, retry=True)
        self._arriving[turn.id] = turn
        try:
            taken = await self._resources.store.accept(
                self.id, turn.id, turn.text, client=client, workspace=self.workspace, keep=frozenset(self._live)
            )
            if taken.duplicate:
                self._again(sender, turn, taken)
                return
            self.publish(
                Accepted(
                    session_id=self.id,
                    turn_id=turn.id,
                    content=turn.text,
                    timestamp=taken.timestamp,
                    position=len(self._waiting) + (self._current is not None),
                    id=client,
                )
            )
            if taken.after:
                turn.after = taken.after
                await self.recover()
            self._enqueue(turn)
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

    def _again(self, sender: Follower, turn: Turn, taken: Taken) -> None:
        """A message that was accepted before, and whose sender does not know: said again, done once."""
        accepted = Accepted(
            session_id=self.id,
            turn_id=taken.turn_id,
            content=turn.text,
            timestamp=taken.timestamp,
            position=0,
            duplicate=True,
            id=turn.client,
        )
        sender.send(accepted)
        if taken.answer is not None:
            sender.send(self._told(taken.answer, turn.client))

    def _enqueue(self, turn: Turn) -> None:
        """Before those that came after it, where another process had it until now."""
        behind = next((place for place, other in enumerate(self._waiting) if turn.id in other.after), None)
        self._waiting.insert(len(self._waiting) if behind is None else behind, turn)
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())

    def cancel(self, turn_id: str | None, client: str | None) -> bool:
        """Cancel the turn that is meant: by its id, by its sender's, or the one that runs. False: there is none."""
        for turn in [*([self._current] if self._current else []), *self._waiting]:
            if turn_id in (None, turn.id) and client in (None, turn.client):
                turn.cancelled = True
                if turn.task is not None:
                    turn.task.cancel()
                return True
        for turn in self._elsewhere.values():
            if turn_id in (None, turn.id) and client in (None, turn.client) and self._resources.instance.fellows.any:
                self._resources.instance.fellows.tell("chat", about="cancel", session=self.id, turn=turn.id)
                return True
        return False

    # Turns.

    async def _run(self) -> None:
        """Do what is queued; while the instance drains, only what is already begun."""
        try:
            while self._waiting and not self._resources.instance.draining:
                if before := [self._watchers[turn] for turn in self._waiting[0].after if turn in self._watchers]:
                    await asyncio.wait(before, timeout=LOOK)
                    continue
                self._current = self._waiting.popleft()
                # A drain waits for it, and below for its answer to be sent.
                with self._resources.instance.work():
                    begun = time.monotonic()
                    await self._attempt(self._current)
                    spent = time.monotonic() - begun
                self._resources.turned(spent)
                self._current = None
            if self._resources.instance.draining:
                with self._resources.instance.work():
                    self._give_back()
                    await self._flush()
        finally:
            self._current = self._runner = None
            if not self.busy:
                self._idle()

    def _give_back(self) -> None:
        """Tell clients that do not stream what is not begun any more: they come back without this session."""
        left = [*self._postponed, *self._waiting]
        for connection in self.followers:
            if not connection.streams:
                for turn in left:
                    connection.send(self._error(turn, "draining", NOT_BEGUN))

    def _idle(self) -> None:
        if self._resources.instance.draining:
            for connection in list(self.followers):
                connection.close(*SERVICE_RESTART)
        self._settle()

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
            log.error("a turn broke: %s", self._resources.redactor.text("".join(traceback.format_exception(error))))
            said = f"The server broke ({type(error).__name__}); resume the session to try the turn again."
            self.publish(self._error(turn, "internal", said))

    async def _perform(self, turn: Turn) -> None:
        self.publish(Status(session_id=self.id, turn_id=turn.id, status="working", message=WORKING))
        task = turn.task = asyncio.create_task(self._answer(turn))
        if turn.cancelled:
            task.cancel()
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            # The server ends, and the turn stays open; or the session does: nothing of it goes on behind that.
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise
        if not task.cancelled() and isinstance(task.exception(), Postponed):
            self._postponed.append(turn)
            return
        try:
            line = await self._resources.store.finish(self.id, turn.id, self._reply(task))
        except NoSession:
            return
        except StoreError as error:
            said = f"The answer was not saved ({error}): resume the session to get a new answer."
            self.publish(self._error(turn, "storage", said))
            return
        self.publish(self._told(line, turn.client))

    async def _answer(self, turn: Turn) -> str:
        """Let the agent answer, and tell how it goes."""
        agent = await self._resources.agent()
        async with agent.slots, asyncio.timeout(self._resources.limits.turn_timeout):
            if self._resources.instance.draining:
                raise Postponed
            # On disk before anything of it is done: what may end the server is counted.
            await self._resources.store.begin(turn.id)
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
            if piece := words.rest():
                self.publish(Token(session_id=self.id, turn_id=turn.id, index=index, content=piece))
            return answer

    def _reply(self, task: asyncio.Task[str]) -> Reply:
        """What to say of a turn that is over."""
        if task.cancelled():
            return Reply("error", "The turn was cancelled.", "cancelled", retry=False)
        error = task.exception()
        if error is None:
            return Reply("assistant", task.result())
        if isinstance(error, StoreError):
            return Reply("error", f"The agent's memory cannot be used: {error}", "storage", retry=True)
        if isinstance(error, ProviderError):
            return Reply("error", error.message, error.code, error.retry, error.retry_after)
        if isinstance(error, TimeoutError):
            limit = self._resources.limits.turn_timeout
            return Reply("error", f"There was no answer within {limit:g} s. Try again.", "timeout", retry=True)
        log.error("a turn broke: %s", self._resources.redactor.text("".join(traceback.format_exception(error))))
        said = f"The agent broke ({type(error).__name__}); see the server's log."
        return Reply("error", said, "internal", retry=True)

    def _error(self, turn: Turn, code: Code, message: str) -> Error:
        """Of a turn that has not ended: resuming the session goes on with it."""
        return Error(
            code=code, message=message, timestamp=now(), session_id=self.id, turn_id=turn.id, id=turn.client, retry=True
        )

    def _told(self, line: Line, client: str | None) -> Result | Error:
        """How a turn ended, for those who follow."""
        if line.role == "assistant":
            return Result(
                session_id=self.id, turn_id=line.turn_id, content=line.content, timestamp=line.timestamp, id=client
            )
        code: Code = line.code or "internal"  # type: ignore[assignment]  # one of ours was written
        return Error(
            code=code,
            message=line.content,
            timestamp=line.timestamp,
            session_id=self.id,
            turn_id=line.turn_id,
            id=client,
            retry=line.retry,
            retry_after=line.retry_after,
        )

    # What an earlier process left unfinished.

    async def recover(self) -> None:
        """Take up turns that were accepted and never answered. Raises StoreError."""
        async with self._looking:  # who resumes at the same moment finds them taken up
            for found in await self._resources.store.open_turns(self.id):
                known = {turn.id for turn in self._waiting} | {*self._arriving, *self._watchers}
                if found.turn_id not in known and (self._current is None or self._current.id != found.turn_id):
                    await self._take_up(Turn(found.turn_id, found.content, found.id), found.owner)

    async def _take_up(self, turn: Turn, owner: str) -> None:
        if owner == self._resources.store.owner or not await asyncio.to_thread(owners.alive, owner):
            await self._take_over(turn, owner)
            return
        # An instance that is being replaced still works on it.
        self.publish(
            Status(
                session_id=self.id,
                turn_id=turn.id,
                status="waiting",
                message="Another process works on this turn.",
            )
        )
        self._elsewhere[turn.id] = turn
        self._watchers[turn.id] = asyncio.create_task(self._watch(turn, owner))

    async def _take_over(self, turn: Turn, owner: str) -> None:
        beginnings = await self._resources.store.claim(turn.id, owner)
        if beginnings is None:
            await self._lose(turn)
            return
        if beginnings >= BEGINNINGS:
            message = "The server ended in the middle of this turn more than once; the turn is not tried again."
            reply = Reply("error", message, "interrupted", retry=True)
            self.publish(self._told(await self._resources.store.finish(self.id, turn.id, reply), turn.client))
            return
        self.publish(
            Status(
                session_id=self.id,
                turn_id=turn.id,
                status="resumed",
                message="The server ended during this turn; the turn begins again.",
            )
        )
        self._enqueue(turn)

    async def _lose(self, turn: Turn) -> None:
        """Another process was quicker to take over a turn: it is that one's, or answered by now, or gone."""
        for found in await self._resources.store.open_turns(self.id):
            if found.turn_id == turn.id:
                await self._take_up(turn, found.owner)
                return
        if (line := await self._resources.store.answer_of(self.id, turn.id)) is not None:
            self.publish(self._told(line, turn.client))

    async def accepted_elsewhere(self, turn_id: str) -> None:
        """Another worker of the instance has accepted a message: whoever follows here hears of it, and of its end."""
        async with self._looking:
            if turn_id in self._watchers:
                return
            lines, _more = await self._resources.store.history(self.id, before=None, limit=RECENT, size=RECENT_SIZE)
            said = next((line for line in lines if line.turn_id == turn_id and line.role == "user"), None)
            if said is None:
                return
            before = len(self._waiting) + len(self._elsewhere) + (self._current is not None)
            self.publish(
                Accepted(
                    session_id=self.id,
                    turn_id=turn_id,
                    content=said.content,
                    timestamp=said.timestamp,
                    position=before,
                    id=said.id,
                )
            )
            await self._lose(Turn(turn_id, said.content, said.id))

    async def _watch(self, turn: Turn, owner: str) -> None:
        try:
            while True:
                if await self._seen_through(turn, owner):
                    return
                await asyncio.sleep(LOOK)
        except StoreError as error:
            self.publish(self._error(turn, "storage", str(error)))
        finally:
            if self._watchers.get(turn.id) is asyncio.current_task():  # at once after the last look
                del self._watchers[turn.id], self._elsewhere[turn.id]
            self._settle()

    async def _seen_through(self, turn: Turn, owner: str) -> bool:
        """Whether the other process has answered the turn, or has ended and left it to us."""
        async with self._looking:
            line = await self._resources.store.answer_of(self.id, turn.id)
            if line is not None:
                self.publish(self._told(line, turn.client))
                return True
            if await asyncio.to_thread(owners.alive, owner):
                return False
            await self._take_over(turn, owner)
            return True

    # The end.

    async def end(self) -> None:
        """The session is deleted: nothing of it goes on."""
        for connection in list(self.followers):
            connection.send(
                Error(code="session_deleted", message="The session was deleted.", timestamp=now(), session_id=self.id)
            )
            connection.close(1000, "the session was deleted")
        await self.abandon()

    async def abandon(self) -> None:
        """Stop what goes on; turns that are not answered stay open on disk."""
        self._waiting.clear()
        tasks = [*self._watchers.values(), *([self._runner] if self._runner else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # One that was cancelled before its first step has left everything as it was.
        self._watchers = {turn: task for turn, task in self._watchers.items() if not task.done()}
        self._elsewhere = {turn: kept for turn, kept in self._elsewhere.items() if turn in self._watchers}
        if self._runner is not None and self._runner.done():
            self._current = self._runner = None
        self._settle()


def now() -> str:
    """The time as messages write it."""
    return stamp(time.time())
