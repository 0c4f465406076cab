"""The launcher as a process among others, and what strangers can do to a server: what holds when neither is kind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from websockets.sync.client import connect

from preflight.instances import unixsockets
from tests.e2e import chatting, clocks, namespaces
from tests.e2e.doubles import STRANGER
from tests.e2e.place import READY, Place, Started, get, make_place
from tests.waiting import PATIENCE, until

linux = pytest.mark.skipif(sys.platform != "linux", reason="this is about Linux")
full_disk = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")

# What a test asks of it is in the path. /big prints more than any output holds that nobody reads.
APPLICATION = """
import asyncio, os, signal, subprocess, time
from pathlib import Path

folder = Path(os.environ["FOLDER"])

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        print("starting up", flush=True)
        while (folder / "wait").exists():
            await asyncio.sleep(0.01)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    answer = str(os.getpid())
    match scope["path"]:
        case "/big":
            for number in range(5000):
                print(f"line {number} " + "x" * 60)
        case "/crash":
            os._exit(7)
        case "/unheard":
            os.kill(os.getppid(), signal.SIGSTOP)
            os._exit(7)
        case "/hang":
            time.sleep(3600)
        case "/slow":
            (folder / "begun").touch()
            while not (folder / "gate").exists():
                await asyncio.sleep(0.01)
        case "/all" if os.getppid() == 1:  # in a namespace of its own: everywhere else that is everybody
            await asyncio.to_thread(subprocess.run, ["sh", "-c", "trap '' TERM; kill -TERM -1"])
            answer = "told"
        case "/orphans":
            for _ in range(30):
                subprocess.run(["sh", "-c", "(sleep 0.01 &); (true &)"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": answer.encode()})
"""

# Answers each message with its length, and says with which code a client has left.
ECHO = """
async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": str(len(message.get("text") or message.get("bytes")))})
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})
"""


def application(place: Place, *options: str, **environ: str) -> Started:
    """A supervised start of the first of them."""
    place.write_module("odd", APPLICATION)
    environ = {"FOLDER": str(place.folder), "PREFLIGHT_RESTART_BACKOFF": "0", **environ}
    return clocks.start(place, "--demo", "--app", "odd:app", "--supervise", *options, **environ)


def serves(place: Place, process: subprocess.Popen[bytes] | None = None) -> str:
    """Wait until it answers; the PID of the worker that does."""
    answers: list[str] = []

    def answered() -> bool:
        assert process is None or process.poll() is None, "it has ended"
        with contextlib.suppress(OSError):
            answers.append(get(place.url)[1])
        return bool(answers)

    until(answered, "it serves")
    return answers[0]


# Who reads its output, and who does not.


class Sink:
    """Where a process writes to, and nobody reads."""

    def __init__(self, reading: int, writing: int) -> None:
        self.reading, self.writing = reading, writing

    def close(self) -> None:
        os.close(self.reading)
        os.close(self.writing)


def _pair(kind: socket.SocketKind) -> Sink:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    return Sink(ours.detach(), theirs.detach())


def _stopped_terminal() -> Sink:
    """After Ctrl-S."""
    sink = Sink(*pty.openpty())
    os.write(sink.reading, b"\x13")
    return sink


def _smallest_pipe() -> Sink:
    """One page, a part of which is taken: what is written at once never fits."""
    sink = Sink(*os.pipe())
    fcntl.fcntl(sink.writing, 1031, 4096)  # F_SETPIPE_SZ
    os.write(sink.writing, b"x" * 100)
    return sink


def _connection() -> Sink:
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        return Sink(server.accept()[0].detach(), theirs.detach())


SINKS: dict[str, Callable[[], Sink]] = {
    "datagrams": lambda: _pair(socket.SOCK_DGRAM),
    "packets in a pipe": lambda: Sink(*os.pipe2(os.O_DIRECT)),
    "smallest pipe": _smallest_pipe,
    "stopped terminal": _stopped_terminal,
    "connection": _connection,
}


@linux
@pytest.mark.parametrize("kind", SINKS)
def test_an_output_that_never_waits_and_nobody_reads(place: Place, kind: str) -> None:
    """It serves, restarts its worker, rests while there is nothing to do, and ends in order."""
    sink = SINKS[kind]()
    os.set_blocking(sink.writing, False)
    place.write_module("odd", APPLICATION)
    process = subprocess.Popen(
        [sys.executable, "run.py", "--port", str(place.port), "--demo", "--app", "odd:app", "--supervise"],
        cwd=place.root,
        env={**place.environ, "FOLDER": str(place.folder), "PREFLIGHT_RESTART_BACKOFF": "0"},
        stdin=subprocess.DEVNULL,
        stdout=sink.writing,
        stderr=sink.writing,
        start_new_session=True,
    )
    try:
        first = serves(place, process)
        assert get(f"{place.url}/big", 20) == (200, first)
        with contextlib.suppress(OSError):
            get(f"{place.url}/crash")
        assert serves(place, process) != first
        before = psutil.Process(process.pid).cpu_times()
        time.sleep(0.5)  # in which a loop that asks without end would use up all of it
        after = psutil.Process(process.pid).cpu_times()
        assert after.user + after.system - before.user - before.system < 0.3
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        sink.close()


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", "<&-", ">&- 2>&-"])
def test_standard_streams_that_were_closed(place: Place, closed: str) -> None:
    """Whatever gets their numbers then, the children's channels among it: it serves, restarts its worker and ends."""
    place.write_module("odd", APPLICATION)
    command = [sys.executable, "run.py", "--port", str(place.port), "--demo", "--app", "odd:app", "--supervise"]
    environ = {"FOLDER": str(place.folder), "PREFLIGHT_RESTART_BACKOFF": "0"}
    started = place.spawn("sh", "-c", f'exec "$@" {closed}', "sh", *command, environ=environ)
    first = serves(place, started.process)
    with contextlib.suppress(OSError):
        get(f"{place.url}/crash")
    assert serves(place, started.process) != first
    assert started.stop() == 0
    started.left_nothing()
    assert "Traceback" not in started.output


WANTED = ["--check-only --demo --format json", "--history --format json", "--history", "--help"]


@full_disk
@pytest.mark.parametrize("options", WANTED)
def test_what_was_asked_for_does_not_fit_on_the_disk(place: Place, options: str) -> None:
    """It is no success then, and one line says why."""
    done = _to("/dev/full", place, options)
    assert done.returncode == 1
    assert done.stderr.decode() == "run.py: error: the output cannot be written: No space left on device\n"


@full_disk
def test_a_check_whose_banner_does_not_fit_on_the_disk(place: Place) -> None:
    """Its exit code is what was asked for, and that is still the verdict."""
    done = _to("/dev/full", place, "--check-only --demo")
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_output_that_cannot_be_written_at_all(place: Place) -> None:
    """Opened for reading, by a careless redirection."""
    with open(os.devnull) as wrong:
        done = _run(place, "--check-only --demo --format json", wrong.fileno())
    assert done.returncode == 1
    assert done.stderr.startswith(b"run.py: error: the output cannot be written: ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("options", ["--history", "--history --format json"])
def test_whoever_reads_the_history_has_gone(place: Place, options: str) -> None:
    """The exit code is that of SIGPIPE, as with other commands whose output is all that was asked for."""
    reading, writing = os.pipe()
    os.close(reading)
    done = _run(place, options, writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def _to(path: str, place: Place, options: str) -> subprocess.CompletedProcess[bytes]:
    with open(path, "w") as file:
        return _run(place, options, file.fileno())


def _run(place: Place, options: str, stdout: int) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "run.py", "--port", str(place.port), *options.split()]
    return subprocess.run(
        command, cwd=place.root, env=place.environ, stdout=stdout, stderr=subprocess.PIPE, check=False
    )


def test_both_streams_on_one_pipe_and_a_document_among_them(place: Place) -> None:
    """With an audit in JSON on standard error the report is still in one piece, and everything is a JSON document."""
    started = place.spawn(
        "sh",
        "-c",
        'exec "$@" 2>&1',
        "sh",
        *[sys.executable, "run.py", "--port", str(place.port), "--check-only", "--demo", "--format", "json"],
        environ={"PREFLIGHT_LOG_FORMAT": "json"},
    )
    assert started.wait() == 0
    decoder, rest, documents = json.JSONDecoder(), started.stdout.strip(), []
    while rest:
        document, end = decoder.raw_decode(rest)
        documents.append(document)
        rest = rest[end:].strip()
    assert [one["preflight"]["status"] for one in documents if "preflight" in one] == ["passed"]
    assert len(documents) > 1


# Where a report is asked for.


@pytest.mark.parametrize("what", ["link", "link that leads nowhere", "pipe", "socket"])
def test_a_report_asked_for_where_no_file_is(place: Place, what: str) -> None:
    """The place of /dev/null, /dev/stdout or a pipe is not taken by a file: it is left as it is, and that is said."""
    path, target = place.folder / "out", place.folder / "target"
    with contextlib.ExitStack() as stack:
        if what == "pipe":
            os.mkfifo(path)
        elif what == "socket":
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(str(path))
        else:
            path.symlink_to(target)
            if what == "link":
                target.write_text("somebody's\n")
        before = path.lstat()
        holder = place.listener()
        started = place.run("--demo", "--app", "small:app", "--report", str(path))
    assert started.process.returncode == 3
    assert "THE REPORT CANNOT BE WRITTEN: nothing was started" in started.stdout
    assert "it was left as it is" in started.stdout
    assert (path.lstat().st_ino, stat.S_IFMT(path.lstat().st_mode)) == (before.st_ino, stat.S_IFMT(before.st_mode))
    assert not target.exists() or target.read_text() == "somebody's\n"
    assert holder.process.poll() is None


# Signals.

# Becomes the command that it is told, with every signal blocked or ignored that can be.
DEAF = """
import os, signal, sys
for number in signal.valid_signals():
    if sys.argv[1] == "ignored" and number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_IGN)
if sys.argv[1] == "blocked":
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.parametrize("how", ["blocked", "ignored"])
def test_a_parent_that_wants_to_hear_no_signal_at_all(place: Place, how: str) -> None:
    """A worker that hangs still shows where, another one serves, and SIGTERM ends it in order."""
    place.write_module("odd", APPLICATION)
    environ = {"FOLDER": str(place.folder), "PREFLIGHT_RESTART_BACKOFF": "0", "PREFLIGHT_HEARTBEAT": "1s"}
    command = [sys.executable, "run.py", "--port", str(place.port), "--demo", "--app", "odd:app", "--supervise"]
    started = place.spawn(sys.executable, "-c", DEAF, how, *command, environ=environ).until_ready()
    with contextlib.suppress(OSError):
        get(f"{place.url}/hang", PATIENCE)
    started.until_says("The worker is back")
    assert "THE SERVER HANGS" in started.stdout
    assert re.search(r"Where it hangs:\n.*odd\.py\", line \d+ in app", started.stdout, re.DOTALL)
    serves(place)
    assert started.stop() == 0
    started.left_nothing()


def test_asked_to_stop_while_it_is_stopped(place: Place) -> None:
    """SIGSTOP for longer than the heartbeat, SIGTERM meanwhile: once it goes on it ends in order, nothing is lost."""
    started = application(place).until_ready()
    answers: list[tuple[int, str]] = []
    asking = threading.Thread(target=lambda: answers.append(get(f"{place.url}/slow", PATIENCE)))
    asking.start()
    until(lambda: (place.folder / "begun").exists(), "the request is in flight")
    clocks.pause(place, [started.pid], 300)  # the heartbeat's period is over
    started.send(signal.SIGTERM)
    started.send(signal.SIGCONT)
    started.until_says("Stopping (SIGTERM).")
    (place.folder / "gate").touch()
    asking.join(PATIENCE)
    assert started.wait() == 0
    assert answers[0][0] == 200
    assert "HANGS" not in started.output
    started.left_nothing()


def test_a_signal_for_every_process_of_a_container(place: Place) -> None:
    """``kill -TERM -1`` reaches all but PID 1: the worker leaves that to its launcher, and goes on."""
    place.write_module("odd", APPLICATION)
    command = namespaces.start(place, "--app", "odd:app", "--supervise")
    started = namespaces.contained(place, *command, FOLDER=str(place.folder)).until_ready()
    worker = get(place.url)[1]
    assert get(f"{place.url}/all") == (200, "told")
    assert get(place.url) == (200, worker)
    os.kill(namespaces.launcher(started), signal.SIGTERM)
    assert started.wait() == 0
    assert "The worker ended" not in started.output


def test_a_container_that_ends_with_orphans_and_work(place: Place) -> None:
    """As PID 1, asked to stop with a request in flight and orphans about: it is answered, and the end is 0."""
    place.write_module("odd", APPLICATION)
    command = namespaces.start(place, "--app", "odd:app")
    started = namespaces.contained(place, *command, FOLDER=str(place.folder)).until_ready()
    launcher = namespaces.launcher(started)
    get(f"{place.url}/orphans")
    answers: list[tuple[int, str]] = []
    asking = threading.Thread(target=lambda: answers.append(get(f"{place.url}/slow", PATIENCE)))
    asking.start()
    until(lambda: (place.folder / "begun").exists(), "the request is in flight")

    def dead() -> int:
        return sum(one.status() == psutil.STATUS_ZOMBIE for one in psutil.Process(launcher).children())

    until(lambda: not dead(), "the orphans are reaped")
    os.kill(launcher, signal.SIGTERM)
    started.until_says("Stopping (SIGTERM).")
    (place.folder / "gate").touch()
    asking.join(PATIENCE)
    assert answers[0][0] == 200
    assert started.wait() == 0


def test_the_old_instance_is_asked_to_stop_while_the_new_one_starts(place: Place) -> None:
    """Then nobody serves for a moment: connections wait for the new one, and none is refused."""
    old = application(place).until_ready()
    (place.folder / "wait").touch()
    new = application(place).until_says("starting up")
    assert old.stop() == 0
    answers: list[str] = []
    asking = threading.Thread(target=lambda: answers.append(get(place.url, PATIENCE)[1]))
    asking.start()
    (place.folder / "wait").unlink()
    new.until_ready()
    asking.join(PATIENCE)
    assert answers == [get(place.url)[1]]
    assert new.stop() == 0
    new.left_nothing()


# Who restarts it.


def test_workers_that_crash_before_their_launcher_has_heard_of_them(place: Place) -> None:
    """Each has said that it is ready, and has served: they are no workers that do not start, and none is given up."""
    started = application(place, PREFLIGHT_RESTART_LIMIT="20").until_ready()
    launcher = psutil.Process(started.pid)
    for count in range(1, 5):
        # From the second time on it waits in the backlog, so that it is what the next worker does first of all.
        with socket.create_connection(("127.0.0.1", place.port), PATIENCE) as client:
            client.sendall(b"GET /unheard HTTP/1.1\r\nHost: localhost\r\n\r\n")
            until(lambda: launcher.status() == psutil.STATUS_STOPPED, "the launcher is stopped")
            with contextlib.suppress(ConnectionError):
                assert not client.recv(1)
        with socket.create_connection(("127.0.0.1", place.port), PATIENCE) as waiting:
            if count < 4:
                waiting.sendall(b"GET /unheard HTTP/1.1\r\nHost: localhost\r\n\r\n")
            started.send(signal.SIGCONT)
            if count < 4:
                until(lambda: launcher.status() == psutil.STATUS_STOPPED, "the launcher is stopped again")
                started.send(signal.SIGCONT)
    until(lambda: started.output.count("another one starts") == 7, "each of them is told")
    serves(place, started.process)
    assert started.stop() == 0
    assert "given up" not in started.output


def test_a_script_that_waits_for_a_pipeline(place: Place) -> None:
    """The container's first process is a script that logs through a pipe: its runtime restarts what has crashed."""
    place.write_module("odd", APPLICATION)
    command = namespaces.start(place, "--app", "odd:app")
    environ = {"FOLDER": str(place.folder)}
    script = '"$@" 2>&1 | cat; exit 9'
    started = namespaces.contained(place, "sh", "-c", script, "sh", *command, **environ).until_ready()
    with contextlib.suppress(OSError):
        get(f"{place.url}/crash")
    assert started.wait() == 9
    assert "A restart is left to the container runtime." in started.stdout


# Strangers who call.

TIMEOUT = 1.0  # seconds that a client has for a message once it has begun it
TEXT, BEGUN, MORE, LAST, CLOSE, PING, PONG = 0x81, 0x01, 0x00, 0x80, 0x88, 0x89, 0x8A
HANDSHAKE = (
    "GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}==\r\n{lines}\r\n"
)


def frame(kind: int, data: bytes = b"") -> bytes:
    size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return bytes([kind]) + size + bytes(4) + data  # a mask that changes nothing


class Client:
    """A WebSocket whose bytes are written by hand."""

    def __init__(self, place: Place, lines: str = "") -> None:
        self.socket = socket.create_connection(("127.0.0.1", place.port), PATIENCE)
        self.socket.sendall(HANDSHAKE.format(port=place.port, key="A" * 22, lines=lines).encode())
        self._file = self.socket.makefile("rb")
        self.answer = b""
        while not self.answer.endswith(b"\r\n\r\n"):
            line = self._file.readline()
            assert line, self.answer
            self.answer += line

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self) -> tuple[int, bytes]:
        """Kind and content of the next frame; 0 where the connection ends."""
        try:
            head = self._file.read(2)
            if len(head) < 2:
                return 0, b""
            size = head[1] if head[1] < 126 else int.from_bytes(self._file.read(2), "big")
            return head[0], self._file.read(size)
        except ConnectionError:
            return 0, b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()
        self.socket.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = make_place(tmp_path_factory.mktemp("strangers") / "place")
    place.write_module("echo", ECHO)
    place.environ["PREFLIGHT_REQUEST_TIMEOUT"] = f"{TIMEOUT:g}s"
    instance = place.start("--demo", "--app", "echo:app").until_ready()
    yield place
    assert instance.process.poll() is None, instance.output
    assert "Traceback" not in instance.output
    assert instance.stop() == 0
    place.close()


@pytest.mark.parametrize("kind", ["messages", "pings"])
def test_a_busy_client_whose_frames_end_where_no_read_does(served: Place, kind: str) -> None:
    """What comes next has always begun when the server looks. None of it is late, for however long that goes on."""
    data = frame(TEXT, b"x" * 1000) if kind == "messages" else frame(PING, b"x" * 100)
    half = len(data) // 2
    with Client(served) as client:
        client.send(data[:half])
        until_then = time.monotonic() + 2.5 * TIMEOUT + 1
        while time.monotonic() < until_then:
            client.send(data[half:] + data[:half])
            assert client.read() == ((TEXT, b"1000") if kind == "messages" else (PONG, b"x" * 100))
            time.sleep(0.02)


def test_pings_do_not_buy_time_for_a_message(served: Place) -> None:
    """A message that was begun has to end, whatever is sent meanwhile."""
    begun = time.monotonic()
    with Client(served) as client:
        client.send(frame(BEGUN, b"x" * 10))
        client.socket.settimeout(0.1)
        kind, content = PONG, b""
        while kind == PONG and time.monotonic() - begun < 10:
            with contextlib.suppress(ConnectionError):
                client.send(frame(PING) + b"\x89")  # and half a ping, which the next byte does not end
                client.send(b"\x80" + bytes(4))
            client.socket.settimeout(PATIENCE)
            kind, content = client.read()
            time.sleep(0.1)
    assert (kind, content[:2]) == (CLOSE, (1008).to_bytes(2, "big"))


def test_a_message_that_was_ended_buys_no_time_for_the_next_one(served: Place) -> None:
    """The end of one and the beginning of the next in one read: the next one's time begins there, and ends."""
    with Client(served) as client:
        client.send(frame(BEGUN, b"x" * 10))
        client.send(frame(LAST, b"x" * 10) + frame(BEGUN, b"x"))
        begun = time.monotonic()
        assert client.read() == (TEXT, b"20")
        kind, content = client.read()
        assert (kind, content[:2]) == (CLOSE, (1008).to_bytes(2, "big"))
        assert TIMEOUT / 2 < time.monotonic() - begun < TIMEOUT + 5


def test_a_slow_mobile_client(served: Place) -> None:
    """Bytes in dribs and drabs, for longer than the deadline: at a fair rate they are all taken."""
    data = frame(TEXT, b"x" * 40_000)
    with Client(served) as client:
        for start in range(0, len(data), 1000):
            client.send(data[start : start + 1000])
            time.sleep(0.04)
        assert client.read() == (TEXT, b"40000")


def test_a_character_in_two_fragments(served: Place) -> None:
    """A text is cut anywhere, in the middle of a character, too, and pings may come in between."""
    text = "ä€𝄞".encode() * 300
    with Client(served) as client:
        client.send(frame(BEGUN, text[:1]))
        for number in range(1, len(text) - 1):
            client.send(frame(MORE, text[number : number + 1]))
            if number % 500 == 0:
                client.send(frame(PING, b"%d" % number))
                assert client.read() == (PONG, b"%d" % number)
        client.send(frame(LAST, text[-1:]))
        assert client.read() == (TEXT, b"900")


def test_a_fast_typist(served: Place) -> None:
    """A frame for each key, more in a minute than there may be frames that carry nothing."""
    with Client(served) as client:
        for _ in range(70):
            client.send(frame(TEXT, b"k") * 100)
            for _ in range(100):
                assert client.read() == (TEXT, b"1")


def test_a_compressed_frame_is_not_inflated(served: Place) -> None:
    """Compression is offered and not taken: who sends it all the same is closed for a breach of the protocol."""
    lines = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    with Client(served, lines) as client:
        assert b"permessage-deflate" not in client.answer
        client.send(frame(TEXT | 0x40, b"\x00" * 100))
        kind, content = client.read()
        assert (kind, content[:2]) == (CLOSE, (1002).to_bytes(2, "big"))


def test_a_client_of_the_chat_with_long_messages(place: Place) -> None:
    """Messages of nearly 64 KiB in fragments, a ping with each, and compression offered: every one is answered."""
    started = place.start("--demo").until_ready()
    url = place.url.replace("http", "ws", 1) + "/ws/chat"
    with connect(url, compression="deflate") as chat:
        assert json.loads(chat.recv(PATIENCE))["type"] == "connected"
        chat.send(json.dumps({"type": "init"}))
        assert json.loads(chat.recv(PATIENCE))["type"] == "initialized"
        for _ in range(3):
            text = json.dumps({"type": "chat", "content": "versions " + "x" * 60_000})
            pong = chat.ping()
            chat.send([text[start : start + 1000] for start in range(0, len(text), 1000)])
            assert pong.wait(PATIENCE)
            kinds: list[str] = []
            while not kinds or kinds[-1] not in chatting.ENDINGS:
                kinds.append(json.loads(chat.recv(PATIENCE))["type"])
            assert kinds[-1] == "result", kinds
    assert started.stop() == 0


UPGRADE = (
    f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {'A' * 22}==\r\n"
)
# "{port}" is replaced before it is sent.
ODD = [
    "GET /%0aFORGED%1b[2J HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n",
    "GET /%0aFORGED HTTP/1.1\r\nHost: localhost:{port}\r\n" + UPGRADE + "\r\n",
    "POST /diagnostics/run HTTP/1.1\r\nHost: localhost:{port}\r\nOrigin: http://FORGED\x9b2J\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: FORGED\x9b2J\u00ad.example\r\n\r\n",
    "GET /ws/chat HTTP/1.1\r\nHost: localhost:{port}\r\nOrigin: http://FORGED\x9b\r\n" + UPGRADE + "\r\n",
    "GET /ws/chat HTTP/1.1\r\nHost: localhost:{port}\r\n" + UPGRADE + "\r\n\x81\x86\0\0\0\0FORGED",
    "GET /ws/chat HTTP/1.1\r\nHost: localhost:{port}\r\n" + UPGRADE + "\r\n\x81\x83\0\0\0\0\xff\xfe\xfd",
    "GET /diagnostics/checks/%0aFORGED%0d%1b HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n",
    "GET /diagnostics/history?limit=99999999999999999999&address=%1bFORGED HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n",
    "DELETE /sessions/%00FORGED HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n",
    "\x16\x03\x01\x02\0FORGED",
    "GET http://[::1 HTTP/1.1\r\nHost: FORGED\r\n\r\n",
    "GET /%ff%fe HTTP/1.1\r\nHost: localhost:{port}\r\nX-Forwarded-For: FORGED\x9b\r\n\r\n",
]


def test_strangers_write_nothing_into_the_log(place: Place) -> None:
    """Whatever they ask for, hundreds of times: a few lines are written, and none of their words."""
    log = place.folder / "server.log"
    started = place.start("--demo", "--log-file", str(log)).until_ready()
    before = log.stat().st_size
    said = len(started.output)
    for request in ODD:
        data = request.replace("{port}", str(place.port)).encode("latin-1")
        for number in range(40):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", place.port), PATIENCE) as client:
                client.sendall(data)
                if number % 2:
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(4096):
                        pass
        assert get(f"{place.url}/health")[0] == 200
    assert started.stop() == 0
    written = log.read_text()
    assert "FORGED" not in written + started.output
    assert "Traceback" not in started.output
    assert len(written) - before < 5000, written[before:]
    assert len(started.output) - said < 5000


@linux
def test_callers_that_ask_without_end_and_read_nothing(place: Place) -> None:
    """A caller of the control socket that is out of its mind: requests are answered, and so is SIGTERM, in order."""
    started = application(place).until_ready()
    (name,) = unixsockets.abstract_names(f"preflight/{place.port}/")
    who = json.dumps({"kind": "who", "descriptors": 0, "data": {"protocol": 2}}).encode() + b"\n"
    over = threading.Event()

    def call() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as caller:
                caller.settimeout(1)
                caller.connect(name)
                while not over.is_set():
                    caller.sendall(who * 50)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for one in callers:
        one.start()
    try:
        for _ in range(10):
            assert get(place.url, 5)[0] == 200
        assert started.stop() == 0
    finally:
        over.set()
        for one in callers:
            one.join(PATIENCE)
    started.left_nothing()


@linux
@pytest.mark.parametrize("name", [") Z 1 1 1 1", "a\nState: Z", " "])
def test_a_name_that_looks_like_a_line_of_the_kernel(place: Place, name: str) -> None:
    """Who holds the port is known, shown in one line, and stopped; a server that starts is the only one left."""
    program = place.folder / "named.py"
    program.write_text(STRANGER)
    holder = place.spawn(sys.executable, str(program), str(place.port), name).until_says("listening")
    shown = json.loads(place.run("--port-status", "--format", "json").stdout)
    assert str(holder.pid) in json.dumps(shown)
    told = place.run("--port-status").stdout
    assert not [line for line in told.splitlines() if line.startswith("State:")]
    started = place.start("--demo", "--app", "small:app").until_ready()
    assert holder.wait() == -signal.SIGTERM
    assert f"(PID {holder.pid}" in started.stdout
    assert READY in started.stdout
    assert started.stop() == 0
