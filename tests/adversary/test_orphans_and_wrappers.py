"""Instances and processes: orphans, two wishes at once, wrappers, a command that is put aside."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import requests

from tests import certificates
from tests.adversary.applications import Marked
from tests.e2e.beside import BEARER, ECHO, PREFIX, TOKEN
from tests.e2e.doubles import STARTS_ANOTHER
from tests.e2e.place import KEYS, READY, Place, Started, get
from tests.e2e.processes import foreign, handed_over, kill_worker, only, pytest_preflight, worker_of, workers_of
from tests.portnumbers import unused_port
from tests.servicemanagers import Hearing
from tests.waiting import PATIENCE, until

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits, namespaces and /proc are Linux's")
pytestmark = pytest.mark.usefixtures("unmeasured")

SMALL = ("--demo", "--app", "small:app")

# Makes a file in MARKS when it is asked for a path that begins with "slow", and answers once there is a file "go".
APP = """
import asyncio, os, time
marks = os.environ["MARKS"]

def mark(name):
    open(os.path.join(marks, name), "w").close()

def marked(name):
    return os.path.exists(os.path.join(marks, name))

IMPORT

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        LIFESPAN
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    path = scope["path"][1:]
    if path.startswith("slow"):
        mark(path)
        while not marked("go"):
            await asyncio.sleep(0.01)
    elif path == "blocks":
        mark(path)
        time.sleep(3600)
    answer = (os.environ.get("RELEASE", "") + path).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]})
    await send({"type": "http.response.body", "body": answer})
"""


class Gated(Marked):
    """A place that serves this application."""

    def __init__(self, place: Place) -> None:
        super().__init__(place, "gated", "")
        self.write()
        place.environ["PREFLIGHT_RESTART_BACKOFF"] = "0"

    def write(self, *, imports: str = "", lifespan: str = "pass") -> None:
        self.place.write_module("gated", APP.replace("IMPORT", imports).replace("LIFESPAN", lifespan))

    def ask(self, path: str) -> Asked:
        return Asked(f"{self.place.url}/{path}")


class Asked:
    """A request in the background, and what came of it."""

    def __init__(self, url: str) -> None:
        self.came: object = None
        self._thread = threading.Thread(target=self._ask, args=(url,), daemon=True)
        self._thread.start()

    def _ask(self, url: str) -> None:
        try:
            self.came = get(url)
        except OSError as error:
            self.came = error

    def wait(self, patience: float = PATIENCE) -> object:
        self._thread.join(patience)
        return self.came


@pytest.fixture
def gated(place: Place) -> Gated:
    return Gated(place)


def gone(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


# Workers whose launcher was killed.


@linux
@pytest.mark.parametrize("workers", [1, 2])
def test_what_orphans_finish(gated: Gated, workers: int) -> None:
    """They have graceful_timeout for what is in flight, whoever starts meanwhile, and however short port_grace is."""
    old = gated.start("--workers", str(workers)).until_ready()
    pids, asked = workers_of(old), []
    for number, pid in enumerate(pids):
        with only(old, pid):
            asked.append(gated.ask(f"slow{number}"))
            gated.until(f"slow{number}")
    old.stop(signal.SIGKILL)
    new = gated.start(PREFLIGHT_PORT_GRACE="500ms")
    until(lambda: READY in new.output or "SIGKILL" in new.output or new.process.poll() is not None, "it goes on")
    gated.go()
    assert [one.wait() for one in asked] == [(200, f"slow{number}") for number in range(workers)], new.output
    new.until_ready()
    assert new.stop() == 0


@linux
@pytest.mark.parametrize("how", ["keep", "fail", "pytest", "check"])
def test_whoever_stops_nobody_beside_an_orphan(gated: Gated, how: str) -> None:
    """What is in flight is answered, and nobody has sent it a signal."""
    old = gated.start(PREFLIGHT_DRAIN_DELAY="60s").until_ready()
    asked = gated.ask("slow")
    gated.until("slow")
    old.stop(signal.SIGKILL)
    if how == "pytest":
        new = pytest_preflight(gated.place)
    elif how == "check":
        new = gated.place.run(*gated.options, "--check-only")
    else:
        new = gated.place.run(*gated.options, "--if-running", how)
    assert asked.came is None
    assert new.process.returncode == (0 if how == "check" else 1), new.output
    assert "SIGTERM" not in new.output
    gated.go()
    assert asked.wait() == (200, "slow")


@linux
def test_killed_while_the_next_one_proves_itself(gated: Gated) -> None:
    """The old launcher dies with a request in flight: its worker answers that, and the new instance serves."""
    old = gated.start(RELEASE="1").until_ready()
    worker, asked = worker_of(old), gated.ask("slow")
    gated.until("slow")
    new = gated.start(PREFLIGHT_READY_PATH="/slow-proof", RELEASE="2")
    gated.until("slow-proof")
    old.stop(signal.SIGKILL)
    new.until_ready()
    until(lambda: get(f"{gated.place.url}/x") == (200, "2x"), "the new one answers")
    gated.go()
    assert asked.wait() == (200, "1slow")
    until(lambda: gone(worker), "the old worker has ended")
    assert new.stop() == 0


@linux
@pytest.mark.parametrize("end", ["stop", "replace"])
def test_killed_while_it_drains(gated: Gated, end: str) -> None:
    """A launcher that is killed at its end takes nothing along: its worker finishes what it does, and ends."""
    old = gated.start(RELEASE="1").until_ready()
    worker, asked = worker_of(old), gated.ask("slow")
    gated.until("slow")
    if end == "stop":
        old.send(signal.SIGTERM)
        old.until_says("Stopping (SIGTERM)")
    else:
        new = gated.start(RELEASE="2").until_ready()
        old.until_says("Replaced by")
    old.stop(signal.SIGKILL)
    if end == "stop":
        new = gated.start(RELEASE="2", PREFLIGHT_PORT_GRACE="500ms").until_ready()
    assert get(f"{gated.place.url}/x") == (200, "2x")
    gated.go()
    assert asked.wait() == (200, "1slow"), new.output
    until(lambda: gone(worker), "the old worker has ended")
    assert new.stop() == 0


STARTS_UP = {
    "waits": "mark('starts')\n        while not marked('go'):\n            await asyncio.sleep(0.01)",
    "blocks": "mark('starts')\n        time.sleep(3600)",
    "ignores": "mark('starts')\n        await asyncio.shield(asyncio.ensure_future(asyncio.sleep(3600)))",
}


@linux
@pytest.mark.parametrize("how", STARTS_UP)
def test_killed_while_the_application_starts_up(gated: Gated, how: str) -> None:
    """An orphan that has not started up keeps nobody from the port, nor a client waiting."""
    gated.write(lifespan=STARTS_UP[how])
    old = gated.start()
    gated.until("starts")
    asked = gated.ask("x")
    old.stop(signal.SIGKILL)
    gated.write()
    new = gated.start().until_ready()
    assert get(f"{gated.place.url}/x") == (200, "x")
    assert isinstance(asked.wait(10), OSError | tuple)
    until(lambda: not old.family(), "the orphan has ended")
    assert new.stop() == 0


@linux
@pytest.mark.parametrize("what", ["--free-port", "--if-running=keep", "--if-running=fail", "pytest"])
def test_beside_a_start_up(gated: Gated, what: str) -> None:
    """An instance that starts up is left to do so, or ended in order; nobody kills it, and nobody claims its port."""
    gated.write(lifespan=STARTS_UP["waits"])
    first = gated.start()
    gated.until("starts")
    if what == "--free-port":
        other = gated.place.start("--demo", what)
        until(lambda: other.process.poll() is not None or first.process.poll() is not None, "it has decided", 20)
    elif what == "pytest":
        pytest_preflight(gated.place, PREFLIGHT_REQUIREMENT_TIMEOUT="2s")
        assert first.process.poll() is None
    else:
        other = gated.start(what).until_says("waiting for it")
    gated.go()
    if first.process.poll() is None and what != "--free-port":
        first.until_ready()
        assert get(f"{gated.place.url}/x") == (200, "x")
        assert first.stop() == 0
    else:
        code = other.wait()
        assert "SIGKILL" not in other.output
        assert (code, first.wait() if code == 0 else 143) in ((0, 143), (1, 143)), other.output


@linux
def test_suspended_when_it_is_replaced(gated: Gated) -> None:
    """A launcher that is stopped when it is retired ends in order once it goes on, and loses nothing."""
    old = gated.start(RELEASE="1").until_ready()
    asked = gated.ask("slow")
    gated.until("slow")
    new = gated.start(PREFLIGHT_READY_PATH="/slow-proof", RELEASE="2")
    gated.until("slow-proof")
    old.send(signal.SIGSTOP)
    try:
        gated.go()
        new.until_ready()
        assert asked.wait() == (200, "1slow")
    finally:
        old.send(signal.SIGCONT)
    assert old.wait() == 0
    assert {get(f"{gated.place.url}/x") for _ in range(10)} == {(200, "2x")}
    assert new.stop() == 0


@linux
@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_both_come_to_nothing(gated: Gated, how: str) -> None:
    """The old one ends while the next one is checked, which is refused: who waits is hung up on, the port is free."""
    old = gated.start(RELEASE="1").until_ready()
    gated.write(imports="mark('importing')\nwhile not marked('go'):\n    time.sleep(0.01)\nraise RuntimeError('no')")
    new = gated.start(RELEASE="2")
    gated.until("importing")
    old.stop(getattr(signal, how))
    until(lambda: not old.family(), "its worker has ended")
    asked = gated.ask("x")  # in the queue of the socket that only the next one has, or refused
    gated.go()
    assert new.wait() == 1
    assert isinstance(asked.wait(), OSError)
    new.left_nothing()
    gated.write()
    last = gated.start().until_ready()
    assert "SIGTERM" not in last.output
    assert last.stop() == 0


# Two wishes.


def typed_meanwhile(gated: Gated, *options: str, **environ: str) -> tuple[Started, Started]:
    """A start that takes its time, and another one that was typed meanwhile; both go on."""
    gated.write(imports="mark('importing')\nwhile not marked('go'):\n    time.sleep(0.01)")
    first = gated.place.start("--demo", "--app", "gated:app")
    gated.until("importing")
    second = gated.place.start("--app", "gated:app", *options, **environ).until_says("waiting for it")
    gated.go()
    first.until_ready()
    return first, second


def test_a_start_with_requirements_behind_one_without(gated: Gated) -> None:
    """``--demo`` leaves out what another start asks: that has not held because the demo has just come up."""
    first, second = typed_meanwhile(gated)
    assert second.wait() == 1, second.output
    assert "OpenAI API Key" in second.output
    assert get(f"{gated.place.url}/x") == (200, "x")
    assert first.stop() == 0


def test_a_start_with_a_certificate_behind_one_without(gated: Gated, tmp_path: Path) -> None:
    """Whoever wants TLS has not got it from a server in plain HTTP that came up meanwhile."""
    pair = certificates.make(tmp_path / "tls")
    tls = {"PREFLIGHT_SSL_CERTFILE": str(pair.certificate), "PREFLIGHT_SSL_KEYFILE": str(pair.key)}
    first, second = typed_meanwhile(gated, "--demo", **tls)
    until(lambda: READY in second.output or second.process.poll() is not None, "it has decided")
    assert second.process.poll() is None, second.output
    assert first.wait() == 0
    answer = requests.get(f"https://localhost:{gated.place.port}/x", verify=str(pair.certificate), timeout=PATIENCE)
    assert answer.text == "x"
    assert second.stop() == 0


@pytest.mark.parametrize("what", ["a token", "workers", "an environment file"])
def test_a_start_with_other_settings_behind_one(gated: Gated, what: str) -> None:
    """It is another wish, and is not done because an instance with other settings has just come up."""
    options: tuple[str, ...] = ("--demo",)
    environ = {}
    if what == "a token":
        environ["PREFLIGHT_TOKEN"] = TOKEN
    elif what == "workers":
        options += ("--workers", "2")
    else:
        file = gated.place.folder / "env"
        file.write_text("RELEASE=2\n")
        file.chmod(0o600)
        environ["PREFLIGHT_ENV_FILE"] = str(file)
        options = ("--offline",)
    first, second = typed_meanwhile(gated, *options, **environ)
    until(lambda: READY in second.output or second.process.poll() is not None, "it has decided")
    assert second.process.poll() is None or second.process.returncode == 1, second.output
    for one in (first, second):
        if one.process.poll() is None:
            assert one.stop() == 0


def test_a_start_that_is_to_fail_behind_one(gated: Gated) -> None:
    """Whoever types --if-running fail gets that, although the instance has just come up."""
    first, second = typed_meanwhile(gated, "--demo", "--if-running", "fail")
    assert second.wait() == 1, second.output
    assert first.stop() == 0


def test_a_start_that_has_waited_for_its_requirements(gated: Gated) -> None:
    """Under ``--wait``: that a demo has come up meanwhile is not what was waited for, once nothing blocks any more."""
    waits = gated.place.start("--offline", "--app", "gated:app", "--wait", "600", PREFLIGHT_PYTHON=">=3.11")
    waits.until_says("blocked by ")
    demo = gated.place.start("--demo", "--app", "gated:app").until_ready()
    gated.place.write_env_file(**KEYS, RELEASE="2")
    until(lambda: READY in waits.output or waits.process.poll() is not None, "it has decided")
    assert get(f"{gated.place.url}/x") == (200, "2x"), waits.output
    assert demo.wait() == 0
    assert waits.stop() == 0


# Who has started whom.

PASSES_ON = """
import signal, subprocess, sys
child = subprocess.Popen(sys.argv[1:])
signal.signal(signal.SIGTERM, lambda number, _frame: child.send_signal(number))
sys.exit(child.wait())
"""
WRAPPERS = {
    "timeout": ["timeout", "600"],
    "a shell": ["sh", "-c", '"$@"; true', "sh"],
    "a program that passes signals on": [sys.executable, "-c", PASSES_ON],
    "exec": ["env"],
}


@linux
@pytest.mark.parametrize("wrapper", [*WRAPPERS, "--reload", "a Unix socket"])
def test_a_server_elsewhere_under_a_wrapper_of_the_holders(place: Place, wrapper: str) -> None:
    """A proxy has its server started by a program that waits for it: where the proxy is stopped the server goes on."""
    elsewhere = unused_port()
    path = place.folder / "served.sock"
    where = f"--uds={path}" if wrapper == "a Unix socket" else f"--port={elsewhere}"
    served = [*WRAPPERS.get(wrapper, []), sys.executable, "run.py", where, *SMALL]
    served += [wrapper] if wrapper == "--reload" else []
    parent = place.spawn(sys.executable, "-c", STARTS_ANOTHER, str(place.port), *served).until_ready()
    new = place.start(*SMALL).until_ready()

    def served_there() -> bytes:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX if path.exists() else socket.AF_INET) as client:
            client.settimeout(PATIENCE)
            client.connect(str(path) if path.exists() else ("127.0.0.1", elsewhere))
            client.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
            return client.recv(1000)[:12]
        return b""

    try:
        # The new one is ready only when everything that was sent a signal has ended.
        assert served_there() == b"HTTP/1.1 200", new.output
        assert "Stopping" not in parent.output
    finally:
        assert new.stop() == 0


# A command that is put aside.


@pytest.fixture
def deaf(place: Place, tmp_path: Path) -> Iterator[tuple[Started, requests.Session]]:
    """An application with our routes, and a login; its launcher is stopped, and the way to it is full of beats."""
    place.write_module("echo", ECHO)
    with Hearing(tmp_path / "notify") as hearing:
        service = {"NOTIFY_SOCKET": hearing.address, "WATCHDOG_USEC": "20000"}  # signs of life every 4 ms
        started = place.start(*("--demo", "--supervise", "--app", "echo:app"), **service, PREFLIGHT_TOKEN=TOKEN)
        started.until_ready()
        session = requests.Session()
        started.send(signal.SIGSTOP)
        try:
            time.sleep(2)  # for 500 beats: nothing outside the two processes shows that the way between them is full
            yield started, session
        finally:
            started.send(signal.SIGCONT)
        assert started.stop() == 0


@linux
@pytest.mark.parametrize("what", ["nothing", "wrong tokens", "a re-run", "logouts"])
def test_requests_while_a_stopped_launcher_hears_nothing(deaf: tuple[Started, requests.Session], what: str) -> None:
    """After a long Ctrl-Z the way to the launcher is full: whatever a person asks for, others are answered."""
    started, session = deaf
    url, origin = f"{started.url}{PREFIX}", {"Origin": started.url}

    def ask() -> None:
        with contextlib.suppress(requests.RequestException):
            if what == "wrong tokens":
                for _ in range(5):
                    requests.get(f"{url}/diagnostics", timeout=20, headers={"Authorization": "Bearer wrong-9f8e7d6c5b"})
            elif what == "a re-run":
                requests.post(f"{url}/diagnostics/run", timeout=20, headers=BEARER)
            elif what == "logouts":
                for _ in range(250):
                    session.post(f"{url}/login", {"token": TOKEN}, timeout=20, allow_redirects=False, headers=origin)
                    session.post(f"{url}/logout", timeout=20, allow_redirects=False, headers=origin)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        thread.join(8)
        assert get(f"{started.url}/x", timeout=5)[0] == 200
    finally:
        started.send(signal.SIGCONT)
        thread.join()


# Names of projects.


@pytest.mark.parametrize("names", [("My.Shop", "my_shop"), ("", ""), ("shop", ""), ("", "shop")])
def test_names_of_projects(project: Place, tmp_path: Path, names: tuple[str, str]) -> None:
    """One name is one project, however it is spelled; without a name, another folder is another project."""
    shutil.copytree(project.root, tmp_path / "other")
    other_tree = replace(project, root=tmp_path / "other")
    for one, name in zip((project, other_tree), names, strict=True):
        foreign(one, name or "x")
        if not name:
            file = one.root / "pyproject.toml"
            file.write_text(re.sub(r'(?m)^name = "x"\n', "", file.read_text(), count=1))
    old = project.start(*SMALL).until_ready()
    if all(names):
        new = other_tree.start(*SMALL).until_ready()
        handed_over(old, new)
        assert new.stop() == 0
        return
    for options in ((), ("--check-only",)):
        new = other_tree.run(*SMALL, *options)
        assert new.process.returncode == 1, new.output
        assert "another project" in new.output or "for project" in new.output
    assert get(project.url) == (200, "small")
    handed_over(old, project.start(*SMALL).until_ready())


# Signals.

IGNORES = """
import os, signal, sys
for name in sys.argv[1].split(","):
    signal.signal(getattr(signal, name), signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
BLOCKS = IGNORES.replace(
    "signal.signal(getattr(signal, name), signal.SIG_IGN)",
    "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
)


@linux
def test_a_signal_to_all_that_is_to_be_ignored(place: Place) -> None:
    """Under nohup, SIGHUP to the whole session ends nobody, and SIGTERM does."""
    started = place.spawn(sys.executable, "-c", IGNORES, "SIGHUP", "run.py", f"--port={place.port}", *SMALL)
    started.until_ready()
    worker = worker_of(started)
    for pid in (started.pid, *started.family()):
        os.kill(pid, signal.SIGHUP)
    assert get(place.url) == (200, "small")
    assert worker_of(started) == worker
    assert started.stop() == 0
    assert "Stopping (SIGTERM)" in started.output
    assert "SIGHUP" not in started.output
    started.left_nothing()


@linux
@pytest.mark.parametrize("program, names", [(BLOCKS, "x"), (IGNORES, "SIGCHLD"), (IGNORES, "SIGPIPE,SIGUSR1,SIGALRM")])
def test_a_crash_under_a_parent_with_odd_signals(gated: Gated, program: str, names: str) -> None:
    """It is noticed at once, called what it is, and another worker serves; then it ends in order."""
    place = gated.place
    command = [sys.executable, "-c", program, names, "run.py", f"--port={place.port}", *gated.options]
    started = place.spawn(*command).until_ready()
    worker = worker_of(started)
    for life in (1, 2):
        kill_worker(started)
        started.until_says("The worker ended (SIGKILL")
        until(lambda life=life: started.output.count("The worker is back") == life, "another one serves")  # type: ignore[misc]
        assert worker_of(started) != worker
    assert get(f"{place.url}/x") == (200, "x")
    assert started.stop() == 0
    started.left_nothing()


@linux
@pytest.mark.parametrize("what", ["pause", "import", "start-up"])
def test_asked_to_stop_between_two_workers(gated: Gated, what: str) -> None:
    """Who waits for the next worker is answered, or hung up on at once; the end is in time and leaves nothing."""
    waits = "while not marked('go'):\n    time.sleep(0.01)" if what == "import" else "pass"
    once = "again = marked('once')\nmark('once')\nif again:\n    mark('again')\n    "
    if what == "start-up":
        later = "while marked('again') and not marked('go'):\n            await asyncio.sleep(0.01)"
        gated.write(imports=f"{once}pass", lifespan=later)
    else:
        gated.write(imports=once + waits.replace("\n", "\n    "))
    backoff = "30s" if what == "pause" else "0"
    started = gated.start(PREFLIGHT_RESTART_BACKOFF=backoff).until_ready()
    kill_worker(started)
    if what == "pause":
        started.until_says("The worker is back")
        kill_worker(started)
        started.until_says("another one starts in")
    else:
        gated.until("again")
    asked = gated.ask("x")
    until(lambda: any(one.status == "ESTABLISHED" for one in psutil.Process().net_connections()), "it waits")
    began = time.monotonic()
    started.send(signal.SIGTERM)
    started.until_says("Stopping")
    if what != "import":
        gated.go()
    assert started.wait() == 0
    assert time.monotonic() - began < 10
    came = asked.wait(10)
    assert came == (200, "x") if what == "start-up" else isinstance(came, OSError)
    started.left_nothing()


# Hangs.

ODD_HANDLERS = {
    "ignores": "signal.signal(number, signal.SIG_IGN)",
    "handles": "signal.signal(number, lambda *_: None)",
    "blocks": "signal.pthread_sigmask(signal.SIG_BLOCK, [number])",
    "dies of": "signal.signal(number, signal.SIG_DFL)",
}


@linux
@pytest.mark.parametrize("how", ODD_HANDLERS)
def test_a_hang_of_whoever_uses_the_signal_for_stacks(gated: Gated, how: str) -> None:
    """An application that takes every real-time signal for itself is ended when it hangs, and another one serves."""
    loop = "import signal\nfor number in range(signal.SIGRTMIN, signal.SIGRTMAX + 1):\n    "
    gated.write(imports=loop + ODD_HANDLERS[how])
    started = gated.start(PREFLIGHT_HEARTBEAT="1s").until_ready()
    worker, asked = worker_of(started), gated.ask("blocks")
    gated.until("blocks")
    started.until_says("The worker is back")
    assert isinstance(asked.wait(), OSError)
    assert worker_of(started) != worker
    assert get(f"{gated.place.url}/x") == (200, "x")
    assert started.stop() == 0


@linux
def test_the_next_one_hangs_right_behind_the_start_up(gated: Gated) -> None:
    """The same in a replacement: the old instance goes on."""
    old = gated.start(RELEASE="1").until_ready()
    gated.write(lifespan="asyncio.get_running_loop().call_later(0.05, lambda: time.sleep(3600))")
    new = gated.start(PREFLIGHT_HEARTBEAT="1s", PREFLIGHT_READY_PATH="off", RELEASE="2")
    until(lambda: new.process.poll() is not None or READY in new.output, "it has decided")
    if new.process.poll() is None:
        # It was ready before it hung: then it is the server, and is restarted like one.
        assert old.wait() == 0
        new.until_says("THE SERVER HANGS")
    else:
        assert new.process.returncode == 4
        assert get(f"{gated.place.url}/x") == (200, "1x")
        assert old.stop() == 0


# Whoever does not read.


@linux
def test_a_service_manager_that_does_not_read(gated: Gated, tmp_path: Path) -> None:
    """Its queue is full from the beginning: the server starts, restarts its worker and ends in order."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one,
    ):
        deaf.bind(str(tmp_path / "notify"))
        one.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                one.sendto(b"x", str(tmp_path / "notify"))
        started = gated.start(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="2000000").until_ready()
        kill_worker(started)
        started.until_says("The worker is back")
        new = gated.start().until_ready()
        assert started.wait() == 0
        assert new.stop() == 0


@linux
@pytest.mark.parametrize("variable", ["PREFLIGHT_TERMINATION_LOG", "PREFLIGHT_LOG_FILE"])
@pytest.mark.parametrize("what", ["a FIFO", "a folder", "a socket"])
def test_where_a_start_leaves_word(place: Place, tmp_path: Path, variable: str, what: str) -> None:
    """A file to write to that is none, and that nobody reads, keeps no refused start from ending in time."""
    path = tmp_path / "log"
    with socket.socket(socket.AF_UNIX) as bound:
        if what == "a FIFO":
            os.mkfifo(path)
        elif what == "a folder":
            path.mkdir()
        else:
            bound.bind(str(path))
        one = place.start("--demo", "--app", "not_there:app", **{variable: str(path)})
        assert one.wait(60) in (1, 2), one.output
        assert "Traceback" not in one.output
    one.left_nothing()


CHATTERS = """
import threading, time

def chatters():
    while True:
        print("x" * 1000, flush=True)

threading.Thread(target=chatters).start()
"""


@linux
@pytest.mark.parametrize("end", ["stop", "replace", "kill"])
def test_a_thread_that_prints_for_ever(gated: Gated, end: str) -> None:
    """It keeps nobody from being answered, replaced or ended, in time and in order."""
    gated.write(imports=CHATTERS)
    started = gated.start(PREFLIGHT_GRACEFUL_TIMEOUT="1s").until_ready()
    asked = gated.ask("slow")
    gated.until("slow")
    gated.go()
    assert asked.wait() == (200, "slow")
    if end == "replace":
        new = gated.start(PREFLIGHT_GRACEFUL_TIMEOUT="1s").until_ready()
        assert started.wait(30) == 0
        started = new
    if end == "kill":
        started.send(signal.SIGKILL)
        until(lambda: not started.family(), "all of it has ended")
        started.wait()
    else:
        started.send(signal.SIGTERM)
        assert started.wait(30) == 0
    started.left_nothing()


# What a start needs.


@linux
@pytest.mark.parametrize("how", ["start", "--check-only"])
def test_too_little_room_for_what_workers_share(place: Place, how: str) -> None:
    """RLIMIT_FSIZE leaves room for the report and none for the workers' board: refused before anybody is stopped."""
    holder = place.listener()
    place.before = ["prlimit", f"--fsize={160 << 10}"]
    one = place.run(*SMALL, "--workers", "4", *([] if how == "start" else [how]))
    assert holder.process.poll() is None, one.output
    assert "Traceback" not in one.output
    assert one.process.returncode in (1, 3), one.output


@linux
@pytest.mark.parametrize("how", ["start", "--check-only"])
def test_no_memory_that_workers_share(place: Place, how: str) -> None:
    """A sandbox has no memfd_create, or no room for one: nobody was stopped for a start that does not go ahead."""
    holder = place.listener()
    without = "import errno, os\ndef memfd_create(*_):\n    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))\n"
    program = place.prepared(f"{without}os.memfd_create = memfd_create")
    one = place.start_program(program, *SMALL, "--workers", "2", *([] if how == "start" else [how]))
    until(lambda: one.process.poll() is not None or READY in one.output, "it has decided")
    assert "Traceback" not in one.output
    if one.process.poll() is None:
        assert one.stop() == 0
    elif one.wait() != 0:
        assert holder.process.poll() is None, one.output


@linux
@pytest.mark.parametrize("how", ["start", "--check-only", "--free-port"])
@pytest.mark.parametrize("what", ["bound", "a client"])
def test_a_port_that_nobody_listens_on(place: Place, how: str, what: str) -> None:
    """A socket is bound there, or a connection goes out from it: that is said, and its process is left alone."""
    with contextlib.ExitStack() as stack:
        taken = stack.enter_context(socket.socket())
        taken.bind(("127.0.0.1", place.port))
        if what == "a client":
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            taken.connect(server.getsockname())
        one = place.run(*SMALL, *([] if how == "start" else [how]))
        assert one.process.returncode == 1, one.output
        assert "Traceback" not in one.output
        assert str(place.port) in one.output
        assert "SIGTERM" not in one.output
        if what == "a client":
            peer = stack.enter_context(server.accept()[0])
            taken.sendall(b"x")
            assert peer.recv(1) == b"x"
    if how == "start":
        again = place.start(*SMALL).until_ready()
        assert again.stop() == 0
