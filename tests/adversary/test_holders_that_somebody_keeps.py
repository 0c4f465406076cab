"""Holders of the port that somebody keeps running or works with, and signals at moments when Python is busy."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.adversary.applications import Marked, application, head, rest
from tests.e2e.doubles import LISTENER
from tests.e2e.namespaces import DEMO, command, goes_on
from tests.e2e.place import Place, Started, get
from tests.e2e.processes import supervised
from tests.waiting import until

linux = pytest.mark.skipif(sys.platform != "linux", reason="sessions and terminals are looked up in /proc")
pytestmark = [linux, pytest.mark.usefixtures("unmeasured")]

# Runs a command, and runs it again whenever it has ended.
KEEPS = """
import subprocess, sys
while True:
    subprocess.call(sys.argv[1:])
"""
IN_A_SHELL = ["sh", "-c", '"$@"; exit', "sh"]
# As a terminal's shell, or a job that somebody has detached there.
IN_A_SESSION = [sys.executable, "-c", "import subprocess, sys; subprocess.call(sys.argv[1:], start_new_session=True)"]


@pytest.fixture
def program(place: Place) -> Iterator[Callable[..., Started]]:
    """Starts a Python program that is called like this, and waits until somebody listens."""
    started: list[Started] = []

    def start(name: str, source: str, *arguments: str, cwd: Path = Path("/")) -> Started:
        path = place.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{sys.executable}\n{source}")
        path.chmod(0o755)
        started.append(place.spawn(str(path), *arguments, cwd=cwd).until_says("listening"))
        return started[-1]

    yield start
    for one in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            below = psutil.Process(one.pid).children(recursive=True)
            one.process.kill()  # first, because it would start the others again
            for process in below:
                process.kill()


def listener(place: Place) -> list[str]:
    """The command of a server that has nothing to do with this project."""
    (place.folder / "listener.py").write_text(LISTENER)
    return [os.path.realpath(sys.executable), str(place.folder / "listener.py"), str(place.port)]


@pytest.mark.parametrize("name", ["supervisord", "runsv", "PM2"])
@pytest.mark.parametrize(
    "between, kept",
    [pytest.param([], True, id="itself"), (IN_A_SHELL, True), pytest.param(IN_A_SESSION, False, id="in a session")],
)
def test_what_a_supervisor_keeps_running(
    place: Place, program: Callable[..., Started], name: str, between: list[str], *, kept: bool
) -> None:
    """It would come back, and fight for the port: it is left alone like a service of systemd's."""
    one = program(name, KEEPS, *between, *listener(place))
    freed = place.run("--free-port", "--dry-run")
    assert freed.process.returncode == kept, freed.output
    assert (f"{name} (PID {one.pid}) keeps it running" in freed.output) == kept
    if kept and name == "supervisord" and not between:
        new = place.run(*DEMO)
        assert new.process.returncode == 1, new.output
        assert "SIGTERM" not in new.output
        assert one.output.count("listening") == 1


@pytest.mark.parametrize("here", [False, True], ids=["elsewhere", "from this project"])
def test_what_an_editor_has_started(place: Place, program: Callable[..., Started], *, here: bool) -> None:
    """On a machine that is reached from elsewhere, neither a terminal nor a desktop application tells whose it is."""
    program("code-server", KEEPS, *listener(place), cwd=place.root if here else Path("/"))
    freed = place.run("--free-port", "--dry-run")
    assert freed.process.returncode == (not here), freed.output
    assert ("it was started by an editor (code-server)" in freed.output) != here


@contextlib.contextmanager
def on_a_terminal(place: Place, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], int, Callable[[], str]]]:
    """A command on a terminal of its own, in this project's folder; the terminal's other end, and what came there."""
    master, slave = os.openpty()
    came: list[bytes] = []

    def hear() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(master, 1 << 16):
                came.append(data)

    process = subprocess.Popen(
        ["setsid", "--ctty", *words], cwd=place.root, env=place.environ, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    threading.Thread(target=hear, daemon=True).start()
    try:
        yield process, master, lambda: b"".join(came).decode("utf-8", "replace")
    finally:
        process.kill()
        process.wait()
        with contextlib.suppress(OSError):
            os.close(master)


@pytest.mark.parametrize(
    "options, what",
    [
        ([], "an interactive session (python"),
        (["-qi"], "an interactive session (python"),
        (["-Wignore", "LISTENER"], ""),
        (["-m", "pdb", "-c", "continue", "LISTENER"], "a debugger (pdb, run by python)"),
    ],
    ids=" ".join,
)
def test_somebody_at_a_prompt(place: Place, options: list[str], what: str) -> None:
    """A person works there, although it was started in this project's folder; a program without a prompt is stale."""
    python, path, port = listener(place)
    words = [python, *(path if one == "LISTENER" else one for one in options)]
    with on_a_terminal(place, *words, *([port] if "LISTENER" in options else [])) as (_process, typed, said):
        if "LISTENER" not in options:
            source = f"import socket; held = socket.create_server(('127.0.0.1', {port})); print('listen' + 'ing')\n"
            os.write(typed, source.encode())
        until(lambda: "listening" in said(), "it listens")
        freed = place.run("--free-port", "--dry-run")
    assert freed.process.returncode == bool(what), freed.output
    assert f"it is {what}" in freed.output if what else "it was started from this project" in freed.output


def test_freeing_the_port_of_another_project(place: Place, other_tree: Place) -> None:
    """Its instance is left alone, whatever port_cleanup is, unless the command says that it may be replaced."""
    old = other_tree.start(*DEMO).until_ready()
    for cleanup in ("user", "own"):
        freed = place.run("--free-port", PREFLIGHT_PORT_CLEANUP=cleanup)
        assert freed.process.returncode == 1, freed.output
        assert "it is an instance of another project" in freed.output
    goes_on(place, old)
    freed = place.run("--free-port", "--if-running", "replace")
    assert freed.process.returncode == 0, freed.output
    assert old.wait() == 0


WAITS = """
import asyncio, os
from small import app as small
async def app(scope, receive, send):
    if scope.get("path") == "/waits":
        open(os.environ["MARKS"] + "/waits", "w").close()
        while not os.path.exists(os.environ["MARKS"] + "/go"):
            await asyncio.sleep(0.02)
    await small(scope, receive, send)
"""


def test_a_terminal_that_is_closed_while_the_command_is_suspended(place: Place) -> None:
    """Ctrl-Z, and then the window is closed: it goes on to drain, and what is in flight is answered."""
    waits = Marked(place, "waits", WAITS)
    with on_a_terminal(place, "bash", "--norc", "-i") as (shell, typed, said):
        os.write(typed, f"{shlex.join(command(place, *waits.options))}\n".encode())
        until(lambda: "SERVER READY" in said(), "it serves")
        client = waits.connect(head("waits", "Connection: close"))
        waits.until("waits")
        os.write(typed, b"\x1a")
        until(lambda: "Stopped" in said(), "it is suspended")
        shell.kill()
        os.close(typed)
    waits.go()
    with client:
        assert b"200 OK" in rest(client)
    until(lambda: place.run("--port-status").process.returncode == 0, "the port is free")


@pytest.mark.needs_root("nobody else can mount a file system")
def test_a_worker_that_no_signal_ends(place: Place, tmp_path: Path) -> None:
    """It waits inside the kernel for a disk: another worker serves meanwhile, and another start replaces both."""
    image, disk = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(16 * 1024**2)
    disk.mkdir()
    try:
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, disk], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine does not let us mount anything")
    options = application(place, "writes", writes=f"open('{disk}/file', 'w').write('x' * 100_000); os.sync()")[1:]
    try:
        old = supervised(place, *options, PREFLIGHT_HEARTBEAT="2s").until_ready()
        subprocess.run(["fsfreeze", "--freeze", disk], check=True)
        with pytest.raises(OSError):
            get(f"{place.url}/writes")
        old.until_says("is back")
        assert get(place.url) == (200, "small")
        new = place.start(*DEMO).until_ready()
        assert old.wait() == 0
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", disk], capture_output=True, check=False)
        subprocess.run(["umount", "--lazy", disk], check=False)
    assert new.stop() == 0


# Stands still while a class is made, at the import of one module.
STANDS = """
import os, sys, time
class Named:
    def __set_name__(self, owner, name):
        print("importing", file=sys.stderr, flush=True)
        time.sleep(3600)
class Stands:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["STANDS"]:
            class Owner:
                named = Named()
sys.meta_path.insert(0, Stands())
"""


@pytest.mark.parametrize("module", ["preflight.bootstrap", "preflight.command.line"])
def test_a_signal_while_a_class_is_made(place: Place, module: str) -> None:
    """Python 3.11 makes a RuntimeError of what a handler raises there: the exit code is the signal's, quietly."""
    place.write_module("sitecustomize", STANDS)
    one = place.spawn(sys.executable, "run.py", environ={"STANDS": module}).until_says("importing")
    assert one.stop(signal.SIGTERM) == 128 + signal.SIGTERM
    assert "Traceback" not in one.output
