"""/ws/diagnostics: clients that follow the diagnostics live, re-runs check by check. The protocol is in docs/live.md.

A message is rendered once for all followers, and messages are collected for a moment: a suite sends forty within a few
hundredths of a second, and a follower need not wake up for each of them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from preflight.web import projection
from preflight.web.instance import SERVICE_RESTART, Instance
from preflight.web.reruns import Message, Reruns
from preflight.web.snapshot import Snapshot
from preflight.web.websocket import POLICY_VIOLATION, Allowance, Outbox

FRAME = 1024  # characters: a longer message is no ping, and is not parsed
BURST = 10.0  # seconds' worth of messages that may come at once
GATHER = 0.02  # seconds from a piece of news until it is sent, with all that came meanwhile
LOOK = 1.0  # seconds between two looks at whether another process has published a report


class Followers:
    """All followers of one application. In the event loop only."""

    def __init__(self, instance: Instance, reruns: Reruns, snapshot: Snapshot) -> None:
        self.instance = instance
        self._reruns = reruns
        self._snapshot = snapshot
        self._shown: object = None  # the stamp of the last snapshot
        self._followers: set[Follower] = set()
        self._watch: asyncio.Task[None] | None = None
        self._news: list[Message] = []
        self._gathering: asyncio.TimerHandle | None = None
        reruns.listeners.append(self._tell)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve followers for as long as the application serves; a drain sends them to the next server."""
        draining = asyncio.create_task(self._drain())
        try:
            yield
        finally:
            draining.cancel()
            if self._watch is not None:
                self._watch.cancel()

    async def _drain(self) -> None:
        await self.instance.drained()
        self._flush()
        for follower in list(self._followers):
            follower.outbox.close(*SERVICE_RESTART)

    @property
    def full(self) -> bool:
        """Whether there is no room for another follower."""
        return len(self._followers) >= self.instance.settings.followers

    async def join(self, follower: Follower) -> None:
        """Send a follower the current state; from here on it misses nothing, and gets nothing twice."""
        await self._snapshot.look()
        self._flush()
        self._followers.add(follower)
        follower.outbox.push(self._known())
        if self._watch is None:
            self._watch = asyncio.create_task(self._look())

    def leave(self, follower: Follower) -> None:
        """Forget a follower that has gone."""
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

    def _flush(self) -> None:
        """Send everything now."""
        while self._news:
            self._deliver()

    def _deliver(self) -> None:
        """Send the news; a moment after the end of a run, send the whole state as well."""
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        news, self._news = self._news, []
        through = {message["check"]["title"] for message in news if message["type"] == "checked"}
        for message in news:
            if message["type"] == "snapshot":
                self._push(self._known())
            elif message["type"] != "checking" or message["title"] not in through:  # else it is no news any more
                self._push(json.dumps(message, ensure_ascii=False))
        if any(message["type"] == "run_finished" for message in news):
            self._tell({"type": "snapshot"})  # the largest message comes by itself: requests get their turn before it

    def _push(self, text: str) -> None:
        for follower in list(self._followers):
            follower.outbox.push(text)

    def _known(self) -> str:
        self._shown = projection.stamp(self._snapshot)
        last = self._reruns.last
        message = {
            "type": "snapshot",
            "diagnostics": projection.document(self._snapshot),
            "run": last.document() if last is not None else None,
            "again_in": round(self._reruns.again_in, 3),
        }
        return json.dumps(message, ensure_ascii=False)

    async def _look(self) -> None:
        """Look for reports of other processes, for as long as somebody follows."""
        while True:
            await asyncio.sleep(LOOK)
            await self._snapshot.look()
            if projection.stamp(self._snapshot) != self._shown:
                self._deliver()
                self._push(self._known())


class Follower:
    """One connection."""

    def __init__(self, outbox: Outbox, rate: float) -> None:
        """``rate``: messages a second that it may send."""
        self.outbox = outbox
        self._allowance = Allowance(rate, rate * BURST)

    def take(self, frame: str | None) -> None:
        """Answer a message from the client, which can only be a ping."""
        if not self._allowance.spend():
            self.outbox.close(POLICY_VIOLATION, "too many messages; slow down")
        elif _kind(frame) == "ping":
            self.outbox.push('{"type": "pong"}')
        else:
            self.outbox.push('{"type": "error", "message": "Send {\\"type\\": \\"ping\\"} or nothing."}')


def _kind(frame: str | None) -> object:
    """The type of a JSON message, None for anything else."""
    if frame is None or len(frame) > FRAME:
        return None
    try:
        message: Any = json.loads(frame)
    except (ValueError, RecursionError):
        return None
    return message.get("type") if isinstance(message, dict) else None
