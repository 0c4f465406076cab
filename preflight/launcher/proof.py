"""One request to a worker that is to replace a server, and has to answer before the old server may end.

The request goes to this worker alone, over a connection that the launcher makes and hands to it. On the listening
socket, which both servers have, nobody could tell which of them has answered.
"""

from __future__ import annotations

import re
import socket

from preflight import __version__
from preflight.settings.model import Settings
from preflight.text import address

CONNECT = 1.0  # seconds; both ends are ours
LONGEST_HEAD = 64 * 1024  # bytes that are read until there is a status
STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])[ \r\n]")
INTERIM = re.compile(rb"\AHTTP/1\.[01] 1[0-9][0-9][^\n]*\n(?:[^\r\n][^\n]*\n)*\r?\n")


class Proof:
    """One request, from the moment it was sent. Call :meth:`read` whenever there is something to read."""

    def __init__(self, settings: Settings, now: float) -> None:
        self.path = settings.readiness_path
        self._within = settings.ready_timeout
        self._deadline = now + settings.ready_timeout
        self._socket, self.theirs = connection()
        """The worker's end, to be closed once the worker has been given it."""
        self._heard = b""
        self._status: int | None = None
        self._hung_up = False
        self._socket.sendall(_request(settings, self.path))
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> None:
        """Read what has arrived."""
        try:
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._heard = INTERIM.sub(b"", self._heard + data, count=1)
        found = STATUS.match(self._heard)
        if found is not None and not found[1].startswith(b"1"):
            self._status = int(found[1])
        elif not data or len(self._heard) > LONGEST_HEAD:
            self._hung_up = True

    @property
    def given(self) -> bool:
        """Whether the worker has answered with a status below 500."""
        return self._status is not None and self._status < 500

    @property
    def is_not_ready(self) -> bool:
        """Whether the worker has answered that it is not available yet (503), as while it warms up."""
        return self._status == 503

    def problem(self, now: float) -> str:
        """What came instead of an answer below 500; empty while one may still come."""
        if self._status is not None:
            return f"answered with {self._status}" if self._status >= 500 else ""
        if self._hung_up:
            return "closed the connection without an answer in HTTP"
        return f"gave no answer within {self._within:g} s" if now > self._deadline else ""

    def close(self) -> None:
        self._socket.close()
        self.theirs.close()


def connection() -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection on this machine, which no other process has open.

    A TCP connection if possible, because applications look at their client's address; else a pair of Unix sockets.
    """
    for host in ("127.0.0.1", "::1"):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            with socket.create_server((host, 0), family=family, backlog=1) as listener:
                listener.settimeout(CONNECT)
                ours = socket.create_connection(listener.getsockname()[:2], CONNECT)
                try:
                    theirs, peer = listener.accept()
                    while peer != ours.getsockname():  # somebody else was quicker: not a client of ours
                        theirs.close()
                        theirs, peer = listener.accept()
                except OSError:
                    ours.close()
                    raise
                return ours, theirs
        except OSError:
            continue
    return socket.socketpair()


def _request(settings: Settings, path: str) -> bytes:
    # A wildcard address is not the name of a host.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {address(host if host.isascii() else 'localhost', settings.port)}",
        f"User-Agent: preflight/{__version__} (readiness)",
        "Accept: */*",
        "Connection: close",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")
