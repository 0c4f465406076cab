"""Processes of a start: who they are, how they crash, and what they leave; and ``pytest preflight``."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import re
import signal
import sys
from collections.abc import Iterator

import psutil

from tests.e2e.place import Place, Started
from tests.waiting import PATIENCE, until

BACK = "The worker is back (PID "
CRASHING = """
import os, sys
lives = os.environ["LIVES"]
with open(lives, "a") as file:
    file.write("x")
life = os.path.getsize(lives)

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        if str(life) in os.environ.get("FAILING", "").split(","):
            await send({"type": "lifespan.startup.failed", "message": f"no start-up in life {life}"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/crash":
        print(f"last words of life {life}", flush=True)
        os._exit(7)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"life {life}".encode()})
"""


def child(started: Started, module: str) -> int | None:
    """The PID of the launcher's suite or worker, None while there is none."""
    try:
        for process in psutil.Process(started.pid).children():
            if module in process.cmdline():
                return process.pid
    except psutil.Error:
        pass
    return None


def worker_of(started: Started) -> int:
    """The PID of its worker."""
    pid = child(started, "preflight.worker")
    assert pid is not None, started.output
    return pid


def worker_below(started: Started) -> psutil.Process:
    """Its worker, however many processes are in between."""
    return next(one for one in map(psutil.Process, started.family()) if "preflight.worker" in one.cmdline())


def workers_of(started: Started) -> list[int]:
    """The PIDs of the workers, oldest first."""
    found = []
    for process in psutil.Process(started.pid).children():
        with contextlib.suppress(psutil.Error):
            if "preflight.worker" in process.cmdline():
                found.append((process.create_time(), process.pid))
    return [pid for _made, pid in sorted(found)]


@contextlib.contextmanager
def only(started: Started, pid: int) -> Iterator[None]:
    """Let this worker alone accept connections, for as long as the block runs."""
    others = [other for other in workers_of(started) if other != pid]
    for other in others:
        os.kill(other, signal.SIGSTOP)
        until(lambda other=other: psutil.Process(other).status() == psutil.STATUS_STOPPED, "it stands")  # type: ignore[misc]
    try:
        yield
    finally:
        for other in others:
            os.kill(other, signal.SIGCONT)


def start_is_over(place: Place) -> bool:
    """Whether nobody holds the start lock of this port."""
    with (place.folder / "runtime" / "preflight" / f"{place.port}.lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def supervised(place: Place, *options: str, backoff: str = "10ms", **environ: str) -> Started:
    """A supervised instance; in a container, as CI is, that is off by itself."""
    return place.start("--demo", "--supervise", *options, PREFLIGHT_RESTART_BACKOFF=backoff, **environ)


def crashing(place: Place, *options: str, failing: str = "", backoff: str = "10ms", **environ: str) -> Started:
    """An instance of an application that crashes."""
    place.write_module("crashing", CRASHING)
    lives = str(place.folder / "lives")
    return supervised(
        place, "--app", "crashing:app", *options, backoff=backoff, LIVES=lives, FAILING=failing, **environ
    )


def kill_worker(started: Started) -> int:
    """kill -9; returns the PID that it had."""
    pid = worker_of(started)
    os.kill(pid, signal.SIGKILL)
    return pid


def crash(place: Place) -> None:
    """Make the worker crash by a request, whether or not it is answered."""
    client = http.client.HTTPConnection("127.0.0.1", place.port, timeout=PATIENCE)
    try:
        client.request("GET", "/crash")
        client.getresponse().read()
    except (OSError, http.client.HTTPException):
        pass
    finally:
        client.close()


def handed_over(old: Started, new: Started) -> None:
    """The new start got the old one's socket, and the old one retired by itself."""
    assert f"is served by our instance (PID {old.pid}, since " in new.output
    assert old.wait() == 0
    assert f"Replaced by another start (PID {new.pid}); stopping." in old.stdout
    assert "SIGTERM" not in new.output


def foreign(project: Place, name: str) -> None:
    file = project.root / "pyproject.toml"
    file.write_text(re.sub(r'(?m)^name = ".*"$', f'name = "{name}"', file.read_text(), count=1))


def pytest_preflight(place: Place, **environ: str) -> Started:
    """``pytest preflight``, to its end."""
    command = (sys.executable, "-m", "pytest", "preflight", "--demo", f"--port={place.port}")
    one = place.spawn(*command, environ={"PREFLIGHT_APP": "small:app", **environ})
    one.wait()
    return one


# Holds a process as a debugger does until it is killed.
TRACER = """
import ctypes, sys, time
libc = ctypes.CDLL(None, use_errno=True)
PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
pid = int(sys.argv[1])
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
if libc.ptrace(PTRACE_SEIZE, pid, None, None) or libc.ptrace(PTRACE_INTERRUPT, pid, None, None):
    print("refused", ctypes.get_errno(), flush=True)
else:
    print("traced", flush=True)
sys.stdin.read()
"""


# Ends when it is asked to; its life goes on in a file, so that it can know how often it was started.
