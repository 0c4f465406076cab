"""What other accounts call their processes, what answers in a service's place, and what a model says without end."""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from preflight import ready
from preflight.notify import notifier
from preflight.redaction.redactor import MASK, Redactor
from preflight.redaction.stream import StreamRedactor
from server.chat.words import Words
from tests.e2e.doubles import STRANGER
from tests.e2e.place import Place
from tests.ready.asking import ask
from tests.ready.listeners import listening
from tests.receivers import Receiver
from tests.waiting import TOO_LONG, until

KEY = "Zq7vXw2LmN8pRt4KdY6h"

# A model's answer.


@pytest.mark.parametrize(
    "piece, pieces", [("abcd", 60_000), ("Basic ", 5000), ("basic\n", 5000), ("    ", 5000), ("Bearer\t\t", 5000)]
)
def test_a_word_without_an_end(piece: str, pieces: int) -> None:
    """Each piece takes as long as the one before, however long the word has become."""
    words = Words(Redactor([KEY]), [])
    begun = time.process_time()
    out = "".join(words.feed(piece) for _ in range(pieces)) + words.rest()
    assert time.process_time() - begun < TOO_LONG
    assert len(out) >= pieces


@pytest.mark.parametrize("line", ["    ", "|   |", "[],", "> ", "####", "\u2502 \u2502", "Zq7v", ""])
def test_lines_of_next_to_nothing(line: str) -> None:
    """Tables, indented blank lines, empty lists: each line takes as long as the one before."""
    stream = StreamRedactor(Redactor([KEY, "*#([Zq7vXw2LmN8p"]))
    begun = time.process_time()
    for _ in range(5000):
        assert stream.next(line, 1000) == line
    assert time.process_time() - begun < TOO_LONG
    pieces = [stream.next(letter, 1000) for letter in KEY]
    assert "".join(piece for piece in pieces if len(piece) == 1) == KEY[:5]


def test_what_was_looked_at_is_held_back() -> None:
    """A header that comes in pieces, behind a very long word, is redacted as ever; a word goes out at its end."""
    words = Words(Redactor([KEY]), [])
    out = [
        words.feed(piece) for piece in ("x" * 3000, "y b", "earer", " ", " abcdefgh", "12345678", " ", f"z{KEY[:9]}")
    ]
    assert out[0] == ""
    assert "".join(out) == f"{'x' * 3000}y bearer {MASK} "
    assert words.feed(KEY[9:]) + words.rest() == f"z{MASK}"


# Names of processes.

CALLS = ("@everyone", "<!channel> x", "@here <@U012AB>", "<@&12> @all", "1@here x@@everyone_2", "<users/all>")


def test_a_name_that_calls_everybody(place: Place, receiver: Receiver) -> None:
    """Services take it for a call to all people in a room: what is sent names the process, and calls nobody."""
    program = place.folder / "stranger.py"
    program.write_text(STRANGER)
    if sys.platform != "linux":
        pytest.skip("a process names itself with prctl")
    holder = place.spawn(sys.executable, str(program), str(place.port), "@everyone").until_says("listening")
    place.environ["PREFLIGHT_NOTIFY"] = receiver.url()
    refused = place.run("--demo", "--app", "small:app", PREFLIGHT_PORT_CLEANUP="never")
    assert refused.process.returncode == 1
    until(lambda: len(receiver.taken) == 1, "the message is there")
    text = json.dumps(receiver.taken[0])
    assert f"{holder.pid}" in text
    assert "@ everyone" in text
    assert "@everyone" not in text


@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str) -> None:
    """All that services know as such, and no address or package."""
    changed = notifier._MENTION.sub(r"\g<0> ", name)
    assert not re.search(r"@(?:everyone|here|all)|<[!@][&\w]|<users", changed), changed
    kept = "me@all.example.org npm install @scope/pkg @team/lib a@here.org getty@tty1.service a < b @allow"
    assert notifier._MENTION.sub(r"\g<0> ", kept) == kept


# What answers in a service's place.


def _sends(first: bytes, piece: bytes = b"") -> Callable[[socket.socket], object]:
    """What reads a request, and answers with ``first`` and then with ``piece`` without end."""

    def talk(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(first)
        while piece:
            connection.sendall(piece)
        connection.close()

    return talk


OK = b"HTTP/1.1 200 OK\r\n"
BOMB = gzip.compress(gzip.compress(bytes(200_000_000)))
ENDLESS = {
    "answers before the answer": _sends(b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 50),
    "headers": _sends(OK, b"X-A: b\r\n" * 500),
    "a header": _sends(OK + b"X: ", b"b" * 9000),
    "a status": _sends(b"HTTP/1.1 200 ", b"b" * 9000),
    "a chunk's size": _sends(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 9000),
    "a chunk's extension": _sends(OK + b"Transfer-Encoding: chunked\r\n\r\n5;", b"x" * 9000),
    "trailers": _sends(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 500),
    "compressed twice": _sends(OK + b"Content-Encoding: gzip, gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_answers_without_an_end(tmp_path: Path, what: str) -> None:
    """Each is left in time, and in words for people."""
    with listening(ENDLESS[what]) as port:
        ended = ask(tmp_path, ready.http("U", equals="ok", timeout=1.5), U=f"http://127.0.0.1:{port}/")
    assert ended.outcome in ("failed", "unknown")
    assert re.search("no answer within|does not speak HTTP|did not end", ended.message), ended


@pytest.mark.parametrize(
    "host",
    ["a..b", "x" * 64 + ".org", "\u00e9" * 70 + ".org", "%6c", "a b", "xn--a", "1.2.3.4.5", "\u2460.org", "a\u202eb"],
)  # fmt: skip
def test_hosts_that_are_none(tmp_path: Path, host: str) -> None:
    """Whatever a resolver and a codec raise for them, it is a failure with words."""
    requirements = {
        "http": ready.http("U", timeout=2.0), "redis": ready.redis("U", timeout=2.0),
        "postgresql": ready.postgres("U", timeout=2.0), "https": ready.tls("U", timeout=2.0),
    }  # fmt: skip
    for scheme, requirement in requirements.items():
        ended = ask(tmp_path, requirement, U=f"{scheme}://{host}/")
        assert ended.outcome == "failed", ended
        assert re.search("resolve|InvalidURL|is not|not a name|no answer within", ended.message), ended


# The command that shows a whole error.

FAILS = """
import os, sys, threading
KEY = os.environ["MY_API_KEY"]
print("out", KEY, flush=True)
sys.stderr.write(f"err {KEY}\\n")
thread = threading.Thread(target=lambda: {}[KEY])
thread.start()
thread.join()
raise ValueError(f"{KEY} is no key")
"""


def test_the_whole_error_of_an_application(place: Place) -> None:
    """The fix that shows it is run in jobs and pasted into issues: it has the traceback, and no key."""
    place.write_module("fails", FAILS)
    environ = {**os.environ, **place.environ, "MY_API_KEY": KEY}
    command = (sys.executable, "-m", "preflight.worker.loadapplication", "fails:app", "--demo")
    shown = place.spawn(*command, environ=environ)
    assert shown.wait() == 1
    assert f"ValueError: {MASK} is no key" in shown.stderr
    assert f"err {MASK}" in shown.stderr
    assert f"out {MASK}" in shown.stdout
    assert KEY[:6] not in shown.output
