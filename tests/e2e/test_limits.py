"""Limits on what clients send and on how long they take: whoever dawdles or floods is told so and let go."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator

import pytest
from websockets.sync.client import connect

from tests.e2e.place import Place, Started, get, make_place
from tests.waiting import PATIENCE, until

# Says what it got of a request; what it does beyond is in the path.
LIMITED = """
import asyncio

async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
    if scope["type"] != "http":
        return
    said = b"hello"
    if scope["path"] == "/slow":
        await asyncio.sleep(1.5)
    if scope["path"] in ("/body", "/later"):
        if scope["path"] == "/later":
            await asyncio.sleep(1.5)
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                print("disconnected", flush=True)
                return
            size, more = size + len(message["body"]), message.get("more_body", False)
        said = b"%d bytes, headers: %b" % (size, b" ".join(sorted(name for name, _ in scope["headers"])))
    if scope["path"] == "/big":
        said = b"x" * 50_000_000
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(said))]})
    for start in range(0, len(said), 1_000_000):
        await send({"type": "http.response.body", "body": said[start:start + 1_000_000], "more_body": True})
    await send({"type": "http.response.body", "body": b""})
    print("answered", scope["path"], flush=True)
"""
TIMEOUT = 1.0
SLACK = 1.5  # beyond a deadline: the sweep's period, and a busy machine
HELLO = b"HTTP/1.1 200 OK"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class Raw:
    """A client that sends what a test wants, when it wants."""

    def __init__(self, place: Place) -> None:
        self.begun = time.monotonic()  # the server counts from the connection on, which may be there before we know
        self.socket = socket.create_connection(("127.0.0.1", place.port), timeout=PATIENCE)

    def send(self, data: bytes) -> Raw:
        self.socket.sendall(data)
        return self

    def until_closed(self) -> bytes:
        """Everything that comes until the server closes, which must be no reset."""
        came = b""
        while data := self.socket.recv(1 << 16):
            came += data
        return came

    def until(self, end: bytes) -> bytes:
        """What comes up to these bytes, which must be the last."""
        came = b""
        while not came.endswith(end):
            data = self.socket.recv(1 << 16)
            assert data, came
            came += data
        return came

    def answer(self, size: int = 5) -> bytes:
        """One answer with a body of this size; the connection stays."""
        came = b""
        while not came.endswith(b"hello") or len(came) < size:
            data = self.socket.recv(1 << 16)
            assert data, came
            came += data
        return came

    def drip(self, byte: bytes, pause: float = 0.05) -> bytes:
        """Send a byte now and then for as long as the server takes it; returns what it said then."""
        self.socket.settimeout(pause)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                self.socket.sendall(byte)
                came = self.socket.recv(1 << 16)
            except TimeoutError:
                continue
            except ConnectionError:
                return b"reset"
            self.socket.settimeout(PATIENCE)
            return came + self.until_closed() if came else came
        raise AssertionError("it takes byte after byte")

    @property
    def age(self) -> float:
        return time.monotonic() - self.begun

    def close(self) -> None:
        self.socket.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """An instance with little patience and small limits."""
    place = make_place(tmp_path_factory.mktemp("limits") / "place")
    place.write_module("limited", LIMITED)
    place.environ |= {"PREFLIGHT_REQUEST_TIMEOUT": f"{TIMEOUT:g}s", "PREFLIGHT_REQUEST_SIZE": "100000"}
    instance = place.start("--demo", "--app", "limited:app").until_ready()
    yield place
    assert "Traceback" not in instance.output
    instance.stop()
    place.close()


@pytest.fixture
def raw(served: Place) -> Iterator[Raw]:
    """A connection, after which the server must still answer others."""
    one = Raw(served)
    yield one
    one.close()
    assert get(served.url) == (200, "hello")


def instance_of(served: Place) -> Started:
    return served.started[0]


def status(answer: bytes) -> int:
    """The status of an answer that says that the connection ends with it."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    assert body
    return int(head.split(b" ", 2)[1])


# Sizes.


def test_long_header(raw: Raw) -> None:
    """A header of 100,000 bytes is refused."""
    raw.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100_000 + b"\r\n\r\n")
    assert status(raw.until_closed()) == 431


def test_header_without_end(raw: Raw) -> None:
    """A header that does not end is refused when it is too long, not when it has used up the memory."""
    raw.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < 1 << 26 and raw.age < 5:
            raw.socket.sendall(b"x" * 8192)
            sent += 8192
            raw.socket.settimeout(0.001)
            with contextlib.suppress(TimeoutError):
                assert status(raw.socket.recv(1 << 16)) == 431
                break
            raw.socket.settimeout(PATIENCE)
    assert 64 * 1024 <= sent < 1 << 23


def test_most_headers(raw: Raw) -> None:
    """A hundred headers are taken, one more is not."""
    fields = b"".join(b"X-%d: x\r\n" % number for number in range(99))
    assert raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n").answer().startswith(HELLO)
    raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"X: x\r\n\r\n")
    assert status(raw.until_closed()) == 431


def test_long_address(raw: Raw) -> None:
    """The address of a request has a limit of its own."""
    assert raw.send(b"GET /" + b"x" * 8000 + b" HTTP/1.1\r\nHost: a\r\n\r\n").answer().startswith(HELLO)
    raw.send(b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert status(raw.until_closed()) == 414


def test_announced_body(raw: Raw) -> None:
    """A body that is announced as too large is refused before it is sent."""
    raw.send(b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 100001\r\n\r\n")
    assert status(raw.until_closed()) == 413


@pytest.mark.parametrize(
    "length", ["18446744073709551615", "99999999999999999999999999", "1e3", "-1", "+1", "0x10", ""]
)
def test_odd_length(raw: Raw, length: str) -> None:
    """A length that is none, or beyond all numbers, gets an answer of its own, not a traceback."""
    raw.send(f"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n".encode())
    assert status(raw.until_closed()) in (400, 413)


def test_body_of_the_largest_size(raw: Raw) -> None:
    """The limit itself is allowed."""
    raw.send(b"POST /body HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000)
    assert raw.until_closed().endswith(b"100000 bytes, headers: connection content-length host")


def test_chunked_body(served: Place, raw: Raw) -> None:
    """A body in chunks is counted as it comes; the client can read why, though it was still sending."""
    chunk = b"%x\r\n" % 8192 + b"x" * 8192 + b"\r\n"
    raw.send(b"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + 20 * chunk)
    assert status(raw.until_closed()) == 413
    instance_of(served).until_says("disconnected")


def test_body_that_nobody_reads(raw: Raw) -> None:
    """What comes after the answer was given is counted as well."""
    raw.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
    assert raw.answer().startswith(HELLO)
    raw.send(b"%x\r\n" % 150_000 + b"x" * 150_000)
    assert raw.until_closed() == b""


def test_trailers(raw: Raw) -> None:
    """What comes behind a body in chunks is no header."""
    raw.send(
        b"POST /body HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n0\r\nAuthorization: Bearer none\r\n\r\n"
    )
    assert raw.until_closed().endswith(b"3 bytes, headers: connection host transfer-encoding")


def test_trailers_without_end(raw: Raw) -> None:
    """They have the same limit as a head."""
    raw.send(b"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ")
    for _ in range(10):
        with contextlib.suppress(ConnectionError):
            raw.send(b"x" * 65536)
            time.sleep(0.01)
    assert raw.age < TIMEOUT + SLACK
    with contextlib.suppress(ConnectionResetError):
        assert status(raw.until_closed()) == 431


def test_extension_without_end(raw: Raw) -> None:
    """Nor can a chunk be announced forever."""
    raw.send(b"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;")
    assert status(raw.drip(b"x")) == 408
    assert raw.age < TIMEOUT + SLACK


# Time.


def test_silence(raw: Raw) -> None:
    """A connection on which nothing comes is closed, without a word."""
    assert raw.until_closed() == b""
    assert TIMEOUT <= raw.age < TIMEOUT + SLACK


def test_blank_lines(raw: Raw) -> None:
    """Blank lines, which may stand before a request, are no sign of life."""
    assert raw.drip(b"\r\n") == b""
    assert raw.age < TIMEOUT + SLACK


def test_half_sent_head(raw: Raw) -> None:
    """Half a head and no more."""
    assert status(raw.send(b"GET / HTTP/1.1\r\nHos").until_closed()) == 408
    assert TIMEOUT <= raw.age < TIMEOUT + SLACK


def test_slow_head(raw: Raw) -> None:
    """A header that grows by a byte now and then."""
    assert status(raw.send(b"GET / HTTP/1.1\r\nX: ").drip(b"x")) == 408
    assert TIMEOUT <= raw.age < TIMEOUT + SLACK


def test_slow_head_of_a_second_request(raw: Raw) -> None:
    """The first request was a good one; that buys the second no time."""
    assert raw.send(GET).answer().startswith(HELLO)
    raw.begun = time.monotonic()
    assert status(raw.send(b"GET / HTTP/1.1\r\nX: ").drip(b"x")) == 408
    assert TIMEOUT <= raw.age < TIMEOUT + SLACK


def test_half_sent_body(served: Place, raw: Raw) -> None:
    """A body that was announced and does not come; the application learns that the client has gone."""
    said = instance_of(served).stderr.count("disconnected")
    raw.send(b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
    assert status(raw.until_closed()) == 408
    assert TIMEOUT <= raw.age < TIMEOUT + SLACK
    until(lambda: instance_of(served).stderr.count("disconnected") > said, "the application knows")


def test_slow_body(raw: Raw) -> None:
    """A body that comes byte by byte."""
    raw.send(b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
    assert status(raw.drip(b"x")) == 408
    assert TIMEOUT <= raw.age < TIMEOUT + SLACK


def test_body_at_a_fair_rate(raw: Raw) -> None:
    """A body that takes longer than the deadline and keeps coming is a good one."""
    raw.send(b"POST /body HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 50000\r\n\r\n")
    for _ in range(10):
        raw.send(b"x" * 5000)
        time.sleep(0.25)
    assert raw.age > 2 * TIMEOUT
    assert b"50000 bytes" in raw.until_closed()


def test_slow_application(raw: Raw) -> None:
    """An application may take its time: with an answer, or before it reads a body, announced or half sent."""
    assert raw.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").answer().startswith(HELLO)
    head = b"POST /later HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    raw.send(head)
    assert raw.socket.recv(1000).startswith(b"HTTP/1.1 100 Continue")
    assert b"3 bytes" in raw.send(b"abc").until_closed()


def test_answer_that_is_not_taken(served: Place) -> None:
    """A client that asks for much and reads nothing is cut off, and the application goes on."""
    said = instance_of(served).stderr.count("answered /big")
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.connect(("127.0.0.1", served.port))
    one.sendall(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
    until(lambda: instance_of(served).stderr.count("answered /big") > said, "it is given up", 2 * TIMEOUT + 2 * SLACK)
    one.close()


def test_answer_that_is_taken_slowly(raw: Raw) -> None:
    """A client that takes its answer at a fair rate gets the whole of it."""
    raw.send(b"GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    size = 0
    while data := raw.socket.recv(1 << 20):
        size += len(data)
        if raw.age < 2 * TIMEOUT:
            time.sleep(0.1)
    assert size > 50_000_000
    assert raw.age > 2 * TIMEOUT


# Order.


def test_many_requests_at_once(raw: Raw) -> None:
    """Requests that come together are answered in their order, up to a number; then the connection ends."""
    answers = raw.send(GET * 5000).until_closed()
    assert 100 <= answers.count(HELLO) <= 102
    assert answers.endswith(b"hello")


@pytest.mark.parametrize(
    "behind",
    [
        b"nonsense\r\n\r\n",
        b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n",
        b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 100001\r\n\r\n",
        b"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n20000\r\n" + b"x" * 110_000,
        b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
    ],
    ids=["malformed", "address", "announced body", "body", "handshake"],
)
def test_bad_request_behind_good_ones(raw: Raw, behind: bytes) -> None:
    """What was asked before is answered first, and nothing comes in between."""
    slow = b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"
    answers = raw.send(slow + GET + behind).until_closed()
    assert answers.count(b"HTTP/1.1 ") == answers.count(HELLO) == 2
    assert answers.endswith(b"hello")


UPGRADES = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    "keep-alive": b"Connection: keep-alive, Upgrade\r\nUpgrade: h2c\r\n",
    "TLS": b"Connection: upgrade\r\nUpgrade: TLS/1.2, HTTP/1.1\r\n",
    "several": b"Upgrade: websocket, h2c\r\nConnection: upgrade\r\n",
    "unknown": b"Connection: upgrade\r\nUpgrade: something/3\r\n",
    "nothing": b"Connection: upgrade\r\nUpgrade:\r\n",
    "websocket": b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
}
"""Heads that ask for another protocol, by what is in them."""
LENGTH = b"Content-Length: 10\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
BODIES = {
    "length": (LENGTH, b"0123456789"),
    "chunked": (CHUNKED, b"4\r\n0123\r\n6\r\n456789\r\n0\r\n\r\n"),
    "trailers": (CHUNKED, b"a\r\n0123456789\r\n0\r\nX-Late: 1\r\n\r\n"),
}
"""Ten bytes each: how the head announces them, and how they are sent."""


@pytest.mark.parametrize("upgrade", UPGRADES)
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("split", [False, True], ids=["at once", "bit by bit"])
def test_a_request_to_change_the_protocol_keeps_its_body(raw: Raw, upgrade: str, body: str, split: bool) -> None:
    """Who would rather speak HTTP/2 is answered in HTTP/1.1, about the whole request; the next one gets its answer."""
    announced, sent = BODIES[body]
    data = b"POST /body HTTP/1.1\r\nHost: a\r\n" + UPGRADES[upgrade] + announced + sent
    for _ in range(2):
        for part in [data[at : at + 1] for at in range(len(data))] if split else [data]:
            raw.send(part)
        answer = raw.until(b"upgrade")
        assert answer.startswith(HELLO)
        assert b"\r\n\r\n10 bytes, headers: " in answer
    raw.send(GET)
    assert raw.answer().startswith(HELLO)


@pytest.mark.parametrize("method", [b"PUT", b"PATCH", b"DELETE", b"GET"])
@pytest.mark.parametrize("upgrade", ["h2c", "websocket"])
def test_a_body_is_kept_whatever_the_method(raw: Raw, method: bytes, upgrade: str) -> None:
    """A body belongs to a request of any method; a WebSocket's handshake has none, so that one with it is no such."""
    raw.send(method + b" /body HTTP/1.1\r\nHost: a\r\n" + UPGRADES[upgrade] + LENGTH + b"0123456789")
    assert b"\r\n\r\n10 bytes, headers: " in raw.until(b"upgrade")


def test_a_request_to_change_the_protocol_without_a_body(raw: Raw) -> None:
    """It is answered in HTTP/1.1, and the next one on the same connection as well."""
    raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + UPGRADES["h2c"] + b"\r\n" + LAST)
    assert raw.until_closed().count(HELLO) == 2


def test_a_request_to_change_the_protocol_behind_another(raw: Raw) -> None:
    """Pipelined requests get their bodies and their answers in order, whichever of them asks for it."""
    asks = b"POST /body HTTP/1.1\r\nHost: a\r\n" + UPGRADES["h2c"] + LENGTH + b"0123456789"
    plain = b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n01234"
    raw.send(asks + plain + asks + LAST)
    sizes = re.findall(rb"(\d+) bytes, headers|(hello)", raw.until_closed())
    assert sizes == [(b"10", b""), (b"5", b""), (b"10", b""), (b"", b"hello")]


def test_a_client_that_waits_to_be_told_to_send_its_body(raw: Raw) -> None:
    """Expect: 100-continue is answered once the application asks for the body, and the body is what comes then."""
    raw.send(b"POST /body HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n" + UPGRADES["h2c"] + LENGTH)
    assert raw.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    raw.send(b"0123456789")
    assert b"\r\n\r\n10 bytes, headers: " in raw.until(b"upgrade")


def test_a_websocket_behind_a_request_to_speak_http_2(raw: Raw) -> None:
    """What was not granted once may be asked for in another way: the connection is a WebSocket then."""
    raw.send(b"POST /body HTTP/1.1\r\nHost: a\r\n" + UPGRADES["h2c"] + LENGTH + b"0123456789")
    raw.until(b"upgrade")
    raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + UPGRADES["websocket"] + b"\r\n")
    assert raw.until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    "announced, sent, code",
    [
        (b"Content-Length: 1000000\r\n\r\n", b"", 413),
        (CHUNKED, b"%x\r\n%b\r\n" % (150_000, b"x" * 150_000), 413),
        (LENGTH, b"01234", 408),
        (CHUNKED, b"no chunk\r\n", 400),
        (b"Content-Length: 10\r\n" + CHUNKED, b"0\r\n\r\n", 400),
    ],
    ids=["announced", "too large", "half", "no chunk", "two lengths"],
)
def test_limits_hold_for_the_body_of_a_request_to_change_the_protocol(
    raw: Raw, announced: bytes, sent: bytes, code: int
) -> None:
    """As for any other body: too large, not sent in time, or none."""
    raw.send(b"POST /body HTTP/1.1\r\nHost: a\r\n" + UPGRADES["h2c"] + announced + sent)
    assert status(raw.until_closed()) == code


def test_a_tunnel_is_not_opened(raw: Raw) -> None:
    """CONNECT is a request like another, with its body; what comes behind it is for somebody else."""
    raw.send(b"CONNECT /body HTTP/1.1\r\nHost: a\r\n" + LENGTH + b"0123456789" + GET)
    answers = raw.until_closed()
    assert status(answers) == 200
    assert answers.endswith(b"\r\n\r\n10 bytes, headers: content-length host")


def test_websocket_stays(served: Place) -> None:
    """The deadlines are for HTTP: a WebSocket may be quiet for longer."""
    with connect(served.url.replace("http", "ws")) as chat:
        time.sleep(TIMEOUT + SLACK)
        chat.send("still here")
        assert chat.recv(PATIENCE) == "still here"


def test_refusals_are_told_once(served: Place) -> None:
    """A flood of bad requests is a line in the log now and then, not one for each."""
    before = instance_of(served).output.count("\n")
    for _ in range(200):
        one = Raw(served).send(b"nonsense\r\n\r\n")
        assert status(one.until_closed()) == 400
        one.close()
    until(lambda: "Clients refused or cut off: " in instance_of(served).output, "it is told")
    assert instance_of(served).output.count("\n") - before <= 2


# Number.


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """An instance that takes ten connections, of which every test leaves none."""
    place = make_place(tmp_path_factory.mktemp("few") / "place")
    place.write_module("limited", LIMITED)
    place.environ |= {"PREFLIGHT_CONNECTIONS": "10", "PREFLIGHT_REQUEST_TIMEOUT": "20s"}
    place.start("--demo", "--app", "limited:app").until_ready()
    yield place
    place.close()


def is_closed(one: Raw) -> bool:
    one.socket.settimeout(0.01)
    try:
        return one.socket.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_idle_connections_make_room(few: Place) -> None:
    """The oldest idle connections go first; requests in flight and WebSockets stay, and newcomers are served."""
    with connect(few.url.replace("http", "ws")) as chat:
        asking = Raw(few).send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        idle = [Raw(few) for _ in range(8)]
        until(lambda: get(few.url) == (200, "hello"), "a newcomer is served", 2)
        assert is_closed(idle[0])
        for _ in range(30):
            assert get(few.url) == (200, "hello")
        chat.send("here")
        assert chat.recv(PATIENCE) == "here"
        assert asking.answer().startswith(HELLO)
    for one in (*idle, asking):
        one.close()


def test_every_connection_is_busy(few: Place) -> None:
    """Where nothing can be closed, /health is answered still, and everything else says that it is too much."""
    asking = [Raw(few).send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(10)]
    until(lambda: get(few.url) == (503, "Service Unavailable"), "all of them are at it")
    assert get(f"{few.url}/health") == (200, "hello")
    for one in asking:
        assert one.answer().startswith(HELLO)
        one.close()
    until(lambda: get(few.url) == (200, "hello"), "there is room again")


def test_flood(few: Place) -> None:
    """Hundreds of connections that begin a request and go no further take nothing from /health."""
    flood = [Raw(few).send(b"GET / HTTP/1.1\r\nX: ") for _ in range(300)]
    assert get(f"{few.url}/health") == (200, "hello")
    assert sum(not is_closed(one) for one in flood) <= 10
    for one in flood:
        one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
    assert get(few.url) == (200, "hello")


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="there is no prlimit here (util-linux)")
def test_open_files(place: Place) -> None:
    """The soft limit on open files is raised as far as allowed; the number of connections follows the hard one."""
    place.write_module("limited", LIMITED)
    command = ["prlimit", "--nofile=256:400", sys.executable, "run.py", "--port", str(place.port)]
    command += ["--demo", "--app", "limited:app"]
    started = place.spawn(*command, environ={"PREFLIGHT_OPEN_FILES": "100"}).until_ready()
    many = [Raw(place) for _ in range(300)]
    until(lambda: get(f"{place.url}/health") == (200, "hello"), "/health is answered", 3)
    for one in many:
        one.close()
    assert "Too many open files" not in started.output
    assert started.stop(signal.SIGTERM) == 0
