"""/ws/diagnostics: those who follow the diagnostics live, re-runs check by check. The protocol is in docs/live.md.

What is sent is rendered once for all, and news wait for each other a moment: a suite says forty things within a few
hundredths of a second, and whoever follows need not wake up for each of them. Nobody is waited for: who does not
read is dropped, and may come again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.routing import WebSocketRoute
from starlette.types import Receive, Scope, Send

from preflight.instance import SERVICE_RESTART, Instance
from server.messages import PROTOCOL
from server.reruns import Message, Reruns

FOLLOWERS = 200  # at once; one more is closed with 1013
OUTBOX = 4 * 1024 * 1024  # characters that wait for a follower who does not read
FRAME = 1024  # characters of a message from a follower
RATE, BURST = 5.0, 50.0  # messages a second from a follower, and at once; then 1008
GATHER = 0.02  # seconds from a piece of news until it is sent, with all that came meanwhile
LOOK = 1.0  # seconds between two looks at whether another process has published a report


class Followers:
    """All of one application. ``document`` makes what GET /diagnostics answers; ``stamp`` changes whenever that does.

    In the event loop only.
    """

    def __init__(
        self, instance: Instance, reruns: Reruns, document: Callable[[], Message], stamp: Callable[[], object]
    ) -> None:
        self.instance = instance
        self._reruns = reruns
        self._document = document
        self._stamp = stamp
        self._shown: object = None  # the stamp of the last snapshot
        self._followers: set[Follower] = set()
        self._watch: asyncio.Task[None] | None = None
        self._news: list[Message] = []
        self._gathering: asyncio.TimerHandle | None = None
        reruns.listeners.append(self._tell)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """For as long as the application serves; a drain sends everybody to the next server."""
        draining = asyncio.create_task(self._drain())
        try:
            yield
        finally:
            draining.cancel()
            if self._watch is not None:
                self._watch.cancel()

    async def _drain(self) -> None:
        await self.instance.drained()
        self._deliver()
        for follower in list(self._followers):
            follower.close(*SERVICE_RESTART)

    @property
    def full(self) -> bool:
        """Whether there is no room for another one."""
        return len(self._followers) >= FOLLOWERS

    def join(self, follower: Follower) -> None:
        """From here on it misses nothing, and hears nothing twice: what is known now comes first."""
        self._deliver()
        self._followers.add(follower)
        follower.push(self._snapshot())
        if self._watch is None:
            self._watch = asyncio.create_task(self._look())

    def leave(self, follower: Follower) -> None:
        """It has gone."""
        self._followers.discard(follower)
        if not self._followers and self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _tell(self, message: Message) -> None:
        if not self._followers:
            return
        self._news.append(message)
        if self._gathering is None:
            self._gathering = asyncio.get_running_loop().call_later(GATHER, self._deliver)

    def _deliver(self) -> None:
        """Send the news, and after those of a run's end how everything is now."""
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        news, self._news = self._news, []
        for message in news:
            self._push(json.dumps(message, ensure_ascii=False))
        if any(message["type"] == "run_finished" for message in news):
            self._push(self._snapshot())

    def _push(self, text: str) -> None:
        for follower in list(self._followers):
            follower.push(text)

    def _snapshot(self) -> str:
        self._shown = self._stamp()
        last = self._reruns.last
        message = {
            "type": "snapshot",
            "diagnostics": self._document(),
            "run": last.document() if last is not None else None,
            "again_in": round(self._reruns.again_in, 3),
        }
        return json.dumps(message, ensure_ascii=False)

    async def _look(self) -> None:
        """While somebody follows: other processes publish reports as well."""
        while True:
            await asyncio.sleep(LOOK)
            if self._stamp() != self._shown:
                self._deliver()
                self._push(self._snapshot())


class Follower:
    """One connection: an outbox that is bounded, and a task that empties it."""

    def __init__(self, send: Send, abort: Callable[[], None] | None) -> None:
        self._send = send
        self._abort = abort
        self._task = asyncio.current_task()
        self._outbox: asyncio.Queue[str | tuple[int, str]] = asyncio.Queue()
        self._size = 0  # characters in the outbox
        self._closing = False
        self._then = asyncio.get_running_loop().time()
        self._budget = BURST
        self._pump = asyncio.create_task(self._deliver())

    def push(self, text: str) -> None:
        """Send this when its turn comes."""
        if self._closing:
            return
        if self._size and self._size + len(text) > OUTBOX:
            self._drop()
            return
        self._size += len(text)
        self._outbox.put_nowait(text)

    def close(self, code: int, reason: str) -> None:
        """Close after what waits has been sent."""
        if not self._closing:
            self._closing = True
            self._outbox.put_nowait((code, reason))

    async def _deliver(self) -> None:
        try:
            while isinstance(text := await self._outbox.get(), str):
                self._size -= len(text)
                await self._send({"type": "websocket.send", "text": text})
                await asyncio.sleep(0)  # news come in bunches: other requests get their turn in between
            code, reason = text
            await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except (OSError, RuntimeError):
            pass  # it has gone; receive() says so, too

    def _drop(self) -> None:
        self._closing = True
        self._pump.cancel()
        if self._abort is not None:
            self._abort()
        elif self._task is not None:
            self._task.cancel()

    def gone(self) -> None:
        """The connection is over."""
        self._closing = True
        self._pump.cancel()

    def take(self, frame: str | None) -> None:
        """A message from it: there is not much to say."""
        now = asyncio.get_running_loop().time()
        self._budget = min(BURST, self._budget + (now - self._then) * RATE) - 1
        self._then = now
        if self._budget < 0:
            self.close(1008, "too many messages; slow down")
        elif _kind(frame) == "ping":
            self.push('{"type": "pong"}')
        else:
            self.push('{"type": "error", "message": "Send {\\"type\\": \\"ping\\"} or nothing."}')


def _kind(frame: str | None) -> object:
    """The type of a JSON message, None for anything else."""
    if frame is None or len(frame) > FRAME:
        return None
    try:
        message: Any = json.loads(frame)
    except (ValueError, RecursionError):
        return None
    return message.get("type") if isinstance(message, dict) else None


class Endpoint:
    """The way in."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        followers: Followers = scope["app"].state.followers
        await receive()  # websocket.connect
        # A browser that offered subprotocols (its token is one) ends the connection if none is chosen.
        chosen = PROTOCOL if PROTOCOL in scope.get("subprotocols", ()) else None
        await send({"type": "websocket.accept", "subprotocol": chosen})
        if followers.instance.draining or followers.full:
            code, reason = SERVICE_RESTART if followers.instance.draining else (1013, "too many followers; try later")
            await send({"type": "websocket.close", "code": code, "reason": reason})
            return
        follower = Follower(send, scope.get("extensions", {}).get("preflight.abort", {}).get("abort"))
        followers.join(follower)
        try:
            while (event := await receive())["type"] != "websocket.disconnect":
                follower.take(event.get("text"))
        finally:
            followers.leave(follower)
            follower.gone()


routes = [WebSocketRoute("/ws/diagnostics", Endpoint())]
