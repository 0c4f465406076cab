"""Two starters of one port: the lock that one waits for, and the socket that one hands to the other."""

from __future__ import annotations

import contextlib
import json
import os
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

from preflight.instances import neighbours, presence, runtime, unixsockets
from preflight.instances import records as instances
from preflight.instances.presence import Presence
from preflight.instances.records import Handover, hand_over
from preflight.instances.runtime import RuntimeFolderError, StartLock
from preflight.processes.channel import Channel
from preflight.processes.loop import Loop
from preflight.settings import loading
from tests.e2e.place import Place, Started, get, make_place
from tests.launchers import Answering, record
from tests.portnumbers import unused_port
from tests.waiting import PATIENCE, until

ROOT = Path(__file__).parents[1]
PORT = unused_port()  # only a name here, of this process alone: a start's lock is known to the whole machine

# Takes the lock, waiting if need be, and holds it until it is told to go on.
LOCKER = """
import os, sys
from preflight.instances.runtime import StartLock
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

# An instance: listens on a port of its own and gives the socket to whoever asks; then says what it hears.
INSTANCE = """
import socket
from preflight.processes.loop import Loop
from preflight.instances.presence import Presence
from tests.launchers import record
listener = socket.create_server(("127.0.0.1", 0))
loop = Loop()
presence = Presence(record(listener.getsockname()[1]), loop)
presence.listener = lambda: listener
presence.on_retire = lambda pid: print("retire", pid, flush=True)
hang_up = presence._hang_up
def hung_up(channel):
    hang_up(channel)
    print("hung up", flush=True)
presence._hang_up = hung_up
print(presence.record.port, flush=True)
print(presence.record.instance_id, flush=True)
while True:
    loop.turn(10)
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


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def loop() -> Iterator[Loop]:
    one = Loop()
    yield one
    one.close()


# The lock.


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_other_ports_do_not_wait(start: Start) -> None:
    """The start of another port is another lock's."""
    first = start(LOCKER, PORT)
    assert first.says() == "locked"
    lock = StartLock(PORT + 1)
    assert lock.take() is True
    lock.release()
    lock.release()


@pytest.mark.slow
def test_released_by_kill(start: Start) -> None:
    """kill -9 leaves no stale lock: who waits goes on."""
    first = start(LOCKER, PORT)
    assert first.says() == "locked"
    second = start(LOCKER, PORT)
    assert second.says() == "waiting"
    first.process.kill()
    assert second.says() == "locked"


@pytest.mark.slow
def test_not_inherited(start: Start) -> None:
    """What the starter started does not keep the lock after it."""
    first = start(LOCKER, PORT, "child")
    assert first.says() == "locked"
    child = int(first.says())
    try:
        first.process.kill()
        first.process.wait()
        lock = StartLock(PORT)
        until(lambda: lock.take(), "the lock is free")
        lock.release()
    finally:
        os.kill(child, signal.SIGKILL)


def test_lock_sweeps_what_died_half_way(home: Path) -> None:
    """A record that never got its name is litter for the next start of this port, and only of this port."""
    folder = runtime.folder()
    (folder / f"{PORT}.dead.new").write_text("{}")
    (folder / f"{PORT + 1}.alive.new").write_text("{}")
    lock = StartLock(PORT)
    assert lock.take()
    assert sorted(os.listdir(folder)) == [f"{PORT}.lock", f"{PORT + 1}.alive.new"]
    assert stat.S_IMODE((folder / f"{PORT}.lock").stat().st_mode) == 0o600
    lock.release()


def test_lock_follows_no_link(tmp_path: Path) -> None:
    """A link in the lock's place is an error in one line, and what it leads to is not touched."""
    (runtime.folder() / f"{PORT}.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RuntimeFolderError, match=rf"{PORT}\.lock: "):
        StartLock(PORT)
    assert not (tmp_path / "elsewhere").exists()


# The control socket.


def asked_of(instance: Program) -> tuple[int, str]:
    """Port and abstract name, or control socket, of an instance that has just begun."""
    port, instance_id = int(instance.says()), instance.says()
    return port, name_of(port, instance_id)


def name_of(port: int, instance_id: str) -> str:
    return f"\0preflight/{port}/{instance_id}"


linux = pytest.mark.skipif(sys.platform != "linux", reason="abstract names are Linux's")


@pytest.mark.slow
@linux
def test_socket_arrives_and_works(start: Start) -> None:
    """The caller gets the very socket that the instance listens on, and goes on with it when that has died."""
    instance = start(INSTANCE)
    port, address = asked_of(instance)
    handover = hand_over(address, record(port))
    assert handover is not None
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


@pytest.mark.slow
@linux
def test_retire_and_hang_up(start: Start) -> None:
    """The caller says who replaces the instance, and the instance notices when it lets go."""
    instance = start(INSTANCE)
    port, address = asked_of(instance)
    for _ in range(2):
        handover = hand_over(address, record(port))
        assert handover is not None
        handover.retire()
        assert instance.says() == f"retire {os.getpid()}"
        handover.close()
        assert instance.says() == "hung up"


def test_the_file_socket_answers_as_well(listener: socket.socket) -> None:
    """Older releases, and other systems, know the control socket by its path beside the record."""
    with Answering(listener) as presence:
        path = runtime.folder() / f"{presence.record.port}.{presence.record.instance_id}.sock"
        handover = hand_over(path, presence.record)
        assert handover is not None
        assert handover.socket.getsockname() == listener.getsockname()
        handover.close()


@pytest.mark.parametrize("state", [instances.STARTING, instances.DRAINING])
def test_only_one_that_serves_gives_its_socket(listener: socket.socket, state: str) -> None:
    """One that starts or drains says at once that it gives none."""
    begun = time.monotonic()
    with Answering(listener, state=state) as presence:
        path = runtime.folder() / f"{presence.record.port}.{presence.record.instance_id}.sock"
        assert hand_over(path, presence.record) is None
    assert time.monotonic() - begun < instances.ANSWER


def test_mode_of_the_socket(loop: Loop) -> None:
    """The control socket is its owner's alone, whatever the umask, and is gone when the instance has ended."""
    before = os.umask(0)
    try:
        presence = Presence(record(PORT), loop)
    finally:
        os.umask(before)
    file = runtime.folder() / f"{PORT}.{presence.record.instance_id}.sock"
    status = file.stat()
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o600
    presence.end()
    presence.end()
    assert not file.exists()


def test_long_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    """A runtime folder whose path is longer than a Unix socket's may be is used all the same."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("long" * 30)))
    here = Path.cwd()
    with Answering(listener) as presence:
        path = runtime.folder() / f"{presence.record.port}.{presence.record.instance_id}.sock"
        assert len(str(path)) > 108
        handover = hand_over(path, presence.record)
        assert handover is not None
        handover.close()
    assert Path.cwd() == here


def test_other_user_is_refused(monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    """A caller that is another user's gets nothing; neither does an instance of another user get our trust."""
    with Answering(listener) as presence:
        path = runtime.folder() / f"{presence.record.port}.{presence.record.instance_id}.sock"
        monkeypatch.setattr(unixsockets, "peer", lambda _connection: unixsockets.Peer(os.getpid(), os.getuid() + 1))
        assert hand_over(path, presence.record) is None


def test_peer() -> None:
    """The system says who the other end is."""
    one, other = socket.socketpair()
    with one, other:
        assert unixsockets.peer(one) == (os.getpid(), os.getuid())


# Calls a control socket as somebody else; a path from inside its folder: what is above that is not asked.
STRANGER = """
import os, socket, sys
address = sys.argv[1].replace("@", "\\0")
if address.startswith("/"):
    os.chdir(os.path.dirname(address))
    address = os.path.basename(address)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
caller = socket.socket(socket.AF_UNIX)
caller.settimeout(60)
try:
    caller.connect(address)
except PermissionError:
    print("kept out")
else:
    try:
        caller.sendall(b'{"kind":"handover","descriptors":0,"data":{}}\\n')
        print(caller.recv(100) or "hung up")
    except (ConnectionResetError, BrokenPipeError):
        print("hung up")
"""


@pytest.mark.slow
@pytest.mark.needs_root("nobody else can become another user")
@pytest.mark.parametrize("way", ["as it is", "modes wide open", "abstract name"])
def test_another_user_calls(way: str, listener: socket.socket) -> None:
    """A real process of another user: the modes keep it out, and where there are none, its user id does."""
    with Answering(listener) as presence:
        path = runtime.folder() / f"{presence.record.port}.{presence.record.instance_id}.sock"
        if way == "modes wide open":
            path.chmod(0o777)
            path.parent.chmod(0o711)
        address = f"@{name_of(presence.record.port, presence.record.instance_id)[1:]}" if "name" in way else str(path)
        stranger = subprocess.run(
            [sys.executable, "-c", STRANGER, address], stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=True
        )
    assert stranger.stdout == ("kept out\n" if way == "as it is" else "hung up\n")


def test_never_reading_instance(monkeypatch: pytest.MonkeyPatch, loop: Loop) -> None:
    """An instance that never answers is given up in time."""
    monkeypatch.setattr(instances, "ANSWER", 0.2)
    presence = Presence(record(PORT), loop)
    begun = time.monotonic()
    assert hand_over(runtime.folder() / f"{PORT}.{presence.record.instance_id}.sock", presence.record) is None
    assert time.monotonic() - begun < 20
    presence.end()


@pytest.mark.slow
def test_full_queue(listener: socket.socket, loop: Loop) -> None:
    """A busy instance whose queue of callers is full is waited for, as long as it does come to them."""
    presence = Presence(record(listener.getsockname()[1]), loop)
    presence.listener = lambda: listener
    path = runtime.folder() / f"{presence.record.port}.{presence.record.instance_id}.sock"
    waiting: list[socket.socket] = []
    try:
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting.append(unixsockets.connect(path, 0.0))
        with pytest.raises(instances.Silent):
            instances.call(path)
        over = threading.Event()

        def work_off() -> None:
            while not over.is_set():
                loop.turn(0.02)

        thread = threading.Thread(target=work_off)
        thread.start()
        handover = hand_over(path, presence.record)
        over.set()
        thread.join()
        assert handover is not None
        assert handover.socket.getsockname() == listener.getsockname()
        handover.close()
    finally:
        for one in waiting:
            one.close()
        presence.end()


@pytest.mark.slow
@linux
def test_stopped_instance(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A suspended instance is given up in time as well, and does not mind when it is woken."""
    monkeypatch.setattr(instances, "ANSWER", 0.2)
    instance = start(INSTANCE)
    port, address = asked_of(instance)
    instance.process.send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    assert hand_over(address, record(port)) is None
    assert time.monotonic() - begun < 20
    instance.process.send_signal(signal.SIGCONT)
    assert instance.says() == "hung up"


def test_no_instance() -> None:
    """Where nobody listens, or only a dead instance's file is left, nobody is asked."""
    path = runtime.folder() / f"{PORT}.abc.sock"
    assert hand_over(path, record(PORT)) is None
    unixsockets.listen(path).close()
    assert hand_over(path, record(PORT)) is None


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


@pytest.mark.parametrize("question", ["handover", "who"])
@pytest.mark.parametrize(
    "answer",
    [good_bye, no_message, wrong_kind, no_descriptor, two_descriptors, no_socket],
    ids=lambda one: one.__name__,
)
def test_answers_that_are_none(answer: Callable[[Channel, socket.socket], None], question: str) -> None:
    """An instance that answers with anything but one socket counts as one that does not answer; nothing leaks."""
    path = runtime.folder() / f"{PORT}.abc.sock"
    control = unixsockets.listen(path)
    control.setblocking(True)

    def respond() -> None:
        caller, _address = control.accept()
        with caller:
            channel = Channel(caller)
            channel.receive(5)
            answer(channel, caller)

    thread = threading.Thread(target=respond)
    thread.start()
    descriptors = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    if question == "handover":
        assert hand_over(path, record(PORT)) is None
    else:
        channel, _peer = instances.call(path)
        with pytest.raises(instances.Silent):
            instances.ask(channel, any_release=True)
        channel.close()
    thread.join(PATIENCE)
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/fd")) <= descriptors
    control.close()


@pytest.mark.parametrize("began", [b"", b"half a mess", b'{"kind": "unknown", "data": {}, "descriptors": 0}\n'])
def test_silent_callers_are_dropped(monkeypatch: pytest.MonkeyPatch, listener: socket.socket, began: bytes) -> None:
    """Whoever says nothing is hung up on in time; one that has our socket may take as long as its start takes."""
    monkeypatch.setattr(presence, "IDLE", 0.1)
    monkeypatch.setattr(presence, "LOOK", 0.05)
    with Answering(listener) as one:
        path = runtime.folder() / f"{one.record.port}.{one.record.instance_id}.sock"
        handover = hand_over(path, one.record)
        assert handover is not None
        with unixsockets.connect(path, 5.0) as silent:
            silent.settimeout(PATIENCE)
            silent.sendall(began)
            assert silent.recv(1) == b""
        assert len(one.given) == 1
        handover.close()


# What a caller can do to an instance.


def open_files(started: Started) -> int:
    """Of the launcher."""
    return len(os.listdir(f"/proc/{started.pid}/fd"))


@linux
@pytest.mark.slow
def test_callers_do_not_use_up_its_descriptors(served: Place) -> None:
    """However many call, and whatever they send along: it keeps nothing of it, and the next one is answered."""
    (started,) = served.started
    (file,) = (served.folder / "runtime" / "preflight").glob("*.sock")
    before = open_files(started)
    callers = []
    with Path(os.devnull).open() as null:
        for number in range(200):
            callers.append(unixsockets.connect(file, 5.0))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for text in (said("unknown"), said("retired", descriptors=1), b'{"kind": '):
                    try:
                        socket.send_fds(callers[number], [text], [null.fileno()] * 16)
                    except PermissionError:  # the kernel refuses descriptors for the launcher
                        callers[number].sendall(text)
    (running,) = neighbours.on_port(loading.load(ROOT, options={"demo": True, "port": served.port}))
    handover = running.hand_over()
    assert handover is not None
    assert open_files(started) <= before + presence.CALLERS + 1
    for caller in callers:
        caller.close()
    handover.close()
    until(lambda: open_files(started) <= before, "it has let go of all of them")


@pytest.mark.slow
@linux
def test_a_call_without_end(served: Place) -> None:
    """It is not listened to until the memory is full."""
    (file,) = (served.folder / "runtime" / "preflight").glob("*.sock")
    with unixsockets.connect(file, 5.0) as caller, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        caller.settimeout(PATIENCE)
        caller.sendall(b"x" * presence.LONGEST_CALL + b"x" * 1024 * 1024)
        raise AssertionError("it takes a megabyte")
    assert get(served.url) == (200, "small")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Place]:
    place = make_place(tmp_path / "place")
    place.start("--demo", "--app", "small:app").until_ready()
    yield place
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


@pytest.mark.slow
def test_rubbish_does_no_harm(served: Place) -> None:
    """Whatever a caller sends, the instance serves on, and a proper caller still gets the socket."""
    (file,) = (served.folder / "runtime" / "preflight").glob("*.sock")
    held = []
    for rubbish in RUBBISH:
        caller = unixsockets.connect(file, 5.0)
        caller.sendall(rubbish)
        held.append(caller)
    (running,) = neighbours.on_port(loading.load(ROOT, options={"demo": True, "port": served.port}))
    handovers: list[Handover | None] = []

    def asked() -> bool:
        handovers.append(running.hand_over())
        return handovers[-1] is not None

    # Its queue may still be full of the others.
    until(asked, "a proper caller is served")
    handover = handovers[-1]
    assert handover is not None
    handover.close()
    for caller in held:
        caller.close()
    assert get(served.url) == (200, "small")
    (started,) = served.started
    assert started.stop() == 0
    assert "Traceback" not in started.output
    started.left_nothing()
