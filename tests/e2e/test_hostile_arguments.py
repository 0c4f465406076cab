"""Another process listens with arguments that were made to take long: whoever names it goes on."""

from __future__ import annotations

import json
import signal
import threading
import time

import pytest

from tests.e2e.chatting import client
from tests.e2e.place import Place, get

BOUND = 15  # seconds, on a machine with much else to do; a pattern that backtracks takes minutes
# Each as long as an argument may be on Linux (128 KiB), or nearly.
ARGUMENTS = {
    "words of options": ["--" + "pass" * 32_000 + "!"],
    "dots": ["--" + "token." * 20_000],
    "many": ["--" + "key-" * 3_500 + "!" for _ in range(8)],
    "fields": ["a=" * 60_000, "key:" * 30_000, '{"password":"' * 9_000],
    "addresses": ["://a:" * 25_000 + "@"],
    "quotes": ["sh", "-c", "\"' " * 40_000],
}


@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=list(ARGUMENTS))
def test_port_commands(place: Place, arguments: list[str]) -> None:
    """``--port-status`` names the holder, ``--free-port`` names it and stops it."""
    holder = place.listener(*arguments)
    for command in ("--port-status", "--free-port"):
        begun = time.monotonic()
        one = place.run("--demo", command, "--format", "json")
        assert time.monotonic() - begun < BOUND
        assert f"{holder.pid}" in one.stdout
        assert len(one.stdout) < 64 * 1024
        if command == "--port-status":
            assert json.loads(one.stdout)["holders"][0]["pid"] == holder.pid
    assert holder.wait() == -signal.SIGTERM


@pytest.mark.parametrize("name", ["words of options", "many", "fields"])  # one, alike; many; one of each kind
def test_start(place: Place, name: str) -> None:
    """A start names the holder, stops it and serves; it reads the holder's arguments as the commands above do."""
    holder = place.listener(*ARGUMENTS[name])
    begun = time.monotonic()
    started = place.start("--demo", "--app", "small:app").until_ready()
    assert time.monotonic() - begun < BOUND
    assert f"PID {holder.pid}" in started.stdout
    assert started.stop() == 0


def test_the_server_is_asked(place: Place, free_port: int) -> None:
    """A running server that is asked who holds a port answers, and goes on answering others meanwhile."""
    holder = place.listener(*ARGUMENTS["words of options"])
    held, place.port = place.port, free_port
    started = place.start("--demo").until_ready()
    waits: list[float] = []
    answered = threading.Event()

    def look() -> None:
        while not answered.wait(0.1):
            begun = time.monotonic()
            assert get(f"{started.url}/health")[0] == 200
            waits.append(time.monotonic() - begun)

    looking = threading.Thread(target=look)
    with client(started.url) as chat:
        chat.init()
        looking.start()
        begun = time.monotonic()
        said = chat.answer(f"who is on port {held}?")
        took = time.monotonic() - begun
        answered.set()
        looking.join()
    assert took < BOUND
    assert max(waits, default=0) < BOUND
    assert f"{holder.pid}" in said
    assert started.stop() == 0
    holder.kill()
