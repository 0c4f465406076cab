"""Where no process can be started any more: a start says so, and a server waits for better times."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys

import pytest

from tests.e2e.place import BROKE, ROOT, Place, Started, get
from tests.e2e.processes import worker_of
from tests.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of other processes are set under Linux")

BACK = "The worker is back (PID "
NONE = "no process can be started: Too many open files (the launcher has reached its limit on open files: ulimit -n)"
HELD = 3  # descriptors that a process has at least: it keeps those that it has beyond a new limit, and gets no more


def limit(started: Started, files: int) -> int:
    """Let the launcher open so many files, and return how many it might open before."""
    before, most = resource.prlimit(started.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(started.pid, resource.RLIMIT_NOFILE, (files, most))
    return before


def test_a_worker_is_started_when_there_is_room_again(quick: Place) -> None:
    """A crash at a bad moment does not end the server: it says what is short, and connections wait meanwhile.

    Who waits for room still hears that it is to end.
    """
    started = quick.start("--demo", "--supervise", "--app", "small:app").until_ready()
    before = limit(started, HELD)
    os.kill(worker_of(started), signal.SIGKILL)
    started.until_says(NONE)
    assert started.process.poll() is None
    limit(started, before)
    started.until_says(BACK)
    assert get(quick.url) == (200, "small")
    assert started.stdout.count(NONE) == 1, "it is said once, however often it is tried"
    limit(started, HELD)
    os.kill(worker_of(started), signal.SIGKILL)
    until(lambda: started.stdout.count(NONE) == 2, "it waits for room again")
    assert started.stop() == 0
    assert "Traceback" not in started.output
    started.left_nothing()


def test_it_is_given_up_in_the_end(quick: Place) -> None:
    """After restart_window the server is given up, and its last words say what was short."""
    started = quick.start("--demo", "--supervise", "--app", "small:app", PREFLIGHT_RESTART_WINDOW="1s").until_ready()
    limit(started, HELD)
    os.kill(worker_of(started), signal.SIGKILL)
    assert started.wait() == 4
    assert f"SIGKILL, possibly because memory ran out, and {NONE}" in " ".join(started.output.split())
    assert "Traceback" not in started.output
    started.left_nothing()


def test_a_check_without_room(place: Place) -> None:
    """A run that cannot have its processes is broken, and says so in a line, in its report as well."""
    place.before = ["sh", "-c", 'ulimit -n 10 && exec "$@"', "sh"]  # enough for Python, not for its children
    checked = place.refused("--demo", "--app", "small:app", "--check-only")
    assert checked.process.returncode == 3
    assert BROKE in checked.stdout
    assert NONE in " ".join(checked.output.split())
    assert place.report()["status"] == "broken"


@pytest.mark.parametrize("files", [16, 20, 22, 31])
def test_a_check_passes_where_a_start_does(files: int, place: Place) -> None:
    """With fewer files than a start may need, both are refused, and say how many are needed."""
    place.before = ["sh", "-c", f'ulimit -n {files} && exec "$@"', "sh"]
    checked = place.refused("--demo", "--app", "small:app", "--check-only")
    assert checked.process.returncode in (1, 3)
    assert place.report()["may_start"] is False
    if checked.process.returncode == 1:
        assert f"{files} open files are allowed, but a start needs 32" in " ".join(checked.output.split())
    place.refused("--demo", "--app", "small:app")


def test_the_least_that_a_start_needs(place: Place) -> None:
    """With as many files as File Descriptors wants, a start serves, runs again, replaces and ends."""
    place.before = ["sh", "-c", 'ulimit -n 32 && exec "$@"', "sh"]
    options = ("--demo", "--supervise", "--app", "small:app")
    assert place.run(*options, "--check-only").process.returncode == 0
    first = place.start(*options).until_ready()
    os.kill(worker_of(first), signal.SIGKILL)
    first.until_says(BACK)
    second = place.start(*options).until_ready()
    assert first.wait() == 0
    assert get(place.url) == (200, "small")
    assert second.stop() == 0
    second.left_nothing()


# Without room for another thread: its stack would be larger than what memory the process may still have.
NO_THREAD = """
import resource, threading
from pathlib import Path
from preflight.output import streams

streams.install()
threading.stack_size(256 * 1024 * 1024)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 64 * 1024 * 1024,) * 2)
try:
    threading.Thread(target=int).start()
except RuntimeError:
    print("no thread", flush=True)
    print("another line", flush=True)
streams.finish()
"""

# The same for events, until there is room again.
NO_THREAD_FOR_EVENTS = """
import resource, threading
from pathlib import Path
from preflight.output.audit import Event, EventOutbox

outbox = EventOutbox(lambda event: print(event.kind, flush=True))
threading.stack_size(256 * 1024 * 1024)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
before, most = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + 64 * 1024 * 1024, most))
outbox.put(Event.now("first"))
resource.setrlimit(resource.RLIMIT_AS, (before, most))
outbox.put(Event.now("second"))
outbox.flush(20)
"""


def test_events_without_a_thread() -> None:
    """Where no thread can be started to send it, an event fails no request, and goes out with the next one."""
    command = [sys.executable, "-c", NO_THREAD_FOR_EVENTS]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (said.stdout, said.stderr, said.returncode) == ("first\nsecond\n", "", 0)


def test_what_is_said_without_a_thread() -> None:
    """Where no thread can be started to write for it, the command writes all the same."""
    said = subprocess.run([sys.executable, "-c", NO_THREAD], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (said.stdout, said.stderr, said.returncode) == ("no thread\nanother line\n", "", 0)
