"""Limits on what a client makes of a WebSocket: frames that carry nothing, messages without end, and what the log says.

The clients here are sockets, since a client library keeps to the rules.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.e2e.place import Place, Started, get, make_place
from tests.waiting import until

# Says again what it is told; what else it does is in the path.
ECHO = """
import asyncio

async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        if scope["path"] == "/return":
            return
        if scope["path"] == "/slow":
            await asyncio.sleep(0.2)
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            text = message["text"]
            await send({"type": "websocket.send", "text": text if len(text) < 1000 else str(len(text))})
        print("left with", message["code"], flush=True)
    elif scope["type"] == "http":
        if scope["path"] == "/raise":
            raise RuntimeError("of its own")
        if scope["path"] == "/lines":
            raise RuntimeError("a line\\n" * 100_000)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"hello"})
"""
TIMEOUT = 1.0  # seconds that a client has for a message once it has begun it
PATIENCE = 10.0  # seconds
GROWTH = 24 * 1024 * 1024  # bytes that the worker may grow by under a flood
ENOUGH = 10  # times that each client of a flood is cut off until it gives up
LATEST = 3.0  # seconds until an answer of /health meanwhile, on a busy machine
UNMASKED = bytes(4)  # a mask that changes nothing
TEXT, MORE, CLOSE, PING, PONG = 0x81, 0x00, 0x88, 0x89, 0x8A
BEGUN = 0x01  # the first part of a text


def frame(kind: int, data: bytes = b"") -> bytes:
    size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return bytes([kind]) + size + UNMASKED + data


class Client:
    """A WebSocket whose frames are written by hand."""

    def __init__(self, place: Place, path: str = "/", *, waits: bool = True, buffer: int = 0, lines: str = "") -> None:
        """``waits`` for the handshake's answer; ``buffer``: bytes that may wait for it where it does not read."""
        self.socket = socket.socket()
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(("127.0.0.1", place.port))
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{place.port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {'A' * 22}==\r\n{lines}\r\n".encode()
        )
        self.answer = b""
        while waits and not self.answer.endswith(b"\r\n\r\n"):
            byte = self.socket.recv(1)
            assert byte, self.answer
            self.answer += byte

    def send(self, *frames: bytes) -> Client:
        self.socket.sendall(b"".join(frames))
        return self

    def read(self) -> tuple[int, bytes]:
        """Kind and content of the next frame; 0 where the connection ends."""
        head = self._exactly(2)
        if len(head) < 2:
            return 0, b""
        size = head[1]
        if size == 126:
            size = int.from_bytes(self._exactly(2), "big")
        return head[0], self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        came = b""
        while len(came) < size:
            try:
                data = self.socket.recv(size - len(came))
            except ConnectionError:
                return b""
            if not data:
                return b""
            came += data
        return came

    def code(self) -> int:
        """With which code the server closes it; 0 where it is cut off."""
        while True:
            kind, content = self.read()
            if kind == CLOSE:
                return int.from_bytes(content[:2], "big")
            if not kind:
                return 0

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_error: object) -> None:
        self.socket.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = make_place(tmp_path_factory.mktemp("websocket") / "place")
    place.write_module("echo", ECHO)
    place.environ |= {"PREFLIGHT_REQUEST_TIMEOUT": f"{TIMEOUT:g}s"}
    instance = place.start("--demo", "--app", "echo:app").until_ready()
    yield place
    assert instance.process.poll() is None, instance.output
    assert "Traceback" not in instance.output
    instance.stop()
    place.close()


@pytest.fixture
def talkative(place: Place) -> Started:
    """An instance of which a test reads all that it logs."""
    place.write_module("echo", ECHO)
    return place.start("--demo", "--app", "echo:app").until_ready()


def worker(started: Started) -> psutil.Process:
    """The process that serves."""
    return next(one for one in psutil.Process(started.pid).children() if "preflight.worker" in one.cmdline())


class Flood:
    """Clients that send a frame again and again, and what that does to the server meanwhile."""

    def __init__(self, place: Place, before: bytes, again: bytes, clients: int = 6) -> None:
        self._place = place
        self._before, self._again = before, again * max(1, 16384 // len(again))
        self._over = threading.Event()
        self._clients = clients

    def _send(self) -> None:
        had_enough = 0
        while not self._over.is_set() and had_enough < ENOUGH:
            with contextlib.suppress(OSError), Client(self._place, buffer=4096) as client:
                client.send(self._before)
                client.socket.settimeout(0.2)
                while not self._over.is_set():
                    try:
                        client.socket.sendall(self._again)
                    except TimeoutError:
                        continue  # it is not read from: the flood stands
                    except ConnectionError:
                        had_enough += 1
                        break

    def measure(self, seconds: float = 1.5) -> tuple[float, int]:
        """The slowest answer of /health meanwhile, and by how many bytes the worker has grown at most."""
        process = worker(self._place.started[0])
        before = grown = process.memory_info().rss
        threads = [threading.Thread(target=self._send) for _ in range(self._clients)]
        for thread in threads:
            thread.start()
        slowest, end = 0.0, time.monotonic() + seconds
        try:
            while time.monotonic() < end and any(thread.is_alive() for thread in threads):
                asked = time.monotonic()
                assert get(f"{self._place.url}/health") == (200, "hello")
                slowest = max(slowest, time.monotonic() - asked)
                grown = max(grown, process.memory_info().rss)
                time.sleep(0.02)
        finally:
            self._over.set()
            for thread in threads:
                thread.join(PATIENCE)
        return slowest, grown - before


# Floods.


@pytest.mark.parametrize(
    "before, again",
    [
        (b"", frame(PING)),
        (b"", frame(PING, b"x" * 125)),
        (b"", frame(PONG)),
        (frame(BEGUN), frame(MORE)),
        (frame(BEGUN), frame(MORE, b"x")),
        (frame(BEGUN), frame(PING) + frame(MORE)),
        (b"", frame(TEXT)),
        (b"", frame(TEXT, b"x")),
        (frame(CLOSE, b"\x03\xe8"), frame(CLOSE, b"\x03\xe8")),
        (b"", frame(TEXT, b"\xff")),
    ],
    ids=["pings", "long pings", "pongs", "empty parts", "small parts", "both", "empty", "small", "closes", "no UTF-8"],
)
def test_flood(served: Place, before: bytes, again: bytes) -> None:
    """Clients that send frames and read nothing take neither memory nor time from others."""
    slowest, growth = Flood(served, before, again).measure()
    assert growth < GROWTH
    assert slowest < LATEST


@pytest.mark.parametrize(
    "before, again",
    [
        (b"", frame(PING, b"x")),
        (b"", frame(PONG)),
        (b"", frame(TEXT)),
        (frame(BEGUN), frame(MORE)),
        (frame(BEGUN), frame(MORE, b"x")),
    ],
    ids=["pings", "pongs", "empty messages", "empty parts", "small parts"],
)
def test_too_many_frames(served: Place, before: bytes, again: bytes) -> None:
    """A client that reads is told why it is closed, and the application that it has gone."""
    with Client(served) as client:
        reader = threading.Thread(target=lambda: codes.append(client.code()))
        codes: list[int] = []
        reader.start()
        with contextlib.suppress(ConnectionError):
            client.send(before)
            for _ in range(1000):
                client.send(again * 10)
        reader.join(PATIENCE)
    assert codes in ([1008], [0])  # what it still sends may turn the close into a reset
    assert get(served.url) == (200, "hello")


def test_a_ping_is_answered(served: Place) -> None:
    """Whoever keeps a connection alive, and does so often, is answered each time."""
    with Client(served) as client:
        for number in range(200):
            client.send(frame(PING, b"%d" % number))
            assert client.read() == (PONG, b"%d" % number)
        client.send(frame(TEXT, b"still here"))
        assert client.read() == (TEXT, b"still here")


def test_many_small_messages(served: Place) -> None:
    """Messages that came together are all taken, in their order."""
    with Client(served) as client:
        client.send(*(frame(TEXT, b"%d" % number) for number in range(5000)))
        for number in range(5000):
            assert client.read() == (TEXT, b"%d" % number)


@pytest.mark.parametrize("part", [1000, 65535])
def test_large_message_in_parts(served: Place, part: int) -> None:
    """A message of the largest size may come in parts."""
    parts = -(-(1024 * 1024) // part)
    size = (parts - 1) * part + 10
    with Client(served) as client:
        client.send(frame(BEGUN, b"x" * part), *(frame(MORE, b"x" * part) for _ in range(parts - 2)))
        client.send(frame(PING, b"in between"), frame(0x80, b"x" * 10))
        assert client.read() == (PONG, b"in between")
        assert client.read() == (TEXT, b"%d" % size)


def test_too_large_in_parts(served: Place) -> None:
    """Beyond it, the message is refused while it comes."""
    with Client(served) as client:
        with contextlib.suppress(ConnectionError):
            client.send(frame(BEGUN, b"x" * 60000), *(frame(MORE, b"x" * 60000) for _ in range(17)))
        assert client.code() in (1009, 0)


@pytest.mark.parametrize(
    "begun",
    [frame(BEGUN, b"x" * 1000), frame(BEGUN), b"\x81", b"\x81\xfe\xff\xff" + UNMASKED + b"x" * 1000],
    ids=["message", "empty message", "head", "frame"],
)
def test_unfinished_message(served: Place, begun: bytes) -> None:
    """What is begun has to be finished: it takes memory as long as it is not."""
    begun_at = time.monotonic()
    with Client(served) as client:
        client.send(begun)
        assert client.code() == 1008
        assert client.read() == (0, b"")
    assert TIMEOUT <= time.monotonic() - begun_at < TIMEOUT + 3


def test_quiet_connection_stays(served: Place) -> None:
    """Who has begun nothing may be quiet, and who was slow once may be quiet afterwards."""
    with Client(served) as client:
        client.send(frame(TEXT, b"hello")[:3])
        time.sleep(TIMEOUT / 4)
        client.send(frame(TEXT, b"hello")[3:])
        assert client.read() == (TEXT, b"hello")
        time.sleep(2 * TIMEOUT)
        client.send(frame(TEXT, b"still here"))
        assert client.read() == (TEXT, b"still here")


# Handshakes.


def test_long_header_of_a_handshake(served: Place) -> None:
    """A header that HTTP allows and the handshake does not is answered, not waited for without end."""
    with Client(served, lines=f"Cookie: {'x' * 9000}\r\n") as client:
        assert client.answer.startswith(b"HTTP/1.1 431 ")


def test_frames_before_the_handshake_is_over(served: Place) -> None:
    """A client that does not wait for the answer loses nothing that came by itself."""
    with Client(served, "/slow", waits=False) as client:
        time.sleep(0.1)
        client.send(frame(TEXT, b"early"))
        while not client.answer.endswith(b"\r\n\r\n"):
            client.answer += client.socket.recv(1)
        assert client.read() == (TEXT, b"early")


# What strangers can make the log say.


def connections(started: Started) -> int:
    """How many clients are connected to its server."""
    own = [one for pid in started.family() for one in psutil.Process(pid).net_connections()]
    return sum(one.status == psutil.CONN_ESTABLISHED and one.laddr.port == started.port for one in own)


def lines(started: Started, text: str) -> int:
    return started.output.count(text)


def test_abandoned_handshakes(talkative: Started, place: Place) -> None:
    """Clients that go away before they are answered are no errors of the server.

    A message that is no UTF-8 is the client's fault as well: code 1007, and a line a minute in the log.
    """
    for path in ("/", "/slow"):
        for _ in range(50):
            with Client(place, path, waits=False):
                pass
            Client(place, path, waits=False).reset()
    until(lambda: not connections(talkative), "it has seen all of them go")
    for _ in range(50):
        with Client(place).send(frame(TEXT, b"\xff")) as client:
            assert client.code() == 1007
    talkative.until_says("left with 1007")
    assert talkative.stop() == 0
    assert lines(talkative, "ERROR") == lines(talkative, "Traceback") == 0
    assert lines(talkative, "Clients refused or cut off") <= 2


def test_errors_that_anybody_can_cause(talkative: Started, place: Place) -> None:
    """The first of each kind in a minute are written whole, the others counted.

    Nor can a request have the log say megabytes.
    """
    assert get(f"{place.url}/lines")[0] == 500
    for _ in range(50):
        with Client(place, "/return") as client:
            assert client.answer.startswith(b"HTTP/1.1 500 ")
        assert get(f"{place.url}/raise")[0] == 500
    assert talkative.stop() == 0
    counted = [line for line in talkative.output.splitlines() if "more lines within a minute were not written" in line]
    for said in (
        "ASGI callable returned without completing handshake.",
        "Exception in ASGI application",
    ):
        assert 1 <= lines(talkative, f"ERROR:    {said}") <= 15  # 5 a minute
        assert [line for line in counted if said in line], said
    assert 1 <= lines(talkative, "a line\n") < 10_000


def test_a_client_library_gets_on_with_it(served: Place) -> None:
    """What keeps to the rules is served as ever."""
    with connect(served.url.replace("http", "ws")) as chat:
        for _ in range(20):
            assert chat.ping().wait(PATIENCE)
        chat.send(["in ", "three ", "parts"])
        assert chat.recv(PATIENCE) == "in three parts"
    until(lambda: get(served.url) == (200, "hello"), "it serves")


def close_of(chat: ClientConnection, message: str | list[str]) -> int:
    """With which code the server closes it because of a message; 0 where it does not say."""
    try:
        chat.send(message)
        chat.recv(PATIENCE)
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else 0
    raise AssertionError("the message was taken")


# The settings.

LIMITS = {
    "PREFLIGHT_WEBSOCKET_MESSAGE_SIZE": "10000",
    "PREFLIGHT_WEBSOCKET_CONTROLS": "20",
    "PREFLIGHT_WEBSOCKET_FRAGMENTS": "30",
    "PREFLIGHT_WEBSOCKET_COMPRESSION": "yes",
}


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """An instance with limits of its own."""
    place = make_place(tmp_path_factory.mktemp("limited") / "place")
    place.write_module("echo", ECHO)
    place.environ |= LIMITS
    instance = place.start("--demo", "--app", "echo:app").until_ready()
    yield place
    assert "Traceback" not in instance.output
    instance.stop()
    place.close()


def test_the_largest_message_is_a_setting(limited: Place) -> None:
    """One of that size is taken, one byte more is refused with its code, and so is one in parts."""
    with Client(limited) as client:
        client.send(frame(TEXT, b"x" * 10_000))
        assert client.read() == (TEXT, b"10000")
        client.send(frame(TEXT, b"x" * 10_001))
        assert client.code() == 1009
    with Client(limited) as client:
        client.send(frame(BEGUN, b"x" * 5000), frame(0x80, b"x" * 5001))
        assert client.code() == 1009


def test_a_client_hears_that_its_message_is_too_large_while_it_sends(served: Place) -> None:
    """What it has still to send does not turn the close into a reset."""
    for _ in range(5):
        with connect(served.url.replace("http", "ws"), compression=None) as chat:
            assert close_of(chat, "x" * 4_000_000) == 1009


@pytest.mark.parametrize(
    "before, again, most",
    [
        (b"", frame(PING, b"x"), 20),
        (b"", frame(PONG), 20),
        (b"", frame(TEXT), 30),
        (frame(BEGUN, b"x" * 200), frame(MORE, b"x"), 30),
    ],
    ids=["pings", "pongs", "empty messages", "small parts"],
)
def test_how_many_frames_a_minute_is_a_setting(limited: Place, before: bytes, again: bytes, most: int) -> None:
    """As many as that are taken, and one more closes the connection."""
    with Client(limited) as client:
        client.send(before, again * most)
        if before:
            client.send(frame(0x80, b"x" * 200))
        client.send(frame(TEXT, b"still here"))
        while (came := client.read()) != (TEXT, b"still here"):
            assert came[0] in (TEXT, PONG)
    with Client(limited) as client:
        client.send(before, again * (most + 1))
        assert client.code() == 1008


@pytest.mark.parametrize("compresses", [True, False])
def test_compression_is_a_setting(limited: Place, served: Place, compresses: bool) -> None:
    """It is agreed upon where it is on and the client offers it; messages are the same either way."""
    with connect((limited if compresses else served).url.replace("http", "ws")) as chat:
        assert [extension.name for extension in chat.protocol.extensions] == ["permessage-deflate"] * compresses
        for text in ("hello", "é" * 900, "x" * 9_000):
            chat.send(text)
            assert chat.recv(PATIENCE) == (text if len(text) < 1000 else str(len(text)))
    with connect((limited if compresses else served).url.replace("http", "ws"), compression=None) as chat:
        chat.send("hello")
        assert chat.recv(PATIENCE) == "hello"


@pytest.mark.parametrize("parts", [1, 3])
def test_a_compressed_message_is_as_large_as_what_it_holds(limited: Place, parts: int) -> None:
    """A few bytes that would become many are refused before they have."""
    before = worker(limited.started[0]).memory_info().rss
    with connect(limited.url.replace("http", "ws")) as chat:
        assert close_of(chat, "x" * 30_000_000 if parts == 1 else ["x" * 10_000_000] * parts) == 1009
    assert worker(limited.started[0]).memory_info().rss - before < GROWTH
