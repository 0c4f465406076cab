"""The launcher's event loop, with real descriptors, signals and children."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from preflight.processes.children import Child
from preflight.processes.loop import TOGETHER, Loop

# A child of ours: says one thing on its output, one on its channel, and ends when told to.
CHILD = """
import sys
from preflight.processes import children
channel = children.attach(int(sys.argv[1]), lambda message: None, children.end_group)
print("printed", flush=True)
channel.send("said", word="hello")
"""


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def test_readable_is_called(loop: Loop) -> None:
    """Whoever has something to read is called, and only who has; after unwatch nobody is."""
    one, other = socket.socketpair()
    quiet, end = socket.socketpair()
    heard: list[bytes] = []
    with one, other, quiet, end:
        loop.watch(one, lambda: heard.append(one.recv(10)))
        loop.watch(quiet, lambda: heard.append(b"never"))
        loop.turn(0)
        assert heard == []
        other.send(b"word")
        loop.turn(5)
        assert heard == [b"word"]
        loop.unwatch(one)
        loop.unwatch(one)  # more than once does no harm
        other.send(b"more")
        loop.turn(0)
        assert heard == [b"word"]


def test_taken_out_in_the_same_turn(loop: Loop) -> None:
    """Of two that are ready together, one may take the other out: that one is not called any more."""
    pairs = [socket.socketpair() for _ in range(2)]
    called: list[int] = []

    def take_out(which: int) -> None:
        called.append(which)
        loop.unwatch(pairs[1 - which][0])

    for which, (ours, theirs) in enumerate(pairs):
        loop.watch(ours, lambda which=which: take_out(which))  # type: ignore[misc]  # a default binds it
        theirs.send(b"x")
    loop.turn(5)
    assert len(called) == 1
    for pair in pairs:
        for sock in pair:
            sock.close()


def test_signals_are_gathered_and_wake(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that asks to stop ends the wait at once and is counted; handlers are as before afterwards.

    What comes soon after it, from a terminal and from ``timeout`` for example, is the same wish.
    """
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]
    clock, later = time.monotonic, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock() + later)
    with loop.running():
        for number in (signal.SIGTERM, signal.SIGINT):
            for _ in range(3):
                os.kill(os.getpid(), number)
            begun = time.monotonic()
            loop.turn(20)
            assert time.monotonic() - begun < 10
            later += TOGETHER
        assert loop.stops == [signal.SIGTERM, signal.SIGINT]
        os.kill(os.getpid(), signal.SIGCHLD)
        loop.turn(20)
        assert loop.stops == [signal.SIGTERM, signal.SIGINT]  # a child's end only wakes
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)] == before


def test_nohup_is_heeded(loop: Loop) -> None:
    """Where SIGHUP is ignored from outside, it stays ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with loop.running():
            os.kill(os.getpid(), signal.SIGHUP)
            loop.turn(0)
            assert loop.stops == []
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.slow
def test_a_child_until_it_is_silent(loop: Loop, tmp_path: Path) -> None:
    """A child's channel and output are heard until each closes, and then watched no more: nothing spins."""
    (tmp_path / "speaker.py").write_text(CHILD)
    paths = os.pathsep.join([str(tmp_path), *(path for path in sys.path if path)])
    child = Child("speaker", Path(__file__).parents[1], {**os.environ, "PYTHONPATH": paths})
    said: list[str] = []
    printed: list[str] = []
    loop.watch_child(
        child,
        lambda: said.extend(message.data["word"] for message in child.channel.arrived()),
        lambda: printed.extend(child.read_output()),
    )
    until = time.monotonic() + 20
    while not (child.channel.closed and child.output_closed) and time.monotonic() < until:
        loop.turn(1)
    assert (said, printed) == (["hello"], ["printed"])
    loop.unwatch_child(child)  # they have been taken out already
    child.close()
