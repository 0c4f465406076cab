"""Who holds the port and is left alone, a launcher that is busy or killed, readers that come back, odd machines."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from preflight.instances.records import ANSWER
from tests.adversary.applications import Marked, application
from tests.e2e import namespaces
from tests.e2e.doubles import LISTENER
from tests.e2e.namespaces import DEMO, command, contained
from tests.e2e.place import Place, Started, get, listening
from tests.e2e.processes import handed_over, workers_of
from tests.waiting import until

linux = pytest.mark.skipif(sys.platform != "linux", reason="namespaces, /proc and seccomp are Linux's")
pytestmark = [linux, pytest.mark.usefixtures("unmeasured")]

# Says that it was asked, and goes on when a file is there.
WAITS = """
import asyncio, os, sys
MARKS = os.environ["MARKS"]
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        for message in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{message}.complete"})
        return
    if scope["path"] == "/wait":
        open(f"{MARKS}/asked-{os.getpid()}", "w").close()
        while not os.path.exists(f"{MARKS}/go"):
            await asyncio.sleep(0.02)
        print("printed", flush=True)
        print("and reported", file=sys.stderr, flush=True)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"answered"})
"""


class Asked(threading.Thread):
    """A request in the background, and what came of it."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.came: object = None
        self.start()

    def run(self) -> None:
        try:
            self.came = get(self.url)
        except OSError as error:
            self.came = error


@pytest.fixture
def waiting(place: Place) -> Marked:
    return Marked(place, "waits", WAITS)


def freed(place: Place) -> Started:
    """What ``--free-port`` would do."""
    return place.run("--free-port", "--dry-run")


# Who is left alone.


def test_what_infrastructure_has_started_to_listen(place: Place) -> None:
    """``mlflow server`` runs uvicorn or gunicorn, and those listen: they are no stale server."""
    place.write_module("uvicorn_of_mlflow", LISTENER)
    program = place.folder / "mlflow"
    program.write_text(
        f"#!{sys.executable}\nimport subprocess, sys\n"
        "sys.exit(subprocess.call([sys.executable, '-m', 'uvicorn_of_mlflow', *sys.argv[2:]]))\n"
    )
    program.chmod(0o755)
    one = place.spawn(str(program), "server", str(place.port), cwd=Path("/")).until_says("listening")
    found = freed(place)
    assert found.process.returncode == 1, found.output
    assert "it was started by infrastructure (mlflow, run by python)" in found.output
    assert one.process.poll() is None


def test_a_holder_in_a_sandbox(place: Place) -> None:
    """A container without a control group of its own (apptainer, rootless podman, bwrap) is known by its PIDs."""
    program = place.folder / "listener.py"
    program.write_text(LISTENER)
    holder = contained(place, sys.executable, str(program), str(place.port)).until_says("listening")
    check = place.run(*DEMO, "--check-only")
    assert check.process.returncode == 1, check.output
    assert "it runs in a PID namespace of its own, as in a container or a sandbox" in check.output
    assert "would stop" not in freed(place).output.lower()
    assert holder.process.poll() is None


def test_waiting_for_somebody_who_is_left_alone(place: Place) -> None:
    """Under ``--wait`` a start has the port as soon as its holder, whom it never stops, has ended."""
    program = place.folder / "ollama"
    program.write_text(f"#!{sys.executable}\n{LISTENER}")
    program.chmod(0o755)
    holder = place.spawn(str(program), str(place.port), cwd=Path("/")).until_says("listening")
    start = place.start(*DEMO, "--wait", "60").until_says("blocked by")
    assert holder.process.poll() is None
    assert holder.stop() == -signal.SIGTERM
    start.until_ready()
    assert start.stop() == 0


def test_in_a_user_namespace(place: Place) -> None:
    """An instance that runs as root of its own user namespace is this user's: it is kept, replaced, and replaces."""
    inside = ["unshare", "--user", "--map-root-user"]
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let this user make a user namespace")
    first = place.spawn(*inside, *command(place, *DEMO)).until_ready()
    kept = place.run(*DEMO, "--if-running", "keep")
    assert kept.process.returncode == 0, kept.output
    assert "Nothing to do." in kept.output
    second = place.start(*DEMO).until_ready()
    handed_over(first, second)
    third = place.spawn(*inside, *command(place, *DEMO)).until_ready()
    handed_over(second, third)
    assert third.stop() == 0


def test_a_copy_that_was_detached(place: Place) -> None:
    """What the worker has forked, and what has left its session, keeps neither the port nor the next start."""
    options = application(
        place, "forks", fork="if os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\n    os._exit(0)"
    )
    first = place.start(*options).until_ready()
    assert get(f"{place.url}/fork")[0] == 200
    assert first.stop() == 0
    assert not listening(place.port)
    assert place.run("--port-status").process.returncode == 0
    second = place.start(*options, "--if-running", "keep").until_ready()
    assert second.stop() == 0


# Launchers.


def busy(place: Place, go: Path) -> Started:
    """An instance whose launcher does nothing until that file is there."""
    number = signal.SIGRTMIN + 9
    program = place.prepared(
        "import os, signal, time\n"
        f"def wait(*_):\n    while not os.path.exists({str(go)!r}):\n        time.sleep(0.02)\n"
        f"signal.signal({int(number)}, wait)"
    )
    started = place.start_program(program, *DEMO).until_ready()
    started.send(number)
    return started


def test_a_launcher_that_hangs(place: Place) -> None:
    """It never answers: a start whose requirements have little time replaces it all the same."""
    old = busy(place, place.folder / "never")
    new = place.start(*DEMO, PREFLIGHT_REQUIREMENT_TIMEOUT="3s", PREFLIGHT_PORT_GRACE="1s").until_ready()
    assert old.wait() == -signal.SIGKILL
    assert new.stop() == 0


def test_a_launcher_that_is_busy_when_it_is_asked(place: Place) -> None:
    """Paged out, or waiting for a disk, for longer than a suspended one is asked: it hands over, nobody is refused."""
    go = place.folder / "go"
    old = busy(place, go)
    new = place.start(*DEMO)
    name = f"@preflight/{place.port}/"

    def called() -> bool:
        """Whether a connection waits beside the listener."""
        rows = [row for row in Path("/proc/net/unix").read_text().splitlines() if name in row]
        return sum(not row.split()[3].startswith("0001") for row in rows) > 0

    until(called, "it is asked")
    time.sleep(ANSWER + 0.5)  # a suspended one would have been given up, and nothing else shows that
    go.touch()
    handed_over(old, new.until_ready())
    assert new.stop() == 0


def test_what_orphans_print(waiting: Marked) -> None:
    """Nobody reads what an application prints when its launcher was killed: what is in flight is answered."""
    started = waiting.start().until_ready()
    (worker,) = workers_of(started)
    asked = Asked(f"{waiting.place.url}/wait")
    waiting.until(f"asked-{worker}")
    started.send(signal.SIGKILL)
    until(lambda: os.readlink(f"/proc/{worker}/fd/1") == os.devnull, "what it prints leads nowhere")
    waiting.go()
    asked.join(20)
    assert asked.came == (200, "answered")
    until(lambda: not psutil.pid_exists(worker), "it has ended")
    started.wait()
    started.left_nothing()


def test_the_rest_is_asked_to_stop(waiting: Marked) -> None:
    """A launcher of two is killed for its memory, and systemd sends SIGTERM to the rest: both answer, and end."""
    started = waiting.start("--workers", "2").until_ready()
    workers = workers_of(started)
    asked: list[Asked] = []

    def both() -> bool:
        asked.append(Asked(f"{waiting.place.url}/wait"))
        time.sleep(0.05)
        return all((waiting.marks / f"asked-{pid}").exists() for pid in workers)

    until(both, "both are busy")
    started.send(signal.SIGKILL)
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    waiting.go()
    for one in asked:
        one.join(20)
    assert {one.came for one in asked} == {(200, "answered")}
    started.wait()
    started.left_nothing()


def test_many_signals_for_pid_1(waiting: Marked) -> None:
    """The parent has blocked every signal, and all of ours come again and again: the request is answered."""
    blocked = (
        "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals());"
        " os.execv(sys.argv[1], sys.argv[1:])"
    )
    started = contained(waiting.place, sys.executable, "-c", blocked, *command(waiting.place, *waiting.options))
    launcher = namespaces.launcher(started.until_ready())
    asked = Asked(f"{waiting.place.url}/wait")
    until(lambda: any(waiting.marks.iterdir()), "it is asked")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) * 4:
        os.kill(launcher, number)
        time.sleep(0.02)
    started.until_says("Stopping (SIG")
    waiting.go()
    asked.join(20)
    assert asked.came == (200, "answered")
    assert started.wait() == 0


@pytest.mark.parametrize(
    "options, said, code",
    [
        (("--app", "nowhere:app", "--wait", "60"), "blocked by", 143),
        (("--app", "small:app", "--watch"), "nothing blocks", 0),
        (("--app", "small:app", "--reload"), "SERVER READY!", 0),
    ],
)
def test_pid_1_of_other_commands(place: Place, options: tuple[str, ...], said: str, code: int) -> None:
    """What goes on until a signal comes ends with it as the first process of a container, too."""
    started = contained(place, *command(place, "--demo", *options)).until_says(said)
    os.kill(namespaces.launcher(started), signal.SIGTERM)
    assert started.wait() == code
    started.left_nothing()


# Readers, and a machine that forbids what is needed.


def test_the_reader_of_a_named_pipe_comes_back(place: Place) -> None:
    """A log collector is restarted: what it has missed is counted, and what follows is written."""
    fifo = place.folder / "log"
    os.mkfifo(fifo)
    options = application(place, "says", say="print(scope['query_string'].decode(), flush=True)")
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    output = os.open(fifo, os.O_WRONLY)
    started = place.spawn(
        "sh",
        "-c",
        f'exec "$@" >{fifo} 2>&1',
        "_",
        *command(place, *options, "--log-file", str(place.folder / "log.txt")),
    )
    os.close(output)
    log = place.folder / "log.txt"
    until(lambda: log.exists() and "SERVER READY!" in log.read_text(), "it serves")
    os.close(reader)
    assert get(f"{place.url}/say?missed")[0] == 200
    until(lambda: "missed" in log.read_text(), "it was said")
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    get(f"{place.url}/say?again")
    heard = b""

    def again() -> bool:
        nonlocal heard
        with contextlib.suppress(BlockingIOError):
            heard += os.read(reader, 1 << 16)
        return b"again\n" in heard

    until(again, "it goes on")
    assert b"lost: nobody read the output]\nagain\n" in heard
    assert started.stop() == 0
    assert b"Stopping (SIGTERM)." in os.read(reader, 1 << 16)
    os.close(reader)


# Forbids Unix sockets as RestrictAddressFamilies= does (seccomp), then runs a command.
FORBIDS = """
import ctypes, os, struct, sys
LOAD, IF_EQUAL, JUMP, RETURN = 0x20, 0x15, 0x05, 0x06
SOCKET, SOCKETPAIR, AF_UNIX, EAFNOSUPPORT = 41, 53, 1, 97
lines = [
    (LOAD, 0, 0, 0), (IF_EQUAL, 1, 0, SOCKET), (IF_EQUAL, 0, 3, SOCKETPAIR), (LOAD, 0, 0, 16),
    (IF_EQUAL, 0, 1, AF_UNIX), (RETURN, 0, 0, 0x50000 | EAFNOSUPPORT), (RETURN, 0, 0, 0x7FFF0000),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
program = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, program) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of system calls are those of x86-64")
def test_a_unit_that_may_make_no_unix_sockets(place: Place) -> None:
    """RestrictAddressFamilies=AF_INET AF_INET6: a start ends with a message that names the setting."""
    started = place.spawn(sys.executable, "-c", FORBIDS, *command(place, *DEMO))
    assert started.wait() == 1
    assert "Traceback" not in started.output
    assert "Fix: allow them; in a unit of systemd, add AF_UNIX to RestrictAddressFamilies=" in started.output
