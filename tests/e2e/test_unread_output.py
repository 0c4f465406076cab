"""Nobody reads what an instance prints: it serves on, hears signals, restarts its worker and hands over its socket."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.place import READY, Place, get, listening
from tests.waiting import PATIENCE, until

# 370 KB, or as many lines as it is told, when it starts and when it is asked to: more than a pipe or a terminal takes.
CHATTY = """
import os, sys
from pathlib import Path

lives = Path(os.environ["LIVES"])
with lives.open("a") as file:
    file.write("x")
life = lives.stat().st_size

def chat():
    for number in range(int(os.environ.get("NUMBER", 5000))):
        print(f"line {number} of life {life} " + "x" * 50)
    sys.stdout.flush()

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        chat()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/chat":
        chat()
    if scope["path"] == "/crash":
        os._exit(7)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"life {life}".encode()})
"""


class Output:
    """One end for a process to write to; nobody reads the other one until a test does."""

    def __init__(self, reading: int, writing: int) -> None:
        self.reading, self.writing = reading, writing

    def read(self) -> str:
        """All that is there and all that comes until every writer has gone."""
        data = b""
        with contextlib.suppress(OSError):  # a terminal's end
            while more := os.read(self.reading, 1 << 16):
                data += more
        return data.decode("utf-8", "replace").replace("\r\n", "\n")

    def fill(self) -> int:
        """Leave no room in it; returns how many bytes that took."""
        os.set_blocking(self.writing, False)
        count = 0
        for size in (4096, 1):
            with contextlib.suppress(BlockingIOError):
                while True:
                    count += os.write(self.writing, b"f" * size)
        os.set_blocking(self.writing, True)
        return count

    def waits(self) -> bool:
        """Whether whoever writes waits where there is no room."""
        return not fcntl.fcntl(self.writing, fcntl.F_GETFL) & os.O_NONBLOCK

    def close(self) -> None:
        for descriptor in (self.reading, self.writing):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _pipe() -> Output:
    """As to a pager that was suspended (Ctrl-Z): there is somebody, who does not read."""
    return Output(*os.pipe())


def _terminal() -> Output:
    return Output(*pty.openpty())


def _stopped_terminal() -> Output:
    """After Ctrl-S."""
    output = _terminal()
    os.write(output.reading, b"\x13")
    return output


def _socket() -> Output:
    """As systemd's journal gives it to a unit."""
    return Output(*(one.detach() for one in socket.socketpair()))


def _fifo() -> Output:
    path = f"/tmp/preflight-test-{os.getpid()}-{time.monotonic_ns()}"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open(path, os.O_WRONLY)
    os.unlink(path)
    os.set_blocking(reading, True)
    return Output(reading, writing)


def _non_blocking_pipe() -> Output:
    """As Node.js gives it to what it starts."""
    output = _pipe()
    os.set_blocking(output.writing, False)
    return output


OUTPUTS: dict[str, Callable[[], Output]] = {
    "pipe": _pipe,
    "terminal": _terminal,
    "stopped terminal": _stopped_terminal,
    "socket": _socket,
    "fifo": _fifo,
    "non-blocking pipe": _non_blocking_pipe,
}


class Instances:
    """What a test starts, and ends."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.processes: list[subprocess.Popen[bytes]] = []
        self.outputs: list[Output] = []
        place.write_module("chatty", CHATTY)

    def output(self, kind: str = "pipe") -> Output:
        self.outputs.append(OUTPUTS[kind]())
        return self.outputs[-1]

    def start(self, *options: str, out: Output | None, err: Output | None = None, **environ: str) -> int:
        """Start ``run.py``; returns its place among ``processes``. Our copies of its ends stay open unless closed."""
        place = self.place
        ends = [one.writing if one else subprocess.DEVNULL for one in (out, err or out)]
        self.processes.append(
            subprocess.Popen(
                [sys.executable, "run.py", "--port", str(place.port), *options],
                cwd=place.root,
                env={**place.environ, "LIVES": str(place.folder / "lives"), "PREFLIGHT_RESTART_BACKOFF": "0"} | environ,
                stdin=subprocess.DEVNULL,
                stdout=ends[0],
                stderr=ends[1],
                start_new_session=True,
            )
        )
        return len(self.processes) - 1

    def serve(self, out: Output, err: Output | None = None, *options: str, **environ: str) -> subprocess.Popen[bytes]:
        """An instance that has begun to serve."""
        number = self.start("--demo", "--app", "chatty:app", "--supervise", *options, out=out, err=err, **environ)
        process = self.processes[number]
        until(lambda: bool(self.life()) or process.poll() is not None, "it serves")
        assert process.poll() is None
        return process

    def life(self) -> str:
        """Which life of the worker answers; empty while nobody does."""
        try:
            return get(self.place.url)[1]
        except OSError:
            return ""

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        for output in self.outputs:
            output.close()


@pytest.fixture
def instances(quick: Place) -> Iterator[Instances]:
    instances = Instances(quick)
    yield instances
    instances.close()


def ends(process: subprocess.Popen[bytes], number: int = signal.SIGTERM, patience: float = 10) -> int:
    """Its exit code after a signal."""
    process.send_signal(number)
    return process.wait(patience)


# An instance.


@pytest.mark.parametrize(
    "kind, number",
    [
        ("pipe", signal.SIGTERM),
        ("terminal", signal.SIGINT),
        ("stopped terminal", signal.SIGHUP),
        ("socket", signal.SIGTERM),
        ("fifo", signal.SIGINT),
        ("non-blocking pipe", signal.SIGHUP),
    ],
)
def test_serves_on(instances: Instances, kind: str, number: int) -> None:
    """Requests are answered while the worker prints and prints, and a signal ends it in order.

    The mode of the descriptor is left alone, since it belongs to the shell as well: after us it waits as it did before.
    """
    output = instances.output(kind)
    process = instances.serve(output)
    for _ in range(3):
        assert get(f"{instances.place.url}/chat") == (200, "life 1")
    assert output.waits() is (kind != "non-blocking pipe")
    assert ends(process, number) == 0
    assert output.waits() is (kind != "non-blocking pipe")


@pytest.mark.parametrize("which", ["stdout", "stderr"])
def test_one_of_both(instances: Instances, which: str) -> None:
    """Where nobody reads one of them the other one is still written."""
    unread, read = instances.output(), instances.output()
    unread.fill()
    process = instances.serve(*((unread, read) if which == "stdout" else (read, unread)))
    os.close(read.writing)
    texts: list[str] = []
    reader = threading.Thread(target=lambda: texts.append(read.read()))
    reader.start()
    assert get(f"{instances.place.url}/chat") == (200, "life 1")
    assert ends(process) == 0
    reader.join(PATIENCE)
    assert ("line 4999 of life 1" if which == "stdout" else "Stopping (SIGTERM).") in texts[0]


def test_killed_worker_is_restarted(instances: Instances) -> None:
    """Again and again, with all that each life has to say. A replacement gets the socket then, and the old one ends."""
    old = instances.serve(instances.output(), PREFLIGHT_RESTART_LIMIT="10")
    for following in ("life 2", "life 3"):
        with contextlib.suppress(OSError):
            get(f"{instances.place.url}/crash")
        until(lambda life=following: instances.life() == life, "it is back")  # type: ignore[misc]
    assert get(f"{instances.place.url}/chat") == (200, "life 3")
    number = instances.start("--demo", "--app", "chatty:app", out=instances.output())
    until(lambda: instances.life() == "life 4", "the new one serves")
    assert old.wait(PATIENCE) == 0
    assert ends(instances.processes[number]) == 0


def test_reader_that_comes_back(instances: Instances) -> None:
    """It learns how many lines it missed, sees the newest of them, and no banner is torn."""
    output = instances.output()
    process = instances.serve(output, NUMBER="8000")  # three times that is more than what may wait, a megabyte
    get(f"{instances.place.url}/chat")
    with contextlib.suppress(OSError):
        get(f"{instances.place.url}/crash")
    until(lambda: instances.life() == "life 2", "it is back")
    os.close(output.writing)
    texts: list[str] = []
    reader = threading.Thread(target=lambda: texts.append(output.read()))
    reader.start()
    assert ends(process) == 0
    reader.join(PATIENCE)
    lines = texts[0].splitlines()
    lost = [int(found[1]) for line in lines if (found := re.fullmatch(r"\[(\d+) lines? (?:was|were) lost: .*\]", line))]
    assert lost
    assert "nobody read the output" in texts[0]
    printed = [line for line in lines if line.startswith("line ")]
    assert printed[-1].startswith("line 7999 of life 2 ")
    assert all(re.fullmatch(r"line \d+ of life \d x{50}", line) for line in printed)
    said = len([line for line in lines if not line.startswith(("line ", "["))])
    assert 3 * 8000 <= len(printed) + sum(lost) <= 3 * 8000 + 40 - said
    assert "Stopping (SIGTERM)." in lines


def test_reader_that_is_slow(instances: Instances) -> None:
    """Who reads slowly, and reads, misses nothing that fits into the buffer, in its order."""
    output = instances.output()
    number = instances.start("--demo", "--app", "small:app", out=output, PREFLIGHT_PORT_GRACE="1s")
    process = instances.processes[number]
    os.close(output.writing)
    said = b""
    while READY.encode() not in said:
        said += os.read(output.reading, 7)
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    said += output.read().encode()
    assert process.wait(PATIENCE) == 0
    text = said.decode()
    places = [text.index(words) for words in (" is available.", "requirements: ", READY, "Stopping (SIGTERM).")]
    assert places == sorted(places)
    assert "lost:" not in text


def test_terminal_that_stops_background_jobs(instances: Instances) -> None:
    """``stty tostop`` stops a background job that writes to its terminal; a server is not stopped by what it says."""
    terminal = instances.output("terminal")
    modes = termios.tcgetattr(terminal.writing)
    modes[3] |= termios.TOSTOP
    termios.tcsetattr(terminal.writing, termios.TCSANOW, modes)
    place = instances.place
    # A session whose terminal it is, and in it a job that is not in the foreground.
    program = (
        "import fcntl, os, subprocess, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        "sys.exit(subprocess.call(sys.argv[1:], process_group=0))"
    )
    command = [sys.executable, "run.py", "--port", str(place.port), "--demo", "--app", "small:app"]
    shell = subprocess.Popen(
        [sys.executable, "-c", program, *command],
        cwd=place.root,
        env=place.environ,
        stdin=terminal.writing,
        stdout=terminal.writing,
        stderr=terminal.writing,
        start_new_session=True,
    )
    instances.processes.append(shell)
    until(lambda: bool(instances.life()) or shell.poll() is not None, "it serves")
    (launcher,) = (int(pid) for pid in Path(f"/proc/{shell.pid}/task/{shell.pid}/children").read_text().split())
    os.kill(launcher, signal.SIGTERM)
    assert shell.wait(PATIENCE) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_full_disk(instances: Instances) -> None:
    """Output that goes to a full disk is lost, a server is not: it restarts its worker, and ends with 0."""
    output = Output(os.open(os.devnull, os.O_RDONLY), os.open("/dev/full", os.O_WRONLY))
    instances.outputs.append(output)
    process = instances.serve(output)
    assert get(f"{instances.place.url}/chat") == (200, "life 1")
    with contextlib.suppress(OSError):
        get(f"{instances.place.url}/crash")
    until(lambda: instances.life() == "life 2", "it is back")
    assert ends(process) == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which can be made to hang."""
    tools = ("mkfs.ext4", "mount", "umount", "fsfreeze")
    if not all(map(shutil.which, tools)):
        pytest.skip(f"this machine has not all of {', '.join(tools)}")
    image, folder = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(16 * 1024**2)
    folder.mkdir()
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, folder], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let us mount anything")
    yield folder
    subprocess.run(["fsfreeze", "--unfreeze", folder], capture_output=True, check=False)
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.needs_root("nobody else can mount a file system")
def test_log_file_on_a_file_system_that_hangs(instances: Instances, disk: Path) -> None:
    """It serves on, restarts its worker and drains; what fits into the buffer is in the log when the disk is back."""
    log = disk / "log"
    process = instances.serve(instances.output(), None, "--log-file", str(log), NUMBER="10000")
    subprocess.run(["fsfreeze", "--freeze", disk], check=True)
    try:
        assert get(f"{instances.place.url}/chat") == (200, "life 1")
        with contextlib.suppress(OSError):
            get(f"{instances.place.url}/crash")
        until(lambda: instances.life() == "life 2", "it is back")
        process.send_signal(signal.SIGTERM)
        until(lambda: not listening(instances.place.port), "it has drained")
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", disk], check=True)
    assert process.wait(PATIENCE) == 0
    assert "lines lost here: " in log.read_text()


RECORDING = """
import os

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/crash":
        os._exit(7)
    scope["state"]["preflight"].audit("asked", path=scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
"""


@pytest.mark.needs_root("nobody else can mount a file system")
def test_audit_on_a_file_system_that_hangs(quick: Place, disk: Path) -> None:
    """It serves on, restarts its worker and drains; what happened meanwhile is in the audit when the disk is back."""
    place = quick
    place.write_module("recording", RECORDING)
    state = disk / "state"
    started = place.start("--demo", "--app", "recording:app", "--supervise", PREFLIGHT_STATE_DIR=str(state))
    started.until_ready()
    subprocess.run(["fsfreeze", "--freeze", disk], check=True)
    try:
        worker = get(f"{place.url}/one")[1]
        with contextlib.suppress(OSError):
            get(f"{place.url}/crash")
        until(lambda: get(f"{place.url}/two")[1] != worker, "it is back")
        started.send(signal.SIGTERM)
        until(lambda: not listening(place.port), "it has drained")
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", disk], check=True)
    assert started.wait() == 0
    audit = (state / "audit.log").read_text()
    assert "/one" in audit
    assert "/two" in audit


def test_a_descendant_that_prints_without_end(instances: Instances) -> None:
    """What a dead worker's descendant, in a session of its own, goes on printing keeps nobody from anything."""
    place = instances.place
    place.write_module(
        "leaving",
        "import os, subprocess\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] != 'http': return\n"
        "    if scope['path'] == '/crash':\n"
        "        with open(os.environ['LIVES'], 'w') as file:\n"
        "            file.write(str(subprocess.Popen(['yes', 'still here'], start_new_session=True).pid))\n"
        "        os._exit(7)\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': b'here'})\n",
    )
    number = instances.start("--demo", "--app", "leaving:app", "--supervise", out=None)
    until(lambda: instances.life() == "here", "it serves")
    with contextlib.suppress(OSError):
        get(f"{place.url}/crash")
    try:
        until(lambda: instances.life() == "here", "it is back")
        assert ends(instances.processes[number]) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):  # it could not print any more
            os.kill(int((place.folder / "lives").read_text()), signal.SIGKILL)


# Other commands.


COMMANDS = [
    ["--check-only", "--demo"],
    ["--check-only", "--demo", "--format", "json"],
    ["--port-status"],
    ["--port-status", "--format", "json"],
    ["--history"],
    ["--help"],
]


@pytest.mark.parametrize(
    "options, number",
    zip(COMMANDS, itertools.cycle((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)), strict=False),
    ids=[" ".join(options) for options in COMMANDS],
)
def test_commands_that_wait_for_their_reader(instances: Instances, options: list[str], number: int) -> None:
    """What was asked for is kept for whoever reads it, and a signal ends the waiting."""
    output = instances.output()
    output.fill()
    process = instances.processes[instances.start(*options, "--app", "small:app", out=output)]
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    assert ends(process, number) == 128 + number


@pytest.mark.parametrize("options", COMMANDS, ids=" ".join)
def test_nothing_is_lost_for_who_reads_late(instances: Instances, options: list[str]) -> None:
    """The same, read in the end: it is complete."""
    output = instances.output()
    count = output.fill()
    process = instances.processes[instances.start(*options, "--app", "small:app", out=output)]
    os.close(output.writing)
    time.sleep(0.5)
    text = output.read()[count:]
    assert process.wait(PATIENCE) == 0
    if options[-1] == "json":
        json.loads(text)
    last = {"--check-only": "requirements: ", "--help": "Exit codes:", "--port-status": "Status  available"}
    assert options[-1] == "json" or last.get(options[0], "") in text
    assert "lost:" not in text


def test_large_report_for_a_slow_reader(project: Place) -> None:
    """A report that no pipe holds is complete for a machine that reads it late and slowly."""
    project.write_suite(
        "import pytest\n"
        + "".join(
            f"@pytest.mark.critical('Large {number}')\n"
            f"def test_large_{number}(details):\n    'Large.'\n    details['found'] = ['x' * 80] * 100\n"
            for number in range(50)
        )
    )
    instances = Instances(project)
    try:
        output = instances.output()
        number = instances.start("--check-only", "--demo", "--format", "json", "--app", "small:app", out=output)
        os.close(output.writing)
        until(project.report_file.exists, "the run is over")
        text = ""
        while data := os.read(output.reading, 4096):
            text += data.decode()
            time.sleep(0.001)
        assert len(text) > 200_000
        assert len(json.loads(text)["preflight"]["checks"]) == 50
        assert instances.processes[number].wait(PATIENCE) in (0, 1)
    finally:
        instances.close()


@pytest.mark.parametrize("kind", ["pipe", "terminal", "stopped terminal"])
@pytest.mark.parametrize(
    "options", [["--watch", "1"], ["--wait", "60"], ["--wait", "60", "--check-only"]], ids=" ".join
)
def test_commands_that_go_on(instances: Instances, options: list[str], kind: str) -> None:
    """Rounds go on while nobody reads, and a signal ends them."""
    output = instances.output(kind)
    if kind != "stopped terminal":
        output.fill()
    (instances.place.root / "down").touch()
    instances.place.environ["TERM"] = "xterm-256color"
    process = instances.processes[instances.start(*options, "--demo", "--app", "small:app", out=output)]
    report = instances.place.report_file
    until(report.exists, "the first round is over")
    first = report.read_text()
    until(lambda: report.read_text() != first, "there is another one")
    assert ends(process) == (1 if options[0] == "--watch" else 143)


def test_refused_start(instances: Instances) -> None:
    """A start that is refused ends with its exit code though nobody reads why."""
    output = instances.output()
    output.fill()
    (instances.place.root / "down").touch()
    number = instances.start("--demo", "--app", "small:app", out=output)
    assert instances.processes[number].wait(PATIENCE) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_plain_pytest(instances: Instances, number: int) -> None:
    """``pytest preflight`` waits for its reader as pytest does, and a signal ends it."""
    output = instances.output()
    output.fill()
    place = instances.place
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "preflight", "--demo", "--port", str(place.port)],
        cwd=place.root,
        env={**place.environ, "PREFLIGHT_APP": "small:app"},
        stdin=subprocess.DEVNULL,
        stdout=output.writing,
        stderr=output.writing,
        start_new_session=True,
    )
    instances.processes.append(process)
    until(lambda: _waits_to_write(process.pid), "it waits for its reader")
    assert ends(process, number) != 0


def _waits_to_write(pid: int) -> bool:
    """Whether a process sleeps in write(2)."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[0] in ("1", "64")  # on x86-64, and elsewhere
