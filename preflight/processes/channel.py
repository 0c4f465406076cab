"""Messages between the launcher and its children: one JSON object per line, with descriptors if needed."""

from __future__ import annotations

import array
import json
import os
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

LIMIT = 64 * 1024 * 1024  # bytes a message; nobody who keeps to the protocol comes near
PATIENCE = 10.0  # seconds that a child which does not read can keep us waiting
MOST_DESCRIPTORS = 16  # that come with a message
LOOKS = 10  # parts of that patience: the sender wakes up after each
_INT = array.array("i").itemsize
_ROOM = MOST_DESCRIPTORS + 1  # one more tells that there were too many


class ChannelError(OSError):
    """The other side does not keep to the protocol."""


class Message(NamedTuple):
    """One message: what it is about, its data, and the open descriptors that came with it."""

    kind: str
    data: dict[str, Any] = {}  # noqa: RUF012  # nobody writes into it
    descriptors: tuple[int, ...] = ()


class Channel:
    """One end of a connected Unix stream socket.

    Sending is safe from several threads. A channel whose other end has closed raises OSError on
    :meth:`send` and gives None from :meth:`receive`.
    """

    def __init__(
        self,
        sock: socket.socket,
        patience: float | None = None,
        *,
        limit: int | None = None,
        descriptors: int = MOST_DESCRIPTORS,
    ) -> None:
        """``patience``: seconds that one message may take to be sent; None: as long as it likes.

        A message from the other side may have ``limit`` bytes (LIMIT by default) and so many ``descriptors``; with 0,
        descriptors that come are closed at once, and messages have none.
        """
        self._socket = sock
        self._limit = limit
        self._most = descriptors
        self._patience = patience
        if patience is not None:
            look = patience / LOOKS
            timeval = struct.pack("ll", int(look), int(look % 1 * 1e6))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
        self._sending = threading.Lock()
        self._buffer = bytearray()
        self._descriptors: deque[int] = deque()
        self._messages: deque[Message] = deque()
        self.closed = False
        """Whether the other end has closed (known once it was read from)."""

    @classmethod
    def pair(cls, *, descriptors: int = MOST_DESCRIPTORS) -> tuple[Channel, socket.socket]:
        """Our end, and the socket of the end that a child inherits. ``descriptors``: as in the constructor."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(ours, PATIENCE, descriptors=descriptors), theirs

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, kind: str, descriptors: Iterable[int] = (), **data: object) -> None:
        """Send one message; ``descriptors`` are duplicated into the receiving process.

        Raises OSError if nobody hears it. A child that does not read hears nothing any more from then on: half a
        message may have reached it, and it finds its channel closed behind that.
        """
        passed = list(descriptors)
        message = {"kind": kind, "descriptors": len(passed), "data": data}
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        with self._sending:
            until = time.monotonic() + self._patience if self._patience is not None else None
            rest = memoryview(line)
            while rest:
                try:
                    if passed:
                        # They travel with the first byte; the rest of the line follows as usual.
                        sent = socket.send_fds(self._socket, [rest[:1]], passed)
                        passed = []
                    else:
                        sent = self._socket.send(rest)
                    rest = rest[sent:]
                except BlockingIOError:
                    pass  # nothing could be sent for the length of a look
                if rest and until is not None and time.monotonic() > until:
                    self._socket.shutdown(socket.SHUT_WR)
                    raise ChannelError("the other side does not read")

    def tell(self, kind: str, descriptors: Iterable[int] = (), **data: object) -> None:
        """Send one message; if the child has died, which the next look at it shows, nobody hears it."""
        try:
            self.send(kind, descriptors, **data)
        except OSError:
            pass

    def offer(self, kind: str, patience: float = 0.0, **data: object) -> bool:
        """Send a short message if that takes no waiting; returns whether it was sent.

        For messages that nobody misses: a suspended receiver must not hold up a sender that has other things to do.
        ``patience``: seconds that another thread's message may take before this one.
        """
        line = json.dumps({"kind": kind, "descriptors": 0, "data": data}, separators=(",", ":")).encode() + b"\n"
        if not self._sending.acquire(timeout=patience):
            return False
        try:
            poll = select.poll()
            poll.register(self._socket, select.POLLOUT)
            if not poll.poll(0):
                return False
            self._socket.sendall(line)  # a socket that can be written to has room for so little
        finally:
            self._sending.release()
        return True

    def receive(self, timeout: float | None = None) -> Message | None:
        """The next message, or None when the other end has closed.

        Raises TimeoutError if it has not come whole within ``timeout`` seconds, ChannelError for what is no message.
        """
        until = time.monotonic() + timeout if timeout is not None else None
        while not self._messages:
            if self.closed:
                return None
            # Counted from the beginning: a sender of single bytes does not get the time anew for each of them.
            left = until - time.monotonic() if until is not None else None
            if left is not None and left <= 0:
                raise TimeoutError("timed out")
            self._socket.settimeout(left)
            self._read()
        self._socket.settimeout(timeout)
        return self._messages.popleft()

    def waits(self) -> bool:
        """Whether there is something to read; that the other end has closed is something, until it was read."""
        if self.closed:
            return False
        poll = select.poll()  # select() knows no descriptors beyond 1023, and a server has more
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    @property
    def expected(self) -> bool:
        """Whether more is on its way: something to read, or the rest of a message."""
        return bool(self._buffer) or self.waits()

    def arrived(self) -> list[Message]:
        """The messages that can be read now, for a caller whose selector says that there is something."""
        self._read()
        messages = list(self._messages)
        self._messages.clear()
        return messages

    def _read(self) -> None:
        try:
            data, ancillary, flags, _address = self._socket.recvmsg(
                1 << 16, socket.CMSG_SPACE(_ROOM * _INT), getattr(socket, "MSG_CMSG_CLOEXEC", 0)
            )
        except ConnectionResetError:
            data, ancillary, flags = b"", [], 0
        for level, kind, packed in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(packed[: len(packed) - len(packed) % _INT])
                for descriptor in received:
                    os.set_inheritable(descriptor, False)
                    self._descriptors.append(descriptor)
        if not self._most:
            self._close_descriptors()
        elif flags & socket.MSG_CTRUNC:
            self._close_descriptors()
            raise ChannelError(f"more than {self._most} descriptors")
        if not data:
            self.closed = True
            return
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n") if b"\n" in data else (self._buffer,)
        limit = LIMIT if self._limit is None else self._limit
        if len(rest) > limit or any(len(line) > limit for line in lines):
            self._buffer.clear()
            raise ChannelError(f"a message of more than {limit} bytes")
        if lines:  # else nothing is copied: taking a long message apart again and again would take minutes
            self._buffer = bytearray(rest)
            self._messages.extend(self._decode(bytes(line)) for line in lines)
        if not self._buffer:
            self._close_descriptors()  # no message that has come has announced them, and none is on its way
        elif len(self._descriptors) > self._most:
            self._close_descriptors()
            raise ChannelError(f"more than {self._most} descriptors")

    def _decode(self, line: bytes) -> Message:
        try:
            message = json.loads(line)
            kind, data, count = message["kind"], message["data"], message["descriptors"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ChannelError("something that is not a message") from None
        if not isinstance(kind, str) or not isinstance(data, dict) or not isinstance(count, int):
            raise ChannelError("something that is not a message")
        if not self._most:
            return Message(kind, data)
        if not 0 <= count <= len(self._descriptors):
            raise ChannelError("something that is not a message")
        return Message(kind, data, tuple(self._descriptors.popleft() for _ in range(count)))

    def _close_descriptors(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.popleft())

    def close(self) -> None:
        """Close it, and the received descriptors that nobody has taken."""
        self._socket.close()
        self._close_descriptors()
        while self._messages:
            for descriptor in self._messages.popleft().descriptors:
                os.close(descriptor)
