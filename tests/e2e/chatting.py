"""A chat client for tests, over a real WebSocket, and the OpenAI-compatible server that stands in for a provider."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.e2e.place import KEYS, Place, Started, get, listening
from tests.portnumbers import unused_port
from tests.waiting import PATIENCE, until

Message = dict[str, Any]
ENDINGS = ("result", "error")


def schema_of(url: str) -> dict[str, Any]:
    """The schema that the server serves."""
    served: dict[str, Any] = json.loads(get(f"{url}/chat/schema.json")[1])
    return served


class Client:
    """One connection; everything that comes is checked against the served schema."""

    def __init__(self, url: str, *, patience: float = PATIENCE) -> None:
        self.url = url
        self._patience = patience
        self._open = connect(url.replace("http", "ws", 1) + "/ws/chat", open_timeout=patience)
        self.socket: ClientConnection = self._open.__enter__()
        schema = schema_of(url)
        self._validator = jsonschema.Draft202012Validator({**schema, "$ref": "#/$defs/server"})
        self.connected = self.receive("connected")

    def send(self, kind: str, **fields: Any) -> Client:
        self.socket.send(json.dumps({"type": kind, **fields}))
        return self

    def next(self) -> Message:
        message: Message = json.loads(self.socket.recv(self._patience))
        self._validator.validate(message)
        return message

    def receive(self, kind: str) -> Message:
        """The next message, which must be of this type."""
        message = self.next()
        assert message["type"] == kind, message
        return message

    def until(self, *kinds: str) -> list[Message]:
        """What comes, up to the first message of one of these types."""
        came = [self.next()]
        while came[-1]["type"] not in kinds:
            came.append(self.next())
        return came

    def init(self, **fields: Any) -> Message:
        return self.send("init", **fields).receive("initialized")

    def refusal(self) -> str:
        """The code of the error that comes next."""
        return str(self.receive("error")["code"])

    def ask(self, text: str, **fields: Any) -> list[Message]:
        """A whole turn, from `accepted` to its end."""
        return self.send("chat", content=text, **fields).until(*ENDINGS)

    def answer(self, text: str) -> str:
        """The answer to a question that must get one."""
        end = self.ask(text)[-1]
        assert end["type"] == "result", end
        return str(end["content"])

    def closed(self) -> tuple[int | None, str]:
        """Code and reason of the close, once it has come."""
        try:
            while True:
                self.socket.recv(self._patience)
        except ConnectionClosed as closed:
            return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (None, "")

    def close(self) -> None:
        self._open.__exit__(None, None, None)


@contextmanager
def client(url: str) -> Iterator[Client]:
    one = Client(url)
    try:
        yield one
    finally:
        one.close()


def counts(url: str) -> tuple[int, int]:
    """Connections and sessions in /health."""
    health = json.loads(get(f"{url}/health")[1])
    return health["active_connections"], health["active_sessions"]


def worker_of(url: str) -> int:
    """The PID of the process that serves."""
    return int(json.loads(get(f"{url}/diagnostics")[1])["server"]["pid"])


def kill_worker(started: Started) -> None:
    """kill -9, and wait until another worker serves."""
    pid = worker_of(started.url)
    os.kill(pid, signal.SIGKILL)
    started.until_says("The worker is back")
    until(lambda: worker_of(started.url) != pid, "another worker answers")


class Provider:
    """llmock, an OpenAI-compatible server, as a process of its own. Its control interface says what happens next."""

    def __init__(self, place: Place) -> None:
        self.port = unused_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = Path(sys.executable).with_name("llmock")
        environ = {"LLMOCK_RESPONSE_STYLE": "varied"}
        self.started = place.spawn(str(command), "serve", "--port", str(self.port), environ=environ)
        until(lambda: listening(self.port), "llmock listens")

    def will(self, *behaviours: Message) -> None:
        """Queue behaviours (https://github.com/JulienRabault/LLMock), after forgetting everything."""
        self._post("reset", {})
        if behaviours:
            self._post("scenario", {"behaviors": list(behaviours)})

    def requests(self) -> list[Message]:
        """What it was asked, oldest first."""
        found: list[Message] = json.loads(get(f"{self.url}/_llmock/requests")[1])["requests"]
        return found

    def _post(self, what: str, body: Message) -> None:
        request = urllib.request.Request(f"{self.url}/_llmock/{what}", json.dumps(body).encode(), method="POST")
        urllib.request.urlopen(request, timeout=PATIENCE).close()


class Live:
    """A server with keys, and the service that it asks, which does what a test tells it to."""

    def __init__(self, place: Place, **variables: str) -> None:
        self.place = place
        self.provider = Provider(place)
        place.write_env_file(**KEYS)
        place.environ |= {
            "PREFLIGHT_PYTHON": ">=3.11",
            "OPENAI_BASE_URL": f"{self.provider.url}/v1",
            "OPENAI_MODEL": "gpt-4o",
            "PERPLEXITY_BASE_URL": f"{self.provider.url}/perplexity/v1",
            **variables,
        }
        self.started = place.start("--supervise").until_ready()
        self.url = self.started.url

    def asked(self) -> list[Message]:
        """The chat requests that the service got."""
        return [one for one in self.provider.requests() if one["path"].endswith("/chat/completions")]


def raw(port: int, buffer: int | None = None, **headers: str) -> socket.socket:
    """A WebSocket without a client library, after the handshake; at most a byte has been read.

    What is sent earlier is nobody's. ``buffer``: bytes that wait for a client which does not read.
    """
    one = socket.socket()
    if buffer is not None:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    one.settimeout(PATIENCE)
    one.connect(("127.0.0.1", port))
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    said = {"Host": f"127.0.0.1:{port}", **upgrade, "Sec-WebSocket-Key": f"{'A' * 22}==", **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in said.items())
    one.sendall(f"GET /ws/chat HTTP/1.1\r\n{lines}\r\n".encode())
    assert one.recv(1) == b"H"  # the server has answered, and takes frames from here on
    return one


def frame(message: Message) -> bytes:
    """A message as such a client sends it, masked with zeros."""
    text = json.dumps(message).encode()
    size = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2, "big")
    return b"\x81" + size + bytes(4) + text
