"""What others see of an instance: its record, the folder where that is, and that both come back when they vanish."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from preflight import ports
from preflight.instances import neighbours, presence, runtime, unixsockets
from preflight.instances import records as instances
from preflight.instances.presence import Presence
from preflight.instances.records import Record
from preflight.instances.runtime import RuntimeFolderError
from preflight.processes.loop import Loop
from tests.launchers import Answering, record
from tests.portnumbers import unused_port
from tests.waiting import PATIENCE, until

ROOT = Path(__file__).parents[1]
PORT = unused_port()
PROGRAM = """
import socket, sys
from preflight.processes.loop import Loop
from preflight.instances.presence import Presence
from tests.launchers import record
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
loop = Loop()
presence = Presence(record(int(sys.argv[1])), loop)
presence.listener = lambda: listener
print("serving", flush=True)
over = []
loop.watch(sys.stdin, lambda: over.append(True))
while not over:
    loop.turn(10)
presence.end()
"""


class Instance:
    """A process that serves."""

    def __init__(self, port: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(port)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "serving\n"

    def end(self) -> None:
        self.process.communicate("over\n", timeout=PATIENCE)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[[int], Instance]]:
    started: list[Instance] = []

    def begin(port: int) -> Instance:
        started.append(Instance(port))
        return started[-1]

    yield begin
    for one in started:
        one.close()


@pytest.fixture
def folder(home: Path) -> Path:
    return home / "runtime" / "preflight"


@pytest.fixture
def loop() -> Iterator[Loop]:
    one = Loop()
    yield one
    one.close()


def on(port: int) -> list[neighbours.Neighbour]:
    return neighbours.of_holders(port, ports.listeners("127.0.0.1", port))


# The record.


@pytest.mark.slow
def test_there_while_it_serves(start: Callable[[int], Instance], folder: Path) -> None:
    """Record and socket are there while its process serves and gone when it has ended."""
    instance = start(PORT)
    assert sorted(file.suffix for file in folder.iterdir()) == [".json", ".sock"]
    (found,) = on(PORT)
    assert (found.record.pid, found.record.bound, found.answers) == (instance.process.pid, "127.0.0.1", True)
    instance.end()
    assert on(PORT) == []
    assert os.listdir(folder) == []


@pytest.mark.slow
def test_litter_of_a_crash(start: Callable[[int], Instance], folder: Path) -> None:
    """A killed process leaves a record that nobody believes, and the next look at the port removes it."""
    instance = start(PORT)
    instance.process.kill()
    instance.process.wait()
    assert len(os.listdir(folder)) == 2
    with socket.create_server(("127.0.0.1", PORT)):
        assert on(PORT) == []
    assert os.listdir(folder) == []


@pytest.mark.slow
def test_lock_is_not_inherited(folder: Path, loop: Loop) -> None:
    """A child of an instance does not keep its record alive."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        one = Presence(record(port), loop)
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
        (file,) = folder.glob("*.json")
        kept = file.read_bytes()
        one.end()
        file.write_bytes(kept)  # as a crash would have left it
        assert on(port) == []
        assert not file.exists()
        child.communicate(b"\n")


def test_record_is_its_owners(folder: Path, loop: Loop) -> None:
    """Record and folder are readable by their owner alone, whatever the umask; it has protocol 1's fields."""
    for umask in (0, 0o777):
        before = os.umask(umask)
        try:
            one = Presence(record(PORT), loop)
        finally:
            os.umask(before)
        (file,) = folder.glob("*.json")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert list(json.loads(file.read_text())) == [
            "instance_id", "pid", "host", "port", "since", "up_at", "version", "stops_within", "log_file",
        ]  # fmt: skip
        one.end()
        assert os.listdir(folder) == []
        folder.rmdir()


@pytest.mark.parametrize("state", [instances.STARTING, instances.DRAINING])
def test_only_one_that_serves_is_protocol_1s(folder: Path, loop: Loop, state: str) -> None:
    """Protocol 1 takes any record that it can read for one that serves: it cannot read that of one that does not."""
    one = Presence(record(PORT, state=state), loop)
    (file,) = folder.glob("*.json")
    assert json.loads(file.read_text())["state"] == state
    assert Record.of(json.loads(file.read_text())) == one.record
    one.came_up()
    assert "state" not in json.loads(file.read_text())
    one.end()


def test_same_id_twice(folder: Path, loop: Loop) -> None:
    """A record is nobody else's to replace."""
    folder.mkdir(mode=0o700)
    (folder / f"{PORT}.abc.new").symlink_to("elsewhere")
    with pytest.raises(RuntimeFolderError):
        Presence(record(PORT, instance_id="abc"), loop)
    assert not (folder / "elsewhere").exists()
    assert unixsockets.abstract_names(f"preflight/{PORT}/") == []


@pytest.mark.parametrize(
    "data, expected",
    [
        ({}, {"pid": 0, "state": "serving", "protocol": 1, "stops_within": 0.0}),
        ({"pid": 12, "colour": "red", "state": "draining", "protocol": 9}, {"pid": 12, "state": "draining"}),
        ({"pid": "12", "host": None, "stops_within": [1], "up_at": True}, {"pid": 0, "host": "", "stops_within": 0.0}),
        ({"stops_within": 3, "up_at": 1}, {"stops_within": 3.0, "up_at": 1.0}),
    ],
    ids=["nothing", "more", "other types", "numbers"],
)
def test_records_of_other_releases(data: dict[str, object], expected: dict[str, object]) -> None:
    """What is not known is passed over, and what is missing or of another type has a default."""
    found = Record.of(data)
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff", b"[" * 60000])
def test_held_but_no_record(folder: Path, content: bytes) -> None:
    """A locked file that is no record is not believed, and not removed either."""
    folder.mkdir(mode=0o700)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        file = folder / f"{port}.abc.json"
        with file.open("wb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.write(content)
            stream.flush()
            assert on(port) == []
        assert file.exists()


def test_links_are_not_followed(folder: Path, tmp_path: Path) -> None:
    """A link among the records is left alone."""
    folder.mkdir(mode=0o700)
    target = tmp_path / "target"
    target.write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        (folder / f"{port}.abc.json").symlink_to(target)
        assert on(port) == []
    assert target.exists()


# What vanishes comes back.


@pytest.mark.parametrize("lost", ["record", "socket", "both", "folder", "everything"])
def test_what_vanishes_comes_back(
    folder: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch, lost: str, tmp_path: Path
) -> None:
    """A cleaner that removes record, socket or folder under a live instance has not removed it for long."""
    monkeypatch.setattr(presence, "LOOK", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as listener, Answering(listener) as one:
        file = folder / f"{one.record.port}.{one.record.instance_id}.json"
        path = file.with_suffix(".sock")
        match lost:
            case "record":
                file.unlink()
            case "socket":
                path.unlink()
            case "both":
                file.unlink()
                path.unlink()
            case "folder":
                shutil.rmtree(folder)
            case "everything":
                shutil.rmtree(folder.parent)
        until(file.exists, "the record is back")

        def answers() -> bool:
            """It may be at it just now: the socket is taken away before it is made again."""
            with contextlib.suppress(OSError):
                channel, peer = instances.call(path)
                with contextlib.closing(channel):
                    return peer.pid == os.getpid() and instances.ask(channel, any_release=False)[0] is not None
            return False

        until(answers, "its socket is back")
        assert not one.trouble
    assert os.listdir(folder) == []


def test_where_it_cannot_come_back(folder: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The folder of a session that is over cannot be made again: then another one is used, or it is said why not."""
    monkeypatch.setattr(presence, "LOOK", 0.0)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    state = tmp_path / "state"
    one = Presence(record(PORT), loop, state_dir=state)
    shutil.rmtree(folder.parent)
    folder.parent.write_text("in the way")
    monkeypatch.setenv("TMPDIR", "/proc")
    one.look_after()
    assert (state / "runtime" / f"{PORT}.{one.record.instance_id}.json").exists()
    assert not one.trouble
    shutil.rmtree(state)
    state.write_text("in the way")
    one.look_after()
    assert str(state) in one.trouble
    assert "\n" not in one.trouble
    one.end()


# The folder.


def test_where_it_is(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In XDG_RUNTIME_DIR, made if need be; without one in a folder of this user's among the temporary files."""
    assert runtime.folder() == home / "runtime" / "preflight"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "a" / "b"))
    assert runtime.folder() == tmp_path / "a" / "b" / "preflight"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    found = runtime.folder()
    assert found == tmp_path / f"preflight-{os.getuid()}"
    assert found.stat().st_mode & 0o777 == 0o700
    assert os.listdir(found) == []


@pytest.mark.parametrize("umask", [0, 0o777])
def test_made_whatever_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int) -> None:
    """Every folder on the way has mode 0700: a umask that takes our own rights away blocks no later start."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "a" / "b"))
    before = os.umask(umask)
    try:
        folder = runtime.folder()
    finally:
        os.umask(before)
    assert folder == tmp_path / "a" / "b" / "preflight"
    assert [stat.S_IMODE(one.stat().st_mode) for one in (tmp_path / "a", tmp_path / "a" / "b", folder)] == [0o700] * 3


def test_left_by_such_a_umask(folder: Path) -> None:
    """A folder that nobody may enter, made by an older release, is opened to its owner."""
    folder.mkdir()
    folder.chmod(0)
    assert runtime.folder() == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def spoil_open(folder: Path) -> str:
    folder.mkdir()
    folder.chmod(0o755)
    return "it is not a folder of mode 0700 that belongs to this user"


def spoil_shared(folder: Path) -> str:
    folder.mkdir()
    folder.chmod(0o1777)
    return "it is not a folder of mode 0700 that belongs to this user"


def spoil_link(folder: Path) -> str:
    (folder.parent / "mine").mkdir(mode=0o700)
    folder.symlink_to(folder.parent / "mine")
    return "it is not a folder of mode 0700 that belongs to this user"


def spoil_file(folder: Path) -> str:
    folder.write_text("")
    return "it is not a folder of mode 0700 that belongs to this user"


def spoil_above(folder: Path) -> str:
    folder.parent.rmdir()
    folder.parent.write_text("")
    return "Not a directory"


def spoil_owner(folder: Path) -> str:
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)
    return "it is not a folder of mode 0700 that belongs to this user"


def spoil_owner_above(folder: Path) -> str:
    os.chown(folder.parent, 65534, 65534)
    return f"{folder.parent} belongs to another user"


as_root = pytest.mark.needs_root("nobody else can make another user's folder")


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_open,
        spoil_shared,
        spoil_link,
        spoil_file,
        spoil_above,
        pytest.param(spoil_owner, marks=as_root),
        pytest.param(spoil_owner_above, marks=as_root),
    ],
    ids=lambda spoil: spoil.__name__,
)
def test_a_place_that_will_not_do(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], str]
) -> None:
    """The next place is used; where there is none, the message is one line with the reason for each."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    planted = tmp_path / f"preflight-{os.getuid()}"
    planted.symlink_to(tmp_path)  # anybody can be first among the temporary files
    why = spoil(folder)
    assert runtime.folder(tmp_path / "state") == tmp_path / "state" / "runtime"
    with pytest.raises(RuntimeFolderError) as caught:
        runtime.folder()
    assert f"{folder}: {why}" in str(caught.value)
    assert f"{planted}: it is not a folder of mode 0700" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", ["relative", "", "./run"])
def test_a_relative_folder_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    """XDG_RUNTIME_DIR must be absolute, or it is as if it were not there (XDG Base Directory Specification)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", given)
    assert runtime.folder() == tmp_path / f"preflight-{os.getuid()}"


def test_asked_without_keeping(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question leaves nothing behind, and a folder that is in use stays."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "a" / "b"))
    assert runtime.folder(keep=False) == tmp_path / "a" / "b" / "preflight"
    assert os.listdir(tmp_path) == []
    used = runtime.folder()
    (used / "lock").touch()
    runtime.folder(keep=False)
    assert os.listdir(used) == ["lock"]


@pytest.mark.slow
def test_no_room(folder: Path, tmp_path: Path) -> None:
    """Where a record has no room, the folder will not do; nothing is left of the try."""
    program = (
        "import resource, sys; from pathlib import Path; from preflight.instances import runtime\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n    runtime.folder(Path(sys.argv[1]))\n"
        "except runtime.RuntimeFolderError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "state")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.stdout.count(": File too large") == 3
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert not folder.exists()
