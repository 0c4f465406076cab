"""What ends, hangs, spins or leaks: starts, replacements, --reload, drains and shutdowns."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from preflight.processes.openfiles import RESERVE
from tests import certificates
from tests.adversary.applications import Marked, head, rest, save
from tests.e2e.beside import BEARER, TOKEN, ask
from tests.e2e.chatting import client
from tests.e2e.clients import Clients
from tests.e2e.place import READY, Place, Started, get, listening
from tests.e2e.processes import worker_of, workers_of
from tests.waiting import PATIENCE, until

linux = pytest.mark.skipif(sys.platform != "linux", reason="namespaces and prctl are Linux's")
pytestmark = pytest.mark.usefixtures("unmeasured")

SMALL = ("--demo", "--app", "small:app")
RELOADING = ("--demo", "--app", "mine:app", "--reload")


def spent(pid: int) -> float:
    """Seconds of a processor that a process has taken so far."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


@linux
@pytest.mark.parametrize("limit", ["instances", "watches"])
def test_more_files_than_may_be_watched(project: Place, limit: str) -> None:
    """A limit of inotify is reached: that is said, the server serves, and the command rests."""
    save(project, "1")
    limits = f'echo 0 >/proc/sys/user/max_inotify_{limit} && exec "$@"'
    project.before = ["unshare", "--map-root-user", "sh", "-c", limits, "sh"]
    if subprocess.run([*project.before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let this user set a limit in a user namespace")
    started = project.start(*RELOADING).until_ready().until_says("--reload no longer notices changes: ")
    assert get(project.url) == (200, "1")
    before, since = spent(started.pid), time.monotonic()
    time.sleep(3)
    assert spent(started.pid) - before < (time.monotonic() - since) / 5
    assert started.stop() == 0
    started.left_nothing()


def venv(folder: Path) -> Path:
    """Another virtual environment with the packages of this one; its Python."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
    shutil.copy2(Path(sys.prefix) / "pyvenv.cfg", folder)
    (folder / "lib").symlink_to(Path(sysconfig.get_path("purelib")).parents[1])
    return folder / "bin" / "python"


def test_an_environment_that_is_made_anew(project: Place) -> None:
    """.venv is away for a moment when a file changes: the instance goes on, and a later change is served."""
    save(project, "1")
    python = venv(project.folder / "venv")
    command = [str(python), "run.py", "--port", str(project.port), *RELOADING]
    started = project.spawn(*command).until_ready()
    (project.folder / "venv").rename(project.folder / "away")
    save(project, "2")
    started.until_says("mine.py changed")
    started.until_says("The next instance did not start (exit code 4); PID ")
    assert get(project.url) == (200, "1")
    (project.folder / "away").rename(project.folder / "venv")
    save(project, "3")
    until(lambda: get(project.url) == (200, "3"), "a later change is served")
    assert started.stop() == 0
    assert "Traceback" not in started.output
    started.left_nothing()


# Several workers.


@linux
def test_no_room_for_one_of_several(place: Place) -> None:
    """No process can be started for longer than restart_window: the other worker serves on, and is joined later."""
    place.environ |= {"PREFLIGHT_RESTART_WINDOW": "1s"}
    started = place.start(*SMALL, "--supervise", "--workers", "2").until_ready()
    before = resource.prlimit(started.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(started.pid, resource.RLIMIT_NOFILE, (3, before[1]))
    os.kill(workers_of(started)[0], signal.SIGKILL)
    started.until_says("Too many open files")
    time.sleep(3)
    assert started.process.poll() is None, started.output
    assert get(place.url) == (200, "small")
    resource.prlimit(started.pid, resource.RLIMIT_NOFILE, before)
    started.until_says("is back (PID ")
    assert started.stop() == 0
    started.left_nothing()


def test_one_that_stands_still_when_all_are_to_stop(place: Place) -> None:
    """Whichever worker hangs at that moment, nobody gets into a queue that nobody empties any more."""
    started = place.start(*SMALL, "--workers", "2").until_ready()
    one, two = workers_of(started)
    os.kill(one, signal.SIGSTOP)
    started.send(signal.SIGTERM)
    until(lambda: not psutil.pid_exists(two) or psutil.Process(two).status() == "zombie", "the other one has ended")
    assert not listening(place.port)
    os.kill(one, signal.SIGCONT)
    assert started.wait() == 0
    started.left_nothing()


def test_chat_while_the_command_is_stopped(place: Place) -> None:
    """Ctrl-Z, for a long talk: what workers tell each other through the launcher keeps none of them from answering."""
    started = place.start("--demo", "--workers", "2", PREFLIGHT_CHAT_RATE="100000").until_ready()
    started.send(signal.SIGSTOP)
    try:
        with client(place.url) as talking:
            talking.init()
            for _ in range(300):
                talking.answer("what is the version?")
        assert get(f"{place.url}/health/live")[0] == 200
    finally:
        started.send(signal.SIGCONT)
    assert started.stop() == 0


# An application of many paths. It makes a file in the folder MARKS when it was asked, and waits there for "go".

APP = """
import asyncio, os, signal, subprocess, sys, threading, time
marks = os.environ["MARKS"]

async def waits(path):
    open(os.path.join(marks, path), "w").close()
    while not os.path.exists(os.path.join(marks, "go")):
        await asyncio.sleep(0.01)

async def body(receive):
    whole = b""
    while True:
        message = await receive()
        whole += message.get("body", b"")
        if not message.get("more_body"):
            return whole

async def app(scope, receive, send):
    assert scope["type"] in ("http", "websocket")
    path = scope["path"][1:]
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": str(len(message.get("text") or ""))})
        return
    answer = path.encode()
    if path.startswith("slow"):
        await waits(path)
    elif path == "upload":
        await waits(path)
        answer = b"%d" % len(await body(receive))
    elif path == "large":
        answer = bytes(24 << 20)
    elif path == "parent":
        os.kill(os.getppid(), signal.SIGTERM)
        await waits("asked")
    elif path == "dies":
        os._exit(7)
    elif path == "children":
        stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
        answer = b"%d" % subprocess.Popen([sys.executable, "-c", stubborn]).pid
    elif path == "thread":
        threading.Thread(target=time.sleep, args=(3600,)).start()
    elif path == "handlers":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: os._exit(9))
    size = b"%d" % len(answer)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", size)]})
    await send({"type": "http.response.body", "body": answer})
"""


@pytest.fixture
def asked(place: Place) -> Marked:
    return Marked(place, "asked", APP)


# Drains, and other ends.


def stop(asked: Marked, started: Started) -> None:
    started.send(signal.SIGTERM)
    started.until_says("Stopping (SIGTERM)")


def replace(asked: Marked, started: Started) -> None:
    asked.start().until_ready()


def kill(asked: Marked, started: Started) -> None:
    started.send(signal.SIGKILL)


LOOPS = {
    "asyncio": "import sys\nsys.modules['uvloop'] = None\nfrom asked import app\n",
    "uvloop": "from asked import app\n",
}
"""The application in each of the event loops that a worker may have."""


def encryption(folder: Path) -> tuple[dict[str, str], ssl.SSLContext]:
    """A server's variables with a new certificate, and its clients' context."""
    pair = certificates.make(folder / "tls")
    return {"PREFLIGHT_SSL_CERTFILE": str(pair.certificate), "PREFLIGHT_SSL_KEYFILE": str(pair.key)}, pair.trusting()


TAKEN = [
    *((end, workers, False, "") for end in (stop, replace, kill) for workers in "12"),
    (None, "1", True, ""),
    (None, "1", True, "Connection: close"),
    (stop, "1", True, ""),
]


@pytest.mark.parametrize("end, workers, encrypted, header", TAKEN)
def test_an_answer_that_is_still_being_taken(
    asked: Marked, tmp_path: Path, end: Callable[..., None] | None, workers: str, *, encrypted: bool, header: str
) -> None:
    """A client that takes a long answer slowly gets the whole of it, although the application was done at once."""
    tls, context = encryption(tmp_path)
    started = asked.start("--workers", workers, **(tls if encrypted else {})).until_ready()
    raw = asked.connect()
    with context.wrap_socket(raw, server_hostname="localhost") if encrypted else raw as client:
        client.sendall(head("large", *([header] if header else [])).encode())
        taken = len(client.recv(1000))
        if end is not None:
            end(asked, started)
        time.sleep(4)  # a network that is slow, or a reader that is
        while taken <= 24 << 20 and (data := client.recv(1 << 20)):
            taken += len(data)
    assert taken > 24 << 20
    if end is None:
        started.send(signal.SIGTERM)
    assert started.wait() == (-9 if end is kill else 0)
    assert "Traceback" not in started.output
    assert "not finish" not in started.output


@pytest.mark.parametrize("loop", LOOPS)
def test_a_stop_while_a_client_of_https_is_told_to_go(asked: Marked, tmp_path: Path, loop: str) -> None:
    """An idle connection is closed, its client does not answer, and the server is asked to stop: it ends in order."""
    tls, context = encryption(tmp_path)
    asked.place.write_module("looped", LOOPS[loop])
    started = asked.start("--app", "looped:app", PREFLIGHT_TIMEOUT_KEEP_ALIVE="1s", **tls).until_ready()
    with context.wrap_socket(asked.connect(), server_hostname="localhost") as client:
        client.sendall(head("small").encode())
        while client.recv(1 << 16):
            pass  # it says that it closes, and nothing answers that
        assert started.stop() == 0
    assert "Traceback" not in started.output
    assert "not finish" not in started.output


@pytest.mark.parametrize("loop", LOOPS)
def test_room_is_made_where_nobody_answers_the_end_of_tls(asked: Marked, tmp_path: Path, loop: str) -> None:
    """Connections that make room for others are gone, whatever their clients do: no more are open than may be."""
    tls, context = encryption(tmp_path)
    asked.place.write_module("looped", LOOPS[loop])
    started = asked.start("--app", "looped:app", PREFLIGHT_CONNECTIONS="16", **tls).until_ready()
    descriptors = Path(f"/proc/{worker_of(started)}/fd")
    before, silent = len(list(descriptors.iterdir())), []
    for _ in range(200):
        with contextlib.suppress(OSError):  # one too many
            silent.append(context.wrap_socket(asked.connect(), server_hostname="localhost"))
    until(lambda: len(list(descriptors.iterdir())) - before <= 16 + RESERVE, "the others have gone")
    for one in silent:
        one.close()
    assert started.stop() == 0


def test_an_answer_that_is_never_taken(asked: Marked) -> None:
    """It keeps nobody for longer than graceful_timeout, and it is said that a client did not get everything."""
    started = asked.start(PREFLIGHT_GRACEFUL_TIMEOUT="2s").until_ready()
    with asked.connect(head("large")) as client:
        client.recv(1000)
        assert started.stop() == 0
    assert "1 request or turn was not finished in time." in started.output
    started.left_nothing()


POST = "POST /upload HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = f"{POST}Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n"
EXPECTS = f"{POST}Content-Length: 10\r\nExpect: 100-continue\r\n\r\n"
IN_FLIGHT = {
    "chunked": (CHUNKED, "5\r\nworld\r\n0\r\nX-Sum: 1\r\n\r\n", "upload", [b"\r\n\r\n10"]),
    "expects": (EXPECTS, "helloworld", "upload", [b"100 Continue", b"\r\n\r\n10"]),
    "old": (head("slow", version="1.0"), "", "slow", [b"\r\n\r\nslow"]),
    "pipelined": (head("slow") + head("slow2"), "", "slow", [b"\r\n\r\nslow", b"\r\n\r\nslow2"]),
}


@pytest.mark.parametrize("end", [stop, replace])
@pytest.mark.parametrize("kind", IN_FLIGHT)
def test_in_flight_in_other_ways(asked: Marked, kind: str, end: Callable[..., None]) -> None:
    """What is in flight is answered whatever form it has: in chunks, with trailers, in HTTP/1.0, pipelined."""
    begun, more, path, answers = IN_FLIGHT[kind]
    started = asked.start().until_ready()
    with asked.connect(begun) as client:
        asked.until(path)
        end(asked, started)
        asked.go()
        client.sendall(more.encode())
        came = rest(client)
    assert all(answer in came for answer in answers), came
    assert started.wait() == 0
    assert "not finish" not in started.output


@pytest.mark.parametrize("end", [stop, replace, kill])
def test_a_thousand_idle_connections(asked: Marked, end: Callable[..., None]) -> None:
    """They are closed in order, and hold up nothing."""
    started = asked.start(PREFLIGHT_GRACEFUL_TIMEOUT="5s").until_ready()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(asked.connect(head("x"))) for _ in range(1000)]
        for client in clients:
            answer = b""
            while not answer.endswith(b"\r\n\r\nx"):
                answer += client.recv(1000)
        end(asked, started)
        assert {rest(client) for client in clients} == {b""}
    assert started.wait() == (-9 if end is kill else 0)
    assert "not finish" not in started.output


def test_a_request_on_a_connection_that_was_idle_at_a_replacement(asked: Marked) -> None:
    """The instance that has it answers it, as the last one of that connection."""
    old = asked.start().until_ready()
    with asked.connect(head("x")) as client:
        client.recv(1000)
        new = asked.start().until_ready()
        old.until_says("Replaced by")
        client.sendall(head("y").encode())
        came = rest(client)
    assert b"connection: close" in came
    assert came.endswith(b"\r\n\r\ny")
    assert old.wait() == 0
    assert new.stop() == 0


@pytest.mark.parametrize("what", ["parent", "children", "thread", "handlers"])
def test_what_an_application_does_to_its_end(asked: Marked, what: str) -> None:
    """It asks its launcher to stop, has stubborn children, a thread that never ends, handlers of its own."""
    started = asked.start(PREFLIGHT_GRACEFUL_TIMEOUT="5s").until_ready()
    with asked.connect(head("slow")) as waiting, asked.connect(head(what)) as client:
        asked.until("slow")
        if what == "parent":
            asked.until("asked")
        else:
            client.recv(1000)
            started.send(signal.SIGTERM)
        started.until_says("Stopping (SIGTERM)")
        asked.go()
        assert rest(waiting).endswith(b"\r\n\r\nslow")
    assert started.wait() == 0
    started.left_nothing()


def test_websockets_in_the_middle_of_things(asked: Marked) -> None:
    """One with half a message, one that floods, one that reads nothing: the end is in time, and who reads is told."""
    started = asked.start(PREFLIGHT_GRACEFUL_TIMEOUT="10s").until_ready()
    with contextlib.ExitStack() as stack:
        half, floods, deaf = (stack.enter_context(connect(f"ws://127.0.0.1:{asked.place.port}/")) for _ in range(3))
        half.socket.sendall(b"\x01\x85\0\0\0\0hello")
        over = threading.Event()

        def flood() -> None:
            with contextlib.suppress(Exception):
                while not over.is_set():
                    floods.send("x" * 1000)

        thread = threading.Thread(target=flood)
        thread.start()
        deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        began = time.monotonic()
        assert started.stop() == 0
        assert time.monotonic() - began < 8
        with pytest.raises(ConnectionClosed) as closed:
            half.recv(PATIENCE)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        over.set()
        thread.join()
    started.left_nothing()


# What is left open or behind.

SHARES = """
import os
from multiprocessing import shared_memory
from small import app as small
block = shared_memory.SharedMemory(create=True, size=1 << 20, name=os.environ["BLOCK"] + str(os.getpid()))
async def app(scope, receive, send):
    if scope.get("path") == "/dies":
        os._exit(7)
    await small(scope, receive, send)
"""


@linux
@pytest.mark.parametrize("how", ["stops", "dies"])
def test_shared_memory_that_nobody_frees(place: Place, how: str) -> None:
    """Python's own process for that frees it, after a stop and after a crash: /dev/shm does not fill up."""
    place.write_module("shares", SHARES)
    block = f"of-a-test-{os.getpid()}-{how}-"
    started = place.start("--demo", "--supervise", "--app", "shares:app", BLOCK=block).until_ready()
    assert len(list(Path("/dev/shm").glob(f"{block}*"))) == 1
    if how == "dies":
        with contextlib.suppress(OSError):
            get(f"{place.url}/dies")
        started.until_says("is back (PID ")
    assert started.stop() == 0
    until(lambda: not list(Path("/dev/shm").glob(f"{block}*")), "it is freed")
    started.left_nothing()


def test_nothing_leaks(asked: Marked) -> None:
    """Crashes, and clients that reset: descriptors, children and temporary files are as before."""
    temporary = asked.place.folder / "temporary"
    temporary.mkdir()
    started = asked.start(PREFLIGHT_RESTART_BACKOFF="10ms", TMPDIR=str(temporary)).until_ready()

    def crash() -> None:
        (pid,) = workers_of(started)
        with asked.connect(head("dies")) as client:
            rest(client)
        until(lambda: workers_of(started) not in ([], [pid]) and listening(asked.place.port), "another one is there")
        until(lambda: bool(get(f"{asked.place.url}/x")), "it answers")

    crash()
    before = psutil.Process(started.pid).num_fds()
    for _ in range(5):
        crash()
    assert psutil.Process(started.pid).num_fds() <= before
    assert len(psutil.Process(started.pid).children()) == 1
    (worker,) = workers_of(started)
    before = psutil.Process(worker).num_fds()
    for number in range(300):
        with asked.connect(head("large")[: -2 * (number % 2) or None]) as client:  # in its request, or in its answer
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    until(lambda: psutil.Process(worker).num_fds() <= before + 1, "the connections are closed")
    assert started.stop() == 0
    assert list(temporary.iterdir()) == []
    started.left_nothing()


# Starts, replacements and neighbours.


def test_a_launcher_whose_environment_is_made_anew(project: Place) -> None:
    """.venv and checkout are away: routes answer, a re-run says what is wrong, one worker's crash ends nothing."""
    asked = Marked(project, "asked", APP)
    python = venv(project.folder / "venv")
    command = [str(python), "run.py", "--port", str(project.port), *asked.options, "--workers", "2"]
    variables = {"PREFLIGHT_TOKEN": TOKEN, "PREFLIGHT_NOTIFY": "json://127.0.0.1:1/x", "PREFLIGHT_RERUN_INTERVAL": "1s"}
    started = project.spawn(*command, environ=variables).until_ready()
    (project.folder / "venv").rename(project.folder / "away")
    project.root.rename(project.folder / "elsewhere")
    assert get(f"{project.url}/x") == (200, "x")
    assert get(f"{project.url}/_preflight/health")[0] == 200
    assert ask(started, "/_preflight/diagnostics/run", "POST", headers=BEARER).status_code == 202
    started.until_says("the suite could not be run")
    assert ask(started, "/_preflight/diagnostics", headers=BEARER).status_code == 200
    os.kill(workers_of(started)[0], signal.SIGKILL)
    started.until_says("no process can be started")
    assert get(f"{project.url}/x") == (200, "x")
    started.send(signal.SIGTERM)
    assert started.wait() == 0
    assert "Traceback" not in started.output
    started.left_nothing()


NO_IPV6 = """
import socket
class Socket(socket.socket):
    def __init__(self, family=-1, *more, **options):
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        super().__init__(family, *more, **options)
socket.socket = Socket
"""


@pytest.mark.parametrize("host", ["::", "::1"])
def test_a_machine_without_ipv6(place: Place, host: str) -> None:
    """Where the kernel has none (ipv6.disable=1), an address of it blocks the start, which says why."""
    place.write_module("sitecustomize", NO_IPV6)
    token = "Rt5gTj9BnV1cXr8MwQ2eLk7P"
    started = place.refused(*SMALL, "--host", host, PREFLIGHT_TOKEN=token)
    assert "this machine has no IPv6" in started.output
    assert place.refused(*SMALL, "--host", host, "--check-only", PREFLIGHT_TOKEN=token).process.returncode == 1


NO_THREAD = """
import threading
start = threading.Thread.start
def refuse(self):
    if self.name == "registrar":
        raise RuntimeError("can't start new thread")
    start(self)
threading.Thread.start = refuse
"""


def test_no_room_for_the_fleet(place: Place) -> None:
    """At the limit of a user's processes, what reports to the fleet waits; the server serves."""
    options = (*SMALL, "--supervise")
    url = "postgresql://me:secret@127.0.0.1:1/fleet"
    started = place.start_program(place.prepared(NO_THREAD), *options, PREFLIGHT_DATABASE_URL=url).until_ready()
    assert get(place.url) == (200, "small")
    assert started.stop() == 0
    assert "Traceback" not in started.output
    started.left_nothing()


def test_one_hangs_while_another_crashes(asked: Marked) -> None:
    """Of three workers: both are back, and the third has gone on."""
    started = asked.start("--workers", "3", PREFLIGHT_HEARTBEAT="3s").until_ready()
    one, two, three = workers_of(started)
    os.kill(one, signal.SIGSTOP)
    os.kill(two, signal.SIGKILL)
    until(lambda: started.output.count("is back (PID ") == 2, "both are back")
    assert three in workers_of(started)
    assert len(workers_of(started)) == 3
    with Clients(asked.place.port, path="/x") as clients:
        clients.go_on()
    clients.lost_nothing()
    assert started.stop() == 0
    started.left_nothing()


def test_several_replacements_at_once(asked: Marked) -> None:
    """Each waits for the one before: nobody is refused, what is in flight is answered, and one of them serves."""
    first = asked.start().until_ready()
    with Clients(asked.place.port, path="/x") as clients, asked.connect(head("slow")) as client:
        asked.until("slow")
        others = [asked.start("--workers", workers) for workers in "123"]
        until(lambda: sum(one.process.poll() is None for one in others) == 1, "one of them is left")
        clients.go_on()
        asked.go()
        assert rest(client).endswith(b"\r\n\r\nslow")
    clients.lost_nothing()
    assert first.wait() == 0
    (last,) = [one for one in others if one.process.poll() is None]
    assert last.stop() == 0


def test_a_start_beside_one_that_reloads(project: Place) -> None:
    """Typed while a change is served: one of both serves in the end, and no client is refused."""
    save(project, "1")
    started = project.start(*RELOADING).until_ready()
    with Clients(project.port, path="/") as clients:
        save(project, "2")
        started.until_says("mine.py changed")
        other = project.start("--demo", "--app", "mine:app")
        until(lambda: "Nothing to do" in other.output or READY in other.output, "the other start has come to its end")
        clients.go_on()
    clients.lost_nothing()
    assert get(project.url) == (200, "2")
    if other.process.poll() is None:
        assert other.stop() == 0
    assert started.stop() == 0


def test_a_project_that_was_renamed(project: Place) -> None:
    """A start from the folder's new name replaces the instance that was started from the old one."""
    old = project.start(*SMALL).until_ready()
    renamed = project.root.with_name("renamed")
    project.root.rename(renamed)
    project.root = renamed
    with Clients(project.port, path="/") as clients:
        new = project.start(*SMALL).until_ready()
        assert old.wait() == 0
        clients.go_on()
    clients.lost_nothing()
    assert new.stop() == 0


@pytest.mark.parametrize("what", ["file", "socket", "gone"])
def test_a_path_that_somebody_else_has_taken(place: Place, what: str) -> None:
    """What was put in the place of the socket's file is left there when the server ends."""
    path = place.folder / "app.sock"
    started = place.start(*SMALL, "--uds", str(path)).until_ready()
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        if what == "file":
            path.write_text("mine")
        elif what == "socket":
            other.bind(str(path))
            other.listen()
        assert started.stop() == 0
        assert path.exists() == (what != "gone")
    assert "Traceback" not in started.output


@linux
def test_a_neighbour_that_is_not_in_the_way(place: Place) -> None:
    """A server of IPv6 alone on [::] goes on, when a stale one on 127.0.0.1 is stopped for the same port."""
    with socket.socket(socket.AF_INET6) as six:
        six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        six.bind(("::", place.port))
        six.listen()
        held = place.spawn("sleep", "3600", pass_fds=[six.fileno()])
    stale = place.listener()
    started = place.start(*SMALL).until_ready()
    assert stale.wait() == -signal.SIGTERM
    assert held.process.poll() is None
    assert started.stop() == 0


def test_clients_that_say_that_they_are_done(asked: Marked) -> None:
    """A client that closes its half of the connection behind its request holds up nothing and breaks nothing."""
    started = asked.start().until_ready()
    for path in ("slow", "x", "large"):
        with asked.connect(head(path)) as client:
            client.shutdown(socket.SHUT_WR)
            rest(client)
    assert get(f"{asked.place.url}/x") == (200, "x")
    asked.go()
    assert started.stop() == 0
    assert "Traceback" not in started.output


def test_readiness_at_a_replacement(place: Place) -> None:
    """What was replaced accepts nothing more, however long drain_delay is: no load balancer gets a 503 from it."""
    old = place.start("--demo", PREFLIGHT_DRAIN_DELAY="10s").until_ready()
    new = place.start("--demo").until_ready()
    old.until_says("Replaced by")
    assert {get(f"{place.url}/health/ready")[0] for _ in range(60)} == {200}
    assert old.wait() == 0
    assert new.stop() == 0


RAISES = """
from small import app as small
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        if WHEN == "asked":
            await receive()
        raise NotImplementedError(scope["type"])
    await small(scope, receive, send)
"""


@pytest.mark.parametrize("when", ["called", "asked"])
def test_an_application_without_a_lifespan(place: Place, when: str) -> None:
    """It says so by what it raises: it is served, and nothing is said of our own routes at the end."""
    place.write_module("raises", RAISES.replace("WHEN", repr(when)))
    started = place.start("--demo", "--app", "raises:app").until_ready()
    assert get(f"{place.url}/_preflight/health")[0] == 200
    assert started.stop() == 0
    assert "Traceback" not in started.output
    assert ("served without a lifespan" in started.output) == (when == "asked")
