"""Instance records: believed as long as the process that wrote them lives, and nobody else's folder is used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from preflight import instances
from preflight.instances import Record, RuntimeFolderError

ROOT = Path(__file__).parents[1]
PROGRAM = """
import os, sys
from preflight.instances import Presence, Record
pid, port = os.getpid(), int(sys.argv[1])
record = Record(f"id-of-{pid}", pid, "127.0.0.1", port, "2026-01-02T03:04:05Z", 1767323045.0, "0.1.0")
with Presence(record):
    print("serving", flush=True)
    sys.stdin.readline()
print("over", flush=True)
sys.stdin.readline()
"""


class Instance:
    """A process that says that it serves."""

    def __init__(self, port: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(port)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.wait_for("serving")

    def wait_for(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == word

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

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


def record(port: int = 8002, name: str = "abc") -> Record:
    return Record(name, os.getpid(), "127.0.0.1", port, "2026-01-02T03:04:05Z", 1767323045.0, "0.1.0")


def test_live_while_it_serves(start: Callable[[int], Instance], folder: Path) -> None:
    """A record is there while its process serves and gone when it has stopped."""
    instance = start(8002)
    (found,) = instances.live(8002)
    assert found == Record(
        f"id-of-{instance.process.pid}",
        instance.process.pid,
        "127.0.0.1",
        8002,
        "2026-01-02T03:04:05Z",
        1767323045.0,
        "0.1.0",
    )
    assert instances.live(8002) == [found]
    assert instances.live(8003) == instances.live(80) == []
    instance.go_on()
    instance.wait_for("over")
    assert instances.live(8002) == []
    assert os.listdir(folder) == []


def test_gone_after_a_crash(start: Callable[[int], Instance], folder: Path) -> None:
    """A killed process leaves a record that nobody believes, and the next look removes it."""
    instance = start(8002)
    instance.process.kill()
    instance.process.wait()
    assert len(os.listdir(folder)) == 1
    assert instances.live(8002) == []
    assert os.listdir(folder) == []


def test_several_instances(start: Callable[[int], Instance]) -> None:
    """Two instances on one port number (on two addresses) are both known; the crash of one is no other's."""
    one, two, _other = start(8002), start(8002), start(8003)
    assert {found.pid for found in instances.live(8002)} == {one.process.pid, two.process.pid}
    one.process.kill()
    one.process.wait()
    assert [found.pid for found in instances.live(8002)] == [two.process.pid]


def test_lock_is_not_inherited(folder: Path) -> None:
    """A child of an instance does not keep its record alive."""
    with instances.Presence(record()):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
        assert instances.live(8002) == [record()]
        (file,) = folder.iterdir()
        kept = file.read_bytes()
    file.write_bytes(kept)  # as a crash would have left it
    assert instances.live(8002) == []
    child.communicate(b"\n")


def test_record_is_its_owners(folder: Path) -> None:
    """Record and folder are readable by their owner alone; an error inside the block removes the record, too."""
    before = os.umask(0)
    try:
        with instances.Presence(record()):
            (file,) = folder.iterdir()
            assert file.stat().st_mode & 0o777 == 0o600
            assert folder.stat().st_mode & 0o777 == 0o700
            assert json.loads(file.read_text()) == asdict(record())
    finally:
        os.umask(before)
    with pytest.raises(KeyError), instances.Presence(record()):
        raise KeyError
    assert os.listdir(folder) == []


def test_same_id_twice(folder: Path) -> None:
    """A record is nobody else's to replace."""
    (folder.parent / "preflight").mkdir(mode=0o700)
    (folder / "8002.abc.new").symlink_to("elsewhere")
    with pytest.raises(RuntimeFolderError), instances.Presence(record()):
        pass
    assert not (folder / "elsewhere").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b'{"pid": 1}', b"\xff", b"[" * 60000])
def test_held_but_no_record(folder: Path, content: bytes) -> None:
    """A locked file that is no record is not believed, and not removed either."""
    import fcntl

    folder.mkdir(mode=0o700)
    file = folder / "8002.abc.json"
    with file.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.write(content)
        stream.flush()
        assert instances.live(8002) == []
    assert file.exists()


def test_links_are_not_followed(folder: Path, tmp_path: Path) -> None:
    """A link among the records is left alone."""
    folder.mkdir(mode=0o700)
    target = tmp_path / "target"
    target.write_text("{}")
    (folder / "8002.abc.json").symlink_to(target)
    assert instances.live(8002) == []
    assert target.exists()


def test_where_it_is(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In XDG_RUNTIME_DIR, made if need be; without one in a folder of this user's among the temporary files."""
    assert instances.runtime_folder() == home / "runtime" / "preflight"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "a" / "b"))
    assert instances.runtime_folder() == tmp_path / "a" / "b" / "preflight"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = instances.runtime_folder()
    assert found == tmp_path / f"preflight-{os.getuid()}"
    assert found.stat().st_mode & 0o777 == 0o700


def refused(folder: Path) -> None:
    with pytest.raises(RuntimeFolderError, match=f"^{folder}: ") as caught:
        instances.runtime_folder()
    assert "\n" not in str(caught.value)
    assert instances.live(8002) == []
    with pytest.raises(RuntimeFolderError), instances.Presence(record()):
        pass


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o707, 0o1777])
def test_open_folder_is_refused(folder: Path, mode: int) -> None:
    """A folder that others may enter is not used, even if it is ours."""
    folder.mkdir()
    folder.chmod(mode)
    refused(folder)


def test_link_is_refused(folder: Path, tmp_path: Path) -> None:
    """A link in its place is not followed, wherever it leads."""
    (tmp_path / "mine").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "mine")
    refused(folder)


def test_file_is_refused(folder: Path) -> None:
    """A file in its place is told as such."""
    folder.write_text("")
    refused(folder)


@pytest.mark.needs_root("nobody else can make another user's folder")
def test_foreign_folder_is_refused(folder: Path) -> None:
    """Under a shared temporary folder anybody can be first: another user's folder is not used."""
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)
    refused(folder)
