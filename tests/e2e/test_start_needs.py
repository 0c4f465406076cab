"""What a start needs is there before anything is stopped, and a check says the same: real folders, real processes."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.place import BLOCKED, READY, ROOT, Place, Started, get

SMALL = ("--demo", "--app", "small:app")
linux = pytest.mark.skipif(sys.platform != "linux" or shutil.which("setpriv") is None, reason="needs Linux' setpriv")

# Modes count for whoever runs this: root without the capabilities to pass them over.
ORDINARY = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner,-chown") if os.geteuid() == 0 else ()


def start(place: Place, *options: str, cwd: Path | None = None, umask: int | None = None, **environ: str) -> Started:
    """A start for which modes count."""
    command = [sys.executable, str(ROOT / "run.py"), "--port", str(place.port), *SMALL, *options]
    if umask is not None:
        command = ["sh", "-c", f'umask {umask:o} && exec "$@"', "sh", *command]
    return place.spawn(*ORDINARY, *command, environ=environ, cwd=cwd)


def left(place: Place) -> list[Path]:
    """What is there, beside what belongs there: the state, and byte code."""
    return sorted(path for path in place.folder.rglob("*") if not {"state", "modules"} & set(path.parts))


def goes_ahead(place: Place, **circumstances: object) -> None:
    """A check passes and leaves nothing, and a start serves; then so does a second one in its place."""
    before = left(place)
    check = start(place, "--check-only", **circumstances)  # type: ignore[arg-type]
    assert check.wait() == 0, check.output
    assert left(place) == before
    first = start(place, **circumstances).until_ready()  # type: ignore[arg-type]
    assert get(place.url) == (200, "small")
    second = start(place, **circumstances).until_ready()  # type: ignore[arg-type]
    assert first.wait() == 0
    assert "SIGTERM" not in second.output
    assert second.stop() == 0
    second.left_nothing()


def is_refused(place: Place, why: str, **circumstances: object) -> None:
    """Start and check are refused in a line with a fix, and whoever holds the port is left alone."""
    holder = place.listener()
    for options in ((), ("--check-only",)):
        one = start(place, *options, **circumstances)  # type: ignore[arg-type]
        assert one.wait() == 1, one.output
        assert why in one.output
        assert "Fix: " in one.output
        assert "Traceback" not in one.output
        assert READY not in one.output
        assert holder.process.poll() is None
    assert BLOCKED in one.output
    assert "Runtime Folder" in one.output.partition(BLOCKED)[2]


@linux
@pytest.mark.parametrize("length", ["short", "long"])
def test_in_a_folder_that_it_cannot_read(place: Place, length: str) -> None:
    """The current directory is nobody's business, however long the path of the runtime folder is.

    A runtime folder that an earlier release has made under a umask which took its owner's rights is opened again.
    """
    cwd = place.folder / "shut"
    cwd.mkdir()
    environ = {"XDG_RUNTIME_DIR": str(place.folder / ("long" * 30))} if length == "long" else {}
    if length == "short":
        (place.folder / "runtime" / "preflight").mkdir()
        (place.folder / "runtime" / "preflight").chmod(0)
    if os.geteuid() == 0:
        os.chown(cwd, 65534, 65534)
        cwd.chmod(0o700)
    else:
        cwd.chmod(0o100)  # entered, and not read
    goes_ahead(place, cwd=cwd, **environ)


# Where a check and a start find a place, for each runtime folder that it is given.
PLACES = """
import json, os, sys
from pathlib import Path
from preflight.instances import runtime

state, temporary, *given = map(str, sys.argv[1:])
os.environ["TMPDIR"] = temporary
found = {}
for one in given:
    os.environ["XDG_RUNTIME_DIR"] = one
    found[one] = [str(runtime.lockable(1, Path(state)))]
    found[one].append(os.listdir(temporary))
    found[one].append(str(runtime.folder(Path(state))))
    os.rmdir(runtime.folder(Path(state)))
print(json.dumps(found))
"""


def places(state: Path, temporary: Path, *given: str) -> dict[str, list[object]]:
    """By the runtime folder that is given: where a check finds a place, what it leaves, and where a start finds one."""
    command = [*ORDINARY, sys.executable, "-c", PLACES, str(state), str(temporary), *given]
    asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr
    found: dict[str, list[object]] = json.loads(asked.stdout)
    return found


@linux
def test_a_runtime_folder_that_is_of_no_use(tmp_path: Path) -> None:
    """Not there, not absolute, no folder, not to be written: a check and a start have another place.

    :func:`test_a_planted_folder` starts servers in such a place.
    """
    (tmp_path / "file").write_text("")
    (tmp_path / "shut").mkdir(mode=0o500)
    (tmp_path / "temporary").mkdir(mode=0o700)
    (tmp_path / "state").mkdir(mode=0o700)
    given = ["", "/proc/nowhere/at/all", "relative", str(tmp_path / "file"), str(tmp_path / "shut")]
    another = str(tmp_path / "temporary" / f"preflight-{os.getuid()}")
    found = places(tmp_path / "state", tmp_path / "temporary", *given)
    assert found == {one: [another, [], another] for one in given}


@linux
@pytest.mark.needs_root("nobody else can make another user's folder")
def test_a_planted_folder(place: Place) -> None:
    """Where another account was first among the temporary files, there is a place that it cannot plant."""
    shared = place.folder / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    planted = shared / f"preflight-{os.getuid()}"
    planted.mkdir(mode=0o700)
    os.chown(planted, 65534, 65534)
    theirs = place.folder / "theirs"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, 65534, 65534)
    found = [str(place.state / "runtime"), [planted.name], str(place.state / "runtime")]
    assert places(place.state, shared, str(theirs), "") == {str(theirs): found, "": found}
    goes_ahead(place, XDG_RUNTIME_DIR=str(theirs), TMPDIR=str(shared))
    assert os.listdir(theirs) == os.listdir(planted) == []


@linux
def test_a_umask_that_takes_our_own_rights(place: Place) -> None:
    """Nothing is left that blocks a later start, with the same umask or another one."""
    below = place.folder
    place.environ |= {"XDG_RUNTIME_DIR": str(below / "a" / "b"), "PREFLIGHT_STATE_DIR": str(below / "c" / "state")}
    for umask in (0o777, 0o777):
        started = start(place, umask=umask).until_ready()
        assert started.stop() == 0, started.output
    assert start(place, "--check-only", umask=0o22).wait() == 0
    for folder in ("a/b/preflight", "c/state", "c"):
        assert stat.S_IMODE((place.folder / folder).stat().st_mode) == 0o700


@linux
def test_no_place_at_all(place: Place) -> None:
    """Where nothing will do, nothing is stopped, and each place has its reason."""
    for name in ("runtime", "tmp"):
        (place.folder / name).mkdir(exist_ok=True)
        (place.folder / name).chmod(0o500)
    (place.state / "runtime").write_text("")
    try:
        is_refused(place, "preflight: Permission denied", TMPDIR=str(place.folder / "tmp"))
    finally:
        for name in ("runtime", "tmp"):
            (place.folder / name).chmod(0o700)


@linux
@pytest.mark.needs_root("nobody else can mount a file system everywhere")
@pytest.mark.parametrize("room", ["none", "for half a record"])
def test_a_full_file_system(place: Place, room: str) -> None:
    """A real one: with another place it goes ahead, without one it is a line; never a traceback."""
    spare = 1 if room != "none" else 0
    fill = (
        f'mount -t tmpfs -o size=64k,mode=700 tmpfs "$XDG_RUNTIME_DIR" && head -c {(16 - spare) * 4096} /dev/zero >'
        ' "$XDG_RUNTIME_DIR/filler"; exec "$@"'
    )
    command = ["unshare", "-m", "sh", "-c", fill, "sh", sys.executable, "run.py", "--port", str(place.port), *SMALL]
    # Check and start look for a place in the same way: with each room one of them finds another one, and one has none.
    if room == "none":
        check = place.spawn(*command, "--check-only")
        assert check.wait() == 0, check.output
    else:
        started = place.spawn(*command).until_ready()
        assert started.stop() == 0
    holder = place.listener()
    if (place.state / "runtime").exists():
        shutil.rmtree(place.state / "runtime")
    (place.state / "runtime").write_text("")
    refused = place.spawn(
        *command, *([] if room == "none" else ["--check-only"]), environ={"TMPDIR": str(place.folder / "runtime")}
    )
    assert refused.wait() == 1, refused.output
    assert "No space left on device" in refused.output
    assert "Fix: " in refused.output
    assert "Traceback" not in refused.output
    assert holder.process.poll() is None


@linux
def test_files_that_may_not_grow(place: Place) -> None:
    """RLIMIT_FSIZE leaves no room for a record or a report: refused in a line, nothing stopped."""
    holder = place.listener()
    limited = ["sh", "-c", 'ulimit -f 8 && exec "$@"', "sh"]  # blocks of 512 bytes or of 1024
    for options in ((), ("--check-only",)):
        one = place.spawn(*limited, sys.executable, "run.py", "--port", str(place.port), *SMALL, *options)
        assert one.wait() in (1, 3), one.output
        assert "File too large" in one.output
        assert "Fix: " in one.output
        assert "Traceback" not in one.output
        assert holder.process.poll() is None


@linux
def test_a_report_without_room(place: Place) -> None:
    """It is known before the port is freed, and before the instance that serves is replaced."""
    holder = place.listener()
    limited = ["sh", "-c", 'ulimit -f 32 && exec "$@"', "sh"]
    one = place.spawn(*limited, sys.executable, "run.py", "--port", str(place.port), *SMALL)
    assert one.wait() == 3, one.output
    assert f"{place.report_file}: File too large" in one.output
    assert holder.process.poll() is None
