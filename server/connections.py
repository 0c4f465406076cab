"""One WebSocket connection: frames in, checked and counted; messages out, queued and bounded."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import deque
from typing import TYPE_CHECKING, Any

from starlette.types import Receive, Scope, Send

from preflight import __version__
from preflight.instance import SERVICE_RESTART
from server import messages
from server.database import StoreError
from server.health import ARCHITECTURE
from server.messages import LAST, TYPES, Cancel, Chat, Code, Connected, Entry, Error, GetHistory, Init, Ping, Pong
from server.sessions import Line
from server.turns import Refused, Session, now

if TYPE_CHECKING:
    from server.hub import Hub

OUTBOX = 512 * 1024  # characters that wait for a client that does not read; then it is dropped
PAGE = 128 * 1024  # characters of messages in `initialized` and in `history`
NO_MESSAGE: frozenset[Code] = frozenset({"not_text", "too_large", "bad_json", "unknown_type"})
INIT_FIRST = 'Send {"type": "init"} first.'
BURST = 5.0  # seconds' worth of messages that may come at once


async def serve(hub: Hub, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one connection until it closes."""
    await receive()  # websocket.connect
    # A browser that offered subprotocols (its token is one) ends the connection if none is chosen.
    chosen = messages.PROTOCOL if messages.PROTOCOL in scope.get("subprotocols", ()) else None
    await send({"type": "websocket.accept", "subprotocol": chosen})
    if hub.instance.draining or len(hub.connections) >= hub.settings.chat_connections:
        code, reason = SERVICE_RESTART if hub.instance.draining else (1013, "too many connections; try again later")
        await send({"type": "websocket.close", "code": code, "reason": reason})
        return
    abort = scope.get("extensions", {}).get("preflight.abort", {}).get("abort")
    connection = Connection(hub, send, abort)
    hub.connections.add(connection)
    try:
        await connection.run(receive)
    finally:
        hub.connections.discard(connection)
        connection.gone()


class Connection:
    """A client."""

    __slots__ = (
        "_abort", "_budget", "_closing", "_held", "_hub", "_id", "_outbox", "_send", "_size", "_task", "_then",
        "pump", "session",
    )  # fmt: skip

    def __init__(self, hub: Hub, send: Send, abort: Any) -> None:
        self._hub = hub
        self._send = send
        self._abort = abort
        self._id = uuid.uuid4().hex  # the session's, unless another one is resumed
        self.session: Session | None = None
        self._outbox: deque[str] | None = None
        self._size = 0
        self._closing: tuple[int, str] | None = None
        self._held: list[str] | None = None  # what came for a follower before it was told that it is one
        self._task = asyncio.current_task()
        self.pump: asyncio.Task[None] | None = None
        self._then = asyncio.get_running_loop().time()
        self._budget = hub.settings.chat_rate * BURST

    # Out.

    def send(self, message: messages.Server) -> None:
        """Send to this client alone."""
        self._queue(self._hub.render(message))

    def push(self, text: str) -> None:
        """Send what was rendered for all who follow a session."""
        if self._held is not None:
            self._held.append(text)
        else:
            self._queue(text)

    def _queue(self, text: str) -> None:
        if self._closing is not None:
            return
        if self._outbox is None:
            self._outbox = deque()
        elif self._outbox and self._size + len(text) > OUTBOX:
            self._drop()
            return
        self._outbox.append(text)
        self._size += len(text)
        if self.pump is None:
            self.pump = asyncio.create_task(self._deliver())

    async def _deliver(self) -> None:
        try:
            while self._outbox:
                text = self._outbox.popleft()
                self._size -= len(text)
                await self._send({"type": "websocket.send", "text": text})
            self._outbox = None
            if self._closing is not None:
                code, reason = self._closing
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except (OSError, RuntimeError):
            # It has gone, or closed while this was on its way; receive() says so, too.
            self._outbox = None
        finally:
            self.pump = None

    def close(self, code: int, reason: str) -> None:
        """Close after what is queued has been sent."""
        if self._closing is None:
            self._closing = (code, reason)
            if self.pump is None:
                self.pump = asyncio.create_task(self._deliver())

    def _drop(self) -> None:
        """The client does not read: end it, and what waits for it with it. It can resume, and loses nothing."""
        self._closing = (1008, "not reading")
        self._outbox = None
        if self.pump is not None:
            self.pump.cancel()
        if self._abort is not None:
            self._abort()
        elif self._task is not None:
            self._task.cancel()

    def gone(self) -> None:
        """The connection is over."""
        self._closing = self._closing or (1000, "")
        if self.pump is not None:
            self.pump.cancel()
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
            if self._closing is not None:
                continue
            if not self._affordable():
                self.close(1008, "too many messages; slow down")
                continue
            await self._take(event.get("text"))

    def _affordable(self) -> bool:
        """Whether this frame is within the rate."""
        rate = self._hub.settings.chat_rate
        at = asyncio.get_running_loop().time()
        self._budget = min(rate * BURST, self._budget + (at - self._then) * rate) - 1
        self._then = at
        return self._budget >= 0

    async def _take(self, frame: str | None) -> None:
        document: Any = None
        try:
            document = self._object(frame)
            kind = document.get("type")
            if not isinstance(kind, str) or kind not in TYPES:
                raise Refused("unknown_type", f"Send one of these types: {', '.join(sorted(TYPES))}.")
            if self.session is None and kind != "init":
                raise Refused("init_required", INIT_FIRST)
            await self._handle(messages.parse(document))
        except Refused as refused:
            self._refuse(refused.code, refused.message, document, refused.retry)
        except StoreError as error:
            self._refuse("storage", str(error), document, True)
        except ValueError as error:  # of messages.parse
            self._refuse("invalid", str(error), document)

    def _object(self, frame: str | None) -> dict[str, Any]:
        """The JSON object in a frame, its texts redacted: nothing goes further as a client sent it. Raises Refused."""
        if frame is None:
            raise Refused("not_text", "Send JSON in text frames.")
        limit = self._hub.settings.chat_message_size
        if len(frame) > limit or (len(frame) * 4 > limit and len(frame.encode()) > limit):
            raise Refused("too_large", f"A message may have {limit} bytes.")
        try:
            document = json.loads(frame)
            if "\\u" in frame:
                # Half a surrogate pair can be escaped in JSON, and written nowhere else.
                json.dumps(document, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            raise Refused("bad_json", "This is not valid JSON.") from None
        if not isinstance(document, dict):
            raise Refused("bad_json", "Send a JSON object.")
        redact = self._hub.redactor.text
        return {name: redact(value) if isinstance(value, str) else value for name, value in document.items()}

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
                    raise Refused("empty", 'There is no text in it: {"type": "chat", "content": "..."}.')
                await session.say(self, message.text, message.id)
            case Cancel():
                if not session.cancel(message.turn_id, message.id):
                    raise Refused("nothing_to_cancel", "No such turn runs or waits.")
            case Ping():
                self.send(Pong(timestamp=now(), id=message.id))
            case GetHistory():
                lines, more = await self._hub.store.history(
                    session.id, before=message.before, limit=message.limit, size=PAGE
                )
                self.send(messages.History(session_id=session.id, messages=entries(lines), more=more, id=message.id))

    async def _begin(self, message: Init) -> None:
        """Follow a new session, or one that exists; only its id opens it."""
        if self.session is not None:
            raise Refused("already_initialized", "This connection follows a session already; open another one.")
        wanted = message.session_id
        resumed = bool(wanted) and (wanted in self._hub.live or await self._hub.store.exists(wanted or ""))
        session_id = wanted if resumed and wanted else self._id
        # From here on nothing is missed: what is published meanwhile comes after `initialized`.
        self._held = []
        session = self._hub.session(session_id, message.workspace_path or None)
        session.followers.add(self)
        try:
            lines = await self._hub.store.recent(session_id, limit=LAST, size=PAGE)
        except StoreError:
            self._held = None
            session.leave(self)
            raise
        self.session = session
        held, self._held = self._held, None
        self.send(messages.Initialized(session_id=session_id, resumed=resumed, messages=entries(lines)))
        for text in held:
            self._queue(text)
        if resumed:
            await session.recover()


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
