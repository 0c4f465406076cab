"""Connections that are to be encrypted, from the moment in which they are accepted: each counts, and makes room.

asyncio's servers with TLS tell nothing of a connection before its handshake is over. No limit would see clients that
never finish theirs, until the process has as many files open as it may.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from preflight.worker import protocol
from preflight.worker.connections import State

if TYPE_CHECKING:
    import ssl

AT_ONCE = 16  # connections accepted in one turn of the event loop; in the next, it closes those that have to make room
FLUSH = 24 * 3600.0
"""Seconds that asyncio gives a closing connection whose client has not taken everything, the end of a long answer say:
longer than `State.sweep`, which looks at whether the client takes anything."""
PAUSE = 1.0  # seconds without accepting after an error, if no more files can be opened, say
_PASSING = frozenset(
    {
        errno.ECONNABORTED, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ENOPROTOOPT,
        errno.EOPNOTSUPP, errno.EPERM, errno.EPROTO,
    }
)  # fmt: skip
"""Errors of accept(2) about one connection, which has gone: the next one may be good."""

Begin = Callable[[socket.socket], object]


class Accepting:
    """Accepts the connections of one listening socket; uvicorn ends it like a server of asyncio's."""

    def __init__(self, sock: socket.socket, backlog: int, state: State, begin: Begin) -> None:
        """``begin`` is called with each connection, whose socket does not block."""
        self._sock = sock
        self._state = state
        self._begin = begin
        self._loop = asyncio.get_running_loop()
        self._listens = False
        self._pause: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        sock.listen(backlog)
        self._listen()

    def _listen(self) -> None:
        self._listens = True
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _peer = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _PASSING:
                    continue
                self._state.refused[f"not accepted: {error.strerror}"] += 1
                self.close()
                self._pause = self._loop.call_later(PAUSE, self._listen)
                return
            connection.setblocking(False)
            self._begin(connection)

    def close(self) -> None:
        """Accept no more. A second call does nothing, since the socket's number may be another's by then."""
        if self._pause is not None:
            self._pause.cancel()
        if self._listens:
            self._listens = False
            self._loop.remove_reader(self._sock.fileno())

    async def wait_closed(self) -> None:
        """Nothing is left to wait for: the connections are the server's."""


class Handshake:
    """One connection until it is encrypted; then another protocol has it."""

    # What others read of any connection: here nothing is asked yet, and no answer is owed.
    cycle = None
    dispensable = True
    flushing = False
    reading = protocol.NOTHING

    def __init__(
        self, sock: socket.socket, made: Callable[[], asyncio.Protocol], state: State, context: ssl.SSLContext
    ) -> None:
        """``made`` makes the protocol that has the connection afterwards."""
        self._sock: socket.socket | None = sock
        self._state = state
        self._loop = asyncio.get_running_loop()
        self.number = 0
        self.since = self._loop.time()
        self.surplus = False
        self._task = self._loop.create_task(self._encrypt(sock, made, context))
        self._task.add_done_callback(self._ended)
        state.connections.add(self)  # type: ignore[arg-type]  # uvicorn names its own protocols there
        state.admit(self, self.since)

    async def _encrypt(
        self, sock: socket.socket, made: Callable[[], asyncio.Protocol], context: ssl.SSLContext
    ) -> None:
        def encrypted() -> asyncio.Protocol:
            other = made()
            if isinstance(other, protocol.Http):
                other.on_made = lambda: self._made(other)
            return other

        self._sock = None  # a transport has it from now on
        await self._loop.connect_accepted_socket(
            encrypted,
            sock,
            ssl=context,
            ssl_handshake_timeout=self._state.limits.request_timeout,
            ssl_shutdown_timeout=FLUSH,
        )

    def _made(self, other: protocol.Http) -> None:
        _close_once(other.transport)
        self._leave()

    def _leave(self) -> None:
        """No longer count as a connection: it is another protocol's now, or has gone."""
        self._state.connections.discard(self)
        self._state.forget(self)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._leave()
        if self._sock is not None:
            self._sock.close()
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, OSError):  # a client that speaks no TLS, or has gone
            raise error

    @property
    def transport(self) -> Handshake:
        """What is closed to end the connection."""
        return self

    def abort(self) -> None:
        """Close the connection at once."""
        self._task.cancel()

    close = shutdown = abort

    def check(self, now: float) -> None:
        """Close a connection that is one too many after a moment; for others the handshake itself has a deadline."""
        if self.surplus and now - self.since > protocol.HURRY:
            self.abort()


def _close_once(transport: Any) -> None:
    """Let a further ``close()`` of a transport behind TLS do nothing.

    asyncio's forgets its connection then: nothing could end that any more, or tell what its client has to take.
    """
    close = transport.close

    def closed() -> None:
        if not transport.is_closing():
            close()

    with contextlib.suppress(AttributeError):  # uvloop's is written in C, and does not forget
        transport.close = closed
