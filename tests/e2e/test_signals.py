"""Signals that ask to stop: at any moment, as PID 1, blocked by the parent, and sent to everybody at once."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.e2e import namespaces
from tests.e2e.place import READY, Place, Started, get, listening
from tests.waiting import PATIENCE, until

# Which of them it was changes an exit code and a name, and nothing else, once the command has been imported: then every
# moment has one of them, and each of them several moments.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
stopping = pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)

# A suite that waits for an answer which never comes.
HANGING = """
import time
import pytest

@pytest.mark.critical("Service", fix="start the service")
def test_service(settings):
    \"\"\"The service answers.\"\"\"
    (settings.root / "asked").touch()
    while not (settings.root / "answer").exists():
        time.sleep(0.05)
    answer = (settings.root / "answer").read_text()
    assert answer == "yes", "it does not answer"
"""

# In place of the standard library's: something that the command imports, and that takes its time.
SLOW_IMPORT = "import time\nprint('importing', flush=True)\ntime.sleep(3600)\n"

# Answers /slow when the file "gate" appears. Its start-up waits for the file "up" if it is told to.
APPLICATION = """
import asyncio, os, signal, subprocess, sys
from pathlib import Path
folder = Path(os.environ["FOLDER"])

if "TAKES_SIGTERM" in os.environ:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(9))

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        print("starting up", flush=True)
        while "WAITS" in os.environ and not (folder / "up").exists():
            await asyncio.sleep(0.01)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("shutting down", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    answer = b"quick"
    if scope["path"] == "/slow":
        (folder / "begun").touch()
        while not (folder / "gate").exists():
            await asyncio.sleep(0.01)
        answer = b"slow"
    if scope["path"] == "/mask":
        command = "grep -E 'SigBlk|SigIgn' /proc/self/status"
        answer = subprocess.run(["sh", "-c", command], capture_output=True).stdout
    if scope["path"] == "/fork":
        if not (forked := os.fork()):
            signal.pause()
            os._exit(1)
        os.kill(forked, signal.SIGTERM)
        answer = str(os.waitpid(forked, 0)[1]).encode()
    if scope["path"] == "/orphans":
        for _ in range(20):
            subprocess.run(["sh", "-c", "(sleep 0.01 &) ; (true &)"])
    if scope["path"] == "/crash":
        subprocess.Popen(["sh", "-c", "(exec sleep 0.01 &)"])
        os._exit(7)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": answer})
"""


def served(place: Place, *options: str, **environ: str) -> Started:
    """A start of that application."""
    place.write_module("signalled", APPLICATION)
    return place.start("--demo", "--app", "signalled:app", *options, FOLDER=str(place.folder), **environ)


@pytest.fixture
def hanging(project: Place) -> Place:
    """A project whose checks do not end."""
    project.write_suite(HANGING)
    project.environ |= {"PREFLIGHT_DEMO": "1", "PREFLIGHT_APP": "small:app"}
    project.environ |= {"PREFLIGHT_REQUIREMENT_TIMEOUT": "600", "PREFLIGHT_RUN_TIMEOUT": "3600"}
    return project


def asked(place: Place) -> None:
    """Wait until its suite waits."""
    until((place.root / "asked").exists, "the service is asked")


def child(parent: int, module: str) -> int:
    """The PID of a launcher's child."""

    def found() -> list[int]:
        return [one.pid for one in psutil.Process(parent).children() if module in _command(one)]

    until(lambda: bool(found()), f"there is a {module}")
    return found()[0]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def asking(url: str) -> Callable[[], tuple[int, str] | str]:
    """Ask in a thread; call what this returns to get the answer, or the error's name."""
    answers: list[tuple[int, str] | str] = []

    def ask() -> None:
        try:
            answers.append(get(url))
        except OSError as error:
            answers.append(type(error).__name__)

    thread = threading.Thread(target=ask)
    thread.start()

    def answer() -> tuple[int, str] | str:
        thread.join(PATIENCE)
        return answers[0]

    return answer


# Before it serves.


@stopping
@pytest.mark.parametrize("command", [["run.py"], ["-m", "server"]], ids=["run.py", "server"])
def test_while_the_command_is_imported(place: Place, command: list[str], number: signal.Signals) -> None:
    """A signal in the first moments ends the command with its exit code, not by the signal, and quietly."""
    place.write_module("argparse", SLOW_IMPORT)
    started = place.spawn(sys.executable, *command, "--demo", "--port", str(place.port)).until_says("importing")
    assert started.stop(number) == 128 + number
    assert started.stderr == ""
    started.left_nothing()


@stopping
def test_while_the_command_is_imported_as_pid_1(place: Place, number: signal.Signals) -> None:
    """As PID 1, too, from which the kernel keeps signals that nobody handles."""
    place.write_module("argparse", SLOW_IMPORT)
    started = namespaces.contained(place, *namespaces.start(place)).until_says("importing")
    os.kill(namespaces.launcher(started), number)
    assert started.wait() == 128 + number


@pytest.mark.parametrize("first", [False, True], ids=["as usual", "as PID 1"])
def test_while_it_waits_for_another_start(hanging: Place, first: bool) -> None:
    """A start that waits for another one's end is ended at once; the other one is none the wiser."""
    if first:
        namespaces.needed()
    one = hanging.start()
    asked(hanging)
    for number in SIGNALS:
        two = namespaces.contained(hanging, *namespaces.start(hanging)) if first else hanging.start()
        two.until_says("waiting for it")
        os.kill(namespaces.launcher(two) if first else two.pid, number)
        assert two.wait(PATIENCE) == 128 + number
        assert "Traceback" not in two.output
        assert one.process.poll() is None
    assert one.stop() == 143


def test_while_the_application_starts_up(quick: Place) -> None:
    """The checks have passed and nothing was served: that is no success, and nothing to wait for."""
    started = served(quick, WAITS="1", PREFLIGHT_GRACEFUL_TIMEOUT="10m").until_says("starting up")
    assert started.stop(signal.SIGHUP) == 128 + signal.SIGHUP
    assert "Stopped by SIGHUP before the server served." in started.stdout
    assert READY not in started.stdout
    started.left_nothing()


@pytest.mark.parametrize("moment", ["imported", "serving"])
def test_blocked_by_the_parent(quick: Place, moment: str) -> None:
    """Started with these signals blocked it can be stopped all the same, and so can what the application starts."""
    program = (
        "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, "
        "{signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD}); os.execv(sys.executable, sys.argv[1:])"
    )
    if moment == "imported":
        quick.write_module("argparse", SLOW_IMPORT)
    quick.write_module("signalled", APPLICATION)
    command = namespaces.start(quick, "--app", "signalled:app")
    started = quick.spawn(sys.executable, "-c", program, *command, environ={"FOLDER": str(quick.folder)})
    if moment == "imported":
        assert started.until_says("importing").stop() == 143
        return
    started.until_ready()
    mask = get(f"{quick.url}/mask")[1]
    assert [int(line.split()[1], 16) for line in mask.splitlines() if line.startswith("SigBlk")] == [0]
    assert started.stop() == 0


def test_sigterm_ignored_by_the_parent(place: Place) -> None:
    """Who cannot be asked to stop has to be killed: SIGTERM is heeded though the parent ignores it."""
    place.write_module("argparse", SLOW_IMPORT)
    command = ["sh", "-c", 'trap "" TERM; exec "$@"', "sh", *namespaces.start(place)]
    assert place.spawn(*command).until_says("importing").stop() == 143


# While and after it serves.


def test_signals_without_end(quick: Place) -> None:
    """What has served ends with 0, however many signals come while it does."""
    started = served(quick).until_ready()
    until_over = time.monotonic() + PATIENCE
    while started.process.poll() is None and time.monotonic() < until_over:
        started.send(signal.SIGTERM)
        time.sleep(0.0005)
    assert started.wait() == 0
    assert "Traceback" not in started.output
    started.left_nothing()


@pytest.mark.parametrize(
    "order, number",
    [("launcher first", signal.SIGHUP), ("worker first", signal.SIGINT), ("worker first", signal.SIGTERM)],
)
def test_launcher_and_worker_together(quick: Place, order: str, number: signal.Signals) -> None:
    """A service manager's signal to the whole control group: what is in flight is finished, and the end is 0."""
    started = served(quick, PREFLIGHT_GRACEFUL_TIMEOUT="20").until_ready()
    worker = child(started.pid, "preflight.worker")
    answer = asking(f"{quick.url}/slow")
    until((quick.folder / "begun").exists, "the request is in flight")
    for pid in (started.pid, worker) if order == "launcher first" else (worker, started.pid):
        os.kill(pid, number)
    started.until_says("Stopping (")
    (quick.folder / "gate").touch()
    assert answer() == (200, "slow")
    assert started.wait() == 0
    assert "shutting down" in started.stderr
    assert "not finished" not in started.stdout
    started.left_nothing()


@pytest.mark.parametrize("order", ["launcher first", "worker first"])
def test_what_is_lost_is_said(quick: Place, order: str) -> None:
    """What is not finished in time after such a signal is counted and said."""
    started = served(quick, PREFLIGHT_GRACEFUL_TIMEOUT="0.3").until_ready()
    worker = child(started.pid, "preflight.worker")
    answer = asking(f"{quick.url}/slow")
    until((quick.folder / "begun").exists, "the request is in flight")
    for pid in (started.pid, worker) if order == "launcher first" else (worker, started.pid):
        os.kill(pid, signal.SIGTERM)
    assert started.wait() == 0
    assert answer() != (200, "slow")
    assert "1 request or turn was not finished in time." in started.stdout


def test_worker_alone(quick: Place) -> None:
    """The worker leaves the signals to its launcher, which got none: the same worker goes on serving.

    What its application starts ignores none of these signals for that, and what it forks, which inherits how the worker
    handles them, still ends by them, alone.
    """
    started = served(quick).until_ready()
    worker = child(started.pid, "preflight.worker")
    for number in SIGNALS:
        os.kill(worker, number)
        for _ in range(5):  # it is heard between two of them
            assert get(quick.url) == (200, "quick"), number.name
        assert child(started.pid, "preflight.worker") == worker, number.name
    ignored = next(line for line in get(f"{quick.url}/mask")[1].splitlines() if line.startswith("SigIgn"))
    for number in SIGNALS:
        assert not int(ignored.split()[1], 16) & 1 << (number - 1), f"{number.name} is ignored"
    assert get(f"{quick.url}/fork") == (200, str(int(signal.SIGTERM)))
    assert get(quick.url) == (200, "quick")
    assert started.stop() == 0
    assert "The worker ended" not in started.stdout


def test_an_application_that_takes_the_signal(quick: Place) -> None:
    """One that has set a handler of its own while it was imported ends in order as well."""
    started = served(quick, TAKES_SIGTERM="1", PREFLIGHT_GRACEFUL_TIMEOUT="20").until_ready()
    answer = asking(f"{quick.url}/slow")
    until((quick.folder / "begun").exists, "the request is in flight")
    os.kill(child(started.pid, "preflight.worker"), signal.SIGTERM)
    started.send(signal.SIGTERM)
    started.until_says("Stopping (")
    (quick.folder / "gate").touch()
    assert answer() == (200, "slow")
    assert started.wait() == 0


def test_worker_without_a_launcher(quick: Place) -> None:
    """When its launcher was killed the worker drains; SIGTERM hurries that, and once more ends it at once."""
    started = served(quick, PREFLIGHT_GRACEFUL_TIMEOUT="300", PREFLIGHT_DRAIN_DELAY="60").until_ready()
    worker = psutil.Process(child(started.pid, "preflight.worker"))
    answer = asking(f"{quick.url}/slow")
    until((quick.folder / "begun").exists, "the request is in flight")
    started.send(signal.SIGKILL)
    started.wait()
    worker.send_signal(signal.SIGTERM)
    until(lambda: not listening(quick.port), "it accepts nothing more")
    assert worker.is_running()
    worker.send_signal(signal.SIGTERM)
    worker.wait(PATIENCE)
    assert isinstance(answer(), str)
    started.left_nothing()


def test_launcher_and_suite_together(hanging: Place) -> None:
    """A suite that ends before its launcher hears of it is no broken suite: the command was asked to stop."""
    started = hanging.start()
    asked(hanging)
    suite = psutil.Process(child(started.pid, "preflight.suite"))
    os.kill(suite.pid, signal.SIGTERM)
    until(lambda: not suite.is_running() or suite.status() == psutil.STATUS_ZOMBIE, "it has ended")
    started.send(signal.SIGINT)
    assert started.wait() == 130
    assert "Stopped by SIGINT; nothing was started." in started.stdout


def test_suite_alone(hanging: Place) -> None:
    """A suite that somebody ends found nothing out: there is no report to trust."""
    started = hanging.start()
    asked(hanging)
    os.kill(child(started.pid, "preflight.suite"), signal.SIGTERM)
    assert started.wait() == 3
    assert "the suite ended without a report (SIGTERM)" in started.stdout


# As PID 1.


def test_orphans_are_reaped(quick: Place) -> None:
    """As PID 1 the launcher adopts what the application's processes leave behind, and lets go of it.

    Orphans or not, it still finds out how its own children end.
    """
    quick.write_module("signalled", APPLICATION)
    command = namespaces.start(quick, "--app", "signalled:app", "--supervise")
    environ = {"FOLDER": str(quick.folder), "PREFLIGHT_RESTART_BACKOFF": "0"}
    started = namespaces.contained(quick, *command, **environ).until_ready()
    first = psutil.Process(namespaces.launcher(started))
    for count in (1, 2):
        assert get(f"{quick.url}/orphans") == (200, "quick")
        until(lambda: len(first.children()) == 1, "nobody but the worker is its child")
        assert get(f"{quick.url}/orphans") == (200, "quick")  # and of these some are still there
        with contextlib.suppress(OSError):
            get(f"{quick.url}/crash")
        until(lambda: started.stdout.count("The worker is back") == count, "it is back")  # noqa: B023
    assert started.stdout.count("The worker ended (exit code 7)") == 2
    first.send_signal(signal.SIGTERM)
    assert started.wait() == 0


# Other commands.


@pytest.mark.parametrize(
    "options, number",
    [
        ([], signal.SIGTERM),
        (["--check-only"], signal.SIGINT),
        (["--watch"], signal.SIGTERM),
        (["--wait", "60"], signal.SIGHUP),
        (["--wait", "60", "--check-only"], signal.SIGINT),
    ],
    ids=["start", "--check-only", "--watch", "--wait", "--wait --check-only"],
)
def test_commands(hanging: Place, options: list[str], number: signal.Signals) -> None:
    """Commands that find out something are ended in the middle of it, and claim nothing."""
    started = hanging.start(*options)
    asked(hanging)
    assert started.stop(number) == 128 + number
    assert "Traceback" not in started.output
    started.left_nothing()


def test_while_the_port_is_freed(place: Place) -> None:
    """``--free-port`` waits for whoever ignores SIGTERM: that wait can be ended."""
    holder = place.listener("stubborn")
    for number in SIGNALS:
        started = place.start("--free-port", PREFLIGHT_PORT_GRACE="60").until_says("SIGTERM: ")
        assert started.stop(number) == 128 + number
        assert "Traceback" not in started.output
        assert holder.process.poll() is None


def test_an_exception_that_is_dropped(tmp_path: Path) -> None:
    """A signal that comes in a destructor, where Python drops what is raised, is heeded once the loop runs."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, signal\nfrom preflight.processes import signals\nsignals.end_the_command()\n"
        "class Late:\n    def __del__(self): os.kill(os.getpid(), signal.SIGTERM); [None for _ in range(99)]\n"
        "Late()\nfrom preflight.processes.loop import Loop\nloop = Loop()\n"
        "with loop.running(): print(loop.stops)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, program], env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True)
    assert done.stdout.decode().strip() == "[15]", done.stderr.decode()
