"""What goes wrong around a server: a full disk, a read-only one, a clock set back, processes that cannot be seen."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.chatting import client
from tests.e2e.doubles import LISTENER
from tests.e2e.place import BLOCKED, Place, Started, get
from tests.e2e.processes import worker_below
from tests.waiting import PATIENCE, until

SMALL = ("--app", "small:app")
"""For commands that are not about the agent: its libraries take most of their time."""
UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]


def possible(*command: str) -> bool:
    """Whether this system lets us do that, in a mount namespace of its own."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, *command], capture_output=True, timeout=PATIENCE).returncode == 0


@pytest.fixture(scope="module")
def mounts() -> None:
    if not possible("mount", "-t", "tmpfs", "tmpfs", "/mnt"):
        pytest.skip("no file system can be mounted here, not even in a namespace of our own")


# Disks.


class Disk:
    """The state folder on a disk of its own, which only the processes that are started through it can see."""

    def __init__(self, place: Place, size: str) -> None:
        self.place = place
        place.write_module("hold", "import signal\nprint('mounted', flush=True)\nsignal.pause()\n")
        mount = f'mount -t tmpfs -o mode=700,size={size} tmpfs "$PREFLIGHT_STATE_DIR" && exec "$0" -m hold'
        self.holder = place.spawn(*UNSHARE, "sh", "-c", mount, sys.executable).until_says("mounted")
        self.folder = Path(f"/proc/{self.holder.pid}/root{place.state}")

    def _enter(self, *command: str) -> list[str]:
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return ["nsenter", f"--target={self.holder.pid}", *user, "--mount", f"--wd={self.place.root}", *command]

    def start(self, *options: str) -> Started:
        command = [sys.executable, "run.py", "--port", str(self.place.port), "--demo", *options]
        return self.place.spawn(*self._enter(*command))

    def run(self, *options: str) -> Started:
        one = self.start(*options)
        one.wait()
        return one

    def remount(self, how: str) -> None:
        # Not with the options that it has: its owner's number means nothing in a namespace of an ordinary user.
        mount = ["mount", "--options-mode", "ignore", "-o", f"remount,{how}", str(self.place.state)]
        subprocess.run(self._enter(*mount), check=True)

    def fill(self, *, leave: int = 0) -> None:
        """Use up all the room but so many bytes."""
        with open(self.folder / "filler", "ab", buffering=0) as filler:
            try:
                while True:
                    filler.write(b"x" * 4096)
            except OSError:
                filler.truncate(max(0, filler.tell() - leave))

    def make_room(self) -> None:
        (self.folder / "filler").unlink()

    def litter(self) -> list[str]:
        """Files that should have been renamed or removed."""
        return [file.name for file in self.folder.iterdir() if file.name.startswith((".report", ".probe"))]


@pytest.fixture
def disk(mounts: None, place: Place) -> Disk:
    if shutil.which("nsenter") is None:
        pytest.skip("there is no nsenter here (util-linux)")
    place.environ["PREFLIGHT_DISK_SPACE"] = "0"  # no warning about what is meant
    return Disk(place, "512k")


def test_full_disk_at_the_start(disk: Disk) -> None:
    """Without room for a byte the state folder is what blocks, and nothing is left on the disk."""
    disk.fill()
    started = disk.run(*SMALL)
    assert started.process.returncode == 1, started.output
    assert BLOCKED in started.output
    assert f"{disk.place.state} cannot be written and locked: No space left on device" in started.output
    assert "set PREFLIGHT_STATE_DIR to another folder" in started.output
    assert "Traceback" not in started.output
    assert {file.name for file in disk.folder.iterdir()} <= {"filler", "audit.log"}
    assert not (disk.folder / "audit.log").exists() or (disk.folder / "audit.log").stat().st_size == 0
    started.left_nothing()


def test_no_room_for_the_report(disk: Disk) -> None:
    """With room for a byte and none for the report: a clear message, nothing started, the last report untouched."""
    assert disk.run("--check-only", *SMALL).process.returncode == 0
    before = (disk.folder / "report.json").read_text()
    disk.fill(leave=4096)
    for options in ((), ("--check-only",)):
        started = disk.run(*options, *SMALL)
        assert started.process.returncode == 3, started.output
        assert "THE REPORT CANNOT BE WRITTEN: nothing was started" in started.output
        assert f"{disk.place.report_file}: No space left on device" in started.output
        assert "Traceback" not in started.output
        assert (disk.folder / "report.json").read_text() == before
        assert disk.litter() == []
        started.left_nothing()


def broken_in_flight(disk: Disk, started: Started, why: str) -> None:
    """What holds for a server whose disk has stopped to take anything: it goes on and says so where it matters."""
    url = disk.place.url
    assert get(f"{url}/health")[0] == 200
    assert json.loads(get(f"{url}/diagnostics")[1])["status"] == "passed"
    report = (disk.folder / "report.json").read_text()
    checked = disk.run("--check-only", *SMALL)
    assert checked.process.returncode in (1, 3), checked.output
    assert why in checked.output
    assert "Traceback" not in checked.output
    assert (disk.folder / "report.json").read_text() == report
    assert disk.litter() == []
    with client(url) as chat:
        # Nothing is accepted that is not on the disk.
        chat.send("init")
        first = chat.next()
        if first["type"] == "initialized":
            chat.send("chat", content="status " + "x" * 9000)
            first = chat.next()
        assert first["type"] == "error", first
    replacing = disk.run(*SMALL)
    assert replacing.process.returncode in (1, 3), replacing.output
    assert why in replacing.output
    assert get(f"{url}/health")[0] == 200
    assert "Traceback" not in started.output


def works_again(disk: Disk) -> None:
    with client(disk.place.url) as chat:
        chat.init()
        assert chat.answer("status")
    assert disk.run("--check-only", *SMALL).process.returncode == 0


def test_disk_that_becomes_read_only_and_fills_up(disk: Disk) -> None:
    """A server whose disk is made read-only, as kernels do with disks that fail, goes on serving.

    What needs the disk says no, until it can be written again. So it is where the disk fills up.
    """
    started = disk.start().until_ready()
    disk.remount("ro")  # before there are sessions: with files that are open for writing it would be refused
    broken_in_flight(disk, started, "Read-only file system")
    disk.remount("rw")
    works_again(disk)
    disk.fill()
    broken_in_flight(disk, started, "No space left on device")
    disk.make_room()
    works_again(disk)
    assert started.stop() == 0


# The clock.

# Every Python that finds it has a clock that goes wrong by as many seconds as the file says.
CLOCK = """
import os, time
_file, _time, _gmtime, _localtime = os.environ.get("CLOCK"), time.time, time.gmtime, time.localtime

def wrong():
    with open(_file) as file:
        return _time() + float(file.read())

if _file:
    time.time = wrong
    time.gmtime = lambda seconds=None: _gmtime(wrong() if seconds is None else seconds)
    time.localtime = lambda seconds=None: _localtime(wrong() if seconds is None else seconds)
"""


@pytest.fixture
def clock(place: Place) -> Path:
    """The clock of this place: how many seconds it is ahead."""
    place.write_module("sitecustomize", CLOCK)
    file = place.folder / "clock"
    file.write_text("3600")
    place.environ["CLOCK"] = str(file)
    return file


def diagnostics(place: Place) -> dict[str, object]:
    found: dict[str, object] = json.loads(get(f"{place.url}/diagnostics")[1])
    return found


def test_clock_set_back(place: Place, clock: Path) -> None:
    """Nothing is younger than nothing, the latest report is the latest, and another start replaces this one."""
    started = place.start("--demo").until_ready()
    own = diagnostics(place)
    assert "problem" not in own
    clock.write_text("0")
    until(lambda: "problem" in diagnostics(place), "it is noticed")  # an answer is given again for a second
    found = diagnostics(place)
    assert (found["run_id"], found["age_seconds"]) == (own["run_id"], 0)
    assert "the clock was set back: this report was made at" in str(found["problem"])
    server = found["server"]
    assert isinstance(server, dict)
    assert server["uptime_seconds"] == server["worker_uptime_seconds"] == 0
    assert place.run("--check-only", "--demo", *SMALL).process.returncode == 0
    later = diagnostics(place)
    assert later["origin"] == "check"
    assert "problem" not in later
    assert get(f"{place.url}/health")[0] == 200
    replacing = place.start("--demo").until_ready()
    assert started.wait() == 0
    assert "it came up meanwhile" not in replacing.output
    assert diagnostics(place)["origin"] == "start"
    assert replacing.stop() == 0


# Hidden processes.

# Listens, and then belongs to another user; no program is executed after that, which that user might not be allowed to.
ANOTHER = """
import os, signal, socket, sys
os.setgroups([])
os.setresuid(12345, 12345, 12345)
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening", flush=True)
while True:
    signal.pause()
"""
HIDING = "hidepid=2,gid=54321"  # without a group of its own, root's sees everything
UNSEEN = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]


@pytest.fixture
def hidden(place: Place) -> list[str]:
    """What to put before a command that is to see no process of others."""
    if shutil.which("setpriv") is None or not possible("mount", "-t", "proc", "-o", HIDING, "proc", "/proc"):
        pytest.skip("processes cannot be hidden here")
    return [*UNSHARE, "sh", "-c", f'mount -t proc -o {HIDING} proc /proc && exec "$@"', "sh", *UNSEEN]


@pytest.mark.needs_root("nobody else can hide processes")
def test_hidden_holder(place: Place, hidden: list[str]) -> None:
    """Somebody's process holds the port and cannot be seen: the start is refused, says so, and says who can tell."""
    program = place.folder / "another.py"
    program.write_text(ANOTHER)
    other = place.spawn(sys.executable, str(program), str(place.port)).until_says("listening")
    seen = subprocess.run([*hidden, "ls", f"/proc/{other.pid}"], capture_output=True, text=True)
    assert seen.returncode != 0, "it is to be hidden"
    command = [sys.executable, "run.py", "--port", str(place.port), "--demo", *SMALL]
    for options in ([], ["--check-only"], ["--port-status"]):
        started = place.spawn(*hidden, *command, *options)
        assert started.wait() == 1, started.output
        assert "Traceback" not in started.output
        assert "another user's process" in started.output
    assert other.process.poll() is None


@pytest.mark.needs_root("nobody else can hide processes")
def test_hidden_processes(place: Place, hidden: list[str]) -> None:
    """Where only our own processes are seen, a server starts, frees its port of our own, and restarts its worker."""
    stale = place.folder / "stale.py"
    stale.write_text(LISTENER)
    place.spawn(*UNSEEN, sys.executable, str(stale), str(place.port)).until_says("listening")
    command = [sys.executable, "run.py", "--port", str(place.port), "--demo", "--supervise", *SMALL]
    started = place.spawn(*hidden, *command).until_ready()
    assert "Traceback" not in started.output
    worker_below(started).kill()
    started.until_says("The worker is back")
    assert get(place.url) == (200, "small")
    assert started.stop() == 0
