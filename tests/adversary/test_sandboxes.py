"""What a sandbox, a file system or a umask keeps from a start: it serves without it, or is refused in a line."""

from __future__ import annotations

import platform
import sys

import pytest

from tests.e2e.place import BLOCKED, Place, get

pytestmark = pytest.mark.usefixtures("unmeasured")

DEMO = ("--demo", "--app", "small:app")

# Makes system calls fail with an error number, as seccomp does in a container, and runs a command.
FILTER = """
import ctypes, os, struct, sys
number, calls = int(sys.argv[1]), [int(one) for one in sys.argv[2].split(",")]
def step(code, yes, no, value):
    return struct.pack("HBBI", code, yes, no, value)
steps = step(0x20, 0, 0, 0)
for index, call in enumerate(calls):
    steps += step(0x15, len(calls) - index, 0, call)
steps += step(0x06, 0, 0, 0x7FFF0000) + step(0x06, 0, 0, 0x00050000 | number)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
kept = ctypes.create_string_buffer(steps, len(steps))
program = Program(len(steps) // 8, ctypes.cast(kept, ctypes.c_void_p))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(program), 0, 0):
    sys.exit(77)
os.execvp(sys.argv[3], sys.argv[3:])
"""
FLOCK, ENOLCK, ENOSYS, EPERM = "73", "37", "38", "1"
NEWER = "434,424,435,436,439,332,318,319"  # pidfd_open and others, clone3, close_range, statx, getrandom, memfd_create
OTHERS = "157,310,140,141,203,204,251,252"  # prctl, process_vm_readv, priorities, processors


def sandboxed(place: Place, number: str, calls: str) -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("the numbers are those of Linux on x86-64")
    place.before = [sys.executable, "-c", FILTER, number, calls]
    if place.spawn(*place.before, "true").wait() == 77:
        pytest.skip("no filter can be set here")


def test_a_file_system_without_locks(place: Place) -> None:
    """A share on which flock fails: check and start name the folders and the reason, and nobody is stopped."""
    sandboxed(place, ENOLCK, FLOCK)
    holder = place.listener()
    checked = place.run(*DEMO, "--check-only")
    assert checked.process.returncode == 1, checked.output
    assert BLOCKED in checked.output
    for one in (checked, place.run(*DEMO)):
        assert one.process.returncode == 1, one.output
        assert "No locks available" in one.output
        assert "Traceback" not in one.output
    assert holder.process.poll() is None


@pytest.mark.parametrize("number, calls", [(ENOSYS, NEWER), (EPERM, OTHERS)], ids=["newer calls", "other calls"])
def test_calls_that_are_not_there(place: Place, number: str, calls: str) -> None:
    """An old kernel, or a strict profile: a start serves, and another one takes over from it."""
    sandboxed(place, number, calls)
    first = place.start(*DEMO).until_ready()
    second = place.start(*DEMO).until_ready()
    assert first.wait() == 0
    assert get(place.url) == (200, "small")
    assert second.stop() == 0


@pytest.mark.parametrize("where", ["small.py/state", "circle", "x" * 300])
def test_a_state_folder_that_cannot_be_made(place: Place, where: str) -> None:
    """Below a file, as a link to itself, by a name that is too long: one line says why, in a check as in a start."""
    (place.folder / "small.py").touch()
    (place.folder / "circle").symlink_to(place.folder / "circle")
    holder = place.listener()
    place.environ["PREFLIGHT_STATE_DIR"] = str(place.folder / where)
    for more in (["--check-only"], []):
        one = place.run(*DEMO, *more)
        assert one.process.returncode == 1, one.output
        assert "State Folder" in one.output
        assert "cannot be made" in one.output
        assert "Traceback" not in one.output
    assert holder.process.poll() is None


def test_a_umask_that_leaves_folders_shut(place: Place) -> None:
    """0177, meant for files: the folders that a start makes can be entered all the same."""
    place.before = ["sh", "-c", 'umask 0177 && exec "$@"', "sh"]
    place.environ["PREFLIGHT_STATE_DIR"] = str(place.folder / "new" / "state")
    (place.folder / "new").mkdir()
    server = place.start(*DEMO).until_ready()
    assert server.stop() == 0
    assert (place.state / "history").stat().st_mode & 0o777 == 0o700
