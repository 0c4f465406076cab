"""Files that are this user's alone: no links, nobody else's hand, and whole or not at all."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from preflight import files
from preflight.files import Unsafe

ROOT = Path(__file__).parents[1]
NOBODY = 65534
as_root = pytest.mark.needs_root("nobody else can make another user's files")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder like /tmp."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def test_own_makes_it(tmp_path: Path) -> None:
    """The folder is made for its owner alone, whatever the umask says."""
    before = os.umask(0)
    try:
        files.own(tmp_path / "a")
    finally:
        os.umask(before)
    assert mode(tmp_path / "a") == 0o700


@pytest.mark.slow
def test_what_own_makes_is_left_out_of_a_repository(tmp_path: Path) -> None:
    """Only a folder that was not there, and once: a file that somebody has taken away does not come back."""
    kept, there = tmp_path / "new" / "state", tmp_path / "there"
    there.mkdir()
    files.own(kept)
    files.own(there)
    assert [file.relative_to(tmp_path) for file in tmp_path.rglob(".gitignore")] == [Path("new/state/.gitignore")]
    assert mode(kept / ".gitignore") == 0o600
    (kept / "report.json").touch()
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    shown = subprocess.run(["git", "-C", tmp_path, "status", "--short"], check=True, capture_output=True, text=True)
    assert shown.stdout == ""
    (kept / ".gitignore").unlink()
    files.own(kept)
    assert not (kept / ".gitignore").exists()


def test_own_refuses_what_anybody_can_write(shared: Path) -> None:
    """Whose files are trusted is no folder in which anybody can put one."""
    with pytest.raises(Unsafe, match="anybody can write in this folder"):
        files.own(shared)
    files.reach(shared)


@pytest.mark.parametrize("below", ["", "deeper"])
def test_link_in_a_shared_folder(shared: Path, tmp_path: Path, below: str) -> None:
    """Under /tmp somebody else could have put the link there."""
    (tmp_path / "real").mkdir()
    (shared / "link").symlink_to(tmp_path / "real")
    with pytest.raises(Unsafe, match="is a symbolic link in a folder that anybody can write"):
        files.own(shared / "link" / below)


def test_link_elsewhere(tmp_path: Path) -> None:
    """A link that only its owner could have made is followed, also where it is relative or points to another one."""
    (tmp_path / "real").mkdir()
    (tmp_path / "one").symlink_to("real")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    files.own(tmp_path / "two" / "folder")
    assert (tmp_path / "real" / "folder").is_dir()


def test_link_into_a_shared_folder(shared: Path, tmp_path: Path) -> None:
    """The way behind a link is looked at as well."""
    (tmp_path / "real").mkdir()
    (shared / "link").symlink_to(tmp_path / "real")
    (tmp_path / "mine").symlink_to(shared / "link")
    with pytest.raises(Unsafe, match="shared/link is a symbolic link"):
        files.own(tmp_path / "mine")


@as_root
def test_another_users_folder(shared: Path) -> None:
    """Somebody else's folder under /tmp is refused, and so is everything in it."""
    (shared / "theirs").mkdir()
    os.chown(shared / "theirs", NOBODY, NOBODY)
    for path in (shared / "theirs", shared / "theirs" / "state"):
        with pytest.raises(Unsafe, match="belongs to another user"):
            files.own(path)


@as_root
@pytest.mark.parametrize("shared_mode", [0o2775, 0o770])
def test_folder_of_another_users_group(tmp_path: Path, shared_mode: int) -> None:
    """Where a group can write it is shared as if anybody could: no links, nobody else's folders, no state in it."""
    folder = tmp_path / "group"
    folder.mkdir()
    (tmp_path / "real").mkdir()
    (folder / "link").symlink_to(tmp_path / "real")
    (folder / "theirs").mkdir()
    os.chown(folder / "theirs", NOBODY, NOBODY)
    os.chown(folder, 0, NOBODY)
    folder.chmod(shared_mode)
    with pytest.raises(Unsafe, match="is a symbolic link in a folder that a group can write"):
        files.own(folder / "link")
    with pytest.raises(Unsafe, match="belongs to another user, in a folder that a group can write"):
        files.reach(folder / "theirs")
    with pytest.raises(Unsafe, match="a group can write in this folder"):
        files.own(folder)
    files.own(folder / "ours")


def test_folder_of_ones_own_group(tmp_path: Path) -> None:
    """With the umask 002 a user's own group may write everywhere, and has nobody else in it."""
    folder = tmp_path / "mine"
    folder.mkdir()
    folder.chmod(0o775)
    (tmp_path / "real").mkdir()
    (folder / "link").symlink_to(tmp_path / "real")
    files.own(folder / "link")
    files.own(folder)


@as_root
def test_own_is_ones_own(tmp_path: Path) -> None:
    """A folder of another user is none to trust, wherever it is, and whoever looks."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    with pytest.raises(Unsafe, match="belongs to another user"):
        files.own(folder)


def test_no_link(tmp_path: Path) -> None:
    """A link is refused wherever it leads; a folder, and what is not there, are none."""
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(Unsafe, match="is a symbolic link"):
        files.no_link(tmp_path / "link")
    files.no_link(tmp_path)
    files.no_link(tmp_path / "nothing")


def test_close(tmp_path: Path) -> None:
    """Others lose every right to a folder and to a file; ours stay."""
    folder, file = tmp_path / "state", tmp_path / "report.json"
    folder.mkdir()
    file.touch()
    for path, wide, narrow in ((folder, 0o755, 0o700), (file, 0o644, 0o600)):
        path.chmod(wide)
        for _ in range(2):
            files.close(path)
            assert mode(path) == narrow


@as_root
def test_close_leaves_others_alone(tmp_path: Path) -> None:
    """The mode of another user's file is that user's business."""
    (tmp_path / "theirs").touch(0o644)
    os.chown(tmp_path / "theirs", NOBODY, NOBODY)
    before = mode(tmp_path / "theirs")
    files.close(tmp_path / "theirs")
    assert mode(tmp_path / "theirs") == before


def test_opened(tmp_path: Path) -> None:
    """A file is made with mode 0600, and one with a wider mode gets it."""
    path = tmp_path / "log"
    for _ in range(2):
        os.close(files.opened(path, os.O_WRONLY | os.O_APPEND))
        assert mode(path) == 0o600
        path.chmod(0o664)


def link(path: Path) -> None:
    path.symlink_to(path.with_name("target"))


def pipe(path: Path) -> None:
    os.mkfifo(path)


def theirs(path: Path) -> None:
    path.touch()
    os.chown(path, NOBODY, NOBODY)


@pytest.mark.parametrize(
    "make, why",
    [
        (link, "it is a symbolic link"),
        (pipe, "it is not a regular file"),
        pytest.param(theirs, "it belongs to another user", marks=as_root),
    ],
)
def test_opened_refuses(tmp_path: Path, make: Callable[[Path], None], why: str) -> None:
    """Links, pipes and other users' files are not written, and a pipe is not waited for."""
    make(tmp_path / "log")
    with pytest.raises(Unsafe) as caught:
        files.opened(tmp_path / "log", os.O_WRONLY | os.O_APPEND)
    assert caught.value.strerror == why
    assert not (tmp_path / "target").exists()


def test_publish_without_replacing(tmp_path: Path) -> None:
    """A file that is there stays, and nothing is left beside it."""
    path = tmp_path / "file"
    files.publish(path, b"one", replace=False)
    with pytest.raises(FileExistsError):
        files.publish(path, b"two", replace=False)
    files.publish(path, b"three")
    assert (path.read_bytes(), mode(path), os.listdir(tmp_path)) == (b"three", 0o600, ["file"])


# Begins to publish, and stops right before the new file gets its name.
WRITER = """
import os, sys
from pathlib import Path
from preflight import files
def stop(name, arguments):
    if name == "os.rename":
        print("written", flush=True)
        sys.stdin.readline()
sys.addaudithook(stop)
files.publish(Path(sys.argv[1]), b"content", mark="abc")
"""


@pytest.mark.slow
def test_sweep(tmp_path: Path) -> None:
    """What a writer left that was killed half way is swept; a living writer's file is not, and gets its name."""
    path = tmp_path / "report.json"
    writers = []
    for _ in range(2):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        writers.append(writer)
    dead, living = writers
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    (tmp_path / ".report.json.note").touch()
    (tmp_path / f".other.json.abc.{dead.pid}").touch()
    files.sweep(path)
    left = {".report.json.note", f".other.json.abc.{dead.pid}", f".report.json.abc.{living.pid}"}
    assert set(os.listdir(tmp_path)) == left
    living.communicate("go on\n")
    assert path.read_bytes() == b"content"
