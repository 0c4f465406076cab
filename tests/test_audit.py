"""The audit and the log: one line each, redacted, in a file that rotates and that several processes may write."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from preflight.instances.runtime import StartLock
from preflight.launcher import entry
from preflight.launcher.shown import Display
from preflight.launcher.start import Start
from preflight.output import audit
from preflight.output.audit import Event, EventOutbox
from preflight.output.log import LONGEST_LINE, Log, LogFile, direct
from preflight.ports import Step
from preflight.processes.channel import Channel
from preflight.processes.loop import Loop
from preflight.redaction.redactor import MASK, Redactor
from preflight.settings import loading
from preflight.web.instance import Instance
from tests.portnumbers import unused_port

ROOT = Path(__file__).parents[1]
KEY = "sk-canary-3f9a1c77e2Zq"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "preflight.log"


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


# Events.


def test_text() -> None:
    """Who, when and what, as name=value; what could be mistaken is quoted."""
    event = Event(
        "signal", 12, 1000, 1767323045.678, {"to": 34, "name": "a b", "why": ["x", 'y"'], "signal": "SIGTERM"}
    )
    assert event.to_text() == 'signal uid=1000 pid=12 to=34 name="a b" why="[\\"x\\", \\"y\\\\\\"\\"]" signal=SIGTERM'


def test_json() -> None:
    """Flat; what an event is about cannot take the place of who and when."""
    event = Event("login_failed", 12, 1000, 1767323045.678, {"peer": "10.0.0.7:5", "pid": 1, "event": "nothing"})
    assert event.to_json() == {
        "at": "2026-01-02T03:04:05.678Z",
        "source": "audit",
        "event": "login_failed",
        "uid": 1000,
        "pid": 12,
        "peer": "10.0.0.7:5",
    }


def test_now() -> None:
    """This process, this user, this moment; None says nothing."""
    event = Event.now("run", by="command", peer=None)
    assert (event.pid, event.uid, event.fields) == (os.getpid(), os.getuid(), {"by": "command"})
    assert abs(event.at - time.time()) < 5


def test_signals_among_steps() -> None:
    """Of the steps to a free port signals are recorded: to whom, which, why, and what came of it."""
    step = Step(1767323045.5, "SIGTERM", 34, "python", "sent")
    event = audit.freeing(step, "127.0.0.1:8002")
    assert event is not None
    assert event.to_json()["at"] == "2026-01-02T03:04:05.500Z"
    assert event.fields == {
        "signal": "SIGTERM", "to": 34, "name": "python", "why": "it is in the way on 127.0.0.1:8002", "result": "sent",
    }  # fmt: skip
    for action in ("exited", "held", "left alone"):
        assert audit.freeing(Step(0.0, action, 34, "python", ""), "127.0.0.1:8002") is None


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"event": "x", "pid": "no", "uid": 0, "at": 0, "fields": {}},
        {"event": "x", "pid": 1, "uid": 0, "at": float("nan"), "fields": {}},
        {"event": "x", "pid": 1, "uid": 0, "at": 1e300, "fields": {}},
        {"event": "x", "pid": 1, "uid": 0, "at": 0, "fields": 5},
    ],
)
def test_no_event(data: dict[str, Any]) -> None:
    """What is no event is an error that the launcher expects."""
    with pytest.raises((KeyError, TypeError, ValueError)):
        Event.of_message(data)


def test_message() -> None:
    """An event comes through the channel as it was."""
    event = Event.now("login_failed", peer="::1", path="/diagnostics")
    assert Event.of_message(json.loads(json.dumps(event.to_message()))) == event


def test_fields_are_json(tmp_path: Path) -> None:
    """Whatever an application says of an event comes through the channel: as text, where JSON has no value for it."""
    said = {1: {tmp_path}, "when": datetime(2026, 1, 2, tzinfo=UTC)}
    event = Event.now("upload", path=tmp_path, said=said, parts=("a", 1, None, True, 0.5))
    said.clear()
    assert event.fields == {
        "path": str(tmp_path), "said": {"1": [str(tmp_path)], "when": "2026-01-02 00:00:00+00:00"},
        "parts": ["a", 1, None, True, 0.5],
    }  # fmt: skip
    assert Event.of_message(json.loads(json.dumps(event.to_message()))) == event


# The way of a worker's events.


def test_an_event_that_cannot_be_sent_takes_no_other_with_it() -> None:
    """It is counted like those that there was no room for."""
    channel, theirs = Channel.pair()
    outbox = EventOutbox(lambda event: channel.send("audit", **event.to_message()))
    outbox.put(Event("upload", 1, 1, 0.0, {"path": object()}))
    outbox.flush(30)
    outbox.put(Event.now("login_failed"))
    launcher_end = Channel(theirs)
    message = launcher_end.receive(30)
    assert message is not None
    assert Event.of_message(message.data).fields == {"lost_before": 1}
    assert outbox.taken == 2
    channel.close()
    launcher_end.close()


def test_outbox_never_waits() -> None:
    """While nobody takes them, events wait; those beyond are counted, and the count comes with the next one."""
    go, sent = threading.Event(), []

    def send(event: Event) -> None:
        go.wait(30)
        sent.append(event)

    outbox = EventOutbox(send)
    begun = time.monotonic()
    for number in range(audit.BACKLOG + 50):
        outbox.put(Event.now("x", number=number))
    assert time.monotonic() - begun < 5
    go.set()
    outbox.flush(30)
    assert audit.BACKLOG <= len(sent) < audit.BACKLOG + 50
    outbox.put(Event.now("y"))
    outbox.flush(30)
    lost = audit.BACKLOG + 50 - len(sent[:-1])
    assert sent[-1].fields == {"lost_before": lost}


def test_instance_without_a_launcher(make_instance: Callable[..., Instance], caplog: pytest.LogCaptureFixture) -> None:
    """An application that was started directly finds its events in Python's logging, redacted."""
    instance = make_instance()
    with caplog.at_level(logging.WARNING):
        instance.audit("login_failed", peer="10.0.0.7:51234", header=f"Bearer {KEY}")
    assert [record.name for record in caplog.records] == ["preflight.audit"]
    assert f"audit login_failed uid={os.getuid()} pid={os.getpid()} peer=10.0.0.7:51234" in caplog.text
    assert KEY not in caplog.text


def test_direct_with_a_file(
    path: Path, make_instance: Callable[..., Instance], caplog: pytest.LogCaptureFixture
) -> None:
    """With a log file it gets them, too."""
    instance = make_instance()
    instance.note = direct(instance.settings, Redactor(), LogFile(path))
    instance.audit("rerun", by="10.0.0.7:51234")
    assert len(lines(path)) == 1
    assert lines(path)[0] in caplog.text


@pytest.mark.slow
def test_another_start_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that gave up waiting for another one is recorded as refused, like any other."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("PREFLIGHT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(entry, "START_UP", 0.0)
    quick = {"demo": True, "run_timeout": "1s", "startup_timeout": "1s"}
    chosen = loading.load(ROOT, options=quick | {"port": unused_port()})
    with StartLock(chosen.port) as other, contextlib.closing(Loop()) as loop:
        assert other.take()
        start = Start(chosen, {}, loop=loop, display=Display(chosen), typed_at=time.monotonic())
        assert start.run() == 1
    (line,) = lines(tmp_path / "state" / "audit.log")
    assert "audit refused" in line
    assert f"another start does not end: PID {os.getpid()} has been starting" in line
    assert "exit_code=1" in line


def test_lost_events_are_counted() -> None:
    """What the outbox took and the launcher did not get is known by its number."""
    outbox = EventOutbox(lambda _event: None)
    for number in range(audit.BACKLOG + 7):
        outbox.put(Event.now("x", number=number))
    assert outbox.taken == audit.BACKLOG + 7


# What the log makes of them.


def test_log_is_redacted(path: Path) -> None:
    """Output and events, keys of details included."""
    log = Log(Redactor([KEY]), LogFile(path))
    log.line("worker", 12, f"failed with {KEY}")
    log.audit(Event.now("refused", why=[KEY], **{KEY: {KEY: 1}}))
    log.audit(Event.now(f"said {KEY}"))
    text = path.read_text()
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z worker\[12\] failed with \[redacted\]\n", text)
    assert KEY not in text
    assert len(lines(path)) == 3


def test_nobody_writes_lines_of_their_own(path: Path) -> None:
    """Line ends and control characters in what others said begin no new line."""
    log = Log(Redactor(), LogFile(path))
    log.line("worker", 12, "one\n2026-01-02T03:04:05.678Z audit refused\x1b[31m")
    log.audit(Event.now("login_failed", path="/a\nb\x1b[0m"))
    assert len(lines(path)) == 2
    assert "\x1b" not in path.read_text()


def test_long_lines(path: Path) -> None:
    """A line is cut where it is too long to be of use, and an event stays whole JSON."""
    log = Log(Redactor(), LogFile(path), "json")
    log.line("worker", 12, "x" * 100_000)
    log.audit(Event.now("refused", why="y" * 100_000))
    said, event = map(json.loads, lines(path))
    assert said["text"] == "x" * LONGEST_LINE + " …"
    assert event["event"] == "refused"
    assert re.fullmatch("y{400,500} …", event["why"])


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    "long", ["\x01" * 8000, "ü" * 8000, "\U0001f600" * 8000, ["a" * 900, "b" * 900], {"k": ["\x01" * 8000]}]
)
def test_a_long_field_crowds_out_no_other(path: Path, form: str, long: object) -> None:
    """Who did it is there however long what they sent, and however it is written in JSON."""
    log = Log(Redactor(), LogFile(path), form)
    log.audit(Event.now("login_failed", peer="10.0.0.7:51234", path=long, more=3))
    (line,) = lines(path)
    assert len(line) < 1000
    assert "10.0.0.7:51234" in line
    if form == "json":
        assert json.loads(line).keys() >= {"peer", "path", "more", "pid", "uid"}


def test_many_long_fields(path: Path) -> None:
    """Of too many the longest go, and how many did is said."""
    log = Log(Redactor(), LogFile(path), "json")
    log.audit(Event.now("made_up", peer="10.0.0.7:51234", **{f"field{number}": "x" * 5000 for number in range(100)}))
    (line,) = lines(path)
    event = json.loads(line)
    assert len(line) <= LONGEST_LINE + 50
    assert event["peer"] == "10.0.0.7:51234"
    assert event["left_out"] + len([name for name in event if name.startswith("field")]) == 100


def test_a_secret_is_redacted_before_it_is_cut(path: Path) -> None:
    """Of one that goes over the end of what is kept nothing stays."""
    log = Log(Redactor([KEY]), LogFile(path))
    for begin in range(480, 500):
        log.audit(Event.now("login_failed", path="/" * begin + KEY))
    assert KEY[:6] not in path.read_text()


# Where it is kept.


def test_trail(tmp_path: Path) -> None:
    """The audit has a file of its own beside the log; it is made when there is something to record, not before."""
    trail = tmp_path / "state" / "audit.log"
    log = Log(Redactor([KEY]), LogFile(tmp_path / "log"), trail=trail)
    log.line("worker", 12, "said")
    assert not trail.parent.exists()
    log.audit(Event.now("run", said=KEY))
    assert [line.split()[2] for line in lines(trail)] == ["run"]
    assert KEY not in trail.read_text()
    assert len(lines(tmp_path / "log")) == 2
    assert (stat.S_IMODE(trail.stat().st_mode), stat.S_IMODE(trail.parent.stat().st_mode)) == (0o600, 0o700)


@pytest.mark.parametrize("kind", ["file", "link", "writable"])
def test_no_place_for_a_trail(tmp_path: Path, kind: str) -> None:
    """Where the state folder cannot be used nothing is written, and nobody stops for it."""
    folder = tmp_path / "state"
    if kind == "file":
        folder.touch()
    elif kind == "writable":
        folder.mkdir()
        folder.chmod(0o777)
    else:
        folder.mkdir(mode=0o700)
        (folder / "audit.log").symlink_to(tmp_path / "target")
    log = Log(Redactor(), trail=folder / "audit.log")
    log.audit(Event.now("run"))
    assert not (tmp_path / "target").exists()
    assert kind != "writable" or list(folder.iterdir()) == []


def test_json_lines(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With json every line is an object, and the audit is on standard error as well."""
    log = Log(Redactor([KEY]), LogFile(path), "json")
    log.line("launcher", 1, "ready")
    log.audit(Event.now("run", by="command", key=KEY))
    said, event = map(json.loads, lines(path))
    assert (said["source"], said["pid"], said["text"]) == ("launcher", 1, "ready")
    assert (event["source"], event["event"], event["by"], event["key"]) == ("audit", "run", "command", MASK)
    assert json.loads(capsys.readouterr().err) == event


def test_text_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """As text only those events are there that people see nowhere else."""
    log = Log(Redactor())
    log.audit(Event.now("signal", to=5))
    log.audit(Event.now("login_failed", peer="::1"), shown=False)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"audit login_failed uid={os.getuid()} pid={os.getpid()} peer=::1")


# The file.


def test_mode(path: Path) -> None:
    """The file and its folder are their owner's alone, also after rotating."""
    before = os.umask(0)
    try:
        file = LogFile(path, size=100)
        for number in range(10):
            file.write(f"line {number} " + "x" * 30)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()} == {0o600}


def test_rotation(path: Path) -> None:
    """A full file becomes .1, and the oldest goes; no line is broken."""
    file = LogFile(path, size=100, kept=2)
    for number in range(20):
        file.write(f"{number:03}" + "x" * 30)
    assert sorted(one.name for one in path.parent.iterdir()) == [f"{path.name}{end}" for end in ("", ".1", ".2")]
    kept = [line[:3] for end in (".2", ".1", "") for line in lines(path.with_name(path.name + end))]
    assert kept == [f"{number:03}" for number in range(20 - len(kept), 20)]
    assert all(one.stat().st_size <= 100 for one in path.parent.iterdir())


WRITER = """
import sys
from pathlib import Path
from preflight.output.log import LogFile
file = LogFile(Path(sys.argv[1]), size=2000, kept=100)
for number in range(300):
    file.write(f"{sys.argv[2]}:{number:04}:" + "x" * 40)
"""


@pytest.mark.slow
def test_several_writers(path: Path) -> None:
    """An instance and the one that replaces it write and rotate the same file: no line is lost or broken."""
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(one)], cwd=ROOT) for one in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    written = [line for one in path.parent.iterdir() for line in lines(one)]
    assert len(list(path.parent.iterdir())) > 5
    expected = [f"{one}:{number:04}:" + "x" * 40 for one in range(3) for number in range(300)]
    assert sorted(written) == sorted(expected)


def test_somebody_took_it_away(path: Path) -> None:
    """A file that was renamed (logrotate) or removed is made anew."""
    file = LogFile(path)
    file.write("one")
    path.rename(path.with_name("old"))
    file.write("two")
    path.unlink()
    file.write("three")
    assert (lines(path.with_name("old")), lines(path)) == (["one"], ["three"])


# A disk that is full after 60 bytes, and later has room again.
FULL = """
import resource, sys
from pathlib import Path
from preflight.output.log import LogFile
file = LogFile(Path(sys.argv[1]))
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (60, hard))
for number in range(5):
    file.write(f"{number}" + "x" * 24)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
file.write("there is room again")
file.write("and it goes on")
"""


@pytest.mark.slow
def test_full_disk(path: Path) -> None:
    """What a full disk does not take is counted, nobody fails for it, and the next line begins a line."""
    subprocess.run([sys.executable, "-c", FULL, str(path)], cwd=ROOT, check=True, timeout=30)
    whole = [f"{number}" + "x" * 24 for number in range(2)]
    assert lines(path) == [*whole, "2xxxxxxx", "lines lost here: 3", "there is room again", "and it goes on"]


@pytest.mark.parametrize("planted", ["link", "folder"])
def test_planted(path: Path, tmp_path: Path, planted: str) -> None:
    """A link or a folder in its place is an error at once, and nothing is written elsewhere."""
    path.parent.mkdir()
    if planted == "link":
        path.symlink_to(tmp_path / "target")
    else:
        path.mkdir()
    with pytest.raises(OSError, match=r".") as caught:
        LogFile(path)
    assert caught.value.strerror in ("it is a symbolic link", "Is a directory")
    assert not (tmp_path / "target").exists()


def test_link_planted_later(path: Path, tmp_path: Path) -> None:
    """Nor is one followed that comes while the file is in use."""
    file = LogFile(path)
    path.unlink()
    path.symlink_to(tmp_path / "target")
    file.write("one")
    assert not (tmp_path / "target").exists()
