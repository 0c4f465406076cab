"""What the service manager of this process is told (sd_notify(3)): ready, status, watchdog, the end.

A message is one datagram to the socket that NOTIFY_SOCKET names. Nothing waits for it: what cannot be sent at once is
sent with the next message, the newest value of each kind. Without that variable, nothing here does anything.

`feed` is called for the workers' signs of life and never by a timer, so systemd's watchdog fires when their event loops
stand still, and when this process does.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, MutableMapping

from preflight.text import first_line, printable

EXTENSION = 30.0  # seconds that a start asks for at a time, while it goes on
LONGEST = 24 * 3600.0  # seconds that are asked for at once where a setting sets no limit
VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class ServiceManager:
    """The service manager, if it wants to be told anything."""

    def __init__(self, address: str = "", watchdog: float = 0.0) -> None:
        """``address`` is a path, or an abstract name with ``@`` before it; ``watchdog`` is its period in seconds."""
        self.watchdog = watchdog if address else 0.0
        """Seconds without a sign of life after which systemd restarts this service; 0: its watchdog is off."""
        self.problem = ""
        """Why it cannot be told anything, for people; empty if no reason is known."""
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket: socket.socket | None = None
        self._unsent: dict[str, str] = {}
        self._status = ""
        self._granted = 0.0
        """The deadline of the start or the end, as it was told last, on the monotonic clock."""
        self._fed = 0.0
        """When the last reported sign of life was given, on the same clock."""
        self._waits = False
        """Whether its watchdog has another period, until a worker gives signs of life again."""

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> ServiceManager:
        """The service manager of this process. The variables are removed: nothing that it starts speaks in its name."""
        address, period, pid = (environ.pop(name, "") for name in VARIABLES)
        if not address.startswith(("/", "@")):
            return cls()
        meant = not pid or pid == str(os.getpid())
        return cls(address, int(period) / 1e6 if meant and period.isdecimal() else 0.0)

    def __bool__(self) -> bool:
        """Whether there is anybody to be told."""
        return bool(self._address)

    # What people read in `systemctl status`.

    def status(self, text: str) -> None:
        """Report the status, in one line; a repeated status is reported once."""
        if said := self._news(text):
            self._tell(**said)

    def ready(self, text: str) -> None:
        """The server answers: a service of ``Type=notify`` has started, with this status."""
        self._tell(READY="1", **self._news(text))

    def stopping(self, text: str, within: float) -> None:
        """The end has begun, with this status, and takes so many seconds at most."""
        self._tell(STOPPING="1", EXTEND_TIMEOUT_USEC=_microseconds(within), **self._news(text))

    def _news(self, text: str) -> dict[str, str]:
        """The message of a status; empty if it was the last one told."""
        line, before = printable(first_line(text)), self._status
        self._status = line
        return {"STATUS": line} if line != before else {}

    # Time.

    def goes_on(self) -> None:
        """A start, whose parts have deadlines of their own, goes on: call this whenever it was looked after."""
        if self and self._granted - time.monotonic() < EXTENSION / 2:
            self.allow(EXTENSION)
        else:
            self.flush()

    def allow(self, seconds: float) -> None:
        """Let a start, or the end, take so many seconds from now on, during which nothing else may be told."""
        seconds = min(seconds, LONGEST)
        until = time.monotonic() + seconds
        if until > self._granted:
            self._granted = until
            self._tell(EXTEND_TIMEOUT_USEC=_microseconds(seconds))

    # Its watchdog.

    def feed(self, signs: Iterable[float]) -> None:
        """Pass on that the workers live; ``signs``: when each that serves gave its last sign, on the monotonic clock.

        If one of them gives none, nothing is passed on.
        """
        if not self.watchdog:
            return
        oldest = min(signs, default=0.0)
        if oldest <= self._fed:
            self.flush()
            return
        self._fed = oldest
        if self._waits:
            self._waits = False
            self._unsent["WATCHDOG_USEC"] = _microseconds(self.watchdog)
        self._tell(WATCHDOG="1")

    def expect_none(self, within: float) -> None:
        """No worker gives signs of life before another one has started, which takes so many seconds at most."""
        if self.watchdog and within > self.watchdog:
            self._waits = True
            self._tell(WATCHDOG_USEC=_microseconds(min(within, LONGEST)))

    # The socket.

    def _tell(self, **words: str) -> None:
        if self:
            self._unsent |= words
            self.flush()

    def flush(self) -> None:
        """Try again to send what could not be sent at once."""
        if not self._unsent:
            return
        message = "\n".join(f"{name}={value}" for name, value in self._unsent.items())
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.sendto(message.encode(), socket.MSG_DONTWAIT, self._address)
        except BlockingIOError:
            return  # its queue is full
        except OSError as error:
            self.problem = f"systemd cannot be told anything: {error.strerror or error}"
        self._unsent.clear()

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _microseconds(seconds: float) -> str:
    return str(int(seconds * 1e6))
