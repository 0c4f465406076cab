"""Services that can be reached and are of no use: a forwarder, a rejected key, another server, one without TLS."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from preflight import ready
from tests.databases import PASSWORD, postgres
from tests.ready.asking import ask
from tests.ready.listeners import answering, listening, reset

LONG = 20.0  # seconds, for what answers at once


def forward(connection: socket.socket) -> None:
    """As a container's forwarder does whose service does not listen yet."""
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", 0), 1)
    connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("talk", [forward, reset])
def test_a_forwarder_without_a_service(
    tmp_path: Path, talk: Callable[[socket.socket], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts every connection, and closes it: nothing is behind it."""
    monkeypatch.setattr("preflight.ready.network.TO_HANG_UP", LONG)  # on a busy machine, the double takes its time
    with listening(talk) as port:
        ended = ask(tmp_path, ready.tcp(f"127.0.0.1:{port}", timeout=LONG))
    assert ended.outcome == "failed"
    closes = f"127.0.0.1:{port} accepts connections and closes them at once"
    assert ended.message.startswith((closes, f"127.0.0.1:{port}: the connection was closed"))  # even sooner


def wait(_connection: socket.socket) -> None:
    """It is the client's turn, as in most protocols."""


def greet(connection: socket.socket) -> None:
    connection.sendall(b"220 ready\r\n")


@pytest.mark.parametrize("talk", [wait, greet])
def test_a_service_that_keeps_a_connection(tmp_path: Path, talk: Callable[[socket.socket], object]) -> None:
    """One that waits for its client is there, and so is one that speaks first."""
    with listening(talk) as port:
        assert ask(tmp_path, ready.tcp(f"127.0.0.1:{port}", timeout=LONG)).outcome == "passed"


OPENAI = {"error": {"code": "invalid_api_key", "type": "invalid_request_error"}}
GOOGLE = {"error": {"code": 400, "details": [{"reason": "API_KEY_INVALID"}]}}
SCOPES = {"error": {"code": None, "type": "server_error", "message": "Missing scopes: model.request"}}
REFUSALS: dict[str, tuple[str, str, dict[str, Any], int, object, str]] = {
    "openai": ("OPENAI_API_KEY", "OPENAI_BASE_URL", {}, 401, OPENAI, "failed"),
    "anthropic": (
        "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", {}, 401, {"error": {"type": "authentication_error"}}, "failed",
    ),
    "google": ("GEMINI_API_KEY", "GOOGLE_GEMINI_BASE_URL", {}, 400, GOOGLE, "failed"),
    "a right that the key lacks": ("OPENAI_API_KEY", "OPENAI_BASE_URL", {}, 401, SCOPES, "unknown"),
    "the same, for the model itself": ("OPENAI_API_KEY", "OPENAI_BASE_URL", {"paid": True}, 401, SCOPES, "failed"),
    "a service of one's own": ("KEY", "VLLM_URL", {"key": "KEY"}, 401, {"error": "Unauthorized"}, "failed"),
    "one that is asked without a key": ("KEY", "VLLM_URL", {}, 401, {"error": "Unauthorized"}, "unknown"),
}  # fmt: skip


@pytest.mark.parametrize("who", REFUSALS)
def test_a_key_that_a_service_of_models_rejects(tmp_path: Path, who: str) -> None:
    """The model cannot be used with it; that a right is missing says nothing of the model."""
    variable, address, options, status, document, outcome = REFUSALS[who]

    class Refuses(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({} if self.path == "/health" else document).encode()
            self.send_response(200 if self.path == "/health" else status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Tests are silent."""

    test = ready.model(variable if address != "VLLM_URL" else address, "m", timeout=LONG, **options)
    with answering(Refuses) as url:
        ended = ask(tmp_path, test, **{variable: PASSWORD, address: url})
    assert ended.outcome == outcome, ended
    if outcome == "failed":
        assert ended.message == f"{variable} was rejected by the service (HTTP {status})"
        assert ended.fix == f"set {variable} to a key that works"


@pytest.mark.parametrize("variable", ["OLLAMA_HOST", "VLLM_URL"])
@pytest.mark.parametrize("status", [200, 302])
def test_another_server_in_the_place_of_models(tmp_path: Path, variable: str, status: int) -> None:
    """A page for every path, or a redirection to a login: no model is there."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Location", "/login")
            self.end_headers()
            self.wfile.write(b"<!doctype html>")

        def log_message(self, *_: object) -> None:
            """Tests are silent."""

    with answering(Page) as url:
        ended = ask(tmp_path, ready.model(variable, "m", timeout=LONG), **{variable: url})
    assert ended.outcome == "failed", ended
    assert "there is no list of models at its /" in ended.message


def test_tls_that_the_url_of_another_driver_wants(tmp_path: Path) -> None:
    """The application gets no connection to a server without TLS; nor does the requirement."""
    test = ready.postgres("DATABASE_URL", timeout=LONG)
    with postgres(tmp_path) as server:
        url = server.url().replace("postgresql:", "postgresql+asyncpg:")
        for query, outcome in (
            ("ssl=require", "failed"),
            ("schema=public&ssl=true", "failed"),
            ("ssl=require&sslmode=prefer", "passed"),  # libpq's own word counts
            ("ssl=prefer", "passed"),
            ("ssl=disable", "passed"),
        ):
            ended = ask(tmp_path, test, DATABASE_URL=f"{url}?{query}")
            assert ended.outcome == outcome, query
            assert outcome == "passed" or ended.message == "it does not speak TLS, which sslmode requires"
