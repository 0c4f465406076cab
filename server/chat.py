"""/ws/chat: the way in. Light, because every start imports it; what it leads to is imported when it is needed.

The protocol is in messages.py and docs/chat.md, a connection in connections.py, a session's turns in turns.py, what
is kept in sessions.py, and who answers in agent.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from starlette.routing import WebSocketRoute
from starlette.types import Receive, Scope, Send

from preflight.web.instance import Instance

if TYPE_CHECKING:
    from preflight.web.history import Past
    from preflight.web.snapshot import Snapshot
    from server.hub import Hub

log = logging.getLogger(__name__)
WARM_AFTER = 0.5  # seconds of serving, so that a start's own first answers do not compete with the import


class Chat:
    """The chat of one application, in its state as ``connections``."""

    def __init__(self, observe_turn: Callable[[float], None] = lambda _seconds: None) -> None:
        """``observe_turn`` is told how long each turn took, in seconds."""
        self.rerun: Callable[[], Awaitable[dict[str, Any]]] | None = None
        """Starts a re-run of the suite; None where the server has none. Set before the first connection."""
        self._observe_turn = observe_turn
        self._known: tuple[Instance, Snapshot, Past] | None = None
        self._hub: Hub | None = None

    @property
    def open(self) -> int:
        """Connections."""
        return len(self._hub.connections) if self._hub else 0

    @property
    def sessions(self) -> int:
        """Sessions that a connection follows, or that a turn runs in."""
        return len(self._hub.live) if self._hub else 0

    @property
    def hub(self) -> Hub:
        """Made when first asked for, in the event loop."""
        if self._hub is None:
            from server.hub import Hub

            if self._known is None:
                raise RuntimeError("the application has not started")
            self._hub = Hub(*self._known, self.rerun, self._observe_turn)
        return self._hub

    @asynccontextmanager
    async def running(self, instance: Instance, snapshot: Snapshot, past: Past) -> AsyncIterator[None]:
        """For as long as the application serves. The agent is imported in the background soon after its start.

        ``snapshot`` and ``past``: the application's looks at what has been published, now and before.
        """
        self._known = instance, snapshot, past
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
            await self.hub.agent()
        except Exception as error:  # noqa: BLE001  # the first message tries again, and tells its sender
            log.warning("the agent is not ready: %s: %s", type(error).__name__, error)


class Endpoint:
    """An ASGI application and no function: Starlette's wrapping of one costs a connection memory."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from server.connections import serve

        await serve(scope["app"].state.connections.hub, scope, receive, send)


routes = [WebSocketRoute("/ws/chat", Endpoint())]
