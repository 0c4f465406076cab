"""One connection of the chat: frames in, checked and counted; messages out, for it alone or for all who follow."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from starlette.types import Receive, Scope, Send

from preflight import __version__
from preflight.web.websocket import POLICY_VIOLATION, Allowance, Outbox, admitted
from server.about import ARCHITECTURE
from server.chat import messages
from server.chat.dialects import in_dialect
from server.chat.messages import (
    LAST,
    TYPES,
    Cancel,
    Chat,
    Code,
    Command,
    Connected,
    Entry,
    Error,
    GetTranscript,
    Info,
    Init,
    Ping,
    Pong,
    now,
)
from server.chat.turn import Refused
from server.chat.turns import Session
from server.sessions.model import Line, StoreError

if TYPE_CHECKING:
    from server.chat.hub import Hub

PAGE = 128 * 1024  # characters of messages in `initialized` and in `history`
NO_MESSAGE: frozenset[Code] = frozenset({"not_text", "too_large", "bad_json", "unknown_type"})
BEGUN, RESUMED = "A new session has begun.", "The session continues where it left off."
INIT_FIRST = 'Send {"type": "init"} first.'
NO_COMMANDS = "This server has nothing to command, approve or roll back: nothing was done. Send a chat message instead."
BURST = 5.0  # seconds' worth of messages that may come at once


async def serve(hub: Hub, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one connection until it closes."""
    full = len(hub.connections) >= hub.limits.chat_connections
    if not await admitted(scope, receive, send, hub.instance, "too many connections; try again later" if full else ""):
        return
    connection = Connection(hub, Outbox(scope, send, hub.limits.chat_backlog))
    hub.connections.add(connection)
    try:
        await connection.run(receive)
    finally:
        hub.connections.discard(connection)
        connection.gone()


class Connection:
    """A client."""

    __slots__ = ("_allowance", "_held", "_hub", "_id", "outbox", "session", "streams")

    def __init__(self, hub: Hub, outbox: Outbox) -> None:
        self._hub = hub
        self.outbox = outbox
        self._id = uuid.uuid4().hex  # the session's, unless another one is resumed
        self.session: Session | None = None
        self.streams = True
        """Whether it gets answers piece by piece; its `init` says so."""
        self._held: list[str] | None = None  # messages for a follower that was not yet told that it is one
        self._allowance = Allowance(hub.limits.chat_rate, hub.limits.chat_rate * BURST)

    # Out.

    def send(self, message: messages.Server) -> None:
        """Send to this client alone."""
        for one in in_dialect(message, streams=self.streams):
            self.outbox.push(self._hub.render(one))

    async def send_long(self, message: messages.Server) -> None:
        """The same for a message that may have much text in it."""
        for one in in_dialect(message, streams=self.streams):
            self.outbox.push(await self._hub.rendered(one))

    def push(self, text: str) -> None:
        """Send what was rendered for all who follow a session."""
        if self._held is not None:
            self._held.append(text)
        else:
            self.outbox.push(text)

    def close(self, code: int, reason: str) -> None:
        """Close after what is queued has been sent."""
        self.outbox.close(code, reason)

    def gone(self) -> None:
        """Leave the session, because the connection is over."""
        self.outbox.end()
        if self.session is not None:
            self.session.leave(self)

    # In.

    async def run(self, receive: Receive) -> None:
        """Say who we are, then take frames until the end."""
        self.send(
            Connected(session_id=self._id, client_id=uuid.uuid4().hex, version=__version__, architecture=ARCHITECTURE)
        )
        while True:
            event = await receive()
            if event["type"] == "websocket.disconnect":
                return
            if self.outbox.closing:
                continue
            if not self._allowance.spend():
                self.close(POLICY_VIOLATION, "too many messages; slow down")
                continue
            await self._take(event.get("text"))

    async def _take(self, frame: str | None) -> None:
        document: Any = None
        try:
            document = self._object(frame)
            kind = messages.kind_of(document)
            if not isinstance(kind, str) or kind not in TYPES:
                raise Refused("unknown_type", f"The type of a message must be one of: {', '.join(sorted(TYPES))}.")
            if self.session is None and kind != "init":
                raise Refused("init_required", INIT_FIRST)
            await self._handle(await self._redacted(messages.parse({**document, "type": kind})))
        except Refused as refused:
            self._refuse(refused.code, refused.message, document, refused.retry)
        except StoreError as error:
            self._refuse("storage", str(error), document, True)
        except ValueError as error:  # of messages.parse
            self._refuse("invalid", str(error), document)

    def _object(self, frame: str | None) -> dict[str, Any]:
        """The JSON object in a frame. Raises Refused."""
        if frame is None:
            raise Refused("not_text", "Send JSON in text frames.")
        limit = self._hub.limits.chat_message_size
        if len(frame) > limit or (len(frame) * 4 > limit and len(frame.encode()) > limit):
            raise Refused("too_large", f"A message may have at most {limit} bytes.")
        try:
            document = json.loads(frame)
            if "\\u" in frame:
                # Half a surrogate pair can be escaped in JSON, and written nowhere else.
                json.dumps(document, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            raise Refused("bad_json", "This is not valid JSON.") from None
        if not isinstance(document, dict):
            raise Refused("bad_json", "Send a JSON object.")
        return document

    async def _redacted(self, message: messages.Client) -> messages.Client:
        """The message, its texts redacted: nothing goes further as a client sent it.

        Redacting takes longer than all other checks, so it comes after them.
        """
        texts = {name: value for name, value in message if isinstance(value, str) and name != "type"}
        return message.model_copy(update={name: await self._hub.redacted(value) for name, value in texts.items()})

    def _refuse(self, code: Code, message: str, document: Any, retry: bool | None = None) -> None:
        own = document.get("id") if isinstance(document, dict) else None
        if self.session is None and code in NO_MESSAGE:
            # Whatever else is wrong with it, it is no `init`.
            code, message = "init_required", f"{INIT_FIRST} {message}"
        self.send(
            Error(
                code=code,
                message=message,
                timestamp=now(),
                session_id=self.session.id if self.session else None,
                id=own if isinstance(own, str) and len(own) <= 128 else None,
                retry=retry,
            )
        )

    async def _handle(self, message: messages.Client) -> None:
        if isinstance(message, Init):
            await self._begin(message)
            return
        session = self.session
        if session is None:
            raise Refused("init_required", INIT_FIRST)
        match message:
            case Chat():
                if not message.text:
                    raise Refused("empty", 'The message has no text: {"type": "chat", "content": "..."}.')
                await session.say(self, message.text, message.id)
            case Cancel():
                if not session.cancel(message.turn_id, message.id):
                    raise Refused("nothing_to_cancel", "No such turn is running or waiting.")
            case Ping():
                self.send(Pong(timestamp=now(), id=message.id))
            case GetTranscript():
                lines, more = await self._hub.store.history(
                    session.id, before=message.before, limit=message.limit, size=PAGE
                )
                found = messages.TranscriptPage(
                    session_id=session.id, messages=entries(lines), more=more, id=message.id
                )
                await self.send_long(found)
            case Command():
                self.send(Info(message=NO_COMMANDS, timestamp=now()))

    async def _begin(self, message: Init) -> None:
        """Follow a new session, or one that exists, which only its id opens; without an id, this connection's own."""
        before = self.session
        wanted = message.session_id or (before.id if before else None)
        resumed = wanted is not None and (wanted in self._hub.live or await self._hub.store.exists(wanted))
        session_id = wanted if resumed and wanted else self._id if before is None else uuid.uuid4().hex
        # From here on nothing is missed: what is published meanwhile comes after `initialized`.
        self._held = []
        if before is not None and before.id != session_id:
            before.leave(self)
        self.session = session = self._follow(session_id, message.workspace_path)
        try:
            lines = await self._hub.store.recent(session_id, limit=LAST, size=PAGE)
        except StoreError:
            if session is not before:
                self._held = []
                session.leave(self)
                self.session = self._follow(before.id, before.workspace) if before else None
            self._release()
            raise
        session.saw(lines[-1].seq if lines else 0)
        self.streams = message.streams
        first = messages.Initialized(
            session_id=session_id,
            resumed=resumed,
            workspace_path=message.workspace_path,
            message=RESUMED if resumed else BEGUN,
            messages=entries(lines),
        )
        if lines:
            await self.send_long(first)
        else:
            self.send(first)
        self._release()
        self._hub.expect_questions()
        if resumed:
            await session.unfinished.recover()

    def _follow(self, session_id: str, workspace: str | None) -> Session:
        session = self._hub.session(session_id, workspace or None)
        session.followers.add(self)
        return session

    def _release(self) -> None:
        """Send what was held back."""
        held, self._held = self._held, None
        for text in held or ():
            self.outbox.push(text)


def entries(lines: list[Line]) -> list[Entry]:
    """A transcript's lines as messages have them."""
    return [
        Entry(
            seq=line.seq,
            turn_id=line.turn_id,
            role=line.role,
            content=line.content,
            timestamp=line.timestamp,
            id=line.id,
            code=line.code,
            retry=line.retry,
            retry_after=line.retry_after,
        )
        for line in lines
    ]
