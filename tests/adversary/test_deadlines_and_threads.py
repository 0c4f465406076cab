"""Deadlines and threads of requirements, one wish to stop in several signals, full disks, odd surroundings."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.e2e.doubles import SMALL
from tests.e2e.place import READY, Place, Started, get
from tests.waiting import until

DEMO = ("--demo", "--app", "small:app")
linux = pytest.mark.skipif(sys.platform != "linux", reason="mounts, limits and timeout as Linux has them")

# Requirements that judge, and are not heard unless somebody listens closely.

HEAD = """
import signal, threading, time
import pytest

def late():
    end = time.monotonic() + 2
    while time.monotonic() < end:
        time.sleep(0.1)

def says_no():
    pytest.fail("it is not there")

@pytest.mark.critical("Judges", fix="mend it")
def test_judges(settings):
    \"\"\"It holds.\"\"\"
"""
LATE = {
    "swallows what interrupts it": "try:\n    late()\nexcept BaseException:\n    pass",
    "leaves early then": "try:\n    late()\nfinally:\n    return",
    "has an alarm of its own": "signal.signal(signal.SIGALRM, signal.SIG_IGN)\nlate()",
    "lets no alarm through": "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\nlate()",
}


def judged(project: Place, body: str, **environ: str) -> dict[str, object]:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    project.write_requirement("judges", HEAD + lines)
    project.refused("--demo", "--check-only", **environ)
    return project.check("Judges")


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("how", LATE)
def test_a_deadline_that_the_requirement_takes_for_itself(project: Place, how: str) -> None:
    """Whoever catches what interrupts it, or is not interrupted, has not answered in time."""
    check = judged(project, LATE[how], PREFLIGHT_REQUIREMENT_TIMEOUT="1s")
    assert check["outcome"] == "timeout"
    assert check["message"] == "ran past its deadline of 1 s"


@pytest.mark.usefixtures("unmeasured")
def test_a_thread_that_judges(project: Place) -> None:
    """pytest.fail() in a thread that the requirement waits for is its answer, like an assertion."""
    check = judged(project, "thread = threading.Thread(target=says_no)\nthread.start()\nthread.join()")
    assert (check["outcome"], check["message"]) == ("failed", "it is not there")


@pytest.mark.usefixtures("unmeasured")
def test_a_requirement_that_says_that_it_waited_in_vain(project: Place) -> None:
    """Its own words are kept, though it has caught its deadline for them."""
    body = "try:\n    late()\nexcept BaseException:\n    pytest.fail('no answer')"
    check = judged(project, body, PREFLIGHT_REQUIREMENT_TIMEOUT="1s")
    assert (check["outcome"], check["message"]) == ("failed", "no answer")


# One wish to stop.

SLOW = """
import asyncio, os
from small import app as small

async def app(scope, receive, send):
    if scope.get("path") == "/slow":
        print("in flight", flush=True)
        while not os.path.exists(os.environ["GATE"]):
            await asyncio.sleep(0.01)
    await small(scope, receive, send)
"""
TOGETHER = {
    "a terminal's signal that npm follows with its own": (signal.SIGINT, signal.SIGTERM),
    "a service manager with SendSIGHUP": (signal.SIGTERM, signal.SIGHUP),
    "a terminal that is closed, and its shell": (signal.SIGHUP, signal.SIGCONT, signal.SIGHUP),
    "impatience within a moment": (signal.SIGTERM, signal.SIGTERM, signal.SIGTERM),
}


class Asking(threading.Thread):
    """A request that is on its way."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.answer: object = None
        self._url = f"{place.url}/slow"
        self.start()

    def run(self) -> None:
        try:
            self.answer = get(self._url, 60)
        except OSError as error:
            self.answer = error


def in_flight(place: Place) -> tuple[Started, Asking]:
    """An instance with a request in flight, which is answered once the gate is open."""
    place.write_module("slow", SLOW)
    environ = {"GATE": str(place.folder / "gate"), "PREFLIGHT_GRACEFUL_TIMEOUT": "60s"}
    started = place.start("--demo", "--app", "slow:app", **environ).until_ready()
    asking = Asking(place)
    started.until_says("in flight")
    return started, asking


def answered(place: Place, started: Started, asking: Asking) -> None:
    started.until_says("Stopping (")
    # What came soon after the first signal has come by now, and would have cut it off.
    asking.join(0.3)
    (place.folder / "gate").touch()
    asking.join(60)
    assert asking.answer == (200, "small")
    assert started.wait() in (0, -signal.SIGINT)
    assert "Ended at once" not in started.output


@pytest.mark.parametrize("who", TOGETHER)
def test_signals_that_belong_together(place: Place, who: str) -> None:
    """What is in flight is finished: it is asked to stop once, in several signals."""
    started, asking = in_flight(place)
    for number in TOGETHER[who]:
        started.send(number)
        time.sleep(0.005)  # a signal of the same number would be one with it
    answered(place, started, asking)


@linux
@pytest.mark.skipif(shutil.which("timeout") is None, reason="there is no timeout")
def test_ctrl_c_below_timeout(place: Place) -> None:
    """Ctrl-C reaches ``timeout`` and what it runs, and ``timeout`` passes it on."""
    place.before = ["timeout", "600"]
    started, asking = in_flight(place)
    launcher = next(one for one in started.family() if "run.py" in psutil.Process(one).cmdline()[1:2])
    for pid in (launcher, started.pid):
        os.kill(pid, signal.SIGINT)
    answered(place, started, asking)


# Disks that are full.


def cut_off(root: Path) -> list[Path]:
    """Compiled files of which only the beginning was written: a Python before 3.13.1 leaves those on a full disk."""
    found = []
    for path in root.rglob("__pycache__/*.pyc"):
        content = path.read_bytes()
        if len(content) > 4096:  # what fits into one block is there or not
            path.unlink()  # other copies of the tree share it
            path.write_bytes(content[: len(content) // 4096 * 2048])
            found.append(path)
    return found


def test_compiled_files_that_were_cut_off(project: Place) -> None:
    """Their source is taken, in the launcher, the suite and the worker, and the next start writes them anew."""
    compiled = cut_off(project.root)
    sizes = {path: path.stat().st_size for path in compiled}
    assert any("plugin" in path.name for path in compiled)
    started = project.start(*DEMO).until_ready()
    assert get(project.url) == (200, "small")
    assert started.stop() == 0
    assert "EOFError" not in started.output
    again = project.run("--demo", "--check-only")
    assert again.process.returncode == 0, again.output
    whole = [path for path in compiled if path.exists() and path.stat().st_size > sizes[path]]
    assert {"plugin", "checks", "worker"} <= {path.name.partition(".")[0] for path in whole}


FULL = """
set -e
mount -t tmpfs -o size=8m none "$1"
cp -r "$2" "$1/tree"
find "$1/tree" -name __pycache__ -exec rm -rf {} +
cd "$1/tree"
dd if=/dev/zero of="$1/filler" bs=4k 2> /dev/null || true
truncate -s -"$4" "$1/filler"
shift
"$2" run.py --port "$4" --demo --check-only || true
rm ../filler
echo "There is room again."
exec "$2" run.py --port "$4" --demo --check-only
"""


@linux
@pytest.mark.needs_root("nobody else may mount a file system everywhere")
@pytest.mark.parametrize("room", [70_000, 333_000])
def test_a_disk_that_was_full(project: Place, room: int) -> None:
    """A first start on a full disk leaves nothing behind that keeps later ones from going ahead."""
    mount = project.folder / "mount"
    mount.mkdir()
    arguments = [str(mount), str(project.root), sys.executable, str(room), str(project.port)]
    one = project.spawn("unshare", "-m", "sh", "-c", FULL, "sh", *arguments)
    assert one.wait() == 0, one.output
    assert "Traceback" not in one.output.partition("There is room again.")[2]


# Odd surroundings: a check passes where a start goes ahead, and only there.

SURROUNDINGS = {
    "files stay small": ("ulimit -f 1", 3),
    "the stack is small": ("ulimit -s 256", 0),
    "nothing is kept from anybody": ("umask 0", 0),
    "no home": ("unset HOME XDG_RUNTIME_DIR", 0),
    "nowhere for temporary files": ("unset XDG_RUNTIME_DIR; export TMPDIR=/nonexistent", 0),
}


@linux
@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("what", SURROUNDINGS)
def test_a_check_says_what_a_start_does(place: Place, what: str) -> None:
    """Both go ahead or neither does, without a traceback."""
    change, code = SURROUNDINGS[what]
    place.before = ["bash", "-c", f'{change}; exec "$@"', "_"]
    place.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    check = place.run(*DEMO, "--check-only")
    assert check.process.returncode == code, check.output
    if code:
        start = place.run(*DEMO)
        assert READY not in start.output
        assert start.process.returncode in (1, 3)
    else:
        start = place.start(*DEMO).until_ready()
        assert start.stop() == 0
    assert "Traceback" not in check.output + start.output


# A replacement that answers once, and is gone.


def test_a_replacement_that_ends_after_its_answer(place: Place) -> None:
    """The old instance goes on: what has answered and ended has taken nobody's place."""
    old = place.start(*DEMO).until_ready()
    ends = "import os, threading\n" + SMALL.replace(
        "def factory", "        threading.Timer(0, os._exit, [0]).start()\n\ndef factory"
    )
    place.write_module("ends", ends)
    new = place.start("--demo", "--app", "ends:app")
    assert new.wait() == 4, new.output
    assert get(place.url) == (200, "small")
    assert old.process.poll() is None
    assert "Replaced" not in old.output


def test_a_worker_that_is_killed_while_it_is_asked(place: Place) -> None:
    """Another one is started, or none: the old instance answers all the while."""
    old = place.start(*DEMO).until_ready()
    place.write_module("asked", SLOW.replace('"/slow"', '"/"'))
    new = place.start("--demo", "--app", "asked:app", GATE=str(place.folder / "never")).until_says("in flight")
    worker = next(one for one in new.family() if "preflight.worker" in psutil.Process(one).cmdline())
    os.kill(worker, signal.SIGKILL)
    until(lambda: new.process.poll() is not None or new.stdout.count("in flight") > 1, "it has noticed")
    assert get(place.url) == (200, "small")
    new.insist()
    assert get(place.url) == (200, "small")
    assert old.process.poll() is None
