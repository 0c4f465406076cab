"""The connections of one server together: how many there may be, which make room for others, and which are too slow."""

from __future__ import annotations

import logging
from collections import Counter, deque
from typing import Any, NamedTuple, Protocol

from uvicorn.server import ServerState

from preflight.processes import openfiles
from preflight.processes.openfiles import RESERVE
from preflight.settings.model import Settings

RATE = 8 * 1024  # bytes a second that a client has to send of a body, or to take of an answer, after its first delay
PATIENCE = 0.1  # seconds until room is looked for again if there was none
EVERY = 60.0  # seconds between two lines about clients that were refused

log = logging.getLogger("uvicorn.error")


class Limits(NamedTuple):
    """What a client may do; see the settings of these names."""

    connections: int
    request_size: int  # bytes; 0: no limit
    request_timeout: float  # seconds
    websocket_controls: int  # a minute
    websocket_fragments: int  # a minute
    health: tuple[str, ...] = ("/health",)
    """The beginnings of the paths that are answered when there is no room for one more connection."""

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """The settings' limits, with no more connections than this process may have open files."""
        connections = openfiles.connections(settings, openfiles.raise_limit(settings))
        return cls(
            connections,
            settings.request_size,
            settings.request_timeout,
            settings.websocket_controls,
            settings.websocket_fragments,
            ("/health", f"{settings.prefix}/health"),
        )


class Newcomer(Protocol):
    """What this module knows about a new connection: HTTP's, or one that is still to be encrypted."""

    number: int
    surplus: bool

    @property
    def transport(self) -> Any:
        """What is closed to end the connection."""


class State(ServerState):
    """What the connections of one server share, their limits among it."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.limits = limits
        self.refused: Counter[str] = Counter()
        """Clients that were refused or cut off since the last line in the log, by reason."""
        self.flushing: dict[Any, tuple[float, int]] = {}
        """Connections whose client has an answer to take: since when, and how many bytes there were then."""
        self._admitted = 0
        self._full_until = 0.0
        self._surplus: deque[Newcomer] = deque()
        self._said_at = float("-inf")

    def admit(self, connection: Newcomer, now: float) -> None:
        """Make room for a new connection, or mark it as one too many."""
        self._admitted += 1
        connection.number = self._admitted
        if len(self.connections) <= self.limits.connections:
            return
        if now >= self._full_until and self._make_room(connection, now):
            return
        self.refused["over the limit of connections"] += 1
        if len(self._surplus) == RESERVE:
            self._surplus.popleft().transport.abort()
        connection.surplus = True
        self._surplus.append(connection)

    def _make_room(self, newcomer: Newcomer, now: float) -> bool:
        """Close idle connections, oldest first, then those that dawdle over a head; returns whether there were any."""
        connections: set[Any] = self.connections
        waiting = [
            connection
            for connection in connections
            if connection.dispensable and not connection.surplus and connection is not newcomer
        ]
        waiting.sort(key=lambda connection: (connection.reading, connection.since, connection.number))
        # Several at once, so that in a flood not every new connection searches all the others.
        count = len(self.connections) - self.limits.connections + self.limits.connections // 16
        for connection in waiting[:count]:
            self.refused["closed to make room"] += 1
            self.connections.discard(connection)
            connection.transport.abort()  # behind TLS, a close would wait for the client's
        if not waiting:
            self._full_until = now + PATIENCE
        return bool(waiting)

    def forget(self, connection: Newcomer) -> None:
        """A connection has gone."""
        if connection.surplus and connection in self._surplus:
            self._surplus.remove(connection)

    def sweep(self, now: float) -> None:
        """Close what has run past its deadline; call it about twice a second."""
        flushing = {}
        connection: Any  # Http, WebSocket or Handshake
        for connection in list(self.connections):
            transport = connection.transport
            if connection.flushing:
                left = transport.get_write_buffer_size()
                since, size = flushing[connection] = self.flushing.get(connection, (now, left))
                if now - since > self.limits.request_timeout + (size - left) / RATE:
                    if size:  # otherwise it has taken everything, and has not answered the end of TLS
                        self.refused["answer not taken in time"] += 1
                    transport.abort()
            else:
                connection.check(now)
        self.flushing = flushing
        if self.refused and now - self._said_at >= EVERY:
            # One line a minute however many they are: a log is no place to be flooded, either.
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.refused.most_common())
            log.warning("Clients refused or cut off: %s", reasons)
            self._said_at = now
            self.refused.clear()
