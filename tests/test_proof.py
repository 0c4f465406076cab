"""What counts as an answer of a worker that is to replace another one, over real connections."""

from __future__ import annotations

import dataclasses
import select
import socket
import time
from collections.abc import Callable

import pytest

from preflight.launcher import proof
from preflight.launcher.proof import Proof
from preflight.settings import loading
from preflight.settings import model as settings
from tests.conftest import ROOT
from tests.waiting import PATIENCE


def chosen(**changes: object) -> settings.Settings:
    loaded = loading.load(ROOT, {}, {"demo": True})
    return dataclasses.replace(loaded, **changes)  # type: ignore[arg-type]


def judged(answer: bytes, *, at_once: bool = True, hang_up: bool = False) -> Proof:
    """A proof that got this, byte by byte or at once."""
    one = Proof(chosen(), time.monotonic())
    pieces = [answer] if at_once else [answer[index : index + 1] for index in range(len(answer))]
    for piece in pieces:
        one.theirs.sendall(piece)
        select.select([one], [], [], 5)
        one.read()
    if hang_up:
        one.theirs.close()
        select.select([one], [], [], 5)
        one.read()
    return one


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    "answer, given, problem",
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True, ""),
        (b"HTTP/1.0 404 Not Found\r\n\r\n", True, ""),
        (b"HTTP/1.1 499\r\n\r\n", True, ""),
        (b"HTTP/1.1 500 Internal Server Error\r\n\r\n", False, "answered with 500"),
        (b"HTTP/1.1 503 \r\n\r\n", False, "answered with 503"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", True, ""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 502 \r\n\r\n", False, "answered with 502"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", False, ""),
        (b"HTTP/1.1 20", False, ""),
        (b"", False, ""),
    ],
)
@pytest.mark.slow
def test_answers(answer: bytes, given: bool, problem: str, at_once: bool) -> None:
    """Any final status below 500 is an answer, however it comes."""
    one = judged(answer, at_once=at_once)
    assert (one.given, one.problem(time.monotonic())) == (given, problem)
    one.close()


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 20", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
@pytest.mark.slow
def test_no_http(said: bytes) -> None:
    """A connection that closes without a status is no answer."""
    one = judged(said, hang_up=True)
    assert not one.given
    assert one.problem(time.monotonic()) == "closed the connection without an answer in HTTP"
    one.close()


def test_too_much_of_nothing() -> None:
    """What sends on and on and no status is not read for ever."""
    one = Proof(chosen(), time.monotonic())
    one.theirs.settimeout(PATIENCE)
    while not one.problem(time.monotonic()):
        one.theirs.sendall(b"x" * 4096)
        one.read()
    assert one.problem(time.monotonic()) == "closed the connection without an answer in HTTP"
    one.close()


def test_deadline() -> None:
    """No answer in time is one as well."""
    now = time.monotonic()
    one = Proof(chosen(ready_timeout=30.0), now)
    assert one.problem(now + 29.9) == ""
    assert one.problem(now + 30.1) == "gave no answer within 30 s"
    one.close()


@pytest.mark.parametrize(
    "host, named",
    [
        ("127.0.0.1", b"127.0.0.1:8002"),
        ("0.0.0.0", b"127.0.0.1:8002"),
        ("::", b"[::1]:8002"),
        ("::1", b"[::1]:8002"),
        ("agent.example", b"agent.example:8002"),
        ("b\u00fccher.example", b"localhost:8002"),
    ],
)
def test_request(host: str, named: bytes) -> None:
    """It asks under the server's own name, says who asks, and wants no second answer."""
    one = Proof(chosen(host=host), time.monotonic())
    head = one.theirs.recv(4096).split(b"\r\n")
    assert head[0] == b"GET /health/ready HTTP/1.1"
    assert b"Host: " + named in head
    assert b"User-Agent: preflight/" in b"\n".join(head)
    assert b"Connection: close" in head
    one.close()


def test_path() -> None:
    """Ours is asked for its readiness, others for their first page, anybody for what the setting says."""
    assert chosen().readiness_path == "/health/ready"
    assert chosen(app="mine:app").readiness_path == "/"
    assert chosen(app="mine:app", ready_path="/up").readiness_path == "/up"
    assert chosen(ready_path="").readiness_path == ""


def test_connection() -> None:
    """Both ends are each other's, over TCP, as a client's would be."""
    ours, theirs = proof.connection()
    with ours, theirs:
        assert ours.getsockname() == theirs.getpeername()
        assert theirs.getpeername()[0] == "127.0.0.1"


def test_somebody_else_is_quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger who connects to the listener in between does not get the place."""
    strangers = []
    create_server: Callable[..., socket.socket] = socket.create_server

    def visited(*arguments: object, **options: object) -> socket.socket:
        listener = create_server(*arguments, **options)
        strangers.append(socket.create_connection(listener.getsockname()[:2]))
        return listener

    monkeypatch.setattr(socket, "create_server", visited)
    ours, theirs = proof.connection()
    with ours, theirs, strangers[0]:
        ours.sendall(b"x")
        assert theirs.recv(1) == b"x"
        assert ours.getsockname() == theirs.getpeername()
