"""One WebSocket, for the code that serves it: the handshake, the messages that wait, and limits on what comes.

Nobody is waited for: a client that does not read is dropped, and may come again.
"""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.types import Receive, Scope, Send

from preflight.web.instance import SERVICE_RESTART, Instance

PROTOCOL = "preflight.v1"  # the subprotocol, for clients that offer any
TRY_AGAIN_LATER = 1013
POLICY_VIOLATION = 1008


async def admitted(scope: Scope, receive: Receive, send: Send, instance: Instance, full: str) -> bool:
    """Open the connection; False if it had to be closed again at once.

    That is while the instance drains, or where ``full`` says why there is no room for it.
    """
    await receive()  # websocket.connect
    # A browser that offered subprotocols (its token is one) ends the connection if none is chosen.
    chosen = PROTOCOL if PROTOCOL in scope.get("subprotocols", ()) else None
    await send({"type": "websocket.accept", "subprotocol": chosen})
    if not instance.draining and not full:
        return True
    code, reason = SERVICE_RESTART if instance.draining else (TRY_AGAIN_LATER, full)
    await send({"type": "websocket.close", "code": code, "reason": reason})
    return False


class Outbox:
    """Messages on their way to a client, bounded. A task sends them; it is there for as long as something waits."""

    __slots__ = ("_abort", "_bound", "_closing", "_send", "_size", "_task", "_waiting", "pump")

    def __init__(self, scope: Scope, send: Send, bound: int) -> None:
        """``bound``: characters that may wait. Made in the task that serves the connection."""
        self._send = send
        self._bound = bound
        self._abort = scope.get("extensions", {}).get("preflight.abort", {}).get("abort")
        self._task = asyncio.current_task()
        self._waiting: deque[str] | None = None  # none while nothing waits: there are many connections
        self._size = 0
        self._closing: tuple[int, str] | None = None
        self.pump: asyncio.Task[None] | None = None

    @property
    def closing(self) -> bool:
        """Whether nothing more is taken."""
        return self._closing is not None

    def push(self, text: str) -> None:
        """Send this when its turn comes. A single message may be larger than the bound."""
        if self._closing is not None:
            return
        if self._waiting is None:
            self._waiting = deque()
        elif self._waiting and self._size + len(text) > self._bound:
            self._drop()
            return
        self._waiting.append(text)
        self._size += len(text)
        if self.pump is None:
            self.pump = asyncio.create_task(self._deliver())

    def close(self, code: int, reason: str) -> None:
        """Close the connection after what waits has been sent."""
        if self._closing is None:
            self._closing = (code, reason)
            if self.pump is None:
                self.pump = asyncio.create_task(self._deliver())

    def end(self) -> None:
        """End the sending, because the connection is over."""
        self._closing = self._closing or (1000, "")
        if self.pump is not None:
            self.pump.cancel()

    async def _deliver(self) -> None:
        try:
            while self._waiting:
                text = self._waiting.popleft()
                self._size -= len(text)
                await self._send({"type": "websocket.send", "text": text})
                if self._waiting:
                    await asyncio.sleep(0)  # messages come in bunches: others get their turn in between
            self._waiting = None
            if self._closing is not None:
                code, reason = self._closing
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except (OSError, RuntimeError):
            # It has gone, or closed while this was on its way; receive() says so, too.
            self._waiting = None
        finally:
            self.pump = None

    def _drop(self) -> None:
        """Cut off a client that does not read, and drop what waits for it."""
        self._closing = (POLICY_VIOLATION, "not reading")
        self._waiting = None
        if self.pump is not None:
            self.pump.cancel()
        if self._abort is not None:
            self._abort()
        elif self._task is not None:
            self._task.cancel()


class Allowance:
    """How many messages a client may send: ``rate`` a second, and ``burst`` of them at once."""

    __slots__ = ("_burst", "_left", "_rate", "_then")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = self._left = burst
        self._then = asyncio.get_running_loop().time()

    def spend(self) -> bool:
        """Count one message; whether it is within the allowance."""
        now = asyncio.get_running_loop().time()
        self._left = min(self._burst, self._left + (now - self._then) * self._rate) - 1
        self._then = now
        return self._left >= 0
