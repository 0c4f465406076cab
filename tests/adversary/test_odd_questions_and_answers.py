"""What clients ask in an odd form, and what answers oddly in a service's place: an answer, no trace, no exception."""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from preflight import ready
from tests import certificates
from tests.e2e.chatting import Client
from tests.e2e.place import Place, Started, get, make_place
from tests.ready.asking import ask
from tests.ready.listeners import listening
from tests.waiting import PATIENCE


@pytest.fixture(scope="module")
def open_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """A server without a token, on loopback."""
    place = make_place(tmp_path_factory.mktemp("open") / "place")
    try:
        yield place.start("--demo").until_ready()
    finally:
        place.close()


def _asked(port: int, *lines: str, connection: str = "close") -> bytes:
    """The first line of the answer to a request's head."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        head = "\r\n".join([*lines, f"Host: 127.0.0.1:{port}", f"Connection: {connection}", "", ""])
        client.sendall(head.encode("latin-1"))
        return client.makefile("rb").readline()


@pytest.mark.parametrize("version", ["abc", "1e999", "", "1.2.3.4.5", "1.0.0;escaping=\xff", "0.0.1;version=9", ";q="])
@pytest.mark.parametrize("media", ["application/openmetrics-text", "text/plain"])
def test_metrics_of_a_version_that_is_none(open_one: Started, media: str, version: str) -> None:
    """The library that writes metrics raises an exception for some headers: the client gets metrics all the same."""
    before = len(open_one.stderr)
    said = _asked(open_one.port, "GET /metrics HTTP/1.1", f"Accept: {media}; version={version}")
    assert said == b"HTTP/1.1 200 OK\r\n"
    assert "Traceback" not in open_one.stderr[before:]


OFFERS = {
    "extensions": "Sec-WebSocket-Extensions: " + "permessage-deflate; a=b, " * 500,
    "parameters": "Sec-WebSocket-Extensions: permessage-deflate" + "; client_max_window_bits" * 500,
    "nothing": "Sec-WebSocket-Extensions: " + ";" * 12_000,
    "open quotes": "Sec-WebSocket-Extensions: " + 'permessage-deflate; x="' * 500,
    "upgrades": "X: y\r\nConnection: " + "upgrade," * 1500,
    "blanks": "X-One: " + " " * 50_000 + "b",
}


@pytest.mark.parametrize("what", OFFERS)
def test_handshakes_that_offer_much(open_one: Started, what: str) -> None:
    """Each is accepted or refused as it is, and the server answers others afterwards."""
    key = f"Sec-WebSocket-Key: {'A' * 22}=="
    lines = ["GET /ws/chat HTTP/1.1", "Upgrade: websocket", "Sec-WebSocket-Version: 13", key, OFFERS[what]]
    said = _asked(open_one.port, *lines, connection="Upgrade")
    assert said.split(b" ")[1] in (b"101", b"400", b"431"), said
    assert get(f"{open_one.url}/health/live")[0] == 200


def test_numbers_beyond_the_database(open_one: Started) -> None:
    """A number that no column holds is refused by its field's name, in the chat as in a query."""
    for path in (
        "/sessions?offset=",
        "/sessions?limit=",
        "/diagnostics/history?limit=",
        "/diagnostics/history?offset=",
    ):
        for number in ("9" * 23, str(2**63), "1e5"):
            assert _asked(open_one.port, f"GET {path}{number} HTTP/1.1").split(b" ")[1] == b"400", path
    client = Client(open_one.url)
    try:
        client.init()
        for fields in ({"before": 10**30}, {"before": 1e308}, {"before": 0.5}, {"limit": 2**63}, {"limit": -1}):
            client.send("history", **fields)
            assert client.refusal() == "invalid", fields
        assert client.answer("hello")
    finally:
        client.close()


def _reset(client: socket.socket) -> None:
    """Close a connection as one does that has crashed."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def test_what_is_no_tls(place: Place, tmp_path: Path) -> None:
    """Plain HTTP, junk before and after the handshake, in a WebSocket, and resets: no line of the log, and no end."""
    pair = certificates.make(tmp_path)
    started = place.start(
        "--demo", PREFLIGHT_SSL_CERTFILE=str(pair.certificate), PREFLIGHT_SSL_KEYFILE=str(pair.key)
    ).until_ready()
    before, context = started.stderr, pair.trusting()

    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", place.port), PATIENCE)

    def encrypted(junk: bytes, request: str = "") -> None:
        client = connect()
        raw = socket.socket(fileno=os.dup(client.fileno()))
        with raw, context.wrap_socket(client, server_hostname="localhost") as tls:
            if request:
                tls.sendall(f"{request}Host: localhost:{place.port}\r\n\r\n".encode())
                tls.recv(100)
            raw.sendall(junk)
            _reset(raw)

    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n"
    for _ in range(20):
        for junk in (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01\x02\x00\x01" + os.urandom(50)):
            with connect() as client:
                client.sendall(junk)
                _reset(client)
        encrypted(b"junk behind the handshake" * 10)
        encrypted(b"junk behind a request" * 10, "GET /diagnostics HTTP/1.1\r\n")
        encrypted(b"junk behind an upgrade" * 10, f"GET /ws/chat HTTP/1.1\r\n{upgrade.format('A' * 22 + '==')}")
    with connect() as client, context.wrap_socket(client, server_hostname="localhost") as tls:
        tls.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert tls.recv(100).startswith(b"HTTP/1.1 200 ")
    assert started.stderr == before


def _redis(hello: bytes, info: bytes) -> Callable[[socket.socket], object]:
    """What answers a client of Redis in its protocol, and says these words in HELLO and INFO."""

    def talk(connection: socket.socket) -> None:
        said = connection.makefile("rb")
        while line := said.readline():
            words = [said.read(int(said.readline()[1:]) + 2).strip() for _ in range(int(line[1:]))]
            answers = {b"PING": b"+PONG\r\n", b"HELLO": hello, b"INFO": b"$%d\r\n%b\r\n" % (len(info), info)}
            connection.sendall(answers.get(words[0].upper(), b"%0\r\n" if words[0] == b"CONFIG" else b"+OK\r\n"))

    return talk


GREETING = b"%1\r\n$5\r\nproto\r\n:3\r\n"


@pytest.mark.parametrize(
    "hello, info",
    [
        (b"+OK\r\n", b"redis_version:7\r\nrole:master"),
        (GREETING, b"redis_version:7\r\nrole:master\r\nused_memory:abc\r\nmaxmemory:5"),
        (GREETING, b"redis_version:7\r\nrole:master\r\nused_memory:" + b"9" * 5000 + b"\r\nmaxmemory:5"),
    ],
)
def test_what_answers_for_redis_in_another_form(tmp_path: Path, hello: bytes, info: bytes) -> None:
    """It fails in words for people: what the client raises, when it takes the answer apart, says nothing to them."""
    pytest.importorskip("redis")
    with listening(_redis(hello, info)) as port:
        ended = ask(tmp_path, ready.redis("REDIS_URL", timeout=10.0), REDIS_URL=f"redis://127.0.0.1:{port}")
    assert ended.outcome == "failed"
    assert re.fullmatch(r"the server that answers does not speak the Redis protocol \(\w+\)", ended.message), ended
