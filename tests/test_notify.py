"""The queue and the sender, against real services."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from preflight import times
from preflight.notify import notifier as notify
from preflight.notify import sender
from preflight.notify.notices import Notice
from preflight.notify.notifier import Notifier
from preflight.processes.loop import Loop
from preflight.redaction.redactor import Redactor
from preflight.settings import loading
from tests.ready.listeners import listening
from tests.receivers import Mailbox, Receiver

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
KILLED = "the process that sends notifications ended (SIGKILL)"
TEST = Notice("❌ A headline (here)", "A line\nand another", "failure")


class Telling:
    """A notifier with a loop of its own, and what it said."""

    def __init__(self, *urls: str, tries: int = 1) -> None:
        self.loop = Loop()
        self.said: list[str] = []
        environ = {**os.environ, "PREFLIGHT_NOTIFY": " ".join(urls)}
        chosen = loading.load(ROOT, environ, {"demo": True})
        redactor = Redactor.of(chosen)
        self.notifier = Notifier(chosen, self.loop, redactor, self.said.append, tries=tries)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < end, f"waited in vain until {what}: {self.notifier.tally} {self.said}"
            self.loop.turn(0.1)

    def until_told(self) -> None:
        self.until(lambda: self.notifier.pending == 0, "all is told")

    def sender(self) -> int:
        child = self.notifier._child
        assert child is not None
        return child.pid


@pytest.fixture
def telling() -> Iterator[Callable[..., Telling]]:
    made: list[Telling] = []

    def make(*urls: str, tries: int = 1) -> Telling:
        made.append(Telling(*urls, tries=tries))
        return made[-1]

    yield make
    for one in made:
        one.notifier.finish(0)
        one.loop.close()


def test_delivered_everywhere(telling: Callable[..., Telling], receiver: Receiver, mailbox: Mailbox) -> None:
    """Every service gets the notice once, lines kept; then nothing is left running."""
    one = telling(receiver.url(), mailbox.url)
    one.notifier.tell(TEST)
    sender = one.sender()
    one.until_told()
    assert receiver.taken == [
        {"version": "1.0", "title": TEST.title, "message": TEST.body, "attachments": [], "type": "failure"}
    ]
    assert mailbox.text(0).splitlines() == [TEST.title, "A line", "and another"]
    tally = one.notifier.tally
    assert times.epoch(tally.pop("last_delivered_at")) == pytest.approx(time.time(), abs=30)
    assert tally == {
        "configured": 2,
        "pending": 0,
        "delivered": 2,
        "undelivered": 0,
        "dropped": 0,
        "problem": "",
        "problem_at": None,
    }
    with pytest.raises(ProcessLookupError):
        os.kill(sender, 0)
    assert one.said == []


def test_retried_with_back_off(telling: Callable[..., Telling], receiver: Receiver) -> None:
    """A service that fails twice gets the message at the third try, after pauses of one and two seconds, once."""
    receiver.failures = 2
    one = telling(receiver.url(), tries=notify.TRIES)
    one.notifier.tell(TEST)
    one.until_told()
    first, second, third = receiver.tried
    assert 1 <= second - first < 2
    assert 2 <= third - second < 4
    assert len(receiver.taken) == 1
    assert one.notifier.tally["undelivered"] == 0


def test_not_delivered(telling: Callable[..., Telling], receiver: Receiver) -> None:
    """After the last try it is said, in one line that names no more of the URL than its scheme."""
    receiver.failures = 9
    one = telling(receiver.url("/T1canary99/hook"), "json://127.0.0.1:1/T2canary99", tries=2)
    one.notifier.tell(TEST)
    one.until_told()
    assert sorted(one.said) == [
        "Not delivered to json (1 of 2): ❌ A headline (here): HTTP 500 (tried 2 times)",
        "Not delivered to json (2 of 2): ❌ A headline (here): connection refused (tried 2 times)",
    ]
    tally = one.notifier.tally
    assert (tally["delivered"], tally["undelivered"], tally["last_delivered_at"]) == (0, 2, None)
    assert tally["problem"].startswith("json (")
    assert "canary" not in str(tally)


def test_a_problem_is_one_of_a_service(telling: Callable[..., Telling], receiver: Receiver) -> None:
    """What arrives at one service does not end the problem of another; what arrives there does."""
    receiver.failures = 1
    one = telling(receiver.url(), "json://127.0.0.1:1/nobody")
    one.notifier.tell(TEST)
    one.until_told()
    one.notifier.tell(TEST)
    one.until_told()
    tally = one.notifier.tally
    assert (tally["delivered"], tally["undelivered"]) == (1, 3)
    assert tally["problem"] == "json (2 of 2): connection refused"
    alone = telling(receiver.url())
    receiver.failures = 99
    alone.notifier.tell(TEST)
    alone.until_told()
    assert alone.notifier.tally["problem"] == "json: HTTP 500"
    receiver.failures = 0
    alone.notifier.tell(TEST)
    alone.until_told()
    assert (alone.notifier.tally["problem"], alone.notifier.tally["problem_at"]) == ("", None)


def test_one_service_waits_for_no_other(telling: Callable[..., Telling], receiver: Receiver) -> None:
    """Where one service hangs, the others are told what follows all the same, in order."""
    hanging = Receiver()
    hanging.hangs = True
    one = telling(hanging.url(), receiver.url())
    try:
        for number in range(3):
            one.notifier.tell(Notice(f"✅ {number} (here)", "text", "success"))
        one.until(lambda: len(receiver.taken) == 3, "the second service has all")
        assert receiver.titles == ["0", "1", "2"]
        one.until(lambda: one.notifier.pending == 3, "the sender has said so")
        begun = time.monotonic()
        one.notifier.finish(0.2)
        assert time.monotonic() - begun < 8
        assert one.said == ["3 notifications were not delivered before this command ended."]
    finally:
        hanging.close()


def test_the_queue_is_bounded(telling: Callable[..., Telling], receiver: Receiver) -> None:
    """What a dead service waits for does not grow: the oldest are dropped, and counted. Telling never waits."""
    receiver.hangs = True
    one = telling(receiver.url())
    begun = time.monotonic()
    for number in range(notify.WAITING + 10):
        one.notifier.tell(Notice(f"✅ {number} (here)", "text", "success"))
    assert time.monotonic() - begun < 10
    tally = one.notifier.tally
    assert (tally["pending"], tally["dropped"]) == (notify.WAITING + 1, 9)
    waiting = one.notifier.services[0].waiting
    assert (waiting[0].title, waiting[-1].title) == ("✅ 10 (here)", f"✅ {notify.WAITING + 9} (here)")


def test_the_sender_dies(telling: Callable[..., Telling], receiver: Receiver) -> None:
    """What a dead sender had in hand is said to be lost, what waits goes out with another one."""
    receiver.hangs = True
    one = telling(receiver.url())
    one.notifier.tell(TEST)
    one.notifier.tell(Notice("✅ The next one (here)", "text", "success"))
    one.until(lambda: bool(receiver.tried), "it has arrived")
    receiver.hangs = False
    first = one.sender()
    os.kill(first, signal.SIGKILL)
    one.until_told()
    assert one.said == [f"Not delivered to json: ❌ A headline (here): {KILLED}"]
    assert receiver.titles == ["The next one"]
    tally = one.notifier.tally
    assert (tally["delivered"], tally["undelivered"]) == (1, 1)


def test_the_sender_hangs(telling: Callable[..., Telling], receiver: Receiver) -> None:
    """A sender that does not answer for longer than all its tries can take is ended, and another one goes on."""
    one = telling(receiver.url())
    one.notifier.tell(TEST)
    os.kill(one.sender(), signal.SIGSTOP)
    before, one.notifier.latest = one.notifier.latest, 0.0
    one.notifier.tell(Notice("✅ The next one (here)", "text", "success"))
    one.notifier.latest = before
    one.until_told()
    assert one.said == [f"Not delivered to json: ❌ A headline (here): {KILLED}"]
    assert receiver.titles == ["The next one"]


def test_the_sender_hangs_for_one_service_only(telling: Callable[..., Telling], receiver: Receiver) -> None:
    """What was never given to a sender that had to be ended goes out with the next one: it is lost to nobody."""
    hanging = Receiver()
    hanging.hangs = True
    one = telling(hanging.url(), receiver.url())
    try:
        one.notifier.tell(TEST)
        one.until(lambda: len(receiver.taken) == 1 and one.notifier.pending == 1, "the second service has it")
        before, one.notifier.latest = one.notifier.latest, 0.0
        one.notifier.tell(Notice("✅ The next one (here)", "text", "success"))
        one.notifier.latest = before
        one.until(lambda: len(receiver.taken) == 2, "the second service has the next one as well")
        assert receiver.titles == ["A headline", "The next one"]
        assert one.said == [f"Not delivered to json (1 of 2): ❌ A headline (here): {KILLED}"]
        assert one.notifier.tally["undelivered"] == 1
    finally:
        hanging.close()


def test_secrets_are_redacted(telling: Callable[..., Telling], receiver: Receiver) -> None:
    """What people are told holds no secret, and nothing that a terminal would obey."""
    url = receiver.url("/T1canary99")
    one = telling(url)
    one.notifier.tell(Notice(f"❌ {url} (here)", "token T1canary99\x1b[31m\nBearer abcdefgh12345678", "failure"))
    one.until_told()
    (message,) = receiver.taken
    assert message["title"] == "❌ [redacted] (here)"
    assert message["message"] == "token [redacted]?[31m\nBearer [redacted]"


def test_verify(telling: Callable[..., Telling], receiver: Receiver) -> None:
    """A URL that could never be sent to is said when the server starts; nothing is sent, and nothing waited for."""
    one = telling("nosuch://T1canary99", receiver.url())
    one.notifier.verify()
    assert one.notifier.pending == 0
    one.until(lambda: bool(one.said) and one.notifier._child is None, "both are looked at")
    assert one.said == ["Notifications cannot be sent to nosuch (1 of 2): apprise does not understand this URL"]
    assert receiver.tried == []
    tally = one.notifier.tally
    assert tally["problem"] == "nosuch (1 of 2): apprise does not understand this URL"
    assert (tally["undelivered"], tally["delivered"]) == (0, 0)


def test_unattended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no launcher is there to send, /diagnostics says so, if anybody is waiting to be told."""
    assert notify.unattended(loading.load(ROOT, options={"demo": True}))["problem"] == ""
    monkeypatch.setenv("PREFLIGHT_NOTIFY", "json://127.0.0.1:1")
    tally = notify.unattended(loading.load(ROOT, options={"demo": True}))
    assert (tally["configured"], tally["problem"]) == (1, "started without run.py: notifications are off")


@pytest.mark.parametrize(
    "logged,said",
    [
        ("Failed to send JSON POST notification: error=503.", "HTTP 503"),
        ("Socket Exception: [Errno 111] Connection refused", "connection refused"),
        ("(Caused by NameResolutionError(...: Name or service not known", "the name of its host is not known"),
        ("Read timed out. (read timeout=4.0)", "no answer in time"),
        ("[Errno 101] Network is unreachable", "it cannot be reached over the network"),
        ("SSLCertVerificationError: certificate verify failed", "its certificate is not trusted"),
        ("Socket Exception: (535, b'5.7.8 bad credentials T1canary99')", "it does not accept the login"),
        ("something with T1canary99", "it did not accept the message"),
    ],
)
def test_reason(logged: str, said: str) -> None:
    """Why a service did not take a message, in words that are written down here."""
    assert sender.reason(logged) == said


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"
CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;"
MAIL = "mailto://127.0.0.1:{}?from=server@example.org&to=me@example.org&mode=insecure"
ENDLESS = {  # the service, how its answer begins, how that goes on, and what is said about it
    "HTTP": ("json://127.0.0.1:{}", HEAD, b"x" * 100_000, sender.ENDLESS),
    "a line of HTTP": ("json://127.0.0.1:{}", CHUNKS, b"x" * 100_000, ""),
    "mail": (MAIL, b"220 me\r\n", (b"250-" + b"x" * 8_000 + b"\r\n") * 10, sender.GREEDY),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_an_answer_without_end(telling: Callable[..., Telling], what: str) -> None:
    """It is not read to an end that it does not have, nor does it take the memory that the server needs."""
    url, first, again, why = ENDLESS[what]

    def talk(connection: socket.socket) -> None:
        connection.sendall(first)
        while connection.recv(1 << 16):
            while True:
                connection.sendall(again)

    with listening(talk) as port:
        one = telling(url.format(port))
        one.notifier.tell(TEST)
        sending, most = psutil.Process(one.sender()), 0

        def is_told() -> bool:
            nonlocal most
            with contextlib.suppress(psutil.Error):
                most = max(most, sending.memory_info().rss)
            return one.notifier.pending == 0

        one.until(is_told, "it is told")
    assert most < 2 * sender.MOST_MEMORY
    assert one.notifier.tally["undelivered"] == 1
    assert one.said[0].endswith(why)


def test_what_to_install() -> None:
    """The extra of pyproject.toml is what the fix installs."""
    assert notify.installed()
    assert notify.wanted(ROOT) == ["apprise>=1.9"]
    assert "apprise>=1.9" in notify.install_command(ROOT)
