"""HTTP as uvicorn's httptools protocol speaks it, with limits on what a client sends and on how long it takes.

Stock, that protocol takes a header of any length and waits forever for the rest of a request. Sizes are
checked while the bytes come in. Deadlines are looked at by one sweep over all connections (connections.py): a timer for
each request would cost more than the limits are worth, so stock's own one for keep-alive is left out, too.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from preflight.worker.connections import RATE, State

LARGEST_HEAD = 64 * 1024  # bytes of request line and headers together; h11 has the same (431)
LONGEST_URL = 8 * 1024  # bytes; RFC 9112, section 3, wants 8,000 at least (414)
MOST_HEADERS = 100  # as in Apache and gunicorn (431)
MOST_PIPELINED = 100  # requests waiting behind the one that is answered
LINGER = 2.0  # seconds that a refused client gets to read why: closing while it sends would take the answer back
HURRY = 1.0  # seconds that a connection beyond the limit has to send its request

FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection"})
"""Headers that say where a body ends, and whether another request follows."""

# What of a request is being read.
NOTHING, HEAD, BODY = range(3)


class RequestRefused(Exception):
    """Raised in the parser's callbacks, to end its work; the connection knows why."""


class AfterHead:
    """The callbacks of a parser that ignores the first head, which is known already."""

    def __init__(self, connection: Http) -> None:
        self._connection = connection
        self._past = False
        self.on_body = connection.on_body
        self.on_message_complete = connection.on_message_complete

    def on_message_begin(self) -> None:
        if self._past:
            self._connection.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self._past:
            self._connection.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._past:
            self._connection.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._past:
            self._connection.on_headers_complete()
        self._past = True


class Http(HttpToolsProtocol):
    """One HTTP connection, with limits."""

    server_state: State

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.limits = self.server_state.limits
        self.reading = NOTHING
        self.number = 0
        """Which connection of this server it is; the clock is too coarse to tell."""
        self.since = 0.0
        """When the client's turn began: to send a request, its head or its body. 0 until the clock has been read."""
        self.surplus = False
        """Whether it is one connection too many: only /health is answered then, and once."""
        self.asked_as = ""
        """The scheme that the application sees, if that is not the transport's."""
        self.on_made: Callable[[], object] | None = None
        """Called when the connection is there, which may be long after this: a TLS handshake comes before."""
        self._answering: RequestResponseCycle | None = None
        self._pending = 0  # bytes that have come and are no part of a finished head or of a body
        self._body = 0  # bytes of the body so far
        self._why = 0  # the status with which a callback refuses the request
        self._deaf = False  # nothing that comes is read any more

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self._answering is not None and not self._answering.response_complete

    @property
    def dispensable(self) -> bool:
        """Whether no client would lose an answer if it were closed."""
        return self.reading != BODY and not self.busy and not self.transport.get_write_buffer_size()

    @property
    def flushing(self) -> bool:
        """Whether its client has an answer to take."""
        return self.transport.is_closing() or self.flow.write_paused

    @property
    def _is_request(self) -> bool:
        """Whether the head that was read last is a request's, which is answered, and no WebSocket's handshake."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and cycle.scope is self.scope

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self.on_made is not None:
            self.on_made()
        if self.asked_as:
            self.scheme = self.asked_as  # type: ignore[assignment]
        self.since = self.loop.time()
        self.server_state.admit(self, self.since)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.server_state.forget(self)
        if self._answering is not None and self._answering is not self.cycle:
            # Requests waited behind this one, and stock tells only the last of them.
            self._answering.disconnected = True
            self._answering.message_event.set()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._pending += len(data)
        try:
            if not self._parse(data):
                return
        except httptools.HttpParserError:
            self._refuse(self._why or 400)
            return
        if not self.since:
            self.since = self.loop.time()
        if self._pending > LARGEST_HEAD and self.reading:
            self._refuse(431)

    def _parse(self, data: bytes) -> bool:
        """Let the parser look at what has come; False once the connection speaks another protocol than HTTP."""
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as found:
                if not self._is_request:
                    self._upgrade()
                    return False
                data = self._without_upgrade(data[found.args[0] :])
            else:
                return True

    def _without_upgrade(self, rest: bytes) -> bytes:
        """Read on after a head that asks for another protocol (HTTP/2, say, or CONNECT), which is not granted.

        Such a request is answered as if it had not asked (RFC 9110, section 7.8), with its body. The parser would take
        the body for something else than HTTP and skip it: the application would see an empty body that looks whole. So
        another parser, which is told only how the body is framed, reads on. Returns what that parser has to read.
        """
        version = self.parser.get_http_version().encode("ascii")
        tunnel = self.scope["method"] == "CONNECT"
        self.parser = httptools.HttpRequestParser(AfterHead(self))
        framing = b"".join(b"%b: %b\r\n" % header for header in self.scope["headers"] if header[0] in FRAMING)
        if tunnel:
            # What the client sends after it is not a request to us.
            self.cycle.keep_alive = False
            framing += b"connection: close\r\n"
        return b"POST / HTTP/%b\r\n%b\r\n%b" % (version, framing, rest)

    # What the parser finds.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.reading = HEAD
        self.since = 0.0

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > LONGEST_URL:
            self._stop(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) == MOST_HEADERS:
            self._stop(431)
        name = name.lower()
        if name == b"content-length":
            if self._is_too_large(int(value)):  # the parser has seen to it that these are digits
                self._stop(413)
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._pending > LARGEST_HEAD:  # that may have been the end of another request's body
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > LARGEST_HEAD:
                self._stop(431)
        if len(self.pipeline) == MOST_PIPELINED:
            self._stop(429)
        self._pending = self._body = 0
        super().on_headers_complete()
        self.reading = BODY
        self.since = 0.0
        if self._is_request:
            # Trailers of a body in chunks are no headers: the application has its headers already, and acts on them.
            self.headers = []

    def on_body(self, body: bytes) -> None:
        self._pending = 0
        self._body += len(body)
        if self._is_too_large(self._body):
            self._stop(413)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade() and self._is_request:
            return  # its body has not been read; see _without_upgrade
        super().on_message_complete()
        self.reading = NOTHING
        self.since = 0.0
        self._pending = 0

    def _is_too_large(self, body: int) -> bool:
        return 0 < self.limits.request_size < body

    def _stop(self, status: int) -> None:
        self._why = status
        raise RequestRefused

    # Requests and answers.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        if self.surplus:
            cycle.keep_alive = False
            if not cycle.scope["path"].removeprefix(self.root_path).startswith(self.limits.health):
                app = service_unavailable
        super()._start_asgi_task(cycle, app)

    def resume_writing(self) -> None:
        self.server_state.flushing.pop(self, None)  # the client has taken what there was
        super().resume_writing()

    def on_response_complete(self) -> None:
        # As in stock, without its timer.
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif not self.reading:
            self.since = self.loop.time()

    def _should_upgrade(self) -> bool:
        """A WebSocket's handshake is a GET without a body (RFC 6455, section 4.1); anything else keeps its meaning."""
        return (
            self.scope["method"] == "GET"
            and super()._should_upgrade()
            and not any(
                name == b"transfer-encoding" or (name == b"content-length" and int(value))
                for name, value in self.headers
            )
        )

    def _upgrade(self) -> None:
        """The head of a WebSocket's handshake has come."""
        self.reading = NOTHING
        if self.surplus:
            self._refuse(503)
        elif self.busy:
            self._refuse(400)  # the answer to another request would go into the middle of the handshake
        else:
            self.handle_websocket_upgrade()

    # Refusals.

    def check(self, now: float) -> None:
        """Close the connection if it has run past its deadline."""
        spent = now - self.since
        timeout = min(HURRY, self.limits.request_timeout) if self.surplus else self.limits.request_timeout
        if self._deaf:
            if not self.busy and spent > LINGER:
                self.transport.abort()
        elif self.reading == HEAD:
            if spent > timeout:
                self._refuse(408)
        elif self.reading == BODY:
            if self.flow.read_paused or self.cycle.waiting_for_100_continue:
                self.since = now  # it is the application that takes its time
            elif spent > timeout + self._body / RATE:
                self._refuse(408)
        elif not self.busy and spent > (timeout if self._answering is None else self.timeout_keep_alive):
            self.transport.close()  # without a word: the client has not begun to ask

    def _refuse(self, status: int) -> None:
        """Answer the request that is being read with an error, if it is its turn, and read nothing more."""
        self.server_state.refused[f"{HTTPStatus(status).phrase.lower()} ({status})"] += 1
        self._deaf = True
        self.since = self.loop.time()
        if self.reading == BODY and not self._withdraw():
            return
        if self.busy:
            # Answers keep their order: the last one that is owed closes the connection.
            self.cycle.keep_alive = False
            return
        if self.transport.is_closing():
            return
        phrase = HTTPStatus(status).phrase.encode("ascii")
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(phrase)),
            (b"connection", b"close"),
        ]
        fields = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(STATUS_LINE[status] + fields + b"\r\n" + phrase)
        self._hang_up()

    def _withdraw(self) -> bool:
        """The application has the request whose body is refused: tell it that the client has gone.

        Returns whether the client can still be told why.
        """
        cycle = self.cycle
        if self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline.popleft()  # it has not begun
            before = self.pipeline[0][0] if self.pipeline else self._answering
            if before is not None:
                self.cycle = before
            return True
        if cycle.response_complete:
            self._hang_up()
            return False
        if cycle.response_started:
            self.transport.close()  # in the middle of an answer
            return False
        cycle.response_started = cycle.response_complete = cycle.disconnected = True
        cycle.message_event.set()
        return True

    def _hang_up(self) -> None:
        """Say that this was all; the connection is closed when the client has understood, or after a while."""
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def shutdown(self) -> None:
        if self._deaf and not self.busy:
            self.transport.close()
        else:
            super().shutdown()
