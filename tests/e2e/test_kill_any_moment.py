"""kill -9 of any one of our processes at any moment: nothing is left over that the next start would mind."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

import pytest

from preflight.report import model as report
from tests.e2e.place import READY, Place, Started, get
from tests.e2e.processes import child
from tests.waiting import until

# Imported by every Python process of a start before anything else. The one that is meant gets its SIGKILL
# when it is about to do what is named: exact moments, which no timing from outside could hit.
KILLER = """
import os, signal, sys

role = next((role for role in ("preflight.suite", "preflight.worker", "run.py") if role in sys.orig_argv), "")
who, event, text, times = os.environ["MOMENT"].split("|")
left = int(times)

def hook(name, arguments):
    global left
    if name == event and text in repr(arguments):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

if role == who:
    sys.addaudithook(hook)
"""
SUITE, WORKER, LAUNCHER = "preflight.suite", "preflight.worker", "run.py"
CODES = {SUITE: {3}, WORKER: {1, 4}, LAUNCHER: {-signal.SIGKILL}}
OPTIONS = ("--demo", "--app", "small:app", "--no-supervise")


@dataclass(frozen=True)
class Moment:
    """Who is killed when it does what: an audit event of Python, a text in its arguments, which time."""

    who: str
    event: str
    text: str = ""
    times: int = 1

    def __str__(self) -> str:
        return f"{self.who}|{self.event}|{self.text}|{self.times}"


INSIDE = {
    "launcher before it knows anything": Moment(LAUNCHER, "import", "'preflight.launcher.start'"),
    "launcher with the start lock, before its children": Moment(LAUNCHER, "subprocess.Popen", WORKER),
    "launcher with a worker, before the suite": Moment(LAUNCHER, "subprocess.Popen", SUITE),
    "launcher while it publishes the report": Moment(LAUNCHER, "os.rename", "report.json"),
    "launcher with a verdict, before it is shown": Moment(LAUNCHER, "import", "'preflight.report.banners'"),
    "launcher while it publishes its record": Moment(LAUNCHER, "os.rename", ".json'"),
    "launcher between its record and its control socket": Moment(LAUNCHER, "socket.bind", ".sock", times=3),  # 2 tries
    "suite before pytest": Moment(SUITE, "import", "'pytest'"),
    "suite while it looks at the application": Moment(SUITE, "import", "'preflight.suite.claim'"),
    "suite when it takes the port": Moment(SUITE, "socket.bind"),
    "suite when it hands over the port": Moment(SUITE, "socket.sendmsg"),
    "worker while it imports the application": Moment(WORKER, "open", "/small.py"),
    "worker with the application imported": Moment(WORKER, "import", "'preflight.worker.serving'"),
    "worker with the verdict and the socket": Moment(WORKER, "socket.__new__", times=2),  # the first is its channel
}


def left_no_process(place: Place, started: Started) -> None:
    """No orphan, no half report."""
    until(lambda: not started.family(), "every process that it started has gone")
    if place.report_file.exists():
        report.load(place.report_file)


def left_no_trace(place: Place) -> None:
    """The next start gets ready, serves, and leaves nothing."""
    following = place.start(*OPTIONS).until_ready()
    assert f"127.0.0.1:{place.port} is available." in following.stdout
    assert "waiting for it" not in following.stdout
    assert get(place.url) == (200, "small")
    assert report.load(place.report_file).may_start
    assert following.stop() == 0
    following.left_nothing()
    assert os.listdir(place.folder / "runtime" / "preflight") == [f"{place.port}.lock"]


@pytest.mark.parametrize("who", [LAUNCHER, SUITE, WORKER])
def test_killed_when(place: Place, who: str) -> None:
    """Killed right before a step of its own: nothing is served, and nothing is left.

    After each moment comes a start that gets to the next one, which it would not if it minded what is there.
    """
    place.write_module("sitecustomize", KILLER)
    for name, moment in INSIDE.items():
        if moment.who == who:
            started = place.start(*OPTIONS, MOMENT=str(moment))
            assert started.wait() in CODES[who], f"{name}: {started.output}"
            assert READY not in started.output, name
            assert "waiting for it" not in started.output, name
            assert "is served by" not in started.output, name
            assert "is held by" not in started.output, name
            left_no_process(place, started)
    (place.folder / "modules" / "sitecustomize.py").unlink()
    left_no_trace(place)


def existing(started: Started, who: str) -> int:
    """The PID of this child, as soon as there is one."""
    until(lambda: child(started, who) is not None or started.process.poll() is not None, "it exists")
    pid = child(started, who)
    assert pid is not None, f"{who}: {started.output}"
    return pid


def test_killed_as_soon_as_it_exists(place: Place) -> None:
    """Killed before it could do anything at all."""
    for who in (SUITE, WORKER):
        started = place.start(*OPTIONS)
        os.kill(existing(started, who), signal.SIGKILL)
        assert started.wait() in CODES[who], f"{who}: {started.output}"
        left_no_process(place, started)
    left_no_trace(place)


@pytest.mark.parametrize("who", [WORKER, LAUNCHER])
def test_killed_after_it_said(place: Place, who: str) -> None:
    """Killed from outside between the steps of a start, and while it serves; the next start gets as far and further."""
    for spoken in (" is available.", "requirements: ", READY):
        started = place.start(*OPTIONS).until_says(spoken)
        pid = started.pid if who == LAUNCHER else child(started, who)
        assert pid is not None, spoken
        os.kill(pid, signal.SIGKILL)
        assert started.wait() in CODES[who], f"{spoken}: {started.output}"
        assert "waiting for it" not in started.output, spoken
        left_no_process(place, started)
    left_no_trace(place)


def test_killed_while_it_publishes_leaves_the_last_report(place: Place) -> None:
    """A launcher that is killed half way through a report leaves the one before it, whole."""
    place.plant_report()
    before = place.report_file.read_bytes()
    place.write_module("sitecustomize", KILLER)
    moment = INSIDE["launcher while it publishes the report"]
    started = place.start(*OPTIONS, MOMENT=str(moment))
    assert started.wait() == -signal.SIGKILL
    assert place.report_file.read_bytes() == before
    assert report.load(place.report_file).run_id == "old"
