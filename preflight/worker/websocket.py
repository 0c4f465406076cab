"""A WebSocket as uvicorn's sans-I/O protocol speaks it, with limits on what a client may make of it.

Stock, that protocol looks at all frames of a read at once, answers every ping whether or not anybody reads the
answers, keeps the fragments of a message one by one, and waits for ever for the rest of it. Here a connection gets
a few frames a turn of the event loop, frames that carry nothing are counted, and what is begun has to be finished.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode

from preflight.web.instance import SERVICE_RESTART
from preflight.worker.connections import RATE, State

LINGER = 0.25  # seconds that a client gets to answer a close: unread messages would turn it into a reset
SLICE = 2048  # bytes that are looked at at once
TURN = 64  # frames of one connection, or a slice more, until all others have had their turn
MINUTE = 60.0  # seconds
MORSEL = 128  # bytes from which on a part of a message is not counted as a small one
NOTHING = memoryview(b"")
POLICY_VIOLATION = 1008
INVALID_DATA = 1007


class WebSocket(WebSocketsSansIOProtocol):
    """One connection.

    An application can drop a client that does not read (``preflight.abort``): ASGI's own close waits for it to read.
    """

    dispensable = False  # nobody can tell whether its client would miss it

    _unread: memoryview = NOTHING  # what has come, and has not been looked at yet; nothing is read meanwhile
    _turn: asyncio.Handle | None = None  # the turn in which that is looked at
    _deaf = False  # nothing that comes is looked at any more
    _joined: bytearray | None = None  # what there is of a message in several frames, from the second of them on
    _owed = b""  # the answer to the last ping, for a client that has not read what it was sent before
    _controls = _morsels = 0  # frames in this minute
    _minute = float("-inf")  # when it began
    _since = 0.0  # when the message or frame was begun whose rest has not come; 0 while there is none

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.server_state: State = kwargs["server_state"]

    @property
    def flushing(self) -> bool:
        """Whether its client has nothing but the close to take."""
        return self.transport.is_closing()

    # The handshake.

    def run_asgi(self) -> Coroutine[Any, Any, None]:
        self.scope["extensions"]["preflight.abort"] = {"abort": self.transport.abort}
        return super().run_asgi()

    def start_keepalive(self) -> None:
        """The handshake is over: its request and response need not be kept as long as the connection."""
        super().start_keepalive()
        del self.request, self.response

    def eof_received(self) -> None:
        if not self.handshake_complete:
            # Nobody waits for the handshake any more. The client left by itself, which the log need not tell.
            self.server_state.refused["handshake abandoned"] += 1
            self.handshake_complete = self.disconnected = True

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._deaf = True
        self._unread = NOTHING

    def _reject(self) -> None:
        """The handshake is invalid, or its headers are too long: send the answer that the library has, if any."""
        self.server_state.refused["bad handshake"] += 1
        self._deaf = self.handshake_complete = self.close_sent = True
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.close()

    # In.

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._unread = memoryview(bytes(self._unread) + data if self._unread else data)
        if self._turn is None:
            self._read()

    def _read(self) -> None:
        """Look at what has come, for a turn: the handshake, and after it as much as the application takes."""
        self._turn = None
        frames = 0
        while self._unread and not self._waiting:
            if frames >= TURN:
                self._turn = self.loop.call_soon(self._read)
                break
            part, self._unread = self._unread[:SLICE], self._unread[SLICE:]
            self.conn.receive_data(part)  # type: ignore[arg-type]  # it is appended to a bytearray
            if self.conn.parser_exc is not None:
                self.handle_parser_exception()
            elif self.conn.handshake_exc is not None and not self.conn.events:
                self._reject()
            else:
                frames += len(self.conn.events)
                self.handle_events()
            if self._deaf or self.transport.is_closing():
                self._deaf = True
                self._unread = NOTHING
                return
        self._note_unfinished()
        if self._unread:
            self.transport.pause_reading()
            return
        self._unread = NOTHING  # an empty slice would keep all of what has come
        if not self.read_paused:
            self.transport.resume_reading()

    @property
    def _waiting(self) -> bool:
        """Whether the application is to act first: accept the handshake, or take the messages that there are."""
        return self.read_paused or (self.handshake_initiated and not self.handshake_complete)

    def _go_on(self) -> None:
        """Read on, since the application has acted."""
        if self._turn is None and not self._waiting and not self.transport.is_closing():
            if self._unread:
                self._turn = self.loop.call_soon(self._read)
            else:
                self.transport.resume_reading()

    async def receive(self) -> Any:
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self._go_on()
        return message

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self.close_sent:
            self.handshake_complete = True  # stock does not set it after an answer in HTTP, and logs an error
        if self._unread:  # it may have been the handshake's answer, or a close, after which no message is taken
            self._go_on()

    def handle_events(self) -> None:
        """Handle the events of a slice; a client that sends too many empty frames is closed instead."""
        for event in self.conn.events:
            if isinstance(event, Frame) and not self._allows(event):
                self.conn.events.clear()
                self._close(POLICY_VIOLATION, "too many control frames or fragments")
                return
        came = bool(self.conn.events)
        super().handle_events()
        if came and not self.frames:
            self._since = 0.0  # what was begun has ended: a rest behind it is the beginning of something else

    def _allows(self, frame: Frame) -> bool:
        """Count a frame that carries nothing; returns whether it is within the limits of this minute."""
        if frame.opcode in (Opcode.PING, Opcode.PONG):
            controls, morsels = 1, 0
        elif frame.opcode is not Opcode.CLOSE and len(frame.data) < (1 if frame.fin else MORSEL):
            controls, morsels = 0, 1
        else:
            return True
        now = self.loop.time()
        if now - self._minute >= MINUTE:
            self._minute, self._controls, self._morsels = now, 0, 0
        self._controls += controls
        self._morsels += morsels
        limits = self.server_state.limits
        return self._controls <= limits.websocket_controls and self._morsels <= limits.websocket_fragments

    def handle_cont(self, event: Frame) -> None:
        # One buffer: as a list of its parts a message of many small ones takes fifty times as much memory.
        if self._joined is None:
            self._joined = bytearray(self.frames[0])
        self._joined += event.data
        if event.fin:
            self.frames, self._joined = [bytes(self._joined)], None
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        """As in stock, which logs five lines for a message that is not UTF-8; here the client is told."""
        data, self.frames = bytes(self.frames[0]), []
        self._since = 0.0  # as in handle_events(), where the beginning of another message has come with this one's end
        if self.close_sent:
            return  # the application has closed, and takes no message any more
        if self.curr_msg_data_type == "text":
            try:
                self.queue.put_nowait({"type": "websocket.receive", "text": data.decode()})
            except UnicodeDecodeError:
                self._close(INVALID_DATA, "not UTF-8")
                return
        else:
            self.queue.put_nowait({"type": "websocket.receive", "bytes": data})
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def handle_ping(self) -> None:
        """Send a pong; one is enough for all pings since the last pong (RFC 6455, section 5.5.3)."""
        for frame in self.conn.data_to_send():
            if self.writable.is_set() or not frame.startswith(b"\x8a"):
                self.transport.write(frame)
            else:
                self._owed = frame

    def handle_parser_exception(self) -> None:
        """Send the close that the library has made. As after any close, what still comes is read and forgotten."""
        self._deaf = True
        self._unread = NOTHING
        closed = self.conn.close_sent
        if closed is None:
            self.transport.abort()
            return
        self._count_closed()
        self._say_goodbye(int(closed.code), closed.reason)
        self.transport.resume_reading()

    def _note_unfinished(self) -> None:
        """Note since when a frame or a message has been begun and not ended."""
        if not self.frames and not self.conn.reader.buffer:
            self._since = 0.0
        elif not self._since:
            self._since = self.loop.time()

    # Out.

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._owed and not self.transport.is_closing():
            self.transport.write(self._owed)
        self._owed = b""

    def check(self, now: float) -> None:
        """Close the connection if the rest of what was begun has not come in time."""
        if not self._since or self._deaf:
            return
        if self._waiting or self._unread:
            self._since = now  # it is not the client who is waited for
            return
        size = len(self.conn.reader.buffer) + (len(self._joined) if self._joined is not None else 0)
        if now - self._since > self.server_state.limits.request_timeout + size / RATE:
            self._close(POLICY_VIOLATION, "the rest of a message did not come in time")

    def _close(self, code: int, reason: str) -> None:
        """Tell client and application that it is over; nothing more is looked at."""
        self._deaf = True
        self._unread = NOTHING
        try:
            if self.close_sent:
                raise InvalidState("closed already")
            self.conn.send_close(code, reason)
        except InvalidState:  # both sides have said what there was to say
            self.transport.abort()
            return
        self._count_closed()
        self._say_goodbye(code, reason)
        self.transport.resume_reading()  # and forget what is read: unread data would turn the close into a reset

    def _count_closed(self) -> None:
        closed = self.conn.close_sent
        if closed is not None:
            self.server_state.refused[f"WebSocket closed ({int(closed.code)})"] += 1

    def _say_goodbye(self, code: int, reason: str) -> None:
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = self.disconnected = True  # what the application still sends is no fault of its own
        self.close_timer = self.loop.call_later(LINGER, self._hang_up)

    def _hang_up(self) -> None:
        """Close; a client that has not taken even the close is cut off."""
        self.transport.abort() if self.transport.get_write_buffer_size() else self.transport.close()

    def shutdown(self) -> None:
        """Close with 1012 and leave the client time to answer it."""
        if self.close_sent or not self.handshake_complete or self.transport.is_closing():
            super().shutdown()
            return
        code, reason = SERVICE_RESTART
        self.conn.send_close(code, reason)
        self._say_goodbye(code, reason)
