"""/ws/chat: the entry point. Light, because every start imports it; the modules behind it are imported when needed.

The protocol is in messages.py and docs/chat.md, a connection in connections.py, a session's turns in turns.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.types import Receive, Scope, Send

if TYPE_CHECKING:
    from preflight.web.services import Services
    from server.chat.hub import Hub
    from server.chat.metrics import Histogram

log = logging.getLogger(__name__)
# Seconds of serving after which the agent is imported, unless a client has begun a session before: the first answers
# after a start do not compete with the import, and a server that is stopped again soon does without it.
WARM_AFTER = 3.0


class ChatService:
    """The chat of one application."""

    def __init__(self, turns: Histogram) -> None:
        """``turns`` is told how long each turn took, in seconds."""
        self._turns = turns
        self._services: Services | None = None
        self._hub: Hub | None = None

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._hub.connections) if self._hub else 0

    @property
    def sessions(self) -> int:
        """Sessions that a connection follows, or that a turn runs in."""
        return len(self._hub.live) if self._hub else 0

    @property
    def hub(self) -> Hub:
        """The hub, made when first asked for, in the event loop."""
        if self._hub is None:
            from server.chat.hub import Hub

            known = self._services
            if known is None:
                raise RuntimeError("the application has not started")
            rerun = known.reruns.for_agent
            self._hub = Hub(known.instance, known.snapshot, known.past, rerun, self._turns.observe)
        return self._hub

    @asynccontextmanager
    async def running(self, services: Services) -> AsyncIterator[None]:
        """For as long as the application serves. The agent is imported in the background; see `WARM_AFTER`."""
        self._services = services
        self._turns.count_on(services.instance.board)
        warming = asyncio.get_running_loop().create_task(self._warm())
        try:
            yield
        finally:
            warming.cancel()
            if self._hub is not None:
                await self._hub.close()

    async def _warm(self) -> None:
        await asyncio.sleep(WARM_AFTER)
        try:
            if self._services is not None:
                from server.sessions import opening

                await asyncio.to_thread(opening.load, self._services.instance.settings)
            await self.hub.agent()
        except Exception as error:  # noqa: BLE001  # the first message tries again, and tells its sender
            log.warning("the agent is not ready: %s: %s", type(error).__name__, error)


class ChatEndpoint:
    """An ASGI application, not a function: what Starlette wraps around a function costs each connection memory."""

    def __init__(self, chat: ChatService) -> None:
        self._chat = chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from server.chat.connections import serve

        await serve(self._chat.hub, scope, receive, send)
