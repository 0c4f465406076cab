"""Several workers, Unix sockets, TLS and systemd's sockets together: crashes, signals, replacements and the end."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from preflight.instances import socketfiles
from preflight.processes.restarts import Restarts
from tests import certificates
from tests.certificates import Pair
from tests.e2e import namespaces
from tests.e2e.clients import Clients
from tests.e2e.doubles import SMALL as SMALL_APP
from tests.e2e.installing import Adopter, adopt
from tests.e2e.namespaces import command
from tests.e2e.place import READY, Place, Started, get, listening
from tests.e2e.processes import BACK, handed_over, kill_worker, only, pytest_preflight, worker_of, workers_of
from tests.e2e.unixclient import Client
from tests.portnumbers import unused_port
from tests.servicemanagers import passing
from tests.waiting import PATIENCE, until

linux = pytest.mark.skipif(sys.platform != "linux", reason="abstract names, namespaces and /proc are Linux's")
pytestmark = pytest.mark.usefixtures("unmeasured")

TWO = ("--workers", "2")
SMALL = ("--demo", "--app", "small:app")

# Answers with the PID of its worker. A file in the folder GATES opens what waits there; a worker that waits makes one.
APP = """
import asyncio, os, socket
gates = os.environ["GATES"]

def been_at(what):
    open(os.path.join(gates, f"{what}-{os.getpid()}"), "w").close()

async def waits(what):
    been_at(what)
    while not os.path.exists(os.path.join(gates, what)):
        await asyncio.sleep(0.01)

async def start_up(number):
    AT_START

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        try:
            await start_up(scope["state"]["preflight"].board.number)
        except OSError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["type"] != "http":
        return
    been_at("asked")
    if scope["path"] == "/slow":
        await waits("slow")
    if scope["path"] == "/dies":
        os._exit(7)
    if scope["path"] == "/prints":
        for _ in range(3000):
            print("x" * 300)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
"""


class Gated:
    """A place with that application, and the gates of it."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.gates = place.folder / "gates"
        self.gates.mkdir()
        self.write()

    def write(self, at_start: str = "pass") -> None:
        """The application, which does this at its start-up; ``number`` is its worker's."""
        self.place.write_module("gated", APP.replace("AT_START", at_start.replace("\n", "\n    ")))

    @property
    def environ(self) -> dict[str, str]:
        return {"GATES": str(self.gates), "PREFLIGHT_GRACEFUL_TIMEOUT": "60s"}

    options = ("--demo", "--app", "gated:app", "--supervise")

    def start(self, *options: str, **environ: str) -> Started:
        return self.place.start(*self.options, *options, **{**self.environ, **environ})

    def open(self, what: str) -> None:
        (self.gates / what).touch()

    def until_waits(self, what: str, pid: int | None = None) -> None:
        """Wait until this worker, or any, is at that gate."""
        name = f"{what}-*" if pid is None else f"{what}-{pid}"
        until(lambda: any(self.gates.glob(name)), f"a worker waits at the gate {name}")


@pytest.fixture
def gated(place: Place) -> Gated:
    return Gated(place)


class InFlight:
    """Requests that are being answered while the block runs; what came of them is in ``came`` then."""

    def __init__(self, gated: Gated, ask: Callable[[], object] | None = None) -> None:
        self.came: list[object] = []
        self._gated = gated
        self._ask = ask or (lambda: get(f"{gated.place.url}/slow"))
        self._threads: list[threading.Thread] = []

    def begin(self, pid: int | None = None) -> None:
        """One more, which is at its gate when this returns; ``pid``: the one worker that can accept it."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        self._threads.append(thread)
        self._gated.until_waits("slow", pid)

    def begin_in_each(self, started: Started) -> list[int]:
        """One in each worker; returns their PIDs."""
        pids = workers_of(started)
        for pid in pids:
            with only(started, pid):
                self.begin(pid)
        return pids

    def _run(self) -> None:
        try:
            self.came.append(self._ask())
        except (OSError, http.client.HTTPException) as error:
            self.came.append(repr(error))

    def __enter__(self) -> InFlight:
        return self

    def __exit__(self, *_error: object) -> None:
        self._gated.open("slow")
        for thread in self._threads:
            thread.join(PATIENCE)


# Several workers: whoever ends them.


def test_the_launcher_of_several_is_killed(gated: Gated) -> None:
    """Each worker answers what it has accepted, then all of them end, and the port is free."""
    started = gated.start(*TWO).until_ready()
    with InFlight(gated) as requests:
        pids = requests.begin_in_each(started)
        started.send(signal.SIGKILL)
        started.process.wait()
    assert set(requests.came) == {(200, str(pid)) for pid in pids}
    started.wait()
    started.left_nothing()


def test_a_signal_for_a_launcher_and_all_its_workers(gated: Gated) -> None:
    """As a service manager has it: what is in flight in each is answered, and nothing is said to be lost."""
    started = gated.start(*TWO).until_ready()
    with InFlight(gated) as requests:
        pids = requests.begin_in_each(started)
        for pid in (*pids, started.pid):
            os.kill(pid, signal.SIGTERM)
        started.until_says("Stopping (SIGTERM)")
    assert set(requests.came) == {(200, str(pid)) for pid in pids}
    assert started.wait() == 0
    assert "cut off" not in started.output
    assert "not finish" not in started.output


def test_freeing_the_port_of_several(gated: Gated) -> None:
    """``--free-port`` ends an instance with several workers in order: each answers what it has accepted."""
    started = gated.start(*TWO).until_ready()
    with InFlight(gated) as requests:
        pids = requests.begin_in_each(started)
        freeing = gated.place.start("--free-port")
        started.until_says("Stopping (SIGTERM)")
    assert freeing.wait() == 0, freeing.output
    assert set(requests.came) == {(200, str(pid)) for pid in pids}
    assert "SIGKILL" not in freeing.output
    assert started.wait() == 0


def test_all_workers_crash_at_once(gated: Gated) -> None:
    """Connections wait for the first that is back, and none is refused."""
    started = gated.start(*TWO, PREFLIGHT_RESTART_LIMIT="20").until_ready()
    with Clients(gated.place.port, path="/") as clients:
        for pid in workers_of(started):
            os.kill(pid, signal.SIGKILL)
        until(lambda: started.output.count("is back (PID ") == 2, "both are back")
        clients.go_on()
    assert clients.refused == []
    assert started.stop() == 0


def test_one_of_several_stands_still(gated: Gated) -> None:
    """It is ended and another one takes its place, while the others answer."""
    started = gated.start(*TWO, PREFLIGHT_HEARTBEAT="5s").until_ready()
    one, two = workers_of(started)
    os.kill(two, signal.SIGSTOP)
    answered = {get(gated.place.url) for _ in range(5)}
    assert answered == {(200, str(one))}
    started.until_says("is back (PID ")
    assert "hung: no heartbeat for 5 s" in started.output
    assert "1 other worker serves." in started.output
    assert workers_of(started)[0] == one
    assert started.stop() == 0


def test_a_restarted_worker_that_does_not_start_up(gated: Gated) -> None:
    """Its start-up has a deadline while another one serves, which goes on and whose end is in order."""
    gated.write('if os.path.exists(os.path.join(gates, "stuck")):\n    await asyncio.sleep(3600)')
    started = gated.start(*TWO, PREFLIGHT_STARTUP_TIMEOUT="10s").until_ready()
    one, two = workers_of(started)
    gated.open("stuck")
    os.kill(two, signal.SIGKILL)
    until(lambda: started.output.count("(not started within 10 s); another one starts") == 2, "two have been tried")
    assert "another one starts in 30.0 s. 1 other worker serves." in started.output
    assert get(gated.place.url) == (200, str(one))
    assert started.stop() == 0
    started.left_nothing()


def test_workers_that_never_come_up_are_tried_seldom() -> None:
    """From the second one in a row on the pause is the longest, as often as it is tried, until one has been ready."""
    restarts = Restarts(limit=5, window=60.0, backoff=0.5)
    waits = [restarts.failed(30.0 * at, None) for at in range(8)]
    assert waits == [0.0, *[None] * 7]
    assert restarts.failed(300.0, 1.0) is not None


def test_a_port_that_only_one_worker_can_have(gated: Gated) -> None:
    """A start-up that binds a port of its own comes to nothing with two workers; the instance before goes on."""
    old = gated.place.start(*SMALL).until_ready()
    metrics = unused_port()
    gated.write(f'global held\nheld = socket.create_server(("127.0.0.1", {metrics}))')
    refused = gated.start(*TWO)
    assert refused.wait() == 4, refused.output
    assert "Address already in use" in refused.output
    assert READY not in refused.output
    assert refused.family() == []
    assert get(gated.place.url) == (200, "small")
    assert old.stop() == 0
    assert not listening(metrics)


@linux
def test_several_workers_nobody_reads(gated: Gated) -> None:
    """Each prints more than a pipe holds: both answer, one that crashes is replaced, and SIGTERM ends all in order."""
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "run.py", "--port", str(gated.place.port), *gated.options, *TWO],
        cwd=gated.place.root,
        env={**gated.place.environ, **gated.environ},
        stdout=write,
        stderr=write,
        start_new_session=True,
    )
    try:
        os.close(write)
        until(lambda: len(list_workers(process.pid)) == 2 and listening(gated.place.port), "both are there")
        seen: set[str] = set()

        def both() -> bool:
            seen.add(get(f"{gated.place.url}/prints")[1])
            return len(seen) == 2

        until(both, "both have answered")
        os.kill(int(min(seen)), signal.SIGKILL)
        seen.clear()
        until(both, "both have answered again")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        os.close(read)
    assert not listening(gated.place.port)


def list_workers(pid: int) -> list[int]:
    """The PIDs of the workers below a process that has just been started, or runs another one as a container does."""
    found = []
    for one in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found += [one.pid] if "preflight.worker" in one.cmdline() else []
    return found


@linux
def test_the_first_process_of_a_container_with_several_workers(place: Place) -> None:
    """One that crashes is the launcher's affair as long as others serve; the end of all is the runtime's."""
    started = namespaces.contained(place, *command(place, *SMALL, *TWO)).until_ready()
    os.kill(list_workers(started.pid)[0], signal.SIGKILL)
    started.until_says("is back (PID ")
    assert get(place.url) == (200, "small")
    for pid in list_workers(started.pid):
        os.kill(pid, signal.SIGKILL)
    assert started.wait() == 4, started.output
    assert "A restart is left to the container runtime." in started.output
    started.left_nothing()


# Several workers: replacements.


def test_other_numbers_of_workers(gated: Gated) -> None:
    """One takes over from two and two from one, nobody is refused, and another shell knows each of them."""
    before = gated.start(*TWO).until_ready()
    with Clients(gated.place.port, path="/") as clients:
        for number in ("1", "2"):
            after = gated.start("--workers", number).until_ready()
            handed_over(before, after)
            kept = gated.place.run(*SMALL, "--if-running", "keep", XDG_RUNTIME_DIR="/nonexistent")
            assert kept.process.returncode == 0, kept.output
            assert f"our instance (PID {after.pid}, since " in kept.output
            clients.go_on()
            before = after
    clients.lost_nothing()
    assert before.stop() == 0


SECOND_WAITS = 'if number == 2:\n    await waits("up")'


def test_beside_one_whose_second_worker_has_not_started_up(gated: Gated) -> None:
    """Its first worker serves already: a start waits for it and then leaves it alone, and nobody stops it."""
    gated.write(SECOND_WAITS)
    first = gated.start(*TWO)
    gated.until_waits("up")
    until(lambda: listening(gated.place.port), "the first worker serves")
    tests = pytest_preflight(gated.place, PREFLIGHT_REQUIREMENT_TIMEOUT="1s")
    assert tests.process.returncode == 1
    assert "another start of" in tests.output
    second = gated.place.start(*SMALL, "--if-running", "keep").until_says("Another start of ")
    gated.open("up")
    first.until_ready()
    assert second.wait() == 0, second.output
    assert f"our instance (PID {first.pid}, since " in second.output
    assert first.stop() == 0


def test_a_new_worker_dies_behind_its_proof(gated: Gated) -> None:
    """It has answered, and waits for the others: another one takes its place, and has to answer as well."""
    old = gated.place.start(*SMALL).until_ready()
    gated.write(SECOND_WAITS)
    with Clients(gated.place.port, path="/") as clients:
        new = gated.start(*TWO)
        gated.until_waits("up")
        one, _two = workers_of(new)
        gated.until_waits("asked", one)
        os.kill(one, signal.SIGKILL)
        new.until_says("is still serving")
        gated.open("up")
        new.until_ready()
        handed_over(old, new)
        clients.go_on()
    clients.lost_nothing()
    assert new.stop() == 0


def test_the_old_instance_ends_before_all_new_workers_are_up(gated: Gated) -> None:
    """Those that are up answer from then on: nobody is refused while the last one takes its time."""
    old = gated.place.start(*SMALL).until_ready()
    gated.write(SECOND_WAITS)
    with Clients(gated.place.port, path="/") as clients:
        new = gated.start(*TWO)
        gated.until_waits("up")
        assert old.stop() == 0
        clients.go_on()  # by the first of the new ones
        gated.open("up")
        new.until_ready()
        clients.go_on()
    clients.lost_nothing()
    assert new.stop() == 0


def test_a_new_instance_is_stopped_before_all_its_workers_are_up(gated: Gated) -> None:
    """The exit code is the signal's, nothing of it stays, and the instance before goes on."""
    old = gated.place.start(*SMALL).until_ready()
    gated.write(SECOND_WAITS)
    with Clients(gated.place.port, path="/") as clients:
        new = gated.start(*TWO)
        gated.until_waits("up")
        assert new.stop() == 143, new.output
        clients.go_on()
    clients.lost_nothing()
    assert new.family() == []
    assert old.process.poll() is None
    assert "Replaced" not in old.output
    assert old.stop() == 0


def test_the_old_instance_gives_up_while_the_new_one_starts_up(gated: Gated) -> None:
    """Its last crash ends it, with exit code 4; whoever connects then waits for the new one."""
    gated.write('if os.path.exists(os.path.join(gates, "hold")):\n    await waits("up")')
    old = gated.start(PREFLIGHT_RESTART_LIMIT="1").until_ready()
    gated.open("hold")
    new = gated.start(*TWO)
    gated.until_waits("up")
    with contextlib.suppress(OSError, http.client.HTTPException):
        get(f"{gated.place.url}/dies")
    assert old.wait() == 4, old.output
    answers: list[tuple[int, str]] = []
    asking = threading.Thread(target=lambda: answers.append(get(gated.place.url)))
    asking.start()
    gated.open("up")
    new.until_ready()
    asking.join(PATIENCE)
    assert [status for status, _pid in answers] == [200]
    assert new.stop() == 0


# Unix sockets.


@pytest.fixture
def path() -> Iterator[Path]:
    """A path that is short enough, however long the folders of tests are."""
    folder = Path(tempfile.mkdtemp(prefix="uds"))
    yield folder / "app.sock"
    shutil.rmtree(folder)


def ask(path: Path, target: str = "/") -> tuple[int, str]:
    client = Client(path)
    try:
        client.request("GET", target)
        answer = client.getresponse()
        return answer.status, answer.read().decode()
    finally:
        client.close()


def listener_of(path: Path) -> int:
    """The PID of the process that listens there, as the kernel has it."""
    peer = socketfiles.look(path).peer
    assert peer is not None
    return peer.pid


# A worker that has ended is not followed by another one before a test is over.
LATE = "from preflight.processes import restarts\nrestarts.Restarts.failed = lambda *_: 600.0"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_whoever_listened_last_has_died(gated: Gated, path: Path, workers: str) -> None:
    """The kernel names a process that is gone: the instance is known all the same, kept and replaced."""
    place = gated.place
    old = place.spawn(
        sys.executable,
        place.prepared(LATE),
        *(*gated.options, "--uds", str(path), "--workers", workers),
        environ=gated.environ,
    ).until_ready()
    os.kill(listener_of(path), signal.SIGKILL)
    old.until_says("another one starts in 600.0 s")
    status = gated.start("--uds", str(path), "--port-status", "--format", "json")
    status.wait()
    assert json.loads(status.stdout)["status"] == "served by an instance of ours", status.output
    kept = gated.start("--uds", str(path), "--if-running", "keep")
    assert kept.wait() == 0, kept.output
    assert f"our instance (PID {old.pid}, since " in kept.output
    new = gated.start("--uds", str(path)).until_ready()
    handed_over(old, new)
    assert ask(path) == (200, str(worker_of(new)))
    assert new.stop() == 0
    assert not path.exists()


def test_the_file_goes_before_the_last_answer(gated: Gated, path: Path) -> None:
    """Of several workers, whichever listened last: nobody finds a socket that accepts nothing any more."""
    started = gated.start("--uds", str(path), *TWO).until_ready()
    with InFlight(gated, lambda: ask(path, "/slow")) as requests:
        requests.begin()
        started.send(signal.SIGTERM)
        until(lambda: not path.exists(), "its file is gone", 20)
        assert requests.came == []
    (came,) = requests.came
    assert isinstance(came, tuple)
    assert came[0] == 200
    assert started.wait() == 0
    started.left_nothing()


# A start that is killed at the moment when it serves and has not told the instance before it.
DIES = """
import os, signal
from preflight.launcher import entry
entry.Entry.retire_previous = lambda self: os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["port", "path"])
def test_a_start_that_is_killed_when_it_serves(gated: Gated, path: Path, kind: str) -> None:
    """The instance before it goes on, is known as before, and the next start gets its socket."""
    place = gated.place
    where = ("--uds", str(path)) if kind == "path" else ("--port", str(place.port))
    options = (*gated.options, *where)
    old = place.spawn(sys.executable, "run.py", *options, environ=gated.environ).until_ready()
    killed = place.spawn(sys.executable, place.prepared(DIES), *options, environ=gated.environ)
    assert killed.wait() == -signal.SIGKILL, killed.output
    until(lambda: not killed.family(), "its worker has ended")
    answered = ask(path) if kind == "path" else get(place.url)
    assert answered == (200, str(worker_of(old)))
    kept = place.spawn(sys.executable, "run.py", *options, "--if-running", "keep", environ=gated.environ)
    assert kept.wait() == 0, kept.output
    assert f"our instance (PID {old.pid}, since " in kept.output
    new = place.spawn(sys.executable, "run.py", *options, environ=gated.environ).until_ready()
    handed_over(old, new)
    assert new.stop() == 0


@linux
def test_a_path_where_no_socket_has_room(place: Place, path: Path) -> None:
    """A file system that is full, or cannot hold a socket: a check says what a start would."""
    folder = path.parent / "full"
    folder.mkdir()
    mounted = f'mount -t tmpfs -o mode=700,nr_inodes=1 none {folder} && exec "$@"'
    prepare = ["unshare", *(["--map-root-user"] if os.geteuid() else []), "--mount", "sh", "-c", mounted, "sh"]
    if subprocess.run([*prepare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let us mount that")
    options = (sys.executable, "run.py", *SMALL, "--uds", str(folder / "app.sock"))
    for more in ((), ("--check-only",)):
        refused = place.spawn(*prepare, *options, *more)
        assert refused.wait() == 1, refused.output
        assert "No space left on device" in refused.output
        assert "Traceback" not in refused.output


def test_waiting_for_a_path(place: Place, path: Path) -> None:
    """Under ``--wait`` a path that another server has is had when that has gone; nobody stops it."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        waiting = place.start(*SMALL, "--uds", str(path), "--wait", "60").until_says("blocked by")
        assert "listens on" in place.check("Server Port")["message"]
    waiting.until_ready()
    assert ask(path) == (200, "small")
    assert waiting.stop() == 0
    assert not path.exists()


# TLS.


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return certificates.make(tmp_path / "tls")


def tls(pair: Pair) -> dict[str, str]:
    return {"PREFLIGHT_SSL_CERTFILE": str(pair.certificate), "PREFLIGHT_SSL_KEYFILE": str(pair.key)}


def ask_tls(place: Place, pair: Pair, target: str = "/") -> tuple[int, str]:
    client = http.client.HTTPSConnection("127.0.0.1", place.port, timeout=PATIENCE, context=pair.trusting())
    try:
        client.request("GET", target)
        answer = client.getresponse()
        return answer.status, answer.read().decode()
    finally:
        client.close()


HELLO = bytes.fromhex("16030100c8010000c40303")  # the beginning of a ClientHello, whose rest does not come


@pytest.mark.parametrize("replaced", [False, True], ids=["stopped", "replaced"])
def test_clients_that_do_not_finish_the_handshake(gated: Gated, pair: Pair, replaced: bool) -> None:
    """They keep nobody: a request in flight is answered, and the end is as soon as with idle connections."""
    within = {"PREFLIGHT_GRACEFUL_TIMEOUT": "3s"} if replaced else {}
    started = gated.start(**tls(pair), **within).until_ready()
    with contextlib.ExitStack() as stack:
        for said in (b"", b"", HELLO):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", gated.place.port)))
            client.sendall(said)
        with InFlight(gated, lambda: ask_tls(gated.place, pair, "/slow")) as requests:
            requests.begin()
            pid = worker_of(started)
            if replaced:
                gated.start(**tls(pair)).until_says("Preflight ")
                gated.open("slow")
            else:
                started.send(signal.SIGTERM)
                started.until_says("Stopping")
        assert requests.came == [(200, str(pid))]
        assert started.wait(60 if replaced else 20) == 0  # of the 60 s that a request would get
    for word in ("not finish", "not finished", "exceeded", "Traceback"):
        assert word not in started.output


def test_more_unfinished_handshakes_than_open_files(gated: Gated, pair: Pair) -> None:
    """They count among the connections, and the oldest make room: whoever finishes the handshake is answered."""
    own = [sys.executable, "run.py", "--port", str(gated.place.port), *gated.options]
    limited = ["sh", "-c", 'ulimit -n 400 && exec "$@"', "sh", *own]
    started = gated.place.spawn(*limited, environ={**gated.environ, **tls(pair)}).until_ready()
    with contextlib.ExitStack() as stack:
        for number in range(600):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", gated.place.port), PATIENCE))
            client.sendall(HELLO if number % 2 else b"")
        for _ in range(3):
            assert ask_tls(gated.place, pair) == (200, str(worker_of(started)))
    assert started.stop() == 0
    for word in ("Too many open files", "Traceback"):
        assert word not in started.output


@pytest.mark.parametrize("encrypted", [False, True], ids=["HTTP", "HTTPS"])
def test_a_connection_that_was_accepted_by_the_one_before(gated: Gated, pair: Pair, encrypted: bool) -> None:
    """A client far away has connected, and says its first word when another instance serves: it is answered."""
    environ = tls(pair) if encrypted else {}
    old = gated.start(**environ).until_ready()
    worker = worker_of(old)
    with socket.create_connection(("127.0.0.1", gated.place.port), PATIENCE) as client:
        ours = client.getsockname()[1]

        def accepted() -> bool:
            return any(bool(one.raddr) and one.raddr.port == ours for one in psutil.Process(worker).net_connections())

        until(accepted, "the worker has accepted it")
        new = gated.start(**environ).until_ready()
        old.until_says("Replaced by another start")
        time.sleep(1.5)  # as long as a word from far away takes, and longer
        if encrypted:
            client = pair.trusting().wrap_socket(client, server_hostname="127.0.0.1")
        client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        answer = b""
        while not answer.endswith(str(worker).encode()) and (data := client.recv(4096)):
            answer += data
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        client.close()
    assert old.wait() == 0
    assert new.stop() == 0


def test_tls_comes_and_goes(gated: Gated, pair: Pair) -> None:
    """An instance with a certificate replaces one without, and the other way; what is in flight is answered."""
    plain = gated.start().until_ready()
    with InFlight(gated) as requests:
        requests.begin()
        pid = worker_of(plain)
        encrypted = gated.start(*TWO, **tls(pair)).until_ready()
    assert requests.came == [(200, str(pid))]
    assert plain.wait() == 0
    assert ask_tls(gated.place, pair)[0] == 200
    again = gated.start().until_ready()
    assert encrypted.wait() == 0, encrypted.output
    assert get(gated.place.url) == (200, str(worker_of(again)))
    assert again.stop() == 0


def test_a_certificate_that_was_spoilt_meanwhile(gated: Gated, pair: Pair) -> None:
    """A worker that crashes then is followed by none: the other one serves, and what is wrong with it is said."""
    started = gated.start(*TWO, **tls(pair)).until_ready()
    one, two = workers_of(started)
    pair.key.write_text("-----BEGIN PRIVATE KEY-----\nhalf\n")
    os.kill(two, signal.SIGKILL)
    until(lambda: "another one starts in 30.0 s. 1 other worker serves." in started.output, "two have been tried")
    assert "SSLError" in started.output
    assert ask_tls(gated.place, pair) == (200, str(one))
    assert started.stop() == 0


# A socket of systemd's.


@pytest.fixture
def activated(gated: Gated) -> Iterator[Callable[..., Started]]:
    """Start behind a listening socket that somebody else holds, as the service of its socket unit."""
    with socket.create_server(("127.0.0.1", gated.place.port), backlog=512) as listener:

        def start(*options: str, **environ: str) -> Started:
            own = [sys.executable, "run.py", "--port", str(gated.place.port), *gated.options, *options]
            return gated.place.spawn(
                *passing([listener], own), environ={**gated.environ, **environ}, pass_fds=[listener.fileno()]
            )

        yield start


def test_several_workers_on_a_socket_of_systemd(gated: Gated, activated: Callable[..., Started]) -> None:
    """A crash, a restart of the service, another number of workers: whoever connects is answered by somebody."""
    first = activated(*TWO).until_ready()
    with Clients(gated.place.port, path="/", keeping=0, reconnecting=4) as clients:
        os.kill(workers_of(first)[0], signal.SIGKILL)
        first.until_says("is back (PID ")
        clients.go_on()
        crashed = list(clients.failed)
        assert first.stop() == 0
        second = activated("--workers", "1").until_ready()
        clients.go_on()
        assert second.stop() == 0
        third = activated(*TWO).until_ready()
        clients.go_on()
    assert clients.refused == []
    assert clients.failed == crashed  # what was in flight in the worker that was killed
    assert third.stop() == 0


def test_a_service_whose_launcher_is_killed(gated: Gated, activated: Callable[..., Started]) -> None:
    """As systemd does, the next one is started at once: it serves, and the old worker answers what it has accepted."""
    first = activated().until_ready()
    with InFlight(gated) as requests:
        requests.begin()
        pid = worker_of(first)
        first.send(signal.SIGKILL)
        first.process.wait()
        second = activated().until_ready()
        assert get(gated.place.url)[0] == 200
    assert requests.came == [(200, str(pid))]
    until(lambda: not first.family(), "the old worker has ended")
    assert get(gated.place.url) == (200, str(worker_of(second)))
    kill_worker(second)
    second.until_says(BACK)
    assert second.stop() == 0


# Addresses.


@pytest.mark.parametrize("spelled", ["::ffff:127.0.0.1", "0:0:0:0:0:ffff:7f00:1"])
def test_ipv4_in_the_clothes_of_ipv6(gated: Gated, spelled: str) -> None:
    """It is the same address: kept, and handed over."""
    old = gated.place.start(*SMALL).until_ready()
    kept = gated.place.run(*SMALL, "--host", spelled, "--if-running", "keep")
    assert kept.process.returncode == 0, kept.output
    new = gated.place.start(*SMALL, "--host", spelled).until_ready()
    handed_over(old, new)
    assert re.search(r"^Server +http://", new.stdout, re.MULTILINE)
    assert get(gated.place.url) == (200, "small")
    assert new.stop() == 0


# Instances of other projects that do not answer.


@pytest.fixture
def theirs(tmp_path: Path, installed: Path, adopter: Adopter) -> Iterator[Adopter]:
    """Another project that uses the installed package, and the same port."""
    (tmp_path / "theirs").mkdir()
    theirs = adopt(tmp_path / "theirs", installed)
    theirs.port = adopter.port
    yield theirs
    theirs.close()


def typed(project: Adopter, cwd: Path | None = None) -> Started:
    """``preflight``, as it is typed in a folder of a project."""
    program = str(project.installed / "bin" / "preflight")
    return project.spawn(program, "--demo", "--app", "small:app", "--port", str(project.port), cwd=cwd)


@linux
@pytest.mark.parametrize("where", ["below its pyproject.toml", "elsewhere", "without a worker", "without a project"])
def test_a_suspended_instance_of_a_project_that_uses_the_package(adopter: Adopter, theirs: Adopter, where: str) -> None:
    """Whose it is can be told by the folder where it was typed: a start of another project leaves it alone."""
    adopter.write("pyproject.toml", '[project]\nname = "ours"\nversion = "0"\n')
    adopter.write("small.py", SMALL_APP)
    if where != "without a project":
        theirs.write("pyproject.toml", '[project]\nname = "theirs"\nversion = "0"\n')
    moves = "import os\nos.chdir('/')\n" if where == "elsewhere" else ""
    folder = theirs.write("backend/small.py", moves + SMALL_APP).parent
    stranger = typed(theirs, folder).until_ready()
    stranger.send(signal.SIGSTOP)
    if where == "without a worker":
        kill_worker(stranger)
    refused = typed(adopter)
    assert refused.wait() == 1, refused.output
    assert "SIGTERM" not in refused.output
    whose = "another project" if where == "without a project" else f"project theirs ({theirs.root})"
    assert f"for {whose}" in refused.output
    stranger.send(signal.SIGCONT)
    until(lambda: stranger.process.poll() is not None or listening(theirs.port), "it goes on")
    if where == "without a worker":
        stranger.until_says(BACK)
    assert get(theirs.url) == (200, "small")
    assert stranger.stop() == 0
