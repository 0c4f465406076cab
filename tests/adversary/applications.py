"""Applications that do something when a path is asked for, and what tests send to them and read of them."""

from __future__ import annotations

import contextlib
import socket

from tests.e2e.place import Place, Started
from tests.waiting import PATIENCE, until

HEAD = (
    "import asyncio, contextlib, ctypes, os, signal, socket, subprocess, sys, threading, time\n"
    "from small import app as small\n"
)


def application(place: Place, name: str, at_import: str = "pass", **paths: str) -> tuple[str, str, str]:
    """Options that serve an application which does something at its import, or when a path is asked for."""
    lines = [HEAD + at_import, "async def app(scope, receive, send):", "    path = scope.get('path')"]
    for path, source in paths.items():
        lines += [f"    if path == '/{path}':", *(f"        {line}" for line in source.splitlines())]
    place.write_module(name, "\n".join([*lines, "    await small(scope, receive, send)", ""]))
    return ("--demo", "--app", f"{name}:app")


class Marked:
    """A place that serves an application of the test's own.

    It makes a file in the folder MARKS where it has come to, and waits there for other files.
    """

    def __init__(self, place: Place, name: str, source: str) -> None:
        self.place = place
        self.options = ("--demo", "--supervise", "--app", f"{name}:app")
        self.marks = place.folder / "marks"
        self.marks.mkdir()
        place.write_module(name, source)
        place.environ |= {
            "MARKS": str(self.marks),
            "PREFLIGHT_GRACEFUL_TIMEOUT": "60s",
            "PREFLIGHT_RESTART_LIMIT": "99",
        }

    def start(self, *options: str, **environ: str) -> Started:
        return self.place.start(*self.options, *options, **environ)

    def connect(self, *requests: str) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.place.port), PATIENCE)
        client.sendall("".join(requests).encode())
        return client

    def until(self, mark: str) -> None:
        until((self.marks / mark).exists, f"{mark} was reached")

    def go(self, mark: str = "go") -> None:
        (self.marks / mark).touch()


def head(path: str, *more: str, method: str = "GET", version: str = "1.1") -> str:
    """A request without its body."""
    return "\r\n".join([f"{method} /{path} HTTP/{version}", "Host: localhost", *more, "", ""])


def rest(client: socket.socket) -> bytes:
    """All that comes until the end of the connection."""
    came = b""
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(1 << 20):
            came += data
    return came


def save(place: Place, release: str) -> None:
    """The application ``mine``, as an editor saves it: another file takes its name."""
    temporary = place.root / "mine.py.tmp"
    temporary.write_text(
        "async def app(scope, receive, send):\n"
        "    assert scope['type'] == 'http'\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        f"    await send({{'type': 'http.response.body', 'body': b'{release}'}})\n"
    )
    temporary.rename(place.root / "mine.py")
