"""An instance outlives its terminal and whoever read what it prints."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.place import READY, Place, get
from tests.waiting import PATIENCE, until

# The launcher's output is none of these tests' pipes, so what it does is told by its application.
LIVES = """
import os
lives = os.environ["LIVES"]
with open(lives, "a") as file:
    file.write("x")
life = os.path.getsize(lives)

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/crash":
        print("last words", flush=True)
        os._exit(7)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"life {life}".encode()})
"""


class Unread:
    """A supervised instance whose output goes where a test wants it."""

    def __init__(self, place: Place, output: int) -> None:
        place.write_module("lives", LIVES)
        command = [sys.executable, "run.py", "--port", str(place.port), "--demo", "--supervise", "--app", "lives:app"]
        self.url = place.url
        self.process = subprocess.Popen(
            command,
            cwd=place.root,
            env={**place.environ, "LIVES": str(place.folder / "lives"), "PREFLIGHT_RESTART_BACKOFF": "0"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def life(self) -> str:
        """Which life of the worker answers; empty while nobody does."""
        try:
            return get(self.url)[1]
        except OSError:
            return ""

    def crashes_and_comes_back(self) -> None:
        """Everything that it has to say about a crash is said to nobody, and it goes on."""
        until(lambda: self.life() == "life 1" or self.process.poll() is not None, "it serves")
        assert self.process.poll() is None
        for following in ("life 2", "life 3"):
            try:
                get(f"{self.url}/crash")
            except OSError:
                pass
            until(lambda life=following: self.life() == life or self.process.poll() is not None, "it is back")  # type: ignore[misc]
            assert self.process.poll() is None

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@pytest.fixture
def unread() -> Iterator[list[Unread]]:
    """The instances of a test, ended when it is over: a launcher's children end with it."""
    started: list[Unread] = []
    yield started
    for one in started:
        one.process.kill()
        one.process.wait()


def read_until_ready(descriptor: int) -> None:
    """Read what it prints up to the green banner."""
    said = b""
    while READY.encode() not in said:
        data = os.read(descriptor, 1 << 16)
        assert data, said.decode()
        said += data


def test_reader_has_gone(quick: Place, unread: list[Unread]) -> None:
    """``run.py | head``: when the reader has gone it serves on, restarts its worker, and ends with 0."""
    reading, writing = os.pipe()
    try:
        unread.append(Unread(quick, writing))
        os.close(writing)
        read_until_ready(reading)
    finally:
        os.close(reading)
    unread[0].crashes_and_comes_back()
    assert unread[0].stop() == 0


def test_terminal_has_gone(quick: Place, unread: list[Unread]) -> None:
    """A terminal that was closed is no reason to end, either: writing to it is an error of its own kind (EIO)."""
    screen, terminal = pty.openpty()
    try:
        unread.append(Unread(quick, terminal))
        os.close(terminal)
        read_until_ready(screen)
    finally:
        os.close(screen)
    unread[0].crashes_and_comes_back()
    assert unread[0].stop() == 0


def test_nohup(quick: Place) -> None:
    """Started with nohup it outlives SIGHUP; SIGTERM still ends it in order."""
    place = quick
    command = ["nohup", sys.executable, "run.py", "--port", str(place.port), "--demo", "--app", "small:app"]
    started = place.spawn(*command).until_ready()
    ignored = int(Path(f"/proc/{started.pid}/status").read_text().partition("SigIgn:")[2].split()[0], 16)
    assert ignored & 1 << (signal.SIGHUP - 1)
    started.send(signal.SIGHUP)
    assert get(place.url) == (200, "small")
    assert started.stop() == 0
    assert "Stopping (SIGTERM)." in started.stdout
    started.left_nothing()
