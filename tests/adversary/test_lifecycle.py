"""Applications and operators that make a life cycle hard: what works is let be, what does not is found out and said."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from preflight.processes.worker import Worker
from preflight.settings import loading
from preflight.settings.fields import SettingsError
from preflight.worker.application import load
from tests.e2e import clocks
from tests.e2e.clients import Clients
from tests.e2e.place import READY, ROOT, Place, Started, get
from tests.e2e.processes import BACK, kill_worker, worker_of
from tests.privileges import WITHOUT, unprivileged
from tests.waiting import PATIENCE, until

PLAIN = """
async def plain(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"served"})
"""
# Does in its start-up and for a request what it is told to.
GUARDED = """
import asyncio, os, sys, threading, time
LIVES = os.environ["LIVES"]
with open(LIVES, "a") as file:
    file.write("x")
life = os.path.getsize(LIVES)
how = os.environ.get("HOW", "")
gate = os.environ["GATE"]

def keep_a_thread():
    threading.Thread(target=time.sleep, args=(3600,)).start()

def many_threads():
    for _ in range(150):
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()

def stands_still():
    while True:
        time.sleep(1)

async def start_up():
    print("starting up", flush=True)
    if how == "fails beside a thread":
        keep_a_thread()
        raise RuntimeError("the model is not there")
    if how == "waits":
        while not os.path.exists(gate):
            await asyncio.sleep(0.01)
    if how == "writes":
        for number in range(30_000):
            print("a line of a start-up that has much to say,", number, "of 30000")
    if how == "children":
        import multiprocessing
        for method in ("fork", "spawn"):
            children = multiprocessing.get_context(method)
            for _ in range(10 if method == "fork" else 1):
                children.Process(target=time.sleep, args=(3600,), daemon=True).start()

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        try:
            await start_up()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["type"] == "websocket":
        await receive()
        if scope["path"] == "/undecided":
            print("asked /undecided", flush=True)
            await asyncio.Event().wait()
        await send({"type": "websocket.accept"})
        print("accepted", flush=True)
        await receive()
        return
    path = scope["path"]
    if path != "/any":
        print("asked", path, flush=True)
    if path == "/threads":
        many_threads()
        stands_still()
    if path == "/user":
        os.setresuid(7777, 7777, 7777)
    if path == "/exec":
        os.execv("/bin/sleep", ["sleep", "3600"])
    if path == "/exit":
        keep_a_thread()
        asyncio.get_running_loop().create_task(leave())
    if path == "/slow":
        for _ in range(6):
            time.sleep(1)
            await asyncio.sleep(0)
    if path == "/" and how == "waits to answer":
        while not os.path.exists(gate):
            await asyncio.sleep(0.01)
    if path == "/" and how == "hangs at the first request":
        stands_still()
    size = 0
    if path == "/upload":
        more = True
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if path == "/stream" or (path == "/" and how == "streams for ever"):
        left = asyncio.create_task(has_left(receive))
        while not left.done() and (path == "/" or not os.path.exists(gate)):
            await send({"type": "http.response.body", "body": b".", "more_body": True})
            await asyncio.sleep(0.01)
        left.cancel()
    await send({"type": "http.response.body", "body": f"life {life} {size}".encode()})

async def has_left(receive):
    while (await receive())["type"] != "http.disconnect":
        pass
    print("stream ended", flush=True)

async def leave():
    sys.exit(5)
"""
REJECTED = "THE NEW SERVER DOES NOT ANSWER: the old server keeps running"
HANGS = "THE SERVER HANGS"

names = itertools.count()


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Writes a module with this source, which defines ``app``; returns the application's name."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    written: list[str] = []

    def write(source: str) -> str:
        written.append(f"shaped_{next(names)}")
        (tmp_path / f"{written[-1]}.py").write_text(PLAIN + source)
        return f"{written[-1]}:app"

    yield write
    for name in written:
        sys.modules.pop(name, None)


def imported(name: str) -> tuple[str | None, str]:
    """What a worker says of the import of an application: its error, and what it printed."""
    worker = Worker(loading.load(ROOT, options={"demo": True, "app": name}))
    try:
        error = worker.wait_for_import()
        return error, "\n".join([*worker.child.lines, *(worker.child.drain_output() if worker.child.ended() else [])])
    finally:
        worker.child.close()


def guarded(place: Place, how: str = "", *options: str, **environ: str) -> Started:
    """A start of an application that behaves as it is told to."""
    place.write_module("guarded", GUARDED)
    quick = {"PREFLIGHT_RESTART_BACKOFF": "10ms"}
    files = {"LIVES": str(place.folder / f"lives{len(place.started)}"), "GATE": str(place.folder / "gate")}
    supervise = () if "--no-supervise" in options else ("--supervise",)
    return clocks.start(
        place, "--demo", "--app", "guarded:app", *supervise, *options, **{**quick, **files, "HOW": how, **environ}
    )


def open_gate(place: Place) -> None:
    (place.folder / "gate").touch()


class Asking(threading.Thread):
    """A request in the background; what came of it."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.answer: tuple[int, str] | None = None
        self._url = url
        self.start()

    def run(self) -> None:
        try:
            self.answer = get(self._url, timeout=30)
        except (OSError, http.client.HTTPException):
            self.answer = (0, "")

    def result(self) -> tuple[int, str] | None:
        self.join(30)
        return self.answer


# What an application is.


@pytest.mark.parametrize(
    "routes",
    [
        pytest.param("routes = None", id="none"),
        pytest.param("def routes(self): return []", id="a method"),
        pytest.param("routes = [type('Route', (), {'path': ['/health']})]", id="paths that are lists"),
        pytest.param("@property\n    def routes(self): raise RuntimeError('not built yet')", id="not built yet"),
    ],
)
def test_routes_of_a_kind_of_its_own(modules: Callable[[str], str], routes: str) -> None:
    """An application may call anything its routes: addresses are shown for what is known, and nothing is refused."""
    source = f"class App:\n    {routes}\n    async def __call__(self, *asgi): await plain(*asgi)\napp = App()\n"
    assert imported(modules(source)) == (None, "")


@pytest.mark.parametrize(
    "source, why",
    [
        ("import asyncio\nasync def app():\n    raise asyncio.CancelledError('the pool is gone')", "the pool is gone"),
        ("raise KeyboardInterrupt('no patience')", "KeyboardInterrupt: no patience"),
        ("class Gone(BaseException): pass\nraise Gone('no model')", "Gone: no model"),
        ("raise BaseExceptionGroup('both', [KeyboardInterrupt(), ValueError()])", "both (2 sub-exceptions)"),
        ("class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd()", "Odd"),
        ("import os\nos.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\nraise RuntimeError('no')", "Error: no"),
    ],
    ids=["cancelled", "interrupted", "a base", "a group", "an error that cannot be said", "its folder is gone"],
)
def test_import_that_ends_in_any_exception(
    modules: Callable[[str], str], tmp_path: Path, source: str, why: str
) -> None:
    """Whatever ends an import is told by what it says, and no traceback of the worker's own stands in its place."""
    source = source.replace("'gone'", repr(str(tmp_path / "gone")), 2).replace(
        "'../gone'", repr(str(tmp_path / "gone"))
    )
    error, printed = imported(modules(source))
    assert error is not None
    assert why in error
    assert "worker.py" not in printed


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(
            "class Meta(type):\n    def __call__(cls, scope, receive, send): return plain(scope, receive, send)\n"
            "class app(metaclass=Meta): pass",
            id="a class whose class says what a call is",
        ),
        pytest.param(
            "class app:\n    def __new__(cls, scope, receive, send): return plain(scope, receive, send)",
            id="a class whose calls make coroutines",
        ),
        pytest.param(
            "async def app(*args):\n    scope, *rest = args\n    await plain(scope, *rest)",
            id="any arguments, one first",
        ),
        pytest.param(
            "async def app(*args):\n    rest = list(args)\n    await plain(rest.pop(0), *rest)",
            id="any arguments, a list",
        ),
        pytest.param(
            "class App:\n    def __len__(self): return 0\n    def __eq__(self, other): raise TypeError\n"
            "    __hash__ = None\n    async def __call__(self, scope, receive, send):"
            " await plain(scope, receive, send)\napp = App()",
            id="an object that is empty",
        ),
        pytest.param(
            "import asyncio\nasync def prepare(): await asyncio.sleep(0)\nasyncio.run(prepare())\napp = plain",
            id="one that has used a loop of its own",
        ),
    ],
)
def test_shapes_that_can_be_served(modules: Callable[[str], str], source: str) -> None:
    """What an ASGI server can call is not refused for the way it is written."""
    name = modules(source)
    assert imported(name) == (None, "")
    sent: list[dict[str, Any]] = []

    def complete(awaitable: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await awaitable

        return asyncio.run(wait())

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    application = load(name, complete)
    assert application.interface == "asgi3"
    complete(application.app({"type": "http"}, None, send))
    assert sent[-1]["body"] == b"served"


# Start-ups.


def test_failed_start_up_beside_a_thread(place: Place) -> None:
    """A start-up that has failed is over, although a thread of the application goes on: it is not waited for."""
    started = guarded(place, "fails beside a thread")
    assert started.wait() == 4
    assert "THE SERVER DOES NOT START: the launcher has given up" in started.stdout
    assert "exit code 3" in started.stdout
    assert READY not in started.output
    started.left_nothing()


def test_start_up_that_exits(place: Place) -> None:
    """An application that exits in its start-up has not started, however it is written."""
    place.write_module(
        "exits",
        "import sys\nfrom small import app as small\nasync def app(scope, receive, send):\n"
        "    if scope['type'] == 'lifespan':\n        await receive()\n        sys.exit('there is no database')\n"
        "    await small(scope, receive, send)\n",
    )
    started = place.start("--demo", "--app", "exits:app", "--supervise", PREFLIGHT_RESTART_BACKOFF="10ms")
    assert started.wait() == 4
    assert "THE SERVER DOES NOT START: the launcher has given up" in started.stdout
    assert "The application's start-up ended with SystemExit('there is no database')." in started.stdout
    assert READY not in started.output
    started.left_nothing()


def test_lifespan_that_is_not_there(place: Place) -> None:
    """An application that raises because it knows no lifespan is served."""
    place.write_module(
        "without",
        "from small import app as small\nasync def app(scope, receive, send):\n"
        "    assert scope['type'] == 'http', scope['type']\n    await small(scope, receive, send)\n",
    )
    started = place.start("--demo", "--app", "without:app", "--supervise").until_ready()
    assert get(place.url) == (200, "small")
    assert started.stop() == 0


def test_start_up_that_writes_much(place: Place) -> None:
    """A start-up that prints more than any pipe holds goes on, and comes to its end."""
    started = guarded(place, "writes").until_ready()
    assert get(place.url) == (200, "life 1 0")
    assert started.stop() == 0


@pytest.mark.parametrize("together", [True, False])
def test_paused_start_up(place: Place, together: bool) -> None:
    """The time in which a launcher was stopped counts for no deadline of a start-up."""
    started = guarded(place, "waits", PREFLIGHT_STARTUP_TIMEOUT="60s").until_says("starting up")
    worker = worker_of(started)
    pids = [started.pid, worker] if together else [started.pid]
    clocks.pause(place, pids, 300)
    if not together:
        open_gate(place)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    open_gate(place)
    started.until_ready()
    assert worker_of(started) == worker
    assert "DOES NOT START" not in started.output
    assert started.stop() == 0


# Heartbeats.


def test_more_threads_than_are_written(place: Place) -> None:
    """Where the event loop stands is shown however many threads there are beside it."""
    started = guarded(place, PREFLIGHT_HEARTBEAT="1s").until_ready()
    Asking(f"{place.url}/threads")
    started.until_says(BACK)
    assert "in stands_still" in started.stdout.partition(HANGS)[2].partition("The worker ended (")[0]
    assert "in stands_still" not in started.stderr
    assert started.stop() == 0


def test_breakpoint_beside_many_threads(place: Place) -> None:
    """A worker at a breakpoint is left alone however many threads there are beside it."""
    pipe = place.folder / "typed"
    os.mkfifo(pipe)
    place.write_module(
        "broken_off",
        "import os, pdb, sys, threading, time\n"
        "from small import app as small\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'http' and scope['path'] == '/break':\n"
        "        for _ in range(150):\n"
        "            threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()\n"
        "        pdb.Pdb(stdin=open(os.environ['TYPED']), stdout=sys.stderr, nosigint=True).set_trace()\n"
        "    await small(scope, receive, send)\n",
    )
    started = place.start("--demo", "--app", "broken_off:app", "--supervise", PREFLIGHT_HEARTBEAT="1s", TYPED=str(pipe))
    asking = Asking(f"{started.until_ready().url}/break")
    with pipe.open("w") as typed:
        started.until_says("A debugger holds the worker")
        typed.write("continue\n")
    assert asking.result() == (200, "small")
    assert HANGS not in started.output
    assert started.stop() == 0


def test_module_that_is_called_like_a_debugger(place: Place) -> None:
    """A module of the application's that is called pdb (a protein data bank, say) is no debugger: its hang is ended."""
    (place.folder / "modules" / "proteins").mkdir()
    (place.folder / "modules" / "proteins" / "pdb.py").write_text("def parse():\n    while True:\n        pass\n")
    place.write_module(
        "structures",
        "from proteins import pdb\nfrom small import app as small\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'http' and scope['path'] == '/parse':\n        pdb.parse()\n"
        "    await small(scope, receive, send)\n",
    )
    started = place.start("--demo", "--app", "structures:app", "--supervise", PREFLIGHT_HEARTBEAT="1s").until_ready()
    Asking(f"{place.url}/parse")
    started.until_says(BACK)
    assert "in parse" in started.stdout.partition(HANGS)[2]
    assert started.stop() == 0


def test_slow_and_alive(place: Place) -> None:
    """An event loop that is held up again and again, each time for less than the period, is no hang."""
    started = guarded(place, PREFLIGHT_HEARTBEAT="3s").until_ready()
    worker = worker_of(started)
    assert get(f"{place.url}/slow", timeout=30) == (200, "life 1 0")
    assert worker_of(started) == worker
    assert HANGS not in started.output
    assert started.stop() == 0


def test_worker_that_becomes_another_program(place: Place) -> None:
    """A worker that turns into another program serves no more: another one starts, heartbeat or not."""
    started = guarded(place, PREFLIGHT_HEARTBEAT="0").until_ready()
    Asking(f"{place.url}/exec")
    started.until_says(BACK)
    assert get(place.url) == (200, "life 2 0")
    assert started.stop() == 0
    started.left_nothing()


def test_loop_that_ends_beside_a_thread(place: Place) -> None:
    """A worker whose event loop has ended is over, although a thread goes on, heartbeat or not: another one starts."""
    started = guarded(place, PREFLIGHT_HEARTBEAT="0").until_ready()
    Asking(f"{place.url}/exit")
    started.until_says(BACK)
    assert "The worker ended (exit code 5)" in started.stdout
    assert get(place.url) == (200, "life 2 0")
    assert started.stop() == 0
    started.left_nothing()


def test_children_end_with_their_worker(place: Place) -> None:
    """What a start-up has started, by whatever method, ends with its worker, at a crash and at the end."""
    started = guarded(place, "children").until_ready()
    first = psutil.Process(worker_of(started)).children(recursive=True)
    assert len(first) >= 11
    kill_worker(started)
    started.until_says(BACK)
    psutil.wait_procs(first, 10)
    assert not [one for one in first if one.is_running()]
    assert get(place.url) == (200, "life 2 0")
    assert started.stop() == 0
    started.left_nothing()


# Replacements.


def test_stream_that_never_ends_is_an_answer(place: Place) -> None:
    """A server whose answer has no end has answered; the answer is ended with the connection that it was for."""
    old = place.start("--demo", "--app", "small:app").until_ready()
    with Clients(place.port, path="/any") as clients:
        new = guarded(place, "streams for ever").until_ready()
        assert old.wait() == 0
        new.until_says("stream ended")
        clients.go_on()
    clients.lost_nothing()
    assert new.stop() == 0


def test_replacement_that_hangs_while_it_is_asked(place: Place) -> None:
    """A new server that hangs over its first request is given up, and nobody of the old one's clients notices."""
    old = place.start("--demo", "--app", "small:app").until_ready()
    worker = worker_of(old)
    with Clients(place.port, path="/") as clients:
        new = guarded(place, "hangs at the first request", PREFLIGHT_HEARTBEAT="1s")
        assert new.wait() == 4
        clients.go_on()
    clients.lost_nothing()
    assert READY not in new.output
    assert "is still serving" in new.stdout
    assert not new.family()
    assert worker_of(old) == worker
    assert old.stop() == 0


def test_paused_while_it_is_asked(place: Place) -> None:
    """A new server that was paused with its launcher, as a container is, is not rejected for the time of the pause."""
    old = place.start("--demo", "--app", "small:app").until_ready()
    new = guarded(place, "waits to answer", PREFLIGHT_READY_TIMEOUT="60s").until_says("asked /")
    pids = [new.pid, worker_of(new)]
    clocks.pause(place, pids, 300)
    open_gate(place)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    new.until_ready()
    assert REJECTED not in new.output
    assert old.wait() == 0
    assert new.stop() == 0


def test_third_start_while_the_second_is_asked(place: Place) -> None:
    """A third start waits for the second; when that is killed over its proof, the third replaces the first."""
    old = place.start("--demo", "--app", "small:app").until_ready()
    with Clients(place.port, path="/any") as clients:
        second = guarded(place, "waits to answer", PREFLIGHT_READY_TIMEOUT="60s").until_says("asked /")
        third = guarded(place)
        third.until_says("waiting for it")
        second.send(signal.SIGKILL)
        third.until_ready()
        assert old.wait() == 0
        second.wait()
        clients.go_on()
    clients.lost_nothing()
    until(lambda: not second.family(), "nothing is left of the second")
    assert third.stop() == 0
    third.left_nothing()


def test_work_of_the_old_one(place: Place) -> None:
    """An upload and a stream are finished by the server that began them, and its WebSockets are told to come again."""
    old = guarded(place, PREFLIGHT_GRACEFUL_TIMEOUT="20s").until_ready()
    upload = socket.create_connection(("127.0.0.1", place.port), 20)
    upload.sendall(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf.")
    stream = Asking(f"{place.url}/stream")
    with connect(f"ws://127.0.0.1:{place.port}/", open_timeout=PATIENCE) as chat:
        for said in ("asked /upload", "asked /stream", "accepted"):
            old.until_says(said)
        new = place.start("--demo", "--app", "small:app").until_ready()
        old.until_says("Replaced by another start")
        upload.sendall(b"half.")
        answer = http.client.HTTPResponse(upload, method="POST")
        answer.begin()
        assert (answer.status, answer.read()) == (200, b"life 1 10")
        upload.close()
        open_gate(place)
        found = stream.result()
        assert found is not None
        assert found[0] == 200
        assert found[1].endswith("life 1 0")
        with pytest.raises(ConnectionClosed) as closed:
            chat.recv(PATIENCE)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
    assert old.wait() == 0
    assert "not finished" not in old.output
    assert get(place.url) == (200, "small")
    assert new.stop() == 0
    new.left_nothing()


# The end.


@unprivileged
def test_work_in_flight_without_privileges(place: Place) -> None:
    """What is in flight when an ordinary user's server is told to end is finished, and its WebSockets are told why."""
    place.before = WITHOUT
    started = guarded(place, PREFLIGHT_GRACEFUL_TIMEOUT="20s").until_ready()
    upload = socket.create_connection(("127.0.0.1", place.port), 20)
    upload.sendall(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf.")
    stream = Asking(f"{place.url}/stream")
    with connect(f"ws://127.0.0.1:{place.port}/", open_timeout=PATIENCE) as chat:
        for said in ("asked /upload", "asked /stream", "accepted"):
            started.until_says(said)
        started.send(signal.SIGTERM)
        started.until_says("Stopping (SIGTERM)")
        upload.sendall(b"half.")
        answer = http.client.HTTPResponse(upload, method="POST")
        answer.begin()
        assert (answer.status, answer.read()) == (200, b"life 1 10")
        upload.close()
        open_gate(place)
        found = stream.result()
        assert found is not None
        assert found[0] == 200
        assert found[1].endswith("life 1 0")
        with pytest.raises(ConnectionClosed) as closed:
            chat.recv(PATIENCE)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
    assert started.wait() == 0
    assert "not finished" not in started.output
    started.left_nothing()


@pytest.mark.needs_root("nobody else can become another user")
def test_application_that_becomes_another_user(place: Place) -> None:
    """An application that gives up root is watched as before: ended when it hangs, and in order when asked."""
    started = guarded(place, PREFLIGHT_HEARTBEAT="1s").until_ready()
    assert get(f"{place.url}/user") == (200, "life 1 0")
    assert psutil.Process(worker_of(started)).uids().real == 7777
    Asking(f"{place.url}/threads")
    started.until_says(BACK)
    assert "in stands_still" in started.stdout.partition(HANGS)[2].partition("The worker ended (")[0]
    assert get(f"{place.url}/user") == (200, "life 2 0")
    assert started.stop() == 0
    started.left_nothing()


def test_stopped_worker_at_the_end(place: Place) -> None:
    """A worker that is stopped by a signal does not hold up the end beyond its deadline."""
    started = guarded(place, PREFLIGHT_GRACEFUL_TIMEOUT="500ms").until_ready()
    os.kill(worker_of(started), signal.SIGSTOP)
    assert started.stop() == 0
    assert "The worker did not finish everything in time." in started.stdout
    started.left_nothing()


def test_websocket_that_was_not_answered_yet(place: Place) -> None:
    """Who waits for the answer to a handshake when the server ends is told so, and the end is in time."""
    started = guarded(place, PREFLIGHT_GRACEFUL_TIMEOUT="500ms").until_ready()
    with socket.create_connection(("127.0.0.1", place.port), 20) as client:
        client.sendall(
            b"GET /undecided HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        started.until_says("asked /undecided")
        assert started.stop() == 0
        assert client.recv(100).startswith(b"HTTP/1.1 50")
    started.left_nothing()


@pytest.mark.parametrize(
    "options, environ, restarts",
    [
        (("--supervise", "--no-supervise"), {}, False),
        (("--supervise",), {"PREFLIGHT_SUPERVISE": "0"}, True),
        (("--supervise",), {"PREFLIGHT_RESTART_LIMIT": "1"}, False),
    ],
)
def test_who_decides_on_restarts(
    place: Place, options: tuple[str, ...], environ: dict[str, str], restarts: bool
) -> None:
    """The last option decides, an option before a variable; and a limit of one crash allows no restart."""
    started = place.start("--demo", "--app", "small:app", *options, **environ).until_ready()
    kill_worker(started)
    if restarts:
        started.until_says(BACK)
        assert started.stop() == 0
    else:
        assert started.wait() == 4
        assert "1 times" not in started.stdout
    started.left_nothing()


# Settings.


@pytest.mark.parametrize(
    "name, value",
    [
        ("heartbeat", "0.5"),
        ("heartbeat", "-1"),
        ("heartbeat", "2d"),
        ("heartbeat", "60 sec"),
        ("heartbeat", "nan"),
        ("heartbeat", "1e2"),
        ("heartbeat", "off"),
        ("startup_timeout", "999ms"),
        ("startup_timeout", "-0"),
        ("startup_timeout", "999999999999999999d"),
        ("ready_timeout", "0"),
        ("ready_timeout", "61m"),
        ("ready_path", "status/ready"),
        ("ready_path", "/a b"),
        ("ready_path", "/\r\nHost: elsewhere"),
        ("ready_path", "/ü"),
        ("ready_path", "/x#y"),
        ("restart_limit", "0"),
        ("restart_limit", "-1"),
        ("restart_limit", "1.0"),
        ("restart_limit", "99999999999999999999"),
        ("restart_window", "0"),
        ("restart_backoff", "31s"),
        ("graceful_timeout", "601"),
        ("drain_delay", "2m"),
        ("supervise", "perhaps"),
    ],
)
def test_wrong_settings(name: str, value: str) -> None:
    """A value that makes no sense is refused in one line that names the variable and what is allowed."""
    with pytest.raises(SettingsError) as refused:
        loading.load(ROOT, {f"PREFLIGHT_{name.upper()}": value}, {"demo": True})
    message = str(refused.value)
    assert message.startswith(f"environment variable PREFLIGHT_{name.upper()} must be ")
    assert "\n" not in message
    assert len(value) < 6 or value not in message
