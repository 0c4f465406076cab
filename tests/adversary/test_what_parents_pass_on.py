"""Instances, ports and processes: what parents pass on, what is in flight, and odd applications."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import connect

from preflight.instances import unixsockets
from preflight.processes.channel import Channel
from tests import certificates
from tests.adversary.applications import Marked, head, rest, save
from tests.e2e.beside import BEARER, ECHO, PREFIX, SHOP, TOKEN, ask
from tests.e2e.clients import Clients
from tests.e2e.doubles import KEY
from tests.e2e.place import READY, ROOT, Place, Started, get, listening, make_place
from tests.e2e.processes import handed_over, kill_worker, worker_of
from tests.e2e.unixclient import Client as UnixClient
from tests.servicemanagers import Hearing
from tests.waiting import PATIENCE, until

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits and /proc are Linux's")
pytestmark = pytest.mark.usefixtures("unmeasured")

SMALL = ("--demo", "--app", "small:app")


# What a parent passes on.

# A daemon that wants to know of no child, as some supervisors are, becomes the command that it is told.
CHILDLESS = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
SAYS_NO = '''
import subprocess

import pytest

@pytest.mark.critical("Migrations", fix="migrate")
def test_migrations():
    """A program says that all is well."""
    subprocess.run(["false"], check=True)
'''
BLOCKS = "Migrations"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A guarded application, in a project with a requirement that does not hold."""
    root = tmp_path / "shop"
    (root / "preflight_suite").mkdir(parents=True)
    (root / "pyproject.toml").write_text("[tool.preflight]\n")
    (root / "preflight_suite" / "test_project.py").write_text(SAYS_NO)
    (root / "echo.py").write_text(ECHO)
    (root / "shop.py").write_text(SHOP)
    return root


def childless(place: Place, cwd: Path, *command: str) -> Started:
    environ = {"PYTHONPATH": str(ROOT), "PREFLIGHT_DEMO": "1", "PREFLIGHT_PORT": str(place.port)}
    return place.spawn(sys.executable, "-c", CHILDLESS, *command, cwd=cwd, environ=environ)


COMMANDS = {
    "a check": ("-m", "preflight", "--check-only", "--app", "echo:app"),
    "pytest": ("-m", "pytest", "-p", "preflight.plugin", "preflight_suite"),
    "uvicorn": ("-m", "uvicorn", "shop:app", "--port"),
}


@linux
@pytest.mark.parametrize("how", ["a check", "pytest", "uvicorn"])
def test_a_parent_that_ignores_the_end_of_children(place: Place, shop: Path, how: str) -> None:
    """A program that a requirement runs has failed, though SIGCHLD was ignored where the command was started."""
    more = (str(place.port),) if how == "uvicorn" else ()
    started = childless(place, shop, *COMMANDS[how], *more)
    until(lambda: started.process.poll() is not None or listening(place.port), "it has decided")
    assert not listening(place.port), started.output
    assert started.wait() != 0, started.output
    assert BLOCKS in started.output


@linux
def test_an_application_that_ignores_the_end_of_children(place: Place, shop: Path) -> None:
    """So does an application, for which the suite runs in a child of its server."""
    ignores = "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
    (shop / "shop.py").write_text(ignores + SHOP)
    environ = {"PYTHONPATH": str(ROOT), "PREFLIGHT_DEMO": "1"}
    command = [sys.executable, "-m", "uvicorn", "shop:app", "--port", str(place.port)]
    started = place.spawn(*command, cwd=shop, environ=environ)
    until(lambda: started.process.poll() is not None or listening(place.port), "it has decided")
    assert not listening(place.port), started.output
    assert started.wait() != 0
    assert BLOCKS in started.output


# What is in flight.

APP = """
import asyncio, os, time
marks = os.environ["MARKS"]

def mark(name):
    open(os.path.join(marks, name), "w").close()

async def go(name="go"):
    while not os.path.exists(os.path.join(marks, name)):
        await asyncio.sleep(0.01)

async def body(receive):
    whole = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        whole += message.get("body", b"")
        mark("part")
        if not message.get("more_body"):
            return whole

async def app(scope, receive, send):
    assert scope["type"] in ("http", "websocket")
    path = scope["path"][1:]
    if scope["type"] == "websocket":
        await receive()
        if path == "late":
            mark(path)
            await go()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": "x" * int(message["text"])})
        return
    answer = path.encode()
    if path.startswith("slow"):
        mark(path)
        await go()
    elif path == "upload":
        mark(path)
        answer = b"%d" % len(await body(receive) or b"")
    elif path == "dies":
        os._exit(7)
    elif path == "blocks":
        mark(path)
        time.sleep(1.5)
    elif path == "events":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        while True:
            await send({"type": "http.response.body", "body": b"data: x\\n\\n", "more_body": True})
            await asyncio.sleep(0.02)
    size = b"%d" % len(answer)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", size)]})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer})
    if path == "after":  # a task behind the answer, as frameworks have them
        mark(path)
        await go()
        mark("done")
"""


@pytest.fixture
def busy(place: Place) -> Marked:
    return Marked(place, "busy", APP)


def until_last(client: socket.socket) -> None:
    """Ask on this connection until an answer says that it is the last one: the end has begun in the worker."""
    came = b""
    while b"connection: close" not in came:
        client.sendall(head("x").encode())
        came = client.recv(1000)
        assert came, "it was closed without a word"
        time.sleep(0.02)


def tell(started: Started) -> None:
    started.send(signal.SIGTERM)
    started.until_says("Stopping (SIGTERM)")


def stop(busy: Marked, started: Started) -> None:
    with busy.connect() as client:
        tell(started)
        until_last(client)


def replace(busy: Marked, _started: Started) -> None:
    with busy.connect() as client:
        new = busy.start()
        until_last(client)
    new.until_ready()


def kill(busy: Marked, started: Started) -> None:
    with busy.connect() as client:
        started.send(signal.SIGKILL)
        until_last(client)
    started.wait()


ENDS = pytest.mark.parametrize("end", [stop, replace, kill])


@ENDS
def test_requests_in_one_packet(busy: Marked, end: Callable[[Marked, Started], None]) -> None:
    """Those behind the one that is answered were accepted with it: all are answered, and the last says that it is."""
    started = busy.start().until_ready()
    with busy.connect(head("slow"), head("b"), head("c")) as client:
        busy.until("slow")
        end(busy, started)
        busy.go()
        came = rest(client)
    assert [part.rpartition(b"\r\n\r\n")[2] for part in came.split(b"HTTP/1.1 200")[1:]] == [b"slow", b"b", b"c"]
    assert b"connection: close" in came.lower().split(b"http/1.1 200")[-1]


@ENDS
@pytest.mark.parametrize("how", ["chunks", "continue"])
def test_an_upload_of_unknown_length(busy: Marked, end: Callable[[Marked, Started], None], how: str) -> None:
    """The rest of a body that comes during the end is read, and answered."""
    started = busy.start().until_ready()
    more = ("Expect: 100-continue",) if how == "continue" else ()
    with busy.connect(head("upload", "Transfer-Encoding: chunked", *more, method="POST")) as client:
        if how == "continue":
            assert client.recv(100).startswith(b"HTTP/1.1 100 ")
        else:
            client.sendall(b"3\r\nabc\r\n")
            busy.until("part")
        busy.until("upload")
        end(busy, started)
        client.sendall(b"4\r\ndefg\r\n0\r\n\r\n")
        assert rest(client).endswith(b"\r\n\r\n4" if how == "continue" else b"\r\n\r\n7")


@ENDS
def test_a_task_behind_an_answer(busy: Marked, end: Callable[[Marked, Started], None]) -> None:
    """What a framework does after the answer has graceful_timeout as well."""
    started = busy.start().until_ready()
    worker = worker_of(started)
    with busy.connect(head("after")) as client:
        client.recv(1000)
        busy.until("after")
        if end is replace:
            client.close()  # as an idle one, it would keep what was replaced for graceful_timeout
        end(busy, started)
        busy.go()
        until(lambda: not psutil.pid_exists(worker) or psutil.Process(worker).status() == "zombie", "it has ended")
    assert (busy.marks / "done").exists(), started.output


def test_a_stream_of_events(busy: Marked) -> None:
    """A client of a stream that has no end does not keep the server from ending in time, and is counted."""
    started = busy.start(PREFLIGHT_GRACEFUL_TIMEOUT="500ms").until_ready()
    with busy.connect(head("events")) as client:
        client.recv(1000)
        began = time.monotonic()
        assert started.stop() == 0
        assert time.monotonic() - began < 5
        rest(client)
    assert "1 request or turn was not finished in time" in started.output
    started.left_nothing()


def test_told_to_stop_after_it_was_replaced(busy: Marked) -> None:
    """The first signal to an instance that finishes what it does, from a deployment's script, cuts nothing off."""
    old = busy.start().until_ready()
    with busy.connect(head("slow")) as client:
        busy.until("slow")
        new = busy.start().until_ready()
        old.until_says("Replaced by")
        old.send(signal.SIGTERM)
        time.sleep(0.2)
        busy.go()
        came = rest(client)
    assert came.endswith(b"\r\n\r\nslow"), old.output
    assert old.wait() == 0
    assert new.stop() == 0


def test_a_handshake_that_the_application_answers_late(busy: Marked) -> None:
    """A WebSocket that is accepted during the end is told so, or refused; nothing hangs, nothing is logged."""
    started = busy.start().until_ready()
    failed: list[BaseException] = []

    def talk() -> None:
        try:
            with connect(f"ws://127.0.0.1:{busy.place.port}/late", open_timeout=PATIENCE) as client:
                client.recv(PATIENCE)
        except (WebSocketException, OSError) as error:
            failed.append(error)

    thread = threading.Thread(target=talk)
    thread.start()
    busy.until("late")
    stop(busy, started)
    busy.go()
    thread.join(PATIENCE)
    assert failed
    assert started.wait() == 0
    assert "Traceback" not in started.output


def test_a_signal_while_the_loop_is_blocked(busy: Marked) -> None:
    """The request that blocks, and the ones that wait behind it in the queue, are all answered."""
    started = busy.start().until_ready()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(busy.connect(head("blocks")))
        busy.until("blocks")
        others = [stack.enter_context(busy.connect(head(f"x{number}"))) for number in range(50)]
        tell(started)
        assert rest(first).endswith(b"blocks")
        for number, client in enumerate(others):
            assert rest(client).endswith(f"x{number}".encode())
    assert started.wait() == 0
    started.left_nothing()


# Bytes.

ODD = {
    "an absolute address": head("").replace("GET /", f"GET http://localhost{PREFIX}/diagnostics"),
    "OPTIONS *": "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no length": head("x", "Content-Length:", method="POST"),
    "a length of words": head("x", "Content-Length: five", method="POST"),
    "a length without end": head("x", f"Content-Length: {'9' * 5000}", method="POST"),
    "a negative chunk": head("x", "Transfer-Encoding: chunked", method="POST") + "-1\r\n\r\n",
    "a chunk without end": head("x", "Transfer-Encoding: chunked", method="POST") + "f" * 40 + "\r\n",
    "a folded header": head("x", "A: b", " c"),
    "lines that end in LF": head("x").replace("\r", ""),
    "HTTP/0.9": "GET /x\r\n\r\n",
    "HTTP/1.0 with an upgrade": head("x", "Connection: Upgrade", "Upgrade: websocket", version="1.0"),
    "a handshake without a key": head("x", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    "a NUL": head("x", "A: b\0c"),
    "an escape that is cut": head("x%e4%"),
    "a host of bytes": head("x", "Host: \xff\xfe"),
    "no host": "GET /x HTTP/1.1\r\n\r\n",
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Marked]:
    place = make_place(tmp_path_factory.mktemp("served") / "place")
    busy = Marked(place, "busy", APP)
    busy.start(PREFLIGHT_REQUEST_TIMEOUT="1s", PREFLIGHT_TIMEOUT_KEEP_ALIVE="500ms").until_ready()
    yield busy
    place.close()


@pytest.mark.parametrize("what", ODD)
def test_bytes_that_are_hardly_http(served: Marked, what: str) -> None:
    """The connection ends in time, nobody gets past the login, the server goes on, and the log has no traceback."""
    (started,) = served.place.started
    worker = worker_of(started)
    with socket.create_connection(("127.0.0.1", served.place.port), PATIENCE) as client:
        client.sendall(ODD[what].encode("latin-1"))
        came = rest(client)
    assert b"run_id" not in came
    assert get(f"{served.place.url}/x") == (200, "x")
    assert worker_of(started) == worker
    assert "Traceback" not in started.output


# Clients that stall, during the end.


def test_a_body_that_stalls_at_the_end(busy: Marked) -> None:
    """request_timeout holds until the end: a client that has gone does not use up graceful_timeout."""
    started = busy.start(PREFLIGHT_REQUEST_TIMEOUT="1s", PREFLIGHT_GRACEFUL_TIMEOUT="10m").until_ready()
    with busy.connect(head("upload", "Content-Length: 9", method="POST"), "abc"):
        busy.until("part")
        stop(busy, started)
        assert started.wait() == 0


def test_an_idle_connection_at_a_replacement(busy: Marked) -> None:
    """timeout_keep_alive holds until the end: a balancer's idle connections do not keep what was replaced."""
    old = busy.start(PREFLIGHT_TIMEOUT_KEEP_ALIVE="3s", PREFLIGHT_GRACEFUL_TIMEOUT="10m").until_ready()
    with busy.connect() as client:
        new = busy.start()
        while " requirements: " not in new.output:
            client.sendall(head("x").encode())
            came = b""
            while not came.endswith(b"\r\n\r\nx"):
                came += client.recv(1000)
            time.sleep(0.05)
        old.until_says("Replaced by")
        assert old.wait() == 0


LOOPS = {
    "asyncio": "import sys\nsys.modules['uvloop'] = None\nfrom busy import app\n",
    "uvloop": "from busy import app\n",
}


@linux
@pytest.mark.parametrize("loop", LOOPS)
def test_no_more_files_when_it_is_to_stop(busy: Marked, loop: str) -> None:
    """Who could not be accepted, because the worker may open no more files, is answered once it may."""
    import resource

    busy.place.write_module("looping", LOOPS[loop])
    started = busy.start("--app", "looping:app").until_ready()
    worker = worker_of(started)
    with busy.connect(head("slow")) as first:
        busy.until("slow")
        before = resource.prlimit(worker, resource.RLIMIT_NOFILE)
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (3, before[1]))
        second = busy.connect(head("b"))
        time.sleep(0.3)
        tell(started)
        resource.prlimit(worker, resource.RLIMIT_NOFILE, before)
        busy.go()
        assert rest(first).endswith(b"slow")
        with second:
            came = rest(second)
        assert came.endswith(b"b") or loop == "uvloop", started.output  # libuv closes such connections at once
    assert started.wait() == 0
    started.left_nothing()


# TLS.


@pytest.mark.parametrize("loop", LOOPS)
def test_clients_of_tls_that_go_wrong(busy: Marked, tmp_path: Path, loop: str) -> None:
    """Plain HTTP, an old version, half a handshake, a reset, an alert, a record that is too large: all are cut off."""
    pair = certificates.make(tmp_path / "tls")
    tls = {"PREFLIGHT_SSL_CERTFILE": str(pair.certificate), "PREFLIGHT_SSL_KEYFILE": str(pair.key)}
    busy.place.write_module("looping", LOOPS[loop])
    started = busy.start("--app", "looping:app", **tls, PREFLIGHT_REQUEST_TIMEOUT="1s").until_ready()
    worker = worker_of(started)
    context = ssl.create_default_context(cafile=str(pair.certificate))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    hello = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"
    for sent in (head("x").encode(), b"", hello, b"\x15\x03\x01\0\x02\x02\x28", b"\x16\x03\x01\xff\xff" + bytes(99)):
        with busy.connect() as client:
            client.sendall(sent)
            rest(client)
    with busy.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.sendall(hello)
    with busy.connect() as raw, context.wrap_socket(raw, server_hostname="localhost") as client:
        client.sendall(head("slow").encode())
        busy.until("slow")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    busy.go()
    with busy.connect() as raw, context.wrap_socket(raw, server_hostname="localhost") as client:
        client.sendall(head("x", "Connection: close").encode())
        assert rest(client).endswith(b"x")
    assert worker_of(started) == worker
    assert started.stop() == 0
    assert "Traceback" not in started.output
    assert "never retrieved" not in started.output


# Instances that find each other.


@linux
def test_callers_that_hang_up(busy: Marked) -> None:
    """Whoever asks for the socket and goes away leaves nothing, and does not keep the queue from being emptied."""
    started = busy.start().until_ready()
    (name,) = unixsockets.abstract_names(f"preflight/{busy.place.port}/")
    before = psutil.Process(started.pid).num_fds()
    for number in range(60):
        caller = Channel(unixsockets.connect(name, PATIENCE), PATIENCE, descriptors=1)
        caller.send("handover")
        if number % 2:
            until(caller.waits, "it answers")
        caller.close()
    until(lambda: psutil.Process(started.pid).num_fds() <= before, "all of them are forgotten")
    with Clients(busy.place.port, path="/x", keeping=0, reconnecting=8) as clients:
        clients.go_on()
        started.send(signal.SIGTERM)
        until(lambda: bool(clients.refused), "it ends")
    assert clients.failed == []
    assert started.wait() == 0


def test_a_socket_that_is_reached_by_a_link(place: Place) -> None:
    """A path is the same however it is spelled: the second start replaces the first without an outage."""
    (place.folder / "run").mkdir()
    (place.folder / "link").symlink_to("run")
    path = place.folder / "run" / "app.sock"
    old = place.start(*SMALL, "--uds", str(path)).until_ready()
    for spelled in (place.folder / "link" / "app.sock", place.folder / "modules" / ".." / "run" / "app.sock"):
        status = place.run("--port-status", "--uds", str(spelled))
        assert "served by an instance of ours" in status.output
        new = place.start(*SMALL, "--uds", str(spelled)).until_ready()
        assert old.wait() == 0
        client = UnixClient(path)
        client.request("GET", "/")
        assert client.getresponse().read() == b"small"
        client.close()
        old = new
    assert old.stop() == 0
    assert not path.exists()


@linux
def test_neighbours_on_one_port(place: Place) -> None:
    """Two instances on two addresses of this machine: what is done to one leaves the other alone."""
    one = place.start(*SMALL, "--host", "127.0.0.1").until_ready()
    two = place.start(*SMALL, "--host", "127.0.0.2").until_ready()
    three = place.start(*SMALL, "--host", "127.0.0.2").until_ready()
    assert two.wait() == 0
    assert one.process.poll() is None
    assert place.run("--free-port", "--host", "127.0.0.2").process.returncode == 0
    assert three.wait() == 0
    assert get(place.url) == (200, "small")
    assert one.stop() == 0


def test_freeing_the_port_of_one_that_has_replaced(busy: Marked) -> None:
    """The port is freed, and the instance before it, which holds it no more, finishes what it does."""
    old = busy.start().until_ready()
    with busy.connect(head("slow")) as client:
        busy.until("slow")
        new = busy.start().until_ready()
        old.until_says("Replaced by")
        status = busy.place.run("--port-status")
        assert str(new.pid) in status.output
        assert busy.place.run("--free-port").process.returncode == 0
        assert new.wait() == 0
        assert old.process.poll() is None
        busy.go()
        assert rest(client).endswith(b"slow")
    assert old.wait() == 0


def test_replaced_during_a_rerun(busy: Marked) -> None:
    """The re-run ends with the instance that runs it; the new one answers, and can make its own."""
    variables = {"PREFLIGHT_TOKEN": TOKEN, "PREFLIGHT_RERUN_INTERVAL": "1s"}
    old = busy.start(**variables).until_ready()
    assert ask(old, f"{PREFIX}/diagnostics/run", "POST", headers=BEARER).status_code == 202
    new = busy.start(**variables).until_ready()
    assert old.wait() == 0
    old_report = ask(new, f"{PREFIX}/diagnostics", headers=BEARER).json()
    assert old_report["status"] == "passed"
    answer = ask(new, f"{PREFIX}/diagnostics/run", "POST", headers=BEARER)
    assert answer.status_code == 202, answer.text
    until(
        lambda: (
            ask(new, f"{PREFIX}/diagnostics/run/{answer.json()['run_id']}", headers=BEARER).json()["state"] != "running"
        ),
        "the re-run is over",
    )
    assert new.stop() == 0
    assert "Traceback" not in old.output + new.output


# Applications.

POOLS = {
    "a pool of forks": "pool = multiprocessing.get_context('fork').Pool(2)",
    "a pool of new processes": "pool = multiprocessing.get_context('spawn').Pool(2)",
    "an executor": "pool = concurrent.futures.ProcessPoolExecutor(2)\n        pool.submit(abs, 1).result()",
    "a manager": "pool = multiprocessing.Manager()",
    "a server that forks": "pool = multiprocessing.get_context('forkserver').Pool(2)",
    "a daemon": "pool = multiprocessing.Process(target=time.sleep, args=(3600,), daemon=True)\n        pool.start()",
    "threads": "pool = concurrent.futures.ThreadPoolExecutor(2)\n        pool.submit(time.sleep, 0.1)",
}
POOLED = """
import concurrent.futures, multiprocessing, os, time

async def app(scope, receive, send):
    global pool
    if scope["type"] == "lifespan":
        await receive()
        POOL
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"pooled"})
"""


@linux
@pytest.mark.parametrize("what", POOLS)
def test_processes_that_nobody_ends(place: Place, what: str) -> None:
    """They end with a worker that is killed, and with one that stops, in time; the port is free."""
    place.write_module("pooled", POOLED.replace("POOL", POOLS[what]))
    started = place.start("--demo", "--supervise", "--app", "pooled:app").until_ready()
    assert get(place.url) == (200, "pooled")
    before = set(started.family())
    kill_worker(started)
    started.until_says("The worker is back")
    until(lambda: not before & set(started.family()), "those of the first worker have gone")
    began = time.monotonic()
    assert started.stop() == 0
    assert time.monotonic() - began < 7, started.output
    started.left_nothing()


@linux
@pytest.mark.parametrize("what", ["an executor", "a manager", "a server that forks"])
def test_processes_of_a_launcher_that_is_killed(place: Place, what: str) -> None:
    """They end with the worker, which ends with its launcher; the next start has the port, and stops nobody for it."""
    place.write_module("pooled", POOLED.replace("POOL", POOLS[what]))
    options = ("--demo", "--app", "pooled:app")
    place.environ |= {"PREFLIGHT_GRACEFUL_TIMEOUT": "500ms"}
    started = place.start(*options).until_ready()
    started.send(signal.SIGKILL)
    until(lambda: not started.family(), "every process that it started has gone")
    new = place.start(*options).until_ready()
    assert "SIGTERM" not in new.output
    assert new.stop() == 0


LIFESPANS = {
    "completes twice": "await send(complete)\n        await send(complete)\n        await receive()",
    "returns early": "await send(complete)\n        return",
    "raises later": "await send(complete)\n        raise RuntimeError('later')",
    "ends before it is asked": "await send(complete)\n        await send(over)\n        await receive()",
    "says what nobody knows": "await send({'type': 'odd'})\n        await send(complete)\n        await receive()",
    "never answers": "await send(complete)\n        await receive()\n        await asyncio.sleep(3600)",
    "blocks at the end": "await send(complete)\n        await receive()\n        time.sleep(3600)",
    "cancels all": "await send(complete)\n        await receive()\n        [t.cancel() for t in asyncio.all_tasks()]",
    "fails at the end": "await send(complete)\n        await receive()\n        await send(failed)",
    "fails without a word": "await send({'type': 'lifespan.startup.failed'})",
    "is cancelled": "raise asyncio.CancelledError",
    "exits": "os._exit(0)",
    "answers nothing": "return",
}
REFUSED = ("fails without a word", "exits")
LIVING = """
import asyncio, os, time
complete, over = {"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}
failed = {"type": "lifespan.shutdown.failed"}

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        LIFESPAN
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"lives"})
"""


@pytest.mark.parametrize("what", LIFESPANS)
def test_lifespans_that_misbehave(place: Place, what: str) -> None:
    """It serves and stops in time, or does not start; it never hangs, and leaves nothing."""
    place.write_module("living", LIVING.replace("LIFESPAN", LIFESPANS[what]))
    started = place.start(
        "--demo", "--supervise", "--app", "living:app", PREFLIGHT_RESTART_BACKOFF="0", PREFLIGHT_GRACEFUL_TIMEOUT="1s"
    )
    if what in REFUSED:
        assert started.wait() == 4
        assert READY not in started.output
    else:
        started.until_ready()
        assert get(place.url) == (200, "lives")
        until(lambda: get(f"{place.url}{PREFIX}/health")[0] == 200, "our routes answer")
        began = time.monotonic()
        assert started.stop() == 0, started.output
        assert time.monotonic() - began < 8
    started.left_nothing()


def test_the_date_during_a_delay(busy: Marked) -> None:
    """Answers while drain_delay goes on have the time of the answer, and not that of the signal."""
    from email.utils import parsedate_to_datetime

    started = busy.start(PREFLIGHT_DRAIN_DELAY="60s").until_ready()
    stop(busy, started)

    def date() -> float:
        with busy.connect(head("x")) as client:
            came = rest(client).decode()
        assert "connection: close" in came
        (found,) = [line.partition(": ")[2] for line in came.splitlines() if line.lower().startswith("date: ")]
        return parsedate_to_datetime(found).timestamp()

    first = date()
    until(lambda: date() >= first + 2, "the header Date goes on")


# guard(app), where no server of its own process has it.

HOLDS = SAYS_NO.replace("false", "true")
IN_A_THREAD = """
import threading, time, urllib.request, sys
import uvicorn
from shop import app
for round in range(2):
    server = uvicorn.Server(uvicorn.Config(app, port=int(sys.argv[1]), log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while thread.is_alive() and not server.started:
        time.sleep(0.01)
    answer = urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/x").status if thread.is_alive() else "refused"
    server.should_exit = True
    thread.join()
    print("round", round, answer, flush=True)
"""
IN_A_TEST = """
import sys
from starlette.testclient import TestClient
from shop import app
for round in range(2):
    try:
        with TestClient(app, base_url="http://localhost:" + sys.argv[1]) as client:
            answer = client.get("/x").status_code, client.get("/_preflight/metrics").status_code
    except BaseException as error:
        answer = "refused"
    print("round", round, answer, flush=True)
print("without", TestClient(app).get("/x").status_code, flush=True)
"""


@pytest.mark.parametrize(
    "program, holds",
    [(IN_A_THREAD, True), (IN_A_THREAD, False), (IN_A_TEST, True), (IN_A_TEST, False)],
    ids=["thread, holds", "thread", "test, holds", "test"],
)
def test_guarded_without_a_command(place: Place, shop: Path, program: str, *, holds: bool) -> None:
    """In a thread of a notebook's or a test's process: each start asks, and nothing is served if one does not hold."""
    (shop / "preflight_suite" / "test_project.py").write_text(HOLDS if holds else SAYS_NO)
    environ = {"PYTHONPATH": str(ROOT), "PREFLIGHT_DEMO": "1"}
    started = place.spawn(sys.executable, "-c", program, str(place.port), cwd=shop, environ=environ)
    started.wait(10)
    answers = [line.split(" ", 2)[2] for line in started.stdout.splitlines() if line.startswith("round ")]
    wanted = {True: {"200", "(200, 401)"}, False: {"refused"}}[holds]
    assert len(answers) == 2, started.output
    assert set(answers) <= wanted, started.output
    started.left_nothing()


# --reload.


@pytest.mark.parametrize("typed", ["--relo", "--reload=1"])
def test_an_option_that_is_typed_in_part(project: Place, typed: str) -> None:
    """It is wrong usage: no command starts itself without end."""
    save(project, "1")
    assert project.run("--demo", "--app", "mine:app", typed).process.returncode == 2


def test_freeing_the_port_of_one_that_reloads(project: Place) -> None:
    """Its instance ends, the command waits for a change, and serves that."""
    save(project, "1")
    started = project.start("--demo", "--app", "mine:app", "--reload").until_ready()
    assert project.run("--free-port").process.returncode == 0
    started.until_says("Nothing is served (exit code 0). Waiting for a file to change.")
    assert not listening(project.port)
    save(project, "2")
    until(lambda: listening(project.port) and get(project.url) == (200, "2"), "the change is served")
    assert started.stop() == 0
    started.left_nothing()


def test_a_folder_that_is_replaced_while_it_reloads(project: Place) -> None:
    """A package is moved away and another takes its place, as a checkout of another branch does."""
    for release in "12":
        package = project.root / f"release{release}"
        package.mkdir()
        save(project, release)
        (project.root / "mine.py").rename(package / "__init__.py")
    (project.root / "release1").rename(project.root / "mine")
    started = project.start("--demo", "--app", "mine:app", "--reload").until_ready()
    assert get(project.url) == (200, "1")
    (project.root / "mine").rename(project.root / "release1")
    (project.root / "release2").rename(project.root / "mine")
    until(lambda: get(project.url) == (200, "2"), "the other one is served")
    assert started.stop() == 0
    started.left_nothing()


# Files, memory, and what outlives a worker.


@pytest.mark.parametrize("what", ["audit.log", "server.log"])
def test_a_log_that_somebody_rotates(place: Place, what: str) -> None:
    """A log that was moved away is begun anew, with its mode; nothing is written into what was moved."""
    log = place.state / what
    options = (*SMALL, "--log-file", str(place.state / "server.log"))
    started = place.start(*options, PREFLIGHT_TOKEN=TOKEN).until_ready()
    until(log.exists, "there is a log")
    log.rename(place.folder / "moved")
    before = (place.folder / "moved").read_bytes()
    assert ask(started, f"{PREFIX}/diagnostics/run", "POST", headers=BEARER).status_code == 202
    until(lambda: log.exists() and "audit rerun" in log.read_text(), "the run is in the log")
    assert started.stop() == 0
    assert log.stat().st_mode & 0o777 == 0o600
    assert (place.folder / "moved").read_bytes() == before


@linux
@pytest.mark.parametrize("megabytes", [60, 120, 200, 300, 450])
def test_little_memory(place: Place, megabytes: int) -> None:
    """Whatever lacks memory (ulimit -v), a start says so or serves; it never claims what was not asked."""
    place.before = ["prlimit", f"--as={megabytes << 20}"]
    started = place.start(*SMALL, PREFLIGHT_RUN_TIMEOUT="20s")
    until(lambda: started.process.poll() is not None or READY in started.output, "it has decided", 60)
    if started.process.poll() is None:
        assert get(place.url) == (200, "small")
        assert len(place.report()["checks"]) == 26
        assert started.stop() == 0
    else:
        assert started.wait() in (1, 3, 4), started.output
        assert READY not in started.output
    started.left_nothing()


def alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


DETACHES = """
import os, subprocess, sys, time
from small import app as small

def detach():
    if os.environ["HOW"] == "exec":
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True).pid
    pid = os.fork()
    if pid == 0:
        os.setsid()
        try:
            time.sleep(3600)
        finally:
            os._exit(0)
    return pid

async def app(scope, receive, send):
    if scope.get("path") == "/detach":
        with open(os.environ["PIDS"], "w") as file:
            file.write(str(detach()))
    await small(scope, receive, send)
"""


@linux
@pytest.mark.parametrize(
    "end, how",
    [(end, how) for end in (replace, kill_worker, stop, "free") for how in ("exec", "fork")],
)
def test_a_helper_that_was_detached(place: Place, how: str, end: object) -> None:
    """A process with a session of its own outlives the worker that has started it, and the next start as well."""
    place.write_module("detaches", DETACHES)
    pids = place.folder / "pids"
    options = ("--demo", "--supervise", "--app", "detaches:app")
    place.environ |= {"HOW": how, "PIDS": str(pids)}
    started = place.start(*options).until_ready()
    assert get(f"{place.url}/detach")[0] == 200
    helper = psutil.Process(int(pids.read_text()))
    try:
        if end is kill_worker:
            kill_worker(started)
            started.until_says("The worker is back")
        elif end is stop:
            assert started.stop() == 0
        elif end == "free":
            assert place.run("--free-port").process.returncode == 0
            assert started.wait() == 0
        if end is not kill_worker:
            new = place.start(*options).until_ready()
            assert get(place.url) == (200, "small")
            assert started.wait() == 0
            started = new
        assert alive(helper), started.output
        assert started.stop() == 0
        assert not listening(place.port)
    finally:
        with contextlib.suppress(psutil.Error):
            helper.kill()


def test_a_launcher_that_is_killed_during_a_rerun(busy: Marked) -> None:
    """The suite and the worker end by themselves, and the next start has the port."""
    variables = {"PREFLIGHT_TOKEN": TOKEN, "PREFLIGHT_GRACEFUL_TIMEOUT": "1s"}
    started = busy.start("--workers", "2", **variables).until_ready()
    assert ask(started, f"{PREFIX}/diagnostics/run", "POST", headers=BEARER).status_code == 202
    kill(busy, started)
    new = busy.start(**variables).until_ready()
    until(lambda: not started.family(), "every process that it started has gone")
    assert ask(new, f"{PREFIX}/diagnostics", headers=BEARER).json()["status"] == "passed"
    assert new.stop() == 0


TELLS = """
import os
import re
lives = os.environ["LIVES"]
with open(lives, "a") as file:
    file.write("x")
from small import app as small
if os.path.getsize(lives) > 1:
    RAISES
async def app(scope, receive, send):
    await small(scope, receive, send)
"""
ERRORS = {
    "an import": "raise RuntimeError('cannot log in with ' + os.environ['SHOP_API_KEY'])",
    "an exit": "raise SystemExit('no answer from https://x:' + os.environ['SHOP_API_KEY'] + '@shop.example')",
    "a group": "raise ExceptionGroup('all', [ValueError(os.environ['SHOP_API_KEY'])])",
    "output": "os.write(2, os.environ['SHOP_API_KEY'].encode()); os._exit(9)",
}


@pytest.mark.parametrize("what", ERRORS)
def test_a_key_in_the_last_words(place: Place, tmp_path: Path, what: str) -> None:
    """A worker that is started again and fails with a key: no log, audit, status or termination message has it."""
    place.write_module("tells", TELLS.replace("RAISES", ERRORS[what]))
    termination = tmp_path / "termination"
    with Hearing(tmp_path / "notify") as hearing:
        started = place.start(
            *("--demo", "--supervise", "--app", "tells:app", "--log-file", str(tmp_path / "server.log")),
            LIVES=str(tmp_path / "lives"),
            SHOP_API_KEY=KEY,
            NOTIFY_SOCKET=hearing.address,
            PREFLIGHT_RESTART_BACKOFF="0",
            PREFLIGHT_TERMINATION_LOG=str(termination),
        ).until_ready()
        kill_worker(started)
        assert started.wait() == 4
    assert "given up" in started.output
    written = [
        file.read_text("utf-8", "replace") for file in (*place.state.rglob("*"), *tmp_path.iterdir()) if file.is_file()
    ]
    for text in (started.output, str(hearing.messages), *written):
        assert KEY[:24] not in text
    started.left_nothing()


# What libraries and modules do to their process while they are imported.

MANNERS = {
    "a timeout for all sockets": "import socket\nsocket.setdefaulttimeout(0.05)",
    "sockets of a proxy": """
import socket
class Through(socket.socket):
    def __init__(self, family=socket.AF_INET, type=socket.SOCK_STREAM, proto=0, *args, **more):
        super().__init__(family, type, proto, *args, **more)
socket.socket = Through
""",
    "an event loop of its own": """
import asyncio
asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())
asyncio.set_event_loop(asyncio.new_event_loop())
asyncio.run(asyncio.sleep(0))
""",
    "a folder that has gone": "import os, tempfile\nfolder = tempfile.mkdtemp()\nos.chdir(folder)\nos.rmdir(folder)",
    "no output and no log": """
import io, logging, sys
sys.stdout = sys.stderr = io.StringIO()
logging.disable()
logging.getLogger().handlers.clear()
""",
    "an exit that hangs": "import atexit, time\natexit.register(time.sleep, 3600)",
    "an exit that raises": "import atexit, os\natexit.register(os._exit, 9)",
    "no files": "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))",
    "many at once": """
import locale, os, sys, tracemalloc, warnings
tracemalloc.start(5)
os.nice(19)
locale.setlocale(locale.LC_ALL, "C")
sys.stdout.reconfigure(encoding="ascii")
warnings.simplefilter("error")
""",
}


@linux
@pytest.mark.parametrize("what", MANNERS)
def test_an_import_with_odd_manners(place: Place, what: str) -> None:
    """It serves, is checked again, is replaced without an outage, and stops in order."""
    place.write_module("manners", f"{MANNERS[what]}\nfrom small import app\n")
    options = ("--demo", "--app", "manners:app")
    place.environ |= {"PREFLIGHT_TOKEN": TOKEN, "PREFLIGHT_GRACEFUL_TIMEOUT": "500ms"}
    old = place.start(*options).until_ready()
    with Clients(place.port, path="/") as clients:
        new = place.start(*options).until_ready()
        handed_over(old, new)
        clients.go_on(10)
    clients.lost_nothing()
    begun = ask(new, f"{PREFIX}/diagnostics/run", "POST", headers=BEARER).json()["run_id"]
    url = f"{PREFIX}/diagnostics/run/{begun}"
    until(lambda: ask(new, url, headers=BEARER).json()["state"] != "running", "the re-run is over")
    assert ask(new, url, headers=BEARER).json()["state"] == "finished", ask(new, url, headers=BEARER).text
    assert new.stop() == 0
    assert "Traceback" not in old.output + new.output
    new.left_nothing()


VARIABLES = {
    "development": {"PYTHONDEVMODE": "1", "PYTHONASYNCIODEBUG": "1"},
    "errors": {"PYTHONWARNINGS": "error::ResourceWarning,error::RuntimeWarning"},
    "imports": {"PYTHONPROFILEIMPORTTIME": "1"},
}


@pytest.mark.parametrize("what", VARIABLES)
def test_variables_that_look_closely(busy: Marked, what: str) -> None:
    """Python's own checks find nothing to complain of: no resource is left open, no thread calls where it must not."""
    busy.place.environ |= VARIABLES[what]
    old = busy.start("--workers", "2").until_ready()
    with busy.connect(head("slow", "Connection: close")) as client:
        busy.until("slow")
        new = busy.start().until_ready()
        busy.go()
        assert rest(client).endswith(b"slow")
    assert old.wait() == 0
    assert new.stop() == 0
    for said in ("Traceback", "ResourceWarning", "RuntimeWarning", "never awaited", "Exception ignored"):
        assert said not in old.output + new.output


# Whom a start stops.

# Listens, and has started a job that is to outlive it: in a session of its own, without the socket.
EMPLOYS = """
import signal, socket, subprocess, sys
held = socket.create_server(("127.0.0.1", int(sys.argv[1])))
waits = [sys.executable, "-c", "import time; time.sleep(3600)"]
job, helper = subprocess.Popen(waits, start_new_session=True), subprocess.Popen(waits)
print("job", job.pid, helper.pid, flush=True)
signal.pause()
"""


@pytest.fixture
def employer(place: Place) -> Started:
    """A stale server of this user's, and its job."""
    return place.spawn(sys.executable, "-c", EMPLOYS, str(place.port)).until_says("\n")


def job_of(employer: Started) -> psutil.Process:
    return psutil.Process(int(employer.stdout.split()[1]))


def test_a_job_that_a_stale_server_has_detached(place: Place, employer: Started) -> None:
    """Only who listens is stopped: a job in a session of its own is no part of the server, and goes on."""
    job = job_of(employer)
    started = place.start(*SMALL).until_ready()
    try:
        assert alive(job), started.output
        assert started.stop() == 0
    finally:
        with contextlib.suppress(psutil.Error):
            job.kill()


def test_a_dry_run_names_everybody(place: Place, employer: Started) -> None:
    """What would be stopped is what is stopped."""
    job = job_of(employer)
    try:
        helper = psutil.Process(int(employer.stdout.split()[2]))
        foreseen = place.run("--free-port", "--dry-run").output
        assert alive(helper)
        assert place.run("--free-port").process.returncode == 0
        assert re.search(rf"^Would stop: .*\(PID {employer.pid}\b", foreseen, re.MULTILINE)
        assert f"Would also stop their descendants: {helper.name()} (PID {helper.pid})\n" in foreseen
        assert alive(job)
        assert not alive(helper)
    finally:
        with contextlib.suppress(psutil.Error):
            job.kill()


def test_a_websocket_during_a_delay(busy: Marked) -> None:
    """One that is opened while drain_delay goes on is served, and told of the end."""
    started = busy.start(PREFLIGHT_DRAIN_DELAY="2s", PREFLIGHT_GRACEFUL_TIMEOUT="1s").until_ready()
    stop(busy, started)
    with connect(f"ws://127.0.0.1:{busy.place.port}/x") as client:
        client.send("3")
        assert client.recv(PATIENCE) == "xxx"
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(PATIENCE)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    assert started.wait() == 0
    started.left_nothing()


HANGS_UP = """
import asyncio, os
from small import app as small
async def app(scope, receive, send):
    if scope.get("path") == "/dies":
        asyncio.get_running_loop().call_later(0.2, os._exit, 7)
        await asyncio.sleep(3600)
    await small(scope, receive, send)
"""


def test_crashes_while_it_is_replaced(place: Place) -> None:
    """The old worker dies again and again while the new instance is checked: nobody is refused, one serves at last."""
    place.write_module("dying", HANGS_UP)
    options = ("--demo", "--supervise", "--app", "dying:app")
    place.environ |= {"PREFLIGHT_RESTART_LIMIT": "99", "PREFLIGHT_RESTART_BACKOFF": "0"}
    old = place.start(*options).until_ready()
    over = threading.Event()

    def kills() -> None:
        while not over.is_set():
            with contextlib.suppress(AssertionError, ProcessLookupError):
                kill_worker(old)
            over.wait(0.2)

    thread = threading.Thread(target=kills)
    thread.start()
    try:
        new = place.start(*options).until_ready()
    finally:
        over.set()
        thread.join()
    assert get(place.url) == (200, "small")
    assert old.wait() in (0, 4)
    assert new.stop() == 0
    new.left_nothing()
