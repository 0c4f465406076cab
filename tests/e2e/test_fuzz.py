"""Broken input to a running server breaks nothing: its control socket, its WebSocket, its HTTP port."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.e2e.place import Place, Started, get, make_place
from tests.fuzzing import EXAMPLES, fuzzed
from tests.waiting import PATIENCE

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)
KINDS = ["init", "chat", "message", "task", "cancel", "ping", "history", "handover", "x", ""]
FIELDS = [
    "content",
    "message",
    "task",
    "query",
    "id",
    "turn_id",
    "session_id",
    "workspace_path",
    "stream",
    "before",
    "limit",
    "type",
]
FRAMES = st.one_of(
    st.text(),
    st.binary(max_size=200),
    JSON.map(json.dumps),
    st.builds(
        lambda kind, fields: json.dumps({"type": kind, **fields}),
        st.sampled_from(KINDS),
        st.dictionaries(st.sampled_from(FIELDS) | st.text(), JSON, max_size=4),
    ),
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, Started]]:
    """One server for all of it: what one input broke, the next one would show."""
    place = make_place(tmp_path_factory.mktemp("fuzz"))
    started = place.start("--demo", PREFLIGHT_CHAT_RATE="100000", PREFLIGHT_SESSION_LIMIT="100")
    started.until_ready()
    yield place, started
    place.close()


@pytest.fixture
def unbroken(served: tuple[Place, Started]) -> Iterator[Place]:
    """Afterwards the same processes serve, quietly, with as many descriptors as before, and no file is anywhere new."""
    place, started = served
    launcher = psutil.Process(started.pid)
    family = sorted(child.pid for child in launcher.children(recursive=True))
    descriptors = launcher.num_fds()
    folders = [place.folder / "home", Path(place.environ["XDG_RUNTIME_DIR"]) / "preflight"]
    before = [sorted(os.listdir(folder)) for folder in folders]
    yield place
    status, body = get(f"{place.url}/health")
    assert (status, json.loads(body)["status"]) == (200, "healthy")
    assert sorted(child.pid for child in launcher.children(recursive=True)) == family
    assert launcher.num_fds() <= descriptors + 1
    assert [sorted(os.listdir(folder)) for folder in folders] == before
    assert "Traceback" not in started.output
    assert "Replaced" not in started.output


def control_socket(place: Place, folder: int) -> str:
    """Its path by way of a descriptor of its folder: the real one may be longer than a Unix socket's may be."""
    (found,) = (Path(place.environ["XDG_RUNTIME_DIR"]) / "preflight").glob("*.sock")
    return f"/proc/self/fd/{folder}/{found.name}"


# "retire" is left out: it is a right message, and does what it says.
PIECES = st.one_of(
    st.binary(max_size=100),
    JSON.map(lambda value: json.dumps(value).encode() + b"\n"),
    st.builds(
        lambda kind, count, data: json.dumps({"kind": kind, "descriptors": count, "data": data}).encode() + b"\n",
        st.sampled_from(["handover", "serve", "drain", "socket", ""]),
        st.one_of(st.integers(-2, 300), JSON),
        JSON,
    ),
)


def test_control_socket(unbroken: Place) -> None:
    """A launcher that is sent rubbish by a process of its own user hangs up, and goes on serving."""
    folder = os.open(Path(unbroken.environ["XDG_RUNTIME_DIR"]) / "preflight", os.O_RDONLY | os.O_DIRECTORY)
    path = control_socket(unbroken, folder)

    @fuzzed
    @given(pieces=st.lists(PIECES, max_size=4))
    @example(pieces=[b"[" * 70_000 + b"\n"])
    @example(pieces=[b'{"kind": "handover", "descriptors": 0, "data": {}}\n'] * 4)
    def run(pieces: list[bytes]) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            caller.settimeout(PATIENCE)
            caller.connect(path)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                caller.sendall(b"".join(pieces))
                caller.shutdown(socket.SHUT_WR)
                while caller.recv(65536):
                    pass

    try:
        run()
    finally:
        os.close(folder)


def test_chat(unbroken: Place) -> None:
    """Whatever a frame holds, the answer is a message of the protocol, and the connection lives on or says why not."""
    url = unbroken.url.replace("http", "ws", 1) + "/ws/chat"
    connections = contextlib.ExitStack()
    connection: ClientConnection | None = None
    taken = 0

    @fuzzed
    @given(frame=FRAMES, initialized=st.booleans())
    @example(frame='{"type": "chat", "content": "\\ud800"}', initialized=True)
    @example(frame='{"type": "init", "session_id": "../../etc/passwd"}', initialized=False)
    @example(frame="[" * 60_000, initialized=True)
    def run(frame: str | bytes, initialized: bool) -> None:
        nonlocal connection, taken
        if connection is None:
            # Pings are made at random, in a thread of its own: hypothesis takes that for a strategy's.
            opening = connect(url, open_timeout=PATIENCE, max_size=None, ping_interval=None)
            connection = connections.enter_context(opening)
        chat = connection
        try:
            if initialized:
                chat.send('{"type": "init"}')
            chat.send(frame)
            chat.send('{"type": "ping", "id": "fence"}')
            while True:
                message: dict[str, Any] = json.loads(chat.recv(PATIENCE))
                assert isinstance(message["type"], str)
                if message["type"] == "error":
                    assert message["code"] != "internal", message
                if message.get("id") == "fence":
                    break
            taken += 1
        except ConnectionClosed as closed:
            assert closed.rcvd is not None, "it was cut off"
            assert closed.rcvd.code in (1003, 1007, 1008, 1009), closed.rcvd
            connection = None

    with connections:
        run()
    assert taken > EXAMPLES / 2


HEADERS = st.lists(
    st.tuples(st.binary(max_size=20), st.binary(max_size=40)).map(lambda pair: pair[0] + b": " + pair[1] + b"\r\n")
)
REQUESTS = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda method, path, headers, body: (
            method + b" " + path + b" HTTP/1.1\r\n" + b"".join(headers) + b"\r\n" + body
        ),
        st.sampled_from([b"GET", b"POST", b"DELETE", b"HEAD", b"OPTIONS", b"PATCH", b"BREW", b"\x00"]),
        st.sampled_from([b"/health", b"/diagnostics", b"/sessions/%2e%2e", b"/ws/chat", b"*", b"//", b"/%00", b""])
        | st.binary(max_size=40),
        HEADERS,
        st.binary(max_size=100),
    ),
)


def test_http(unbroken: Place) -> None:
    """Bytes on the port that are no request, or an odd one, are answered with less than 500 or hung up on."""

    @fuzzed
    @given(request=REQUESTS)
    @example(request=b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n")
    @example(request=b"GET /health HTTP/9.9\r\n\r\n")
    def run(request: bytes) -> None:
        with socket.create_connection(("127.0.0.1", unbroken.port), 20) as client:
            answer = b""
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                client.sendall(request)
                client.shutdown(socket.SHUT_WR)
                while piece := client.recv(65536):
                    answer += piece
        if answer:
            status = int(answer.split(b" ", 2)[1])
            assert 100 <= status < 500 or status == 501, (request, answer)

    run()
