"""Two starters of one port: the lock that one waits for, and the socket that one hands to the other."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from preflight import instances
from preflight.channel import Channel
from preflight.instances import Control, Handover, Record, RuntimeFolderError, StartLock, ask_for_socket
from tests.e2e.starts import Started, get, make_place, until

ROOT = Path(__file__).parents[1]
PORT = 8002  # only a name here: nothing listens on it

# Takes the lock, waiting if need be, and holds it until it is told to go on.
LOCKER = """
import os, sys
from preflight.instances import StartLock
lock = StartLock(int(sys.argv[1]))
if not lock.take():
    print("waiting", flush=True)
    lock.take(60)
print("locked", flush=True)
if "child" in sys.argv:
    import subprocess
    child = subprocess.Popen(["sleep", "60"], close_fds=False, stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
sys.stdin.readline()
"""

# An instance: listens on a port of its own and gives the socket to one caller; then says what it hears.
INSTANCE = """
import contextlib, os, select, socket, sys
from preflight.instances import Control, Record
listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
record = Record("abc", os.getpid(), "127.0.0.1", port, "2026-01-02T03:04:05Z", 1767323045.0, "0.1.0")
control = Control(record)
print(port, flush=True)
while True:
    select.select([control.socket], [], [])
    channel = control.accept()
    if channel is None:
        print("refused", flush=True)
        continue
    while (message := channel.receive()) is not None:
        if message.kind == "handover":
            with contextlib.suppress(OSError):  # the caller has given up
                channel.send("socket", (listener.fileno(),))
        print(message.kind, message.data.get("pid", ""), flush=True)
    print("hung up", flush=True)
"""


class Program:
    """A process that says a word a line."""

    def __init__(self, source: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", source, *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


Start = Callable[..., Program]


@pytest.fixture
def start() -> Iterator[Start]:
    programs: list[Program] = []

    def begin(source: str, *arguments: object) -> Program:
        programs.append(Program(source, *arguments))
        return programs[-1]

    yield begin
    for program in programs:
        program.close()


def record(port: int = PORT) -> Record:
    return Record("abc", os.getpid(), "127.0.0.1", port, "2026-01-02T03:04:05Z", 1767323045.0, "0.1.0")


# The lock.


def test_second_waits(start: Start) -> None:
    """A second start of the port waits until the first one lets go; then it is its turn."""
    first = start(LOCKER, PORT)
    assert first.says() == "locked"
    second = start(LOCKER, PORT)
    assert second.says() == "waiting"
    assert StartLock(PORT).take() is False
    first.go_on()
    assert first.says() == "released"
    assert second.says() == "locked"


def test_a_start_that_does_not_end(start: Start) -> None:
    """A suspended start is not waited for without end, and its PID is known; each start has a time of its own."""
    first = start(LOCKER, PORT)
    assert first.says() == "locked"
    lock = StartLock(PORT)
    os.kill(first.process.pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        assert lock.take(0.2) is False
        assert time.monotonic() - begun >= 0.2
        assert lock.holder() == first.process.pid
    finally:
        os.kill(first.process.pid, signal.SIGCONT)
        lock.release()


def test_other_ports_do_not_wait(start: Start) -> None:
    """The start of another port is another lock's."""
    first = start(LOCKER, PORT)
    assert first.says() == "locked"
    lock = StartLock(PORT + 1)
    assert lock.take() is True
    lock.release()
    lock.release()


def test_released_by_kill(start: Start) -> None:
    """kill -9 leaves no stale lock: who waits goes on."""
    first = start(LOCKER, PORT)
    assert first.says() == "locked"
    second = start(LOCKER, PORT)
    assert second.says() == "waiting"
    first.process.kill()
    assert second.says() == "locked"


def test_not_inherited(start: Start) -> None:
    """What the starter started does not keep the lock after it."""
    first = start(LOCKER, PORT, "child")
    assert first.says() == "locked"
    child = int(first.says())
    try:
        first.process.kill()
        first.process.wait()
        lock = StartLock(PORT)
        until(lambda: lock.take(), "the lock is free", 5)
        lock.release()
    finally:
        os.kill(child, signal.SIGKILL)


def test_lock_sweeps_what_died_half_way(home: Path) -> None:
    """A record that never got its name is litter for the next start of this port, and only of this port."""
    folder = instances.runtime_folder()
    (folder / f"{PORT}.dead.new").write_text("{}")
    (folder / f"{PORT + 1}.alive.new").write_text("{}")
    lock = StartLock(PORT)
    assert lock.take()
    assert sorted(os.listdir(folder)) == [f"{PORT}.lock", f"{PORT + 1}.alive.new"]
    assert stat.S_IMODE((folder / f"{PORT}.lock").stat().st_mode) == 0o600
    lock.release()


def test_lock_follows_no_link(tmp_path: Path) -> None:
    """A link in the lock's place is an error in one line, and what it leads to is not touched."""
    (instances.runtime_folder() / f"{PORT}.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RuntimeFolderError, match=rf"{PORT}\.lock: "):
        StartLock(PORT)
    assert not (tmp_path / "elsewhere").exists()


# The control socket.


def test_socket_arrives_and_works(start: Start) -> None:
    """The caller gets the very socket that the instance listens on, and goes on with it when that has died."""
    instance = start(INSTANCE)
    port = int(instance.says())
    handover = ask_for_socket(record(port))
    assert handover is not None
    assert instance.says() == "handover"
    assert handover.socket.getsockname() == ("127.0.0.1", port)
    assert not os.get_inheritable(handover.socket.fileno())
    instance.process.kill()
    instance.process.wait()
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        accepted, _address = handover.socket.accept()
        with accepted:
            accepted.sendall(b"ours")
        assert client.recv(4) == b"ours"
    handover.retire()  # nobody hears it any more, which is no error
    handover.close()


def test_retire_and_hang_up(start: Start) -> None:
    """The caller says who replaces the instance, and the instance notices when it lets go."""
    instance = start(INSTANCE)
    port = int(instance.says())
    for _ in range(2):
        handover = ask_for_socket(record(port))
        assert handover is not None
        assert instance.says() == "handover"
        handover.retire()
        assert instance.says() == f"retire {os.getpid()}"
        handover.close()
        assert instance.says() == "hung up"


def test_mode_of_the_socket() -> None:
    """The control socket is its owner's alone, whatever the umask, and is gone when the instance has ended."""
    before = os.umask(0)
    try:
        control = Control(record())
    finally:
        os.umask(before)
    file = instances.runtime_folder() / f"{PORT}.abc.sock"
    status = file.stat()
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o600
    control.end()
    control.end()
    assert not file.exists()


def test_long_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime folder whose path is longer than a Unix socket's may be is used all the same."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("long" * 30)))
    here = Path.cwd()
    control = Control(record())
    monkeypatch.setattr(instances, "ANSWER", 0.1)
    assert ask_for_socket(record()) is None  # it was connected to, and nobody answers
    channel = control.accept()
    assert channel is not None
    (message,) = channel.arrived()
    assert message.kind == "handover"
    channel.close()
    control.end()
    assert Path.cwd() == here


def test_other_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that is another user's gets nothing; neither does an instance of another user get our trust."""
    control = Control(record())
    monkeypatch.setattr(instances, "peer_uid", lambda _connection: os.getuid() + 1)
    assert ask_for_socket(record()) is None
    assert control.accept() is None
    control.end()


def test_peer_uid() -> None:
    """The system says whose the other end is."""
    one, other = socket.socketpair()
    with one, other:
        assert instances.peer_uid(one) == os.getuid()


# Calls the control socket as somebody else, from inside its folder: what is above that is not asked.
STRANGER = """
import os, socket, sys
os.chdir(os.path.dirname(sys.argv[1]))
os.setgroups([]); os.setgid(65534); os.setuid(65534)
caller = socket.socket(socket.AF_UNIX)
caller.settimeout(10)
try:
    caller.connect(os.path.basename(sys.argv[1]))
except PermissionError:
    print("kept out")
else:
    try:
        caller.sendall(b'{"kind":"handover","descriptors":0,"data":{}}\\n')
        print(caller.recv(100) or "hung up")
    except (ConnectionResetError, BrokenPipeError):
        print("hung up")
"""


@pytest.mark.needs_root("nobody else can become another user")
@pytest.mark.parametrize("opened", [False, True], ids=["as it is", "modes wide open"])
def test_another_user_calls(opened: bool) -> None:
    """A real process of another user: the modes keep it out, and where somebody has opened them, its user id does."""
    control = Control(record())
    (path,) = instances.runtime_folder().glob("*.sock")
    if opened:
        path.chmod(0o777)
        path.parent.chmod(0o711)
    stranger = subprocess.Popen([sys.executable, "-c", STRANGER, str(path)], stdout=subprocess.PIPE, text=True)
    if opened:
        assert select.select([control.socket], [], [], 20)[0]
        assert control.accept() is None
    said, _ = stranger.communicate(timeout=20)
    control.end()
    assert said == ("hung up\n" if opened else "kept out\n")


def test_never_reading_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance that never answers is given up in time."""
    monkeypatch.setattr(instances, "ANSWER", 0.2)
    control = Control(record())
    begun = time.monotonic()
    assert ask_for_socket(record()) is None
    assert time.monotonic() - begun < 2
    control.end()


def test_full_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy instance whose queue of callers is full is waited for, as long as it does come to them."""
    monkeypatch.setattr(instances, "ANSWER", 0.3)
    control = Control(record())
    waiting: list[socket.socket] = []
    name = str(instances.runtime_folder() / f"{PORT}.abc.sock")
    try:
        while True:
            one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            one.setblocking(False)
            waiting.append(one)
            try:
                one.connect(name)
            except BlockingIOError:
                break
        assert ask_for_socket(record()) is None
        monkeypatch.setattr(instances, "ANSWER", 20.0)
        given = socket.create_server(("127.0.0.1", 0))

        callers: list[Channel] = []

        def work_off() -> None:
            time.sleep(0.1)
            for _ in range(len(waiting) + 1):
                select.select([control.socket], [], [], 10)
                channel = control.accept()
                assert channel is not None
                callers.append(channel)
                if channel.receive(5) is not None:
                    channel.send("socket", (given.fileno(),))
                    return

        for one in waiting:
            one.shutdown(socket.SHUT_WR)
        thread = threading.Thread(target=work_off)
        thread.start()
        handover = ask_for_socket(record())
        thread.join()
        for channel in callers:
            channel.close()
        assert handover is not None
        assert handover.socket.getsockname() == given.getsockname()
        handover.close()
        given.close()
    finally:
        for one in waiting:
            one.close()
        control.end()


def test_stopped_instance(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A suspended instance is given up in time as well, and does not mind when it is woken."""
    monkeypatch.setattr(instances, "ANSWER", 0.2)
    instance = start(INSTANCE)
    port = int(instance.says())
    instance.process.send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    assert ask_for_socket(record(port)) is None
    assert time.monotonic() - begun < 2
    instance.process.send_signal(signal.SIGCONT)
    assert instance.says() == "handover"
    assert instance.says() == "hung up"


def test_no_instance() -> None:
    """Where nobody listens, or only a dead instance's file is left, nobody is asked."""
    assert ask_for_socket(record()) is None
    control = Control(record())
    control.socket.close()
    assert ask_for_socket(record()) is None
    control.end()


def good_bye(channel: Channel, caller: socket.socket) -> None:
    caller.close()


def no_message(channel: Channel, caller: socket.socket) -> None:
    caller.sendall(b"no JSON\n")


def wrong_kind(channel: Channel, caller: socket.socket) -> None:
    channel.send("hello")


def no_descriptor(channel: Channel, caller: socket.socket) -> None:
    channel.send("socket")


def two_descriptors(channel: Channel, caller: socket.socket) -> None:
    channel.send("socket", (0, 1))


def no_socket(channel: Channel, caller: socket.socket) -> None:
    with Path(os.devnull).open() as file:
        channel.send("socket", (file.fileno(),))


@pytest.mark.parametrize(
    "answer",
    [good_bye, no_message, wrong_kind, no_descriptor, two_descriptors, no_socket],
    ids=lambda one: one.__name__,
)
def test_answers_that_are_none(answer: Callable[[Channel, socket.socket], None]) -> None:
    """An instance that answers with anything but one socket counts as one that does not answer; nothing leaks."""
    control = Control(record())
    control.socket.setblocking(True)

    def respond() -> None:
        caller, _address = control.socket.accept()
        with caller:
            channel = Channel(caller)
            channel.receive(5)
            answer(channel, caller)

    thread = threading.Thread(target=respond)
    thread.start()
    descriptors = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    found = ask_for_socket(record())
    thread.join(5)
    assert found is None
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/fd")) <= descriptors
    control.end()


# What a caller can do to an instance.


@pytest.fixture
def served(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    place = make_place(tmp_path / "place")
    monkeypatch.setenv("XDG_RUNTIME_DIR", place.environ["XDG_RUNTIME_DIR"])
    yield place.start("--demo", "--app", "small:app").until_ready()
    place.close()


def said(kind: str, data: object = None, descriptors: object = 0) -> bytes:
    return json.dumps({"kind": kind, "data": {} if data is None else data, "descriptors": descriptors}).encode() + b"\n"


RUBBISH = [
    b"",
    b"\n",
    b"no JSON\n",
    b"\xff\xfe\n",
    b"[" * 20000 + b"\n",
    b"3\n",
    b'{"kind": "handover"}\n',
    b'{"kind": "handover", "data": {}, "descriptors": 0}',  # without its end
    said("handover", descriptors=3),
    said("handover", descriptors=-1),
    said("handover", descriptors="1"),
    said("handover", []),
    said("unknown"),
    said("retire", {"pid": "nobody"}),
    said("retire", {"pid": None}),
    said("retire", {"pid": [1]}),
    said("retire", {"pid": float("inf")}),
    said("retire", {"pid": float("nan")}),
    said("handover") * 3,
    said("handover") + b"and then rubbish\n",
]


def test_rubbish_does_no_harm(served: Started) -> None:
    """Whatever a caller sends, the instance serves on, and a proper caller still gets the socket."""
    (running,) = instances.live(served.port)
    file = instances.runtime_folder() / f"{served.port}.{running.instance_id}.sock"
    held = []
    for rubbish in RUBBISH:
        caller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        os.chdir(file.parent)
        try:
            caller.connect(file.name)
        finally:
            os.chdir(ROOT)
        caller.sendall(rubbish)
        held.append(caller)
    handovers: list[Handover | None] = []

    def asked() -> bool:
        handovers.append(ask_for_socket(running))
        return handovers[-1] is not None

    # Its queue may still be full of the others.
    until(asked, "a proper caller is served")
    handover = handovers[-1]
    assert handover is not None
    handover.close()
    for caller in held:
        caller.close()
    assert get(served.url) == (200, "small")
    assert served.stop() == 0
    assert "Traceback" not in served.output
    served.left_nothing()
