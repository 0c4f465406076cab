"""What strangers send and make a server do: it goes on to answer others, its records stay, and nothing leaks."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
import requests
from websockets.sync.client import connect

from preflight.instances import unixsockets
from preflight.processes.channel import Channel
from preflight.redaction.redactor import MASK, Redactor
from preflight.redaction.stream import StreamRedactor
from preflight.text import coloured
from tests.e2e.chatting import Client, raw
from tests.e2e.place import KEYS, Place, Started, get, make_place
from tests.waiting import PATIENCE, until

linux = pytest.mark.skipif(sys.platform != "linux", reason="abstract names and /proc are Linux's")

TOKEN = "canary-Zq7vXw2LmN8pRt4KdY6hJb3F"
BEARER = f"Authorization: Bearer {TOKEN}\r\n"
ONE, TWO, THREE = "tk_9f8e7d6c5b4a3210", "Zq7vXw2LmN8pRt4KdY6h", "q8R2mX5vT1nB7kL4wZ9y"
MASKED = bytes(4)  # a mask of zeros
HOSTILE = "a\n" * 10_000
"""A text that takes as long to look through as a chat message of its size can."""


# Servers that several tests ask.


def _serve(folder: Path, *options: str, **environ: str) -> Iterator[Started]:
    place = make_place(folder / "place")
    try:
        yield place.start("--demo", *options, **environ).until_ready()
    finally:
        place.close()


@pytest.fixture(scope="module")
def open_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """Without a token, on loopback, with a short patience for clients."""
    yield from _serve(
        tmp_path_factory.mktemp("open"), PREFLIGHT_REQUEST_TIMEOUT="1", A_KEY=ONE, B_KEY='a!@#$%^&*("<>' * 2
    )


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """With a token."""
    yield from _serve(tmp_path_factory.mktemp("guarded"), PREFLIGHT_TOKEN=TOKEN)


def _asked(port: int, request: bytes) -> bytes:
    """What a server says to these bytes, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(PATIENCE)
        client.sendall(request)
        said = b""
        try:
            while data := client.recv(1 << 16):
                said += data
        except ConnectionResetError:
            pass
        return said


def _status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


# Frames.

FRAMES: dict[str, tuple[bytes, int]] = {
    "not masked": (b"\x81\x02{}", 1002),
    "compressed without being asked": (b"\xc1\x82" + MASKED + b"{}", 1002),
    "reserved bits": (b"\xb1\x82" + MASKED + b"{}", 1002),
    "an opcode for data that nobody has": (b"\x83\x80" + MASKED, 1002),
    "an opcode for control that nobody has": (b"\x8b\x80" + MASKED, 1002),
    "a ping in two parts": (b"\x09\x80" + MASKED, 1002),
    "a ping of 126 bytes": (b"\x89\xfe\x00\x7e" + MASKED + b"x" * 126, 1002),
    "the rest of nothing": (b"\x80\x82" + MASKED + b"{}", 1002),
    "a message within another one": (b"\x01\x82" + MASKED + b"{}\x81\x82" + MASKED + b"{}", 1002),
    "a close of one byte": (b"\x88\x81" + MASKED + b"x", 1002),
    "a close with a code that is never sent": (b"\x88\x82" + MASKED + b"\x03\xed", 1002),
    "a close with a reason that is no text": (b"\x88\x84" + MASKED + b"\x03\xe8\xff\xfe", 1007),
    "2**64 bytes": (b"\x81\xff" + b"\xff" * 8 + MASKED, 1009),
    "a request": (b"GET /health HTTP/1.1\r\n\r\n", 1002),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames_that_are_none(open_one: Started, name: str) -> None:
    """Each is answered with the close code that says why, at once; twelve of them are no line of the log each."""
    before = len(open_one.stderr.splitlines())
    sent, code = FRAMES[name]
    for _ in range(12):
        with raw(open_one.port) as client:
            client.sendall(sent)
            said = b""
            while data := client.recv(1 << 16):
                said += data
        close = said.rpartition(b"\x88")[2] if code != 1007 else said[said.rindex(b"\x88") + 1 :]
        assert int.from_bytes(close[1:3], "big") == code, said[-80:]
    assert get(f"{open_one.url}/health/live")[0] == 200
    assert len(open_one.stderr.splitlines()) - before <= 1


def test_what_follows_a_close(open_one: Started) -> None:
    """Messages behind a close are nobody's: there is no answer to them."""
    with raw(open_one.port) as client:
        client.sendall(b"\x88\x82" + MASKED + b"\x03\xe8" + (b"\x81\x82" + MASKED + b"{}") * 50)
        said = b""
        while data := client.recv(1 << 16):
            said += data
    assert said.endswith(b"\x88\x02\x03\xe8")
    assert b"init_required" not in said


@pytest.mark.parametrize(
    "text", ["[" * 60_000, "9" * 10_000, '{"type":' * 8000, '{"a":1e999999}', "\ufeff{}", '{"type": NaN}', "{}\0"],
    ids=["deep", "a large number", "open", "beyond floats", "a mark first", "no number", "NUL"],
)  # fmt: skip
def test_json_that_is_hard_to_read(open_one: Started, text: str) -> None:
    """It is refused, and the same connection is answered afterwards."""
    client = Client(open_one.url)
    try:
        client.socket.send(text)
        assert client.refusal() == "init_required"
        assert client.init()["messages"] == []
    finally:
        client.close()


# Requests.

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
ODD: dict[str, bytes] = {
    "two lengths": b"Content-Length: 0\r\nContent-Length: 45\r\n\r\n",
    "a length and chunks": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks by another name": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunks that are not last": b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "a length with a sign": b"Content-Length: +0\r\n\r\n",
    "a length of words": b"Content-Length: 0, 45\r\n\r\n",
    "a chunk with a sign": b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    "a chunk of 2**64": b"Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\n",
    "a blank before the colon": b"Content-Length : 0\r\n\r\n",
    "a header over two lines": b"X-One: a\r\n Transfer-Encoding: chunked\r\n\r\n",
    "a NUL": b"X-One: a\0b\r\n\r\n",
    "a line that ends in CR": b"X-One: a\rTransfer-Encoding: chunked\r\n\r\n",
    "lines that end in LF": b"X-One: a\n\n",
}


@pytest.mark.parametrize("name", ODD)
def test_requests_that_two_servers_read_differently(open_one: Started, name: str) -> None:
    """400 and the end of the connection: what follows is not taken for a request of somebody else."""
    head = b"POST /login HTTP/1.1\r\nHost: localhost:%d\r\n" % open_one.port
    said = _asked(open_one.port, head + ODD[name] + SMUGGLED)
    assert _status(said) == 400, said
    assert said.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "host",
    [
        "localhost.:{}", "evil@localhost:{}", "localhost:{}@evil", "localhost:{}, evil", "localhost:{}/",
        "127.1:{}", "0x7f000001:{}", "2130706433:{}",
        "[::ffff:127.0.0.1]:{}", "localhost:{}0", "localhost:", "localhost:80", "*", "",
    ],
)  # fmt: skip
def test_names_that_are_almost_ours(open_one: Started, host: str) -> None:
    """A browser that was led here under another name gets nothing, whatever a parser would make of it."""
    name = host.format(open_one.port).encode()
    said = _asked(open_one.port, b"GET /diagnostics HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % name)
    assert _status(said) in (400, 421), said[:200]


@pytest.mark.parametrize(
    "origin",
    [
        "null", "", "http://127.0.0.1:{}.evil", "http://127.0.0.1:{}@evil", "http://evil/http://127.0.0.1:{}",
        "http://127.0.0.1:{}/", "http://127.0.0.1", "ws://127.0.0.1:{}", "file://", "http://127.0.0.1:{} http://evil",
        "http://localhost:{}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method, path", [("POST", "/diagnostics/run"), ("DELETE", "/sessions"), ("GET", "/metrics")])
def test_origins_that_are_almost_ours(open_one: Started, origin: str, method: str, path: str) -> None:
    """Another page's request is refused before anything is done or told; localhost is not 127.0.0.1 to a browser."""
    port = open_one.port
    lines = f"Host: 127.0.0.1:{port}\r\nOrigin: {origin.format(port)}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    said = _asked(port, f"{method} {path} HTTP/1.1\r\n{lines}".encode())
    assert _status(said) == 403, said[:200]


@pytest.mark.parametrize(
    "path",
    [
        "/%64iagnostics", "//diagnostics", "/./diagnostics", "/health/../diagnostics",
        "/health%2f..%2fdiagnostics",
        "/health/live/../../metrics", "/login/../metrics", "/login.css/../metrics", "/diagnostics/",
        "/diagnostics;/health",
        "/diagnostics?/health", "/diagnostics%00/health", "/DIAGNOSTICS", "/health;/../metrics",
        "/health/%2e%2e/metrics", "http://x/diagnostics",
        "/static/..%2f..%2fsecurity.py", "/static/%2e%2e/%2e%2e/settings.py", "/static//etc/passwd",
    ],
)  # fmt: skip
def test_ways_round_the_public_paths(guarded: Started, path: str) -> None:
    """However a path is written, without the token there is nothing but the way in; with it, no file from elsewhere."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{guarded.port}\r\nConnection: close\r\n"
    assert _status(_asked(guarded.port, f"{request}\r\n".encode())) in (400, 401)
    inside = _asked(guarded.port, f"{request}{BEARER}\r\n".encode())
    assert b"root:" not in inside
    assert b"def " not in inside


def test_the_next_request_on_a_connection(guarded: Started) -> None:
    """A token is a request's and not a connection's: those behind it on the same one need it as well."""
    host = f"Host: 127.0.0.1:{guarded.port}\r\n"
    requests_ = [BEARER, "", "Cookie: preflight=x\r\n", BEARER + "Connection: close\r\n"]
    said = _asked(guarded.port, "".join(f"GET /metrics HTTP/1.1\r\n{host}{one}\r\n" for one in requests_).encode())
    assert re.findall(rb"HTTP/1\.1 (\d+)", said) == [b"200", b"401", b"401", b"200"]


def test_several_tokens(guarded: Started) -> None:
    """The first that is offered counts, in a form and among subprotocols: nobody tries many with one question."""
    offered = [base64.urlsafe_b64encode(one).decode().rstrip("=") for one in (b"wrong-one-of-them", TOKEN.encode())]
    protocols = ", ".join(f"preflight.token.{one}" for one in offered)
    form = f"token=wrong-one&token={TOKEN}"
    said = requests.post(f"{guarded.url}/login", data=form, allow_redirects=False, timeout=PATIENCE)
    assert (said.status_code, "set-cookie" in said.headers) == (401, False)
    head = f"GET /ws/chat HTTP/1.1\r\nHost: 127.0.0.1:{guarded.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    key = f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {'A' * 22}==\r\nSec-WebSocket-Protocol: {protocols}\r\n\r\n"
    assert _status(_asked(guarded.port, (head + key).encode())) == 401


@pytest.mark.parametrize("target", ["//evil.example/", "/\\evil.example", "/%09/evil.example", "https:evil.example"])
def test_where_a_login_leads(guarded: Started, target: str) -> None:
    """A link that a person follows leads back to this server, through the form and behind it."""
    asked = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{guarded.port}\r\nAccept: text/html\r\nConnection: close\r\n\r\n"
    led = re.search(rb"location: (\S+)", _asked(guarded.port, asked.encode()))
    assert led is None or led[1].startswith(b"/login?next=")
    answer = requests.post(
        f"{guarded.url}/login", data={"token": TOKEN, "next": target}, allow_redirects=False, timeout=20
    )
    assert (answer.status_code, answer.headers["location"][:2] in ("/", "/%")) == (303, True)


def test_a_body_that_was_announced(open_one: Started) -> None:
    """Who waits to be asked for a body that nobody wants is answered, and does not keep the connection."""
    head = (
        f"GET /health HTTP/1.1\r\nHost: 127.0.0.1:{open_one.port}\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n"
    )
    assert _status(_asked(open_one.port, head.encode())) == 200


@pytest.mark.parametrize(
    "path",
    [
        "/diagnostics/history?limit=" + "9" * 6000, "/sessions?limit=%D9%A3", "/sessions?limit=1_0", "/sessions/%00",
        "/sessions?offset=" + "-" * 500, "/diagnostics/history/%ed%a0%80", "/diagnostics/history/..%2f..%2freport",
        "/diagnostics/history?address=%00%ff", "/diagnostics/checks/%00%0a%1b[2J", "/diagnostics/run/%ff",
    ],
)  # fmt: skip
def test_odd_questions(open_one: Started, path: str) -> None:
    """They get an answer that does not repeat what a terminal would obey, and nothing is logged."""
    before = open_one.stderr
    said = _asked(open_one.port, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert 200 <= _status(said) < 500
    assert b"\x1b" not in said
    assert "Traceback" not in open_one.stderr.removeprefix(before)


@pytest.mark.parametrize(
    "header",
    [
        "Cookie: " + "preflight_{port}=1.x.y; " * 2600, "Range: bytes=" + "0-1," * 15_000,
        "Accept: " + "a/b;q=0.5," * 6000,
        "If-None-Match: " + '"x",' * 15_000, "Sec-WebSocket-Protocol: " + "preflight.token.a," * 3500,
        "Authorization: Bearer " + "\xff" * 60_000,
    ],
    ids=lambda header: header.partition(":")[0],
)  # fmt: skip
def test_headers_that_make_work(guarded: Started, header: str) -> None:
    """As many of something as a head can hold are looked at in no time worth speaking of."""
    head = f"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1:{guarded.port}\r\n{header.format(port=guarded.port)}\r\n"
    end = "Connection: close\r\n\r\n"
    begun = time.monotonic()
    assert _status(_asked(guarded.port, (head.replace("/health/live", "/metrics") + end).encode("latin-1"))) == 401
    assert _status(_asked(guarded.port, (head + end).encode("latin-1"))) == 200
    assert time.monotonic() - begun < 20


# What takes long for some.


def _longest_health(url: str, ended: threading.Event) -> float:
    """The longest that /health took to answer until something has ended, in seconds."""
    longest = 0.0
    while not ended.is_set():
        begun = time.monotonic()
        assert get(f"{url}/health/live", timeout=PATIENCE)[0] == 200
        longest = max(longest, time.monotonic() - begun)
        time.sleep(0.01)
    return longest


def _while_it_is_asked(url: str, work: Callable[[], object]) -> tuple[float, float]:
    """The longest that others waited for /health meanwhile, and how long the work took, in seconds."""
    ended = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        longest = pool.submit(_longest_health, url, ended)
        begun = time.monotonic()
        try:
            work()
        finally:
            ended.set()
        return longest.result(), time.monotonic() - begun


def _frame(text: str) -> bytes:
    data = text.encode()
    return b"\x81\xff" + len(data).to_bytes(8, "big") + MASKED + data


def test_long_messages_of_many(open_one: Started) -> None:
    """Many clients send messages that take long, as fast as they may, and others are answered meanwhile."""

    def send(number: int) -> None:
        with raw(open_one.port) as client:
            client.sendall(_frame('{"type": "init"}'))
            said = b""
            for place in range(2):
                client.sendall(_frame(json.dumps({"type": "chat", "content": f"{number} {place} {HOSTILE}"})))
            while said.count(b'"type": "accepted"') < 2:
                data = client.recv(1 << 16)
                assert data, said[-200:]
                said += data

    def everybody() -> None:
        with ThreadPoolExecutor(12) as pool:
            list(pool.map(send, range(12)))

    longest, whole = _while_it_is_asked(open_one.url, everybody)
    assert longest < max(0.5, whole / 8)


def test_a_long_transcript(open_one: Started) -> None:
    """Whoever exports, resumes or pages through a long transcript keeps nobody else waiting."""
    client = Client(open_one.url)
    exported: list[tuple[int, str]] = []
    try:
        session = client.init()["session_id"]
        for number in range(10):
            assert client.ask(f"{number} {HOSTILE}")[-1]["type"] == "result"
        longest, whole = _while_it_is_asked(
            open_one.url, lambda: exported.append(get(f"{open_one.url}/sessions/{session}", PATIENCE))
        )
        assert (exported[0][0], len(exported[0][1]) > 10 * len(HOSTILE)) == (200, True)
        assert longest < max(0.5, whole / 2)

        def pages() -> None:
            for _ in range(5):
                assert client.send("history", limit=100).receive("history")["messages"]
            again = Client(open_one.url)
            try:
                assert again.init(session_id=session)["resumed"]
            finally:
                again.close()

        longest, whole = _while_it_is_asked(open_one.url, pages)
        assert longest < max(0.5, whole / 2)
    finally:
        client.close()


# The audit.


def test_calls_for_a_rerun_do_not_fill_the_audit(open_one: Started) -> None:
    """Who calls while one goes on gets that one; the first callers are recorded, and the others by their number."""
    request = b"POST /diagnostics/run HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    calls = 1500
    with socket.create_connection(("127.0.0.1", open_one.port)) as client:
        client.settimeout(PATIENCE)
        said = b""
        for _ in range(calls // 50):
            client.sendall(request * 50)
            before = said.count(b"HTTP/1.1 ")
            while said.count(b"HTTP/1.1 ") < before + 50:
                said += client.recv(1 << 16)
    led = said.count(b"HTTP/1.1 202")
    assert led > 50
    run = re.search(rb'"run_id": ?"(\w+)"', said)
    assert run is not None
    until(lambda: '"running"' not in get(f"{open_one.url}/diagnostics/run/{run[1].decode()}")[1], "the re-run is over")
    audit = _state(open_one) / "audit.log"
    until(lambda: " more=" in audit.read_text(), "the others are counted")
    lines = [
        line for line in audit.read_text().splitlines() if f"run_id={run[1].decode()}" in line and " rerun " in line
    ]
    assert len(lines) < 20
    assert sum(int(found[1]) if (found := re.search(r" more=(\d+)", line)) else 1 for line in lines) == led


def _state(started: Started) -> Path:
    """The state folder that a process was started with."""
    environ = Path(f"/proc/{started.pid}/environ").read_bytes().split(b"\0")
    return Path(next(one for one in environ if one.startswith(b"PREFLIGHT_STATE_DIR=")).partition(b"=")[2].decode())


@linux
def test_guesses_over_ipv4_at_a_server_of_both(place: Place) -> None:
    """Each address has patience and a name of its own, as on a server of IPv4 alone."""
    started = place.start("--demo", "--host", "::", PREFLIGHT_TOKEN=TOKEN).until_ready()

    def guess(peer: str) -> float:
        with socket.socket() as client:
            client.settimeout(PATIENCE)
            client.bind((peer, 0))
            client.connect(("127.0.0.1", place.port))
            begun = time.monotonic()
            client.sendall(
                f"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{place.port}\r\nAuthorization: Bearer x\r\n\r\n".encode()
            )
            assert client.recv(100).startswith(b"HTTP/1.1 401")
            return time.monotonic() - begun

    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            guess("127.0.0.2")
        slow = [pool.submit(guess, "127.0.0.2") for _ in range(4)]
        assert guess("127.0.0.3") < 0.4
        assert max(one.result() for one in slow) > 0.4
    started.stop()
    audit = (place.state / "audit.log").read_text()
    assert "127.0.0.3" in audit
    assert re.search(r"login_failed .*peer=127\.0\.0\.2 more=2 ", audit), audit
    assert "::/64" not in audit


def test_addresses_that_are_texts(place: Place) -> None:
    """A zone can be any text: what a client writes there makes no second line and no colour in the audit."""
    started = place.start("--demo", PREFLIGHT_TOKEN=TOKEN, PREFLIGHT_TRUSTED_PROXIES="127.0.0.0/8").until_ready()
    forged = "fe80::1%x uid=0 event=signal \x9b31m\xe2\x80\xae"
    for name in ("X-Forwarded-For", "Forwarded"):
        said = requests.get(
            f"{place.url}/metrics",
            headers={name: forged.encode("latin-1", "replace"), "Authorization": "Bearer wrong-token"},
            timeout=PATIENCE,
        )
        assert said.status_code == 401
    started.stop()
    lines = [line for line in (place.state / "audit.log").read_text().splitlines() if "login_failed" in line]
    assert len(lines) == 2
    for line in lines:
        assert line.isprintable()
        assert " event=signal" not in re.sub(r'"(?:[^"\\]|\\.)*"', "", line)


# The control socket.

TRICKLE = """
import socket, sys, threading, time
port = int(sys.argv[1])
held = socket.socket(); held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
held.bind(("127.0.0.1", port)); held.listen()
line = socket.socket(socket.AF_UNIX); line.bind(f"\\0preflight/{port}/" + "ab" * 16); line.listen(64)
print("listening", flush=True)
def serve(one):
    try:
        one.recv(4096)
        while True:
            one.sendall(b" "); time.sleep(0.2)
    except OSError:
        pass
while True:
    threading.Thread(target=serve, args=(line.accept()[0],), daemon=True).start()
"""


@linux
@pytest.mark.parametrize("options", [["--port-status"], ["--check-only", "--demo"]])
def test_a_neighbour_that_answers_a_byte_at_a_time(place: Place, options: list[str]) -> None:
    """It has the time for an answer, and not that time for each byte."""
    program = place.folder / "trickle.py"
    program.write_text(TRICKLE)
    place.spawn(sys.executable, str(program), str(place.port)).until_says("listening")
    assert place.start(*options).wait(PATIENCE) in (0, 1)


def test_a_message_in_pieces() -> None:
    """The deadline of a message is that of all of it; one that comes whole in time is heard, and so is the next."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    channel, line = Channel(ours), b'{"kind":"who","data":{},"descriptors":0}\n'
    with theirs:
        theirs.sendall(line[:9])
        threading.Timer(0.1, theirs.sendall, (line[9:] + line,)).start()
        for _ in range(2):
            message = channel.receive(10)
            assert message is not None
            assert message.kind == "who"
        ended = threading.Event()

        def drip() -> None:
            while not ended.wait(0.05):
                theirs.sendall(b" ")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            with pytest.raises(TimeoutError):
                channel.receive(0.5)
        finally:
            ended.set()
            dripping.join()
    channel.close()


FLOOD = """
import os, socket, sys, time
os.setgid(65534); os.setuid(65534)
name, port = "\\0" + sys.argv[1], int(sys.argv[2])
taken = []
for number in range(300):
    # Names like ours, whose queues are full, or that would be further rows of the kernel's table.
    row = f"\\nffff: 2 0 00010000 0001 01 {number} @preflight/{port}/{number:032x}" if number % 2 else ""
    one = socket.socket(socket.AF_UNIX); one.bind(f"\\0preflight/{port}/{number:032x}{row}"[:107]); one.listen(0)
    taken.append(one)
    if number % 3 == 0:
        caller = socket.socket(socket.AF_UNIX); caller.setblocking(False)
        caller.connect(one.getsockname()); taken.append(caller)
print("flooding", flush=True)
end, held = time.monotonic() + 20, []
while time.monotonic() < end:
    one = socket.socket(socket.AF_UNIX); one.setblocking(False)
    try:
        one.connect(name)
        socket.send_fds(one, [b'{"kind":"handover","data":{},"descriptors":1}\\n' * 20], [2])
    except OSError:
        pass
    held.append(one)
    if len(held) > 100:
        held.pop(0).close()
"""


@linux
@pytest.mark.needs_root("to be another account")
def test_another_account_calls_without_end(place: Place) -> None:
    """It is hung up on: status and replacement go on, no descriptor stays, and its names stand for nobody."""
    old = place.start("--demo").until_ready()
    (name,) = unixsockets.abstract_names(f"preflight/{place.port}/")
    before = len(os.listdir(f"/proc/{old.pid}/fd"))
    stranger = place.spawn(sys.executable, "-c", FLOOD, name[1:], str(place.port), cwd=Path("/")).until_says("flooding")
    assert "served by an instance of ours" in place.run("--port-status").output
    until(lambda: len(os.listdir(f"/proc/{old.pid}/fd")) <= before + 8, "nothing that was sent is kept")
    place.start("--demo").until_ready()
    assert old.wait() == 0
    assert stranger.process.poll() is None


# Secrets that consist of several.

JWT = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4ifQ"
    ".SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c"
)
PARTS: dict[str, tuple[str, str, str]] = {
    "the signature of a web token": ("MY_JWT", JWT, JWT.rpartition(".")[2]),
    "what a web token says": ("SESSION_TOKEN", f"Bearer {JWT}", JWT.split(".")[1]),
    "a key behind its identifier": ("MAIL_API_KEY", f"SG.ngeVfQFYQlKU0ufo8x5d1A.{TWO}{THREE}", f"{TWO}{THREE}"),
    "keys with a sign between them": ("API_KEYS", f"{TWO}#{THREE}", THREE),
    "a hash behind its method": ("HTPASSWD", f"me:$apr1$abcdefgh${TWO}", TWO),
    "a list of variables": ("CONTAINER_ENV", json.dumps([{"name": "DB_PASSWORD", "value": TWO}]), TWO),
    "a list of variables, deeper": ("TASK", json.dumps({"c": [{"env": [{"name": "API_KEY", "value": ONE}]}]}), ONE),
    "a list of keys and values": ("X_AUTH_CONFIG", json.dumps([{"key": "secret", "value": TWO}]), TWO),
    "an option": ("EXTRA_ARGS", f"--verbose --password {TWO} --x", TWO),
    "an option behind another": ("EXTRA_ARGS", f"--client-secret-value --api-key {TWO}", TWO),
    "an option in quotes": ("EXTRA_ARGS", f"--token '{TWO}'", TWO),
    "a login of curl": ("CURL_ARGS", f"-u me:{TWO} https://api.example.org", TWO),
    "a netrc": ("NETRC", f"machine example.org login me password {TWO}", TWO),
    "an npmrc": ("NPM_CONFIG", f"//registry.npmjs.org/:_authToken={TWO}", TWO),
    "an element": ("SETTINGS_XML", f"<server><id>x</id><password>{TWO}</password></server>", TWO),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_values(name: str) -> None:
    """What an application would take out of a value is known, in every form."""
    variable, value, part = PARTS[name]
    redactor = Redactor.of_variables({variable: value})
    forms = (
        part,
        quote(part),
        base64.b64encode(part.encode()).decode().rstrip("="),
        part.encode().hex(),
        f"{part[:14]}...",
    )
    for form in forms:
        assert form.removesuffix("...") not in redactor.text(f"it is <{form}>.")


@pytest.mark.parametrize(
    "variable, value, harmless",
    [
        ("EXTRA_ARGS", "--password-file /run/secrets/db --name my-service-2024 --token-url https://id.example.org/oauth",
         "/run/secrets/db my-service-2024 https://id.example.org/oauth"),
        ("CONTAINER_ENV", json.dumps([{"name": "MODEL", "value": "gpt-4o-mini-2024-07-18"}]), "gpt-4o-mini-2024-07-18"),
        ("TASK", json.dumps([{"name": "token service", "image": "registry.example.org/team/app:1.2.3"}]),
         "registry.example.org/team/app:1.2.3 token service"),
        ("MY_AUTH", "deploy@db-1.eu-west-1.example.org", "db-1.eu-west-1.example.org example"),
        ("BUILD_KEYS", "release.candidate.number.seventeen", "release candidate number seventeen"),
        ("SETTINGS_XML", "<token-type>authorization</token-type><password/>", "authorization"),
        ("PROSE", "the password is what you have chosen yourself", "password is what you have chosen yourself"),
    ],
)  # fmt: skip
def test_what_stands_beside_secrets_stays(variable: str, value: str, harmless: str) -> None:
    """Places, names and words in such values stay readable."""
    assert Redactor.of_variables({variable: value}).text(harmless) == harmless


@pytest.mark.parametrize(
    "pump", ["a.", "#", "-p a ", "password ", "a=", "<a>", '{"name":"key","value":', "$a", "-u a:"]
)
def test_values_of_several_in_proportion(pump: str) -> None:
    """Four times the value takes about four times as long to take apart."""

    def spent(length: int) -> float:
        begun = time.process_time()
        Redactor.of_variables(
            {"A_KEY": pump * (length // len(pump)), "A_CONFIG": pump * (length // len(pump)) + "token"}
        )
        return time.process_time() - begun

    spent(1000)
    assert spent(120_000) < 9 * max(spent(30_000), spent(30_000), 0.05)


# Secrets with something in them that nobody sees.

UNSEEN = {
    "NUL": "\0", "vertical tab": "\v", "form feed": "\f", "next line": "\x85", "line": "\u2028", "paragraph": "\u2029",
    "zero width": "\u200b", "joiner": "\u2060", "soft hyphen": "\xad", "mark": "\ufeff", "to the end": "\x1b[K",
    "as grep colours": "\x1b[01;31m\x1b[K", "in a page": "<wbr>",
}  # fmt: skip


@pytest.mark.parametrize("name", UNSEEN)
@pytest.mark.parametrize("size", [4, 7])
def test_pieces_with_something_unseen_between(name: str, size: int) -> None:
    """Anybody can read a key through it: pieces of it are one, in a text as in a stream."""
    redactor = Redactor.of_variables({"A_KEY": TWO})
    broken = UNSEEN[name].join(TWO[start : start + size] for start in range(0, len(TWO), size))
    for shown in (redactor.text(f"key {broken}!"), coloured(StreamRedactor(redactor).next(f"key {broken}!", 1000))):
        assert MASK in shown
        assert not any(TWO[start : start + 4] in shown for start in range(len(TWO) - 3)), shown


@pytest.mark.parametrize("pump", ["\0", "a\0", "\x1b[K", "\u200b", "a\u2028 ", "\xad\n", "\x1b[01;31m\x1b[Ka", "<wbr>"])
def test_unseen_in_proportion(pump: str) -> None:
    """Nothing but that takes time in proportion to it."""
    redactor = Redactor.of_variables({"A_KEY": TWO, "B_KEY": f"{ONE}\0{THREE}"})

    def spent(length: int) -> float:
        text, best = pump * (length // len(pump)), 9e9
        for _ in range(2):
            begun = time.process_time()
            redactor.after("", text)
            best = min(best, time.process_time() - begun)
        return best

    redactor.after("", pump)
    assert spent(100_000) < 9 * max(spent(25_000), 0.01)


# What an application prints.

TALKS = """
import os, time
KEY, JWT = os.environ["MY_API_KEY"], os.environ["MY_JWT"]
UNSEEN = ["\\0", "\\v", "\\f", "\\x85", "\\u2028", "\\u200b", "\\x1b[K", "\\x1b[01;31m\\x1b[K"]
def say(text):
    os.write(1, text.encode())
for between in UNSEEN:
    say("unseen " + between.join([KEY[:7], KEY[7:14], KEY[14:]]) + "\\n")
for part in JWT.split("."):
    say("part " + part + "\\n")
for before in range(8150, 8196, 5):
    say("x" * before + KEY + "y" * 9000 + KEY + "\\n")
say("half " + KEY[:11])
time.sleep(0.4)
say(KEY[11:] + " whole\\n")
say("over" + KEY + "\\rshort\\n")
say("link \\x1b]8;;http://h/" + KEY + "\\x07here\\x1b]8;;\\x07\\n")
say("title \\x1b]0;" + KEY + "\\x1b\\\\ set\\n")
os.write(1, b"raw \\xff" + KEY.encode() + b"\\xfe\\n")
os.write(2, "utf-16 ".encode() + KEY.encode("utf-16-le") + b"\\n")
say("the end of it\\n")
from small import app
"""


def test_what_an_application_prints(place: Place) -> None:
    """Neither output nor log has more of a key than nobody would know it by, however the application breaks it."""
    place.write_module("talks", TALKS)
    log = place.folder / "a.log"
    started = place.start(
        "--demo", "--app", "talks:app", "--log-file", str(log), MY_API_KEY=TWO, MY_JWT=JWT
    ).until_ready()
    started.until_says("the end of it").stop()
    assert "half [redacted] whole" in started.output
    pieces = [one[start : start + 7] for one in (TWO, *JWT.split(".")) for start in range(len(one) - 6)]
    for said in (started.stdout, started.stderr, log.read_text()):
        assert [piece for piece in pieces if piece in said] == []
    assert "\x1b]" not in started.output


LEAKS = """
import json, os, subprocess, sys
import pytest
@pytest.mark.critical("Leaks")
def test_leaks(settings, details):
    "It says what it has."
    held = settings.envfile.values
    key, parts = held["MY_API_KEY"], [*held["MY_JWT"].split("."), json.loads(held["TASK"])[0]["value"]]
    os.write(1, ("raw " + key + "\\n").encode())
    subprocess.run(["echo", "child", *parts])
    print("said", key, *parts)
    details.update(parts=parts, unseen="\\u200b".join([key[:7], key[7:14], key[14:]]))
    assert not os.path.exists(os.environ["HOME"] + "/fail"), f"bad {key} {' '.join(parts)}"
"""


def _of(*secrets: str) -> list[str]:
    return [one[start : start + 8] for one in secrets for start in range(len(one) - 7)]


def _pieces_in(said: str, pieces: list[str]) -> list[str]:
    return [piece for piece in pieces if piece in said]


def test_keys_that_change_while_it_serves(equipped_project: Place) -> None:
    """A re-run reads the new ones: neither they nor the old ones, nor their parts, come out anywhere."""
    place, log = equipped_project, equipped_project.folder / "a.log"
    place.write_requirement("leaks", LEAKS)

    def variables(key: str, password: str) -> dict[str, str]:
        return {
            **KEYS,
            "MY_API_KEY": key,
            "MY_JWT": JWT,
            "TASK": f"'{json.dumps([{'name': 'PASSWORD', 'value': password}])}'",
        }

    place.write_env_file(**variables(TWO, f"{ONE}AbCd"))
    started = place.start("--log-file", str(log)).until_ready()
    with connect(f"ws://127.0.0.1:{place.port}/ws/diagnostics") as follower:
        place.write_env_file(**variables(THREE, f"{ONE}XyZw"))
        (place.folder / "home" / "fail").touch()
        run = requests.post(f"{place.url}/diagnostics/run", timeout=PATIENCE).json()["run_id"]
        frames = ""
        while '"type": "run_finished"' not in frames:
            frames += str(follower.recv(PATIENCE))
        frames += str(follower.recv(PATIENCE))
    bundle = place.folder / "out.zip"
    place.run("--bundle", str(bundle))
    asked = (
        f"/diagnostics/run/{run}",
        "/diagnostics",
        "/diagnostics/history",
        f"/diagnostics/history/{run}",
        "/metrics",
    )
    said = {path: get(place.url + path)[1] for path in asked}
    assert '"Leaks"' in said["/diagnostics"]
    assert MASK in said["/diagnostics"]
    started.stop()
    said |= {"frames": frames, "output": started.output, "log": log.read_text()}
    said |= {str(file): file.read_text(errors="replace") for file in place.state.rglob("*") if file.is_file()}
    with zipfile.ZipFile(bundle) as zipped:
        said |= {f"bundle: {name}": zipped.read(name).decode() for name in zipped.namelist()}
    pieces = _of(TWO, THREE, f"{ONE}AbCd", JWT.rpartition(".")[2])
    assert {name: found for name, text in said.items() if (found := _pieces_in(text, pieces))} == {}


@pytest.mark.parametrize("form", ["github", "junit", "markdown", "json", "text"])
def test_parts_of_keys_in_formats(equipped_project: Place, form: str) -> None:
    """What is derived from values is in no format either."""
    place = equipped_project
    place.write_requirement("leaks", LEAKS)
    task = f"'{json.dumps([{'name': 'PASSWORD', 'value': THREE}])}'"
    place.write_env_file(**KEYS, MY_API_KEY=TWO, MY_JWT=JWT, TASK=task)
    (place.folder / "home" / "fail").touch()
    checked = place.run("--check-only", "--format", form)
    assert checked.process.returncode == 1
    assert "bad" in checked.output
    assert _pieces_in(checked.output, _of(TWO, THREE, JWT.rpartition(".")[2])) == []


@linux
def test_what_others_see_of_its_processes(open_one: Started, guarded: Started) -> None:
    """Any account can read a command line: no key stands in that of the launcher, the worker or what they start."""
    for started in (open_one, guarded):
        for pid in [started.pid, *started.family()]:
            shown = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
            assert TOKEN not in shown
            assert ONE not in shown


def test_modes_without_a_umask(place: Place) -> None:
    """Transcripts, reports, audit, log and bundle are this user's alone, although a umask leaves all open."""
    place.before = ["sh", "-c", 'umask 0 && exec "$@"', "sh"]
    started = place.start("--demo", "--log-file", str(place.state / "a.log")).until_ready()
    client = Client(started.url)
    try:
        client.init()
        client.answer("hello")
        assert place.run("--bundle", str(place.state / "out.zip")).process.returncode == 0
        found = {file.name: file.stat().st_mode & 0o077 for file in place.state.rglob("*")}
        assert {"sessions.sqlite", "audit.log", "a.log", "report.json", "history"} <= set(found)
        assert not any(found.values()), found
    finally:
        client.close()
