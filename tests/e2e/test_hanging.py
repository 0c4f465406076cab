"""An application that hangs, at start or later, is shown and ended; what only looks like it is left alone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.e2e import clocks
from tests.e2e.beside import BEARER, PREFIX, TOKEN
from tests.e2e.beside import ask as ask_ours
from tests.e2e.place import READY, Place, Started, get
from tests.e2e.processes import BACK, TRACER, kill_worker, worker_of
from tests.waiting import PATIENCE, deadlines, until

# Hangs where and how it is told to, in each life or as JSON says of them; how often it was started stands in a file.
HANGING = """
import asyncio, json, os, re, sys, threading, time
lives = os.environ["LIVES"]
with open(lives, "a") as file:
    file.write("x")
life = str(os.path.getsize(lives))
hangs = os.environ["HANGS"]
if hangs.startswith("{"):
    hangs = json.loads(hangs).get(life, "")

async def waits_for_ever():
    await asyncio.Event().wait()

def sleeps_for_ever():
    time.sleep(3600)

def turns_for_ever():
    while True:
        pass

def holds_the_lock():
    re.match("(a|b|ab)*c", "ab" * 60)

if hangs == "import":
    sleeps_for_ever()

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        if hangs == "await":
            await waits_for_ever()
        if hangs == "sleep":
            sleeps_for_ever()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] != "/":
        print("hangs from now on", flush=True)
        globals()[scope["path"].strip("/")]()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"life {life}".encode()})
"""
HANGS = "THE SERVER HANGS"


HANGING_APP = ("--demo", "--app", "hanging:app")


def prepared(place: Place, hangs: str = "") -> dict[str, str]:
    """Write the application; returns the environment that it needs."""
    place.write_module("hanging", HANGING)
    quick = {"PREFLIGHT_RESTART_BACKOFF": "10ms", "PREFLIGHT_GRACEFUL_TIMEOUT": "100ms"}
    return {**quick, "LIVES": str(place.folder / "lives"), "HANGS": hangs}


def hanging(place: Place, hangs: str = "", *options: str, **environ: str) -> Started:
    """An instance of an application that hangs."""
    supervise = ("--supervise",) if "--no-supervise" not in options else ()
    return place.start(*HANGING_APP, *supervise, *options, **{**prepared(place, hangs), **environ})


def ask(place: Place, path: str) -> None:
    """Ask for something that is never answered."""
    with contextlib.suppress(OSError):
        get(f"{place.url}/{path}")


def begin(place: Place, path: str) -> None:
    threading.Thread(target=ask, args=(place, path), daemon=True).start()


# Start-up.


@pytest.mark.parametrize("hangs, where", [("await", "in waits_for_ever"), ("sleep", "in sleeps_for_ever")])
def test_start_up_that_does_not_end(place: Place, hangs: str, where: str) -> None:
    """A start-up past its deadline is shown with the place where it hangs, and given up after the second time."""
    lives = place.folder / "lives"
    for seconds in deadlines(1, 5, 20):
        started = hanging(place, hangs, PREFLIGHT_STARTUP_TIMEOUT=f"{seconds}s")
        assert started.wait() == 4
        if lives.exists() and lives.read_text() == "xx":
            break  # both workers had begun to start up
        lives.unlink(missing_ok=True)
    assert started.stdout.count("THE APPLICATION DOES NOT START") == 2
    assert f"The start-up (its lifespan) of hanging:app has not ended within {seconds} s." in started.stdout
    banner = started.stdout.partition("Where it hangs:")[2].partition("another one starts")[0]
    assert where in banner
    assert "hanging.py" in banner
    assert "THE SERVER DOES NOT START: the launcher has given up" in started.stdout
    assert f"The worker ended: not started within {seconds} s. It was started 2 times." in started.stdout
    assert READY not in started.output
    started.left_nothing()


def test_slow_start_up_is_said(place: Place) -> None:
    """After five seconds it is said what is waited for, and for how long it will be; --port-status says it as well."""
    started = hanging(place, "await")
    started.until_says("Waiting for hanging:app: its start-up (its lifespan) has not ended; its deadline is 600 s")
    assert "Connections wait" not in started.stdout, started.output
    asked = place.run("--port-status")
    said = asked.output + started.output
    assert "starting, waiting for the start-up of hanging:app" in asked.stdout, said
    started.stop()
    assert READY not in started.output
    started.left_nothing()


def test_slow_restart_is_said(place: Place) -> None:
    """After a crash as well, and that connections wait meanwhile."""
    started = hanging(place, '{"2": "import"}', PREFLIGHT_STARTUP_TIMEOUT="0").until_ready()
    kill_worker(started)
    started.until_says("Waiting for hanging:app: its import has not ended; it has no deadline")
    assert started.stdout.rstrip().endswith("Connections wait.")
    started.stop()
    started.left_nothing()


def test_restart_that_does_not_end(place: Place) -> None:
    """Another worker that does not start is ended at the deadline, and who waits is answered by the next one."""
    hangs = json.dumps({"2": "import", "4": "await"})
    started = hanging(place, hangs, PREFLIGHT_STARTUP_TIMEOUT="2s").until_ready()

    def heard(words: str, count: int) -> None:
        until(lambda: started.stdout.count(words) == count, f"{words} was said {count} times")

    for count, what in ((1, "import"), (2, "start-up (its lifespan)")):
        kill_worker(started)
        heard("another one starts ", 2 * count - 1)
        assert get(place.url) == (200, f"life {2 * count + 1}")
        assert f"The {what} of hanging:app has not ended within 2 s." in started.stdout
        heard(BACK, count)
    fix = "Fix: make the application start faster, or set PREFLIGHT_STARTUP_TIMEOUT to a longer time."
    assert fix in started.stdout
    assert started.stop() == 0


def test_import_that_does_not_end(place: Place) -> None:
    """A first import has the requirement's deadline; what has not ended is said, where, and how to allow more."""
    started = hanging(place, "import", PREFLIGHT_REQUIREMENT_TIMEOUT="1s")
    assert started.wait() == 1
    message = "the import of hanging:app has not ended: it ran past its deadline of 1 s"
    assert place.check("Application")["message"] == message
    assert place.check("Application")["fix"] == (
        "make the import do less, or allow more time for it: PREFLIGHT_REQUIREMENT_TIMEOUT (now 1 s)"
        " and PREFLIGHT_RUN_TIMEOUT (now 30 s)"
    )
    assert "   Fix: make the import do less" in started.stdout
    banner = started.stdout.partition("hanging:app CANNOT BE IMPORTED")[2]
    assert "in sleeps_for_ever" in banner.partition("Where it hangs:")[2]
    assert READY not in started.output
    started.left_nothing()


def test_import_beyond_the_whole_run(place: Place) -> None:
    """Where the whole run is over before, it is said as well."""
    for seconds in deadlines(3, 10, 30):
        started = hanging(place, "import", "--check-only", PREFLIGHT_RUN_TIMEOUT=f"{seconds}s")
        assert started.wait() in (1, 3)
        started.left_nothing()
        banner = started.stdout.partition("hanging:app CANNOT BE IMPORTED")[2]
        if "in sleeps_for_ever" in banner.partition("Where it hangs:")[2]:
            break


# Later.


def test_hanging_worker_is_replaced(place: Place) -> None:
    """A worker whose event loop stands still is shown with its stacks and ended; another one goes on.

    One that was stopped by a signal is ended as well; /diagnostics counts them, and says why.
    """
    started = hanging(place, PREFLIGHT_HEARTBEAT="1s", PREFLIGHT_TOKEN=TOKEN).until_ready()
    for count, hangs in enumerate(("turns_for_ever", "sleeps_for_ever", "holds_the_lock", "SIGSTOP"), 1):
        before, said = worker_of(started), len(started.stdout)
        if hangs == "SIGSTOP":
            os.kill(before, signal.SIGSTOP)
        else:
            begin(place, hangs)
        until(lambda count=count: started.stdout.count(BACK) == count, f"another worker serves after {hangs}")  # type: ignore[misc]
        assert get(place.url) == (200, f"life {count + 1}")
        assert worker_of(started) != before
        banner = started.stdout[said:].partition(HANGS)[2]
        why = f"The application's event loop has sent no heartbeat for 1 s. The worker (PID {before}) is being killed."
        assert why in banner
        stacks = banner.partition("Where it hangs:")[2].partition("The worker ended (")[0]
        assert "The worker ended (hung: no heartbeat for 1 s); another one starts " in banner
        assert "Connections wait." in banner
        if hangs == "SIGSTOP":
            assert "A signal such as SIGSTOP had stopped it" in banner
            assert "Current thread" in banner
        else:
            assert f"in {hangs}" in stacks
            assert f"in {hangs}" not in started.stderr, "the stacks are shown once"
        restarts = ask_ours(started, f"{PREFIX}/diagnostics", headers=BEARER).json()["server"]["restarts"]
        assert (restarts["count"], restarts["last_exit"]) == (count, "hung: no heartbeat for 1 s")
    assert "another one starts at once" in started.stdout
    assert started.stop() == 0
    started.left_nothing()


def test_hanging_worker_without_supervision(place: Place) -> None:
    """Where nobody shall restart it, or somebody else does, a hanging worker is the end: exit code 4."""
    started = hanging(place, "", "--no-supervise", PREFLIGHT_HEARTBEAT="1s").until_ready()
    begin(place, "turns_for_ever")
    assert started.wait() == 4
    assert HANGS in started.stdout
    assert "The worker ended: hung: no heartbeat for 1 s. It is not started again" in started.stdout
    started.left_nothing()


def test_no_heartbeat(place: Place) -> None:
    """With a heartbeat of 0 nobody asks."""
    started = hanging(place, PREFLIGHT_HEARTBEAT="0").until_ready()
    worker = worker_of(started)
    os.kill(worker, signal.SIGSTOP)
    time.sleep(2.5)
    os.kill(worker, signal.SIGCONT)
    assert get(place.url) == (200, "life 1")
    assert HANGS not in started.output
    assert started.stop() == 0


# What only looks like it.


def test_suspended_launcher(place: Place) -> None:
    """After the launcher was suspended, alone or with its worker as a laptop does, the worker gets a new period."""
    environ = prepared(place)
    started = clocks.start(place, *HANGING_APP, "--supervise", **environ).until_ready()
    worker = worker_of(started)
    for processes in ([started.pid, worker], [started.pid]):
        clocks.pause(place, processes, 300)
        for pid in processes:
            os.kill(pid, signal.SIGCONT)
        assert str(started.pid) in place.run("--port-status").stdout  # it has looked about it: it answers
        assert HANGS not in started.output
        assert worker_of(started) == worker
        assert get(place.url) == (200, "life 1")
    assert started.stop() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="ptrace as Linux has it")
def test_traced_worker(place: Place) -> None:
    """While a debugger traces the worker it is left alone, and found well when the debugger lets go."""
    started = hanging(place, PREFLIGHT_HEARTBEAT="1s").until_ready()
    worker = worker_of(started)
    command = [sys.executable, "-c", TRACER, str(worker)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as tracer:
        try:
            assert tracer.stdout is not None
            said = tracer.stdout.readline()
            if said.startswith("refused"):
                pytest.skip("this system lets nobody trace a process that is not its child")
            started.until_says(f"A debugger holds the worker (PID {worker}): it is left alone.")
        finally:
            tracer.kill()
    assert HANGS not in started.output
    assert get(place.url) == (200, "life 1")
    assert worker_of(started) == worker
    assert started.stop() == 0


def test_python_debugger(place: Place) -> None:
    """A worker that stands at a breakpoint of a Python debugger is left alone."""
    pipe = place.folder / "typed"
    os.mkfifo(pipe)
    place.write_module(
        "guarded",
        "import os, pdb, sys\n"
        "from small import app as small\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'http' and scope['path'] == '/break':\n"
        "        pdb.Pdb(stdin=open(os.environ['TYPED']), stdout=sys.stderr, nosigint=True).set_trace()\n"
        "    await small(scope, receive, send)\n",
    )
    started = place.start("--demo", "--app", "guarded:app", "--supervise", PREFLIGHT_HEARTBEAT="1s", TYPED=str(pipe))
    started.until_ready()
    answers: list[tuple[int, str]] = []
    asking = threading.Thread(target=lambda: answers.append(get(f"{place.url}/break")))
    asking.start()
    with pipe.open("w") as typed:
        started.until_says("A debugger holds the worker")
        typed.write("continue\n")
    asking.join(PATIENCE)
    assert answers == [(200, "small")]
    assert HANGS not in started.output
    assert started.stop() == 0
